# SPDX-License-Identifier: GPL-2.0-or-later
"""The order of work over a fleet: a canary, then waves, and when to stop. Values, and a loop.

What is done to a node is given as a function; this module decides for which nodes it is
called, at what time, and whether to go on. A node that cannot be reached is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from provision.errors import InputError


@dataclass(frozen=True)
class Pace:
    """How carefully a fleet is changed.

    ``canary`` nodes go first (0: none), then waves of ``wave`` (None: all others at once).
    Nothing new is begun once more than ``max_down`` nodes have failed (None: no limit), nor
    after a canary that failed.
    """

    canary: int = 0
    wave: int | None = None
    max_down: int | None = None


def waves(names: Sequence[str], pace: Pace) -> tuple[tuple[str, ...], ...]:
    """Return the nodes in the order of work, each wave's nodes together.

    :raises InputError: a size that makes no sense.
    """
    if pace.canary < 0 or (pace.wave is not None and pace.wave < 1):
        raise InputError("a wave has at least one node, and a canary not less than none")
    found = []
    rest = list(names)
    # A single wave needs no canary.
    if 0 < pace.canary < len(rest):
        found.append(tuple(rest[: pace.canary]))
        rest = rest[pace.canary :]
    size = pace.wave or len(rest) or 1
    found += [tuple(rest[start : start + size]) for start in range(0, len(rest), size)]
    return tuple(found)


def roll(
    names: Sequence[str],
    pace: Pace,
    work: Callable[[Sequence[str]], Iterator[tuple[str, bool]]],
    *,
    failed_before: int = 0,
) -> Iterator[tuple[str, str]]:
    """Do ``work`` wave by wave, and yield (name, why) for every node that was not begun.

    :param work: takes the names of a wave and yields (name, whether it went well) for each.
    :param failed_before: nodes that had failed already, such as those that did not answer.
    """
    plan = waves(names, pace)
    failed, why = failed_before, ""
    if pace.max_down is not None and failed > pace.max_down:
        why = f"{_count(failed)} failed before it began, more than --max-down {pace.max_down}"
    for number, wave in enumerate(plan):
        if why:
            yield from ((name, why) for name in wave)
            continue
        bad = [name for name, good in work(wave) if not good]
        failed += len(bad)
        if bad and number == 0 and len(plan) > 1 and 0 < pace.canary < len(names):
            why = f"the canary {bad[0]} failed"
        elif pace.max_down is not None and failed > pace.max_down:
            why = f"{_count(failed)} failed, more than --max-down {pace.max_down}"


def _count(failed: int) -> str:
    return f"{failed} node{'s' if failed != 1 else ''}"
