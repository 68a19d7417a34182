# SPDX-License-Identifier: GPL-2.0-or-later
"""report against real sshd: after a rollout, and with a node that is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from .hosts import RELEASE, Hosts, make_build, make_hosts
from .machine import Machine

pytestmark = pytest.mark.fleet

# Its clock must not be ahead of a restart that takes a second.
LOG = """\
[    0.000000] Linux version {release}
[    0.020000] console
[    0.250000] VFS: Mounted root (ext3 filesystem).
[    0.400000] TIPC: Established link <1.1.2:eth0-1.1.3:eth0> on network plane A
"""


def test_a_rollout_and_a_node_that_is_gone(can_have_hosts: None, tmp_path: Path) -> None:
    hosts = make_hosts(tmp_path / "fleet", 2)
    machines: list[Machine] = []
    try:
        for host in hosts.hosts:
            machines.append(Machine(host))
            dmesg = host.path("/usr/local/sbin/dmesg")
            dmesg.write_text(f"#!/bin/sh\ncat <<'E'\n{LOG.format(release=RELEASE)}E\n")
            dmesg.chmod(0o755)
        _look(hosts, make_build(tmp_path / "build"))
    finally:
        for machine in machines:
            machine.close()
        hosts.close()


def _look(hosts: Hosts, build: Path) -> None:
    common = ("--nodes", str(hosts.cluster), "--artifacts", str(build))
    done = hosts.run(
        "deploy", *common, "--reboot", "--force", "glibc", "--force", "init", "--boot-timeout", "20"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = hosts.directory / "report.html"
    done = hosts.run("report", *common)
    # The build's configuration is two lines long: its policy is not kept.
    assert done.returncode == 1, done.stderr
    assert done.stdout == "report.html: 2 nodes: 2 present; 1 problem\n"
    text = page.read_text("utf-8")
    assert "1 link up" in text and "root mounted <b>0.2" in text
    assert "restart to answer <b>" in text and "derived rest <b>" in text
    assert "krg[1-2]" in text and "deploy" in text and RELEASE in text
    hosts.hosts[1].stop_network()
    done = hosts.run("report", *common, "-o", "gone.html", "--timeout", "5")
    assert done.returncode == 1
    assert done.stdout.startswith("gone.html: 2 nodes: 1 present, 1 unreachable; ")
    assert "krg2, node 2: unreachable" in (hosts.directory / "gone.html").read_text("utf-8")
    assert page.read_text("utf-8") == text
