# SPDX-License-Identifier: GPL-2.0-or-later
"""Real GRUBs on small disks in QEMU, and kernels that only say which entry started them.

A disk has one ext2 partition with /boot, and either GRUB Legacy (put there by its own shell) or
GRUB 2 (grub-mkimage). ``Machine.boots(n)`` powers it on and returns the command lines of the
next n kernels. Each kernel writes its command line to the serial port and resets the machine, as
a kernel does that panics with panic=. Packages are unpacked aside, never installed.
"""

from __future__ import annotations

import os
import select
import shutil
import struct
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from provision.debian_archive import DebianArchive
from provision.errors import KrgError
from provision.paths import cache_dir

# Read when this is imported: a test may have a home of its own later.
CACHE = cache_dir() / "debian"
_SECTOR = 512
_START = 2048
_SIZE = 16 << 20
_SBIN = ":/usr/sbin:/sbin"
_LIMIT = 120.0


def _kernel() -> bytes:
    """Return a bzImage (boot protocol 2.05) whose two ways in do the same.

    Real mode and 32-bit code differ in how the command line is found (cmd_line_ptr, 0x228).
    """
    # mov ah,al; wait for the port to be empty; write al; next byte
    put16 = bytes.fromhex("88c4 bafd03 ec a820 74fb baf803 88e0 ee")
    put32 = bytes.fromhex("88c4 bafd030000 ec a820 74fb baf8030000 88e0 ee")

    def body(put: bytes) -> bytes:
        # lodsb; test al,al; jz end; put; jmp back; end: newline; reset by the keyboard controller
        loop = bytes.fromhex("ac 84c0 74") + bytes([len(put) + 2]) + put
        loop += bytes([0xEB, 256 - len(loop) - 2])
        return loop + b"\xb0\x0a" + put + bytes.fromhex("b0fe e664 f4 ebfd")

    # ds := cs - 0x20; eax := cmd_line_ptr; ds:si := eax
    real = bytes.fromhex("8cc8 83e820 8ed8 66a12802 89c6 83e60f 66c1e804 8ed8") + body(put16)
    # esi := cmd_line_ptr of the boot parameters
    flat = bytes.fromhex("8bb628020000") + body(put32)
    head = bytearray(2 * _SECTOR)
    head[0x1F1] = 1
    struct.pack_into("<I", head, 0x1F4, len(flat) // 16 + 1)
    head[0x1FE:0x206] = b"\x55\xaa\xeb\x66HdrS"
    struct.pack_into("<H", head, 0x206, 0x0205)
    head[0x211] = 1
    struct.pack_into("<I", head, 0x214, 0x100000)
    struct.pack_into("<I", head, 0x22C, 0x37FFFFFF)
    struct.pack_into("<I", head, 0x230, 0x100000)
    head[0x268 : 0x268 + len(real)] = real
    return bytes(head) + flat.ljust(4096, b"\0")


def tool(name: str) -> str:
    """Return a program's path, or skip the test."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + _SBIN)
    if found is None:
        pytest.skip(f"no {name}: apt-get install qemu-system-x86 e2fsprogs grub-common")
    return found


def unpacked(package: str, place: Path) -> Path:
    """Return a directory with a Debian package's files, or skip the test."""
    target = place / package
    try:
        if not target.exists():
            target.mkdir()
            DebianArchive(CACHE).unpack(package, target)
    except KrgError as error:
        pytest.skip(f"the package {package} cannot be had: {error.message}")
    return target


@dataclass(frozen=True)
class Machine:
    """A disk image to boot from, and to look into."""

    image: Path

    def boots(self, count: int, *, writable: bool = True) -> list[str]:
        """Power on; return the command lines of the first ``count`` kernels, then power off.

        :param writable: whether GRUB can write to the disk.
        """
        kind = "ide" if writable else "virtio,readonly=on"
        argv = [
            tool("qemu-system-x86_64"), "-nodefaults", "-display", "none", "-vga", "std",
            "-m", "64", "-serial", "stdio", "-boot", "c",
            "-drive", f"file={self.image},format=raw,cache=writethrough,if={kind}",
        ]  # fmt: skip
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as machine:
            assert machine.stdout is not None
            said = b""
            end = time.monotonic() + _LIMIT
            try:
                while said.count(b"\n") < count:
                    left = end - time.monotonic()
                    ready, _, _ = select.select([machine.stdout], [], [], max(0.0, left))
                    assert ready, f"after {_LIMIT} s only: {said!r}"
                    some = os.read(machine.stdout.fileno(), 4096)
                    assert some, f"QEMU ended: {said!r}"
                    said += some
            finally:
                machine.kill()
        return said.decode("latin-1").split("\n")[:count]

    def _debugfs(self, *commands: str) -> bytes:
        # The file system of the disk's partition, by its place.
        name = f"{self.image}?offset={_START * _SECTOR}"
        argv = [tool("debugfs"), "-w", "-f", "-", name]
        done = subprocess.run(argv, input="\n".join(commands).encode(), capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        out = self.image.with_suffix(".file")
        self._debugfs(f"dump {path} {out}")
        return out.read_bytes()

    def write(self, path: str, content: bytes) -> None:
        """Write a file, in place of what is there."""
        source = self.image.with_suffix(".file")
        source.write_bytes(content)
        self._debugfs(f"rm {path}", f"write {source} {path}")

    def remove(self, path: str) -> None:
        """Delete a file."""
        self._debugfs(f"rm {path}")


def _disk(place: Path, tree: Path) -> Machine:
    """Make an image with the files of ``tree`` in its only partition."""
    image = place / "disk.img"
    with image.open("wb") as stream:
        stream.truncate(_START * _SECTOR + _SIZE)
        table = struct.pack("<8B2I", 0x80, 0, 0, 0, 0x83, 0, 0, 0, _START, _SIZE // _SECTOR)
        stream.seek(446)
        stream.write(table)
        stream.seek(510)
        stream.write(b"\x55\xaa")
    argv = [
        tool("mke2fs"), "-q", "-t", "ext2", "-I", "128", "-O", "^resize_inode,^dir_index,^ext_attr",
        "-b", "1024", "-d", tree, "-E", f"offset={_START * _SECTOR}", image, f"{_SIZE // 1024}k",
    ]  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True)
    return Machine(image)


def _tree(place: Path, files: Mapping[str, bytes | None]) -> Path:
    tree = place / "tree"
    for path, content in files.items():
        (tree / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (tree / path.lstrip("/")).write_bytes(_kernel() if content is None else content)
    return tree


def legacy(place: Path, package: Path, files: Mapping[str, bytes | None]) -> Machine:
    """Make a disk with ``files`` (None: a kernel) and GRUB Legacy."""
    if not Path("/lib/ld-linux.so.2").exists():
        pytest.skip("GRUB Legacy's shell is an i386 program: apt-get install libc6-i386")
    tree = _tree(place, files)
    for name in ("stage1", "stage2", "e2fs_stage1_5"):
        found = next(package.glob(f"usr/lib/grub/*/{name}"), None)
        if found is None:
            pytest.skip("this Debian's package has no GRUB Legacy in it; Debian 12's has")
        shutil.copyfile(found, tree / "boot/grub" / name)
    machine = _disk(place, tree)
    (place / "device.map").write_text(f"(hd0) {machine.image}\n")
    done = subprocess.run(
        [package / "usr/sbin/grub", "--batch", "--no-floppy", f"--device-map={place}/device.map"],
        input="root (hd0,0)\nsetup (hd0)\nquit\n", capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.count("succeeded") == 2, done.stdout + done.stderr
    return machine


def grub2(place: Path, package: Path, files: Mapping[str, bytes | None]) -> Machine:
    """Make a disk with ``files`` (None: a kernel) and GRUB 2."""
    modules = package / "usr/lib/grub/i386-pc"
    tree = _tree(place, files)
    shutil.copytree(modules, tree / "boot/grub/i386-pc")
    machine = _disk(place, tree)
    core = place / "core.img"
    argv = [
        tool("grub-mkimage"), "-O", "i386-pc", "-d", modules, "-o", core,
        "-p", "(hd0,msdos1)/boot/grub", "biosdisk", "part_msdos", "ext2", "normal",
    ]  # fmt: skip
    subprocess.run(argv, check=True)
    with machine.image.open("r+b") as stream:
        stream.write((modules / "boot.img").read_bytes()[:440])
        stream.seek(_SECTOR)
        stream.write(core.read_bytes())
    assert core.stat().st_size < (_START - 1) * _SECTOR
    return machine
