# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors of this package; the program maps them to its own (see provision/cli)."""

from __future__ import annotations


class KconfigError(Exception):
    """Something handed to this package is wrong; the text says what and where."""


class UnmetError(KconfigError):
    """Requested symbols did not get their values: ``count`` of them.

    ``reasons`` has a text for each, or, of very many, for the first and one for the others.
    """

    def __init__(self, reasons: list[str], count: int) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons
        self.count = count
