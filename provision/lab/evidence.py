# SPDX-License-Identifier: GPL-2.0-or-later
"""Prove that a lab is one system: what was looked at, what was wanted, what was seen.

Nothing is concluded from a tool's exit status alone: ``migrate`` says 0 even if nothing
moved, so the process is asked where it is, by the kernel's /proc and by its own word.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from provision.console import say
from provision.errors import FailedError
from provision.evidence import Evidence
from provision.lab import agent, head, lifecycle
from provision.lab.state import Lab, LabNode

STEP_SECONDS = 60.0
START_SECONDS = 180.0
_FILE = "/tmp/krg-lab-counter"  # noqa: S108 - a name on the nodes, which only root is on


@dataclass(frozen=True)
class Sample:
    """What the counter last wrote: see counter.c."""

    pid: int
    count: int
    node: int
    memory: str


def prove(lab: Lab) -> list[Evidence]:
    """Look at everything in turn; stop where going on makes no sense.

    A cluster that does not run yet is started. No step takes longer than its limit.
    """
    network = (_network_root,) if lab.is_diskless else ()
    return _looked_at(lab, (_modules, *network, _cluster, _sums, _migration))


def prove_boot(lab: Lab) -> list[Evidence]:
    """Look at how the nodes of a lab without disks came up, and whether they are a cluster."""
    return _looked_at(lab, (_modules, _network_root, _cluster))


def _looked_at(lab: Lab, steps: Sequence[Callable[[Lab], list[Evidence]]]) -> list[Evidence]:
    found: list[Evidence] = []
    for step in steps:
        say(f"lab test: {(step.__doc__ or '').splitlines()[0].rstrip('.')}")
        try:
            found += step(lab)
        except FailedError as error:
            found.append(Evidence(step.__name__.strip("_"), "lab", "an answer", str(error), False))
        if not all(item.ok for item in found):
            break
    return found


def parse_sample(text: str) -> Sample | None:
    """Read the counter's line; None if it is not whole."""
    words = text.split()
    if len(words) != 4 or not all(re.fullmatch(r"-?\d+", word) for word in words[:3]):
        return None
    return Sample(int(words[0]), int(words[1]), int(words[2]), words[3])


def processor(stat: str) -> int | None:
    """Return the processor that a /proc/PID/stat line says the process is on.

    Kerrighed numbers them through all nodes: node * CONFIG_NR_CPUS + processor.
    """
    # The name, in brackets, may hold anything; 39 is the processor (proc(5)).
    fields = stat.rpartition(")")[2].split()
    return int(fields[36]) if len(fields) > 36 else None


def _each(lab: Lab, command: str) -> list[tuple[LabNode, str]]:
    """Run a command on every node at once."""
    with ThreadPoolExecutor(len(lab.nodes)) as pool:
        answers = pool.map(lambda n: agent.run(lab.path(n), command, STEP_SECONDS), lab.nodes)
        return list(zip(lab.nodes, (answer.output for answer in answers), strict=True))


def _modules(lab: Lab) -> list[Evidence]:
    """Look for the kernel and the module on every node."""
    found = []
    for seen in lifecycle.status(lab, STEP_SECONDS):
        where = f"node {seen.number}"
        want = f"up, {lab.kernel_release}"
        have = seen.state + (f", {seen.kernel_release}" if seen.kernel_release else "")
        found.append(Evidence("kernel booted", where, want, have, want == have))
        want = f"node {seen.number}, session {lab.session}"
        loaded = seen.node_id is not None
        have = f"node {seen.node_id}, session {seen.session_id}" if loaded else "not seen"
        found.append(Evidence("module loaded", where, want, have, want == have))
    return found


def _network_root(lab: Lab) -> list[Evidence]:
    """Look where every node has its kernel and its root from."""
    found = []
    server = head.address(lab)
    for node, said in _each(lab, "cat /proc/cmdline /proc/mounts"):
        where = f"node {node.number}"
        # pxelinux adds the kernel's name; the head node notes which entry it gave to whom.
        kernel = re.search(r"\bBOOT_IMAGE=(\S+)", said)
        served = head.was_served(lab, node)
        have = f"{served or 'no entry'}, {kernel[1] if kernel else 'no BOOT_IMAGE='}"
        want = f"pxelinux.cfg/{head.entry(lab, node)}, vmlinuz-{lab.kernel_release}"
        found.append(Evidence("booted by pxelinux", where, want, have, want == have))
        roots = re.findall(r"^\S+ / (nfs \S+)", said, re.M)
        options = set(re.split("[ ,]", roots[0])) if roots else set()
        wanted = ("nfs", "rw", "vers=3", "proto=tcp", f"addr={server}")
        have = " ".join(word for word in wanted if word in options) or "no NFS"
        want = " ".join(wanted)
        found.append(Evidence("root over NFS", where, want, have, want == have))
    return found


def _cluster(lab: Lab) -> list[Evidence]:
    """Start the cluster, unless it runs, and wait until every node is in."""
    count = len(lab.nodes)
    first = lab.path(lab.nodes[0])
    want = f"online {count}, present {count}"
    found = []
    if not all(seen.online == count for seen in lifecycle.status(lab, STEP_SECONDS)):
        # All nodes must be seen first: what is started later cannot join.
        lifecycle.wait_for(
            f"{count} nodes present",
            START_SECONDS,
            lambda: all(seen.present == count for seen in lifecycle.status(lab, STEP_SECONDS)),
        )
        started = time.monotonic()
        reply = agent.run(first, "krgadm cluster start", START_SECONDS)
        said = " ".join(reply.output.split()) or "no output"
        have = f"{said} ({time.monotonic() - started:.0f} s)"
        found.append(Evidence("krgadm cluster start", "node 1", "status 0", have, reply.ok))
        if not reply.ok:
            return found
        _wait_quietly(
            START_SECONDS,
            lambda: all(seen.online == count for seen in lifecycle.status(lab, STEP_SECONDS)),
        )
    for seen in lifecycle.status(lab, STEP_SECONDS):
        have = f"online {seen.online}, present {seen.present}"
        found.append(Evidence("cluster runs", f"node {seen.number}", want, have, want == have))
    reply = agent.run(first, "krgadm cluster status; krgadm nodes", STEP_SECONDS)
    have = " ".join(reply.output.split())
    found.append(Evidence("krgadm cluster status", "node 1", "status 0", have, reply.ok))
    return found


def _sums(lab: Lab) -> list[Evidence]:
    """Compare processors and memory with the sum over the nodes."""
    count = len(lab.nodes)
    nodes = " ".join(f"/proc/nodes/node{node.number}/meminfo" for node in lab.nodes)
    found = []
    for node, said in _each(
        lab, f"grep -c ^processor /proc/cpuinfo; cat {nodes}; echo /; cat /proc/meminfo"
    ):
        where = f"node {node.number}"
        processors = said.split("\n", 1)[0].strip()
        each, _, whole = said.partition("\n/\n")
        single = [int(kb) for kb in re.findall(r"^MemTotal:\s+(\d+) kB", each, re.M)]
        total = [int(kb) for kb in re.findall(r"^MemTotal:\s+(\d+) kB", whole, re.M)]
        found.append(
            Evidence("processors", where, str(count), processors, processors == str(count))
        )
        want = f"{' + '.join(map(str, single))} = {sum(single)} kB"
        fits = len(single) == count and total == [sum(single)]
        have = f"{total[0]} kB" if total else "none"
        found.append(Evidence("memory", where, want, have, fits))
    return found


def _migration(lab: Lab) -> list[Evidence]:
    """Migrate a process to another node, and look where it is and whether it goes on."""
    if len(lab.nodes) < 2:
        return [Evidence("migration", "lab", "two nodes or more", "one node", False)]
    home, away = lab.nodes[0], lab.nodes[1]
    run = _Counter(lab, home)
    before = run.start()
    try:
        return _moved(run, before, home.number, away.number)
    finally:
        run.stop()


class _Counter:
    """The counter process on its home node."""

    def __init__(self, lab: Lab, home: LabNode) -> None:
        self._lab = lab
        self._home = lab.path(home)
        self.pid = 0

    def start(self) -> Sample:
        agent.run(self._home, f"rm -f {_FILE}; setsid counter {_FILE} &", STEP_SECONDS)
        return self.wait(lambda sample: sample.count > 3, "the counter to run")

    def sample(self) -> Sample | None:
        return parse_sample(agent.run(self._home, f"cat {_FILE}", STEP_SECONDS).output)

    def wait(self, fits: Callable[[Sample], bool], what: str) -> Sample:
        last: list[Sample] = []

        def ask() -> bool:
            sample = self.sample()
            if sample is not None:
                self.pid = sample.pid
                last[:] = [sample]
            return sample is not None and fits(sample)

        lifecycle.wait_for(what, STEP_SECONDS, ask)
        return last[0]

    def command(self, text: str) -> agent.Reply:
        return agent.run(self._home, text, STEP_SECONDS)

    def seen_on(self) -> dict[int, int | None]:
        """Return, for every node asked, the processor its /proc says the process is on."""
        said = _each(self._lab, f"cat /proc/{self.pid}/stat")
        return {node.number: processor(text) for node, text in said}

    def stop(self) -> None:
        if self.pid:
            self.command(f"kill -KILL {self.pid}; rm -f {_FILE}")


def _moved(run: _Counter, before: Sample, home: int, away: int) -> list[Evidence]:
    where = f"process {run.pid}"
    found = [
        Evidence("counts at home", where, f"on node {home}", _tell(before), before.node == home)
    ]
    # One processor per node, so the home node's number gives the distance between nodes.
    at_home = run.seen_on()[home] or 0
    for command in (
        f"krgcapset -k {run.pid} --effective +CAN_MIGRATE",
        f"migrate {run.pid} {away}",
    ):
        reply = run.command(command)
        have = f"status {reply.status} {' '.join(reply.output.split())}".strip()
        found.append(Evidence(command.split()[0], f"node {home}", "status 0", have, reply.ok))
        if not reply.ok:
            return found
    _wait_quietly(STEP_SECONDS, lambda: (now := run.sample()) is not None and now.node == away)
    there = run.sample() or before
    moved = there.node == away and there.pid == before.pid and there.count > before.count
    found.append(Evidence("says where it is", where, f"on node {away}", _tell(there), moved))
    if not moved:
        return found
    want = f"processor {at_home * away // home} (node {away}; was {at_home})"
    for node, seen in run.seen_on().items():
        have = f"processor {seen}" if seen is not None else "not seen"
        fits = at_home > 0 and seen is not None and seen * home == at_home * away
        found.append(Evidence("/proc/PID/stat", f"node {node}", want, have, fits))
    later = run.wait(lambda now: now.count > there.count + 20, "the migrated process to count on")
    goes_on = later.node == away and later.pid == before.pid and later.memory == "intact"
    found.append(
        Evidence("goes on counting", where, f"above {there.count}, intact", _tell(later), goes_on)
    )
    return found


def _tell(sample: Sample) -> str:
    return f"on node {sample.node}, count {sample.count}, memory {sample.memory}"


def _wait_quietly(seconds: float, ask: Callable[[], bool]) -> None:
    """Wait for a state; what is the case after that is told by looking at it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not ask():
        time.sleep(0.3)
