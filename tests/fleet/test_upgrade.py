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

SECOND, THIRD, FOURTH = (f"2.6.20-krg-test{number}" for number in (2, 3, 4))


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


def test_what_no_entry_names_any_more_goes(node: tuple[Hosts, Machine], tmp_path: Path) -> None:
    hosts, machine = node
    (host,) = hosts.hosts
    before = tree(host)

    def lie_there() -> set[str]:
        kernels = {
            path.name.removeprefix("vmlinuz-") for path in host.path("/boot").glob("vmlinuz-*")
        }
        modules = {path.name for path in host.path("/lib/modules").iterdir()}
        assert kernels == modules | {STOCK}
        return modules

    builds = {r: make_build(tmp_path / r, release=r) for r in (RELEASE, SECOND, THIRD, FOURTH)}
    for release in (RELEASE, SECOND, THIRD):
        code, out = deploy(hosts, builds[release])
        assert code == 0 and "remove the build" not in out, out
    # What depmod makes at a boot, and what somebody else left there.
    modules = host.path(f"/lib/modules/{RELEASE}")
    (modules / "modules.dep").write_text("made anew")
    (modules / "modules.dep.bin").write_text("made anew")
    config = host.path(f"/boot/config-{RELEASE}")
    config.write_text("mine\n")
    third = tree(host)
    # As long as a link leads to it, an entry may.
    safe = host.path("/boot/safe")
    safe.symlink_to(f"vmlinuz-{RELEASE}")
    code, out = deploy(hosts, builds[FOURTH], "--check")
    assert f"the build {RELEASE} is none of our entries and stays" in out
    assert "remove the build" not in out
    safe.unlink()
    code, out = deploy(hosts, builds[FOURTH], "--check")
    assert code == 1, out
    assert f"remove the build {RELEASE}, deployed 2" in out
    assert lie_there() == {RELEASE, SECOND, THIRD}
    code, out = deploy(hosts, builds[FOURTH])
    assert code == 0, out
    assert lie_there() == {SECOND, THIRD, FOURTH}
    assert [path for path in host.path("/boot").iterdir() if path.name.endswith(RELEASE)] == [
        config
    ]
    config.unlink()
    assert deploy(hosts, builds[FOURTH])[1].endswith("1 node: 1 unchanged\n")
    # The run before comes back whole, but for what was gone for good.
    code, out = rollback(hosts)
    assert code == 0, out
    assert tree(host) == {name: what for name, what in third.items() if RELEASE not in name}
    assert next_boot(machine) == THIRD
    # Not the one before that, which would need the first build.
    code, out = rollback(hosts)
    assert code == 1 and f"the entry of {RELEASE} would come back" in out, out
    assert next_boot(machine) == THIRD
    runs = json.loads(
        hosts.run("rollback", "--nodes", str(hosts.cluster), "--list", "--format", "json").stdout
    )
    code, out = rollback(hosts, "--to", runs["nodes"][0]["runs"][0]["date"])
    assert code == 0, out
    assert tree(host) == before and next_boot(machine) == STOCK


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
