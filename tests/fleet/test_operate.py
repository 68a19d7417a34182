# SPDX-License-Identifier: GPL-2.0-or-later
"""exec and verify against real sshd; start is tried on real nodes in tests/lab."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .hosts import RELEASE, Hosts, make_build, make_hosts
from .machine import STOCK, Machine

pytestmark = pytest.mark.fleet


@pytest.fixture(scope="module")
def pair(
    can_have_hosts: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Hosts, list[Machine]]]:
    """Two hosts that can be restarted."""
    hosts = make_hosts(tmp_path_factory.mktemp("pair") / "fleet", 2)
    machines: list[Machine] = []
    try:
        for host in hosts.hosts:
            machines.append(Machine(host))
        yield hosts, machines
    finally:
        for machine in machines:
            machine.close()
        hosts.close()


def test_equal_output_is_shown_once(pair: tuple[Hosts, list[Machine]]) -> None:
    hosts, _ = pair
    done = hosts.run("exec", "--nodes", str(hosts.cluster), "echo same; echo two >&2")
    assert (done.returncode, done.stdout) == (0, "krg[1-2]:\n  same\n  two\n"), done.stderr
    done = hosts.run("exec", "--nodes", str(hosts.cluster), "cat /etc/hostname; exit 3")
    assert done.returncode == 1
    assert done.stdout == "krg1: status 3\n  krg1\nkrg2: status 3\n  krg2\n"


def test_words_arrive_as_they_are(pair: tuple[Hosts, list[Machine]]) -> None:
    hosts, _ = pair
    words = ["".join(chr(c) for c in range(1, 127)), "", "a b", "$(id)", "`id`", "-n", "é\n"]
    done = hosts.run(
        "exec", "--nodes", str(hosts.cluster), "--format", "json", "--", "printf", r"<%s>\n", *words
    )
    assert done.returncode == 0, done.stderr
    for node in json.loads(done.stdout)["nodes"]:
        assert node["out"] == "".join(f"<{word}>\n" for word in words)


def test_what_hangs_or_reads_is_bounded(pair: tuple[Hosts, list[Machine]]) -> None:
    hosts, _ = pair
    done = hosts.run(
        "exec", "--nodes", str(hosts.cluster), "--timeout", "2", "cat; echo begun; exec sleep 600"
    )
    assert done.returncode == 1
    assert done.stdout == "krg[1-2]: did not end within 2 s\n  begun\n", done.stderr


def test_verify_says_what_is_missing(pair: tuple[Hosts, list[Machine]], tmp_path: Path) -> None:
    hosts, machines = pair
    build = make_build(tmp_path / "build")
    verify = ("verify", "--nodes", str(hosts.cluster), "--artifacts", str(build))
    done = hosts.run(*verify)
    assert done.returncode == 1
    assert f"no  kernel booted  krg1   {RELEASE}" in done.stdout
    assert STOCK in done.stdout
    for number, machine in enumerate(machines, 1):
        machine._runs(RELEASE, f"root=/dev/hda1 session_id=7 node_id={number}")
    done = hosts.run(*verify, "--format", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(item["ok"] for item in json.loads(done.stdout)["evidence"])
    # The ids of another node, and one that does not answer.
    machines[0]._runs(RELEASE, "root=/dev/hda1 session_id=7 node_id=2")
    hosts.hosts[1].stop_network()
    done = hosts.run(*verify)
    assert done.returncode == 1
    assert "node 2, session 7" in done.stdout
    assert "no  answers" in done.stdout
