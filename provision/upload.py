# SPDX-License-Identifier: GPL-2.0-or-later
"""The archive that templates/apply.sh.j2 reads: files in their staging places, and its lists."""

from __future__ import annotations

import hashlib
import struct
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from provision import deadman
from provision.errors import FailedError
from provision.facts import Text
from provision.plan import Change, Plan, Wanted, area, plain, token_of

# Compressed files are kept for the next node up to this many bytes, all together.
_KEPT_BYTES = 64 << 20
_LEVEL = 1
# How much of a file is compressed to see what that brings, and what must be left at most.
_SAMPLE = 64 << 10
_WORTHWHILE = 0.8
# How much of lists goes with the script: less than a packet of SSH holds, with the script itself.
_WITH_SCRIPT = 16 << 10
# The last member of the archive.
_LAST = "whole"
# What the first commands of a plan work on, or the beginning of it.
EARLY = ("/var/cache/", deadman.SCRIPT)


class _Packer:
    """Files compressed once for all nodes; safe to be used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, bytes] = {}
        self._left = _KEPT_BYTES

    def packed(self, sha256: str, content: bytes) -> bytes:
        """Return ``content`` as deflate blocks (RFC 1951) that refer to nothing before them."""
        with self._lock:
            # Others wait meanwhile: they want the same file.
            found = self._found.get(sha256)
            if found is None:
                packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
                found = packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH)
                if len(found) <= self._left:
                    self._found[sha256] = found
                    self._left -= len(found)
        return found


_PACKER = _Packer()

# The bits of a byte, the other way round.
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_PIECE = 1 << 20


def crc(content: bytes) -> int:
    """Return what cksum (POSIX.1-2017, "cksum") says of ``content``.

    Its polynomial is zlib's; it takes the bits of a byte from the other end, begins with 0, and
    takes the length as more bytes, the least first.
    """
    size = len(content)
    length = size.to_bytes((size.bit_length() + 7) // 8, "little")
    found = 0xFFFFFFFF
    for start in range(0, size, _PIECE):
        found = zlib.crc32(content[start : start + _PIECE].translate(_MIRRORED), found)
    return int(f"{zlib.crc32(length.translate(_MIRRORED), found):032b}"[::-1], 2)


class _Sums:
    """The CRCs of files, each found once for all nodes; safe to be used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[tuple[Path, str], tuple[tuple[int, ...], int]] = {}

    def crc(self, wanted: Wanted) -> int:
        """Return the CRC of what is wanted.

        :raises FailedError: a file of the build is no longer what the plan was made from.
        """
        if wanted.source is None:
            return crc(wanted.content or b"")
        key = wanted.source, wanted.sha256
        with self._lock:
            # Others wait meanwhile: they want the same file.
            now = _stamp(wanted.source)
            before, found = self._found.get(key, ((), 0))
            if before == now:
                return found
            content = _content(wanted.source)
            if hashlib.sha256(content).hexdigest() != wanted.sha256:
                raise FailedError(
                    f"{wanted.source}: changed since the plan was made",
                    hint="run the command again to see the new plan",
                )
            found = crc(content)
            self._found[key] = now, found
        return found


def _stamp(source: Path) -> tuple[int, ...]:
    """Return what is another after a file was written to."""
    try:
        now = source.stat()
    except OSError as error:
        raise FailedError(f"{source}: {error.strerror}") from error
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


_SUMS = _Sums()


def _content(source: Path) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise FailedError(f"{source}: {error.strerror}") from error


class _Gzip:
    """Writes one gzip member (RFC 1952) that may hold blocks compressed before."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._sum, self._size = 0, 0
        pipe.write(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\x03")

    def _count(self, data: bytes) -> None:
        self._sum = zlib.crc32(data, self._sum)
        self._size += len(data)

    def write(self, data: bytes) -> None:
        self._count(data)
        self._pipe.write(self._packer.compress(data))

    def write_packed(self, data: bytes, blocks: Callable[[], bytes]) -> None:
        """Write ``data``, which ``blocks`` gives the deflate blocks of."""
        self._count(data)
        # What follows must refer to nothing before the blocks, which the packer never saw.
        self._pipe.write(self._packer.flush(zlib.Z_FULL_FLUSH))
        self._pipe.write(blocks())

    def close(self) -> None:
        self._pipe.write(self._packer.flush(zlib.Z_FINISH))
        self._pipe.write(struct.pack("<LL", self._sum, self._size & 0xFFFFFFFF))


class _Plain:
    """Writes what it is given."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.write = pipe.write

    def write_packed(self, data: bytes, _: Callable[[], bytes]) -> None:
        self.write(data)

    def close(self) -> None:
        pass


_Out = _Gzip | _Plain


class _Worth:
    """How well files compress, guessed once for all nodes from a part of each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, float] = {}

    def ratio(self, wanted: Wanted) -> float:
        """Return packed size by size; 0 where that cannot be known."""
        with self._lock:
            found = self._found.get(wanted.sha256)
            if found is None:
                try:
                    found = self._found[wanted.sha256] = _sampled(wanted)
                except OSError:
                    # Whoever reads the whole file says it.
                    return 0.0
        return found


_WORTH = _Worth()


def _sampled(wanted: Wanted) -> float:
    if wanted.source is None:
        part = (wanted.content or b"")[:_SAMPLE]
    else:
        with wanted.source.open("rb") as file:
            # The beginning of a file is like no other part of it.
            file.seek(max(0, wanted.size - _SAMPLE) // 2)
            part = file.read(_SAMPLE)
    return len(zlib.compress(part, _LEVEL)) / len(part) if part else 0.0


def is_worth_packing(plan: Plan) -> bool:
    """Tell whether compression saves enough: packages and compressed kernels are small already.

    To take such bytes apart costs the node more time than the rest of receiving them.
    """
    sent = [change.wanted for change in plan.changes if change.wanted.sent]
    packed = sum(wanted.size * _WORTH.ratio(wanted) for wanted in sent)
    return packed <= _WORTHWHILE * sum(wanted.size for wanted in sent)


def write_tar(
    pipe: IO[bytes], plan: Plan, stage: str, on_sent: Callable[[int], None], *, packed: bool
) -> None:
    """Send the files in their staging places, and before them the digests of all, and long lists.

    :param pipe: takes a tar.
    :param stage: the name of the staging directories.
    :param on_sent: takes the size of each file after it was sent.
    :param packed: compress it by gzip.
    :raises FailedError: a file of the build cannot be read.
    """
    out = _Gzip(pipe) if packed else _Plain(pipe)
    written = {"sums": _sums(plan, stage)}
    found = lists(plan, stage)
    if are_apart(found):
        written.update(found)
    for name, lines in written.items():
        text = "".join(f"{line}\n" for line in lines)
        _add(out, f"etc/{stage}/{name}", text.encode(), 0o600)
    for change in plan.changes:
        if change.wanted.sent:
            _add_change(out, change, staged(change, stage).lstrip("/"))
            on_sent(change.wanted.size)
    _add(out, f"etc/{stage}/{_LAST}", b"", 0o600)
    # The end of an archive: two empty blocks.
    out.write(bytes(2 * tarfile.BLOCKSIZE))
    out.close()


def staged(change: Change, stage: str) -> str:
    """Return where a change's file is made ready, below the staging directory of its area."""
    top = area(change.place)
    return f"{top}/{stage}{change.place[len(top) :]}"


def _is_early(change: Change, plan: Plan) -> bool:
    """Tell whether a file goes before the first commands; on the way back, boot entries do."""
    if plan.closes:
        return change.place.startswith(("/boot/grub/", "/boot/grub2/"))
    return change.place.startswith(EARLY)


def _sums(plan: Plan, stage: str) -> list[str]:
    """Return the lines of a list for sha256sum -c; of links there are no sums."""
    found = [f"{hashlib.sha256().hexdigest()}  /etc/{stage}/{_LAST}"]
    for change in plan.changes:
        kind, _, digest = change.wanted.token.partition(":")
        if kind == "file":
            found.append(f"{digest}  {staged(change, stage)}")
    return found


def lists(plan: Plan, stage: str) -> Mapping[str, list[str]]:
    """Return the lines of the lists that the script reads; but in "about", no word has a blank.

    :raises FailedError: a file of the build cannot be read, or changed since.
    """
    # Of an archive cut off between two members tar says nothing.
    last = f"/etc/{stage}/{_LAST}"
    sent, crcs, copies = [last], [f"{crc(b'')} 0 {last}"], []
    early: list[str] = []
    late: list[str] = []
    directories: set[str] = set()
    for change in plan.changes:
        wanted, place = change.wanted, staged(change, stage)
        if wanted.copy is not None:
            copies.append(f"{wanted.copy} {place}")
        if wanted.sent and wanted.token.startswith("file:"):
            sent.append(place)
            crcs.append(f"{_SUMS.crc(wanted)} {wanted.size} {place}")
        keep = "yes" if change.backed_up else "no"
        check = "no" if change.theirs else "yes"
        line = f"{place} {change.place} {token_of(change.before)} {wanted.token} {keep} {check}"
        (early if _is_early(change, plan) else late).append(line)
        parts = change.place.split("/")
        if not wanted.absent:
            directories |= {"/".join(parts[:count]) for count in range(2, len(parts))}
    return {
        "sent": sent,
        "crcs": crcs,
        "copies": copies,
        "early": early,
        "late": late,
        # The deepest first: the order in which they can be removed.
        "directories": sorted(directories, key=lambda name: (-name.count("/"), name)),
        "emptied": list(plan.emptied),
        "about": [f"{word} {plain(value)}" for word, value in plan.about],
    }


def are_apart(found: Mapping[str, list[str]]) -> bool:
    """Tell whether lists are so long that they go as files: a shell reads a script piece by piece.

    And the script is not compressed.
    """
    return sum(len(line) + 1 for lines in found.values() for line in lines) > _WITH_SCRIPT


def _header(out: _Out, member: tarfile.TarInfo) -> None:
    out.write(member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def _add(out: _Out, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), mode, int(time.time())
    _header(out, member)
    out.write(content + _padding(len(content)))


def _add_change(out: _Out, change: Change, name: str) -> None:
    wanted = change.wanted
    member = tarfile.TarInfo(name)
    member.mode, member.mtime = change.mode, int(time.time())
    if isinstance(change.before, Text):
        member.uid, member.gid = change.before.uid, change.before.gid
    if wanted.target is not None:
        member.type, member.linkname = tarfile.SYMTYPE, wanted.target
        _header(out, member)
        return
    content = wanted.content
    if content is None:
        assert wanted.source is not None
        content = _content(wanted.source)
    member.size = len(content)
    _header(out, member)
    if wanted.source is not None:
        out.write_packed(content, lambda: _PACKER.packed(wanted.sha256, content))
    else:
        out.write(content)
    out.write(_padding(len(content)))
