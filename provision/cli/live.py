# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress over many nodes: on a terminal a table by state, elsewhere a line per event.

Both on stderr, so that stdout stays what a program reads. What the table says is decided in
provision.steps; here it is only drawn.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from provision.console import err, say
from provision.plan import size
from provision.steps import DONE, FAILED, SENDING, Board, Event, Note, Step

if TYPE_CHECKING:
    from rich.console import RenderableType

# In a second; each costs one fold of all names where something happened.
_REFRESHES = 2


def elapsed(seconds: float) -> str:
    """Return a time as people read it: 0:07, 12:34, 1:02:03."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def table(board: Board, now: float, since: float) -> RenderableType:
    """Return the board as a table: never more lines than there are states, and one."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    wave = f"wave {board.wave.number} of {board.wave.of}  " if board.wave else ""
    head = Text(wave + elapsed(now - since), no_wrap=True, overflow="ellipsis")
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(no_wrap=True, overflow="ellipsis")
    rows.add_column(no_wrap=True, justify="right")
    # Where the line is too short, the nodes give way: only this column may shrink.
    rows.add_column()
    for row in board.rows():
        nodes = row.nodes
        if row.state == SENDING:
            speed = board.speed(now)
            fast = f", {size(int(speed))}/s" if row.count and speed >= 1 else ""
            nodes = f"{size(board.sent)} of {size(board.total)}{fast}  {nodes}"
        colour = {DONE: "green", FAILED: "red"}.get(row.state, "cyan")
        style = colour if row.count else "dim"
        rows.add_row(
            Text(row.state, style),
            Text(str(row.count), style),
            Text(nodes.rstrip(), no_wrap=True, overflow="ellipsis"),
        )
    return Group(head, rows)


class Watch:
    """Shows how it stands with nodes: ``tell`` it every event, from any thread."""

    def __init__(self, names: Sequence[str]) -> None:
        self._board = Board(names)
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._live = False

    def tell(self, event: Event) -> None:
        """Count an event; print it where it belongs: in a log all, beside the table failures."""
        with self._lock:
            self._board.take(event, time.monotonic())
        # Not behind the lock: whoever draws the table holds rich's lock, and wants ours.
        if isinstance(event, Note):
            say(event.text)
        elif isinstance(event, Step) and not event.quiet:
            if not self._live:
                say(str(event))
            elif event.bad and event.detail:
                err().print(str(event), style="red", markup=False)

    @contextmanager
    def shown(self, *, keep: bool = False) -> Iterator[None]:
        """Show the table meanwhile, if this is a terminal that can move its cursor.

        :param keep: leave its last state on the screen.
        """
        # FORCE_COLOR asks for colours in a pipe, not for a moving cursor.
        if not (sys.stderr.isatty() and err().is_interactive):
            yield
            return
        from rich.live import Live

        live = Live(
            get_renderable=self._table,
            console=err(),
            refresh_per_second=_REFRESHES,
            transient=not keep,
            redirect_stdout=False,
        )
        self._live = True
        try:
            with live:
                yield
        finally:
            self._live = False

    def _table(self) -> RenderableType:
        with self._lock:
            return table(self._board, time.monotonic(), self._since)
