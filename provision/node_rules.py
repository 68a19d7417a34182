# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a node can run what is deployed: rules over its facts, each with a name and a reason.

What is known of old kernels is data, in node_rules.toml beside this file. A rule that
refuses a node can be overruled by name: ``deploy --force RULE``.
"""

from __future__ import annotations

import functools
import re
import struct
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provision.facts import Facts

# name -> what it refuses
RULES = {
    "processor": "an x86_64 build on a 32-bit processor",
    "userland-arch": "a userland that the kernel cannot run",
    "glibc": "a C library that wants a newer kernel",
    "root-fs": "a root file system that the kernel cannot mount",
    "root-disk": "a root disk that has another name under the kernel",
    "boot-loader": "a menu.lst beside a grub.cfg: it is not known which of them is in use",
    "grubenv": "a trial where the boot loader cannot write that it was one",
    "default-entry": "a change of our entry while it is the one booted by default",
}


@dataclass(frozen=True)
class Refusal:
    """Why a node is left alone, the rule's name, and what can be done about it."""

    rule: str
    reason: str
    hint: str | None = None

    def __str__(self) -> str:
        ways = f"{self.hint}, or " if self.hint else ""
        return f"{self.reason} ({ways}--force {self.rule})"


@dataclass(frozen=True)
class Pattern:
    """One entry of the table: what it is about, why, and the kernel option that makes it good."""

    pattern: str
    why: str
    needs: str | None = None


@dataclass(frozen=True)
class Table:
    """node_rules.toml."""

    command_line_size: int
    root: tuple[Pattern, ...]
    argument: tuple[Pattern, ...]
    renamed: tuple[Pattern, ...]
    root_fs: tuple[Pattern, ...]


@functools.cache
def table() -> Table:
    """Return what is known of old kernels, from node_rules.toml beside this file."""
    raw = tomllib.loads(Path(__file__).with_name("node_rules.toml").read_text("utf-8"))
    parts = {
        name: tuple(Pattern(**one) for one in raw[name])
        for name in ("root", "argument", "renamed", "root_fs")
    }
    return Table(command_line_size=raw["command_line_size"], **parts)


def find(patterns: tuple[Pattern, ...], word: str) -> Pattern | None:
    """Return the first entry of a table that is about ``word``, or None."""
    return next((p for p in patterns if re.fullmatch(p.pattern, word)), None)


def elf_bits(head: bytes) -> int | None:
    """Return 32 or 64 for the first bytes of an ELF file, else None."""
    if head[:4] != b"\x7fELF":
        return None
    return {1: 32, 2: 64}.get(head[4]) if len(head) > 4 else None


# NT_GNU_ABI_TAG (Linux Standard Base, "Note section"): name and descriptor sizes, type 1,
# "GNU", 0 for Linux, then the earliest kernel version the file runs on.
_ABI_TAG = re.compile(rb"\x04\0\0\0\x10\0\0\0\x01\0\0\0GNU\0\0\0\0\0(.{12})", re.DOTALL)


def least_kernel(head: bytes) -> tuple[int, int, int] | None:
    """Return the version of the oldest kernel that an ELF file says it runs on, or None."""
    match = _ABI_TAG.search(head)
    if match is None:
        return None
    major, minor, patch = struct.unpack("<3I", match.group(1))
    return major, minor, patch


def kernel_version(release: str) -> tuple[int, int, int]:
    """Return the numbers a kernel release begins with: 2.6.20-krg is (2, 6, 20)."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", release)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)


def processor(arch: str, facts: Facts) -> Iterator[Refusal]:
    """Refuse an x86_64 build on a 32-bit processor; a running Kerrighed is not asked."""
    old = facts.word("machine") != "x86_64" and facts.word("cpu64") is None
    if arch == "x86_64" and old and facts.word("node_id") is None:
        yield Refusal("processor", "its processor is 32-bit, the build is for x86_64")


def userland(arch: str, release: str, config: str, facts: Facts) -> Iterator[Refusal]:
    """Refuse a node whose programs the kernel cannot run, or whose / it cannot mount.

    :param config: the kernel's .config.
    """
    bits = elf_bits(facts.blobs.get("init", b""))
    if bits == 64 and arch != "x86_64":
        yield Refusal("userland-arch", f"its /sbin/init is 64-bit, the build is for {arch}")
    if bits == 32 and arch == "x86_64" and "CONFIG_IA32_EMULATION=y\n" not in config:
        yield Refusal(
            "userland-arch",
            "its /sbin/init is 32-bit, and this kernel lacks IA32_EMULATION",
            "build for i386",
        )
    have = kernel_version(release)
    for name, head in facts.blobs.items():
        least = least_kernel(head) if name.startswith("libc ") else None
        if least is not None and least > have and elf_bits(head) == (bits or elf_bits(head)):
            yield Refusal(
                "glibc",
                f"its C library {name.removeprefix('libc ')} wants Linux "
                f"{'.'.join(map(str, least))} or later: every program would end with "
                '"kernel too old"',
                "install a distribution from before that",
            )
            break
    kind = facts.word("rootfs") or ""
    bad = find(table().root_fs, kind)
    if bad is not None and (bad.needs is None or f"CONFIG_{bad.needs}=y\n" not in config):
        yield Refusal("root-fs", f"its / is {kind}: {bad.why}", "move / to ext3")


def root_disk(root: str, facts: Facts) -> Iterator[Refusal]:
    """Refuse a root disk called sdX now that is hdX under the new kernel."""
    if not root.startswith("/dev/sd"):
        return
    for driver in (facts.word("rootdrivers") or "").split():
        why = find(table().renamed, driver)
        if why is not None:
            yield Refusal(
                "root-disk",
                f"its root disk {root} is driven by {driver}: {why.why}",
                'name it in the cluster file, such as root = "/dev/hda1"',
            )
            return
