# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the nodes of a cluster stand in its picture: numbers in, numbers out.

Few nodes stand on an ellipse with their names below, more on a ring with their names around it,
and where a ring would be too large, in rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH = 720.0
# Up to so many with names below them, and on a ring.
_FEW = 10
_RING = 72
# Between two names on a ring, and for the names around it.
_APART = 23.0
_NAMES = 118.0
_CELL = (96.0, 74.0)


@dataclass(frozen=True)
class Spot:
    """A node's place, the radius of its sign, and its name's place, turn and end that is there."""

    x: float
    y: float
    radius: float
    label_x: float
    label_y: float
    anchor: str = "middle"
    turn: float = 0.0


@dataclass(frozen=True)
class Picture:
    """A picture's size, what stands where, and where in the middle is room for a text.

    ``kind``: few, ring or rows. ``links`` and ``lost`` are path data of lines between nodes.
    """

    kind: str
    width: float
    height: float
    spots: tuple[Spot, ...]
    middle: tuple[float, float] | None
    links: str = ""
    lost: str = ""


def picture(
    count: int, links: Iterable[tuple[int, int]] = (), lost: Iterable[tuple[int, int]] = ()
) -> Picture:
    """Return the picture of ``count`` nodes; links are pairs of their places, from 0."""
    if count <= _FEW:
        kind, width = "few", WIDTH
        height, centre, spots = _few(count)
        # One node stands in the middle itself.
        middle = (WIDTH / 2, centre) if count > 1 else None
    elif count <= _RING:
        kind, (width, spots) = "ring", _ring(count)
        height = width
        middle = (width / 2, height / 2)
    else:
        kind, (width, height, spots), middle = "rows", _rows(count), None
    if kind == "rows":
        # Across the rows lines would hide the signs.
        return Picture(kind, width, height, spots, middle)
    return Picture(kind, width, height, spots, middle, _lines(spots, links), _lines(spots, lost))


def _few(count: int) -> tuple[float, float, tuple[Spot, ...]]:
    radius = 30.0
    top = 50.0
    if count <= 1:
        return 140.0, top, (Spot(WIDTH / 2, top, radius, WIDTH / 2, top + radius + 20),) * count
    # Two stand side by side; the names of those at the top need room above the text in the middle.
    wide, high = {2: (200.0, 0.0), 3: (190.0, 128.0)}.get(count, (280.0, 60.0 + 18 * count))
    start = math.pi if count == 2 else -math.pi / 2
    spots = []
    for number in range(count):
        angle = start + 2 * math.pi * number / count
        x, y = WIDTH / 2 + wide * math.cos(angle), top + high + high * math.sin(angle)
        spots.append(Spot(_round(x), _round(y), radius, _round(x), _round(y + radius + 20)))
    return _round(max(spot.y for spot in spots) + 90), top + high + 12 * (count > 2), tuple(spots)


def _ring(count: int) -> tuple[float, tuple[Spot, ...]]:
    size = max(150.0, count * _APART / (2 * math.pi))
    middle = size + _NAMES + 12
    spots = []
    for number in range(count):
        angle = 2 * math.pi * number / count - math.pi / 2
        cos, sin = math.cos(angle), math.sin(angle)
        far = size + 18
        left = cos < -1e-9
        spots.append(
            Spot(
                _round(middle + size * cos),
                _round(middle + size * sin),
                9.0,
                _round(middle + far * cos),
                _round(middle + far * sin),
                "end" if left else "start",
                # Never upside down.
                _round(math.degrees(angle) + (180 if left else 0)),
            )
        )
    return _round(2 * middle), tuple(spots)


def _rows(count: int) -> tuple[float, float, tuple[Spot, ...]]:
    columns = min(12, max(8, math.ceil(math.sqrt(count * 1.2))))
    wide, high = _CELL
    spots = []
    for number in range(count):
        row, column = divmod(number, columns)
        x, y = wide * (column + 0.5), high * row + 26
        spots.append(Spot(x, y, 14.0, x, y + 32))
    return columns * wide, high * math.ceil(count / columns), tuple(spots)


def _lines(spots: Sequence[Spot], pairs: Iterable[tuple[int, int]]) -> str:
    """Return one path for all lines: thousands of elements would be slow."""
    drawn = []
    for a, b in pairs:
        if 0 <= a < len(spots) and 0 <= b < len(spots) and a != b:
            drawn.append(f"M{spots[a].x:g} {spots[a].y:g}L{spots[b].x:g} {spots[b].y:g}")
    return "".join(drawn)


def _round(value: float) -> float:
    # -0.0 would be drawn as such.
    return round(value, 1) + 0.0
