# SPDX-License-Identifier: GPL-2.0-or-later
"""Kconfiglib, without the work that a linter has no use for.

A third of the lines of Kconfig files are help texts: unless somebody is to read them, they
are passed over. The methods are private: the library's version is pinned, and
tests/test_quick.py compares a tree read so with one read by the library alone.
"""

from __future__ import annotations

from typing import Any

import kconfiglib


def indentation(line: str) -> int:
    """Return the column in which the text of a line begins."""
    line = line.expandtabs()
    return len(line) - len(line.lstrip())


class Quick(kconfiglib.Kconfig):  # type: ignore[misc] # the library has no types
    """A tree in which every help text is empty, unless ``keeps_help`` is set."""

    keeps_help = False
    _readline: Any
    _reuse_tokens: bool
    linenr: int

    def _next_line(self) -> bool:
        if not self._reuse_tokens:
            # What is empty needs no look at its words.
            line = self._readline()
            while line == "\n":
                self.linenr += 1
                line = self._readline()
            if not line:
                return False
            self.linenr += 1
            self._line_after_help(line)
        self._reuse_tokens = False
        self._tokens_i = 1
        return True

    def _parse_help(self, node: Any) -> None:
        if self.keeps_help:
            super()._parse_help(node)
            return
        readline = self._readline
        line = readline()
        self.linenr += 1
        while line and line.isspace():
            line = readline()
            self.linenr += 1
        indent = indentation(line)
        if not indent:
            self._empty_help(node, line)
            return
        number = 1
        line = readline()
        # It ends with the first line that stands further left. A tab is one column
        # or more: only lines that seem too short are worth the expansion.
        while line and (
            line.isspace()
            or len(line) - len(line.lstrip()) >= indent
            or indentation(line) >= indent
        ):
            number += 1
            line = readline()
        self.linenr += number
        node.help = ""
        if line:
            self._line_after_help(line)
