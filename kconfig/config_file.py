# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a .config: each value with its line, and each line that does not mean what it seems to.

The kernel's own reader (conf_read_simple in scripts/kconfig/confdata.c) takes lines that
begin with ``CONFIG_`` or ``# CONFIG_`` to the letter and says little or nothing about the
others. Here every other line that looks like a value is a Problem.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from kconfig.errors import KconfigError

Version = tuple[int, int, int]

# The first kernel that takes the last of two assignments; until then the first counts.
LAST_WINS: Version = (2, 6, 25)
# More problems than this in one file: the rest is counted, not listed.
MOST_PROBLEMS = 200
# What is shown of a line in a message.
SHOWN = 60

_VALUE = re.compile(r"CONFIG_([A-Za-z0-9_]+)=(.*)", re.DOTALL)
_UNSET = re.compile(r"# CONFIG_([A-Za-z0-9_]+) is not set")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_NUMBER = re.compile(r"-?[0-9]+|0[xX][0-9a-fA-F]+|[0-9][0-9a-fA-F]*")
_COMMENTED = re.compile(r"#+[ \t]{0,80}CONFIG_([A-Za-z0-9_]+)=(.*)", re.DOTALL)
_IGNORE = re.compile(r"#[ \t]*krg-lint:[ \t]*(\S*)[ \t]*(\S*)[ \t]*(.*)")
_HEADERS = (
    # up to 2.6.36 or so, then later kernels, then this program
    re.compile(r"# Linux kernel version: ()(\d+)\.(\d+)(?:\.(\d+))?(\S*)"),
    re.compile(r"# Linux/(\w+) (\d+)\.(\d+)(?:\.(\d+))?(\S*) Kernel Configuration"),
    re.compile(r"# Linux ()(\d+)\.(\d+)(?:\.(\d+))?(\S*) for (\w+)"),
)
# Made when the first odd line is met: repeats with bounds take milliseconds to compile.
_NEAR_UNSET = (
    r"[ \t]{0,80}#{0,9}[ \t]{0,80}CONFIG_([A-Za-z0-9_]+)"
    r"[ \t]{1,9}(?:is[ \t]{1,9})?not[ \t]{1,9}set"
)
_NEAR_VALUE = (
    r"[ \t]{0,80}(export[ \t]{1,9})?(CONFIG_)?([A-Za-z][A-Za-z0-9_]*|[0-9][A-Za-z0-9_]*[A-Za-z_]"
    r"[A-Za-z0-9_]*)[ \t]{0,80}(?:=|:=)[ \t]{0,80}(.*)"
)
_WORDS = {"yes": "y", "true": "y", "on": "y", "no": "n", "false": "n", "off": "n"}
# Looked for in this many first lines.
_HEADER_LINES = 20


class Assignment(NamedTuple):
    """One value; ``quoted`` tells the string "y" from y. Unset is the value n."""

    symbol: str
    value: str
    line: int
    quoted: bool = False


class Problem(NamedTuple):
    """A line that the kernel's reader does not take as it seems to be meant."""

    line: int
    symbol: str
    have: str
    why: str
    fix: str
    severity: str = "required"


class Ignore(NamedTuple):
    """``# krg-lint: ignore RULE reason`` in the file; RULE may be RULE:SYMBOL."""

    rule: str
    reason: str
    line: int


class ConfigFile(NamedTuple):
    """A configuration as it stands in a file; ``origin`` says where in it, if not plainly.

    ``version`` and ``arch`` are what the text says about itself; None and "" when it does not.
    """

    name: str
    assignments: tuple[Assignment, ...]
    problems: tuple[Problem, ...]
    ignores: tuple[Ignore, ...]
    version: Version | None
    arch: str
    origin: str = ""

    def values(self, version: Version | None = None) -> Mapping[str, Assignment]:
        """Return what counts, as a kernel of ``version`` (or the file's own) reads it.

        Before 2.6.25 the first of two assignments counts, later the last one.
        """
        return {a.symbol: a for a in self._in_order(version)}

    def _in_order(self, version: Version | None) -> tuple[Assignment, ...]:
        version = version or self.version
        if version is not None and version < LAST_WINS:
            return self.assignments[::-1]
        return self.assignments

    def duplicates(self, version: Version | None = None) -> list[tuple[Assignment, Assignment]]:
        """Return (the one that does not count, the one that does) for each repeated symbol."""
        if len({a.symbol for a in self.assignments}) == len(self.assignments):
            return []
        counts = self.values(version)
        pairs = [(a, counts[a.symbol]) for a in self.assignments]
        return [(a, kept) for a, kept in pairs if a is not kept]


def parse(text: str, name: str, origin: str = "") -> ConfigFile:
    """Read the text of a .config or of a fragment; any text has a reading.

    :raises KconfigError: there is no line in it that could be meant as a value.
    """
    reader = _Reader()
    if text.startswith("\ufeff"):
        text = text[1:]
        reader.problem(
            1, "", "a byte order mark", "the kernel takes it as part of the first line",
            "save the file without it",
        )  # fmt: skip
    if "\n" not in text and "\r" in text:
        text = text.replace("\r", "\n")
        reader.problem(
            1, "", "line ends of old Macintoshes", "to the kernel the file is one long line",
            "convert the file, for example with tr '\\r' '\\n'",
        )  # fmt: skip
    lines = text.split("\n")
    returns = text.count("\r\n")
    for number, line in enumerate(lines, 1):
        reader.line(number, line[:-1] if returns and line.endswith("\r") else line)
    if not reader.assignments and not reader.hopeful:
        what = "is empty" if not text.strip() else "has no CONFIG_ line"
        raise KconfigError(f"{name}: {what}: not a kernel configuration")
    if returns:
        reader.problem(
            1, "", "line ends of DOS", "old kernels read the CR as part of a value",
            "convert the file, for example with sed -i 's/\\r$//'", "recommended",
        )  # fmt: skip
    return ConfigFile(
        name,
        tuple(reader.assignments),
        tuple(reader.shown_problems()),
        tuple(reader.ignores),
        reader.version,
        _arch(reader.assignments) or reader.arch,
        origin,
    )


def _arch(assignments: list[Assignment]) -> str:
    """Name the architecture by its symbols: headers have none, or x86 for both kinds."""
    values = {a.symbol: a.value for a in assignments if a.symbol in ("X86_64", "X86_32", "64BIT")}
    if values.get("X86_64") == "y":
        return "x86_64"
    return "i386" if values.get("X86_32") == "y" else ""


class _Reader:
    """Collects what parse() returns, line by line."""

    def __init__(self) -> None:
        self.assignments: list[Assignment] = []
        self.problems: list[Problem] = []
        self.more = 0
        self.hopeful = False
        self.ignores: list[Ignore] = []
        self.version: Version | None = None
        self.arch = ""

    def problem(
        self, line: int, symbol: str, have: str, why: str, fix: str, severity: str = "required"
    ) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(line, symbol, have, why, fix, severity))
        else:
            self.more += 1

    def shown_problems(self) -> list[Problem]:
        shown = sorted(self.problems)
        if self.more:
            shown.append(
                Problem(
                    shown[-1].line, "", f"{self.more} more such lines", "a kernel ignores them",
                    "look at the first ones: is this the right file?",
                )
            )  # fmt: skip
        return shown

    def line(self, number: int, line: str) -> None:
        match = _VALUE.fullmatch(line)
        if match:
            self.value(number, match[1], match[2])
            return
        match = _UNSET.fullmatch(line)
        if match:
            self.assignments.append(Assignment(match[1], "n", number))
            return
        bare = line.strip()
        if not bare:
            return
        if bare.startswith("#"):
            self.comment(number, line, bare)
            return
        self.other(number, line, bare)

    def value(self, number: int, symbol: str, value: str) -> None:
        if value in ("y", "m", "n") or _NUMBER.fullmatch(value):
            self.assignments.append(Assignment(symbol, value, number))
            return
        quoted = _QUOTED.fullmatch(value)
        if quoted:
            text = re.sub(r"\\(.)", r"\1", quoted[1]) if "\\" in quoted[1] else quoted[1]
            self.assignments.append(Assignment(symbol, text, number, quoted=True))
            if text.lower() in ("y", "m", "n"):
                self.problem(
                    number, symbol, value, "in quotes it is a string, and only a string takes it",
                    f"CONFIG_{symbol}={text.lower()}", "recommended",
                )  # fmt: skip
            return
        self.hopeful = True
        why, fix = _value_problem(symbol, value)
        self.problem(number, symbol, _short(value) or "empty", why, fix)

    def comment(self, number: int, line: str, bare: str) -> None:
        match = _IGNORE.match(bare) if "krg-lint" in bare else None
        if match:
            self.directive(number, bare, *match.groups())
            return
        if "CONFIG_" not in bare.upper():
            if number <= _HEADER_LINES and self.version is None and bare.startswith("# Linux"):
                self.header(bare)
            return
        near = re.compile(_NEAR_UNSET, re.IGNORECASE).match(line)
        if near:
            self.hopeful = True
            self.problem(
                number, near[1], _short(line), "the kernel takes it for a comment",
                f"# CONFIG_{near[1]} is not set",
            )  # fmt: skip
            return
        commented = _COMMENTED.match(bare)
        if commented:
            self.hopeful = True
            self.problem(
                number, commented[1], _short(bare),
                "a comment: the symbol gets its default, which need not be n",
                f"# CONFIG_{commented[1]} is not set, to turn it off", "info",
            )  # fmt: skip

    def header(self, bare: str) -> None:
        for pattern in _HEADERS:
            match = pattern.match(bare)
            # A number of more digits than any version has is none.
            if match and max(map(len, match.group(2, 3))) < 6 and len(match[4] or "") < 6:
                self.version = (int(match[2]), int(match[3]), int(match[4] or 0))
                self.arch = match[1] or (match[6] if pattern.groups > 5 else "")

    def directive(self, number: int, bare: str, verb: str, rule: str, reason: str) -> None:
        if verb == "ignore" and rule and reason:
            self.ignores.append(Ignore(rule, reason, number))
            return
        self.problem(
            number, "", _short(bare), "it has no effect: it is not of the form ignore RULE reason",
            "# krg-lint: ignore RULE reason", "recommended",
        )  # fmt: skip

    def other(self, number: int, line: str, bare: str) -> None:
        near = re.compile(_NEAR_UNSET, re.IGNORECASE).match(line)
        if near:
            self.hopeful = True
            self.problem(
                number, near[1], _short(line), "the kernel ignores it: the # in front is missing",
                f"# CONFIG_{near[1]} is not set",
            )  # fmt: skip
            return
        near = re.compile(_NEAR_VALUE, re.IGNORECASE | re.DOTALL).fullmatch(line)
        if not near:
            self.problem(
                number, "", _short(bare), "neither a value nor a comment; the kernel ignores it",
                "remove it",
            )  # fmt: skip
            return
        symbol = near[3] if near[2] else near[3].upper()
        if near[2] or near[3].isupper():
            self.hopeful = True
        if near[1]:
            why = "a line of the shell; the kernel ignores it"
        elif not near[2]:
            why = "the name lacks CONFIG_ in front; the kernel ignores the line"
        elif line != line.lstrip():
            why = "blanks in front; the kernel ignores the line"
        elif not line.startswith("CONFIG_"):
            why = "the prefix is CONFIG_, in capital letters; the kernel ignores the line"
        else:
            why = "no blanks may stand around the =; the kernel takes them as part of the name"
        self.problem(number, symbol, _short(line), why, f"CONFIG_{symbol}={_mended(near[4])}")


def _value_problem(symbol: str, value: str) -> tuple[str, str]:
    """Say what is wrong with a value that is none, and how it should be spelt."""
    line = f"CONFIG_{symbol}={_mended(value)}"
    low = value.lower()
    if not value.strip():
        return "no value; the kernel ignores the line", f'CONFIG_{symbol}="" or remove the line'
    if value != value.strip():
        why = "blanks around the value; some kernels take them as part of it"
    elif low in ("y", "m", "n"):
        why = "values are small letters; the kernel ignores the line"
    elif low in _WORDS:
        why = "values are y, m and n; the kernel ignores the line"
    elif value.startswith("'"):
        why = "strings stand in double quotes; the kernel ignores the line"
    elif value.startswith('"'):
        why = "the string does not end where its line ends"
    else:
        why = "neither y, m, n, a number nor a string in double quotes"
    return why, line


def _mended(value: str) -> str:
    value = value.strip()
    bare = value.strip("\"'")
    low = _WORDS.get(bare.lower(), bare.lower())
    if low in ("y", "m", "n"):
        return low
    if _NUMBER.fullmatch(value):
        return value
    if _QUOTED.fullmatch(value):
        return _short(value)
    return '"' + _short(bare.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
