# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done with nodes that are deployed: prove them again, start the cluster, run a command."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from provision import evidence
from provision.cluster import Cluster, Node
from provision.errors import FailedError, KrgError
from provision.evidence import Evidence
from provision.facts import Facts
from provision.fleet import Fleet
from provision.module import Module

# Longest output of a command that is kept, for each node and stream.
_OUTPUT_BYTES = 1 << 20
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH"


def ask(nodes: Sequence[Node], among: Fleet, idle: float) -> Mapping[str, Facts | KrgError]:
    """Return what each node says of itself and its cluster, or why it does not."""

    def one(node: Node) -> Facts:
        with among.again(node) as session:
            return session.facts([], running=True, idle=idle)

    found = dict((node.name, answer) for node, answer in among.each(nodes, one))
    return {node.name: found[node.name] for node in nodes}


def prove(
    cluster: Cluster,
    kernel_release: str,
    module: Module | None,
    answers: Mapping[str, Facts | KrgError],
) -> tuple[Evidence, ...]:
    """Return the evidence of every node that was asked; one that did not answer is not all right.

    The nodes of one cluster have to see the same of it: where any of them is online, all are.
    """
    found: list[Evidence] = []
    counts: dict[str, Mapping[str, int]] = {}
    for node in cluster.selected:
        answer = answers[node.name]
        if isinstance(answer, KrgError):
            found.append(Evidence("answers", node.name, "yes", answer.message, False))
            continue
        found += evidence.of_node(cluster, node, kernel_release, module, answer)
        counts[node.name] = evidence.counts(answer)
    if any(seen.get("online", 0) for seen in counts.values()):
        want = f"online {len(cluster.nodes)}, present {len(cluster.nodes)}"
        for name, seen in counts.items():
            have = f"online {seen.get('online', 0)}, present {seen.get('present', 0)}"
            found.append(Evidence("cluster runs", name, want, have, want == have))
    return tuple(found)


def start(
    cluster: Cluster, among: Fleet, kernel_release: str, module: Module | None, limit: float
) -> Iterator[Evidence]:
    """Start the Kerrighed cluster on its nodes and wait until it runs on all of them.

    :param limit: seconds to wait for each of: all nodes present, all online.
    :return: what was seen, the last of it whether the cluster runs.
    :raises FailedError: a node is not ready; nothing was started.
    """
    wanted = len(cluster.nodes)
    answers = ask(cluster.nodes, among, 20.0)
    found = prove(cluster, kernel_release, module, answers)
    if module is None or not module.cluster:
        raise FailedError("the build has no Kerrighed: there is no cluster to start")
    not_ready = [item for item in found if not item.ok and item.what != "cluster runs"]
    if not_ready:
        first = not_ready[0]
        raise FailedError(
            f"{first.where}: {first.what}: {first.have}, not {first.want} "
            f"({len(not_ready)} such things); nothing was started",
            hint="krg-provision verify shows all; deploy --reboot puts it right",
        )
    # The lowest id starts it: that is also what nodes do that start by themselves.
    node = min(cluster.nodes, key=lambda one: one.id)
    seen = _counts(answers[node.name])
    if seen.get("online") == wanted:
        outside = [item for item in found if not item.ok]
        if outside:
            raise FailedError(
                f"{outside[0].where}: {outside[0].have}, not {outside[0].want}: the cluster runs "
                "and has lost a node, which cannot get in again",
                hint="restart all of them: krg-provision deploy --reboot --whole-cluster",
            )
        yield Evidence("cluster runs", node.name, f"online {wanted}", "it ran already", True)
        return
    seen = _wait(among, node, "present", wanted, limit)
    yield _number("nodes present", node, "present", wanted, seen)
    if seen.get("present") != wanted:
        return
    # Asked for its state without the module, krgadm crashes; that it is loaded was seen.
    with among.again(node) as session:
        script = f"{_PATH}\nkrgadm cluster start 2>&1"
        output = session.run(script, label="krg-provision-start", idle=limit, limit=limit)
    said = output.out.decode("utf-8", "replace").strip().splitlines()
    good = output.status == 0
    have = said[-1] if said else ("no answer" if output.timed_out else f"status {output.status}")
    yield Evidence("krgadm cluster start", node.name, "status 0", have, good)
    if good:
        seen = _wait(among, node, "online", wanted, limit)
        yield _number("cluster runs", node, "online", wanted, seen)


def _counts(answer: Facts | KrgError) -> Mapping[str, int]:
    return {} if isinstance(answer, KrgError) else evidence.counts(answer)


def _number(what: str, node: Node, key: str, wanted: int, seen: Mapping[str, int]) -> Evidence:
    have = seen.get(key)
    return Evidence(what, node.name, f"{key} {wanted}", f"{key} {have}", have == wanted)


def _wait(among: Fleet, node: Node, key: str, wanted: int, limit: float) -> Mapping[str, int]:
    """Ask a node for its cluster's numbers until one of them is as wanted, or the time is up."""
    deadline = time.monotonic() + limit
    pause = 0.2
    while True:
        answer = ask([node], among, 20.0)[node.name]
        seen = _counts(answer)
        if seen.get(key) == wanted or time.monotonic() > deadline:
            return seen
        among.pause(pause)
        pause = min(pause * 1.4, 3.0)


# --- a command on many nodes ---------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a command printed on a node and its exit status; -1: it did not end in time."""

    status: int
    out: str
    err: str


def command_line(words: Sequence[str]) -> str:
    """Return the shell text of a command: one word is shell text itself, more are quoted."""
    return words[0] if len(words) == 1 else shlex.join(words)


def run(
    nodes: Sequence[Node], among: Fleet, command: str, limit: float
) -> Mapping[str, Answer | KrgError]:
    """Run a shell command as root on every node, with nothing on its standard input.

    :param limit: seconds after which a node is given up; what it printed so far is kept.
    """
    script = f"{_PATH}\n({command}\n) </dev/null"

    def one(node: Node) -> Answer:
        with among.again(node) as session:
            output = session.run(script, label="krg-provision-exec", idle=limit, limit=limit)
        return Answer(output.status, _text(output.out), _text(output.err))

    found = dict((node.name, answer) for node, answer in among.each(nodes, one))
    return {node.name: found[node.name] for node in nodes}


def _text(raw: bytes) -> str:
    text = raw[:_OUTPUT_BYTES].decode("utf-8", "replace")
    more = len(raw) - _OUTPUT_BYTES
    return text if more <= 0 else f"{text}\n[{more} bytes more]\n"


def folded(answers: Mapping[str, Answer | KrgError]) -> list[tuple[list[str], Answer | KrgError]]:
    """Return the answers with the names of all nodes that gave the same one."""
    groups: dict[object, tuple[list[str], Answer | KrgError]] = {}
    for name, answer in answers.items():
        key: object = answer
        if isinstance(answer, KrgError):
            # Where the message names the node's address, each is its own.
            key = ("error", re.sub(r"\s+", " ", answer.message))
        groups.setdefault(key, ([], answer))[0].append(name)
    return list(groups.values())
