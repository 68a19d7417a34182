# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB Legacy's menu.lst: put entries of ours in, take them out. Text in, text out.

Where they stand, and why, is in grub.legacy; which place a new one gets in grub.slots.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from grub import slots
from grub.legacy import (
    BEGIN,
    END,
    MenuError,
    Stanza,
    continues,
    entries,
    line_end,
    notes,
    numbers,
    own,
    proven,
    region,
    way_back,
)

_LIST_BEGIN = re.compile(r"^### BEGIN AUTOMAGIC KERNELS LIST", re.MULTILINE)
_LIST_END = re.compile(r"^### END DEBIAN AUTOMAGIC KERNELS LIST", re.MULTILINE)


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


def written(text: str, lines: Sequence[str], stanzas: Sequence[str]) -> str:
    """Return ``text`` with these notes and stanzas between our markers."""
    there, end = region(text), line_end(text)
    assert there is not None
    return (
        text[: there.kept]
        + "".join(line + end for line in lines)
        + "".join(stanzas)
        + text[there.last :]
    )


def _check_below(text: str, saved: int | None, last: Stanza) -> None:
    """Refuse to add an entry above one that a number in use means: it would get another number."""
    used = numbers(text, saved)
    for what, number in (("default", used.default), *(("fallback", n) for n in used.fallback)):
        if number > last.number:
            raise MenuError(
                f"{what} is {number}, an entry below ours, and would come to mean another one"
            )


def put(text: str, body: str, saved: int | None = None) -> str:
    """Return ``text`` with ``body`` (a title and its commands) as a stanza of ours.

    One of the same kernel is replaced where it stands; so is another of ours, unless it is the
    default: then the new one gets the place of the other, or one behind it (grub.slots). The
    first one is added at the end. One that is replaced stays a trial if it is one. All other
    bytes stay as they are, and doing it twice is doing it once.

    :param saved: the number held by /boot/grub/default, which "default saved" stands for.
    :raises MenuError: nothing else in the menu starts Linux (there would be no way back); a
        number in ``default`` or ``fallback`` is out of range, so could come to mean ours; the
        markers are damaged or hold more than our entries; update-grub's list has no end.
    """
    there = region(text)
    lines = body.strip("\n").split("\n")
    if any(continues(line) or line.startswith("###") for line in lines):
        raise MenuError("the stanza holds a marker or a continued line")
    made = entries(body)
    if not lines[0].startswith("title") or len(made) != 1 or not made[0].bootable:
        raise MenuError("the stanza is not one title with a kernel line")
    if not any(entry.usable and not entry.ours for entry in entries(text)):
        raise MenuError("the menu has no bootable entry to fall back to, with a kernel and root=")
    if _LIST_BEGIN.search(text) and not _LIST_END.search(text):
        raise MenuError("update-grub's list of kernels begins but never ends")
    _check_numbers(text, saved)
    mine, end = own(text), line_end(text)
    new = Stanza(0, end.join([*lines, ""]), made[0].file or "")
    if there is not None:
        return _beside(text, mine, new, saved)
    # A blank line before it, for the reader; one more where the last line has no end, and
    # one more where a backslash would join the marker to the line before.
    last = text[text.rstrip("\n").rfind("\n") + 1 :].rstrip("\n").replace("\r", "")
    count = 1 + (not text.endswith("\n"))
    if last.endswith("\\") and not text.endswith("\n\n"):
        count += 1
    return text + end * count + BEGIN.format(count) + end + new.text + END + end


def _beside(text: str, mine: Sequence[Stanza], new: Stanza, saved: int | None) -> str:
    stays, former = proven(text, saved), way_back(text)
    kernel = stays.kernel if stays is not None else None
    at = slots.place([one.kernel for one in mine], new.kernel, kernel, former)
    stanzas = [one.text for one in mine]
    if at == len(mine):
        _check_below(text, saved, mine[-1])
        stanzas.append(new.text)
    else:
        stanzas[at] = new.with_saves(mine[at].saves, line_end(text))
    if kernel != new.kernel:
        former = kernel if len(stanzas) > 1 else None
    kept = [line for line in notes(text) if slots.noted(line) is None]
    return written(text, [*kept, *([slots.note(former)] if former else [])], stanzas)


def remove(text: str, saved: int | None = None) -> str:
    """Return ``text`` without our stanzas; a text without any comes back unchanged.

    :param saved: the number held by /boot/grub/default, which "default saved" stands for.
    :raises MenuError: the markers are damaged or hold more than our entries, nothing else in
        the menu starts Linux, or ``default`` or ``fallback`` mean ours or one below it.
    """
    there = region(text)
    if there is None:
        return text
    if any(slots.noted(line) is None for line in notes(text)):
        raise MenuError("lines of the menu were changed for our entry: they have to go back first")
    start = there.start
    end = "\r\n" if text[: there.kept].endswith("\r\n") else "\n"
    for _ in range(there.blank):
        if text[:start].endswith(end):
            start -= len(end)
    rest = text[:start] + text[there.end :]
    if not any(entry.usable for entry in entries(rest)):
        raise MenuError("without our stanza the menu would have no bootable entry")
    used = numbers(text, saved)
    for one in own(text)[:1]:
        if max(used.default, *used.fallback, 0) >= one.number:
            raise MenuError(
                f"default or fallback mean entry {one.number}, which is ours, or one below it"
            )
    return rest
