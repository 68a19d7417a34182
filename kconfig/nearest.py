# SPDX-License-Identifier: GPL-2.0-or-later
"""The symbol that somebody probably meant, found fast even among many."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate

# A file with more unknown names than this is another kernel's: no hint helps.
MOST_HINTS = 100
_CANDIDATES = 12
_ALIKE = 0.8


class Nearest:
    """Names, found by their groups of three letters."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        # All names in one text, where a group is found faster than an index of all is made.
        self._text = ""
        self._starts: list[int] = []
        self._found: dict[str, list[int]] = {}
        self._asked = 0

    def to(self, name: str) -> str:
        """Return the name most like ``name``, or "" when none is like it.

        Other letters of the two cases are no difference to what is meant.
        """
        self._asked += 1
        if self._asked > MOST_HINTS or len(name) > 100:
            return ""
        import difflib

        if name != name.upper() and (upper := self._in_capitals(name)):
            return upper
        shared: Counter[int] = Counter()
        for gram in _grams(name):
            shared.update(self._with(gram))
        close = [self._names[number] for number, _ in shared.most_common(_CANDIDATES)]
        near = difflib.get_close_matches(name, close, n=1, cutoff=_ALIKE)
        return near[0] if near else ""

    def _in_capitals(self, name: str) -> str:
        upper = name.upper()
        return upper if upper in self._names else ""

    def _with(self, gram: str) -> list[int]:
        """Return the numbers of the names that have a group, each once."""
        if not self._text:
            edged = [f"^{name}$" for name in self._names]
            self._text = "\n".join(edged)
            self._starts = list(accumulate((len(name) + 1 for name in edged), initial=0))
        if gram not in self._found:
            numbers: dict[int, None] = {}
            at = self._text.find(gram)
            while at >= 0:
                number = bisect_right(self._starts, at) - 1
                numbers[number] = None
                at = self._text.find(gram, self._starts[number + 1])
            self._found[gram] = list(numbers)
        return self._found[gram]


def _grams(name: str) -> set[str]:
    edged = f"^{name}$"
    return {edged[at : at + 3] for at in range(len(edged) - 2)}
