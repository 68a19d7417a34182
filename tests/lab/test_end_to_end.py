# SPDX-License-Identifier: GPL-2.0-or-later
"""The main road on machines with disks: from a stock kernel to one machine, and back again.

What Kerrighed does there is asked of its own files and of the processes, never taken from a
tool's exit status.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.test_cluster import LIMIT, User, build_for, wait_until
from lab.test_disk import krg
from lab.test_disk import pytestmark as needs
from lab.test_disk_deploy import Lab
from provision.lab import agent, evidence, state
from provision.lab.evidence import Sample

pytestmark = [*needs, pytest.mark.sources]

# Four at once; what each of them is, its own /proc/PID/stat says.
BUSY = """\
krgcapset -k $$ --inheritable-effective +CAN_MIGRATE
for i in 1 2 3 4; do
    setsid sh -c 'while :; do :; done' </dev/null >/dev/null 2>&1 &
    echo $!
done
"""
SCHEDULER = "/config/krg_scheduler/schedulers/mosix/mosix_load_balancer/local_load"
THRESHOLD = f"{SCHEDULER}/freq_limit_filter/threshold_filter/threshold"


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    made = User(tmp_path / "state")
    # The lab's own functions are called here, too.
    for name in ("STATE", "CACHE", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", made.env[f"XDG_{name}_HOME"])
    yield made
    for one in json.loads(made("list", "--format", "json").stdout):
        made("down", "--name", one["name"])


class Cluster:
    """Some of a lab's nodes with a cluster file of their own."""

    def __init__(self, lab: Lab, name: str, numbers: tuple[int, ...], **changes: str) -> None:
        self.lab = lab
        self.numbers = numbers
        head, *nodes = lab.file.read_text().split("\n[[node]]")
        text = "\n[[node]]".join([head, *(nodes[number - 1] for number in numbers)])
        for old, new in changes.items():
            text = re.sub(rf"(?m)^{old} = .*$", f"{old} = {new}", text)
        self.file = lab.file.with_name(f"{name}.toml")
        self.file.write_text(text)

    def __call__(self, command: str, *words: str) -> tuple[int, str]:
        build = ("--artifacts", str(self.lab.build.directory)) if command != "rollback" else ()
        done = krg(self.lab.user, command, "--nodes", str(self.file), *build, *words)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    def do(self, command: str, *words: str) -> str:
        status, said = self(command, *words)
        assert status == 0, said
        return said

    def status(self) -> list[dict[str, Any]]:
        done = krg(self.lab.user, "status", "--nodes", str(self.file), "--format", "json")
        found: list[dict[str, Any]] = json.loads(done.stdout)["nodes"]
        return found

    def counts(self) -> list[tuple[int | None, int | None]]:
        """Return how many nodes each node says are online and present; None: not reached."""
        seen = [node["nodes"] for node in self.status()]
        return [(counts.get("online"), counts.get("present")) for counts in seen]

    def wait(self, online: int, present: int) -> None:
        want = [(online, present)] * len(self.numbers)
        wait_until(lambda: self.counts() == want, f"{want}", seconds=120)

    def prove(self) -> list[str]:
        """Have ``lab test`` look at these nodes alone; return what it looked at."""
        whole = state.load_up("krg")
        found = evidence.prove(replace(whole, nodes=tuple(map(whole.node, self.numbers))))
        bad = [item for item in found if not item.ok]
        assert not bad, bad
        return [item.what for item in found]


def sample(lab: Lab, file: str) -> Sample:
    """Return what a counter has last written, once it has."""
    found: list[Sample] = []

    def ask() -> bool:
        seen = evidence.parse_sample(lab.ssh(1, f"cat {file}"))
        found.extend([seen] if seen else [])
        return bool(found)

    wait_until(ask, file, seconds=60)
    return found[0]


@contextmanager
def scenario(name: str) -> Iterator[None]:
    """Say how long a part took: pytest -rP shows it."""
    started = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - started:.0f} s")


@pytest.mark.slow
def test_legacy_from_a_stock_kernel_to_one_machine_and_back(user: User) -> None:
    with scenario("up"):
        lab = Lab(user, build_for("x86_64"), "legacy", 4)
    stock = lab.stock()
    cluster = Cluster(lab, "three", (1, 2, 3))
    # The same id in another session, on the same wire.
    other = Cluster(lab, "other", (4,), session="6", id="1")
    menu = lab.ssh(1, "cat /boot/grub/menu.lst")

    with scenario("deploy --reboot; nbmin is the number of nodes: nobody starts the cluster"):
        cluster.do("deploy", "--reboot", "--whole-cluster")
        cluster.wait(3, 3)
        cluster.do("verify")
        assert "it ran already" in cluster.do("start")
    with scenario("a node of another session"):
        other.do("deploy", "--reboot")
        apart = other.status()[0]
        assert [apart[key] for key in ("node_id", "session_id")] == [1, 6]
        assert other.counts() == [(0, 1)] and cluster.counts() == [(3, 3)] * 3
    with scenario("migration, with its I/O going on"):
        assert {"says where it is", "/proc/PID/stat", "goes on counting"} <= {*cluster.prove()}
    with scenario("four busy processes are spread"):
        four_busy_processes_are_spread(lab)
    with scenario("checkpoint, kill, restart"):
        checkpoint_kill_restart(lab)
    with scenario("a node is lost"):
        a_node_is_lost(lab, cluster)
        assert other.status()[0]["boot_id"] == apart["boot_id"] and other.counts() == [(0, 1)]
    with scenario("the way back; nbmin has it start by itself again"):
        cluster.do("deploy", "--reboot", "--whole-cluster")
        cluster.wait(3, 3)
        cluster.prove()
        assert other.status()[0]["boot_id"] == apart["boot_id"] and other.counts() == [(0, 1)]
    with scenario("rollback"):
        cluster.do("rollback", "--reboot", "--whole-cluster")
        taken_back(lab, cluster, stock)
        assert lab.ssh(1, "cat /boot/grub/menu.lst") == menu


@pytest.mark.parametrize("arch", ["x86_64", pytest.param("i386", marks=pytest.mark.slow)])
def test_grub2_from_a_stock_kernel_to_one_machine_and_back(user: User, arch: str) -> None:
    with scenario("up"):
        lab = Lab(user, build_for(arch), "grub2", 3)
    stock = lab.stock()
    # With nb_nodes the kernel does not read nbmin: it waits to be started.
    waits = '"noapic nb_nodes=3 nb_nodes_min=9"'
    cluster = Cluster(lab, "three", (1, 2, 3), append=waits)
    kept = lab.ssh(1, "cat /boot/grub/grub.cfg /etc/default/grub")
    with scenario("deploy --reboot; the cluster waits"):
        cluster.do("deploy", "--reboot", "--wave", "3")
        cluster.wait(0, 3)
    with scenario("krgadm cluster start"):
        assert re.search(r"ok +krgadm cluster start .*", cluster.do("start"))
        cluster.wait(3, 3)
    with scenario("migration, with its I/O going on"):
        cluster.prove()
    with scenario("rollback"):
        refused, said = cluster("rollback", "--reboot")
        assert refused == 1 and "--whole-cluster" in said
        cluster.do("rollback", "--reboot", "--whole-cluster")
        taken_back(lab, cluster, stock)
        assert lab.ssh(1, "cat /boot/grub/grub.cfg /etc/default/grub") == kept


def taken_back(lab: Lab, cluster: Cluster, stock: str) -> None:
    """The stock kernel runs, it stays the default, and nothing of the build is left."""
    assert [node["kernel"] for node in cluster.status()] == [stock] * 3
    release = lab.build.kernel_release
    for number in cluster.numbers:
        left = lab.ssh(number, "find /boot /lib/modules /etc /usr/local | grep -E 'krg|kerrighed'")
        assert not left, left
        assert release not in lab.ssh(number, "cat /boot/grub/*.[lc]*")
    lab.user("fault", "1", "powercut")
    wait_until(lambda: lab.ssh(1, "uname -r").strip() == stock, stock, seconds=LIMIT)


def four_busy_processes_are_spread(lab: Lab) -> None:
    # The init script of the first node has set it up, once the cluster ran.
    wait_until(lambda: lab.ssh(1, f"cat {THRESHOLD}").strip().isdigit(), THRESHOLD, seconds=60)
    assert int(lab.ssh(1, f"cat {THRESHOLD}")) > 0
    # One node's processors begin where its number is as many times that of the first.
    step = evidence.processor(lab.ssh(1, "cat /proc/self/stat"))
    assert step
    pids = lab.ssh(1, BUSY).split()
    assert len(pids) == 4
    stats = " ".join(f"/proc/{pid}/stat" for pid in pids)

    def look() -> dict[int, int]:
        """Return the node that each of them is on."""
        lines = lab.ssh(1, f"cat {stats}").splitlines()
        processors = [evidence.processor(line) or 0 for line in lines]
        return {number: processor // step for number, processor in enumerate(processors)}

    wait_until(lambda: sorted({*look().values()}) == [1, 2, 3], f"spread, not {look()}",
               seconds=180)  # fmt: skip

    def worked() -> list[int]:
        """Return how long each has run; nothing while one of them is on its way."""
        lines = [
            line.rpartition(")")[2].split() for line in lab.ssh(1, f"cat {stats}").splitlines()
        ]
        whole = len(lines) == 4 and all(len(words) > 20 for words in lines)
        return [int(words[11]) for words in lines] if whole else []

    before: list[int] = []

    def all_went_on() -> bool:
        now = worked()
        if not before:
            before.extend(now)
        return bool(now) and all(n > then + 50 for n, then in zip(now, before, strict=True))

    wait_until(all_went_on, "all four at work", seconds=60)
    lab.ssh(1, f"kill -KILL {' '.join(pids)}")


def checkpoint_kill_restart(lab: Lab) -> None:
    lab.ssh(1, "krgcr-run -b -q -o /tmp/app -- counter /tmp/kept </dev/null >/dev/null 2>&1")
    pid = int(lab.ssh(1, "cat /tmp/app"))
    wait_until(lambda: sample(lab, "/tmp/kept").count > 20, "the counter", seconds=60)
    said = lab.ssh(1, f"checkpoint {pid} && echo taken")
    assert said.endswith("taken\n"), said
    taken = sample(lab, "/tmp/kept")
    wait_until(lambda: sample(lab, "/tmp/kept").count > taken.count + 60, "the rest", seconds=60)
    lab.ssh(1, f"kill -KILL {pid}")
    # Its zombie would have the restart refused.
    wait_until(lambda: not lab.ssh(1, f"ls -d /proc/{pid} 2>/dev/null"), "its end", seconds=60)
    killed = sample(lab, "/tmp/kept")
    assert killed.count > taken.count + 60
    said = lab.ssh(1, f"restart {pid} 1 && echo restarted")
    assert said.endswith("restarted\n"), said
    # From the checkpoint on, not from where it was killed.
    wait_until(lambda: sample(lab, "/tmp/kept").count < killed.count, "a step back", seconds=60)
    wait_until(lambda: sample(lab, "/tmp/kept").count > killed.count, "all anew", seconds=60)
    after = sample(lab, "/tmp/kept")
    assert (after.pid, after.memory) == (pid, "intact")
    lab.ssh(1, f"kill -KILL {pid}")


def a_node_is_lost(lab: Lab, cluster: Cluster) -> None:
    lab.user("fault", "3", "hang")
    survivors = [(3, 2), (3, 2), (None, None)]
    wait_until(lambda: cluster.counts() == survivors, "the loss", seconds=120)
    # This is why only little is read there: it never ends.
    with pytest.raises(agent.SilentError):
        agent.run(lab.user.node("krg", 1), "cat /proc/loadavg", 10)
    status, said = cluster("status")
    assert status == 1 and re.search(r"krg3 +no ", said), said
    status, said = cluster("verify")
    assert status == 1, said
    assert re.search(r"no +answers +krg3", said), said
    assert len(re.findall(r"no +cluster runs +krg[12] .*online 3, present 2", said)) == 2, said
    # Reached they are as before.
    assert lab.ssh(2, "uname -r").strip() == lab.build.kernel_release
    # On again the node is not in the cluster, and cannot get in.
    lab.user("fault", "3", "powercut")
    wait_until(lambda: cluster.counts()[2] == (0, 3), "node 3", seconds=LIMIT)
    status, said = cluster("verify")
    assert status == 1 and re.search(r"no +cluster runs +krg3 .*online 0, present 3", said), said
    status, said = cluster("start")
    assert status == 1 and "--whole-cluster" in said, said
    # Nor is one restarted alone.
    status, said = cluster("deploy", "--reboot")
    assert status == 0 and "nothing to change" in said, said
