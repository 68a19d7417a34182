# SPDX-License-Identifier: GPL-2.0-or-later
"""The archive that templates/apply.sh.j2 reads: files in their staging places, and its lists."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
from collections.abc import Callable, Mapping
from typing import IO

from provision.errors import FailedError
from provision.facts import Text
from provision.plan import Change, Plan, area, plain, token_of


def write_tar(pipe: IO[bytes], plan: Plan, stage: str, on_sent: Callable[[int], None]) -> None:
    """Send the files in their staging places, and before them the lists that check and move.

    :param pipe: takes a gzip'ed tar.
    :param stage: the name of the staging directories.
    :param on_sent: takes the size of each file after it was sent.
    :raises FailedError: a file of the build cannot be read.
    """
    with (
        gzip.GzipFile(fileobj=pipe, mode="wb", compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name, lines in _lists(plan, stage).items():
            text = "".join(f"{line}\n" for line in lines)
            _add(archive, f"etc/{stage}/{name}", text.encode(), 0o600)
        for change in plan.changes:
            if change.wanted.sent:
                _add_change(archive, change, staged(change, stage).lstrip("/"))
                on_sent(change.wanted.size)


def staged(change: Change, stage: str) -> str:
    """Return where a change's file is made ready, below the staging directory of its area."""
    top = area(change.place)
    return f"{top}/{stage}{change.place[len(top) :]}"


def _is_early(change: Change, plan: Plan) -> bool:
    """Tell whether a file goes before the commands: packages; on the way back, boot entries."""
    if plan.closes:
        return change.place.startswith(("/boot/grub/", "/boot/grub2/"))
    return change.place.startswith("/var/cache/")


def _lists(plan: Plan, stage: str) -> Mapping[str, list[str]]:
    """Return the lines of the lists that the script reads; no word in them holds a blank."""
    sums, copies = [], []
    early: list[str] = []
    late: list[str] = []
    directories: set[str] = set()
    for change in plan.changes:
        wanted, place = change.wanted, staged(change, stage)
        kind, _, digest = wanted.token.partition(":")
        if wanted.copy is not None:
            copies.append(f"{wanted.copy} {place}")
        if kind == "file":
            sums.append(f"{digest}  {place}")
        keep = "yes" if change.backed_up else "no"
        check = "no" if change.theirs else "yes"
        line = f"{place} {change.place} {token_of(change.before)} {wanted.token} {keep} {check}"
        (early if _is_early(change, plan) else late).append(line)
        parts = change.place.split("/")
        if not wanted.absent:
            directories |= {"/".join(parts[:count]) for count in range(2, len(parts))}
    return {
        "sums": sums,
        "copies": copies,
        "moves": early + late,
        "early": early,
        "late": late,
        # The deepest first: the order in which they can be removed.
        "directories": sorted(directories, key=lambda name: (-name.count("/"), name)),
        "emptied": list(plan.emptied),
        "about": [f"{word} {plain(value)}" for word, value in plan.about],
    }


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
