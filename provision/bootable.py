# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether GRUB Legacy still has something to boot once a plan was carried out. Values only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from grub import legacy
from provision.boot_entry import MENU
from provision.facts import Facts
from provision.plan import Change


def gone(planned: Sequence[Change], purged: Sequence[str]) -> frozenset[str]:
    """Return the names of kernels that go away, as files or with their packages."""
    files = (c.place.rpartition("/")[2] for c in planned if c.wanted.absent)
    images = (f"vmlinuz-{n.removeprefix('linux-image-')}" for n in purged)
    return frozenset([*files, *images])


def refused(planned: Sequence[Change], facts: Facts, purged: Sequence[str]) -> Iterator[str]:
    """Refuse what would leave GRUB Legacy without an entry that boots, or with a wrong default.

    :param purged: the packages that dpkg removes, with the kernels in them.
    """
    there = facts.texts.get(MENU)
    text = there.content if there is not None else None
    number = legacy.saved_index(facts.word("saved") or "")
    kernels = gone(planned, purged)
    for change in planned:
        if there is not None and change.place == there.real:
            text = change.wanted.content
        if change.place == "/boot/grub/default" and change.wanted.content is not None:
            number = legacy.saved_index(change.wanted.content.decode("latin-1"))
    if text is None:
        return
    try:
        menu = text.decode("latin-1")
        entries = legacy.entries(menu)
        used = legacy.numbers(menu, number)
    except legacy.MenuError as error:
        yield f"{MENU}: {error}"
        return

    def boots(entry: legacy.Entry) -> bool:
        kernel = entry.kernel
        return entry.usable and kernel is not None and kernel.path.rpartition("/")[2] not in kernels

    if not any(map(boots, entries)):
        yield f"{MENU} would have no entry left that boots"
    for what, entry_number in (
        ("default", used.default),
        *(("fallback", n) for n in used.fallback),
    ):
        if entry_number >= len(entries):
            yield f"{MENU}: {what} is {entry_number}, and the entries would be 0 to " + (
                f"{len(entries) - 1}: make another entry the default first"
            )
        elif entries[entry_number].usable and not boots(entries[entry_number]):
            yield f"{MENU}: {what} is an entry whose kernel would be removed: change it first"
