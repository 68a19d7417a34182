# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision init --ask-nodes against real sshd servers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from provision.cluster import read_cluster

from .hosts import Hosts
from .test_deploy import FORCE

pytestmark = pytest.mark.fleet


def init(hosts: Hosts, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = hosts.run(
        "init", "new.toml", "--ask-nodes", "--key", str(hosts.key), "--known-hosts",
        str(hosts.known_hosts), *arguments,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_hosts_say_who_they_are(hosts: Hosts, build: Path) -> None:
    # Unknown keys: all fingerprints, and one line that brings them all.
    known = hosts.known_hosts.read_text()
    hosts.known_hosts.write_text(known.splitlines()[2] + "\n")
    done = init(hosts, "--hosts", "10.99.0.[1-3]")
    assert done.returncode == 1 and not (hosts.directory / "new.toml").exists()
    assert len(re.findall(r"10\.99\.0\.[12]: unknown host key SHA256:", done.stderr)) == 2
    command = next(line for line in done.stderr.splitlines() if "ssh-keyscan" in line).strip()
    assert "-t ed25519 -p 22 10.99.0.1 10.99.0.2 >>" in command
    subprocess.run(
        hosts.client.command("sh", "-c", command), check=True, capture_output=True,
        env=hosts.environment(),
    )  # fmt: skip
    assert set(known.split()) <= set(hosts.known_hosts.read_text().split())

    done = init(hosts, "--hosts", "10.99.0.[1-3]")
    assert done.returncode == 0, done.stderr
    assert "wrote new.toml: session 1, krg[1-3]" in done.stdout
    nodes = read_cluster(hosts.directory / "new.toml").nodes
    assert [(n.name, n.id, n.address, n.interface) for n in nodes] == [
        (f"krg{n}", n, f"10.99.0.{n}", "eth0") for n in (1, 2, 3)
    ]
    done = hosts.run("deploy", "--nodes", "new.toml", "--artifacts", str(build), *FORCE, "--check")
    assert done.returncode == 1 and "3 nodes: 3 would change" in done.stdout, done.stderr


def test_the_tutorials_file_gets_host_names(hosts: Hosts) -> None:
    (hosts.directory / "kerrighed_nodes").write_text(
        "session = 5\nnbmin = 2\n10.99.0.3:9:eth1\n10.99.0.1:4:eth1\n"
    )
    hosts.hosts[0].path("/etc/hostname").write_text("krg1\n")
    done = init(hosts, "--from", "kerrighed_nodes")
    assert done.returncode == 0, done.stderr
    assert (
        read_cluster(hosts.directory / "new.toml").nodes_file()
        == "session=5\nnbmin=2\nkrg3:9:eth1\nkrg1:4:eth1\n"
    )


def test_two_hosts_of_one_name_and_one_that_is_down(hosts: Hosts) -> None:
    hosts.hosts[1].path("/etc/hostname").write_text("krg1\n")
    done = init(hosts, "--hosts", "10.99.0.[1-3]")
    assert done.returncode == 2 and "name krg1 is already node krg1's" in done.stderr
    hosts.hosts[1].path("/etc/hostname").write_text("krg;reboot\n")
    done = init(hosts, "--hosts", "10.99.0.[1-2]")
    assert done.returncode == 2 and "'krg;reboot' is not a host name" in done.stderr
    hosts.hosts[1].space.run("ip", "address", "del", "10.99.0.2/16", "dev", "eth0")
    hosts.client.run("ip", "route", "add", "unreachable", "10.99.0.2/32")
    done = init(hosts, "--hosts", "10.99.0.[1-3]")
    assert done.returncode == 1 and "1 of 3 hosts could not be asked" in done.stderr
    assert not (hosts.directory / "new.toml").exists()
