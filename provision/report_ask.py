# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks the nodes for a report: one session each, of what cannot hang."""

from __future__ import annotations

import time

from provision import events, policy_check, report, status
from provision.artifacts import Artifacts
from provision.cluster import Cluster, Node
from provision.data import render
from provision.deploy import installed
from provision.errors import FailedError, KrgError
from provision.facts import Facts
from provision.fleet import fleet
from provision.report import Answer, Report
from provision.status import Status
from provision.timeline import MOST_BYTES


def ask(
    cluster: Cluster, build: Artifacts | None, forks: int, idle: float, *, debug: bool = False
) -> Report:
    """Ask every selected node, and make the report; one that cannot be reached is part of it.

    :param idle: seconds of silence after which a node's answer is taken as it is.
    :raises InputError: the build is damaged.
    """
    target = None if build is None else installed(cluster, build)
    paths = [] if target is None else target.paths
    found: dict[str, Answer] = {}
    with fleet(cluster.selected, forks, debug=debug) as among:

        def one(node: Node) -> tuple[Facts, str | None]:
            with among.session(node) as session:
                facts = session.facts(paths, running=True, packages=True, idle=idle)
                if not facts.complete:
                    return facts, None
                script = render("boot_log.sh.j2", most=MOST_BYTES)
                try:
                    said = session.run(script, label="krg-provision-log", idle=idle)
                except FailedError:
                    # The rest of the report is worth having.
                    return facts, None
                return facts, said.out[:MOST_BYTES].decode("utf-8", "replace") or None

        for node, answer in among.each(cluster.selected, one):
            if isinstance(answer, KrgError):
                seen = Status(node, error=answer.message, hint=answer.hint)
                found[node.name] = Answer(seen, answer, None, time.time())
            else:
                facts, log = answer
                seen = status.read(cluster, node, facts, target)
                found[node.name] = Answer(seen, facts, log, time.time())
    answers = [found[node.name] for node in cluster.selected]
    moments = events.last_restarts(cluster)
    if target is None or build is None:
        return report.make(cluster, answers, moments, time.time())
    return report.make(
        cluster,
        answers,
        moments,
        time.time(),
        build=build,
        checked=policy_check.check(
            target.config, _policies(build), build.arch, _cmdline(build, answers)
        ),
    )


def _policies(build: Artifacts) -> list[str]:
    """Return the names of the policies that a build was made with, as its manifest has them."""
    names: object = build.manifest
    for key in ("inputs", "config", "policies"):
        names = names.get(key) if isinstance(names, dict) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, dict) else []


def _cmdline(build: Artifacts, answers: list[Answer]) -> str | None:
    """Return the command line of the first node that runs the build: they differ by ids only."""
    for answer in answers:
        facts = answer.facts
        if not isinstance(facts, KrgError) and facts.word("kernel") == build.kernel_release:
            return facts.word("cmdline")
    return None
