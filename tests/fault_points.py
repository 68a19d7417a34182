# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of fault points that the tests of a run tried, for tests/conftest.py.

Tests note their numbers as properties, which travel from pytest's workers to where the table
is printed; only tests that passed count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

KEY = "fault_points"


def table(properties: Iterable[tuple[str, object]]) -> list[str]:
    """Return the lines of the table, none without points.

    :param properties: of tests; a value is "where|fault|number".
    """
    counts: Counter[tuple[str, str]] = Counter()
    for name, value in properties:
        if name == KEY:
            where, fault, number = str(value).split("|")
            counts[where, fault] += int(number)
    if not counts:
        return []
    rows = list(dict.fromkeys(where for where, _ in counts))
    rows.sort(key=lambda where: where.partition(",")[0])
    columns = list(dict.fromkeys(fault for _, fault in counts))
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"  {name}" for name in (*columns, "all"))]
    for row in rows:
        numbers = [counts[row, column] for column in columns]
        cells = zip((*columns, "all"), (*numbers, sum(numbers)), strict=True)
        lines.append(
            f"{row:{width}}" + "".join(f"  {count or '-':>{len(name)}}" for name, count in cells)
        )
    return [*lines, f"{counts.total()} fault points"]
