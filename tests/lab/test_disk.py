# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes with a disk, a boot loader and an SSH server, as deploy meets them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.test_cluster import LIMIT, User, build_for, wait_until
from provision.artifacts import Artifacts
from provision.cluster import read_cluster
from provision.errors import FailedError
from provision.lab import disk_image, disk_loader
from provision.ssh import Shell

pytestmark = [
    pytest.mark.lab,
    *(
        pytest.mark.skipif(
            shutil.which(tool) is None, reason=f"no {tool}: apt-get install {package}"
        )
        for tool, package in (
            ("qemu-system-x86_64", "qemu-system-x86"),
            ("qemu-img", "qemu-utils"),
            ("grub-mkimage", "grub-common"),
            ("ssh", "openssh-client"),
        )
    ),
]
# The way back is one boot more.
WAYS = [
    ("legacy", False),
    pytest.param("legacy", True, marks=pytest.mark.slow),
    pytest.param("grub2", True, marks=pytest.mark.slow),
]


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    made = User(tmp_path / "with blank")
    yield made
    for one in json.loads(made("list", "--format", "json").stdout):
        made("down", "--name", one["name"])


def krg(user: User, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "provision", *words],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=user.env,
        stdin=subprocess.DEVNULL,
    )


class Lab:
    """A lab of one node that is up."""

    def __init__(self, user: User, build: Artifacts, loader: str) -> None:
        self.user = user
        self.build = build
        words = ["--nodes", "1", "--session", "9", "--accel", "tcg", "--bootloader", loader]
        begun = user("up", *words, "--artifacts", str(build.directory))
        assert begun.returncode == 0, begun.stderr
        self.cluster = user.node("krg", 1).parent / "cluster.toml"

    def run(self, command: str) -> str:
        """Run a command over SSH, as deploy would; empty if the node is not there."""
        try:
            with Shell(read_cluster(self.cluster).nodes[0]) as shell:
                return shell.run(command, label="test", idle=20).out.decode()
        except FailedError:
            return ""

    def deploy(self) -> None:
        build = ("--artifacts", str(self.build.directory))
        done = krg(self.user, "deploy", "--nodes", str(self.cluster), *build)
        assert done.returncode == 0, done.stdout + done.stderr

    def status(self) -> list[object]:
        done = krg(self.user, "status", "--nodes", str(self.cluster), "--format", "json")
        node = json.loads(done.stdout)["nodes"][0]
        return [node[key] for key in ("kernel", "node_id", "session_id")]

    def reboot(self, expect: str) -> None:
        """Restart the node and wait for that kernel; the mark goes with the memory."""
        assert self.run("touch /run/mark; ls /run/mark") == "/run/mark\n"
        self.run("reboot")
        wait_until(
            lambda: self.run("ls /run/mark || uname -r").startswith(expect), expect, seconds=LIMIT
        )


@pytest.mark.sources
@pytest.mark.parametrize(("loader", "back"), WAYS)
def test_a_build_is_deployed_and_booted_through_the_boot_loader(
    user: User, loader: str, back: bool
) -> None:
    build = build_for("x86_64")
    node = Lab(user, build, loader)
    stock = node.run("uname -r")
    assert stock.startswith("6.1.")
    assert "root=/dev/sda1" in node.run("cat /proc/cmdline")
    assert node.status() == [stock.strip(), None, None]

    node.deploy()
    choose_ours(node, loader)
    node.reboot("2.6.20-krg")
    assert node.status() == [build.kernel_release, 1, 9]
    assert "root=/dev/hda1" in node.run("cat /proc/cmdline")
    assert "kerrighed " in node.run("lsmod")
    # Both cards are there, in the same order under both kernels.
    said = user("ssh", "1", "ifconfig eth0; ifconfig eth1").stdout
    assert "addr:10.0.2.15" in said
    assert "addr:10.77.9.1" in said
    assert krg(user, "deploy", "--check", "--nodes", str(node.cluster)).returncode == 0

    if back:
        choose_stock(node, loader)
        node.reboot(stock.strip())
        assert node.status() == [stock.strip(), None, None]


def choose_ours(node: Lab, loader: str) -> None:
    """Make ours the default, the way an administrator does."""
    if loader == "legacy":
        # The third entry: the stock kernel, its single-user mode, ours.
        node.run("sed -i 's/^default.*/default 2/' /boot/grub/menu.lst; sync")
        return
    title = next(
        line.split("'")[1]
        for line in node.run("cat /boot/grub/custom.cfg").splitlines()
        if line.startswith("menuentry ")
    )
    block = disk_loader.environment_block({"next_entry": title}).decode()
    node.run(f"cat >/boot/grub/grubenv <<'END'\n{block}END\nsync")
    node.run(
        "head -c 1024 /boot/grub/grubenv >/boot/grub/new; mv /boot/grub/new /boot/grub/grubenv"
    )


def choose_stock(node: Lab, loader: str) -> None:
    if loader == "legacy":
        node.run("sed -i 's/^default.*/default 0/' /boot/grub/menu.lst; sync")
    else:
        # GRUB itself has crossed it out.
        assert "next_entry=\n" in node.run("cat /boot/grub/grubenv")


@pytest.mark.parametrize("loader", ["legacy", "grub2"])
def test_image_is_made_once(loader: disk_loader.Loader) -> None:
    made = disk_image.base_image("x86_64", loader)
    before = made.stat()
    assert disk_image.base_image("x86_64", loader) == made
    assert made.stat() == before
    assert made.read_bytes()[510:512] == b"\x55\xaa"


@pytest.mark.parametrize("loader", ["legacy", "grub2"])
def test_the_file_system_is_whole_and_of_its_time(
    loader: disk_loader.Loader, tmp_path: Path
) -> None:
    image = disk_image.base_image("x86_64", loader)
    part = tmp_path / "part.img"
    with image.open("rb") as stream:
        stream.seek(2048 * 512)
        part.write_bytes(stream.read())
    checked = subprocess.run(["/sbin/e2fsck", "-fn", part], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout

    def debugfs(command: str) -> str:
        argv = ["/sbin/debugfs", "-R", command, part]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    head = debugfs("stats -h")
    assert re.search(r"Inode size:\s+128\n", head)
    assert "has_journal" in head
    assert not {"extent", "64bit", "metadata_csum", "ext_attr"} & set(head.split())
    console = debugfs("stat /dev/console")
    assert "character special" in console
    assert "Mode:  0600" in console
    assert "05:01" in console
    for path in ("/bin/busybox", "/etc/passwd", "/root/.ssh"):
        assert "User:     0   Group:     0" in debugfs(f"stat {path}")
