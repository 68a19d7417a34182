# SPDX-License-Identifier: GPL-2.0-or-later
"""deploy over many hosts against a bare Fabric session with each, against scp and pyinfra.

The hosts are real sshd servers in network namespaces of this machine, so client and servers
share its processors. Rounds alternate; medians are compared. All parts use the same number
of connections at a time. The memory is the client's, each process by itself. Planning for more
hosts than there can be is in planning.py.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import against_pyinfra
import planning
from fleet.hosts import Hosts, make_build, make_hosts, missing

FORKS = 16
GOAL_SAME, GOAL_FIRST, GOAL_PYINFRA = 1.3, 1.2, 2.0
GOAL_MEMORY = 200
MEGABYTES = 20
PLANNED, GOAL_PLANNED = 1000, 5.0
# The kernel has no more node ids.
MOST = 254

BARE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from fabric import Connection
from paramiko import RejectPolicy

def one(address):
    connection = Connection(address, user="root", connect_kwargs={"key_filename": sys.argv[1],
                            "look_for_keys": False, "allow_agent": False})
    connection.client.load_host_keys(sys.argv[2])
    connection.client.set_missing_host_key_policy(RejectPolicy())
    connection.run("true", hide=True)
    connection.close()

with ThreadPoolExecutor(int(sys.argv[3])) as pool:
    list(pool.map(one, sys.argv[4:]))
"""


class Done(NamedTuple):
    """What a command took, and what it printed."""

    seconds: float
    megabytes: float
    said: str


def timed(hosts: Hosts, argv: list[str]) -> Done:
    """Run a command in the client's network; return what it took."""
    with tempfile.TemporaryFile() as said:
        started = time.monotonic()
        process = subprocess.Popen(
            argv, env=hosts.environment(), cwd=hosts.directory, stdout=said, stderr=said
        )
        # nsenter becomes the command: it is the same process.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
    if process.returncode:
        sys.exit(f"{argv[:8]}: status {process.returncode}\n{text[-4000:]}")
    return Done(seconds, usage.ru_maxrss / 1024, text)


def deploy(hosts: Hosts, build: Path) -> list[str]:
    """Return the command line of a deploy to all hosts."""
    return hosts.argv(
        "deploy", "--nodes", str(hosts.cluster), "--artifacts", str(build), "--forks", str(FORKS),
        "--force", "glibc", "--force", "init",
    )  # fmt: skip


def scp(hosts: Hosts, file: Path) -> list[str]:
    """Return a command that copies a file to all hosts, as many at a time."""
    options = f"-O -q -B -i {hosts.key} -o UserKnownHostsFile={hosts.known_hosts}"
    addresses = " ".join(host.address for host in hosts.hosts)
    text = (
        f"printf '%s\\n' {addresses} | "
        f"xargs -P {FORKS} -I% scp {options} {file} root@%:/lib/modules/payload"
    )
    return hosts.client.command("sh", "-c", text)


def planned(hosts: Hosts, build: Path, top: Path, what: str) -> str:
    """Return a line about planning for many hosts that answer as the first one does now."""
    said = top / "said"
    timed(hosts, planning.record(hosts, build, said))
    seconds, used = min(planning.measure(build, said, PLANNED) for _ in range(3))
    return (
        f"  {PLANNED} {what} hosts planned in {seconds:.2f} s, {used:.2f} s of the processor "
        f"(goal {GOAL_PLANNED:g})"
    )


def main(count: int, rounds: int) -> None:
    """Measure with ``count`` hosts, and print ratios and the client's memory."""
    if reason := missing():
        print(f"nodes: skipped: {reason}")
        return
    if count > MOST:
        print(f"nodes: {MOST} hosts, not {count}: a cluster has no more")
        count = MOST
    other = against_pyinfra.install()
    if isinstance(other, str):
        print(f"nodes: no comparison with pyinfra: {other}")
    with tempfile.TemporaryDirectory(prefix="krg-bench-") as name:
        top = Path(name)
        build = make_build(top / "build", bulk=MEGABYTES)
        payload = top / "payload"
        bulk = sorted((build / "lib/modules").rglob("bulk*.ko"))
        payload.write_bytes(b"".join(path.read_bytes() for path in bulk))
        copied, first = [], []

        def copy(hosts: Hosts) -> None:
            copied.append(timed(hosts, scp(hosts, payload)))
            for host in hosts.hosts:
                host.path("/lib/modules/payload").unlink()

        # A host that was deployed to is new no more: each round has others.
        for number in range(rounds - 1):
            hosts = make_hosts(top / f"fleet{number}", count)
            try:
                copy(hosts)
                first.append(timed(hosts, deploy(hosts, build)))
            finally:
                hosts.close()
        hosts = make_hosts(top / "fleet", count)
        try:
            copy(hosts)
            plans = [planned(hosts, build, top, "new")]
            first.append(timed(hosts, deploy(hosts, build)))
            plans.append(planned(hosts, build, top, "deployed"))
            # Hashing the payload on all hosts is no part of the other comparison.
            small = make_build(top / "small")
            timed(hosts, deploy(hosts, small))
            script = top / "bare.py"
            script.write_text(BARE)
            addresses = [host.address for host in hosts.hosts]
            bare_argv = hosts.client.command(
                sys.executable, str(script), str(hosts.key), str(hosts.known_hosts), str(FORKS),
                *addresses,
            )  # fmt: skip
            pyinfra_argv = None
            if isinstance(other, Path):
                pyinfra_argv = against_pyinfra.prepare(hosts, other, FORKS, top)
            bare, same, pyinfra = [], [], []
            for _ in range(rounds):
                bare.append(timed(hosts, bare_argv))
                same.append(timed(hosts, deploy(hosts, small)))
                if pyinfra_argv is not None:
                    pyinfra.append(timed(hosts, pyinfra_argv))
                    if not against_pyinfra.changed_nothing(pyinfra[-1].said, count):
                        sys.exit(f"pyinfra found something to change:\n{pyinfra[-1].said[-4000:]}")
        finally:
            hosts.close()
    a, b = median(same), median(bare)
    print(f"nodes: {count} hosts, {FORKS} at a time, {rounds} rounds, medians:")
    print(f"  nothing to change {a:.2f} s, bare Fabric and true {b:.2f} s: {a / b:.2f} "
          f"(goal {GOAL_SAME})")  # fmt: skip
    if pyinfra:
        c = median(pyinfra)
        print(f"  nothing to change {a:.2f} s, pyinfra with three of the files {c:.2f} s: "
              f"{c / a:.1f} times as fast (goal {GOAL_PYINFRA:g})")  # fmt: skip
    d, e = median(first), median(copied)
    print(f"  first run, {MEGABYTES} MiB each: {d:.2f} s, scp {e:.2f} s: "
          f"{d / e:.2f} (goal {GOAL_FIRST})")  # fmt: skip
    most = max(done.megabytes for done in first)
    print(f"  most memory of the client: {most:.0f} MB in the first run, "
          f"{max(done.megabytes for done in same):.0f} MB with nothing to change "
          f"(goal {GOAL_MEMORY} at 256 hosts)")  # fmt: skip
    print(*plans, sep="\n")


def median(found: Sequence[Done]) -> float:
    """Return the median of the seconds."""
    return statistics.median(done.seconds for done in found)
