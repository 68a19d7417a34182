# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB Legacy: boot our entry once, then always, or no more. Text in, text out.

The one-shot is the procedure of the GRUB 0.97 manual ("Booting fallback systems"): the saved
default is our entry, whose first command saves a known good one instead, so that a kernel that
panics is not started again; ``fallback`` names the good one for a kernel that cannot be loaded.
``savedefault --once`` is not used: 0.97 as Debian has it does not know it.

Two lines of the menu change for that, ``default`` and ``fallback``. Each is written down in a
comment inside our region as it was, and comes back from there byte for byte. Texts are as in
grub.legacy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from grub import legacy
from grub.legacy import MenuError

# What stands in our region: the number in /boot/grub/default, then the two lines.
_SAVED = "### KRG-PROVISION saved default was {}"
_WAS = "### KRG-PROVISION {} was "
_NONE = "### KRG-PROVISION {} was not there"
_NAMES = ("default", "fallback")

# An entry with one of these waits for a key or a password.
_WAITS = frozenset({"pause", "password"})
_LIST = re.compile(
    r"^### BEGIN AUTOMAGIC KERNELS LIST.*?^### END DEBIAN AUTOMAGIC KERNELS LIST", re.M | re.S
)

# /boot/grub/default: GRUB writes a number over its first bytes, and only if the file has a block
# of its own. grub-set-default writes the same 190 bytes.
_DEFAULT_FILE_TAIL = (
    "#\n" * 10 + "# WARNING: If you want to edit this file directly, do not remove any line\n"
    "# from this file, including this warning. Using `grub-set-default' is\n"
    "# strongly recommended.\n"
)


@dataclass(frozen=True)
class Switched:
    """The new menu.lst, and the number that /boot/grub/default has to hold.

    ``saved`` None leaves that file as it is. With ``menu_first`` the menu has to be written before
    it, else after it: whatever is interrupted, the node boots an entry that it knows.
    """

    text: str
    saved: int | None
    menu_first: bool = True


def default_file(number: int) -> str:
    """Return the text of /boot/grub/default for an entry number."""
    return f"{number}\n{_DEFAULT_FILE_TAIL}"


def state(text: str, saved: int | None = None) -> str:
    """Say what the next boot does: "none" (no entry of ours), "installed", "armed", "default".

    An armed entry is booted once; once it was, it is merely installed.
    """
    number = legacy.own(text)
    if number is None:
        return "none"
    if legacy.default_index(text, saved) != number:
        return "installed"
    once = legacy.trial_line(text) is not None and legacy.numbers(text, saved).is_saved
    return "armed" if once else "default"


def good_index(text: str, saved: int | None = None) -> int:
    """Return the number of the entry to fall back to: the default, or the first that will do.

    It starts Linux by itself: with root=, not for single-user work, no password, no question. Nor
    is it our kernel, which update-grub lists as well when it finds it in /boot.

    :raises MenuError: there is none.
    """
    menu, used = legacy.entries(text), legacy.numbers(text, saved)
    locked = _has_password(text)
    mine = {_file(entry) for entry in menu if entry.ours}

    def alone(number: int) -> bool:
        entry = menu[number]
        names = {command.name for command in entry.commands}
        saves = [c.argument for c in entry.commands if c.name == "savedefault"]
        # One that saves another number would change what the next boot does.
        astray = any(
            (found := legacy.leading_number(argument)[0]) is not None and found != number
            for argument in saves
        )
        waits = bool(names & _WAITS) or (locked and "lock" in names)
        other = not entry.ours and _file(entry) not in mine
        return entry.usable and other and not waits and not astray

    wanted: tuple[int, ...] = (legacy.default_index(text, saved), *used.fallback, *range(len(menu)))
    for number in wanted:
        if number < len(menu) and alone(number):
            return number
    raise MenuError("no other entry starts Linux by itself: there would be no way back")


def _file(entry: legacy.Entry) -> str | None:
    return None if entry.kernel is None else entry.kernel.path.rpartition("/")[2]


def _header(text: str) -> list[tuple[int, legacy.Command]]:
    found = []
    for offset, command in legacy.commands(text):
        if command.name == "title":
            break
        found.append((offset, command))
    return found


def _has_password(text: str) -> bool:
    return any(command.name == "password" for _, command in _header(text))


def _check_timeout(text: str) -> None:
    """Refuse a menu that waits for a key: nothing would boot by itself, whatever is armed."""
    seconds = [
        legacy.leading_number(command.argument)[0]
        for _, command in _header(text)
        if command.name == "timeout"
    ]
    if not any(number is not None for number in seconds):
        raise MenuError("the menu has no timeout: GRUB waits for a key at every boot")


@dataclass(frozen=True)
class _Line:
    """A line of the menu without its end: where it is, and its text."""

    start: int
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def _effective(text: str, name: str) -> _Line | None:
    """Return the line with the command ``name`` that counts, or None.

    :raises MenuError: it cannot be changed safely.
    """
    found: int | None = None
    for offset, command in _header(text):
        # A default that is no number is an error to GRUB, and the one before it stays.
        counts = name != "default" or (
            command.argument == "saved" or legacy.leading_number(command.argument)[0] is not None
        )
        if command.name == name and counts:
            found = offset
    if found is None:
        return None
    line = text[found:].split("\n", 1)[0].rstrip("\r")
    if line.endswith("\\"):
        raise MenuError(f"the {name} line goes on in the next line")
    if any(m.start() <= found < m.end() for m in _LIST.finditer(text)):
        raise MenuError(f"the {name} line is inside update-grub's list, which is made anew")
    return _Line(found, line)


def _with_argument(line: str, name: str, argument: str) -> str:
    match = re.match(rf"[ \t\r]*{name}[ \t=\r]*", line)
    assert match is not None
    return match.group() + argument


def _kept(text: str) -> list[str]:
    """Return our notes on the menu, without line ends."""
    there = legacy.region(text)
    if there is None:
        return []
    return [line.rstrip("\r") for line in text[there.kept : there.stanza].split("\n")[:-1]]


def _set_notes(text: str, notes: Sequence[str], once: str | None) -> str:
    """Return ``text`` with ``notes`` in our region, and ``once`` as our entry's first command."""
    there = legacy.region(text)
    assert there is not None
    old, end = legacy.trial_line(text), legacy.line_end(text)
    stanza = text[there.stanza : there.end].split("\n")
    if old is not None:
        del stanza[1]
    if once is not None:
        stanza.insert(1, once + end[:-1])
    return (
        text[: there.kept]
        + "".join(note + end for note in notes)
        + "\n".join(stanza)
        + text[there.end :]
    )


def _restore(text: str) -> str:
    """Return the menu with the lines that were changed for our entry as they were.

    A line that somebody changed meanwhile stays as it is now.
    """
    notes = _kept(text)
    text = _set_notes(text, (), None)
    # The second line was put below the first.
    for name in reversed(_NAMES):
        line = _effective(text, name)
        if line is None:
            continue
        was = next((n for n in notes if n.startswith(_WAS.format(name))), None)
        argument = "saved" if name == "default" else line.text.rpartition(" ")[2]
        if was is not None and was != _NONE.format(name):
            before = was.removeprefix(_WAS.format(name))[1:-1]
            if line.text == _with_argument(before, name, _last_word(line.text)):
                text = text[: line.start] + before + text[line.end :]
        elif was is not None and line.text == f"{name} {argument}":
            stop = text.index("\n", line.end) + 1
            text = text[: line.start] + text[stop:]
    return text


def _last_word(line: str) -> str:
    return re.split(r"[ \t=\r]", line)[-1]


def disarm(text: str, saved: int | None = None) -> Switched:
    """Return the menu as it was before: a good entry is the default, ours is merely there.

    :raises MenuError: it cannot be changed safely, or no other entry starts by itself.
    """
    number = legacy.own(text)
    if number is None:
        return Switched(text, None)
    notes = _kept(text)
    if not notes and legacy.trial_line(text) is None and not legacy.boots_ours(text, saved):
        return Switched(text, None)
    made = _restore(text)
    was = next((n for n in notes if n.startswith(_SAVED.format(""))), "")
    before = legacy.leading_number(was.removeprefix(_SAVED.format("")))[0]
    good = good_index(made, before)
    after = saved if not notes else before
    if after is None or after == number:
        after = good if not legacy.numbers(made).is_saved or after == number else 0
    if legacy.default_index(made, after) == number:
        # Somebody made ours the default by its number.
        made, after = _set(made, "default", str(good)), good
    # With "default saved" and the stanza's own safety gone, the old number would boot ours.
    first = not legacy.numbers(made).is_saved
    return Switched(made, None if after == saved else after, menu_first=first)


def _set(text: str, name: str, argument: str) -> str:
    """Return ``text`` with the command ``name`` saying ``argument``: in its line, or a new one."""
    line = _effective(text, name)
    if line is not None:
        new = _with_argument(line.text, name, argument)
        return text[: line.start] + new + text[line.end :]
    at = 0
    if name == "fallback" and (default := _effective(text, "default")) is not None:
        at = text.index("\n", default.end) + 1
    return text[:at] + f"{name} {argument}" + legacy.line_end(text) + text[at:]


def _note(text: str, name: str) -> str:
    line = _effective(text, name)
    # In brackets, so that blanks at its end can be seen and do not get lost.
    return _NONE.format(name) if line is None else f"{_WAS.format(name)}[{line.text}]"


def _switch(text: str, saved: int | None, *, trial: bool) -> Switched:
    number = legacy.own(text)
    if number is None:
        raise MenuError("our entry is not in the menu")
    _check_timeout(text)
    plain = disarm(text, saved)
    before = plain.saved if plain.saved is not None else saved
    good = good_index(plain.text, before)
    notes = _kept(text)[:1] or [_SAVED.format("not there" if before is None else before)]
    notes += [_note(plain.text, name) for name in _NAMES]
    made = _set(plain.text, "default", "saved")
    made = _set(made, "fallback", str(good))
    made = _set_notes(made, notes, f"savedefault\t{good}" if trial else None)
    used = legacy.numbers(made, number)
    if used != legacy.Numbers(number, True, (good,)) or legacy.own(made) != number:
        raise MenuError("its default and fallback lines cannot be changed safely")
    # Where the number is in use, it must not mean ours before our stanza undoes it.
    first = legacy.numbers(text).is_saved
    return Switched(made, None if number == saved else number, menu_first=first)


def arm(text: str, saved: int | None = None) -> Switched:
    """Return the menu that boots our entry once, and a good one from then on.

    :param saved: the number held by /boot/grub/default.
    :raises MenuError: our entry is not there; no other starts by itself; the menu waits for a
        key; the lines cannot be changed safely.
    """
    return _switch(text, saved, trial=True)


def commit(text: str, saved: int | None = None) -> Switched:
    """Return the menu that boots our entry by default; a good one if it cannot be loaded.

    :raises MenuError: as for :func:`arm`.
    """
    return _switch(text, saved, trial=False)


def take_out(text: str, saved: int | None = None) -> Switched:
    """Return the menu without our entry and with all lines as they were.

    :raises MenuError: it cannot be changed safely, or nothing would be left to boot.
    """
    plain = disarm(text, saved)
    now = plain.saved if plain.saved is not None else saved
    return Switched(legacy.remove(plain.text, now), plain.saved, plain.menu_first)
