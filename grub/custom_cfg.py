# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB 2's custom.cfg with our entries: put in, tried once, kept, taken out. Text in, text out.

grub.cfg reads custom.cfg last, so our lines decide what boots, with no update-grub. There are
three parts between our markers: one or two entries (grub.slots); for a default that stays, lines
that set it; and the one-shot. That one is armed by a variable in grubenv, and clears it first:
only *if that was written* our entry is booted. Where GRUB cannot write grubenv (LVM, RAID,
btrfs), nothing is tried, instead of the same kernel being tried for ever, as next_entry of
grub-reboot does there. It needs nothing of grub.cfg's own header, so it works with every GRUB 2
from 1.98 on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from grub import script, slots
from grub.grub2 import assignments, quote
from grub.legacy import MenuError

# The entries' ids; GRUB before 2.00 knows titles only.
IDS = ("krg-provision", "krg-provision-2")
# In grubenv: 1 while our newest entry is to be booted once.
TRIAL = "krg_trial"

_BEGIN = "### BEGIN KRG-PROVISION +{} ### written by krg-provision deploy, changes here are lost\n"
_END = "### END KRG-PROVISION ###\n"
_REGION = re.compile(
    r"^### BEGIN KRG-PROVISION \+([0-2]) ###[^\n]*\n(.*?)^### END KRG-PROVISION ###[^\n]*(?:\n|\Z)",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"^### (?:BEGIN|END) KRG-PROVISION", re.MULTILINE)
_DEFAULT = """\
# The default, unless another entry was asked for once.
if [ "${boot_once}" != true ]; then
  set default=%s
  set fallback=%s
fi
"""
_ONCE = """\
# Once, and only if GRUB can write down that it was.
if [ "${krg_trial}" = 1 ]; then
  set krg_trial=
  if save_env krg_trial; then
    set default=%s
    set fallback=%s
    if [ "${timeout}" = -1 ]; then set timeout=5; fi
  fi
fi
"""


@dataclass(frozen=True)
class Entry:
    """One menuentry of ours: its text, its title, its id if it has one, the kernel's path."""

    text: str
    title: str
    id: str | None
    path: str

    @property
    def name(self) -> str:
        """Return what ``default`` has to be for it."""
        return self.id if self.id is not None else self.title

    @property
    def kernel(self) -> str:
        """Return the name of the kernel's file."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Ours:
    """Our part of custom.cfg; entries are named by their kernels' files.

    ``newest`` is the one that a trial boots, ``committed`` the default if one of ours is set to be
    it, ``former`` the one that is the way back.
    """

    entries: tuple[Entry, ...]
    newest: str
    committed: str | None = None
    former: str | None = None

    @property
    def kernels(self) -> list[str]:
        """Return the files of the kernels, in the order of the entries."""
        return [one.kernel for one in self.entries]

    def named(self, value: str | None) -> str | None:
        """Return the kernel of the entry that a default means, None if it is none of ours."""
        return next((e.kernel for e in self.entries if value in (e.name, e.title)), None)

    def base(self, kernel: str, proven: str | None) -> str | None:
        """Return the one of ours to go back to from a kernel, None: an entry not ours."""
        return slots.base(self.kernels, kernel, proven, self.former)


def _region(text: str) -> re.Match[str] | None:
    found = list(_REGION.finditer(text))
    if len(found) > 1 or len(_MARK.findall(text)) != 2 * len(found):
        raise MenuError("the marker lines of krg-provision are not one BEGIN followed by one END")
    return found[0] if found else None


def entry(text: str) -> Entry:
    """Return a menuentry as ours.

    :raises MenuError: it is not one menuentry.
    """
    statements = script.parse(text)
    found = [s for s in statements if isinstance(s, script.Command) and s.body is not None]
    if len(found) != 1 or len(statements) != 1:
        raise MenuError("the stanza is not one menuentry")
    return _entry(text.strip("\n") + "\n", found[0])


def _entry(text: str, command: script.Command) -> Entry:
    words = command.words
    if command.name != "menuentry" or len(words) < 2:
        raise MenuError("the stanza is not one menuentry")
    linux = [c for c in script.commands(command.body or ()) if c.name.startswith("linux")]
    at = next((n for n, word in enumerate(words) if "menuentry_id_option" in word.text), None)
    return Entry(
        text,
        words[1].text,
        # It has always had an id in this way, and no other.
        words[at + 1].text if at is not None and at + 1 < len(words) else None,
        linux[0].arguments[0] if linux and linux[0].arguments else "",
    )


def ours(text: str) -> Ours | None:
    """Return what of ours is in custom.cfg, or None.

    :raises MenuError: the markers are damaged, or hold something else.
    """
    found = _region(text)
    if found is None:
        return None
    wrong = MenuError("between the marker lines of krg-provision there is more than its entries")
    inner, former = found.group(2), None
    first, _, rest = inner.partition("\n")
    if (noted := slots.noted(first)) is not None:
        inner, former = rest, noted
    statements = script.parse(inner)
    mine: list[Entry] = []
    at = 0
    for one in statements:
        if isinstance(one, script.Command) and one.body is not None:
            stop = inner.find("\n}\n", one.offset)
            if one.offset != at or stop < 0:
                raise wrong
            mine.append(_entry(inner[at : stop + 3], one))
            at = stop + 3
    # What an earlier version wrote below the entry may differ: put writes it anew.
    below = statements[len(mine) :]
    if not all(isinstance(one, script.Choice) for one in below) or len(below) > 2:
        raise wrong
    if len(mine) not in (1, 2) or len({one.kernel for one in mine}) != len(mine):
        raise wrong
    names = [value for _, name, value in assignments(below) if name == "default"]
    made = Ours(tuple(mine), mine[-1].kernel, None, former)
    committed = None
    if _DEFAULT.split("\n", 1)[0] in inner:
        committed = made.named(names[0] if names else None) or mine[0].kernel
    return replace(
        made, newest=made.named(names[-1] if names else None) or made.newest, committed=committed
    )


def before(text: str) -> str:
    """Return what of custom.cfg stands before our lines."""
    found = _region(text)
    return text if found is None else text[: found.start()]


def others(text: str) -> str:
    """Return custom.cfg without our lines."""
    found = _region(text)
    if found is None:
        return text
    start = found.start() - int(found.group(1))
    return text[:start] + text[found.end() :]


def free_id(now: Ours | None, kernel: str, proven: str | None) -> str:
    """Return the id for the entry of a kernel: its own, or the one that the other has not."""
    if now is None:
        return IDS[0]
    at = slots.place(now.kernels, kernel, proven, now.former)
    taken = {one.id for n, one in enumerate(now.entries) if n != at}
    own = [one.id for one in now.entries if one.kernel == kernel and one.id is not None]
    return next(name for name in (*own, *IDS) if name not in taken)


def with_entry(now: Ours | None, new: Entry, proven: str | None) -> Ours:
    """Return our part with an entry put in: in place of one of ours, or beside the default.

    :param proven: the kernel of ours that is booted by default, if one is.
    """
    if now is None:
        return Ours((new,), new.kernel)
    mine = list(now.entries)
    at = slots.place(now.kernels, new.kernel, proven, now.former)
    mine[at : at + 1] = [new]
    if proven == new.kernel:
        return replace(now, entries=tuple(mine))
    former = proven if len(mine) > 1 else None
    return Ours(tuple(mine), new.kernel, now.committed, former)


def write(text: str, made: Ours, fallback: int, first: int | None = None) -> str:
    """Return custom.cfg with our part as it shall be, everything else as it was.

    :param fallback: the number of an entry not ours to boot when ours cannot be loaded.
    :param first: the number of our first entry, where it is known: GRUB takes no names there.
    :raises MenuError: custom.cfg cannot be understood, or the markers are damaged.
    """
    found = _region(text)
    script.parse(others(text))
    names = {one.kernel: one.name for one in made.entries}

    def values(kernel: str) -> tuple[str, str]:
        base = made.base(kernel, made.committed)
        back = [fallback]
        if base is not None and first is not None:
            back.insert(0, first + made.kernels.index(base))
        return quote(names[kernel]), quote(" ".join(map(str, back)))

    inner = (slots.note(made.former) + "\n" if made.former is not None else "") + "".join(
        one.text for one in made.entries
    )
    if made.committed is not None:
        inner += _DEFAULT % values(made.committed)
    inner += _ONCE % values(made.newest) + _END
    if found is not None:
        done = text[: found.start(2)] + inner + text[found.end() :]
    else:
        count = bool(text) + (bool(text) and not text.endswith("\n"))
        if text.rstrip("\n").endswith("\\") and not text.endswith("\n\n"):
            count = 2
        done = text + "\n" * count + _BEGIN.format(count) + inner
    if ours(done) != made or others(done) != others(text):
        raise MenuError("our entry cannot be put in safely")
    script.parse(done)
    return done
