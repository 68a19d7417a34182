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
# Lines of ours below the first marker: what grub.legacy_trial wrote down to undo it.
_KEPT = re.compile(r"(?:### KRG-PROVISION [^\n]*\n)*")
_LIST_BEGIN = re.compile(r"^### BEGIN AUTOMAGIC KERNELS LIST", re.MULTILINE)
_LIST_END = re.compile(r"^### END DEBIAN AUTOMAGIC KERNELS LIST", re.MULTILINE)

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

# Words on a kernel line that ask for a shell and a person at the keyboard.
_SINGLE = frozenset({"single", "1", "S", "s", "-s", "-b", "emergency", "rescue", "recovery"})
_SHELL = re.compile(r"(?:rd)?init=\S*sh|(?:rd\.)?systemd\.unit=(?:rescue|emergency)\.target")

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
class Kernel:
    """A kernel line: the path as GRUB sees it, and what is handed to the kernel."""

    path: str
    arguments: tuple[str, ...]

    def value(self, name: str) -> str | None:
        """Return the value of the last ``name=value`` argument, or None."""
        found = [a.partition("=")[2] for a in self.arguments if a.startswith(name + "=")]
        return found[-1] if found else None

    @property
    def starts_alone(self) -> bool:
        """Tell whether it is Linux with a root=, and asks for no shell or single-user work."""
        if self.value("root") is None:
            return False
        return not any(a in _SINGLE or _SHELL.fullmatch(a) for a in self.arguments)


@dataclass(frozen=True)
class Region:
    """Where our stanza with its markers stands in the text, and what is where in it.

    ``blank`` line ends stand before it; what was written down of the menu begins at ``kept``,
    the stanza at ``stanza``.
    """

    start: int
    end: int
    blank: int
    kept: int
    stanza: int


def _physical(text: str) -> Iterator[tuple[int, str]]:
    return ((match.start(), match.group()) for match in _LINE.finditer(text))


def _continues(line: str) -> bool:
    # GRUB looks at the last character only: two backslashes continue a line as one does.
    return line.rstrip("\n").replace("\r", "").endswith("\\")


def commands(text: str) -> Iterator[tuple[int, Command]]:
    """Yield (offset, command) as GRUB reads them: joined lines, no comments.

    The offset is where the command's first line begins.
    """
    start, joined = 0, ""
    # The empty line ends one that is continued up to the end of the file.
    for offset, line in (*_physical(text), (len(text), "")):
        if not joined:
            start = offset
        body = line.rstrip("\n").replace("\r", "").replace("\t", " ")
        if _continues(line) and line.endswith("\n"):
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
        begins[0].start(), ends[0].end(), int(begins[0].group(1)), kept.start(), kept.end()
    )


def _titles(text: str) -> list[tuple[int, str, list[Command]]]:
    """Return (offset, title, commands) of every title, those that GRUB drops included."""
    found: list[tuple[int, str, list[Command]]] = []
    for offset, command in commands(text):
        if command.name == "title":
            found.append((offset, command.argument.rstrip(" "), []))
        elif found:
            found[-1][2].append(command)
    return found


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


def own(text: str) -> int | None:
    """Return the number of our entry, or None if there is none.

    :raises MenuError: between our markers is something else than one entry. Replacing it
        would delete what somebody put there, and renumber what follows.
    """
    found = region(text)
    if found is None:
        return None
    inside = [t for t in _titles(text) if found.start <= t[0] < found.end]
    numbers = [number for number, entry in enumerate(entries(text)) if entry.ours]
    first = next((c for o, c in commands(text) if found.start <= o < found.end), None)
    if len(inside) != 1 or len(numbers) != 1 or first is None or first.name != "title":
        raise MenuError(
            "between the marker lines of krg-provision there is not exactly one entry, its own"
        )
    return numbers[0]


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
    """Tell whether our entry is the one booted by default."""
    number = own(text)
    return number is not None and default_index(text, saved) == number


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


def with_arguments(
    arguments: Iterable[str], ours: Sequence[tuple[str, str]], extra: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return ``arguments`` with every name of ``ours`` set once, right after root=.

    There, because a kernel cuts a line that is too long at its end. ``extra`` comes last.
    """
    names = tuple(f"{name}=" for name, _ in ours)
    kept = [a for a in arguments if not a.startswith(names) and a not in extra]
    at = 1 + max((n for n, a in enumerate(kept) if a.startswith("root=")), default=-1)
    return (*kept[:at], *(f"{name}={value}" for name, value in ours), *kept[at:], *extra)


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


def trial_line(text: str) -> str | None:
    """Return the first command below our title if it saves another entry as the default."""
    there = region(text)
    assert there is not None
    lines = text[there.stanza : there.end].split("\n")
    line = lines[1].rstrip("\r") if len(lines) > 1 else ""
    return line if re.fullmatch(r"savedefault[ \t]+[0-9]+", line) else None


def line_end(text: str) -> str:
    """Return how lines of this file end."""
    first = text.find("\n")
    return "\r\n" if first > 0 and text[first - 1] == "\r" else "\n"


def _check_numbers(text: str, saved: int | None) -> None:
    """Refuse a menu with a number that is out of range.

    GRUB resets such a default. With one entry more it may be in range, and mean the entry that
    nobody has tried. A number in range keeps its meaning: ours is added behind all others.
    """
    count, used = len(entries(text)), numbers(text, saved)
    name = "the saved default" if used.is_saved else "default"
    for what, number in ((name, used.default), *(("fallback", n) for n in used.fallback)):
        if number >= count:
            raise MenuError(
                f"{what} is {number}, but the entries are 0 to {count - 1}: "
                "that number could come to mean the new entry"
            )


def put(text: str, body: str, saved: int | None = None) -> str:
    """Return ``text`` with ``body`` (a title and its commands) as our stanza.

    A stanza of ours is replaced where it stands, and stays a trial if it is one; otherwise one
    is added at the end. All other bytes stay as they are, and doing it twice is doing it once.

    :param saved: the number held by /boot/grub/default, which "default saved" stands for.
    :raises MenuError: nothing else in the menu starts Linux (there would be no way back); a
        number in ``default`` or ``fallback`` is out of range, so could come to mean ours; the
        markers are damaged or hold more than our entry; update-grub's list has no end.
    """
    there = region(text)
    lines = body.strip("\n").split("\n")
    if any(_continues(line) or line.startswith("###") for line in lines):
        raise MenuError("the stanza holds a marker or a continued line")
    made = entries(body)
    if not lines[0].startswith("title") or len(made) != 1 or not made[0].bootable:
        raise MenuError("the stanza is not one title with a kernel line")
    if not any(entry.usable and not entry.ours for entry in entries(text)):
        raise MenuError("the menu has no bootable entry to fall back to, with a kernel and root=")
    if _LIST_BEGIN.search(text) and not _LIST_END.search(text):
        raise MenuError("update-grub's list of kernels begins but never ends")
    _check_numbers(text, saved)
    own(text)
    end = line_end(text)
    if there is not None and (once := trial_line(text)) is not None:
        lines.insert(1, once)
    inner = end.join([*lines, _END, ""])
    if there is not None:
        return text[: there.stanza] + inner + text[there.end :]
    # A blank line before it, for the reader; one more where the last line has no end, and
    # one more where a backslash would join the marker to the line before.
    last = text[text.rstrip("\n").rfind("\n") + 1 :].rstrip("\n").replace("\r", "")
    count = 1 + (not text.endswith("\n"))
    if last.endswith("\\") and not text.endswith("\n\n"):
        count += 1
    return text + end * count + _BEGIN.format(count) + end + inner


def remove(text: str, saved: int | None = None) -> str:
    """Return ``text`` without our stanza; a text without one comes back unchanged.

    :param saved: the number held by /boot/grub/default, which "default saved" stands for.
    :raises MenuError: the markers are damaged or hold more than our entry, nothing else in
        the menu starts Linux, or ``default`` or ``fallback`` mean ours or one below it.
    """
    there = region(text)
    if there is None:
        return text
    if there.kept != there.stanza:
        raise MenuError("lines of the menu were changed for our entry: they have to go back first")
    start = there.start
    end = "\r\n" if text[: there.kept].endswith("\r\n") else "\n"
    for _ in range(there.blank):
        if text[:start].endswith(end):
            start -= len(end)
    rest = text[:start] + text[there.end :]
    if not any(entry.usable for entry in entries(rest)):
        raise MenuError("without our stanza the menu would have no bootable entry")
    number, used = own(text), numbers(text, saved)
    if number is not None and max(used.default, *used.fallback, 0) >= number:
        raise MenuError(f"default or fallback mean entry {number}, which is ours, or one below it")
    return rest
