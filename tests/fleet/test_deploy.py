# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision deploy against real sshd servers."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.fleet.conftest import MENU_LST, RELEASE, Host, Hosts, make_build, wait_for

pytestmark = pytest.mark.fleet

KERNEL = f"/boot/vmlinuz-{RELEASE}"


def deploy(hosts: Hosts, build: Path, *arguments: str) -> tuple[int, str, str]:
    done = hosts.run("deploy", "--nodes", str(hosts.cluster), "--artifacts", str(build), *arguments)
    return done.returncode, done.stdout, done.stderr


def is_deployed(host: Host) -> bool:
    return host.path(KERNEL).exists()


def test_check_then_deploy_then_nothing(hosts: Hosts, build: Path) -> None:
    before = [host.tree() for host in hosts.hosts]
    code, out, err = deploy(hosts, build, "--check")
    print(out, err)
    assert code == 1
    assert "krg[1-3]:" in out
    assert "+session=7" in out
    assert f"add {KERNEL} (20,000 bytes)" in out
    assert out.rstrip().endswith("3 nodes: 3 would change")
    assert [host.tree() for host in hosts.hosts] == before

    code, out, err = deploy(hosts, build)
    print(out, err)
    assert code == 0, out + err
    assert out.rstrip().endswith("3 nodes: 3 changed")
    for host in hosts.hosts:
        assert host.path(KERNEL).read_bytes() == (build / "vmlinuz").read_bytes()
        tree = host.path(f"/lib/modules/{RELEASE}")
        assert len(list(tree.rglob("*.ko"))) == 31
        assert not (tree / "build").is_symlink()
        assert host.path("/usr/local/bin/krgadm").stat().st_mode & 0o7777 == 0o755
        assert os.readlink(host.path("/usr/local/bin/migrate")) == "krgadm"
        assert (
            host.path("/etc/kerrighed_nodes").read_text()
            == "session=7\nnbmin=2\nkrg1:1:eth0\nkrg2:2:eth0\nkrg3:3:eth0\n"
        )
        assert "\nENABLE=true\n" in host.path("/etc/default/kerrighed").read_text()
        assert host.path("/etc/init.d/kerrighed").stat().st_mode & 0o111 == 0o111
        menu = host.path("/boot/grub/menu.lst")
        assert menu.read_bytes().startswith(MENU_LST)
        assert menu.stat().st_mode & 0o7777 == 0o600
        assert (
            f"kernel\t\t{KERNEL} root=/dev/hda1 ro quiet session_id=7 "
            f"node_id={host.number} panic=10\n".encode()
            in menu.read_bytes()
        )
        copies = list(host.path("/var/backups/krg-provision").rglob("menu.lst"))
        assert [copy.read_bytes() for copy in copies] == [MENU_LST]
        assert host.stages() == []

    after = [host.tree() for host in hosts.hosts]
    code, out, err = deploy(hosts, build)
    assert (code, out.rstrip().splitlines()[-1]) == (0, "3 nodes: 3 unchanged"), out + err
    assert "krg[1-3]: nothing to change" in out
    assert [host.tree() for host in hosts.hosts] == after
    code, out, _ = deploy(hosts, build, "--check", "--format", "json")
    assert code == 0
    assert {node["state"] for node in json.loads(out)["nodes"]} == {"unchanged"}
