# SPDX-License-Identifier: GPL-2.0-or-later
"""On which lines the keys and tables of a TOML file stand, which tomllib does not tell.

For messages only: the values come from tomllib. Source: TOML v1.0.0.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

_TOKEN = re.compile(
    r'#[^\n]*|"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|.',
    re.DOTALL,
)


class Lines:
    """The lines of top-level keys, of the keys of tables, and of the tables of an array.

    :param text: a file that tomllib has read without an error.
    :param array: the name of the one array of tables.
    """

    def __init__(self, text: str, array: str) -> None:
        self._top: dict[str, int] = {}
        self._tables: dict[tuple[str, str], int] = {}
        self._items: list[dict[str, int]] = []
        current: tuple[str, ...] = ()
        for line, head, values in _statements(text):
            names = _names(head)
            if head.startswith("["):
                current = names
                if names == (array,):
                    self._items.append({"": line})
                elif names:
                    self._top.setdefault(names[0], line)
                continue
            path = current + names
            if current == (array,) and self._items:
                self._items[-1].setdefault(path[1], line)
                continue
            if path == (array,):
                self._items += [{"": number} for number in values]
            self._top.setdefault(path[0], line)
            if len(path) > 1:
                self._tables.setdefault((path[0], path[1]), line)

    def top(self, key: str) -> int | None:
        """Return the line of a top-level key or table."""
        return self._top.get(key)

    def table(self, name: str, key: str) -> int | None:
        """Return the line of a key of a table, or the table's own."""
        return self._tables.get((name, key)) or self._top.get(name)

    def has(self, position: int, key: str) -> bool:
        """Tell whether the table at that position of the array gives the key."""
        return position < len(self._items) and key in self._items[position]

    def item(self, position: int, key: str = "") -> int | None:
        """Return the line of a key of the table at that position of the array, or its own."""
        if position >= len(self._items):
            return None
        return self._items[position].get(key) or self._items[position].get("")


def _names(head: str) -> tuple[str, ...]:
    """Return the parts of a dotted key, or of a table's header."""
    text = head.strip("[] \t\r") if head.startswith("[") else head
    try:
        value: Any = tomllib.loads(f"{text} = 0")
    except (tomllib.TOMLDecodeError, RecursionError):
        return ("?",)
    found = []
    while isinstance(value, dict) and value:
        name, value = next(iter(value.items()))
        found.append(name)
    return tuple(found)


def _statements(text: str) -> Iterator[tuple[int, str, list[int]]]:
    """Yield the line, the header or key, and the lines of tables in an array's value."""
    line, start, depth = 1, 1, 0
    head, in_value = "", False
    tables: list[int] = []
    for match in _TOKEN.finditer(text):
        piece = match.group()
        if piece == "\n" and (depth == 0 or not in_value):
            if head.strip():
                yield start, head.strip(), tables
            head, in_value, depth, tables = "", False, 0, []
        elif not in_value:
            if not head.strip():
                start = line
            if piece == "=":
                in_value = True
            elif not piece.startswith("#"):
                head += piece
        elif piece in "[{":
            depth += 1
            if piece == "{" and depth == 2:
                tables.append(line)
        elif piece in "]}":
            depth -= 1
        line += piece.count("\n")
    if head.strip():
        yield start, head.strip(), tables
