# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to nodes during a run, and how it stands with all of them: values only.

Whoever works on nodes tells one ``Event`` after the other, and ``Board`` counts them into a
table of states whose length does not depend on how many nodes there are. What people see of
it is in cli/live.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from provision.plan import fold, plain


@dataclass(frozen=True)
class Step:
    """A node has come to something: a word, and what is to be known of it."""

    node: str
    word: str
    detail: str = ""

    def __str__(self) -> str:
        """Return the line of a log."""
        if not self.detail:
            return f"{self.node}: {self.word}"
        return f"{self.node}: {self.word}{':' if self.bad else ''} {plain(self.detail)}"

    @property
    def bad(self) -> bool:
        """Tell whether it is a failure."""
        return _STATE_OF.get(self.word) == FAILED

    @property
    def quiet(self) -> bool:
        """Tell whether it is for the table only: logs say it once, of all nodes together."""
        return self.word in _QUIET


@dataclass(frozen=True)
class Planned:
    """What a node is going to get: so many bytes, and whether it restarts after that.

    The first event of what is done to it: whatever came before, it waits now.
    """

    node: str
    upload: int
    restarts: bool = False


@dataclass(frozen=True)
class Sent:
    """So many bytes more have gone to a node."""

    node: str
    count: int


@dataclass(frozen=True)
class Wave:
    """A wave of nodes is begun."""

    number: int
    of: int


@dataclass(frozen=True)
class Note:
    """A line for people and logs that no state follows from."""

    text: str


Event = Step | Planned | Sent | Wave | Note
Tell = Callable[[Event], None]

# The states in the order in which a node goes through them.
WAITING = "waiting"
ASKED = "reading facts"
SENDING = "sending"
INSTALLING = "installing"
INSTALLED = "installed"
RESTARTING = "restarting"
UP = "up"
PROVING = "proving"
DONE = "done"
FAILED = "failed"
STATES = (
    WAITING, ASKED, SENDING, INSTALLING, INSTALLED, RESTARTING, UP, PROVING, DONE, FAILED,
)  # fmt: skip

# Which state a word of a step leads to; other words change none. The last ones are the
# outcomes of provision.deploy.
_STATE_OF = {
    "asked": ASKED,
    "sending": SENDING,
    "restarting": RESTARTING,
    "up": PROVING,
    "up with": UP,
    "going back": RESTARTING,
    "unchanged": DONE,
    "changed": DONE,
    "booted": DONE,
    "failed": FAILED,
    "refused": FAILED,
    "skipped": FAILED,
    "not begun": FAILED,
    "fell back": FAILED,
    "unproven": FAILED,
    "down": FAILED,
}
_QUIET = frozenset({"asked", "unchanged", "refused", "not begun"})
# Seconds over which the speed is taken, and between two looks for it.
_WINDOW, _SAMPLE = 10.0, 0.25


@dataclass(frozen=True)
class Row:
    """One state, and the nodes in it as a node set."""

    state: str
    count: int
    nodes: str


@dataclass
class _Node:
    state: str = WAITING
    upload: int = 0
    sent: int = 0
    restarts: bool = False


class Board:
    """How it stands with the nodes ``names``: takes events in any order, gives a table.

    Every node is in one state at any time. Events of other nodes are left out. Times are in
    seconds, from whenever.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.wave: Wave | None = None
        self.sent = 0
        self._nodes = {name: _Node() for name in names}
        self._shown = {WAITING, DONE}
        # When how much had been sent.
        self._past: deque[tuple[float, int]] = deque()
        self._rows: tuple[Row, ...] | None = None

    def take(self, event: Event, now: float) -> None:
        """Count one event, heard of at ``now``."""
        if isinstance(event, Wave):
            self.wave = event
        elif not isinstance(event, Note) and event.node in self._nodes:
            node = self._nodes[event.node]
            if isinstance(event, Planned):
                node.upload, node.restarts, node.sent = event.upload, event.restarts, 0
                self._to(node, WAITING)
            elif isinstance(event, Sent):
                self._take_sent(node, event.count, now)
            elif event.word == "sending":
                self._to(node, SENDING if node.sent < node.upload else INSTALLING)
            elif event.word == "done":
                self._to(node, INSTALLED if node.restarts else DONE)
            elif event.word in _STATE_OF:
                self._to(node, _STATE_OF[event.word])

    def _take_sent(self, node: _Node, count: int, now: float) -> None:
        if not self._past or now - self._past[-1][0] >= _SAMPLE:
            self._past.append((now, self.sent))
        while now - self._past[0][0] > _WINDOW:
            self._past.popleft()
        self.sent += count
        node.sent += count
        if node.state == SENDING and node.sent >= node.upload:
            self._to(node, INSTALLING)

    def _to(self, node: _Node, state: str) -> None:
        node.state = state
        self._shown.add(state)
        self._rows = None

    @property
    def total(self) -> int:
        """Return how many bytes are to be sent to all nodes."""
        return sum(node.upload for node in self._nodes.values())

    def speed(self, now: float) -> float:
        """Return the bytes sent in a second, of late."""
        since = next((past for past in self._past if now - past[0] <= _WINDOW), None)
        if since is None or now <= since[0]:
            return 0.0
        return (self.sent - since[1]) / (now - since[0])

    def rows(self) -> tuple[Row, ...]:
        """Return the states that nodes are in or have been in, in the order of ``STATES``."""
        if self._rows is None:
            names: dict[str, list[str]] = {}
            for name, node in self._nodes.items():
                names.setdefault(node.state, []).append(name)
            self._rows = tuple(
                Row(state, len(names.get(state, ())), fold(names[state]) if state in names else "")
                for state in STATES
                if state in self._shown
            )
        return self._rows
