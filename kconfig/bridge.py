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
        "drivers/hwmon/Kconfig",
        re.compile(r'(?<=")[ \t]*;(?=[ \t]*$)', re.MULTILINE),
        "",
        "2.6.30, kerrighed-3.0.0",
        "a prompt is followed by a stray ; which the kernel's lexer ignores",
    ),
    Rewrite(
        "*",
        re.compile(r"^((?:menu)?config MODULES\n(?:[ \t]+.*\n)*?[ \t]+)modules$", re.MULTILINE),
        r"\1option modules",
        "5.14 and later; in init/Kconfig, from 5.17 in kernel/module/Kconfig",
        "Kconfiglib knows the property modules by its former name only",
    ),
)


def bridge(path: str, text: str) -> str:
    """Return the text of Kconfig file ``path`` as Kconfiglib should see it."""
    for rewrite in REWRITES:
        if rewrite.path == path or (rewrite.path == "*" and "config MODULES\n" in text):
            text = rewrite.find.sub(rewrite.put, text, count=1)
    return text
