# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a node can run what is deployed: rules over its facts, each with a name and a reason.

What is known of old kernels is data, in node_rules.toml beside this file; the rules are in
preflight.py, userland_rules.py and disk_rules.py. A rule that refuses a node can be overruled
by name: ``deploy --force RULE``.
"""

from __future__ import annotations

import functools
import re
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
    "init": "an init or udev that wants a newer kernel, or none",
    "root-fs": "a root file system that the kernel cannot mount",
    "root-features": "an ext2/3/4 root with features that the kernel does not know",
    "root-disk": "a root disk that has another name under the kernel",
    "disk-driver": "a root disk whose controller has no driver built in",
    "nic-driver": "a network card of the cluster without a driver",
    "boot-loader": "a boot loader that does not read the entry, or nobody knows which it is",
    "grubenv": "a trial where the boot loader cannot write that it was one",
    "running-cluster": "a restart of one node of a running Kerrighed cluster",
    "default-entry": "a change of our entry, or its kernel, while it is the one booted by default",
    "space": "too little space or too few inodes",
    "clock": "a clock that is more than an hour off",
    "hostname": "a machine that is another node of the cluster by its own name",
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
class Feature:
    """A feature bit of ext2/3/4, and the drivers of the kernel that know it (``known`` by)."""

    word: str
    bit: int
    name: str
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """A program that needs a kernel: from which of its versions on, which kernel, who says so."""

    name: str
    version: int
    kernel: str
    why: str
    source: str


@dataclass(frozen=True)
class Table:
    """node_rules.toml."""

    command_line_size: int
    clock_seconds: int
    feature: tuple[Feature, ...]
    journal: tuple[str, ...]
    program: tuple[Program, ...]
    not_a_driver: tuple[Pattern, ...]
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
        for name in ("root", "argument", "renamed", "root_fs", "not_a_driver")
    }
    return Table(
        command_line_size=raw["command_line_size"],
        clock_seconds=raw["clock_seconds"],
        feature=tuple(
            Feature(**{**one, "known": tuple(one.get("known", ()))}) for one in raw["feature"]
        ),
        journal=tuple(raw["journal_features"]),
        program=tuple(Program(**one) for one in raw["program"]),
        **parts,
    )


def find(patterns: tuple[Pattern, ...], word: str) -> Pattern | None:
    """Return the first entry of a table that is about ``word``, or None."""
    return next((p for p in patterns if re.fullmatch(p.pattern, word)), None)


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
