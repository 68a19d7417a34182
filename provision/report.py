# SPDX-License-Identifier: GPL-2.0-or-later
"""A cluster on one page: what its nodes run, how they booted, what was done to them, and how the
build's configuration keeps to its policy. Values in, a value and HTML out; report_ask.py asks.

The page is one file without scripts that requests nothing. What nodes say goes through
data.render_html, where no text can become markup.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kconfig.finding import SEVERITIES, Finding
from provision import __version__, drawing, journal, operate, timeline
from provision.artifacts import Artifacts
from provision.cluster import Cluster, Node
from provision.data import render_html
from provision.drawing import Picture
from provision.errors import KrgError
from provision.events import Moment
from provision.evidence import Evidence
from provision.facts import Facts
from provision.plan import fold
from provision.policy_check import Checked
from provision.status import Status
from provision.timeline import Boot, Log

# Longest name that fits into the picture.
_NAME = 16


@dataclass(frozen=True)
class State:
    """What a node is in, as it is drawn: an id for shape and colour, a word, and if it is good."""

    id: str
    label: str
    good: bool
    what: str


STATES = {
    state.id: state
    for state in (
        State("online", "online", True, "in the running cluster"),
        State("present", "present", True, "module loaded, the cluster does not run yet"),
        State("booted", "booted", True, "runs the build, which has no Kerrighed"),
        State("up", "up", True, "answers; there is no build to compare with"),
        State("no-module", "no module", False, "runs the build, but Kerrighed is not loaded"),
        State("other-kernel", "other kernel", False, "runs another kernel than the build's"),
        State(
            "wrong-ids", "wrong ids", False, "runs with another id or session than the file says"
        ),
        State("silent", "silent", False, "stopped answering while it was asked"),
        State("unreachable", "unreachable", False, "could not be asked"),
    )
}


@dataclass(frozen=True)
class Answer:
    """What one node gave: its status, its facts and kernel log as far as it gave them, and when."""

    status: Status
    facts: Facts | KrgError
    log: str | None
    asked: float


@dataclass(frozen=True)
class NodeReport:
    """One node of the report."""

    node: Node
    state: State
    status: Status
    boot: Boot
    log: Log | None
    evidence: tuple[Evidence, ...] = ()

    @property
    def short(self) -> str:
        """Return its name as it fits into the picture."""
        name = self.node.name
        return name if len(name) <= _NAME else f"{name[: _NAME - 1]}\u2026"

    @property
    def counts(self) -> Mapping[str, int]:
        """Return how many nodes of the cluster it sees online and present."""
        return dict(self.status.counts)


@dataclass(frozen=True)
class Run:
    """Something that was done, and to which nodes: those with the same are one."""

    date: str
    command: str
    build: str
    kernel_release: str
    state: str
    nodes: str


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, where, and what can be done."""

    where: str
    what: str
    hint: str = ""


@dataclass(frozen=True)
class Report:
    """Everything on the page."""

    cluster: Cluster
    made: float
    nodes: tuple[NodeReport, ...]
    problems: tuple[Problem, ...]
    runs: tuple[Run, ...]
    picture: Picture
    build: Artifacts | None = None
    checked: Checked | None = None
    links: tuple[int, int] = (0, 0)
    evidence: tuple[Evidence, ...] = field(default=())

    @property
    def good(self) -> bool:
        """Tell whether nothing is wrong."""
        return not self.problems

    @property
    def states(self) -> list[tuple[State, int]]:
        """Return the states there are, each with its number of nodes."""
        ids = [node.state.id for node in self.nodes]
        return [(state, ids.count(name)) for name, state in STATES.items() if name in ids]

    @property
    def summary(self) -> str:
        """Return the report in one line."""
        counts = ", ".join(f"{count} {state.label}" for state, count in self.states)
        total = f"{len(self.nodes)} node{'' if len(self.nodes) == 1 else 's'}"
        wrong = len(self.problems)
        end = "nothing wrong" if not wrong else f"{wrong} problem{'' if wrong == 1 else 's'}"
        return f"{total}: {counts}; {end}"


def state_of(status: Status, kernel_release: str | None, *, module: bool) -> State:
    """Return what a node is in.

    :param kernel_release: of the build; None when there is none to compare with.
    :param module: whether the build has Kerrighed.
    """
    if status.error is not None:
        name = "unreachable"
    elif status.loaded and status.findings and "runs" in status.findings[0]:
        name = "wrong-ids"
    elif status.findings:
        name = "silent"
    elif kernel_release is not None and status.kernel != kernel_release:
        name = "other-kernel"
    elif status.loaded:
        name = "online" if dict(status.counts).get("online", 0) > 0 else "present"
    elif kernel_release is None:
        name = "up"
    else:
        name = "no-module" if module else "booted"
    return STATES[name]


def make(
    cluster: Cluster,
    answers: Sequence[Answer],
    moments: Mapping[str, Sequence[Moment]],
    made: float,
    *,
    build: Artifacts | None = None,
    checked: Checked | None = None,
) -> Report:
    """Return the report that the answers of a cluster's selected nodes amount to.

    :param moments: each node's steps in its last rollout.
    :param made: seconds since the epoch.
    """
    release = None if build is None else build.kernel_release
    module = None if build is None else build.module
    proof: tuple[Evidence, ...] = ()
    if release is not None:
        facts = {answer.status.node.name: answer.facts for answer in answers}
        proof = operate.prove(cluster, release, module, facts)
    nodes = []
    for answer in answers:
        status = answer.status
        log = None if answer.log is None else timeline.read_log(answer.log)
        nodes.append(
            NodeReport(
                status.node,
                state_of(status, release, module=module is not None),
                status,
                timeline.boot(log, moments.get(status.node.name, ()), answer.asked),
                log,
                tuple(item for item in proof if item.where == status.node.name),
            )
        )
    up, lost = _links(nodes)
    return Report(
        cluster,
        made,
        tuple(nodes),
        tuple(_problems(nodes, checked)),
        tuple(_runs(answers)),
        drawing.picture(len(nodes), up, lost),
        build,
        checked,
        (len(up), len(lost)),
        proof,
    )


def _links(nodes: Sequence[NodeReport]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the links that are up and those that were lost, as pairs of places in ``nodes``."""
    places = {node.node.id: number for number, node in enumerate(nodes)}
    seen: dict[tuple[int, int], bool] = {}
    for node in nodes:
        for ends, is_up in (node.log.links if node.log is not None else {}).items():
            # Each tells of its own; where the two differ, the link is lost.
            if node.node.id in ends and all(end in places for end in ends):
                seen[ends] = seen.get(ends, True) and is_up
    pairs = {ends: (places[ends[0]], places[ends[1]]) for ends in sorted(seen)}
    up = [pair for ends, pair in pairs.items() if seen[ends]]
    return up, [pair for ends, pair in pairs.items() if not seen[ends]]


def _wrong(item: Evidence) -> tuple[str, str]:
    """Return what an item of evidence that is not right amounts to, and what can be done.

    Where nodes differ by their ids only, the text is the same for all.
    """
    if item.what == "kernel booted":
        return f"runs the kernel {item.have}, not {item.want}", "krg-provision deploy --reboot"
    if item.what == "module loaded" and item.have == "-":
        return "Kerrighed is not loaded", "/etc/init.d/kerrighed start, and its kernel's log"
    if item.what == "cluster runs":
        return (
            f"sees of its cluster: {item.have}, wanted {item.want}",
            "krg-provision start; where a node was lost, the whole cluster has to restart",
        )
    return f"{item.what}: {item.have}, wanted {item.want}", "krg-provision deploy --reboot"


def _problems(nodes: Sequence[NodeReport], checked: Checked | None) -> Iterator[Problem]:
    groups: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        status = node.status
        if status.error is not None:
            groups.setdefault((status.error, status.hint or ""), []).append(node.node.name)
        for text in status.findings:
            groups.setdefault((text, ""), []).append(node.node.name)
        # What comes first explains the rest: another kernel has no module, and is in no cluster.
        if status.error is None and not status.findings:
            for item in [item for item in node.evidence if not item.ok][:1]:
                groups.setdefault(_wrong(item), []).append(node.node.name)
    for (text, hint), names in groups.items():
        yield Problem(fold(names), text, hint)
    required = 0 if checked is None else checked.count("required")
    if required:
        rules = f"{required} required setting{'' if required == 1 else 's'}"
        yield Problem("configuration", f"{rules} of its policy not kept", "see below")


def _runs(answers: Sequence[Answer]) -> Iterator[Run]:
    """Yield what was done, the newest first; a rollout gives all its nodes the same date."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for answer in answers:
        if isinstance(answer.facts, KrgError):
            continue
        for run in journal.listing(answer.facts):
            words = ("date", "command", "build", "kernel_release", "state")
            key = tuple(str(run[word] or "") for word in words)
            names = groups.setdefault(key, [])
            # A node that tells the same twice is still one.
            if answer.status.node.name not in names:
                names.append(answer.status.node.name)
    for (date, command, build, release, state), names in sorted(
        groups.items(), key=lambda item: item[0], reverse=True
    ):
        yield Run(_date(date), command, build, release, state, fold(names))


def _date(text: str) -> str:
    """Return a journal's date for people; as it is where it is none."""
    found = re.fullmatch(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", text)
    return "{}-{}-{} {}:{}:{}".format(*found.groups()) if found else text


# --- the page ------------------------------------------------------------------------------


def utc(seconds: float) -> str:
    """Return a time for people, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def _percent(value: float, whole: float) -> str:
    return f"{max(0.0, min(100.0, 100 * value / whole)):.2f}%"


def _bars(report: Report) -> dict[str, Any]:
    """Return the time line as the page draws it: every place is a percentage of the axis."""
    ticks = timeline.ticks(max((node.boot.length for node in report.nodes), default=0.0))
    whole = ticks[-1]
    rows: list[dict[str, Any]] = []
    for node in report.nodes:
        boot = node.boot
        made = [
            {
                "kind": part.kind,
                "x": _percent(part.start, whole),
                "width": _percent(part.seconds, whole),
                "middle": _percent((part.start + part.end) / 2, whole),
                "seconds": part.seconds,
                # Narrower than its number, a part has none.
                "room": part.seconds / whole > 0.055,
            }
            for part in timeline.parts(boot)
        ]
        answered = None if boot.answered is None else _percent(boot.answered, whole)
        committed = None if boot.committed is None else _percent(boot.committed, whole)
        rows.append({"node": node, "parts": made, "answered": answered, "committed": committed})
    return {
        "rows": rows,
        "ticks": [(tick, _percent(tick, whole)) for tick in ticks],
        "any": any(row["parts"] for row in rows),
        "kinds": {part["kind"] for row in rows for part in row["parts"]},
    }


def _by_severity(checked: Checked) -> list[tuple[str, list[Finding]]]:
    return [
        (severity, found)
        for severity in SEVERITIES
        if (found := [f for f in checked.findings if f.severity == severity])
    ]


def html(report: Report) -> str:
    """Return the page."""
    return render_html(
        "report.html.j2",
        report=report,
        bars=_bars(report),
        milestones=timeline.milestones(),
        severities=[] if report.checked is None else _by_severity(report.checked),
        utc=utc,
        version=__version__,
    )
