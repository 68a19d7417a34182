# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk images: partition table, file system, boot loader; one for all nodes, a layer for each.

No root is needed: mke2fs fills the file system, debugfs makes the device nodes in it and
gives every file to root. The common image is kept in the cache under the digest of all that
is in it; a node's own disk is a qcow2 layer on it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import stat
import struct
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from provision.console import say
from provision.data import data_dir
from provision.errors import FailedError, MissingError
from provision.lab import disk_loader
from provision.lab.cpio import Member, pack
from provision.lab.disk_loader import SECTOR, Loader
from provision.lab.disk_tree import node_tree
from provision.musl import Arch
from provision.paths import cache_dir
from provision.runner import LocalRunner

# Counted up when the way an image is made changes its content.
FORMAT = 1
_PACKAGES = {"mke2fs": "e2fsprogs", "debugfs": "e2fsprogs", "qemu-img": "qemu-utils"}


@functools.cache
def recipe() -> dict[str, Any]:
    """Return disk.toml."""
    return tomllib.loads((data_dir("lab") / "disk.toml").read_text("utf-8"))


def check_tools() -> None:
    """Look for the programs that images are made with; MissingError names the package."""
    for name in _PACKAGES:
        _tool(name)


def base_image(arch: Arch, loader: Loader) -> Path:
    """Return the raw image that all nodes of an architecture and boot loader share.

    :raises MissingError: a tool is not there, or Debian's archive is out of reach.
    :raises FailedError: a part cannot be built.
    """
    check_tools()
    members = node_tree(arch, loader, recipe()).members
    digest = hashlib.sha256(pack(members))
    digest.update(f"{FORMAT} {loader} {sorted(recipe().items())}".encode())
    target = cache_dir() / "lab" / f"disk-{arch}-{loader}-{digest.hexdigest()[:16]}.img"
    if not target.is_file():
        say(f"making the disk image for {arch} nodes with {_NAMES[loader]}")
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".disk-") as scratch:
            image = Path(scratch) / "disk.img"
            _make(image, members, loader, Path(scratch))
            image.chmod(0o444)
            image.replace(target)
    return target


_NAMES: Mapping[Loader, str] = {"legacy": "GRUB Legacy", "grub2": "GRUB 2"}


def layer(base: Path, target: Path, files: Mapping[str, tuple[bytes, int]]) -> None:
    """Make a node's disk: ``base`` with ``files`` (content and mode by path) added.

    It holds only what differs from ``base``, which must stay where it is.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".layer-") as scratch:
        place = Path(scratch)
        whole, thin = place / "whole.img", place / "thin.qcow2"
        _copy_sparse(base, whole)
        commands = []
        for number, (path, (content, mode)) in enumerate(files.items()):
            (place / f"file{number}").write_bytes(content)
            commands += [f"write file{number} {path}", *_ownership(path, stat.S_IFREG | mode)]
        _debugfs(whole, commands, place)
        image = _tool("qemu-img")
        create = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(whole), str(thin)]
        # Takes over what differs between the old and the new file below it.
        rebase = ["rebase", "-q", "-F", "raw", "-b", str(base), str(thin)]
        for argv in (create, rebase):
            LocalRunner().run([image, *argv], timeout=300)
        thin.replace(target)


def _make(image: Path, members: Mapping[str, Member], loader: Loader, scratch: Path) -> None:
    disk = recipe()["disk"]
    first, size = disk["first_sector"], disk["megabytes"] << 20
    root = scratch / "root"
    _lay_out(members, root)
    with image.open("wb") as stream:
        stream.truncate(size)
    blocks = (size - first * SECTOR) // 1024
    argv = [_tool("mke2fs"), "-q", "-F", "-t", "ext3", "-b", "4096", "-m", "1"]
    argv += ["-I", str(disk["inode_size"]), "-O", disk["features"], "-d", str(root)]
    argv += ["-E", f"offset={first * SECTOR},root_owner=0:0", str(image), f"{blocks}k"]
    # Not what this machine's mke2fs.conf holds for good today.
    LocalRunner().run(argv, env={"MKE2FS_CONFIG": "/dev/null"}, timeout=300)
    shutil.rmtree(root)
    _debugfs(image, _finish(members), scratch)
    with image.open("r+b") as stream:
        stream.seek(446)
        stream.write(_partition(first, size // SECTOR - first))
        stream.seek(510)
        stream.write(b"\x55\xaa")
    disk_loader.install(image, loader, recipe(), scratch)


def _lay_out(members: Mapping[str, Member], root: Path) -> None:
    """Write directories, files and links; devices, owners and directories' modes come later."""
    root.mkdir()
    for path in sorted(members):
        member, place = members[path], root / path.lstrip("/")
        if stat.S_ISDIR(member.mode):
            place.mkdir()
        elif stat.S_ISLNK(member.mode):
            place.symlink_to(os.fsdecode(member.data))
        elif stat.S_ISREG(member.mode):
            place.write_bytes(member.data)


def _finish(members: Mapping[str, Member]) -> Iterable[str]:
    """Yield debugfs commands for what only root may do in a directory."""
    for path, member in sorted(members.items()):
        if stat.S_ISCHR(member.mode) or stat.S_ISBLK(member.mode):
            parent, name = path.rsplit("/", 1)
            kind = "b" if stat.S_ISBLK(member.mode) else "c"
            major, minor = member.device
            yield f"cd {parent or '/'}"
            yield f"mknod {name} {kind} {major} {minor}"
        yield from _ownership(path, member.mode)


def _ownership(path: str, mode: int) -> list[str]:
    return [f"sif {path} {field}" for field in (f"mode 0{mode:o}", "uid 0", "gid 0")]


def _debugfs(image: Path, commands: Iterable[str], scratch: Path) -> None:
    """Run debugfs commands on the image's partition; FailedError if one fails."""
    script = scratch / "debugfs.commands"
    script.write_text("".join(f"{command}\n" for command in commands), "utf-8")
    place = f"{image}?offset={recipe()['disk']['first_sector'] * SECTOR}"
    argv = [_tool("debugfs"), "-w", "-f", str(script), place]
    result = LocalRunner().run(argv, cwd=scratch, timeout=300, check=False)
    # It ends with 0 whatever happens; what is not an echo or a success is a complaint.
    fine = ("debugfs", "Allocated inode:")
    bad = [x for x in result.output.splitlines() if x.strip() and not x.startswith(fine)]
    if bad or not result.ok:
        raise FailedError(f"debugfs: {(bad or ['failed'])[0]}")


def _partition(first: int, sectors: int) -> bytes:
    """Return the first entry of a partition table: active, type Linux, addressed by sector.

    Cylinder, head and sector are written as what no disk has: read by nobody here.
    """
    return struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", first, sectors)


def _copy_sparse(source: Path, target: Path) -> None:
    LocalRunner().run(["cp", "--sparse=always", str(source), str(target)], timeout=300)
    target.chmod(0o600)


def _tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise MissingError(
            f"{name}: not found on this machine", hint=f"apt-get install {_PACKAGES[name]}"
        )
    return found
