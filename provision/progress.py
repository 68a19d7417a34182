# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress of long work: a live line on a terminal, a plain line per phase in a pipe."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from provision import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Phases:
    """Shows what is being done: call ``update`` often; a new description ends the former.

    :param quiet: show nothing but what ``say`` is given.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._what = ""
        self._group = ""
        self._started = time.monotonic()

    def __enter__(self) -> Phases:
        """Start the live display when stderr is a terminal."""
        if not self._quiet and console.err().is_terminal:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
            )

            self._live = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=console.err(),
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the live display."""
        self._finish(ok=kind is None)
        if self._live is not None:
            self._live.stop()

    def update(self, what: str, done: int = 0, total: int | None = None) -> None:
        """Say that ``what`` is at ``done`` of ``total`` (None: not known)."""
        group = what.split(" ", 1)[0] if " " in what else what
        if what != self._what and group != self._group:
            self._finish(ok=True)
            self._started = time.monotonic()
            self._group = group
            if self._live is None and not self._quiet:
                console.say(f"{what} ...")
        self._what = what
        if self._live is not None:
            if self._task is None:
                self._task = self._live.add_task(what, total=total)
            # Bytes are too fine to read: show MiB.
            scale = 1 << 20 if (total or done) > 1 << 22 else 1
            self._live.update(
                self._task,
                description=what[:48],
                completed=done // scale,
                total=None if total is None else max(1, total // scale),
            )

    def say(self, text: str) -> None:
        """Print one lasting line, above the live display."""
        if not self._quiet:
            (self._live.console if self._live is not None else console.err()).print(
                text, markup=False
            )

    def _finish(self, *, ok: bool) -> None:
        if not self._group:
            return
        if self._live is not None and self._task is not None:
            self._live.remove_task(self._task)
            self._task = None
        if ok:
            self.say(f"{self._group}: {time.monotonic() - self._started:.1f} s")
        self._group = ""
