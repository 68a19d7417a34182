# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB 2's custom.cfg with our entry in it: put in, tried once, kept, taken out. Text in, text out.

grub.cfg reads custom.cfg last, so our lines decide what boots, with no update-grub. There are
three parts between our markers: the entry; for a default that stays, three lines that set it; and
the one-shot. That one is armed by a variable in grubenv, and clears it first: only *if that was
written* our entry is booted. Where GRUB cannot write grubenv (LVM, RAID, btrfs), nothing is tried,
instead of the same kernel being tried for ever, as next_entry of grub-reboot does there. It
needs nothing of grub.cfg's own header, so it works with every GRUB 2 from 1.98 on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from grub import script
from grub.grub2 import quote
from grub.legacy import MenuError

# The entry's id; GRUB before 2.00 knows titles only.
ID = "krg-provision"
# In grubenv: 1 while our entry is to be booted once.
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
  set fallback=%d
fi
"""
_ONCE = """\
# Once, and only if GRUB can write down that it was.
if [ "${krg_trial}" = 1 ]; then
  set krg_trial=
  if save_env krg_trial; then
    set default=%s
    set fallback=%d
    if [ "${timeout}" = -1 ]; then set timeout=5; fi
  fi
fi
"""


@dataclass(frozen=True)
class Ours:
    """Our part of custom.cfg: the entry's text, its title, the kernel's path; whether it stays."""

    entry: str
    title: str
    path: str
    committed: bool
    has_id: bool

    @property
    def name(self) -> str:
        """Return what ``default`` has to be for it."""
        return ID if self.has_id else self.title


def _region(text: str) -> re.Match[str] | None:
    found = list(_REGION.finditer(text))
    if len(found) > 1 or len(_MARK.findall(text)) != 2 * len(found):
        raise MenuError("the marker lines of krg-provision are not one BEGIN followed by one END")
    return found[0] if found else None


def _entry(text: str) -> script.Command:
    statements = script.parse(text)
    entries = [s for s in statements if isinstance(s, script.Command) and s.body is not None]
    if len(entries) != 1 or entries[0].name != "menuentry" or len(entries[0].words) < 2:
        raise MenuError("the stanza is not one menuentry")
    return entries[0]


def ours(text: str) -> Ours | None:
    """Return what of ours is in custom.cfg, or None.

    :raises MenuError: the markers are damaged, or hold something else.
    """
    found = _region(text)
    if found is None:
        return None
    inner = found.group(2)
    entry = _entry(inner)
    stop = inner.find("\n}\n", entry.offset)
    if entry.offset != 0 or stop < 0:
        raise MenuError("between the marker lines of krg-provision there is more than its entry")
    linux = [c for c in script.commands(entry.body or ()) if c.name.startswith("linux")]
    made = Ours(
        entry=inner[: stop + 3],
        title=entry.words[1].text,
        path=linux[0].arguments[0] if linux and linux[0].arguments else "",
        committed=_DEFAULT.split("\n", 1)[0] in inner,
        has_id=any("menuentry_id_option" in word.text for word in entry.words),
    )
    # What an earlier version wrote below the entry may differ: put writes it anew.
    rest = [one for one in script.parse(inner) if one != entry]
    if not all(isinstance(one, script.Choice) for one in rest) or len(rest) > 2:
        raise MenuError("between the marker lines of krg-provision there is more than its entry")
    return made


def _inner(made: Ours, fallback: int) -> str:
    name = quote(made.name)
    kept = _DEFAULT % (name, fallback) if made.committed else ""
    return made.entry + kept + _ONCE % (name, fallback)


def others(text: str) -> str:
    """Return custom.cfg without our lines."""
    found = _region(text)
    if found is None:
        return text
    start = found.start() - int(found.group(1))
    return text[:start] + text[found.end() :]


def put(text: str, entry: str, fallback: int, *, committed: bool | None = None) -> str:
    """Return custom.cfg with ``entry`` (one menuentry) as ours, everything else as it was.

    :param fallback: the number of the entry to boot when ours cannot be loaded.
    :param committed: whether ours is the default; None leaves that as it is.
    :raises MenuError: custom.cfg cannot be understood, or the markers are damaged.
    """
    found, now = _region(text), ours(text)
    script.parse(others(text))
    command = _entry(entry)
    if committed is None:
        committed = now is not None and now.committed
    made = Ours(
        entry.strip("\n") + "\n", command.words[1].text, "", committed,
        any("menuentry_id_option" in word.text for word in command.words),
    )  # fmt: skip
    inner = _inner(made, fallback) + _END
    if found is not None:
        done = text[: found.start(2)] + inner + text[found.end() :]
    else:
        count = bool(text) + (bool(text) and not text.endswith("\n"))
        if text.rstrip("\n").endswith("\\") and not text.endswith("\n\n"):
            count = 2
        done = text + "\n" * count + _BEGIN.format(count) + inner
    if ours(done) is None or others(done) != others(text):
        raise MenuError("our entry cannot be put in safely")
    script.parse(done)
    return done
