# SPDX-License-Identifier: GPL-2.0-or-later
"""Power cut at every step of ``deploy --reboot``: the node boots, and the next deploy finishes.

A node is put back to where it was by a snapshot of the whole machine, not by another boot; the
nodes of the lab are tried at the same time, each a cluster of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fault_points
import pytest

from lab.power_cut import KILLED
from lab.test_cluster import LIMIT, User, build_for, wait_until
from lab.test_disk import krg
from lab.test_disk import pytestmark as needs
from lab.test_disk_deploy import LOADERS, Lab
from provision.lab import agent

pytestmark = [*needs, pytest.mark.sources, pytest.mark.slow]
NODES = 2
CUTTER = Path(__file__).with_name("power_cut.py")
# Of the lines that put files in place, the first and every so many-th: each takes a minute.
# tests/fleet/test_faults.py tries all of them, without a power switch.
OFTEN = 9
SNAPSHOT = "before"
# Where files are made ready.
PLACES = "/etc /boot /lib/modules /usr/local /var/lib"


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    made = User(tmp_path / "state")
    yield made
    for one in json.loads(made("list", "--format", "json").stdout):
        made("down", "--name", one["name"])


def monitor(node: Path, command: str) -> None:
    """Give QEMU a command of its human monitor: there are no others for snapshots of machines."""
    with agent.connect(node, "qmp.sock", 120.0) as link, link.makefile("rw") as stream:
        stream.readline()
        for name, values in (
            ("qmp_capabilities", {}),
            ("human-monitor-command", {"command-line": command}),
        ):
            stream.write(json.dumps({"execute": name, "arguments": values}) + "\n")
            stream.flush()
            answer = {"event": ""}
            while "event" in answer:
                answer = json.loads(stream.readline())
        assert answer == {"return": ""}, (command, answer)


class Victim:
    """One node, with a cluster file that has no other."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.lab = lab
        self.number = number
        self.place = lab.user.node("krg", number)
        head, *nodes = lab.file.read_text().split("\n[[node]]")
        text = f"{head}\n[[node]]{nodes[number - 1]}"
        self.file = lab.file.with_name(f"only{number}.toml")
        # In one session they would become one cluster.
        self.file.write_text(re.sub("(?m)^session = .*$", f"session = {10 + number}", text))
        self.stock = self.kernel()
        build = ("--artifacts", str(lab.build.directory))
        self.words = ("--no-diff", "--nodes", str(self.file), *build)
        monitor(self.place, f"savevm {SNAPSHOT}")

    def kernel(self) -> str:
        return self.lab.ssh(self.number, "uname -r").strip()

    def deploy(self, at: str | None) -> tuple[int, str, list[str]]:
        """Run ``deploy --reboot`` with a power cut at a step; also return the steps it came to."""
        steps = self.place / "steps"
        plan = {"node": str(self.place), "at": at, "steps": str(steps)}
        argv = [sys.executable, str(CUTTER), json.dumps(plan), "deploy", "--reboot", *self.words]
        done = subprocess.run(
            argv,
            env=self.lab.user.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * LIMIT,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr, json.loads(steps.read_text())

    def try_at(self, at: str) -> bool:
        """Cut at a step, then deploy again; False if the deploy did not come to that step."""
        monitor(self.place, f"loadvm {SNAPSHOT}")
        status, said, steps = self.deploy(at)
        said = f"power cut at {at}:\n{said}"
        assert status in ((KILLED,) if "+" in at else (0, 1)), said
        ours = self.lab.build.kernel_release
        wait_until(lambda: self.kernel() in (self.stock, ours), said, seconds=LIMIT)
        again = krg(self.lab.user, "deploy", "--reboot", *self.words)
        assert again.returncode == 0, f"{said}\nand again:\n{again.stdout}{again.stderr}"
        assert self.kernel() == ours, said
        left = self.lab.ssh(self.number, f"find {PLACES} -name '.krg-provision-*'")
        # Removed after the last flush it may be there again; nothing to do leaves it there.
        assert not left or "1 unchanged" in again.stdout, f"{said}\n{left}"
        return at.startswith("boot of ") or at.partition("+")[0] in steps

    def default_boots(self) -> None:
        """Our entry is the default now, and boots."""
        self.lab.user("fault", str(self.number), "powercut")
        wait_until(lambda: self.kernel() == self.lab.build.kernel_release, "ours", seconds=LIMIT)


@pytest.mark.parametrize("loader", LOADERS)
def test_power_cut_at_every_step(
    user: User, loader: str, record_property: Callable[[str, object], None]
) -> None:
    lab = Lab(user, build_for("x86_64"), loader, NODES)
    victims = [Victim(lab, number) for number in range(1, NODES + 1)]
    status, said, steps = victims[0].deploy(None)
    assert status == 0, said
    assert victims[0].kernel() == lab.build.kernel_release
    count = len(steps)
    steps = [step for step in steps if int(step.partition("+")[2] or 1) % OFTEN == 1]
    steps.insert(len(steps) // 2, f"boot of {lab.build.kernel_release}")

    ended = threading.Event()

    def work(victim: Victim) -> list[bool]:
        tried = []
        try:
            for at in steps[victim.number - 1 :: NODES]:
                if not ended.is_set():
                    tried.append(victim.try_at(at))
            victim.default_boots()
        except BaseException as error:
            # The others need not go on, and only the first of all errors is shown by itself.
            ended.set()
            print(f"node {victim.number}: {error}")
            raise
        return tried

    with ThreadPoolExecutor(NODES) as pool:
        parts = list(pool.map(work, victims))
    tried = [came for part in parts for came in part]
    assert len(tried) == len(steps) and any(tried)
    print(f"{loader}: {sum(tried)} steps out of {count}: {', '.join(steps)}")
    record_property(fault_points.KEY, f"deploy --reboot on {loader}|power cut|{sum(tried)}")
