# SPDX-License-Identifier: GPL-2.0-or-later
"""The sessions with all nodes of a cluster, worked in a bounded pool."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

from provision.cluster import Node
from provision.errors import FailedError, KrgError
from provision.node import Session

T = TypeVar("T")


class ClosedError(FailedError):
    """The fleet is being closed: somebody pressed Ctrl-C."""


class Fleet:
    """The sessions with all nodes.

    :param debug: an error that is a bug of ours ends everything, with its traceback;
        otherwise it is one node's failure, and the others go on.
    """

    def __init__(self, nodes: Sequence[Node], forks: int, *, debug: bool = False) -> None:
        self._sessions = {node.name: Session(node) for node in nodes}
        self._pool = ThreadPoolExecutor(max_workers=max(1, min(forks, len(nodes))))
        self._debug = debug
        self._more: list[Session] = []
        self._left: set[str] = set()
        self._closing = threading.Event()

    def session(self, node: Node) -> Session:
        """Return the session of a node."""
        return self._sessions[node.name]

    def again(self, node: Node) -> Session:
        """Return another session with a node, for one from before a restart is dead.

        :raises FailedError: the fleet is being closed.
        """
        self._check_open()
        made = Session(node)
        self._more.append(made)
        self._left.add(node.name)
        return made

    def is_left(self, node: Node) -> bool:
        """Tell whether a node was reached by another session since, as after a restart."""
        return node.name in self._left

    def pause(self, seconds: float) -> None:
        """Wait between two looks at a node.

        :raises FailedError: the fleet is being closed.
        """
        self._closing.wait(seconds)
        self._check_open()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ClosedError("interrupted")

    def close(self) -> None:
        """End all sessions, so that threads still at work end too."""
        self._closing.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for session in [*self._sessions.values(), *self._more]:
            session.end()

    def each(
        self, nodes: Sequence[Node], work: Callable[[Node], T]
    ) -> Iterator[tuple[Node, T | KrgError]]:
        """Yield (node, result) as nodes finish; a node's error is its result.

        Interrupted, it still yields what is finished, and then raises KeyboardInterrupt.
        """
        waiting: dict[Future[T], Node] = {self._pool.submit(work, node): node for node in nodes}
        try:
            for future in as_completed(tuple(waiting)):
                yield waiting.pop(future), self._result(future.result)
        except KeyboardInterrupt:
            for future in [one for one in waiting if one.done() and not one.cancelled()]:
                yield waiting.pop(future), self._result(future.result)
            raise

    def _result(self, finished: Callable[[], T]) -> T | KrgError:
        try:
            return finished()
        except KrgError as error:
            return error
        except Exception as error:
            if self._debug:
                raise
            return FailedError(
                f"unexpected error: {type(error).__name__}: {error}",
                hint="this is a bug of krg-provision; --debug shows where",
            )


@contextmanager
def fleet(nodes: Sequence[Node], forks: int, *, debug: bool = False) -> Iterator[Fleet]:
    """Open a fleet and end all its sessions whatever happens."""
    made = Fleet(nodes, forks, debug=debug)
    try:
        yield made
    finally:
        made.close()
