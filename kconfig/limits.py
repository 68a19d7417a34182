# SPDX-License-Identifier: GPL-2.0-or-later
"""What a tree from a stranger may make of us while its Kconfig files are read.

Files are read inside the tree only, regular ones, up to a size; macros end; and what
goes wrong is said in one line that names file and line.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

_FILE = 16 << 20
_MESSAGE = 400
EXPANSIONS = 100_000  # Linux 6.12 needs about a thousand
EXPANDED = 1 << 20
# What Kconfiglib runs into on texts that it takes for granted not to exist.
STUMBLES = (AttributeError, TypeError, ValueError, LookupError, AssertionError)

_LOOP = re.compile(r"^(?:\.\.\.\S.* )?(\S+) \(defined at ([^)]*)\)", re.MULTILINE)


def text_of(filename: str, top: str) -> str:
    """Return the text of a Kconfig file with lines ending in a newline.

    :raises OSError: the file leads out of the tree, is no regular file, or is too large.
    """
    plain = filename.startswith(f"{top}/") and "/.." not in filename
    if not plain and Path(os.path.relpath(filename, top or ".")).parts[:1] == (os.pardir,):
        raise OSError(errno.EACCES, "leads out of the tree", filename)
    # Opening must not wait for somebody at the other end of a pipe.
    handle = os.open(filename, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(handle, encoding="latin-1", newline=None) as stream:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", filename)
        if facts.st_size > _FILE:
            raise OSError(errno.EFBIG, f"is larger than {_FILE >> 20} MiB", filename)
        return stream.read()


def one_line(error: Exception) -> str:
    """Return the message of an error of Kconfiglib's in one line."""
    text = str(error).strip()
    if text.startswith("Dependency loop"):
        chain = _LOOP.findall(text)
        where = chain[0][1] if chain else "Kconfig"
        return f"{where}: depends on itself: {' -> '.join(name for name, _ in chain)}"
    text = " ".join(text.split())
    # A line of the file may be quoted in it, whatever its length; the reason comes last.
    return (
        text if len(text) <= _MESSAGE else f"{text[: _MESSAGE // 2]} ... {text[-_MESSAGE // 2 :]}"
    )
