# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory of files that were made here: written as a whole, known again, made anew.

The directory holds a list of what we wrote (``MARK``). Only a directory that is new, empty or has
that list is written to, and only files on the list are replaced or removed, so that nothing of a
site's own is ever overwritten by a wrong path.
"""

from __future__ import annotations

import errno
import hashlib
import json
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from provision.artifacts import describe_or_none
from provision.atomic import write_bytes, write_text
from provision.errors import FailedError, InputError
from provision.plan import Wanted, is_safe_path

MARK = ".krg-provision.json"
_FORMAT = 1
_MOST_BYTES = 1 << 22


@dataclass(frozen=True)
class Step:
    """What happens to one file: it is added, replaced or removed; ``path`` begins with a slash."""

    verb: str
    path: str
    wanted: Wanted | None = None
    by_hand: bool = False


def plan(directory: Path, kind: str, wanted: Sequence[Wanted]) -> list[Step]:
    """Return what differs between the directory and what is wanted; nothing is written.

    :param kind: what the directory is for; one of another kind is refused.
    :raises InputError: it is not ours, or something in it is in the way.
    """
    mine = _read(directory, kind)
    steps = []
    for one in wanted:
        assert is_safe_path(one.path)
        _check_way(directory, one.path)
        there = describe_or_none(_at(directory, one.path))
        if there is None:
            steps.append(Step("add", one.path, one))
            continue
        if one.path not in mine:
            raise InputError(
                f"{_at(directory, one.path)} is there, and krg-provision did not write it",
                hint="move it away, or name another directory",
            )
        if there.target != one.target or (one.target is None and there.sha256 != one.sha256):
            steps.append(Step("replace", one.path, one, there.sha256 != mine[one.path]))
        elif one.target is None and there.mode != one.mode:
            steps.append(Step("replace", one.path, one))
    names = {one.path for one in wanted}
    for path in sorted(set(mine) - names):
        _check_way(directory, path)
        there = describe_or_none(_at(directory, path))
        if there is not None:
            steps.append(Step("remove", path, None, there.sha256 != mine[path]))
    return steps


def write(directory: Path, kind: str, wanted: Sequence[Wanted], steps: Sequence[Step]) -> None:
    """Carry a plan out. Each file is the old one or the new one at any moment.

    :raises FailedError: a file of the build changed while it was copied.
    :raises OSError: it cannot be written.
    """
    mine = _read(directory, kind)
    final = {one.path: one.sha256 for one in wanted}
    directory.mkdir(parents=True, exist_ok=True)
    if steps or mine != final:
        # First the list with old and new, so that what an interrupted run left is ours.
        _mark(directory, kind, {**mine, **final})
    for step in steps:
        path = _at(directory, step.path)
        if step.wanted is None:
            path.unlink(missing_ok=True)
            _prune(directory, path.parent)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        _put(path, step.wanted)
    if steps or mine != final:
        _mark(directory, kind, final)


def _put(path: Path, one: Wanted) -> None:
    if one.target is not None:
        beside = path.with_name(f".{path.name}.new")
        beside.unlink(missing_ok=True)
        beside.symlink_to(one.target)
        beside.replace(path)
        return
    data = one.content
    if data is None:
        assert one.source is not None
        data = one.source.read_bytes()
        if hashlib.sha256(data).hexdigest() != one.sha256:
            raise FailedError(f"{one.source}: changed while it was copied", hint="run it again")
    write_bytes(path, data, one.mode)


def _at(directory: Path, path: str) -> Path:
    return directory / path.removeprefix("/")


def _check_way(directory: Path, path: str) -> None:
    """Refuse to write through a link, or over what is no file: it may be a site's own."""
    for part in _ways(directory, path):
        try:
            mode = part.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(mode):
            raise InputError(
                f"{part} is not a directory of krg-provision's: nothing is written through it",
                hint="move it away, or name another directory",
            )
    try:
        mode = _at(directory, path).lstat().st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise InputError(f"{_at(directory, path)} is in the way: not a file")


def _ways(directory: Path, path: str) -> Iterator[Path]:
    parts = path.split("/")[1:-1]
    for count in range(1, len(parts) + 1):
        yield directory.joinpath(*parts[:count])


def _read(directory: Path, kind: str) -> dict[str, str]:
    """Return what we wrote there: digests by path; nothing for a new or empty directory."""
    try:
        names = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return {}
    except NotADirectoryError as error:
        raise InputError(f"{directory}: not a directory") from error
    if not names:
        return {}
    if MARK not in names:
        raise InputError(
            f"{directory}: there are files that krg-provision did not write ({names[0]})",
            hint="name a new or empty directory, or one that this command made",
        )
    path = directory / MARK
    try:
        if path.is_symlink() or path.stat().st_size > _MOST_BYTES:
            raise ValueError("not a list that was written here")
        raw = json.loads(path.read_text("utf-8"))
        files = raw["files"]
        if raw["format"] != _FORMAT or raw["kind"] != kind:
            raise ValueError(f"it is for {raw['kind']}, format {raw['format']}")
        if not all(is_safe_path(str(k)) and isinstance(v, str) for k, v in files.items()):
            raise ValueError("a path in it is none of ours")
        return dict(files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: not the list of a directory made by this command ({error})",
            hint="name a new or empty directory",
        ) from error


def _mark(directory: Path, kind: str, files: dict[str, str]) -> None:
    text = json.dumps({"format": _FORMAT, "kind": kind, "files": files}, indent=1, sort_keys=True)
    write_text(directory / MARK, f"{text}\n", 0o644)


def _prune(directory: Path, place: Path) -> None:
    """Remove directories that became empty."""
    while place != directory:
        try:
            place.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise
            return
        place = place.parent
