# SPDX-License-Identifier: GPL-2.0-or-later
"""The archive that templates/apply.sh.j2 reads: files in their staging places, and its lists."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from provision.errors import FailedError
from provision.facts import Text
from provision.plan import Change, area


def write_tar(
    pipe: IO[bytes], changes: Sequence[Change], stage: str, on_sent: Callable[[int], None]
) -> None:
    """Send the files in their staging places, and before them the lists that check and move.

    :param pipe: takes a gzip'ed tar.
    :param stage: the name of the staging directories.
    :param on_sent: takes the size of each file after it was sent.
    :raises FailedError: a file of the build cannot be read.
    """
    sums, moves = [], []
    for change in changes:
        top = area(change.place)
        staged = f"{top}/{stage}{change.place[len(top) :]}"
        if change.wanted.target is None:
            sums.append(f"{change.wanted.sha256}  {staged}\n")
        moves.append(f"{staged} {change.place}\n")
    lists: Mapping[str, str] = {"sums": "".join(sums), "moves": "".join(moves)}
    with (
        gzip.GzipFile(fileobj=pipe, mode="wb", compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name, text in lists.items():
            _add(archive, f"etc/{stage}/{name}", text.encode(), 0o600)
        for change, move in zip(changes, moves, strict=True):
            _add_change(archive, change, move.split(" ")[0].lstrip("/"))
            on_sent(change.wanted.size)


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), mode, int(time.time())
    archive.addfile(member, io.BytesIO(content))


def _add_change(archive: tarfile.TarFile, change: Change, name: str) -> None:
    wanted = change.wanted
    member = tarfile.TarInfo(name)
    member.mode, member.mtime = change.mode, int(time.time())
    if isinstance(change.before, Text):
        member.uid, member.gid = change.before.uid, change.before.gid
    if wanted.target is not None:
        member.type, member.linkname = tarfile.SYMTYPE, wanted.target
        archive.addfile(member)
        return
    member.size = wanted.size
    if wanted.content is not None:
        archive.addfile(member, io.BytesIO(wanted.content))
        return
    assert wanted.source is not None
    try:
        stream = wanted.source.open("rb")
    except OSError as error:
        raise FailedError(f"{wanted.source}: {error.strerror}") from error
    with stream:
        archive.addfile(member, stream)
