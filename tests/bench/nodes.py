# SPDX-License-Identifier: GPL-2.0-or-later
"""deploy over many hosts against a bare Fabric session with each, and against scp.

The hosts are real sshd servers in network namespaces of this machine, so client and servers
share its processors. Rounds alternate; medians are compared. All parts use the same number
of connections at a time.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fleet.hosts import Hosts, make_build, make_hosts, missing

FORKS = 16
GOAL_SAME, GOAL_FIRST = 1.3, 1.2
MEGABYTES = 20

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


def timed(hosts: Hosts, argv: list[str]) -> float:
    """Run a command in the client's network; return its wall-clock seconds."""
    started = time.monotonic()
    done = subprocess.run(
        argv, env=hosts.environment(), cwd=hosts.directory, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(
            f"{argv[:8]}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return time.monotonic() - started


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


def main(count: int, rounds: int) -> None:
    """Measure with ``count`` hosts, and print ratios and the client's memory."""
    if reason := missing():
        print(f"nodes: skipped: {reason}")
        return
    with tempfile.TemporaryDirectory(prefix="krg-bench-") as name:
        top = Path(name)
        build = make_build(top / "build", bulk=MEGABYTES)
        payload = top / "payload"
        bulk = sorted((build / "lib/modules").rglob("bulk*.ko"))
        payload.write_bytes(b"".join(path.read_bytes() for path in bulk))
        hosts = make_hosts(top / "fleet", count)
        try:
            copied = timed(hosts, scp(hosts, payload))
            for host in hosts.hosts:
                host.path("/lib/modules/payload").unlink()
            first = timed(hosts, deploy(hosts, build))
            memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
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
            bare, same = [], []
            for _ in range(rounds):
                bare.append(timed(hosts, bare_argv))
                same.append(timed(hosts, deploy(hosts, small)))
        finally:
            hosts.close()
    a, b = statistics.median(same), statistics.median(bare)
    print(f"nodes: {count} hosts, {FORKS} at a time, {rounds} rounds, medians:")
    print(f"  nothing to change {a:.2f} s, bare Fabric and true {b:.2f} s: {a / b:.2f} "
          f"(goal {GOAL_SAME})")  # fmt: skip
    print(f"  first run, {MEGABYTES} MiB each: {first:.2f} s, scp {copied:.2f} s: "
          f"{first / copied:.2f} (goal {GOAL_FIRST})")  # fmt: skip
    print(f"  most memory of one process: {memory:.0f} MB")
