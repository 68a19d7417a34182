# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB 2's environment block, /boot/grub/grubenv: read and write it as grub-editenv does.

It is exactly 1,024 bytes, because GRUB writes it in place, sector by sector: a line that names
it, lines ``NAME=VALUE``, and ``#`` up to the end (GRUB manual, "The GRUB environment block").
A backslash stands before a backslash or a line end in a value. Texts are ``str`` whose
characters stand for one byte each (latin-1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SIZE = 1024
_SIGNATURE = "# GRUB Environment Block\n"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# One line of the block; an escaped line end does not end it.
_LINE = re.compile(r"(?:\\.|[^\\\n])*\n", re.DOTALL)


class EnvError(ValueError):
    """The block is damaged or full; the message says so in one line."""


def empty() -> str:
    """Return a block without variables."""
    return _SIGNATURE.ljust(SIZE, "#")


def _lines(text: str) -> Iterator[str]:
    """Yield the lines of the block, without the filling."""
    if len(text) != SIZE or not text.startswith(_SIGNATURE):
        raise EnvError(f"it is no environment block of {SIZE} bytes")
    at = 0
    while (match := _LINE.match(text, at)) is not None:
        yield match.group()
        at = match.end()
    if text[at:].strip("#"):
        raise EnvError("its last line has no end")


def read(text: str) -> dict[str, str]:
    """Return the variables of the block.

    :raises EnvError: it is damaged.
    """
    found = {}
    for line in _lines(text):
        name, equals, value = line[:-1].partition("=")
        if equals and not line.startswith("#"):
            found[name] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
    return found


def write(text: str, name: str, value: str | None) -> str:
    """Return the block with one variable set, or taken out when ``value`` is None.

    Others stay where they are.

    :raises EnvError: it is damaged, or there is no room.
    """
    if not _NAME.fullmatch(name) or (value and "\0" in value):
        raise EnvError(f"{name!r} cannot be a variable")
    new = None
    if value is not None:
        new = f"{name}=" + re.sub(r"([\\\n])", r"\\\1", value) + "\n"
    lines = []
    for line in _lines(text):
        if not line.startswith(f"{name}="):
            lines.append(line)
        elif new is not None:
            lines.append(new)
            new = None
    made = "".join([*lines, new or ""])
    if len(made) > SIZE:
        raise EnvError("it is full")
    return made.ljust(SIZE, "#")
