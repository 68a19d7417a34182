# SPDX-License-Identifier: GPL-2.0-or-later
"""The symbol that somebody probably meant, found fast even among many."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

# A file with more unknown names than this is another kernel's: no hint helps.
MOST_HINTS = 100
_CANDIDATES = 12
_ALIKE = 0.8


class Nearest:
    """Names, indexed by their groups of three letters."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        self._index: dict[str, list[int]] | None = None
        self._asked = 0

    def to(self, name: str) -> str:
        """Return the name most like ``name``, or "" when none is like it."""
        self._asked += 1
        if self._asked > MOST_HINTS or len(name) > 100:
            return ""
        import difflib

        if self._index is None:
            self._index = defaultdict(list)
            for number, known in enumerate(self._names):
                for gram in _grams(known):
                    self._index[gram].append(number)
        shared: Counter[int] = Counter()
        for gram in _grams(name):
            shared.update(self._index.get(gram, ()))
        close = [self._names[number] for number, _ in shared.most_common(_CANDIDATES)]
        near = difflib.get_close_matches(name, close, n=1, cutoff=_ALIKE)
        return near[0] if near else ""


def _grams(name: str) -> set[str]:
    edged = f"^{name}$"
    return {edged[at : at + 3] for at in range(len(edged) - 2)}
