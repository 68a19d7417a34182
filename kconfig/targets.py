# SPDX-License-Identifier: GPL-2.0-or-later
"""What make's configuration targets do, without make: values end up in the tree given."""

from __future__ import annotations

from pathlib import Path

import kconfiglib
from kconfiglib import BOOL, TRISTATE

from kconfig import dialect, reading
from kconfig.walk import walk
from kconfig.write import body

_LEVELS = {"n": 0, "m": 1, "y": 2}


def defconfig(kconf: kconfiglib.Kconfig, path: Path) -> str:
    """Read a default configuration; return what .config holds below its header."""
    kconf.load_config(str(path), replace=True)
    reading.settle(kconf, kconf.version)
    if dialect.WALK.holds(kconf.version):
        walk(kconf, kconf.version, "again")
    elif dialect.FRESH_DEFCONFIG.holds(kconf.version):
        reading.reconsider(kconf)
    return body(kconf, kconf.version)


def oldconfig(kconf: kconfiglib.Kconfig, path: Path) -> str:
    """Read a .config, give what is new its default; return what .config holds then."""
    kconf.load_config(str(path), replace=True)
    reading.settle(kconf, kconf.version)
    if dialect.ASKS.holds(kconf.version):
        walk(kconf, kconf.version)
    return body(kconf, kconf.version)


def allconfig(kconf: kconfiglib.Kconfig, answer: str) -> str:
    """Answer every question with n, m or y as far as it goes; return the .config."""
    reading.forget(kconf, known=False)
    if dialect.WALK.holds(kconf.version):
        # The program takes modules for off until an answer changes a value.
        kconf.modules_unasked = True
        walk(kconf, kconf.version, answer)
        return body(kconf, kconf.version)
    level = _LEVELS[answer]
    listed = dialect.LISTED_CHOICES.holds(kconf.version)
    for symbol in kconf.unique_defined_syms:
        if symbol.orig_type in (BOOL, TRISTATE) and not (listed and symbol.choice is not None):
            symbol.user_value = 2 if symbol.is_allnoconfig_y else level
    for choice in kconf.unique_choices:
        choice.user_value = level
    kconf._invalidate_all()
    return body(kconf, kconf.version)


def savedefconfig(kconf: kconfiglib.Kconfig, path: Path) -> str:
    """Read a .config; return the smallest configuration that becomes what it holds."""
    kconf.load_config(str(path), replace=True)
    reading.settle(kconf, kconf.version)
    kconf._invalidate_all()
    text: str = kconf._min_config_contents("")
    return text
