# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB Legacy: our entries as they were in a former menu, in the menu as it is now. No I/O.

update-grub writes menu.lst anew whenever a kernel comes or goes, so a former menu as a whole may
name kernels that are gone. Ours are taken out of the menu of now, and what stood in the former
one is put in again, step by step as it once came there: numbers are then those of now.
"""

from __future__ import annotations

from collections.abc import Collection

from grub import legacy, legacy_trial
from grub.legacy import MenuError
from grub.legacy_trial import Switched


def _body(stanza: legacy.Stanza) -> str:
    """Return an entry's lines without what a trial added."""
    return stanza.with_saves(None, "\n").replace("\r\n", "\n")


def _boots(text: str, saved: int | None, kernels: Collection[str | None]) -> bool:
    """Tell whether what boots may stay so: an entry not ours, one of these, or once only."""
    number = legacy.default_index(text, saved)
    mine = [one for one in legacy.own(text) if one.number == number]
    return all(one.kernel in kernels or one.saves is not None for one in mine)


def as_before(text: str, saved: int | None, former: str, former_saved: int | None) -> Switched:
    """Return the menu of now with our entries of a former one: which, and what they boot.

    All other lines stay as they are now. An entry that was to be booted once is merely there.

    :param former: the former menu.
    :param former_saved: the number in /boot/grub/default with it.
    :raises MenuError: one of the menus cannot be understood, or be edited safely.
    """
    out = legacy_trial.take_out(text, saved)
    menu, number = out.text, saved if out.saved is None else out.saved
    mine = legacy.own(former)
    proven, back = legacy.proven(former, former_saved), legacy.way_back(former)
    default = None if proven is None else proven.kernel

    def commit(kernel: str) -> None:
        nonlocal menu, number
        made = legacy_trial.commit(menu, number, kernel)
        menu, number = made.text, number if made.saved is None else made.saved

    for count, one in enumerate(mine):
        # The second place is made beside a default only (grub.slots).
        if count:
            commit(mine[0].kernel)
        menu = legacy_trial.put(menu, _body(one), number)
    if default is not None:
        order = [one.kernel for one in mine]
        # What is the way back was the default before.
        for kernel in (*(k for k in order if k == back and k != default), default):
            if legacy_trial.state(menu, number, kernel) != "default":
                commit(kernel)
    elif len(mine) > 1:
        made = legacy_trial.disarm(menu, number, mine[0].kernel, [one.kernel for one in mine])
        menu, number = made.text, number if made.saved is None else made.saved
    now = legacy.proven(menu, number)
    if (
        [_body(one) for one in legacy.own(menu)] != [_body(one) for one in mine]
        or (None if now is None else now.kernel) != default
        or legacy_trial.take_out(menu, number).text != out.text
    ):
        raise MenuError("our former entries cannot be put into it safely")
    if number == saved:
        return Switched(menu, None)
    # Between the two writes no entry of ours must be the default that never proved itself.
    known = (default, None if (stays := legacy.proven(text, saved)) is None else stays.kernel)
    orders = {True: (menu, saved), False: (text, number)}
    prefer = legacy.numbers(text).is_saved
    for menu_first in (prefer, not prefer):
        if _boots(*orders[menu_first], known):
            return Switched(menu, number, menu_first=menu_first)
    raise MenuError("our former entries cannot be put into it in two safe steps")
