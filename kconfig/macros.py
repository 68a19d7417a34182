# SPDX-License-Identifier: GPL-2.0-or-later
"""As much of the C preprocessor as drivers' tables of devices need: no compiler runs.

A file is read with its own headers, directives obeyed: includes in quotes, macros with
arguments and ``##``, conditions. Where a condition hangs on the configuration (CONFIG_X) or
on something that is not known, both branches count: the question is what a driver could do.
All is bounded; sources are a stranger's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

_MOST_BYTES = 4 << 20
_MOST_FILES = 200
_MOST_STEPS = 300_000
_DEPTH = 40
_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)\'|/\*.*?\*/|//[^\n]*', re.S)
_DIRECTIVE = re.compile(
    r"^[ \t]*#[ \t]*(define|undef|include|ifdef|ifndef|if|elif|else|endif)\b[ \t]*(.*)$", re.M
)
_DEFINE = re.compile(r"(\w+)(?:\(([^()]*)\))?[ \t]*(.*)", re.S)
_TOKEN = re.compile(
    r'\w+|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\''
    r"|##|<<|>>|&&|\|\||[=!<>]=|\.\.\.|[^\s\w]"
)
_DEFINED = re.compile(r"(!?)[ \t]*defined[ \t]*\(?[ \t]*(\w+)[ \t]*\)?")
# Loosest first; what C has beyond these does not stand in tables.
_OPERATORS = (
    ("||",), ("&&",), ("|",), ("^",), ("&",), ("==", "!="), ("<<", ">>"), ("+", "-"), ("*",),
)  # fmt: skip
_WORD = (1 << 64) - 1
_RULES: dict[str, Callable[[int, int], int]] = {
    "||": lambda a, b: int(bool(a or b)),
    "&&": lambda a, b: int(bool(a and b)),
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "&": lambda a, b: a & b,
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
    "<<": lambda a, b: a << min(b, 64),
    ">>": lambda a, b: a >> min(b, 64),
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


class Macro(NamedTuple):
    """``words`` is None for a macro without parentheses."""

    words: tuple[str, ...] | None
    body: tuple[str, ...]


class TooMuchError(ValueError):
    """Macros that expand to more than any table has."""


def tokens(text: str) -> list[str]:
    """Return the words and signs of C text without comments."""
    return _TOKEN.findall(text)


@dataclass
class Flat:
    """A file with its headers in their places: text between directives, and the macros.

    A macro that is undefined later stays known: expansion looks at the end of the file.
    """

    macros: dict[str, Macro]
    pieces: list[str] = field(default_factory=list)
    _open: list[Path] = field(default_factory=list)
    _files: int = 0


_NONE: Mapping[str, Macro] = MappingProxyType({})


class Reader:
    """Reads files, each once; ``common`` headers' macros are known in all of them."""

    def __init__(self, common: Sequence[Path] = (), known: Mapping[str, Macro] = _NONE) -> None:
        self._parts: dict[Path, list[tuple[str, str, str]]] = {}
        seen = Flat(dict(known))
        for path in common:
            self._walk(path, (), seen)
        self._common = seen.macros

    def flat(self, path: Path, places: Sequence[Path] = ()) -> Flat:
        """Return a file with the headers that are beside it (in quotes) or in ``places``."""
        flat = Flat(dict(self._common))
        self._walk(path, places, flat)
        return flat

    def _walk(self, path: Path, places: Sequence[Path], flat: Flat) -> None:
        if path in flat._open or len(flat._open) > _DEPTH or flat._files > _MOST_FILES:
            return
        flat._files += 1
        flat._open.append(path)
        # Of each open condition: whether its text counts, and whether it holds (None: unknown).
        open_ifs: list[tuple[bool, bool | None]] = []
        for directive, rest, text in self._split(path):
            if directive in ("if", "ifdef", "ifndef"):
                truth = _holds(directive, rest, flat.macros)
                open_ifs.append((_counts(open_ifs) and truth is not False, truth))
            elif directive in ("elif", "else") and open_ifs:
                _, truth = open_ifs.pop()
                open_ifs.append((_counts(open_ifs) and truth is not True, truth))
            elif directive == "endif" and open_ifs:
                open_ifs.pop()
            if not _counts(open_ifs):
                continue
            if directive == "define":
                _define(rest, flat.macros, unsure=any(truth is None for _, truth in open_ifs))
            elif directive == "include":
                own = (path.parent,) if rest.startswith('"') else ()
                for place in (*own, *places):
                    header = place / re.split(r'[">]', rest[1:], maxsplit=1)[0]
                    if header.is_file():
                        self._walk(header, places, flat)
                        break
            if text.strip():
                flat.pieces.append(text)
        flat._open.pop()

    def _split(self, path: Path) -> list[tuple[str, str, str]]:
        """Return (directive, its rest, text up to the next one) of a file."""
        if path not in self._parts:
            text = _COMMENT.sub(
                lambda match: " " if match[0][0] == "/" else match[0],
                read(path).replace("\r\n", "\n").replace("\\\n", " "),
            )
            found = list(_DIRECTIVE.finditer(text))
            ends = [match.start() for match in found] + [len(text)]
            self._parts[path] = [("", "", text[: ends[0]])]
            self._parts[path] += [
                (match[1], match[2].strip(), text[match.end() : end])
                for match, end in zip(found, ends[1:], strict=True)
            ]
        return self._parts[path]


def read(path: Path) -> str:
    """Return a source file's text; "" when it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(_MOST_BYTES).decode("latin-1")
    except OSError:
        return ""


def _counts(open_ifs: Sequence[tuple[bool, bool | None]]) -> bool:
    return open_ifs[-1][0] if open_ifs else True


def _holds(directive: str, rest: str, macros: Mapping[str, Macro]) -> bool | None:
    """Tell whether a condition holds; None when that hangs on the configuration."""
    if directive == "if":
        if rest in ("0", "1"):
            return rest == "1"
        match = _DEFINED.fullmatch(rest)
        if match is None:
            return None
        wanted, name = not match[1], match[2]
    else:
        wanted, name = directive == "ifdef", rest.split(maxsplit=1)[0] if rest else ""
    # A name that was not seen can be set by the build or by a header in <>.
    return wanted if name in macros else None


def _define(rest: str, macros: dict[str, Macro], *, unsure: bool) -> None:
    match = _DEFINE.match(rest)
    if match is None:
        return
    words = None
    if match[2] is not None:
        words = tuple(word.strip() for word in match[2].split(",") if word.strip())
    macro = Macro(words, tuple(tokens(match[3])))
    # Of two branches that may both be, the one that says something.
    if not (unsure and match[1] in macros and not macro.body):
        macros[match[1]] = macro


def expand(given: Sequence[str], macros: Mapping[str, Macro]) -> Iterator[str]:
    """Yield tokens with all macros expanded.

    :raises TooMuchError: that takes more steps than any table does.
    """
    yield from _Expander(macros).expand(given, frozenset())


class _Expander:
    """Counts its steps: a few macros can come to more than there is time for."""

    def __init__(self, macros: Mapping[str, Macro]) -> None:
        self._macros = macros
        self._steps = 0

    def expand(self, given: Sequence[str], within: frozenset[str]) -> Iterator[str]:
        at = 0
        while at < len(given):
            self._steps += 1
            if self._steps > _MOST_STEPS:
                raise TooMuchError
            word = given[at]
            at += 1
            macro = self._macros.get(word)
            if macro is None or word in within or len(within) > _DEPTH:
                yield word
            elif macro.words is None:
                yield from self.expand(macro.body, within | {word})
            elif at == len(given) or given[at] != "(":
                yield word
            else:
                arguments, at = _arguments(given, at + 1)
                body = self._filled(macro, macro.words, arguments, within)
                yield from self.expand(body, within | {word})

    def _filled(
        self, macro: Macro, words: Sequence[str], given: list[list[str]], within: frozenset[str]
    ) -> list[str]:
        """Return a macro's body with its arguments in their places."""
        if words and words[-1].endswith("..."):
            rest = [word for one in given[len(words) - 1 :] for word in (",", *one)][1:]
            given = [*given[: len(words) - 1], rest]
            words = [*words[:-1], words[-1].removesuffix("...") or "__VA_ARGS__"]
        arguments = dict(zip(words, given, strict=False))
        body: list[str] = []
        glue = False
        for number, word in enumerate(macro.body):
            if word == "##":
                glue = bool(body)
                continue
            part = [word]
            if word in arguments:
                part = arguments[word]
                # What is glued is not expanded before.
                if not glue and macro.body[number + 1 : number + 2] != ("##",):
                    part = list(self.expand(part, within))
            if glue and part:
                body[-1] += part[0]
                part = part[1:]
            glue = False
            body += part
            if len(body) > _MOST_STEPS:
                raise TooMuchError
        return body


def _arguments(given: Sequence[str], at: int) -> tuple[list[list[str]], int]:
    """Return what stands between a macro's parentheses, and the place behind them."""
    found: list[list[str]] = [[]]
    depth = 0
    while at < len(given):
        word = given[at]
        at += 1
        if word in "([{":
            depth += 1
        elif word in ")]}":
            depth -= 1
            if depth < 0:
                break
        elif word == "," and not depth:
            found.append([])
            continue
        found[-1].append(word)
    return found, at


def evaluate(given: Sequence[str]) -> int | None:
    """Return what a constant expression comes to, as 64 bits; None when it is not one."""
    if len(given) > 200:
        return None
    try:
        value, at = _choice(given, 0)
    except (ValueError, IndexError, RecursionError):
        return None
    return value & _WORD if at == len(given) else None


def _choice(given: Sequence[str], at: int) -> tuple[int, int]:
    """Read ``a ? b : c``, and gcc's ``a ?: c``."""
    value, at = _binary(given, at, 0)
    if at == len(given) or given[at] != "?":
        return value, at
    first, at = (value, at + 1) if given[at + 1] == ":" else _choice(given, at + 1)
    if given[at] != ":":
        raise ValueError
    second, at = _choice(given, at + 1)
    return first if value else second, at


def _binary(given: Sequence[str], at: int, level: int) -> tuple[int, int]:
    if level == len(_OPERATORS):
        return _unary(given, at)
    left, at = _binary(given, at, level + 1)
    while at < len(given) and given[at] in _OPERATORS[level]:
        sign = given[at]
        right, at = _binary(given, at + 1, level + 1)
        left = _RULES[sign](left, right) & _WORD
    return left, at


def _unary(given: Sequence[str], at: int) -> tuple[int, int]:
    word = given[at]
    if word == "(" and given[at + 1].isidentifier() and given[at + 2] == ")":
        # A cast: all that are left here are to types that hold any value of a table.
        return _unary(given, at + 3)
    if word == "(":
        value, at = _choice(given, at + 1)
        if given[at] != ")":
            raise ValueError
        return value, at + 1
    if word in ("~", "-", "+", "!"):
        value, at = _unary(given, at + 1)
        signs = {"~": ~value, "-": -value, "+": value, "!": int(not value)}
        return signs[word] & _WORD, at
    digits = word.rstrip("uUlL")
    if len(digits) > 20:
        raise ValueError
    base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" else 10
    return int(digits, base) & _WORD, at + 1
