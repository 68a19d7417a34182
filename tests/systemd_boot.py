# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian with systemd that boots in QEMU out of its memory, and says on its console what it does.

The system is a directory (debian_root.py), packed as an initramfs without what no boot needs;
the kernel is that of the lab's nodes with a disk, Debian's own.
"""

from __future__ import annotations

import gzip
import os
import select
import shutil
import stat
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

from provision.data import data_dir
from provision.errors import KrgError
from provision.lab import cpio
from provision.lab.disk_stock import Stock, stock

# Seconds for one boot and its end, without KVM.
_LIMIT = 600.0
_NOT_NEEDED = (
    "/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/zoneinfo", "/var/lib/apt",
    "/var/lib/dpkg", "/var/cache", "/boot", "/dev", "/proc", "/sys",
)  # fmt: skip


def kernel() -> Stock:
    """Return Debian's kernel, or skip the test."""
    with (data_dir("lab") / "disk.toml").open("rb") as stream:
        recipe = tomllib.load(stream)["stock"]
    try:
        return stock("x86_64", recipe)
    except KrgError as error:
        pytest.skip(f"Debian's kernel cannot be had: {error.message}")


def pack(root: Path, image: Path) -> None:
    """Write a system as an initramfs whose init is its own."""
    tree = cpio.Tree()
    for path in sorted(root.rglob("*")):
        name = f"/{path.relative_to(root)}"
        if name.startswith(tuple(f"{one}/" for one in _NOT_NEEDED)):
            continue
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            tree.members[name] = cpio.link(str(path.readlink()))
        elif stat.S_ISDIR(mode):
            tree.members[name] = cpio.Member(mode)
        elif stat.S_ISREG(mode):
            tree.members[name] = cpio.Member(mode, path.read_bytes())
    tree.members["/init"] = cpio.link("/lib/systemd/systemd")
    tree.members["/dev/console"] = cpio.character(5, 1)
    image.write_bytes(gzip.compress(cpio.pack(tree.members), 1))


def boot(made: Stock, image: Path) -> str:
    """Boot it until it restarts or powers itself off; return all that its console said."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        pytest.skip("no qemu-system-x86_64: apt-get install qemu-system-x86")
    argv = [
        program, "-nodefaults", "-display", "none", "-m", "1024", "-smp", "2", "-no-reboot",
        "-accel", "tcg", "-serial", "stdio", "-kernel", made.kernel, "-initrd", image,
        "-append", "console=ttyS0 panic=10 systemd.journald.forward_to_console=1 quiet",
    ]  # fmt: skip
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as machine:
        assert machine.stdout is not None
        said, end = b"", time.monotonic() + _LIMIT
        try:
            while True:
                left = max(0.0, end - time.monotonic())
                ready, _, _ = select.select([machine.stdout], [], [], left)
                assert ready, f"it did not end: {said.decode('utf-8', 'replace')[-3000:]}"
                some = os.read(machine.stdout.fileno(), 1 << 16)
                if not some:
                    return said.decode("utf-8", "replace").replace("\r", "")
                said += some
        finally:
            machine.kill()
