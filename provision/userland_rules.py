# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a node's processor and programs can run under a kernel: rules over its facts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from provision.abi_note import elf_bits, kernel_version, least_kernel
from provision.facts import Facts
from provision.node_rules import Refusal, table


def processor(arch: str, facts: Facts) -> Iterator[Refusal]:
    """Refuse an x86_64 build on a 32-bit processor; a running Kerrighed is not asked."""
    old = facts.word("machine") != "x86_64" and facts.word("cpu64") is None
    if arch == "x86_64" and old and facts.word("node_id") is None:
        yield Refusal("processor", "its processor is 32-bit, the build is for x86_64")


def userland_arch(arch: str, config: str, facts: Facts) -> Iterator[Refusal]:
    """Refuse programs of another architecture than the kernel runs.

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


def c_library(release: str, facts: Facts) -> Iterator[Refusal]:
    """Refuse a C library that wants a newer kernel than ``release``."""
    bits = elf_bits(facts.blobs.get("init", b""))
    have = kernel_version(release)
    for name, head in facts.blobs.items():
        least = least_kernel(head) if name.startswith("libc ") else None
        # That of a foreign architecture, installed beside, is not init's.
        if least is not None and least > have and elf_bits(head) == (bits or elf_bits(head)):
            yield Refusal(
                "glibc",
                f"its C library {name.removeprefix('libc ')} wants Linux "
                f"{'.'.join(map(str, least))} or later: every program would end with "
                '"kernel too old"',
                "install a distribution from before that",
            )
            return


def init(release: str, facts: Facts, append: Sequence[str] = ()) -> Iterator[Refusal]:
    """Refuse a node without an init, and one whose init or udev is too new for the kernel.

    :param append: what the cluster file adds to the kernel's arguments; with init= in it,
        what /sbin/init is does not matter.
    """
    kind, _, version = (facts.word("init") or "").partition(" ")
    if any(word.startswith("init=") for word in append):
        kind = ""
    if kind == "none":
        yield Refusal(
            "init",
            "it has no /sbin/init, /etc/init or /bin/init: the kernel would start a shell",
            "init= in append of the cluster file names another",
        )
    have = kernel_version(release)
    programs = {"udev": facts.word("udev")}
    if kind == "systemd":
        # udev is part of it, and comes later.
        programs = {"systemd": version}
    for name, said in programs.items():
        match = re.match("[0-9]{1,6}", said or "")
        number = int(match[0]) if match else 0
        if said is None:
            continue
        known = [p for p in table().program if p.name == name and p.version <= number]
        if known and kernel_version(known[-1].kernel) > have:
            need = known[-1]
            yield Refusal(
                "init",
                f"its {name}{' ' + str(number) if number else ''} needs Linux {need.kernel} or "
                f"later: {need.why}",
                "install a distribution from before that",
            )
