# SPDX-License-Identifier: GPL-2.0-or-later
"""Our entries in a menu: at most two, the new one and the one that was proven. No I/O, no text.

The rule is that of A/B updates: a new kernel never takes the place of the one that the node boots
by default. It takes the other place, and the default is what a trial of it falls back to. Places
stay what they are, because GRUB counts entries: a swap would give a number another meaning.

Kernels are named by their files (``vmlinuz-RELEASE``). The note says which of two is the way back.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

# Below the first marker line, while there are two.
_NOTE = "### KRG-PROVISION the way back is {}"
_NOTE_LINE = re.compile(r"^### KRG-PROVISION the way back is (\S+)\s*$")


def note(kernel: str) -> str:
    """Return the line that says which kernel is the way back, without its end."""
    return _NOTE.format(kernel)


def noted(line: str) -> str | None:
    """Return the kernel that a line says is the way back; None if it is another line."""
    match = _NOTE_LINE.match(line)
    return None if match is None else match.group(1)


def place(kernels: Sequence[str], new: str, proven: str | None, former: str | None) -> int:
    """Return the place for the entry of the kernel ``new``: an entry's, or one behind all.

    :param kernels: those of our entries, in their order.
    :param proven: the one of ours that is booted by default, if one is.
    :param former: the one that was noted as the way back.
    """
    if new in kernels:
        return kernels.index(new)
    stays = proven if proven is not None else former
    if len(kernels) < 2:
        return len(kernels) if proven is not None else 0
    return next(n for n in reversed(range(len(kernels))) if kernels[n] != stays)


def base(
    kernels: Collection[str], kernel: str, proven: str | None, former: str | None
) -> str | None:
    """Return the one of our kernels to go back to from ``kernel``; None: an entry not ours.

    That is the default, and from the default the one that was it before.
    """
    found = former if proven == kernel else proven
    return found if found in kernels and found != kernel else None
