# SPDX-License-Identifier: GPL-2.0-or-later
"""deploy --reboot: the trial boot, what goes wrong in it, waves, and interrupted runs."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .hosts import MENU_LST, RELEASE, Hosts, make_build, make_hosts, wait_for
from .machine import STOCK, Machine

pytestmark = pytest.mark.fleet

STATE = "/var/lib/krg-provision"
FORCE = ("--force", "glibc", "--force", "init")


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return make_build(tmp_path / "build")


@pytest.fixture
def fleet(can_have_hosts: None, tmp_path: Path) -> Iterator[tuple[Hosts, list[Machine]]]:
    """Three hosts that can be restarted."""
    hosts = make_hosts(tmp_path / "fleet", 3)
    machines: list[Machine] = []
    try:
        for host in hosts.hosts:
            machines.append(Machine(host))
        yield hosts, machines
    finally:
        for machine in machines:
            machine.close()
        hosts.close()


def arguments(hosts: Hosts, build: Path, *more: str) -> tuple[str, ...]:
    return (
        "deploy", "--nodes", str(hosts.cluster), "--artifacts", str(build), *FORCE, "--reboot",
        "--boot-timeout", "20", "--prove-timeout", "2", *more,
    )  # fmt: skip


def deploy(hosts: Hosts, build: Path, *more: str) -> tuple[int, str]:
    done = hosts.run(*arguments(hosts, build, *more))
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr + done.stdout


def next_boot(machine: Machine) -> str:
    """Restart a machine as a power cut would; return what it boots."""
    machine.power_cycle()
    return machine.release


def test_all_prove_themselves_and_the_build_is_the_default(
    fleet: tuple[Hosts, list[Machine]], build: Path
) -> None:
    hosts, machines = fleet
    code, out = deploy(hosts, build, "--check")
    assert code == 1, out
    assert f"restart once into {RELEASE}; back to {STOCK}" in out
    assert "order: krg1, then krg2, then krg3" in out
    assert "+default saved" in re.sub(r"[ \t]+", " ", out)
    assert [m.boots for m in machines] == [[], [], []]
    code, out = deploy(hosts, build, "--wave", "2")
    assert code == 0, out
    assert "3 nodes: 3 booted" in out
    assert len(re.findall(r"(?m)^ok +module loaded", out)) == 3
    assert [m.boots for m in machines] == [[RELEASE]] * 3
    # For good: any later start is of the build.
    assert [next_boot(m) for m in machines] == [RELEASE] * 3
    code, out = deploy(hosts, build)
    assert (code, out.rstrip().splitlines()[-1]) == (0, "3 nodes: 3 unchanged"), out


@pytest.mark.parametrize("fate", ["panic", "no module", "other id"])
def test_a_canary_that_fails_stops_the_rollout_and_goes_back(
    fleet: tuple[Hosts, list[Machine]], build: Path, fate: str
) -> None:
    hosts, machines = fleet
    machines[0].fate[RELEASE] = fate
    if fate == "panic":
        log = hosts.hosts[0].path("/var/log/kern.log")
        log.write_text(
            "Linux version 2.6.26-2-686 (x)\nold\n"
            f"Linux version {RELEASE} (x)\nKernel panic - not syncing: no good\n"
            "Linux version 2.6.26-2-686 (x)\nnew\n"
        )
    code, out = deploy(hosts, build)
    assert code == 1, out
    if fate == "panic":
        assert f"krg1: fell back: came back with {STOCK} instead of {RELEASE}" in out
        assert "| Kernel panic - not syncing: no good" in out and "| new" not in out
    else:
        assert f"krg1: unproven: came up with {RELEASE}, but module loaded: " in out
        assert f"it is back on {STOCK}" in out
    assert "krg[2-3]: not begun: the canary krg1 failed" in out
    assert machines[0].boots == [RELEASE, STOCK]
    assert [m.boots for m in machines[1:]] == [[], []]
    assert not hosts.hosts[1].path(f"/boot/vmlinuz-{RELEASE}").exists()
    assert next_boot(machines[0]) == STOCK
    # Mended: only those that were left are done again.
    machines[0].fate.clear()
    code, out = deploy(hosts, build, "--retry-failed")
    assert code == 0, out
    assert "3 nodes: 3 booted" in out
    assert [next_boot(m) for m in machines] == [RELEASE] * 3


def test_trials_that_cannot_be_reached(fleet: tuple[Hosts, list[Machine]], build: Path) -> None:
    """One comes up without a network, one hangs at once, one is reset after it came up."""
    hosts, machines = fleet
    fates = ("no network", "hang", "dies")
    for machine, fate in zip(machines, fates, strict=True):
        machine.fate[RELEASE] = fate
    shim = hosts.hosts[0].path("/usr/local/sbin/dmesg")
    shim.write_text("#!/bin/sh\necho 'eth0: no such device'\n")
    shim.chmod(0o755)
    all_at_once = ("--max-down", "2", "--canary", "0", "--wave", "3")
    limit = ("--boot-timeout", "5", *all_at_once)
    code, out = deploy(hosts, build, "--check", *limit)
    assert "not confirmed within 8 s of its init scripts" in out and "+seconds 8" in out
    code, out = deploy(hosts, build, *limit)
    assert code == 1, out
    assert "krg1: not reached; it should come back by itself within 13 s" in out
    back = f"fell back: came back with {STOCK} instead of {RELEASE}"
    assert f"krg1: {back}, by itself after 8 s without being reached: {RELEASE} ran, but" in out
    assert "| eth0: no such device" in out
    assert "krg2: down: did not come back within 18 s" in out
    assert "by its power switch" in out
    assert f"krg3: {back}; {RELEASE} came as far as its init scripts and was reset then" in out
    assert [m.boots for m in machines] == [[RELEASE, STOCK], [RELEASE], [RELEASE, STOCK]]
    assert [next_boot(m) for m in machines] == [STOCK] * 3
    # Mended.
    for machine in machines:
        machine.fate.clear()
    code, out = deploy(hosts, build, *all_at_once)
    assert "note: the trial before: by itself after 8 s without being reached" in out
    assert (code, out.rstrip().splitlines()[-1]) == (0, "3 nodes: 3 booted"), out
    # One trial, one restart at most: no later start is taken for one.
    assert [next_boot(m) for m in machines] == [RELEASE] * 3
    left = {path.name for host in hosts.hosts for path in host.path(STATE).glob("trial*")}
    assert left <= {"trial-log"}


def test_a_restart_with_the_same_boot_id_and_uptime(
    fleet: tuple[Hosts, list[Machine]], build: Path
) -> None:
    hosts, machines = fleet
    for machine in machines:
        machine.same_boot_id = True
    code, out = deploy(hosts, build, "--canary", "0", "--wave", "3")
    assert (code, out.rstrip().splitlines()[-1]) == (0, "3 nodes: 3 booted"), out


def test_unreachable_nodes_count_before_anything_is_begun(
    fleet: tuple[Hosts, list[Machine]], build: Path
) -> None:
    hosts, machines = fleet
    hosts.hosts[2].stop_network()
    code, out = deploy(hosts, build)
    assert code == 1, out
    assert "krg[1-2]: not begun: 1 node failed before it began" in out
    assert [m.boots for m in machines] == [[], [], []]
    code, out = deploy(hosts, build, "--max-down", "1")
    assert (code, out.rstrip().splitlines()[-1]) == (1, "3 nodes: 2 booted, 1 failed"), out


def test_a_changed_host_key_after_the_restart_is_not_trusted(
    fleet: tuple[Hosts, list[Machine]], build: Path
) -> None:
    hosts, machines = fleet
    machines[0].new_host_key = True
    code, out = deploy(hosts, build, "--boot-timeout", "3")
    assert code == 1, out
    assert (
        "krg1: down: did not come back within 12 s (the host key of 10.99.0.1 has changed: " in out
    )
    assert "ssh-keygen -R" in out


def test_killed_at_every_step_and_the_next_run_converges(
    fleet: tuple[Hosts, list[Machine]], build: Path
) -> None:
    """The client is killed when each step is first heard of."""
    hosts, machines = fleet
    steps = ("sending", "done in", "restarting", "up", "committed")
    for number, step in enumerate(steps):
        running = hosts.start(*arguments(hosts, build, "--canary", "0"))
        assert running.stderr is not None
        for line in running.stderr:
            if re.match(rf"krg\d: {step}\b", line):
                break
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate(timeout=30)
        for machine in machines:
            wait_for("a machine that is up", machine.host.path("/run/sshd.pid").exists)
        if number == len(steps) // 2:
            assert all(next_boot(m) in (STOCK, RELEASE) for m in machines)
    code, out = deploy(hosts, build)
    assert code == 0, out
    assert [next_boot(m) for m in machines] == [RELEASE] * 3
    assert [host.stages() for host in hosts.hosts] == [[], [], []]


def test_a_menu_edited_between_plan_and_arming(
    fleet: tuple[Hosts, list[Machine]], build: Path
) -> None:
    hosts, machines = fleet
    menu = hosts.hosts[0].path("/boot/grub/menu.lst")
    # The last thing that runs on the node before it is armed.
    linked = hosts.hosts[0].path("/usr/local/sbin/update-rc.d")
    linked.write_text('#!/bin/sh\nsed -i "s/^timeout=5/timeout=9/" /boot/grub/menu.lst\n')
    linked.chmod(0o755)
    code, out = deploy(hosts, build)
    assert code == 1, out
    assert "krg1: failed: not restarted: the boot loader's files were changed" in out
    assert b"timeout=9" in menu.read_bytes() and machines[0].boots == []
    assert MENU_LST[:40] == menu.read_bytes()[:40]


def test_nothing_is_armed_where_the_way_back_cannot_be_installed(
    fleet: tuple[Hosts, list[Machine]], build: Path
) -> None:
    """Two update-rc.d: one fails, and one says that all is well and does nothing."""
    hosts, machines = fleet
    for host in hosts.hosts:
        # Their init is sysvinit.
        host.path("/etc/inittab").write_text("id:2:initdefault:\n")
        link = host.path("/usr/local/sbin/readlink")
        link.write_text(
            '#!/bin/sh\n[ "$*" = "-f /sbin/init" ] && exec echo /sbin/init\n'
            'exec /usr/bin/readlink "$@"\n'
        )
        link.chmod(0o755)
    for host, end in zip(hosts.hosts, ("echo no space >&2; exit 1", "exit 0"), strict=False):
        shim = host.path("/usr/local/sbin/update-rc.d")
        shim.write_text(
            f'#!/bin/sh\nif [ "$1" = krg-provision-trial ]; then {end}; fi\n'
            'exec /usr/sbin/update-rc.d "$@"\n'
        )
        shim.chmod(0o755)
    code, out = deploy(hosts, build, "--canary", "0", "--wave", "3", "--max-down", "2")
    assert code == 1, out
    assert "krg1: failed: not restarted: " in out and "defaults 01: no space" in out
    assert "krg2: failed: not restarted: " in out and "krg3: booted" in out
    for host, machine in zip(hosts.hosts[:2], machines, strict=False):
        assert machine.boots == [] and not host.path(f"{STATE}/trial").exists()
        assert b"savedefault" not in host.path("/boot/grub/menu.lst").read_bytes()
        assert next_boot(machine) == STOCK
        host.path("/usr/local/sbin/update-rc.d").unlink()
    code, out = deploy(hosts, build)
    assert code == 0, out
    assert [next_boot(m) for m in machines] == [RELEASE] * 3


def test_rollback_leaves_the_kernel_that_is_to_go(
    fleet: tuple[Hosts, list[Machine]], build: Path
) -> None:
    hosts, machines = fleet
    before = [host.tree() for host in hosts.hosts]
    assert deploy(hosts, build, "--canary", "0", "--wave", "3")[0] == 0
    back = ("rollback", "--nodes", str(hosts.cluster), "--boot-timeout", "20")
    done = hosts.run(*back)
    assert done.returncode == 1
    assert f"{RELEASE} is the kernel that runs there" in done.stdout
    # One that does not leave: nothing is taken back from it, nor begun with the next.
    machines[0].fate[STOCK] = "hang"
    done = hosts.run(*back[:-1], "3", "--reboot")
    assert done.returncode == 1, done.stdout
    assert "krg1: down: did not come back within 3 s" in done.stdout
    assert "krg[2-3]: not begun: 1 node failed, more" in done.stdout
    assert hosts.hosts[0].path(f"/boot/vmlinuz-{RELEASE}").exists()
    machines[0].fate.clear()
    machines[0].power_cycle()
    done = hosts.run(*back, "--reboot")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [m.release for m in machines] == [STOCK] * 3
    for host, tree in zip(hosts.hosts, before, strict=True):
        after = host.tree()
        ours = ("var/", "boot/grub/default")
        kept = {name: what for name, what in after.items() if not name.startswith(ours)}
        assert kept == {name: what for name, what in tree.items() if not name.startswith(ours)}
    assert [next_boot(m) for m in machines] == [STOCK] * 3
