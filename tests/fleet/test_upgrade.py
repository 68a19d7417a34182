# SPDX-License-Identifier: GPL-2.0-or-later
"""A new build on a node that boots the former one by default: tried, kept, taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .hosts import RELEASE, Host, Hosts, make_build, make_hosts
from .machine import STOCK, Machine
from .test_reboot import deploy, next_boot

pytestmark = pytest.mark.fleet

SECOND, THIRD = "2.6.20-krg-test2", "2.6.20-krg-test3"


@pytest.fixture
def node(can_have_hosts: None, tmp_path: Path) -> Iterator[tuple[Hosts, Machine]]:
    """One host that can be restarted."""
    hosts = make_hosts(tmp_path / "fleet", 1)
    try:
        machine = Machine(hosts.hosts[0])
        try:
            yield hosts, machine
        finally:
            machine.close()
    finally:
        hosts.close()


def tree(host: Host) -> dict[str, tuple[int, bytes]]:
    """Return everything but our own notes, and the number that GRUB writes by itself."""
    notes = ("var/lib/krg-provision", "boot/grub/default")
    return {name: what for name, what in host.tree().items() if not name.startswith(notes)}


def rollback(hosts: Hosts, *more: str) -> tuple[int, str]:
    done = hosts.run(
        "rollback", "--nodes", str(hosts.cluster), "--boot-timeout", "20", "--reboot", *more
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr + done.stdout


def test_a_new_build_falls_back_to_the_former_one(
    node: tuple[Hosts, Machine], tmp_path: Path
) -> None:
    hosts, machine = node
    (host,) = hosts.hosts
    states = [tree(host)]
    for release in (RELEASE, SECOND):
        code, out = deploy(hosts, make_build(tmp_path / release, release=release))
        assert code == 0, out
        states.append(tree(host))
    assert f"our entry for vmlinuz-{RELEASE}, the default, stays: it is the way back" in out
    assert machine.boots == [RELEASE, SECOND] and next_boot(machine) == SECOND
    assert host.path(f"/lib/modules/{RELEASE}/modules.dep").exists()
    # It can no longer be loaded: the former build, not the stock kernel.
    kernel = host.path(f"/boot/vmlinuz-{SECOND}")
    kernel.rename(kernel.with_suffix(".away"))
    assert next_boot(machine) == RELEASE
    kernel.with_suffix(".away").rename(kernel)
    assert next_boot(machine) == SECOND

    # A third one panics: the second is the default again.
    machine.fate[THIRD] = "panic"
    code, out = deploy(hosts, make_build(tmp_path / THIRD, release=THIRD))
    assert code == 1, out
    assert f"our entry for vmlinuz-{RELEASE} is taken out of the menu" in out
    assert f"krg1: fell back: came back with {SECOND} instead of {THIRD}" in out
    assert machine.boots[-2:] == [THIRD, SECOND] and next_boot(machine) == SECOND

    # Each rollback brings back what was before that deploy, with the kernel that ran then.
    for state, release in ((2, SECOND), (1, RELEASE), (0, STOCK)):
        code, out = rollback(hosts)
        assert code == 0, out
        assert tree(host) == states[state]
        assert machine.release == next_boot(machine) == release


@pytest.mark.slow
def test_all_builds_are_left_at_once(node: tuple[Hosts, Machine], tmp_path: Path) -> None:
    hosts, machine = node
    (host,) = hosts.hosts
    before = tree(host)
    for release in (RELEASE, SECOND):
        assert deploy(hosts, make_build(tmp_path / release, release=release))[0] == 0
    listed = hosts.run(
        "rollback", "--nodes", str(hosts.cluster), "--list", "--format", "json"
    ).stdout
    code, out = rollback(hosts, "--to", json.loads(listed)["nodes"][0]["runs"][0]["date"])
    assert code == 0, out
    assert machine.boots == [RELEASE, SECOND, STOCK]
    assert tree(host) == before
