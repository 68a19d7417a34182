# SPDX-License-Identifier: GPL-2.0-or-later
"""How a shell on a node takes a script from its standard input, with data after it."""

from __future__ import annotations

# Reads a script of SIZE bytes, and not one more, from standard input, and runs it once it is
# whole: of one that a lost connection cut short, "rm -rf /boot/x /boot" may be left. dd may be
# given less than it asks for, so it is asked again; the full stop keeps the line ends that $()
# would cut off. In the C locale a character is a byte to every shell.
_TAKE = (
    "krg_l=${LC_ALL-}; LC_ALL=C; krg_t=; while [ ${#krg_t} -lt SIZE ]; do "
    "krg_p=$(dd bs=$((SIZE-${#krg_t})) count=1 2>/dev/null; echo .); "
    'if [ "$krg_p" = . ]; then krg_t="exit 74"; break; fi; krg_t=$krg_t${krg_p%.}; done; '
    'if [ -n "$krg_l" ]; then LC_ALL=$krg_l; else unset LC_ALL; fi; '
    'eval "unset krg_l krg_p krg_t; $krg_t"'
)


def take(size: int) -> str:
    """Return the shell text that reads a script of ``size`` bytes and runs it, all or nothing."""
    return _TAKE.replace("SIZE", str(size))
