# SPDX-License-Identifier: GPL-2.0-or-later
"""``deploy --reboot`` on machines with a boot loader of their own, and what happens to such."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.test_cluster import LIMIT, User, build_for, wait_until
from lab.test_disk import krg
from lab.test_disk import pytestmark as needs
from provision.artifacts import Artifacts
from provision.lab import agent

pytestmark = [*needs, pytest.mark.sources, pytest.mark.slow]
LOADERS = ["legacy", "grub2"]


class Lab:
    """A lab that is up, and what a user does with it."""

    def __init__(self, user: User, build: Artifacts, loader: str, nodes: int) -> None:
        self.user = user
        self.build = build
        words = ["--nodes", str(nodes), "--session", "5", "--accel", "tcg", "--bootloader", loader]
        begun = user("up", *words, "--artifacts", str(build.directory))
        assert begun.returncode == 0, begun.stderr
        self.file = user.node("krg", 1).parent / "cluster.toml"

    def deploy(self, *words: str) -> tuple[int, str]:
        build = ("--artifacts", str(self.build.directory))
        done = krg(self.user, "deploy", "--nodes", str(self.file), *build, *words)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    def kernels(self) -> list[str]:
        seen = json.loads(self.user("status", "--format", "json").stdout)["nodes"]
        return [node["kernel_release"] for node in seen]

    def ssh(self, number: int, command: str) -> str:
        return self.user("ssh", str(number), command).stdout

    def stock(self) -> str:
        """Return the release of the kernel that a node had from the start."""
        name = self.ssh(1, "ls /boot | grep initrd.img")
        return name.strip().removeprefix("initrd.img-")


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    made = User(tmp_path / "state")
    yield made
    for one in json.loads(made("list", "--format", "json").stdout):
        made("down", "--name", one["name"])


@pytest.mark.parametrize(
    ("arch", "loader"), [("x86_64", "legacy"), ("x86_64", "grub2"), ("i386", "legacy")]
)
def test_from_a_stock_kernel_to_a_running_cluster(user: User, arch: str, loader: str) -> None:
    lab = Lab(user, build_for(arch), loader, 2)
    assert all(kernel.startswith("6.1.") for kernel in lab.kernels())
    status, said = lab.deploy("--reboot")
    assert status == 0, said
    assert lab.kernels() == [lab.build.kernel_release] * 2
    proof = user("test")
    assert proof.returncode == 0, proof.stdout + proof.stderr
    # It stays: the entry is the default now.
    user("fault", "2", "powercut")
    wait_until(lambda: lab.ssh(2, "cut -d. -f1 /proc/uptime").strip().isdigit(), "node 2",
               seconds=LIMIT)  # fmt: skip
    assert lab.ssh(2, "uname -r").strip() == lab.build.kernel_release


@pytest.mark.parametrize("loader", LOADERS)
def test_a_kernel_that_panics_falls_back_by_itself(user: User, loader: str) -> None:
    lab = Lab(user, build_for("x86_64"), loader, 1)
    stock = lab.stock()
    text = lab.file.read_text()
    # No such file system: "Unable to mount root fs", and panic=10 starts the machine anew.
    lab.file.write_text(text.replace('append = "noapic"', 'append = "noapic rootfstype=vfat"'))
    status, said = lab.deploy("--reboot")
    assert status == 1, said
    assert "fell back" in said
    assert lab.kernels() == [stock]
    assert "Kernel panic" in (user.node("krg", 1) / "console.log").read_text("latin-1")
    # Mended, it goes through.
    lab.file.write_text(text)
    status, said = lab.deploy("--reboot")
    assert status == 0, said
    assert lab.kernels() == [lab.build.kernel_release]


@pytest.mark.parametrize("loader", LOADERS)
def test_a_hang_waits_for_the_power_switch(user: User, loader: str) -> None:
    lab = Lab(user, build_for("x86_64"), loader, 1)
    stock = lab.stock()
    text = lab.file.read_text()
    # Nothing is started, and nothing ends: no panic, no SSH.
    lab.ssh(1, "printf '#!/bin/sh\nwhile :; do sleep 9; done\n' >/stuck; chmod 755 /stuck; sync")
    lab.file.write_text(text.replace('append = "noapic"', 'append = "noapic init=/stuck"'))
    limits = ("--boot-timeout", "30", "--prove-timeout", "5")
    status, said = lab.deploy("--check", "--reboot", *limits)
    assert status == 1 and "not covered: a hang before its init scripts" in said, said
    status, said = lab.deploy("--reboot", *limits)
    assert status == 1, said
    assert "did not come back within" in said
    assert "not covered by the way back: restart it by its power switch" in said, said
    assert not lab.ssh(1, "uname -r")
    user("fault", "1", "powercut")
    wait_until(lambda: lab.ssh(1, "uname -r").strip() == stock, stock, seconds=LIMIT)


# Run last by the node's init, under the kernel on trial only.
UNDER_TRIAL = """\
#!/bin/sh
case $(uname -r) in
2.6.20*) %s ;;
esac
"""
# Once the watchdog runs; a hang from before it is opened is not covered.
FREEZE = "while [ ! -e /var/lib/krg-provision/trial-watchdog ]; do sleep 1; done; lab-freeze"


def test_trials_that_come_back_by_themselves(user: User) -> None:
    """A kernel without a network, one that hangs and is reset by its watchdog, a good one."""
    lab = Lab(user, build_for("x86_64"), "legacy", 1)
    stock = lab.stock()
    limits = ("--boot-timeout", "60", "--prove-timeout", "10")

    def under_trial(command: str) -> None:
        script = UNDER_TRIAL % command
        place = "/etc/rc2.d/S99trouble"
        lab.ssh(1, f"printf %s {shlex.quote(script)} >{place}; chmod 755 {place}; sync")

    under_trial("ifconfig eth0 down")
    status, said = lab.deploy("--reboot", *limits)
    assert status == 1, said
    assert f"came back with {stock} instead of" in said
    # The init script's links, as this init has them.
    start = "run update-rc.d krg-provision-trial defaults 01"
    assert start in said
    assert "by itself after 82 s without being reached" in said
    # The end of its own kernel's log, for it had to be written down there.
    assert "FAF: initialisation : done" in said.rpartition("the end of its log")[2], said
    assert lab.kernels() == [stock]

    with lab.file.open("a") as stream:
        stream.write('watchdog = "i6300esb"\n')
    under_trial(FREEZE)
    status, said = lab.deploy("--reboot", *limits)
    assert status == 1, said
    assert "the watchdog of i6300esb is fed" in said and start not in said
    assert "came as far as its init scripts and was reset then" in said
    assert lab.kernels() == [stock]

    lab.ssh(1, "rm /etc/rc2.d/S99trouble; sync")
    status, said = lab.deploy("--reboot", *limits)
    assert status == 0, said
    assert "watchdog could not be used" not in said
    assert lab.kernels() == [lab.build.kernel_release]
    # Its watchdog was stopped: longer than its 30 seconds the node stays up.
    boot = lab.ssh(1, "cat /proc/sys/kernel/random/boot_id")
    wait_until(lambda: float(lab.ssh(1, "cut -d' ' -f1 /proc/uptime") or 0) > 100, "100 s up")
    assert lab.ssh(1, "cat /proc/sys/kernel/random/boot_id") == boot
    assert not lab.ssh(1, "ps | grep '[k]rg-provision-trial'")


def test_power_cut_in_a_deploy(user: User) -> None:
    # Files are being put in place from here on.
    moment = "ls -d /lib/modules/*-krg-*"
    lab = Lab(user, build_for("x86_64"), "legacy", 1)
    stock = lab.stock()
    place = user.node("krg", 1)
    argv = ["deploy", "--nodes", str(lab.file), "--artifacts", str(lab.build.directory)]
    with subprocess.Popen(
        [sys.executable, "-m", "provision", *argv],
        env=user.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as client:
        wait_until(lambda: agent.run(place, f"{moment} 2>/dev/null", 20).ok, moment, client)
        user("fault", "1", "powercut")
        wait_until(lambda: lab.ssh(1, "uname -r").strip() == stock, stock, seconds=LIMIT)
        client.kill()
        assert client.stdout is not None
        assert "Traceback" not in client.stdout.read()
    # Whatever it came to, the node boots what it booted, and the next deploy finishes.
    status, said = lab.deploy("--reboot")
    assert status == 0, said
    assert lab.kernels() == [lab.build.kernel_release]
    assert not lab.ssh(1, "ls -d /etc/.krg-provision-* /boot/.krg-provision-*").strip()
