# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal of rollouts on this machine: one line per event, and who is at work on a cluster.

In the state directory, one directory for each cluster: ``lock`` is held (flock(2)) by the
process at work and says who it is; ``DATE.jsonl`` is the journal of one rollout. What a node
is in is asked of the node itself: the journal says which nodes failed, and why.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from provision.cluster import Cluster
from provision.errors import FailedError, MissingError
from provision.paths import state_dir

# Journals kept for each cluster.
KEPT = 20
# States of a node after which there is nothing to repeat.
GOOD = frozenset({"unchanged", "changed", "booted"})


def directory(cluster: Cluster) -> Path:
    """Return the directory of a cluster's journals, by its session and its nodes' addresses."""
    where = sorted(f"{node.address}:{node.port or 22}" for node in cluster.nodes)
    key = hashlib.sha256(json.dumps([cluster.session, where]).encode()).hexdigest()[:16]
    return state_dir() / "rollouts" / key


def who() -> str:
    """Return who is at work: user@host and the process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()} (process {os.getpid()})"


@contextlib.contextmanager
def locked(cluster: Cluster) -> Iterator[Path]:
    """Let no other process of this machine change the cluster meanwhile; give its directory.

    :raises FailedError: one is at work; says which.
    :raises MissingError: the state directory cannot be written.
    """
    place = directory(cluster)
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = (place / "lock").open("a+")
    except OSError as error:
        raise MissingError(
            f"{place}: cannot be written: {error.strerror}",
            hint="set XDG_STATE_HOME to a directory of yours",
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read(200).strip() or "another process"
            raise FailedError(
                f"{holder} is at work on this cluster", hint="wait until it is done"
            ) from error
        lock.seek(0)
        lock.truncate()
        lock.write(f"{who()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        lock.flush()
        yield place


class Journal:
    """One rollout's journal: ``write`` adds a line that is on disk when it returns."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, step: str, node: str | None = None, **more: Any) -> None:
        """Add an event: the step's name, the node's, and what else is to be known."""
        line = {"time": round(time.time(), 3), "step": step, **more}
        if node is not None:
            line["node"] = node
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())


@contextlib.contextmanager
def journal(place: Path) -> Iterator[Journal]:
    """Begin a journal in a cluster's directory; the oldest are removed."""
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for old in sorted(place.glob("*.jsonl"))[: -KEPT + 1 or None]:
        old.unlink(missing_ok=True)
    with (place / f"{date}.jsonl").open("a", encoding="utf-8") as stream:
        yield Journal(stream)


def last_states(cluster: Cluster) -> Mapping[str, str]:
    """Return the last known state of each node in the newest journal; empty without one.

    A node that was begun and never ended (the process was killed) is "interrupted".
    """
    found = sorted(directory(cluster).glob("*.jsonl"))
    states: dict[str, str] = {}
    for line in found[-1].read_text("utf-8", "replace").splitlines() if found else ():
        try:
            event = json.loads(line)
            if event["step"] == "planned":
                states[str(event["node"])] = "interrupted"
            elif event["step"] == "ended":
                states[str(event["node"])] = str(event["state"])
        # The last line of a killed run may be half of one.
        except (ValueError, KeyError, TypeError):
            continue
    return states


def to_repeat(cluster: Cluster) -> tuple[str, ...]:
    """Return the names of the cluster's nodes that the last rollout left undone or failed."""
    states = last_states(cluster)
    return tuple(n.name for n in cluster.nodes if states.get(n.name, "unchanged") not in GOOD)
