# SPDX-License-Identifier: GPL-2.0-or-later
"""Trying an entry once, on the real GRUB Legacy and the real GRUB 2, in QEMU."""

from __future__ import annotations

from pathlib import Path

import grub_boot
import pytest
from grub_boot import Machine
from test_boot_entry import CORPUS, RELEASE, Place, grub2_place, legacy_place

from provision import boot_entry

KERNEL = f"/boot/vmlinuz-{RELEASE}"
MENU = """\
default 0
timeout 1
title Debian
root (hd0,0)
kernel /boot/vmlinuz-good root=/dev/hda1 ro good
title Debian (single-user mode)
root (hd0,0)
kernel /boot/vmlinuz-good root=/dev/hda1 ro single
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


def files(node: Place) -> dict[str, bytes | None]:
    return {**node.texts, "/boot/vmlinuz-good": None, KERNEL: None}


def which(said: list[str]) -> list[str]:
    """Return who each of the kernels was, by its command line."""
    return ["ours" if "node_id=1" in line else line.split()[-1] for line in said]


def do(node: Place, machine: Machine, step: object) -> None:
    """Do a step with what is on the disk now, and write what comes out."""
    for path in node.texts:
        node.texts[path] = machine.read(path)
    for file in node.do(step).texts:  # type: ignore[arg-type]
        machine.write(file.path, file.content)


def test_legacy(tmp_path: Path, packages: Path) -> None:
    node = legacy_place(MENU)
    node.make()
    node.do(boot_entry.arm)
    package = grub_boot.unpacked("grub-legacy", packages)
    machine = grub_boot.legacy(tmp_path, package, files(node))
    assert which(machine.boots(3)) == ["ours", "good", "good"]
    assert machine.read("/boot/grub/default")[:2] == b"0\0"
    do(node, machine, boot_entry.commit)
    assert which(machine.boots(2)) == ["ours", "ours"]
