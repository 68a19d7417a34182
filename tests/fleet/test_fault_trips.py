# SPDX-License-Identifier: GPL-2.0-or-later
"""deploy --reboot and rollback --reboot, and something happens at each of their round trips.

The connection is cut, the node's SSH server killed, its power cut, its key changed; the client
is killed. Afterwards every file is the old one or the new one, the node boots, and the next run
comes to the same end as one that nothing happened to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import fault_points
import pytest

from grub import legacy

from .faults import Tree
from .hosts import RELEASE, make_build, make_hosts, wait_for
from .machine import STOCK, Machine
from .trips import Trips, kill_client, known_key

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

MENU = "boot/grub/menu.lst"
# What happens, how it is called in the table, and at every how many-th round trip it is tried.
ACTS = {
    "drop": ("cut before", 1),
    "lose": ("answer lost", 1),
    "late": ("cut after", 3),
    "sshd": ("sshd killed", 3),
    "client": ("client killed", 1),
    "power": ("power cut", 1),
    "gone": ("stays off", 3),
    "panic": ("old kernel", 3),
    "key": ("other host key", 3),
    "slow": ("slow", 3),
}


@pytest.fixture
def trips(can_have_hosts: None, tmp_path: Path) -> Iterator[Trips]:
    """Return a host that can be restarted, its round trips counted."""
    hosts = make_hosts(tmp_path / "fleet", 1)
    machine = None
    try:
        machine = Machine(hosts.hosts[0])
        yield Trips(hosts, machine)
    finally:
        if machine is not None:
            machine.close()
        hosts.close()


class Scene:
    """A command with what is there before it and after it, when nothing happens."""

    def __init__(self, trips: Trips, build: Path, kind: str) -> None:
        self.trips, self.machine, self.hosts = trips, trips.machine, trips.hosts
        nodes = ("--nodes", str(self.hosts.cluster))
        deploy = (
            "deploy", *nodes, "--artifacts", str(build), "--force", "glibc", "--force", "init",
            "--reboot", "--prove-timeout", "2", "--boot-timeout", "60",
        )  # fmt: skip
        back = ("rollback", *nodes, "--reboot", "--boot-timeout", "60")
        if kind == "rollback":
            self._run(deploy)
        self.arguments = deploy if kind == "deploy" else back
        self.end = RELEASE if kind == "deploy" else STOCK
        trips.keep()
        trips.bring_back()
        self.old = trips.tree()
        trips.arm(0)
        self._run(self.arguments)
        self.count = trips.count
        self.new = trips.tree()
        assert self.machine.release == self.end and self.old != self.new

    def _run(self, arguments: tuple[str, ...]) -> None:
        done = self.hosts.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr

    def try_at(self, trip: int, act: str) -> bool:
        """Have ``act`` happen at a round trip, then run again; False if it came to no such."""
        trips, machine = self.trips, self.machine
        machine.fate = {RELEASE: "panic"} if act == "panic" else {}
        trips.bring_back()
        known_key(self.hosts, machine)
        trips.arm(trip)
        # Nobody waits long for one that does not come back.
        limit = "60" if act == "slow" else "6"
        running = self.hosts.start(*self.arguments[:-1], limit)
        stood = trips.wait(running)
        if stood:
            self._act(act)
            if act == "client":
                kill_client(running)
            trips.go_on(act if act in ("drop", "lose", "late", "slow") else "go")
        out, err = running.communicate(timeout=120)
        said = f"trip {trip} of {self.count}, {act}:\n{out}{err}"
        assert "Traceback" not in err and "unexpected error" not in out, said
        assert running.returncode in {"client": (-9,), "slow": (0,)}.get(act, (0, 1)), said
        if act == "gone":
            machine.switch_on()
        machine.start_server()
        wait_for(f"a quiet node after {said}", lambda: machine.quiet, 60)
        self._whole(trips.tree(), said)
        machine.power_cycle()
        assert machine.release in (STOCK, RELEASE), said
        machine.fate = {}
        known_key(self.hosts, machine)
        trips.arm(0)
        again = self.hosts.run(*self.arguments)
        assert again.returncode == 0, f"{said}\nand again:\n{again.stdout}{again.stderr}"
        tree = trips.tree()
        differ = [n for n in tree.keys() | self.new.keys() if tree.get(n) != self.new.get(n)]
        for name in differ:
            pytest.fail(f"{said}\n{name} is {tree.get(name)}\nnot {self.new.get(name)}")
        assert trips.host.stages() == [], said
        # Who could not give it back has ended, which the next one on this machine sees.
        if act in ("drop", "lose", "late", "slow"):
            assert not trips.host.path("/var/lib/krg-provision/lock").is_symlink(), said
        machine.power_cycle()
        assert machine.release == self.end, said
        return stood

    def _act(self, act: str) -> None:
        if act == "sshd":
            self.trips.kill_sshd()
        elif act in ("power", "panic"):
            self.machine.power_cycle()
        elif act == "gone":
            self.machine.switch_off()
        elif act == "key":
            self.machine.change_host_key()

    def _whole(self, tree: Tree, said: str) -> None:
        """Every file is the old or the new one; the menu boots, ours only with its kernel."""
        for name in (tree.keys() | self.old.keys() | self.new.keys()) - {MENU}:
            assert tree.get(name) in (self.old.get(name), self.new.get(name)), (name, said)
        menu = legacy.entries(tree[MENU][3].decode("latin-1"))
        assert any(entry.usable and not entry.ours for entry in menu), said
        if any(entry.ours for entry in menu):
            deployed = self.new if self.end == RELEASE else self.old
            for name, value in deployed.items():
                assert RELEASE not in name or tree.get(name) == value, (name, said)


@pytest.mark.parametrize(
    ("kind", "act"),
    [
        (kind, act)
        for kind in ("deploy", "rollback")
        for act in ACTS
        # The build is the default before a rollback: there is no way back from its panic.
        if (kind, act) != ("rollback", "panic")
    ],
)
def test_every_round_trip(
    trips: Trips,
    tmp_path: Path,
    kind: str,
    act: str,
    record_property: Callable[[str, object], None],
) -> None:
    scene = Scene(trips, make_build(tmp_path / "build"), kind)
    name, often = ACTS[act]
    tried = [scene.try_at(trip, act) for trip in range(1, scene.count + 1, often)]
    assert any(tried)
    record_property(fault_points.KEY, f"{kind} --reboot|{name}|{sum(tried)}")
