# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole files or none: write beside, flush to disk, rename."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path


def write_bytes(path: Path, data: bytes, mode: int | None = None) -> None:
    """Replace ``path`` by ``data`` so that a reader sees the old file or the new one.

    :param mode: permission bits; those of the old file, or 0644, when None.
    """
    if mode is None:
        try:
            mode = path.stat().st_mode & 0o7777
        except FileNotFoundError:
            mode = 0o644
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        # The user knows the file by its own name.
        error.filename = str(path)
        raise
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, mode: int | None = None) -> None:
    """Replace ``path`` by ``text`` in UTF-8; see write_bytes."""
    write_bytes(path, text.encode("utf-8"), mode)


def write_output(path: Path, text: str) -> None:
    """Write what the user asked to have in ``path``, whatever that is.

    A file is replaced, also when a link leads to it. A device or a pipe is written to: a
    rename would put a file in the place of /dev/null.

    :raises OSError: with the name the user gave.
    """
    try:
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if stat.S_ISREG(mode):
            write_text(path.resolve() if path.is_symlink() else path, text)
        else:
            with path.open("wb") as stream:
                stream.write(text.encode("utf-8"))
    except OSError as error:
        error.filename = str(path)
        raise
