# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB Legacy's menu.lst: read its entries, put one of ours in, take it out again.

Texts are ``str`` whose every character stands for one byte (decode and encode as
latin-1), so that what is not ours comes back byte for byte, whatever its encoding,
line ends or last line. No I/O happens here.

Our stanza goes to the end of the file. Numbers in ``default`` and ``fallback`` count
the titles from the top, so a stanza further up would silently renumber them; and the end
lies outside the list that Debian's update-grub rewrites.

What is known of the format comes from the GRUB 0.97 manual ("Configuration",
"Commands") and from files seen in the field: tabs, ``=`` after a word, carriage returns,
lines continued with a backslash, no newline at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

# The number says how many line ends were put before the marker, so that taking the
# stanza out gives the former file back.
_BEGIN = "### BEGIN KRG-PROVISION +{} ### written by krg-provision deploy, changes here are lost"
_END = "### END KRG-PROVISION ###"
_BEGIN_LINE = re.compile(r"^### BEGIN KRG-PROVISION \+([0-3]) ###[^\n]*\n", re.MULTILINE)
_END_LINE = re.compile(r"^### END KRG-PROVISION ###[^\n]*(?:\n|\Z)", re.MULTILINE)
_LIST_BEGIN = re.compile(r"^### BEGIN AUTOMAGIC KERNELS LIST", re.MULTILINE)
_LIST_END = re.compile(r"^### END DEBIAN AUTOMAGIC KERNELS LIST", re.MULTILINE)

# Commands that start something; an entry without one cannot boot.
_BOOTS = frozenset({"kernel", "chainloader", "configfile"})
# Commands that say where the paths of an entry are looked up.
_ROOTS = frozenset({"root", "rootnoverify", "uuid"})

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
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
class Kernel:
    """A kernel line: the path as GRUB sees it, and what is handed to the kernel."""

    path: str
    arguments: tuple[str, ...]

    def value(self, name: str) -> str | None:
        """Return the value of the last ``name=value`` argument, or None."""
        found = [a.partition("=")[2] for a in self.arguments if a.startswith(name + "=")]
        return found[-1] if found else None


def _physical(text: str) -> Iterator[tuple[int, str]]:
    return ((match.start(), match.group()) for match in _LINE.finditer(text))


def _continues(line: str) -> bool:
    body = line.rstrip("\n").replace("\r", "")
    return (len(body) - len(body.rstrip("\\"))) % 2 == 1


def _commands(text: str) -> Iterator[tuple[int, Command]]:
    """Yield (offset, command) as GRUB reads them: joined lines, no comments."""
    start, joined = 0, ""
    # The empty line ends one that is continued up to the end of the file.
    for offset, line in (*_physical(text), (len(text), "")):
        if not joined:
            start = offset
        body = line.rstrip("\n").replace("\r", "").replace("\t", " ")
        if _continues(line) and line.endswith("\n"):
            joined += body[:-1] + " "
            continue
        whole, joined = (joined + body).strip(" "), ""
        if whole and not whole.startswith("#"):
            name, _, argument = whole.replace("=", " ", 1).partition(" ")
            if "=" in whole and not re.match(r"[A-Za-z]+ *=", whole):
                # The equals sign belongs to an argument, not to the command's name.
                name, _, argument = whole.partition(" ")
            yield start, Command(name, argument.strip(" "))


def _region(text: str) -> tuple[int, int, int] | None:
    """Return (start, end, line ends before) of our stanza with its markers, or None."""
    begins = list(_BEGIN_LINE.finditer(text))
    ends = list(_END_LINE.finditer(text))
    if not begins and not ends:
        return None
    if len(begins) != 1 or len(ends) != 1 or ends[0].start() < begins[0].end():
        raise MenuError("the marker lines of krg-provision are not one BEGIN followed by one END")
    return begins[0].start(), ends[0].end(), int(begins[0].group(1))


def entries(text: str) -> tuple[Entry, ...]:
    """Return the menu's entries in order; their positions are GRUB's numbers."""
    region = _region(text)
    found: list[tuple[int, str, list[Command]]] = []
    for offset, command in _commands(text):
        if command.name == "title":
            found.append((offset, command.argument, []))
        elif found:
            found[-1][2].append(command)
    return tuple(
        Entry(title, tuple(body), region is not None and region[0] <= offset < region[1])
        for offset, title, body in found
    )


def default_index(text: str, saved: int | None = None) -> int:
    """Return the number of the entry booted by default; ``saved`` is what "saved" stands for."""
    index = 0
    for _, command in _commands(text):
        if command.name == "title":
            break
        if command.name == "default":
            if command.argument.isdecimal():
                index = int(command.argument)
            elif command.argument == "saved":
                index = saved or 0
    return index


def saved_index(text: str) -> int | None:
    """Return the entry number held by /boot/grub/default, or None if it holds none.

    GRUB itself writes a NUL byte after the number, grub-set-default a newline.
    """
    match = re.match(r"(\d{1,4})(?:[\0\n\r]|\Z)", text)
    return int(match.group(1)) if match else None


def _usable(entry: Entry) -> bool:
    return entry.kernel is not None and entry.kernel.value("root") is not None


def known_good(text: str, saved: int | None = None) -> Entry:
    """Return the Linux entry to take root= and the other arguments from.

    That is the default entry; if it starts no Linux, the first entry that does and is
    neither ours nor for single-user work. Once ours is the default, its own arguments
    are what the node is known to boot with, and they are kept.

    :raises MenuError: there is no such entry.
    """
    menu = entries(text)
    index = default_index(text, saved)
    if index < len(menu) and _usable(menu[index]):
        return menu[index]
    for entry in menu:
        kernel = entry.kernel
        if kernel is not None and _usable(entry) and not entry.ours:
            if {"single", "1", "S"} & set(kernel.arguments):
                continue
            return entry
    raise MenuError("no entry with a kernel line and root= to take the arguments from")


def with_arguments(
    arguments: Iterable[str], ours: Sequence[tuple[str, str]], extra: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return ``arguments`` with every name of ``ours`` set once, at the end, then ``extra``."""
    names = tuple(f"{name}=" for name, _ in ours)
    kept = [a for a in arguments if not a.startswith(names) and a not in extra]
    return (*kept, *(f"{name}={value}" for name, value in ours), *extra)


def kernel_path(model: Kernel, name: str, *, boot_is_separate: bool) -> str:
    """Return GRUB's path of the file ``name`` in /boot, as the known good entry spells it.

    With /boot on a file system of its own GRUB sees no /boot in its paths; a device
    such as ``(hd0,0)`` before the path is kept.
    """
    device = re.match(r"\([^)]*\)", model.path)
    prefix = device.group() if device else ""
    if model.path[len(prefix) :].startswith("/boot/"):
        return f"{prefix}/boot/{name}"
    return f"{prefix}/{name}" if boot_is_separate else f"{prefix}/boot/{name}"


def _line_end(text: str) -> str:
    first = text.find("\n")
    return "\r\n" if first > 0 and text[first - 1] == "\r" else "\n"


def put(text: str, body: str) -> str:
    """Return ``text`` with ``body`` (a title and its commands) as our stanza.

    A stanza of ours is replaced where it stands; otherwise one is added at the end. All
    other bytes stay as they are, and doing it twice is doing it once.

    :raises MenuError: nothing else in the menu boots (there would be no way back), the
        markers are damaged, or update-grub's list has no end.
    """
    region = _region(text)
    lines = body.strip("\n").split("\n")
    if any(_continues(line) or line.startswith("###") for line in lines):
        raise MenuError("the stanza holds a marker or a continued line")
    if not lines[0].startswith("title") or not any(e.bootable for e in entries(body)):
        raise MenuError("the stanza has no title or no kernel line")
    if not any(entry.bootable for entry in entries(text)):
        raise MenuError("the menu has no bootable entry to fall back to")
    if _LIST_BEGIN.search(text) and not _LIST_END.search(text):
        raise MenuError("update-grub's list of kernels begins but never ends")
    end = _line_end(text)
    inner = end.join([*lines, _END, ""])
    if region is not None:
        start, stop, _ = region
        marker = _BEGIN_LINE.match(text, start)
        assert marker is not None
        return text[: marker.end()] + inner + text[stop:]
    # A blank line before it, for the reader; one more where the last line has no end, and
    # one more where a backslash would join the marker to the line before.
    last = text[text.rstrip("\n").rfind("\n") + 1 :].rstrip("\n").replace("\r", "")
    count = 1 + (not text.endswith("\n"))
    if last.endswith("\\") and not text.endswith("\n\n"):
        count += 1
    return text + end * count + _BEGIN.format(count) + end + inner


def remove(text: str) -> str:
    """Return ``text`` without our stanza; a text without one comes back unchanged.

    :raises MenuError: the markers are damaged, or nothing else in the menu boots.
    """
    region = _region(text)
    if region is None:
        return text
    start, stop, count = region
    marker = _BEGIN_LINE.match(text, start)
    assert marker is not None
    end = "\r\n" if marker.group().endswith("\r\n") else "\n"
    for _ in range(count):
        if text[:start].endswith(end):
            start -= len(end)
    rest = text[:start] + text[stop:]
    if not any(entry.bootable for entry in entries(rest)):
        raise MenuError("without our stanza the menu would have no bootable entry")
    return rest
