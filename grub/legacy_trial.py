# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB Legacy: boot an entry of ours once, then always, or no more. Text in, text out.

The one-shot is the procedure of the GRUB 0.97 manual ("Booting fallback systems"): the saved
default is our entry, whose first command saves a known good one instead, so that a kernel that
panics is not started again; ``fallback`` names the good one for a kernel that cannot be loaded.
The good one is the default: another system's, or the former one of ours. Behind that one
``fallback`` names another system's, too.

``savedefault --once`` is not used: 0.97 as Debian has it does not know it.

Two lines of the menu change for that, ``default`` and ``fallback``. Each is written down in a
comment inside our region as it was, and comes back from there byte for byte. Texts are as in
grub.legacy.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from grub import legacy, legacy_put, slots
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


def _pick(text: str, kernel: str | None) -> legacy.Stanza | None:
    """Return our entry of a kernel; None: the newest."""
    if kernel is None:
        return legacy.newest(text)
    return next((one for one in legacy.own(text) if one.kernel == kernel), None)


def state(text: str, saved: int | None = None, kernel: str | None = None) -> str:
    """Say what the next boot does: "none" (no such entry), "installed", "armed", "default".

    An armed entry is booted once; once it was, it is merely installed.

    :param kernel: the file that our entry starts; None: the newest of ours.
    """
    one = _pick(text, kernel)
    if one is None:
        return "none"
    if legacy.default_index(text, saved) != one.number:
        return "installed"
    once = one.saves is not None and legacy.numbers(text, saved).is_saved
    return "armed" if once else "default"


def good_index(text: str, saved: int | None = None) -> int:
    """Return the number of an entry not ours to fall back to: the default, or the first that does.

    It starts Linux by itself: with root=, not for single-user work, no password, no question. Nor
    does it start a kernel of ours, which update-grub lists as well when it finds it in /boot.

    :raises MenuError: there is none.
    """
    menu, used = legacy.entries(text), legacy.numbers(text, saved)
    locked = _has_password(text)
    mine = {entry.file for entry in menu if entry.ours}

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
        other = not entry.ours and entry.file not in mine
        return entry.usable and other and not waits and not astray

    wanted: tuple[int, ...] = (legacy.default_index(text, saved), *used.fallback, *range(len(menu)))
    for number in wanted:
        if number < len(menu) and alone(number):
            return number
    raise MenuError("no other entry starts Linux by itself: there would be no way back")


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


def _split(line: str, name: str) -> tuple[str, str]:
    """Return a line's command with what is around it, and its argument."""
    match = re.match(rf"[ \t\r]*{name}[ \t=\r]*", line)
    assert match is not None
    return match.group(), line[match.end() :]


def _kept(text: str) -> list[str]:
    """Return what is written down of the menu."""
    return [line for line in legacy.notes(text) if slots.noted(line) is None]


def _set_notes(
    text: str, kept: Sequence[str], former: str | None, saves: Mapping[str, int] | None = None
) -> str:
    """Return ``text`` with these notes in our region, and what our entries save first.

    :param former: the kernel of ours that is the way back.
    :param saves: by kernel, the number that its entry saves; the others save none.
    """
    end, noted = legacy.line_end(text), [slots.note(former)] if former is not None else []
    stanzas = [one.with_saves((saves or {}).get(one.kernel), end) for one in legacy.own(text)]
    return legacy_put.written(text, [*kept, *noted], stanzas)


def _restore(text: str) -> str:
    """Return the menu with the lines that were changed for our entries as they were.

    A line that somebody changed meanwhile stays as it is now.
    """
    notes = _kept(text)
    text = _set_notes(text, (), legacy.way_back(text))
    # The second line was put below the first.
    for name in reversed(_NAMES):
        line = _effective(text, name)
        if line is None:
            continue
        was = next((n for n in notes if n.startswith(_WAS.format(name))), None)
        command, argument = _split(line.text, name)
        if was is not None and was != _NONE.format(name):
            before = was.removeprefix(_WAS.format(name))[1:-1]
            if command == _split(before, name)[0]:
                text = text[: line.start] + before + text[line.end :]
        elif (
            was is not None
            and command == f"{name} "
            and (argument == "saved" if name == "default" else re.fullmatch(r"[0-9 ]+", argument))
        ):
            stop = text.index("\n", line.end) + 1
            text = text[: line.start] + text[stop:]
    return text


def _plain(text: str, saved: int | None) -> Switched:
    """Return the menu as it was before any of ours was booted; ours are merely there.

    :raises MenuError: it cannot be changed safely, or no other entry starts by itself.
    """
    mine = legacy.own(text)
    if not mine:
        return Switched(text, None)
    numbers = [one.number for one in mine]
    notes = _kept(text)
    trials = any(one.saves is not None for one in mine)
    if not notes and not trials and not legacy.boots_ours(text, saved):
        return Switched(text, None)
    made = _restore(text)
    was = next((n for n in notes if n.startswith(_SAVED.format(""))), "")
    before = legacy.leading_number(was.removeprefix(_SAVED.format("")))[0]
    good = good_index(made, before)
    after = saved if not notes else before
    if after is None or after in numbers:
        after = good if not legacy.numbers(made).is_saved or after in numbers else 0
    if legacy.default_index(made, after) in numbers:
        # Somebody made ours the default by its number.
        made, after = _set(made, "default", str(good)), good
    # With "default saved" and the stanza's own safety gone, the old number would boot ours.
    first = not legacy.numbers(made).is_saved
    return Switched(made, None if after == saved else after, menu_first=first)


def disarm(
    text: str,
    saved: int | None = None,
    kernel: str | None = None,
    leaving: Collection[str] = (),
) -> Switched:
    """Return the menu that boots what it booted before one of ours; that one is merely there.

    :param kernel: the file that our entry starts; None: the newest of ours.
    :param leaving: kernels of ours that are to go: none of them becomes the default.
    :raises MenuError: it cannot be changed safely, or no other entry starts by itself.
    """
    one = _pick(text, kernel)
    base = None if one is None else _base(text, saved, one.kernel)
    stays = legacy.proven(text, saved)
    if stays is not None and base is not None and base not in leaving:
        made = _switch(text, saved, base, None, legacy.way_back(text), trial=False)
        # The number first: an entry on trial must not be left without what undoes it.
        return replace(made, menu_first=False)
    return _plain(text, saved)


def _base(text: str, saved: int | None, kernel: str) -> str | None:
    """Return the kernel of ours to go back to from another of ours; None: an entry not ours."""
    stays = legacy.proven(text, saved)
    return slots.base(
        [one.kernel for one in legacy.own(text)],
        kernel,
        None if stays is None else stays.kernel,
        legacy.way_back(text),
    )


def _set(text: str, name: str, argument: str) -> str:
    """Return ``text`` with the command ``name`` saying ``argument``: in its line, or a new one."""
    line = _effective(text, name)
    if line is not None:
        new = _split(line.text, name)[0] + argument
        return text[: line.start] + new + text[line.end :]
    at = 0
    if name == "fallback" and (default := _effective(text, "default")) is not None:
        at = text.index("\n", default.end) + 1
    return text[:at] + f"{name} {argument}" + legacy.line_end(text) + text[at:]


def _note(text: str, name: str) -> str:
    line = _effective(text, name)
    # In brackets, so that blanks at its end can be seen and do not get lost.
    return _NONE.format(name) if line is None else f"{_WAS.format(name)}[{line.text}]"


def _switch(
    text: str,
    saved: int | None,
    kernel: str | None,
    base: str | None,
    former: str | None,
    *,
    trial: bool,
) -> Switched:
    """Return the menu that boots one of ours, once or always, and ``base`` if it cannot.

    :param base: the kernel of ours to fall back to; None: an entry not ours.
    :param former: the one that is noted as the way back.
    """
    one = _pick(text, kernel)
    if one is None:
        raise MenuError("our entry is not in the menu")
    _check_timeout(text)
    plain = _plain(text, saved)
    before = plain.saved if plain.saved is not None else saved
    good = good_index(plain.text, before)
    back = [other.number for other in legacy.own(text) if other.kernel == base]
    kept = _kept(text)[:1] or [_SAVED.format("not there" if before is None else before)]
    kept += [_note(plain.text, name) for name in _NAMES]
    made = _set(plain.text, "default", "saved")
    made = _set(made, "fallback", " ".join(str(number) for number in (*back, good)))
    others = _unproven(made, one.kernel, former)
    saves = {**dict.fromkeys(others, good), **({one.kernel: [*back, good][0]} if trial else {})}
    made = _set_notes(made, kept, former, saves)
    used = legacy.numbers(made, one.number)
    numbers = [other.number for other in legacy.own(text)]
    if used != legacy.Numbers(one.number, True, (*back, good)) or numbers != [
        other.number for other in legacy.own(made)
    ]:
        raise MenuError("its default and fallback lines cannot be changed safely")
    # Where the number is in use, it must not mean ours before our stanza undoes it.
    first = legacy.numbers(text).is_saved
    return Switched(made, None if one.number == saved else one.number, menu_first=first)


def _unproven(text: str, default: str, former: str | None) -> list[str]:
    """Return the kernels of our entries that neither are the default nor were it before.

    While another of ours is the default, theirs is a number next to it. If update-grub adds or
    removes entries above, the saved number may come to mean them; so they save that of an entry
    not ours before they start, and are not started again.
    """
    return [one.kernel for one in legacy.own(text) if one.kernel not in (default, former)]


def arm(text: str, saved: int | None = None, kernel: str | None = None) -> Switched:
    """Return the menu that boots an entry of ours once, and the default of now from then on.

    :param saved: the number held by /boot/grub/default.
    :param kernel: the file that our entry starts; None: the newest of ours.
    :raises MenuError: our entry is not there; no other starts by itself; the menu waits for a
        key; the lines cannot be changed safely.
    """
    one = _pick(text, kernel)
    base = None if one is None else _base(text, saved, one.kernel)
    return _switch(text, saved, kernel, base, base, trial=True)


def commit(text: str, saved: int | None = None, kernel: str | None = None) -> Switched:
    """Return the menu that boots an entry of ours by default; a good one if it cannot be loaded.

    :raises MenuError: as for :func:`arm`.
    """
    one = _pick(text, kernel)
    base = None if one is None else _base(text, saved, one.kernel)
    return _switch(text, saved, kernel, base, base, trial=False)


def put(text: str, body: str, saved: int | None = None) -> str:
    """Return the menu with an entry of ours put in; what boots stays as it is.

    As legacy_put.put. If the new one gets the place of one that ``fallback`` names, that number
    goes from there: nobody has tried the new one.

    :raises MenuError: as there, or the line cannot be changed safely.
    """
    made = legacy_put.put(text, body, saved)
    before = {one.number: one.kernel for one in legacy.own(text)}
    new = [one.number for one in legacy.own(made) if before.get(one.number) != one.kernel]
    used, stays = legacy.numbers(made, saved), legacy.proven(made, saved)
    if set(new) & set(used.fallback) and (stays is not None or _kept(made)):
        left = [n for n in used.fallback if n not in new] or [good_index(made, saved)]
        made = _set(made, "fallback", " ".join(map(str, left)))
    if stays is None or not used.is_saved:
        return made
    former = legacy.way_back(made)
    saves = {one.kernel: one.saves for one in legacy.own(made) if one.saves is not None}
    for kernel in _unproven(made, stays.kernel, former):
        if state(made, saved, kernel) == "installed":
            saves[kernel] = good_index(made, saved)
    return _set_notes(made, _kept(made), former, saves)


def take_out(text: str, saved: int | None = None) -> Switched:
    """Return the menu without our entries and with all lines as they were.

    :raises MenuError: it cannot be changed safely, or nothing would be left to boot.
    """
    plain = _plain(text, saved)
    now = plain.saved if plain.saved is not None else saved
    return Switched(legacy_put.remove(plain.text, now), plain.saved, plain.menu_first)
