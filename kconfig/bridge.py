# SPDX-License-Identifier: GPL-2.0-or-later
"""What old Kconfig files need so that Kconfiglib reads them as the kernel's own tool does.

Each rewrite says which trees need it and why. Files on disk are never changed:
text is bridged as it is read, and keeps its number of lines. Kconfiglib reads
every file through the private method ``_open``; that is why its version is pinned.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Rewrite:
    """In file ``path`` (from the top of the tree), ``find`` becomes ``put``."""

    path: str
    find: re.Pattern[str]
    put: str | Callable[[re.Match[str]], str]
    trees: str
    why: str


REWRITES = (
    Rewrite(
        "drivers/rtc/Kconfig",
        re.compile(r"\A\\#"),
        "#",
        "2.6.20",
        "the kernel's lexer drops the backslash and sees a comment",
    ),
    Rewrite(
        "arch/i386/Kconfig",
        re.compile(r"(?<=^config X86_NUMAQ\n)((?:\t.*\n)*?)\tselect SMP$", re.MULTILINE),
        r"\1\tdepends on SMP",
        "2.6.20 (i386)",
        "SMP, the subarchitecture choice and X86_BIGSMP make a loop that the kernel's tool "
        "accepts and Kconfiglib does not; the price is that X86_NUMAQ no longer turns SMP on",
    ),
)


def bridge(path: str, text: str) -> str:
    """Return the text of Kconfig file ``path`` as Kconfiglib should see it."""
    for rewrite in REWRITES:
        if path == rewrite.path:
            text = rewrite.find.sub(rewrite.put, text, count=1)
    return text
