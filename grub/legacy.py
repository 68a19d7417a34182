# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB Legacy's menu.lst: its entries, which of them are ours, and what boots by default.

Texts are ``str`` whose every character stands for one byte (decode and encode as
latin-1), so that what is not ours comes back byte for byte, whatever its encoding,
line ends or last line. No I/O happens here.

Our stanzas, one or two (grub.slots), go to the end of the file. Numbers in ``default`` and
``fallback`` count the titles from the top, so a stanza further up would silently renumber them;
and the end lies outside the list that Debian's update-grub rewrites.

What is known of the format comes from the GRUB 0.97 manual ("Configuration",
"Commands") and from files seen in the field: tabs, ``=`` after a word, carriage returns,
lines continued with a backslash, no newline at the end.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from grub import slots
from grub.kernel_line import Kernel

# The number says how many line ends were put before the marker, so that taking the
# stanza out gives the former file back.
BEGIN = "### BEGIN KRG-PROVISION +{} ### written by krg-provision deploy, changes here are lost"
END = "### END KRG-PROVISION ###"
_BEGIN_LINE = re.compile(r"^### BEGIN KRG-PROVISION \+([0-3]) ###[^\n]*\n", re.MULTILINE)
_END_LINE = re.compile(r"^### END KRG-PROVISION ###[^\n]*(?:\n|\Z)", re.MULTILINE)
# Lines of ours below the first marker: what is written down of the menu, and of our entries.
_KEPT = re.compile(r"(?:### KRG-PROVISION [^\n]*\n)*")

# Commands that every GRUB 0.97 has. It skips a command it does not know, and drops a title
# with no known command below it. Distributions' patches add some (uuid, quiet, gfxmenu) that
# are left out here on purpose: counting too few entries makes a number look out of range,
# which is refused; counting too many would let a number mean ours unseen.
_KNOWN = frozenset(
    """
    blocklist boot cat chainloader cmp color configfile debug default displaymem embed fallback
    find fstest geometry halt help hiddenmenu hide initrd install kernel lock makeactive map
    module modulenounzip pager partnew parttype password pause read reboot root rootnoverify
    savedefault setup timeout unhide uppermem
    """.split()  # noqa: SIM905 - a list of forty lines is harder to read
)
# Commands that start something; an entry without one cannot boot.
_BOOTS = frozenset({"kernel", "chainloader", "configfile"})
# Commands that say where the paths of an entry are looked up.
_ROOTS = frozenset({"root", "rootnoverify", "uuid"})

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_NUMBER = re.compile(r"0[xX]([0-9A-Fa-f]+)|(?!0[xX])([0-9]+)")
_MAX_NUMBER = 0x7FFFFFFF
_WORD = re.compile(r'(?:[^\s"]|"[^"]*"|")+')


class MenuError(ValueError):
    """The text cannot be edited safely; the message says why in one line."""


@dataclass(frozen=True)
class Command:
    """One command of the menu: its name and the rest of its line."""

    name: str
    argument: str


@dataclass(frozen=True)
class Entry:
    """One title and the commands below it; ``ours`` if it stands between our markers."""

    title: str
    commands: tuple[Command, ...]
    ours: bool = False

    @property
    def bootable(self) -> bool:
        """Tell whether the entry starts anything."""
        return any(command.name in _BOOTS for command in self.commands)

    @property
    def file(self) -> str | None:
        """Return the name of its kernel's file, without directories."""
        return None if self.kernel is None else self.kernel.path.rpartition("/")[2]

    @property
    def usable(self) -> bool:
        """Tell whether it starts Linux by itself: a kernel with root=, not for single-user work."""
        kernel = self.kernel
        return kernel is not None and kernel.starts_alone

    @property
    def root(self) -> Command | None:
        """Return the command that says where paths are looked up, if there is one."""
        return next((c for c in reversed(self.commands) if c.name in _ROOTS), None)

    @property
    def kernel(self) -> Kernel | None:
        """Return the entry's kernel line, if it has one."""
        line = next((c for c in self.commands if c.name == "kernel"), None)
        if line is None:
            return None
        words = _WORD.findall(line.argument)
        while words and words[0].startswith("--"):
            del words[0]
        return Kernel(words[0], tuple(words[1:])) if words else None


@dataclass(frozen=True)
class Region:
    """Where our stanzas with their markers stand in the text, and what is where in it.

    ``blank`` line ends stand before it; what was written down of the menu begins at ``kept``,
    the first stanza at ``stanza``; the last ends at ``last``.
    """

    start: int
    end: int
    blank: int
    kept: int
    stanza: int
    last: int


@dataclass(frozen=True)
class Stanza:
    """An entry of ours: GRUB's number of it, its lines, the name of its kernel's file."""

    number: int
    text: str
    kernel: str

    @property
    def saves(self) -> int | None:
        """Return what its first command saves as the default: the way back from a trial."""
        lines = self.text.split("\n")
        match = re.fullmatch(
            r"savedefault[ \t]+([0-9]+)", lines[1].rstrip("\r") if lines[1:] else ""
        )
        return None if match is None else int(match.group(1))

    def with_saves(self, number: int | None, end: str) -> str:
        """Return its lines with that command, in place of the one that may be there, or without."""
        first, _, rest = self.text.partition("\n")
        if self.saves is not None:
            rest = rest.partition("\n")[2]
        once = "" if number is None else f"savedefault\t{number}{end}"
        return f"{first}\n{once}{rest}"


def _physical(text: str) -> Iterator[tuple[int, str]]:
    return ((match.start(), match.group()) for match in _LINE.finditer(text))


def continues(line: str) -> bool:
    """Tell whether a line goes on in the next."""
    # GRUB looks at the last character only: two backslashes continue a line as one does.
    return line.rstrip("\n").replace("\r", "").endswith("\\")


# Texts are asked about many times each, and few at a time.
_remembered = functools.lru_cache(maxsize=64)


@_remembered
def commands(text: str) -> tuple[tuple[int, Command], ...]:
    """Return (offset, command) as GRUB reads them: joined lines, no comments.

    The offset is where the command's first line begins.
    """
    return tuple(_commands(text))


def _commands(text: str) -> Iterator[tuple[int, Command]]:
    start, joined = 0, ""
    # The empty line ends one that is continued up to the end of the file.
    for offset, line in (*_physical(text), (len(text), "")):
        if not joined:
            start = offset
        body = line.rstrip("\n").replace("\r", "").replace("\t", " ")
        if continues(line) and line.endswith("\n"):
            joined += body[:-1] + " "
            continue
        whole, joined = (joined + body).lstrip(" "), ""
        if whole and not whole.startswith("#"):
            name = re.split("[ =]", whole, maxsplit=1)[0]
            # Blanks at the end stay: to GRUB "saved " is not "saved".
            yield start, Command(name, whole[len(name) :].lstrip(" ="))


def region(text: str) -> Region | None:
    """Return where our stanza is, or None.

    :raises MenuError: the marker lines are damaged.
    """
    begins = list(_BEGIN_LINE.finditer(text))
    ends = list(_END_LINE.finditer(text))
    if not begins and not ends:
        return None
    if len(begins) != 1 or len(ends) != 1 or ends[0].start() < begins[0].end():
        raise MenuError("the marker lines of krg-provision are not one BEGIN followed by one END")
    kept = _KEPT.match(text, begins[0].end())
    assert kept is not None
    return Region(
        begins[0].start(), ends[0].end(), int(begins[0].group(1)),
        kept.start(), kept.end(), ends[0].start(),
    )  # fmt: skip


def _titles(text: str) -> list[tuple[int, str, list[Command]]]:
    """Return (offset, title, commands) of every title, those that GRUB drops included."""
    found: list[tuple[int, str, list[Command]]] = []
    for offset, command in commands(text):
        if command.name == "title":
            found.append((offset, command.argument.rstrip(" "), []))
        elif found:
            found[-1][2].append(command)
    return found


@_remembered
def entries(text: str) -> tuple[Entry, ...]:
    """Return the menu's entries in order; their positions are GRUB's numbers.

    A title with no command that GRUB knows below it is no entry: the next title takes its place.
    """
    found = region(text)
    return tuple(
        Entry(title, tuple(body), found is not None and found.start <= offset < found.end)
        for offset, title, body in _titles(text)
        if any(command.name in _KNOWN for command in body)
    )


@_remembered
def own(text: str) -> tuple[Stanza, ...]:
    """Return our entries, one or two; none if there is no region of ours.

    :raises MenuError: between our markers is something else. Replacing it would delete what
        somebody put there, and renumber what follows.
    """
    found = region(text)
    if found is None:
        return ()
    starts = [offset for offset, _, _ in _titles(text) if found.start <= offset < found.end]
    mine = [(n, entry) for n, entry in enumerate(entries(text)) if entry.ours]
    first = next((c for o, c in commands(text) if found.start <= o < found.end), None)
    files = {entry.file for _, entry in mine}
    # A single one may be of any kind; of two, each has to be of the kind that is written here.
    alien = len(mine) > 1 and any(
        e.kernel is None or not e.kernel.value("node_id") for _, e in mine
    )
    if (
        len(starts) not in (1, 2)
        or not len(starts) == len(mine) == len(files)
        or alien
        or first is None
        or first.name != "title"
    ):
        raise MenuError("between the marker lines of krg-provision there is more than its entries")
    cuts = [*starts, found.last]
    return tuple(
        Stanza(number, text[cuts[n] : cuts[n + 1]], entry.file or "")
        for n, (number, entry) in enumerate(mine)
    )


def notes(text: str) -> tuple[str, ...]:
    """Return what is written down in our region, without line ends."""
    there = region(text)
    lines = () if there is None else text[there.kept : there.stanza].split("\n")[:-1]
    return tuple(line.rstrip("\r") for line in lines)


def way_back(text: str) -> str | None:
    """Return the kernel of that one of our entries that is noted as the way back, if any is."""
    found = (slots.noted(line) for line in notes(text))
    return next((kernel for kernel in found if kernel is not None), None)


def newest(text: str) -> Stanza | None:
    """Return our entry that is not the way back; of two without a note, the last."""
    mine, former = own(text), way_back(text)
    return next((one for one in reversed(mine) if one.kernel != former), None)


def leading_number(text: str) -> tuple[int | None, str]:
    """Return the number that ``text`` begins with, as GRUB reads it, and what follows."""
    match = _NUMBER.match(text)
    if match is None:
        return None, text
    value = int(match.group(1), 16) if match.group(1) else int(match.group(2))
    return (value, text[match.end() :]) if value <= _MAX_NUMBER else (None, text)


@dataclass(frozen=True)
class Numbers:
    """The entry numbers a menu uses: its default, whether that is a saved one, its fallbacks."""

    default: int
    is_saved: bool
    fallback: tuple[int, ...]


def numbers(text: str, saved: int | None = None) -> Numbers:
    """Return the numbers as written; ``saved`` is what "saved" stands for, 0 if nothing is.

    Only lines above the first title count, and the last of a kind.
    """
    default, is_saved = 0, False
    fallback: tuple[int, ...] = ()
    for _, command in commands(text):
        if command.name == "title":
            break
        if command.name == "default":
            value, _ = leading_number(command.argument)
            if command.argument == "saved":
                default, is_saved = saved or 0, True
            elif value is not None:
                default, is_saved = value, False
        elif command.name == "fallback":
            words = (leading_number(word)[0] for word in command.argument.split(" "))
            fallback = tuple(word for word in words if word is not None)
    return Numbers(default, is_saved, fallback)


def default_index(text: str, saved: int | None = None) -> int:
    """Return the number of the entry that is booted by default.

    A number that is out of range falls to the first fallback that is not, else to 0.
    """
    used, count = numbers(text, saved), len(entries(text))
    return next((n for n in (used.default, *used.fallback) if n < count), 0)


def boots_ours(text: str, saved: int | None = None) -> bool:
    """Tell whether an entry of ours is the one booted by default, be it once."""
    return default_index(text, saved) in [one.number for one in own(text)]


def proven(text: str, saved: int | None = None) -> Stanza | None:
    """Return our entry that is booted by default; while another is on trial, its way back."""
    mine = {one.number: one for one in own(text)}
    found = mine.get(default_index(text, saved))
    if found is None or found.saves is None or not numbers(text, saved).is_saved:
        return found
    return mine.get(found.saves)


def saved_index(text: str) -> int | None:
    """Return the entry number held by /boot/grub/default, or None if it holds none.

    GRUB looks at nine bytes and takes the digits they begin with. It writes a NUL byte
    after the number, grub-set-default a newline.
    """
    return leading_number(text[:9])[0]


def known_good(text: str, saved: int | None = None) -> Entry:
    """Return the Linux entry to take root= and the other arguments from.

    That is the default entry; if it starts no Linux, or one for single-user work, the first
    that does and is not ours. Once ours is the default, its own arguments are what the node
    is known to boot with, and they are kept.

    :raises MenuError: there is no such entry.
    """
    menu = entries(text)
    index = default_index(text, saved)
    if index < len(menu) and menu[index].usable:
        return menu[index]
    for entry in menu:
        if entry.usable and not entry.ours:
            return entry
    raise MenuError("no entry with a kernel line and root= to take the arguments from")


def line_end(text: str) -> str:
    """Return how lines of this file end."""
    first = text.find("\n")
    return "\r\n" if first > 0 and text[first - 1] == "\r" else "\n"
