# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tar archives of a build hold: written beside them once, read whenever they are packed.

Thousands of headers are in one. To look at each of them costs as much as to compress them all.
The file ARCHIVE.list begins with the archive's own digest, so that one of another archive is not
believed, and has a line for each member.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from provision.artifacts import digest
from provision.atomic import write_text
from provision.errors import InputError

_ELF = b"\x7fELF"
_NONE = "-"


@dataclass(frozen=True)
class Member:
    """A file or link in an archive, its size in bytes; ``md5`` is in hex, "-" for links.

    A program is an ELF file that may be run.
    """

    name: str
    size: int
    md5: str
    is_program: bool = False


def write(archive: Path) -> Path:
    """Write the list of an archive; return its path.

    :raises InputError: the archive holds what none of ours does.
    """
    place = _place(archive)
    lines = [digest(archive)]
    for one in _look(archive):
        kind = "program" if one.is_program else "file"
        lines.append(f"{kind} {one.size} {one.md5} {one.name}")
    write_text(place, "".join(f"{line}\n" for line in lines))
    return place


def members(archive: Path, sha256: str) -> list[Member]:
    """Return what is in an archive, sorted by name.

    :param sha256: the archive's digest; only a list that names it counts.
    :raises InputError: the archive holds what none of ours does.
    """
    try:
        first, *lines = _place(archive).read_text("utf-8").splitlines()
        if first == sha256:
            return [_parsed(line) for line in lines]
    except (OSError, ValueError):
        pass
    return _look(archive)


def _place(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.list")


def _parsed(line: str) -> Member:
    kind, size, md5, name = line.split(" ", 3)
    return Member(_checked(name, "the list"), int(size), md5, kind == "program")


def _look(archive: Path) -> list[Member]:
    found: dict[str, Member] = {}
    try:
        with tarfile.open(archive, "r:") as tar:
            for one in _members(tar, found, archive):
                found[one.name] = one
    except tarfile.TarError as error:
        raise InputError(f"{archive}: {error}", hint="build it again") from error
    return sorted(found.values(), key=lambda member: member.name)


def _members(tar: tarfile.TarFile, found: dict[str, Member], archive: Path) -> Iterator[Member]:
    for entry in tar:
        if entry.isdir():
            # Those that hold something are known by that, and ours have no others.
            continue
        name = _checked(entry.name, str(archive))
        if entry.issym():
            yield Member(name, len(entry.linkname), _NONE)
        elif entry.islnk() and (first := found.get(_checked(entry.linkname, str(archive)))):
            yield Member(name, first.size, first.md5, first.is_program)
        elif entry.isfile() and (stream := tar.extractfile(entry)) is not None:
            data = stream.read()
            md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
            yield Member(name, len(data), md5, bool(entry.mode & 0o100) and data.startswith(_ELF))
        else:
            raise InputError(f"{archive}: {name} is neither a file nor a link")


_ODD = frozenset(("", ".", ".."))


def _checked(name: str, where: str) -> str:
    # Thousands are as they should be; for those a path object would cost the most of all.
    if name.isprintable() and _ODD.isdisjoint(name.split("/")):
        return name
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or not name.isprintable():
        raise InputError(f"{where}: {name!r} is not a path inside an archive")
    return str(pure)
