# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB 2's script language, as far as configuration files need it: text in, statements out.

Commands with their words, unquoted; blocks of ``menuentry``, ``submenu`` and ``function``; and
what stands in an ``if`` or a loop. Nothing is evaluated: variables stay in the words as they
are written. Source: GRUB manual, "Shell-like scripting".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from grub.legacy import MenuError

_BLOCKS = frozenset({"menuentry", "submenu", "function"})
_VARIABLE = re.compile(r"\$(?:\{[^}\n]*\}|[A-Za-z_][A-Za-z0-9_]*|[0-9?@*#])")


@dataclass(frozen=True)
class Word:
    """A word without its quotes; ``variable`` if GRUB puts values into it, ``bare`` unquoted."""

    text: str
    variable: bool = False
    bare: bool = True


@dataclass(frozen=True)
class Command:
    """A command: where it begins, its words, and for a menuentry or the like its block."""

    offset: int
    words: tuple[Word, ...]
    body: tuple[Statement, ...] | None = None

    @property
    def name(self) -> str:
        """Return its first word."""
        return self.words[0].text

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the other words."""
        return tuple(word.text for word in self.words[1:])


@dataclass(frozen=True)
class Choice:
    """An ``if`` or a loop: its parts, conditions first; which of them run is not known."""

    parts: tuple[tuple[Statement, ...], ...]


Statement = Command | Choice


class _Lexer:
    """Gives (offset, word) and (offset, None) for the end of a command."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def __iter__(self) -> Iterator[tuple[int, Word | None]]:
        text = self._text
        while self._at < len(text):
            char = text[self._at]
            if char in " \t\r":
                self._at += 1
            elif text.startswith("\\\n", self._at):
                self._at += 2
            elif char == "#":
                stop = text.find("\n", self._at)
                self._at = len(text) if stop < 0 else stop
            elif char in "\n;":
                yield self._at, None
                self._at += 1
            else:
                start = self._at
                yield start, self._word()
        yield self._at, None

    def _word(self) -> Word:
        text, parts, variable, bare = self._text, [""], False, True
        if text[self._at] in "|&<>":
            self._at += 1
            return Word(text[self._at - 1])
        while self._at < len(text) and (char := text[self._at]) not in " \t\r\n;|&<>":
            if char == "\\":
                parts.append(text[self._at + 1 : self._at + 2].replace("\n", ""))
                self._at += 2
                bare = False
            elif char == "'":
                stop = text.find("'", self._at + 1)
                if stop < 0:
                    raise MenuError("a quote is never closed")
                parts.append(text[self._at + 1 : stop])
                self._at, bare = stop + 1, False
            elif char == '"':
                self._at, bare = self._at + 1, False
                variable |= self._quoted(parts)
            elif (match := _VARIABLE.match(text, self._at)) is not None:
                parts.append(match.group())
                self._at, variable = match.end(), True
            else:
                parts.append(char)
                self._at += 1
        return Word("".join(parts), variable, bare)

    def _quoted(self, parts: list[str]) -> bool:
        """Read up to the closing double quote; tell whether there is a variable in it."""
        text, variable = self._text, False
        while self._at < len(text):
            char = text[self._at]
            if char == '"':
                self._at += 1
                return variable
            if char == "\\" and text[self._at + 1 : self._at + 2] in ('"', "\\", "$", "\n"):
                parts.append(text[self._at + 1].replace("\n", ""))
                self._at += 2
                continue
            match = _VARIABLE.match(text, self._at)
            parts.append(match.group() if match else char)
            variable |= match is not None
            self._at += len(parts[-1])
        raise MenuError("a quote is never closed")


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_Lexer(text))
        self._at = 0

    def statements(self, ends: frozenset[str], depth: int = 0) -> tuple[Statement, ...]:
        """Read statements up to a word of ``ends`` at the start of one, which is not read."""
        if depth > 40:
            raise MenuError("its blocks are nested too deeply")
        found: list[Statement] = []
        while self._at < len(self._tokens):
            offset, word = self._tokens[self._at]
            if word is None:
                self._at += 1
                continue
            plain = word.text if word.bare and not word.variable else ""
            if plain in ends:
                return tuple(found)
            if plain in ("if", "while", "until", "for"):
                found.append(self._choice(plain, depth))
            elif plain in ("then", "fi", "do", "done", "elif", "else", "}"):
                raise MenuError(f"{plain} stands where no block is open")
            else:
                found.append(self._command(offset, depth))
        if ends:
            raise MenuError("a block is never closed")
        return tuple(found)

    def _command(self, offset: int, depth: int) -> Command:
        words: list[Word] = []
        while (word := self._tokens[self._at][1]) is not None:
            plain = word.text if word.bare and not word.variable else ""
            if plain == "{" and words and words[0].text in _BLOCKS:
                self._at += 1
                body = self.statements(frozenset("}"), depth + 1)
                self._at += 1
                return Command(offset, tuple(words), body)
            if plain == "}":
                break
            words.append(word)
            self._at += 1
        return Command(offset, tuple(words))

    def _choice(self, kind: str, depth: int) -> Choice:
        ends = {"if": "fi"}.get(kind, "done")
        steps = frozenset({"then", "elif", "else", "do", ends})
        parts = []
        self._at += 1
        while True:
            parts.append(self.statements(steps, depth + 1))
            word = self._tokens[self._at][1]
            assert word is not None
            self._at += 1
            if word.text == ends:
                return Choice(tuple(parts))


def parse(text: str) -> tuple[Statement, ...]:
    """Return the statements of a configuration file.

    :raises MenuError: a block or a quote is never closed, or closed where none is open.
    """
    return _Parser(text).statements(frozenset())


def commands(statements: tuple[Statement, ...]) -> Iterator[Command]:
    """Yield every command that may run, in order: those in ifs and loops too, blocks left out."""
    for statement in statements:
        if isinstance(statement, Choice):
            for part in statement.parts:
                yield from commands(part)
        else:
            yield statement
