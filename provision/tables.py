# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads tables of TOML files from outside: types checked, unknown keys refused."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from provision.errors import InputError

_T = TypeVar("_T")
_NAMES = {
    str: "a text",
    int: "a whole number",
    list: "a list",
    dict: "a table",
    bool: "true or false",
}


class Table:
    """A TOML table whose errors name file and place, such as ``x.toml: archive.linux``."""

    def __init__(self, raw: object, where: str, known: set[str] | None = None) -> None:
        if not isinstance(raw, Mapping):
            raise InputError(f"{where}: expected a table")
        self._raw: Mapping[str, Any] = raw
        self.where = where
        unknown = sorted(set(raw) - known) if known is not None else []
        if unknown:
            raise InputError(
                f"{where}: unknown key {unknown[0]!r}",
                hint=f"known: {', '.join(sorted(known or ()))}",
            )

    def __contains__(self, key: str) -> bool:
        return key in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def _get(self, key: str, kind: type[_T], default: _T | None) -> _T:
        value = self._raw.get(key, default)
        if value is None:
            raise InputError(f"{self.where}: {key!r} is missing")
        # True is an int to Python, not to the writer of a file.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InputError(f"{self.where}: {key} must be {_NAMES[kind]}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text; InputError when it is missing and has no default."""
        return self._get(key, str, default)

    def maybe(self, key: str) -> str | None:
        """Return a text, or None when it is not there."""
        return self.text(key) if key in self else None

    def number(self, key: str, default: int | None = None) -> int:
        """Return a whole number."""
        return self._get(key, int, default)

    def flag(self, key: str) -> bool:
        """Return true or false; false when it is not there."""
        return self._get(key, bool, False)

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Return a list of texts."""
        values: list[Any] = self._get(key, list, None if default is None else list(default))
        if not all(isinstance(value, str) for value in values):
            raise InputError(f"{self.where}: {key} must be a list of texts")
        return tuple(values)

    def table(self, key: str, known: set[str] | None = None) -> Table:
        """Return the table ``key``, empty when it is not there."""
        return Table(self._raw.get(key, {}), f"{self.where}: {key}", known)

    def tables(self, key: str, known: set[str]) -> list[Table]:
        """Return the tables of an array of tables, which must be there."""
        raw: list[Any] = self._get(key, list, None)
        return [Table(one, f"{self.where}: {key} {n}", known) for n, one in enumerate(raw, 1)]

    def lists(self, key: str) -> tuple[tuple[str, ...], ...]:
        """Return a list of lists of texts."""
        raw: list[Any] = self._get(key, list, None)
        rows = [Table({"row": row}, f"{self.where}: {key} {n}") for n, row in enumerate(raw, 1)]
        return tuple(row.texts("row") for row in rows)

    def over(self, base: Table, inside: set[str]) -> Table:
        """Return this table, and of ``base`` what is not in it; of ``inside``, key by key."""
        found = {**base._raw, **self._raw}
        for key in inside & self._raw.keys() & base._raw.keys():
            found[key] = dict(base.table(key)._raw) | dict(self.table(key)._raw)
        return Table(found, self.where)

    def texts_by_key(self) -> dict[str, str]:
        """Return the whole table as texts by key."""
        return {key: self.text(key) for key in self._raw}


def below(path: str, where: str) -> str:
    """Return a relative path or glob that cannot lead upwards; InputError otherwise."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise InputError(f"{where}: {path!r} leads out of the tree")
    return path


def read(path: Path, known: set[str]) -> Table:
    """Read a TOML file; InputError names it and what is wrong.

    :raises FileNotFoundError: there is no such file.
    """
    try:
        return parse(path.read_text("utf-8"), str(path), known)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error


def parse(text: str, where: str, known: set[str]) -> Table:
    """Read a TOML text; ``where`` names it in errors."""
    try:
        return Table(tomllib.loads(text), where, known)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: {error}") from error
