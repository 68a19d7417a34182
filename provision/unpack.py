# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads tar archives from strangers: nothing lands outside, nothing odd lands at all.

Also computes the git tree id of an archive's content, which identifies a source
tree whatever it was packed with (git-mktree(1); objects are SHA-1 of
``"TYPE SIZE\\0" + content``).
"""

from __future__ import annotations

import hashlib
import lzma
import os
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Self

from provision.errors import InputError

OnBytes = Callable[[int], None]
_HeaderError, _ReadError = tarfile.HeaderError, tarfile.ReadError
_BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, UnicodeError)


class _Member(tarfile.TarInfo):
    """Takes a missing or broken header as an error; tarfile takes it for the end."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        """Read the next header; ReadError unless it is one, or the archive's end mark."""
        try:
            return super().fromtarfile(tarfile)
        except _HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the end mark, as it should be
                raise
            raise _ReadError(f"at byte {tarfile.offset}: {error}") from error


def _open(archive: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(archive, "r|*", tarinfo=_Member)
    except TypeError as error:
        # What tarfile comes to when gzip data ends within its head.
        raise _ReadError("it ends at once") from error


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        with _open(archive) as tar:
            yield tar
    except InputError:
        raise
    except FileNotFoundError:
        raise
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(
            f"{archive}: truncated or not a tar archive ({error})",
            hint="delete it and fetch it again",
        ) from error


def _name(member: tarfile.TarInfo, archive: Path, strip: int) -> PurePosixPath | None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\0" in member.name:
        raise InputError(f"{archive}: refuses to unpack: {member.name!r} leads out of the tree")
    parts = path.parts[strip:]
    return PurePosixPath(*parts) if parts else None


def _linked(member: tarfile.TarInfo, strip: int) -> PurePosixPath:
    return PurePosixPath(*PurePosixPath(member.linkname).parts[strip:])


def _check_link(member: tarfile.TarInfo, name: PurePosixPath, archive: Path, strip: int) -> None:
    if member.issym():
        target = posixpath.normpath(posixpath.join(str(name.parent), member.linkname))
    else:
        # A hard link names a member of the archive, from the archive's top.
        linked = PurePosixPath(member.linkname).parts[strip:]
        target = posixpath.normpath("/".join(linked) or "..")
    if member.linkname.startswith("/") or target == ".." or target.startswith("../"):
        raise InputError(
            f"{archive}: refuses to unpack: {member.name!r} links out of the tree "
            f"to {member.linkname!r}"
        )


def _members(
    tar: tarfile.TarFile, archive: Path, strip: int
) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    files: dict[PurePosixPath, bool] = {}
    directories: set[PurePosixPath] = set()
    for member in tar:
        name = _name(member, archive, strip)
        if name is None:
            continue
        directories.update(name.parents)
        if member.isdir():
            directories.add(name)
        else:
            files[name] = not member.issym()
        if (name in files and name in directories) or any(p in files for p in name.parents):
            raise InputError(
                f"{archive}: refuses to unpack: {member.name!r} is a file and a directory"
            )
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            raise InputError(f"{archive}: refuses to unpack: {member.name!r} is a device or pipe")
        if member.issym() or member.islnk():
            _check_link(member, name, archive, strip)
        if member.islnk() and not files.get(_linked(member, strip)):
            raise InputError(
                f"{archive}: refuses to unpack: {member.name!r} is a link to "
                f"{member.linkname!r}, which is no file before it"
            )
        yield member, name


def unpack(
    archive: Path,
    target: Path,
    *,
    strip: int = 1,
    on_bytes: OnBytes | None = None,
    all_modes: bool = False,
    into: bool = False,
) -> None:
    """Unpack a tar archive (plain, gz, bz2, xz) below ``target``, which must not exist.

    Modes become 0755 or 0644, owners the caller, times stay (automake compares
    them). ``strip`` leading directories are dropped from every name.

    :param all_modes: keep all permission bits, but none of setuid, setgid and sticky.
    :param into: ``target`` may be there, as a directory of ours: no stranger's links in it.
    :raises InputError: truncated, not an archive, or a member that leads or
        links out of the tree, or is a device; what was unpacked is then partial.
    """
    target.mkdir(parents=True, exist_ok=into)
    links: list[tuple[Path, str]] = []
    times: list[tuple[Path, float]] = []
    with _opened(archive) as tar:
        for member, name in _members(tar, archive, strip):
            path = target / name
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if member.issym():
                # Made last, so that no later member is written through one.
                links.append((path, member.linkname))
                continue
            path.unlink(missing_ok=True)
            if member.islnk():
                path.hardlink_to(target / _linked(member, strip))
                continue
            source = tar.extractfile(member)
            assert source is not None
            with path.open("wb") as stream:
                _copy(source, stream, on_bytes, path)
            plain = 0o755 if member.mode & 0o100 else 0o644
            path.chmod(member.mode & 0o777 if all_modes else plain)
            times.append((path, member.mtime))
    for path, link in links:
        path.unlink(missing_ok=True)
        path.symlink_to(link)
    # One link by itself may stay inside, and lead out together with another.
    top = Path(os.path.realpath(target))
    for path, link in links:
        if not Path(os.path.realpath(path)).is_relative_to(top):
            path.unlink()
            raise InputError(
                f"{archive}: refuses to unpack: {path.name!r} links out of the tree to {link!r}"
            )
    for path, when in times:
        if not path.is_symlink():
            os.utime(path, (when, when))


def _copy(source: IO[bytes], target: IO[bytes], on_bytes: OnBytes | None, path: Path) -> None:
    while data := source.read(1 << 20):
        try:
            target.write(data)
            target.flush()
        except OSError as error:
            # A full disk does not say which file it had no room for.
            error.filename = str(path)
            raise
        if on_bytes is not None:
            on_bytes(len(data))


def _blob(data: bytes) -> bytes:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).digest()


def tree_id(entries: Mapping[PurePosixPath, tuple[str, bytes]]) -> str:
    """Return the git tree id of files: relative path to (git mode, blob id as 20 bytes)."""
    root: dict[str, object] = {}
    for path, leaf in entries.items():
        here = root
        for part in path.parts[:-1]:
            following = here.setdefault(part, {})
            assert isinstance(following, dict)
            here = following
        here[path.name] = leaf
    return _tree(root).hex()


def _tree(node: Mapping[str, object]) -> bytes:
    rows: list[tuple[bytes, bytes]] = []
    for name, value in node.items():
        raw = os.fsencode(name)
        if isinstance(value, dict):
            # Git sorts a directory as if its name ended in a slash.
            rows.append((raw + b"/", b"40000 " + raw + b"\0" + _tree(value)))
        else:
            assert isinstance(value, tuple)
            mode, blob = value
            rows.append((raw, mode.encode() + b" " + raw + b"\0" + blob))
    body = b"".join(row for _, row in sorted(rows))
    return hashlib.sha1(b"tree %d\0" % len(body) + body, usedforsecurity=False).digest()


def archive_tree_id(archive: Path, *, strip: int = 1, on_bytes: OnBytes | None = None) -> str:
    """Return the git tree id of an archive's content without unpacking it to disk.

    :raises InputError: as for unpack.
    """
    entries: dict[PurePosixPath, tuple[str, bytes]] = {}
    with _opened(archive) as tar:
        for member, name in _members(tar, archive, strip):
            if member.isdir():
                continue
            if member.issym():
                entries[name] = ("120000", _blob(os.fsencode(member.linkname)))
            elif member.islnk():
                entries[name] = entries[_linked(member, strip)]
            else:
                source = tar.extractfile(member)
                assert source is not None
                data = source.read()
                mode = "100755" if member.mode & 0o100 else "100644"
                entries[name] = (mode, _blob(data))
                if on_bytes is not None:
                    on_bytes(len(data))
    return tree_id(entries)


def directory_tree_id(directory: Path, *, leave_out: Callable[[Path], bool] | None = None) -> str:
    """Return the git tree id of a directory's files, as git would record them.

    :param leave_out: tells of a file or directory whether it does not count.
    """
    entries: dict[PurePosixPath, tuple[str, bytes]] = {}
    for path in directory.rglob("*"):
        name = PurePosixPath(path.relative_to(directory))
        if leave_out and any(leave_out(directory / part) for part in (name, *name.parents)):
            continue
        if path.is_symlink():
            entries[name] = ("120000", _blob(os.fsencode(path.readlink())))
        elif path.is_file():
            mode = "100755" if path.stat().st_mode & 0o100 else "100644"
            entries[name] = (mode, _blob(path.read_bytes()))
    return tree_id(entries)
