# SPDX-License-Identifier: GPL-2.0-or-later
"""A finding: what is wrong with one configuration, and everything needed to put it right."""

from __future__ import annotations

from typing import NamedTuple

# The worst first; a policy's rules and this program's own checks use the same words.
SEVERITIES = ("required", "recommended", "info")


# A named tuple, not a dataclass: the fast path of the linter imports no dataclasses.
class Finding(NamedTuple):
    """One place where a configuration is not what it should be.

    ``rule`` is ``POLICY/ID``, or the name of one of the program's own checks. ``line``
    is 0 when the symbol has no line in the file. ``why`` says what goes wrong otherwise,
    ``source`` who says so, ``fix`` what to do next.
    """

    rule: str
    severity: str
    symbol: str
    have: str
    want: str
    why: str
    source: str
    fix: str
    file: str
    line: int

    @property
    def message(self) -> str:
        """Return the finding in one line: what there is and what should be."""
        text = f"{self.symbol} is {self.have}" if self.symbol else self.have
        return f"{text}, wanted {self.want}" if self.want else text


def at_or_above(severity: str, threshold: str) -> bool:
    """Tell whether ``severity`` is as bad as ``threshold``, or worse."""
    return SEVERITIES.index(severity) <= SEVERITIES.index(threshold)
