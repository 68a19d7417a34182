# SPDX-License-Identifier: GPL-2.0-or-later
"""Clusters to report on, made of the values that nodes would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from provision import module, policy_check, report
from provision.artifacts import Artifacts
from provision.cluster import Cluster, Node
from provision.errors import FailedError, KrgError
from provision.events import Moment
from provision.facts import Facts
from provision.report import Answer, Report
from provision.status import Status, read

RELEASE = "2.6.20-krg-0123abcd"
CONFIG = "CONFIG_KERRIGHED=y\n# CONFIG_MODULES is not set\n"
MADE = 1_764_000_000.0
# In the form of Linux 2.6.20's with "time" on its command line; the texts are ours.
LOG = """\
<5>Linux version {release} (builder)
<6>Command line: root=/dev/hda1 time
<6>[    0.000000] first
<6>[  419.500000] counting
<4>[  430.500000] VFS: Mounted root (ext3 filesystem) readonly.
<6>[  430.600000] Freeing unused kernel memory: 212k freed
<6>[  432.000000] e1000: eth0: e1000_watchdog: NIC Link is Up 1000 Mbps Full Duplex
<4>[  433.250000] Init something:<4>Kerrighed... loaded!
{links}
<4>[  460.000000] Kerrighed is running on 3 nodes: 1-3
"""


def log(node: int, peers: Sequence[int], lost: Sequence[int] = ()) -> str:
    """Return a node's kernel log with its links."""
    lines = []
    for word, others in (("Established", peers), ("Lost", lost)):
        for peer in others:
            ends = f"<1.1.{node + 1}:eth0-1.1.{peer + 1}:eth0>"
            lines.append(f"<5>[  440.000000] TIPC: {word} link {ends} on network plane A")
    return LOG.format(release=RELEASE, links="\n".join(lines))


def cluster(count: int, prefix: str = "krg") -> Cluster:
    """Return a cluster of ``count`` nodes, session 7."""
    nodes = tuple(Node(f"{prefix}{n}", n, f"10.0.0.{n}") for n in range(1, count + 1))
    return Cluster(7, min(2, count), nodes)


def words(node: int, count: int, **more: str) -> dict[str, str]:
    """Return what a node of a running cluster says of itself."""
    return {
        "kernel": RELEASE,
        "cmdline": f"root=/dev/hda1 session_id=7 node_id={node} time",
        "node_id": str(node),
        "session_id": "7",
        "nrnodes": f"POSSIBLE:254 ONLINE:{count} PRESENT:{count}",
        **more,
    }


def moments(start: float = MADE - 900, took: float = 40.0) -> tuple[Moment, ...]:
    """Return the steps of a node that booted."""
    steps = ((-5, "planned"), (0, "restarting"), (took, "up"), (took + 3, "committed"))
    return tuple(Moment(start + after, step) for after, step in steps)


def journal(number: int, state: str = "done", command: str = "deploy") -> tuple[str, bytes]:
    """Return one journal of a node as its facts hold it."""
    text = f"state {state}\nnumber {number}\ncommand {command}\nbuild {RELEASE}\n"
    text += f"kernel_release {RELEASE}\n"
    return f"journal 202611{number:02}T101500Z-{number:016x}", text.encode()


def build() -> Artifacts:
    """Return a build that is not on disk."""
    made = Artifacts(Path("/nowhere"), "kerrighed-2.4.4", "x86_64", RELEASE, "0123abcd", {}, {})
    # There is no .config to find it in.
    made.__dict__["module"] = module.kerrighed()
    return made


def make(
    count: int,
    change: Mapping[int, dict[str, str | None] | KrgError] | None = None,
    *,
    config: str = CONFIG,
    logs: Mapping[int, str | None] | None = None,
    prefix: str = "krg",
    blobs: Mapping[str, bytes] | None = None,
) -> Report:
    """Return the report of ``count`` nodes that run one cluster.

    :param change: by node's id other words (None: not said), or why it does not answer.
    :param logs: by node's id another kernel log.
    """
    there = cluster(count, prefix)
    answers = []
    ids = [node.id for node in there.nodes]
    away = [n for n, what in (change or {}).items() if isinstance(what, KrgError)]
    for node in there.nodes:
        what = (change or {}).get(node.id, {})
        if isinstance(what, KrgError):
            answers.append(
                Answer(Status(node, error=what.message, hint=what.hint), what, None, MADE)
            )
            continue
        said = words(node.id, count) | what
        facts = Facts(
            words={name: word for name, word in said.items() if word is not None},
            blobs=dict([journal(2, command="boot"), journal(1)]) if blobs is None else blobs,
            complete=True,
        )
        mine = log(node.id, [n for n in ids if n != node.id and n not in away], away)
        text = (logs or {}).get(node.id, mine)
        answers.append(Answer(read(there, node, facts, None), facts, text, MADE))
    checked = policy_check.check(config, ["kerrighed-2.4.4"], "x86_64", "root=/dev/hda1")
    steps = {node.name: moments(took=40.0 + node.id % 7) for node in there.nodes}
    return report.make(there, answers, steps, MADE, build=build(), checked=checked)


def mixed() -> Report:
    """Return eight nodes, one in each state that a node of a Kerrighed build can be in."""
    gone = FailedError("10.0.0.5 cannot be reached: timed out", hint="is it switched on?")
    return make(
        8,
        {
            2: {"nrnodes": "POSSIBLE:254 ONLINE:0 PRESENT:2"},
            3: {"node_id": None, "session_id": None, "nrnodes": None},
            4: {"kernel": "6.1.0-56-amd64", "node_id": None, "session_id": None, "nrnodes": None},
            5: gone,
            6: {"node_id": "9"},
        },
        logs={4: "Linux version 6.1.0-56-amd64\nno stamps\n", 3: None, 7: "[ 99.5] late\n"},
    )
