# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of fault points that the tests of a run tried, for tests/conftest.py.

Tests note their numbers as properties, which travel from pytest's workers to where the table
is printed; only tests that passed count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

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
    rows = sorted({where for where, _ in counts})
    faults = {row: tuple(sorted(fault for where, fault in counts if where == row)) for row in rows}
    lines = []
    # What happens to a script is not what happens to a client: a table for each.
    for columns in sorted(set(faults.values())):
        lines += _block([row for row in rows if faults[row] == columns], columns, counts)
    return [*lines, f"{counts.total()} fault points"]


def _block(
    rows: Sequence[str], columns: Sequence[str], counts: Mapping[tuple[str, str], int]
) -> list[str]:
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"  {name}" for name in (*columns, "all"))]
    for row in rows:
        numbers = [counts[row, column] for column in columns]
        cells = zip((*columns, "all"), (*numbers, sum(numbers)), strict=True)
        lines.append(f"{row:{width}}" + "".join(f"  {count:>{len(name)}}" for name, count in cells))
    return [*lines, ""]
