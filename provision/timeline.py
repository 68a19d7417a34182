# SPDX-License-Identifier: GPL-2.0-or-later
"""How long the boot of a node took, and where the time went: values in, values out.

Two clocks tell. This machine's has when a rollout had the node restart and when it answered
again (events.py); the node's kernel has the seconds of its own log, where its lines have time
stamps. What to look for in that log is data, in milestones.toml beside this file.

Sources: printk_time, kernel/printk.c of Linux 2.6.20; its sched_clock counts from the start of
the processor, so the first stamp that is not 0 is where the kernel's own time begins
(arch/x86_64/kernel/time.c, arch/i386/kernel/tsc.c).
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from provision.events import Moment

# More than any kernel logs while it boots; what is beyond is not read.
MOST_BYTES = 1 << 18
_MOST_LINES = 8000
_MOST_LINE = 400
# "[    1.234567] text"; with printk's level before it where dmesg left that in.
_STAMP = re.compile(r"(?:<\d{1,3}>)?\[ *(\d{1,10}\.\d{1,9})\] ?(.*)")
_LEVEL = re.compile(r"<\d{1,3}>")
# A kernel that just began has not counted so far: the processor's counter had.
_JUMP = 1.0


@dataclass(frozen=True)
class Milestone:
    """One line of milestones.toml that is looked for in a log."""

    id: str
    name: str
    pattern: re.Pattern[str]
    boot: bool
    why: str
    source: str


@dataclass(frozen=True)
class Log:
    """What a kernel's log tells.

    ``marks``: by milestone's id the second since the kernel began, None where the line has no
    time stamp. ``whole``: its beginning is there. ``links``: by pair of node ids, whether the
    link between them is up, as this node saw it last.
    """

    marks: Mapping[str, float | None] = field(default_factory=dict)
    stamped: bool = False
    whole: bool = False
    latest: float = 0.0
    links: Mapping[tuple[int, int], bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Boot:
    """One node's boot. All numbers are seconds, None where they are not known.

    ``answered`` and ``committed``: since it was told to restart, by this machine's clock.
    ``marks``: since its kernel began, by the kernel's. ``rest``: what ``answered`` leaves when
    the kernel's seconds up to its last milestone are taken off. It is derived, not measured:
    shutting down, firmware and boot loader, and programs after that milestone.
    """

    date: float | None = None
    answered: float | None = None
    committed: float | None = None
    marks: Mapping[str, float] = field(default_factory=dict)
    rest: float | None = None
    missing: tuple[str, ...] = ()

    @property
    def last(self) -> float:
        """Return the second of the last milestone that is part of the boot, 0 without one."""
        known = [self.marks[m.id] for m in milestones() if m.boot and m.id in self.marks]
        return max(known, default=0.0)

    @property
    def length(self) -> float:
        """Return for how many seconds there is something to draw."""
        offset = self.rest or 0.0
        return max(self.answered or 0.0, self.committed or 0.0, offset + self.last)


@functools.cache
def _table() -> tuple[tuple[Milestone, ...], tuple[tuple[re.Pattern[str], bool], ...]]:
    raw = tomllib.loads(Path(__file__).with_name("milestones.toml").read_text("utf-8"))
    found = tuple(
        Milestone(**{**one, "pattern": re.compile(one["pattern"])}) for one in raw["milestone"]
    )
    return found, tuple((re.compile(one["pattern"]), one["up"]) for one in raw["link"])


def milestones() -> tuple[Milestone, ...]:
    """Return what is looked for, in the order in which a boot goes by it."""
    return _table()[0]


def _lines(text: str) -> Iterator[tuple[float | None, str]]:
    for line in text[:MOST_BYTES].split("\n", _MOST_LINES)[:_MOST_LINES]:
        found = _STAMP.match(line[:_MOST_LINE])
        if found:
            yield float(found[1]), found[2]
        else:
            yield None, _LEVEL.sub("", line[:_MOST_LINE], count=1)


def read_log(text: str) -> Log:
    """Return what a kernel's log tells; what makes no sense in it is left out."""
    seen: dict[str, float | None] = {}
    links: dict[tuple[int, int], bool] = {}
    first = None
    stamped = False
    latest = 0.0
    whole = False
    for number, (stamp, line) in enumerate(_lines(text)):
        if stamp is not None:
            stamped = True
            latest = max(latest, stamp)
            if first is None and stamp > 0:
                first = stamp
        for milestone in milestones():
            if milestone.id not in seen and milestone.pattern.search(line):
                seen[milestone.id] = stamp
                # Lines before it come from firmware's tables at most.
                whole = whole or (milestone.id == "kernel" and number < 5)
        for pattern, up in _table()[1]:
            if link := pattern.search(line):
                ends = sorted(int(number) - 1 for number in link.groups())
                links[ends[0], ends[1]] = up
    # Where the beginning is lost nobody knows from where the stamps count.
    base = first if whole and first is not None and first > _JUMP else 0.0
    marks = {
        name: None if stamp is None else max(0.0, stamp - base) for name, stamp in seen.items()
    }
    # Asked for on the command line, stamps begin after the first lines.
    if whole and stamped:
        marks["kernel"] = 0.0
    return Log(marks, stamped, whole, max(0.0, latest - base), links)


_RESTARTS = ("restarting", "going back")
_ANSWERS = ("up", "fell back")


def boot(log: Log | None, moments: Sequence[Moment], asked: float) -> Boot:
    """Return what is known of a node's last boot.

    :param log: of the kernel that runs; None: it could not be asked for.
    :param moments: the node's steps in its last rollout, by this machine's clock.
    :param asked: when the log was read, by this machine's clock.
    """
    missing = []
    started = next((m.time for m in reversed(moments) if m.step in _RESTARTS), None)
    answered = committed = None
    if started is None:
        missing.append("no restart by deploy --reboot is recorded on this machine")
    else:
        after = {m.step: m.time - started for m in moments if m.time >= started}
        answered = next((after[step] for step in _ANSWERS if step in after), None)
        committed = after.get("committed")
        if answered is None:
            missing.append("it was not seen to come back from that restart")
    marks = {} if log is None else {n: s for n, s in log.marks.items() if s is not None}
    if log is None:
        missing.append("its kernel's log was not read")
    elif not log.stamped:
        missing.append(
            'its kernel\'s log has no time stamps: give the node append = "time", or the '
            "kernel CONFIG_PRINTK_TIME=y"
        )
    elif not log.whole:
        missing.append("the beginning of its kernel's log is gone: newer lines have replaced it")
        # By an unknown clock they would be drawn at a wrong place.
        marks = {}
    rest = None
    if marks and answered is not None and started is not None:
        if log is not None and log.latest > asked - started + 1:
            missing.append("it was up before that restart by its kernel's clock: not compared")
            answered = committed = None
        else:
            inside = [
                marks[m.id]
                for m in milestones()
                if m.boot and m.id in marks and marks[m.id] <= answered
            ]
            rest = answered - max(inside, default=0.0)
    return Boot(started, answered, committed, marks, rest, tuple(missing))


@dataclass(frozen=True)
class Part:
    """A part of a bar: from where to where in seconds, and which kind: rest, wait or a milestone.

    The part of a milestone is the time up to it.
    """

    kind: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Return how long it took."""
        return self.end - self.start


def parts(one: Boot) -> tuple[Part, ...]:
    """Return the parts of a node's bar, in order and without gaps; empty when nothing is known.

    Where in the wait the kernel began is not measured: what is derived is drawn before it.
    """
    if not one.marks:
        return (Part("wait", 0.0, one.answered),) if one.answered else ()
    at = one.rest or 0.0
    found = [Part("rest", 0.0, at)] if at else []
    offset = at
    known = sorted(
        (one.marks[m.id], number, m.id)
        for number, m in enumerate(milestones())
        if m.boot and m.id in one.marks
    )
    for seconds, _, name in known:
        if offset + seconds > at:
            found.append(Part(name, at, offset + seconds))
            at = offset + seconds
    return tuple(found)


def ticks(longest: float, most: int = 8) -> tuple[float, ...]:
    """Return round seconds from 0 to at least ``longest`` for an axis, at most ``most`` steps."""
    longest = max(longest, 1.0)
    step = 1.0
    for number in range(0, 40):
        step = (1.0, 2.0, 5.0)[number % 3] * 10.0 ** (number // 3)
        if longest / step <= most:
            break
    count = int(-(-longest // step))
    return tuple(step * number for number in range(count + 1))
