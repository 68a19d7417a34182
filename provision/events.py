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
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


def _events(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the events of a journal; what is not one is left out."""
    for line in path.read_text("utf-8", "replace").splitlines():
        # The last line of a killed run may be half of one.
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and isinstance(event.get("step"), str):
                yield event


def last_states(cluster: Cluster) -> Mapping[str, str]:
    """Return the last known state of each node in the newest journal; empty without one.

    A node that was begun and never ended (the process was killed) is "interrupted".
    """
    found = sorted(directory(cluster).glob("*.jsonl"))
    states: dict[str, str] = {}
    for event in _events(found[-1]) if found else ():
        if event["step"] == "planned" and "node" in event:
            states[str(event["node"])] = "interrupted"
        elif event["step"] == "ended" and "node" in event and "state" in event:
            states[str(event["node"])] = str(event["state"])
    return states


@dataclass(frozen=True)
class Moment:
    """A step of a node in a rollout, and when it was taken: seconds since the epoch."""

    time: float
    step: str


def last_restarts(cluster: Cluster) -> Mapping[str, tuple[Moment, ...]]:
    """Return the steps of each node in the newest journal in which it was restarted."""
    found: dict[str, tuple[Moment, ...]] = {}
    names = {node.name for node in cluster.nodes}
    for path in sorted(directory(cluster).glob("*.jsonl"), reverse=True):
        steps: dict[str, list[Moment]] = {}
        for event in _events(path):
            node, when = event.get("node"), event.get("time")
            if node in names and isinstance(when, (int, float)) and math.isfinite(when):
                steps.setdefault(str(node), []).append(Moment(float(when), event["step"]))
        for name, moments in steps.items():
            if name not in found and any(moment.step == "restarting" for moment in moments):
                found[name] = tuple(moments)
        if len(found) == len(names):
            break
    return found


def to_repeat(cluster: Cluster) -> tuple[str, ...]:
    """Return the names of the cluster's nodes that the last rollout left undone or failed."""
    states = last_states(cluster)
    return tuple(n.name for n in cluster.nodes if states.get(n.name, "unchanged") not in GOOD)
