# SPDX-License-Identifier: GPL-2.0-or-later
"""A small build, and what a node may say of itself, for the plans that deploy makes of them."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

from provision import artifacts, plan
from provision.boot_entry import MENU
from provision.build_files import build_files
from provision.cluster import Cluster, Node
from provision.deploy import Target, make_plan
from provision.facts import Facts, Space, Text

RELEASE = "2.6.20-krg-t"
MENU_LST = b"default 0\ntitle Debian\nroot (hd0,0)\nkernel /vmlinuz root=/dev/hda1 ro\n"


def make_build(directory: Path, *, arch: str = "x86_64", release: str = RELEASE) -> Path:
    modules = directory / "lib/modules" / release
    modules.mkdir(parents=True)
    (modules / "kerrighed.ko").write_bytes(b"module")
    (directory / "tools/bin").mkdir(parents=True)
    (directory / "tools/bin/krgadm").write_bytes(b"tool")
    for name in ("vmlinuz", "System.map"):
        (directory / name).write_bytes(name.encode())
    (directory / "config").write_text("CONFIG_KRG_AUTONODEID=y\n")
    artifacts.write_manifest(
        directory,
        {"release": "r", "arch": arch, "kernel_release": release, "build_id": "b"},
    )
    return directory


def make_target(
    directory: Path, *, arch: str = "x86_64", config: str = "CONFIG_KRG_AUTONODEID=y\n"
) -> Target:
    build = artifacts.load(make_build(directory, arch=arch))
    cluster = Cluster(1, 1, (Node("krg1", 1, "10.0.0.1"),))
    return Target(cluster, build, build_files(build), config)


def some_facts(menu: bytes = MENU_LST, **words: str) -> Facts:
    places = ("/boot", "/lib/modules", "/usr/local", "/etc", "/var")
    return Facts(
        words={"uid": "0", "machine": "x86_64", "hostname": "krg1", **words},
        linked=("/etc/rc2.d/S20kerrighed",),
        space={place: Space("/", 1 << 30) for place in places},
        texts={MENU: Text(menu, 0o600, 0, 0, MENU)},
        complete=True,
    )


def planned(directory: Path, facts: Facts, *force: str, **node: object) -> plan.Plan:
    """Return the plan of one node for a small build, made in ``directory``."""
    target = replace(make_target(directory), force=frozenset(force))
    return make_plan(target, replace(target.cluster.nodes[0], **node), facts)


def kernel_line(made: plan.Plan) -> str:
    """Return the kernel line of the entry that a plan writes."""
    assert not made.problems, made.problems
    text = made.changes[-1].wanted.content
    assert text is not None
    (line,) = (x for x in text.decode("latin-1").split("\n") if f"vmlinuz-{RELEASE}" in x)
    return line


def elf(bits: int, least: tuple[int, int, int] | None = None) -> bytes:
    """Return the first bytes of a program: its class, and a note of the least kernel."""
    # A header, one program header behind it, and the note that it leads to.
    start = {32: 52 + 32, 64: 64 + 56}[bits]
    note = b""
    if least is not None:
        note = struct.pack("<3I4s4I", 4, 16, 1, b"GNU\0", 0, *least)
    head = b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9)
    if bits == 32:
        head += struct.pack("<HHIIIIIHHHHHH", 3, 3, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        head += struct.pack("<8I", 4, start, start, start, len(note), len(note), 4, 4)
    else:
        head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        head += struct.pack("<2I6Q", 4, 4, start, start, start, len(note), len(note), 4)
    return head + note
