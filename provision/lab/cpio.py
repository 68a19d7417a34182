# SPDX-License-Identifier: GPL-2.0-or-later
"""A cpio archive in the "newc" format, as the kernel unpacks an initramfs.

Written as bytes, so that device nodes need no root and the same input always gives the
same archive. The format: cpio(5) "New ASCII Format" and the kernel's own description of
the initramfs buffer.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Member:
    """One member: full mode with file type, content (or a link's target), device numbers."""

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(mode: int = 0o755) -> Member:
    """Return a directory."""
    return Member(stat.S_IFDIR | mode)


def regular(data: bytes, mode: int = 0o644) -> Member:
    """Return a regular file."""
    return Member(stat.S_IFREG | mode, data)


def link(target: str) -> Member:
    """Return a symbolic link."""
    return Member(stat.S_IFLNK | 0o777, target.encode())


def character(major: int, minor: int, mode: int = 0o600) -> Member:
    """Return a character device."""
    return Member(stat.S_IFCHR | mode, device=(major, minor))


def block(major: int, minor: int, mode: int = 0o660) -> Member:
    """Return a block device."""
    return Member(stat.S_IFBLK | mode, device=(major, minor))


@dataclass
class Tree:
    """Members by absolute path; missing parent directories are added."""

    members: dict[str, Member] = field(default_factory=dict)

    def add(self, path: str, member: Member) -> None:
        """Put ``member`` at the absolute ``path``; ValueError if the path is not plain."""
        pure = PurePosixPath(path)
        if not pure.is_absolute() or ".." in pure.parts or "\0" in path or len(pure.parts) < 2:
            raise ValueError(f"{path!r}: not an absolute path below /")
        for parent in reversed(pure.parents):
            if parent != PurePosixPath("/"):
                held = self.members.setdefault(str(parent), directory())
                if not stat.S_ISDIR(held.mode):
                    raise ValueError(f"{path}: {parent} is not a directory")
        self.members[str(pure)] = member


def pack(members: Mapping[str, Member]) -> bytes:
    """Return the archive of ``members``, parents first, all owned by root, all of 1970."""
    return b"".join(_pieces(members))


def _pieces(members: Mapping[str, Member]) -> Iterable[bytes]:
    size = 0
    # Sorted by parts, not by text: "/a" comes before "/a/b" and both before "/a-b".
    for number, path in enumerate(sorted(members, key=lambda p: PurePosixPath(p).parts), 1):
        piece = _record(number, path.lstrip("/"), members[path])
        size += len(piece)
        yield piece
    trailer = _record(0, _TRAILER, Member(0))
    yield trailer
    yield bytes(-(size + len(trailer)) % 512)


def _record(number: int, name: str, member: Member) -> bytes:
    raw = name.encode() + b"\0"
    fields = (
        number,  # a number of its own: equal ones would mean hard links
        member.mode,
        0,  # user
        0,  # group
        2 if stat.S_ISDIR(member.mode) else 1,
        0,  # time
        len(member.data),
        0,
        0,
        *member.device,
        len(raw),
        0,  # no checksum in this format
    )
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + raw
    return head + bytes(-len(head) % 4) + member.data + bytes(-len(member.data) % 4)
