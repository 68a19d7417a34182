# SPDX-License-Identifier: GPL-2.0-or-later
"""Room on the disk, asked for before long work begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from provision.errors import MissingError


def disk_free(path: Path) -> int:
    """Return the free bytes of the file system that would hold ``path``."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def need_space(path: Path, need: int, what: str) -> None:
    """Raise MissingError when fewer than ``need`` bytes are free for ``what``."""
    free = disk_free(path)
    if free < need:
        raise MissingError(
            f"{path}: {free >> 20} MiB free, {what} needs about {need >> 20} MiB",
            hint="make room, or name another place (--work-dir, XDG_CACHE_HOME)",
        )
