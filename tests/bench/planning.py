# SPDX-License-Identifier: GPL-2.0-or-later
"""How long the plans of many nodes take, without the network: what one real host said, N times.

Everything else is what deploy --check does: a session for each node in the pool, the facts
read out of what it said, the rules, the plan, and all of it printed folded. Each node's boot entry
differs from all others by its id.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fleet.hosts import Hosts

from provision import artifacts, node_rules
from provision.boot import Limits
from provision.carry_out import Way
from provision.cli import deploy as command
from provision.cluster import Cluster, Node
from provision.deploy import Target, build_files, observe
from provision.fleet import fleet
from provision.node import Session
from provision.rollout import Pace
from provision.ssh import Output

HERE = Path(__file__).resolve()
_MARK = re.compile(r"krg-[0-9a-f]{32}")
# Run in the hosts' network: asks the first node as deploy does, and keeps what it said.
_RECORD = """
import sys
from pathlib import Path
from provision import artifacts, cluster, deploy
from provision.node import Session

class Recorder(Session):
    def run(self, script, **options):
        output = super().run(script, **options)
        Path(sys.argv[3]).write_bytes(output.out)
        Path(sys.argv[3] + ".script").write_text(script)
        return output

build = artifacts.load(Path(sys.argv[2]))
among = cluster.select(sys.argv[1])
with Recorder(among.nodes[0]) as session:
    session.facts(deploy.installed(among, build).paths, idle=60.0)
"""


def record(hosts: Hosts, build: Path, place: Path) -> list[str]:
    """Return the command line that writes down what a host answers."""
    return hosts.client.command(
        sys.executable, "-c", _RECORD, str(hosts.cluster), str(build), str(place)
    )


def _session(said: bytes, mark: bytes) -> type[Session]:
    class Replayed(Session):
        """A session with nobody: the answer is known."""

        def __enter__(self) -> Session:
            return self

        def run(self, script: str, **_: Any) -> Output:
            found = _MARK.search(script)
            assert found is not None
            return Output(0, said.replace(mark, found[0].encode()), b"")

    return Replayed


def plan_all(build: Path, place: Path, count: int) -> tuple[float, float]:
    """Plan for ``count`` nodes, from facts to printed plans; all would change.

    :param place: where ``record`` put what a host said.
    :return: seconds by the clock, and of the processor, which a busy machine does not change.
    """
    found = _MARK.search(place.with_name(place.name + ".script").read_text())
    assert found is not None
    replayed = _session(place.read_bytes(), found[0].encode())
    # More than a Kerrighed cluster has: the file's rules are not asked.
    nodes = tuple(
        Node(f"krg{number}", number, f"10.{number >> 8}.{number & 255}.1")
        for number in range(1, count + 1)
    )
    made = artifacts.load(build)
    cluster = Cluster(7, 2, nodes)
    config = made.path("config").read_text()
    target = Target(cluster, made, build_files(made), config, force=frozenset(node_rules.RULES))
    way = Way(Pace(0, None, None), Limits())
    with fleet(nodes, 16, debug=True) as among, contextlib.redirect_stdout(io.StringIO()):
        among._sessions = {node.name: replayed(node) for node in nodes}
        started, used = time.monotonic(), time.process_time()
        outcomes = list(observe(target, among).values())
        command._show(target, outcomes, False, True, way)
        command._report(target, outcomes, "text", True)
        seconds, used = time.monotonic() - started, time.process_time() - used
    # One that has the build lacks at least the longer list of nodes.
    assert all(outcome.state == "would change" for outcome in outcomes), outcomes[0]
    return seconds, used


def measure(build: Path, place: Path, count: int) -> tuple[float, float]:
    """Return what ``plan_all`` does, from a process of its own."""
    done = subprocess.run(
        [sys.executable, str(HERE), str(build), str(place), str(count)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds, used = done.stdout.split()
    return float(seconds), float(used)


if __name__ == "__main__":
    print(*plan_all(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
