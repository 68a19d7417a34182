# SPDX-License-Identifier: GPL-2.0-or-later
"""What a lab is, and where it is written down: labs_dir()/NAME/lab.json.

The file is written before the first process starts. A node's process is found by the pid
file that QEMU writes, the head node's by its own, and each is known by the UUID on its
command line. So a lab whose client was killed is found again whole, and no other process is
ever taken for one of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provision.atomic import write_text
from provision.errors import FailedError, InputError
from provision.paths import labs_dir

FORMAT = 1
STATE = "lab.json"
CLUSTER = "cluster.toml"
HEAD_PID = "head.pid"
# Nodes that have nothing: their boot loader comes over the network, as their root does.
PXELINUX: Final = "pxelinux"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
# What is no text in lab.json, besides the nodes.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "session": int,
    "memory": int,
    "created": (int, float),
}
# A directory where the file should be, or a file where the lab's directory should be, is as
# little a lab's state as other text is.
_NOT_OURS = (
    *(ValueError, TypeError, KeyError, AttributeError),
    *(IsADirectoryError, NotADirectoryError),
)


@dataclass(frozen=True)
class LabNode:
    """One node: its number (the node_id) and the UUID its QEMU runs under.

    ``port`` on the loopback interface leads to its SSH server, if it has one.
    """

    number: int
    uuid: str
    port: int = 0

    @property
    def directory(self) -> str:
        """Return the name of the node's directory inside the lab's."""
        return f"node{self.number}"


@dataclass(frozen=True)
class Lab:
    """A lab as it was started.

    ``head`` is the UUID under which its head node runs, for nodes without a disk; else empty.
    """

    name: str
    session: int
    build: str
    arch: str
    kernel_release: str
    memory: int
    accel: str
    created: float
    nodes: tuple[LabNode, ...]
    bootloader: str = "none"
    head: str = ""

    @property
    def has_disks(self) -> bool:
        """Tell whether the nodes boot from disks: neither from QEMU nor from the network."""
        return self.bootloader not in ("none", PXELINUX)

    @property
    def is_diskless(self) -> bool:
        """Tell whether a head node serves the nodes their kernel and their root."""
        return self.bootloader == PXELINUX

    @property
    def cluster_file(self) -> Path:
        """Return the path of the lab's cluster.toml, there where the nodes have disks."""
        return self.directory / CLUSTER

    @property
    def directory(self) -> Path:
        """Return the lab's directory."""
        return labs_dir() / self.name

    def path(self, node: LabNode) -> Path:
        """Return a node's directory: its sockets, pid file and console log."""
        return self.directory / node.directory

    def node(self, number: int) -> LabNode:
        """Return the node of that number; InputError if there is none."""
        for node in self.nodes:
            if node.number == number:
                return node
        raise InputError(
            f"lab {self.name} has no node {number}; it has nodes 1 to {len(self.nodes)}"
        )

    @property
    def network(self) -> tuple[str, int]:
        """Return the multicast group and port that this lab alone uses."""
        return network_of(self.directory)

    def mac(self, node: LabNode) -> str:
        """Return a node's locally administered address, the same at every start."""
        digest = hashlib.sha256(self.name.encode()).hexdigest()
        return f"02:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}:00:{node.number:02x}"


def network_of(directory: Path) -> tuple[str, int]:
    """Return the multicast group and port of the lab in ``directory``.

    From the administratively scoped block (RFC 2365), by a digest of the lab's
    place: labs of one user and of several users stay apart.
    """
    digest = hashlib.sha256(str(directory).encode()).digest()
    return f"239.255.{digest[0]}.{digest[1]}", 20000 + int.from_bytes(digest[2:4]) % 40000


def taps_of(network: tuple[str, int]) -> str:
    """Return what the names of a diskless lab's taps begin with, from what it alone uses.

    With the node's number behind it, it fits the 15 bytes of an interface's name.
    """
    group, port = network
    return "k" + bytes(map(int, group.split(".")[2:])).hex() + f"{port:04x}n"


def checked_name(name: str) -> str:
    """Return ``name`` if it can name a lab; InputError if not."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot name a lab",
            hint="use small letters, digits and dashes, at most 31, no dash first",
        )
    return name


def save(lab: Lab) -> None:
    """Write lab.json atomically."""
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(lab)}, indent=1) + "\n"
    write_text(lab.directory / STATE, text)


def load(name: str) -> Lab | None:
    """Read a lab's state; None if there is no such lab.

    :raises InputError: the file is not ours.
    """
    path = labs_dir() / checked_name(name) / STATE
    try:
        raw = json.loads(path.read_text("utf-8"))
        if raw.pop("format") != FORMAT or raw["name"] != name:
            raise ValueError("another format or name")
        nodes = tuple(
            LabNode(int(n["number"]), str(n["uuid"]), int(n.get("port", 0)))
            for n in raw.pop("nodes")
        )
        if not nodes:
            raise ValueError("no nodes")
        for key, value in raw.items():
            if not isinstance(value, _KINDS.get(key, str)):
                raise ValueError(f"{key} is {value!r}")
        return Lab(**raw, nodes=nodes)
    except FileNotFoundError:
        return None
    except _NOT_OURS as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{path}: not the state of a lab ({said})",
            hint="end its QEMU processes by hand and remove the file",
        ) from error


def load_up(name: str) -> Lab:
    """Read a lab's state; InputError if it is not up."""
    lab = load(name)
    if lab is None:
        raise InputError(
            f"no lab {name} is up", hint="krg-provision lab list; krg-provision lab up"
        )
    return lab


def cluster_file(name: str) -> Path:
    """Return the cluster.toml of a lab whose nodes have disks.

    :raises InputError: no such lab is up, or its nodes have no disks.
    """
    lab = load_up(name)
    if lab.is_diskless:
        raise InputError(
            f"the nodes of lab {name} are in a network of their own, which nothing leads to",
            hint=f"krg-provision lab ssh 1 --name {name}; or nsenter --target "
            f"{head_pid(lab) or 'PID'} --net krg-provision ... --nodes {lab.cluster_file}",
        )
    if not lab.has_disks:
        raise InputError(
            f"lab {name} has no boot loader and no SSH: QEMU boots its nodes",
            hint="krg-provision lab up --bootloader legacy, under another --name",
        )
    return lab.cluster_file


def names() -> list[str]:
    """Return the names of the labs that have a state file."""
    return sorted(path.parent.name for path in labs_dir().glob(f"*/{STATE}"))


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Let no other process start or stop lab ``name`` meanwhile; FailedError if one does."""
    labs_dir().mkdir(parents=True, exist_ok=True)
    # Beside the lab's directory, which comes and goes.
    with (labs_dir() / f".{checked_name(name)}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FailedError(
                f"another krg-provision is starting or stopping lab {name}",
                hint="wait for it, or use another --name",
            ) from error
        yield


class Process:
    """A node's QEMU, held by a pidfd: it cannot be mistaken for a later process."""

    def __init__(self, pid: int, handle: int) -> None:
        self.pid = pid
        self._handle = handle

    def ended(self, seconds: float = 0.0) -> bool:
        """Wait at most that long; tell whether the process has ended."""
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)


@contextlib.contextmanager
def process(lab: Lab, node: LabNode) -> Iterator[Process | None]:
    """Give the node's QEMU process, or None if it does not run."""
    found = _open_process(lab.path(node) / "qemu.pid", node.uuid)
    try:
        yield found
    finally:
        if found is not None:
            os.close(found._handle)


def pid(lab: Lab, node: LabNode) -> int | None:
    """Return the process id of the node's QEMU, or None if it does not run."""
    with process(lab, node) as found:
        return found.pid if found else None


@contextlib.contextmanager
def head(lab: Lab) -> Iterator[Process | None]:
    """Give the process that the head node's servers live and end with, or None."""
    found = _open_process(lab.directory / HEAD_PID, lab.head) if lab.head else None
    try:
        yield found
    finally:
        if found is not None:
            os.close(found._handle)


@contextlib.contextmanager
def head_remains(lab: Lab) -> Iterator[list[Process]]:
    """Give all processes with the head node's UUID on their command lines.

    Besides the head node itself: who waits for it, and who is about to become it.
    """
    found = []
    if lab.head:
        numbers = sorted(int(path.name) for path in Path("/proc").glob("[0-9]*"))
        found = [process for n in numbers if (process := _open(n, lab.head)) is not None]
    try:
        yield found
    finally:
        for process in found:
            os.close(process._handle)


def head_pid(lab: Lab) -> int | None:
    """Return the process id of the lab's head node, or None if it does not run."""
    with head(lab) as found:
        return found.pid if found else None


def require_running(lab: Lab, node: LabNode) -> None:
    """Raise FailedError, which names its console's log, if the node's QEMU does not run."""
    if pid(lab, node) is None:
        raise FailedError(
            f"node {node.number} of lab {lab.name} does not run",
            hint=f"its console so far: {lab.path(node) / 'console.log'}",
        )


def _open_process(pid_file: Path, uuid: str) -> Process | None:
    try:
        return _open(int(pid_file.read_text("ascii")), uuid)
    except (OSError, ValueError):
        return None


def _open(number: int, uuid: str) -> Process | None:
    try:
        handle = os.pidfd_open(number)
    except (OSError, ValueError):
        return None
    # First the handle, then the look: were the number used anew in between, the
    # command line would be another one's.
    try:
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    except OSError:
        words = []
    found = Process(number, handle)
    if uuid.encode() in words and not found.ended():
        return found
    os.close(handle)
    return None


def age(lab: Lab) -> float:
    """Return how long ago the lab was started, in seconds."""
    return max(0.0, time.time() - lab.created)
