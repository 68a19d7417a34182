# SPDX-License-Identifier: GPL-2.0-or-later
"""Bring a lab up, look at it, take it down."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from provision.artifacts import Artifacts
from provision.console import say
from provision.errors import FailedError, InputError, KrgError, MissingError
from provision.lab import agent, disk_image, disk_node, head, qemu, state
from provision.lab.accel import choose
from provision.lab.image import initramfs
from provision.lab.state import Lab, LabNode
from provision.musl import Arch
from provision.paths import cache_dir, labs_dir

BOOT_SECONDS = 300.0  # seen: 7 s on an idle machine, minutes on a crowded one
JOIN_SECONDS = 180.0
MOST_NODES = 32
LOG_MEGABYTES = 2
# A layer can grow to the whole disk, and is made by way of a copy of what is in use.
DISK_MEGABYTES = 300
# A head node's files, and the same in its memory: the build's modules, a root.
SERVED_MEGABYTES = 100
_PORTS = range(22000, 30000)

Bootloader = Literal["none", "legacy", "grub2", "pxelinux"]

# One round trip; all of it answers even when another node of the cluster is lost,
# which cannot be said of ps, /proc/cpuinfo or /proc/meminfo.
_LOOK = (
    "uname -r; cat /proc/sys/kernel/random/boot_id; cat /run/lab/ready || echo -; "
    "cat /sys/kerrighed/node_id /sys/kerrighed/session_id || "
    "cat /sys/kernel/*/node_id /sys/kernel/*/session_id || echo -; "
    "cat /proc/nodes/nrnodes"
)


@dataclass(frozen=True)
class NodeStatus:
    """What a node is seen to be: its process, and what it says of itself.

    ``state`` is "ended" (its QEMU does not run), "silent" (it runs and does not answer),
    "booting", "failed" (its start script did) or "up"; what is not known is None.
    """

    number: int
    state: str
    pid: int | None = None
    kernel_release: str | None = None
    boot_id: str | None = None
    node_id: int | None = None
    session_id: int | None = None
    online: int | None = None
    present: int | None = None


def up(
    artifacts: Artifacts,
    *,
    name: str,
    nodes: int,
    memory: int,
    session: int,
    accel: str,
    bootloader: Bootloader = "none",
) -> Lab:
    """Start a lab and wait until every node is up.

    Without a boot loader that is with the build's kernel and Kerrighed loaded; with GRUB it is
    with Debian's kernel from the node's disk, an SSH server, and nothing of the build yet. With
    pxelinux a head node is started first, and the nodes are up when they are one cluster.
    If a node does not come up, everything started is ended; the consoles' logs stay.

    :raises InputError: a bad value, or the lab is up already.
    :raises MissingError: no QEMU, too little memory, no multicast; for a head node a right or
        a program.
    :raises FailedError: a node does not come up.
    """
    state.checked_name(name)
    _check_range("nodes", nodes, 1, MOST_NODES)
    _check_range("session", session, 0, 255)  # an unsigned char in the kernel
    _check_range("memory", memory, 64, 3072)
    qemu.program(artifacts.arch)
    diskless, disks = bootloader == state.PXELINUX, bootloader not in ("none", state.PXELINUX)
    if disks:
        disk_image.check_tools()
    if diskless:
        head.check()
    if changed := artifacts.changed():
        raise InputError(
            f"{artifacts.directory}: not as it was built: {', '.join(changed[:3])}",
            hint="remove the directory and build again: krg-provision build-kernel",
        )
    with state.locked(name):
        _check_down(name)
        network = state.network_of(labs_dir() / name)
        _check_strays(name, network)
        if not diskless:
            qemu.check_network(network)
        served = SERVED_MEGABYTES if diskless else 0
        _check_memory(nodes * memory + served)
        _check_space(nodes * (DISK_MEGABYTES if disks else LOG_MEGABYTES) + served)
        base = None
        with _space_named(cache_dir(), "the nodes' programs are made", "XDG_CACHE_HOME"):
            # Of a build without Kerrighed's tools there is none: its nodes have disks.
            plain = disks and "tools/bin/krgadm" not in artifacts.files
            image = None if plain else initramfs(artifacts)
            if bootloader in ("legacy", "grub2"):
                base = disk_image.base_image(cast(Arch, artifacts.arch), bootloader)
        ports = _ports(name, nodes) if base else [0] * nodes
        lab = Lab(
            name=name,
            session=session,
            build=str(artifacts.directory),
            arch=artifacts.arch,
            kernel_release=artifacts.kernel_release,
            memory=memory,
            accel=choose(accel, artifacts, image),
            created=time.time(),
            nodes=tuple(LabNode(n, str(uuid.uuid4()), port) for n, port in enumerate(ports, 1)),
            bootloader=bootloader,
            head=str(uuid.uuid4()) if diskless else "",
        )
        _lay_out(lab)
        try:
            with _space_named(labs_dir(), "the lab's files are made", "XDG_STATE_HOME"):
                if base is not None:
                    disk_node.lay_out(lab, base)
                if diskless:
                    head.lay_out(lab, artifacts)
            _start_all(lab, artifacts, image)
            _wait_for_all(lab)
            if diskless:
                _wait_for_cluster(lab)
        except BaseException:
            _stop_all(lab)
            raise
    return lab


def down(name: str) -> tuple[int, Path]:
    """End a lab; return how many nodes still ran and where their consoles' logs are.

    :raises InputError: no such lab is up.
    """
    with state.locked(name):
        lab = state.load_up(name)
        return _stop_all(lab), lab.directory


def status(lab: Lab, timeout: float = 20.0) -> list[NodeStatus]:
    """Ask every node of a lab what it is; none takes longer than ``timeout`` seconds."""
    with ThreadPoolExecutor(len(lab.nodes)) as pool:
        return list(pool.map(lambda node: look(lab, node, timeout), lab.nodes))


def look(lab: Lab, node: LabNode, timeout: float) -> NodeStatus:
    """Ask one node what it is."""
    pid = state.pid(lab, node)
    if pid is None:
        return NodeStatus(node.number, "ended")
    try:
        said = agent.run(lab.path(node), f"({_LOOK}) 2>/dev/null", timeout).output
    except agent.SilentError:
        return NodeStatus(node.number, "silent" if state.pid(lab, node) else "ended", pid)
    return parse_look(node.number, pid, said)


def parse_look(number: int, pid: int, said: str) -> NodeStatus:
    """Read the answer to ``_LOOK``."""
    words = said.split()
    counts = dict(re.findall(r"^(ONLINE|PRESENT):(\d+)$", said, re.MULTILINE))
    kernel, boot_id, ready = [*words[:3], "-", "-", "-"][:3]
    ids = [int(word) for word in words[3:5] if word.isdigit()]
    loaded = len(ids) == 2
    return NodeStatus(
        number,
        {"0": "up", "-": "booting"}.get(ready, "failed"),
        pid,
        kernel,
        boot_id,
        ids[0] if loaded else None,
        ids[1] if loaded else None,
        int(counts["ONLINE"]) if "ONLINE" in counts else None,
        int(counts["PRESENT"]) if "PRESENT" in counts else None,
    )


def wait_for(what: str, seconds: float, ask: Callable[[], bool]) -> None:
    """Ask again and again until the answer is yes; FailedError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not ask():
        if time.monotonic() >= deadline:
            raise FailedError(f"{what}: not within {seconds:g} s")
        time.sleep(0.3)


# -- up, step by step -----------------------------------------------------------


def _check_range(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InputError(f"--{what} {value}: must be between {least} and {most}")


def _check_down(name: str) -> None:
    lab = state.load(name)
    if lab is None:
        return
    running = [node.number for node in lab.nodes if state.pid(lab, node)]
    if running:
        raise InputError(
            f"lab {name} is up already with {len(running)} of {len(lab.nodes)} nodes",
            hint=f"krg-provision lab down --name {name}, or take another --name",
        )


def _check_strays(name: str, network: tuple[str, int]) -> None:
    if left := [str(pid) for pid in qemu.strays(network)]:
        raise InputError(
            f"nodes of an earlier lab {name} still run, and its directory knows nothing of "
            f"them: process {', '.join(left)}",
            hint=f"kill {' '.join(left)}",
        )


def _check_memory(megabytes: int) -> None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    if found and megabytes > (available := int(found[1]) // 1024):
        raise MissingError(
            f"the nodes want {megabytes} MB of memory, and {available} MB are free",
            hint="fewer --nodes or less --memory",
        )


def _check_space(megabytes: int) -> None:
    # QEMU drops what it cannot write to a console's log, and says nothing.
    free = shutil.disk_usage(labs_dir()).free >> 20
    if free < megabytes:
        raise MissingError(
            f"{labs_dir()}: {free} MB free; the nodes' logs and disks may need {megabytes} MB",
            hint="make room there, or set XDG_STATE_HOME to a place with some",
        )


@contextlib.contextmanager
def _space_named(place: Path, what: str, variable: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise MissingError(
            f"no space left in {place}, where {what}",
            hint=f"make room there (about 100 MB), or set {variable} to a place with some",
        ) from error


def _lay_out(lab: Lab) -> None:
    """Make the lab's directory anew: logs of an earlier run go, and nothing else."""
    try:
        lab.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError as error:
        raise _in_the_way(lab.directory) from error
    made = [old for old in lab.directory.glob("node*") if old.name.removeprefix("node").isdigit()]
    for old in [*made, *lab.directory.glob(head.SERVED)]:
        if old.is_symlink() or not old.is_dir():
            raise _in_the_way(old)
        shutil.rmtree(old)
    head.clear(lab)
    for node in lab.nodes:
        lab.path(node).mkdir(mode=0o700)
    state.save(lab)


def _in_the_way(path: Path) -> InputError:
    return InputError(
        f"{path}: not a directory of a lab's, and in the way of one",
        hint="move it away, or take another --name",
    )


def _ports(name: str, count: int) -> list[int]:
    """Return loopback ports for SSH that are free now; the same ones again where possible.

    Below the ports that the system gives to outgoing connections (ip_local_port_range).
    """
    digest = hashlib.sha256(str(labs_dir() / name).encode()).digest()
    start = int.from_bytes(digest[:2])
    found: list[int] = []
    for step in range(_PORTS.stop - _PORTS.start):
        port = _PORTS[(start + step) % len(_PORTS)]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise MissingError(f"no {count} free ports from {_PORTS.start} to {_PORTS.stop - 1}")


def _start_all(lab: Lab, artifacts: Artifacts, image: Path | None) -> None:
    """Start the nodes, and first the head node if they have one.

    :param image: the initramfs; None where the nodes have disks and the build no tools.
    """
    enter: list[str] = []
    if lab.is_diskless and image is not None:
        head.start(lab, image)
        enter = head.enter(lab)
    for node in lab.nodes:
        if lab.is_diskless:
            boot = list(qemu.NETWORK_BOOT)
        elif lab.has_disks or image is None:
            boot = qemu.disk_boot(lab, node)
        else:
            boot = qemu.kernel_boot(lab, node, artifacts.path("vmlinuz"), image)
        qemu.start(lab, node, boot, enter)
    what = lab.kernel_release if lab.bootloader == "none" else f"through {lab.bootloader}"
    say(f"lab {lab.name}: {len(lab.nodes)} nodes booting {what} ({lab.accel})")


def _wait_for_all(lab: Lab) -> None:
    started = time.monotonic()
    with ThreadPoolExecutor(len(lab.nodes)) as pool:
        waiting = [pool.submit(_wait_for_node, lab, node, started) for node in lab.nodes]
        try:
            done, _ = wait(waiting, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            # The others see their node end and stop waiting.
            _stop_all(lab)
            raise


def _wait_for_node(lab: Lab, node: LabNode, started: float) -> None:
    deadline = started + BOOT_SECONDS
    while True:
        seen = look(lab, node, 3.0)
        if seen.state == "up":
            break
        # One that boots from the network goes on trying, also where that is no use.
        lost = lab.is_diskless and qemu.panicked(lab, node)
        if seen.state in ("ended", "failed") or lost or time.monotonic() > deadline:
            raise _not_up(lab, node, seen)
        time.sleep(0.3)
    if lab.has_disks:
        after = time.monotonic() - started
        say(f"node {node.number}: up after {after:.0f} s, {seen.kernel_release}")
        return
    if (seen.node_id, seen.session_id) != (node.number, lab.session):
        raise FailedError(
            f"node {node.number}: the kernel took node {seen.node_id} of session "
            f"{seen.session_id}, not {node.number} of {lab.session}"
        )
    say(f"node {node.number}: up after {time.monotonic() - started:.0f} s, Kerrighed loaded")


def _wait_for_cluster(lab: Lab) -> None:
    """Wait until all nodes are one cluster: the least number of nodes on their command lines."""
    count, started = len(lab.nodes), time.monotonic()
    while True:
        seen = status(lab, 3.0)
        if all(one.online == count for one in seen):
            break
        ended = [one for one in seen if one.state == "ended"]
        if ended:
            raise _not_up(lab, lab.node(ended[0].number), ended[0])
        if time.monotonic() - started > JOIN_SECONDS:
            online = ", ".join(f"node {one.number}: {one.online or 0}" for one in seen)
            raise FailedError(
                f"the nodes did not become a cluster of {count} within {JOIN_SECONDS:.0f} s "
                f"(online by {online})",
                hint=f"their consoles' logs: {lab.directory}/node*/{qemu.CONSOLE_LOG}",
            )
        time.sleep(0.3)
    say(f"lab {lab.name}: {count} nodes are one cluster, started by themselves")


def _not_up(lab: Lab, node: LabNode, seen: NodeStatus) -> KrgError:
    tail = qemu.console_tail(lab, node, 60)
    last = next((line for line in reversed(tail) if "lab: FAILED" in line), None)
    last = last or next((line for line in tail if "Kernel panic" in line), None)
    said = last or (tail[-1] if tail else "nothing on the console")
    how = {
        "ended": "its QEMU ended while it booted",
        "failed": "its start script failed",
    }.get(seen.state, f"did not come up within {BOOT_SECONDS:.0f} s")
    if lab.is_diskless and qemu.panicked(lab, node):
        how = "its kernel panicked"
    log = lab.path(node) / qemu.CONSOLE_LOG
    return FailedError(f"node {node.number}: {how}: {said.strip()}", hint=f"its console: {log}")


def _stop_all(lab: Lab) -> int:
    """End every node that runs, then forget the lab; logs stay."""
    count = sum(qemu.stop(lab, node) for node in lab.nodes)
    if lab.is_diskless:
        head.stop(lab)
    disk_node.remove(lab)
    (lab.directory / state.STATE).unlink(missing_ok=True)
    return count


def overview() -> list[tuple[Lab, int]]:
    """Return every lab of this user and how many of its nodes run."""
    labs = [lab for name in state.names() if (lab := state.load(name)) is not None]
    return [(lab, sum(state.pid(lab, node) is not None for node in lab.nodes)) for lab in labs]
