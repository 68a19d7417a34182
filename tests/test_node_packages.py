# SPDX-License-Identifier: GPL-2.0-or-later
"""deploy --packages and rollback on a real Debian, through its own sshd, dpkg and update-grub."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import debian_root
import full_build
import mini
import pytest
from conftest import ROOT
from debian_root import Root
from sshd import free_port

from grub import legacy
from provision.artifacts import Artifacts
from provision.node_rules import RULES

pytestmark = [
    pytest.mark.debian,
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb: install dpkg"),
    pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="apt-get install openssh-client"),
]
STOCK = "6.1.0-9-amd64"
# What a node's tools write about themselves, and what changes by being looked at.
OWN = ("var/lib/dpkg", "var/lib/krg-provision", "var/log", "var/cache/ldconfig", "proc", "sys",
       "dev", "run", "root", "tmp", "var/lib/systemd", "boot/grub/menu.lst~")  # fmt: skip


class Fleet:
    """One Debian node that answers by SSH, and the operator's side."""

    def __init__(self, node: Root, home: Path, port: int, cluster: Path) -> None:
        self.node, self._home, self._port, self._cluster = node, home, port, cluster

    def krg(self, command: str, *args: object, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "provision", command, "--nodes", self._cluster, *map(str, args)],
            env={**os.environ, "HOME": str(self._home), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        said = done.stdout + done.stderr
        assert done.returncode == status, said
        return said

    def deploy(self, build: Artifacts, *args: object, status: int = 0) -> str:
        # It is no node of 2006, and its disk is a loop device.
        force = [word for rule in RULES for word in ("--force", rule)]
        return self.krg("deploy", "--artifacts", build.directory, *force, *args, status=status)

    def tree(self) -> dict[str, tuple[int, int, bytes]]:
        """Return mode, owner and content of all that is not a tool's own."""
        found = {}
        for path in self.node.path.rglob("*"):
            name = str(path.relative_to(self.node.path))
            if not f"{name}/".startswith(tuple(f"{own}/" for own in OWN)):
                status = path.lstat()
                content = os.fsencode(path.readlink()) if path.is_symlink() else b""
                if path.is_file() and not path.is_symlink():
                    content = path.read_bytes()
                found[name] = (status.st_mode, status.st_uid, content)
        return found

    def version(self, name: str) -> str:
        done = self.node.run(["dpkg-query", "-W", "-f", "${Version} ${db:Status-Status}", name])
        return done.stdout.removesuffix(" not-installed")


def _krg(home: Path, *args: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "provision", *map(str, args)],
        env={**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def build(home: Path) -> Artifacts:
    release = mini.make(home / "mini")
    return full_build.make(lambda *a: _krg(home, *a), release, home / "build")


def debs(home: Path, build: Artifacts, revision: int) -> Path:
    out = home / f"debs-{revision}"
    _krg(home, "package", "-q", build.directory, "-o", out, "--revision", revision)
    return out


@contextmanager
def serving(node: Root, place: Path, home: Path) -> Iterator[Fleet]:
    """Start the node's sshd in namespaces of its own, and write a cluster file."""
    port = free_port()
    key = place / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    ssh = node.file("/root/.ssh")
    ssh.mkdir(mode=0o700, exist_ok=True)
    (ssh / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
    public = node.file("/etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
    (place / "known").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    cluster = place / "cluster.toml"
    name = node.file("/etc/hostname").read_text().strip() or "node"
    cluster.write_text(
        f'session = 1\nnbmin = 1\nknown_hosts = "known"\n[[node]]\nname = "{name}"\nid = 1\n'
        f'address = "127.0.0.1"\nport = {port}\nkey = "{key}"\nroot = "/dev/hda1"\nuser = "root"\n'
    )
    log = (place / "sshd.log").open("wb")
    enter = 'mkdir -p "$1/run/sshd"; ' + debian_root._ENTER_DEVICES
    process = subprocess.Popen(
        [*debian_root._UNSHARE, "sh", "-c", enter, "sh", str(node.path), "/usr/sbin/sshd", "-D",
         "-e", "-p", str(port), "-o", "UsePAM=no"],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (place / "sshd.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield Fleet(node, home, port, cluster)
    finally:
        # unshare itself waits for its child, whatever it is told; --kill-child ends that.
        process.kill()
        process.wait(30)
        log.close()


@contextmanager
def debian(place: Path, home: Path, loader: str) -> Iterator[Fleet]:
    """Make a Debian with a stock kernel, and a menu that its update-grub made of that."""
    include = ("openssh-server", "kmod", loader)
    with debian_root.root(place, include=include, disk=True) as node:
        node.file(f"/boot/vmlinuz-{STOCK}").write_text("stock kernel")
        node.file("/boot/grub").mkdir(exist_ok=True)
        if loader == "grub-legacy":
            node.file("/boot/grub/menu.lst").write_text("default 0\ntimeout 5\n")
            node.file("/boot/grub/device.map").write_text(f"(hd0) {node.devices[0]}\n")
        else:
            node.file("/boot/grub/grub.cfg").write_text("")
        node.run(["update-grub", *(["-y"] if loader == "grub-legacy" else [])], check=True)
        with serving(node, place, home) as made:
            yield made


@pytest.fixture
def fleet(tmp_path: Path, home: Path) -> Iterator[Fleet]:
    """A Debian with GRUB Legacy."""
    with debian(tmp_path, home, "grub-legacy") as made:
        yield made


def menu(fleet: Fleet) -> str:
    return fleet.node.file("/boot/grub/menu.lst").read_text("latin-1")


def test_installed_upgraded_and_taken_back(fleet: Fleet, home: Path, build: Artifacts) -> None:
    release = build.kernel_release
    before, old_menu = fleet.tree(), menu(fleet)
    one, two = debs(home, build, 1), debs(home, build, 2)

    said = fleet.deploy(build, "--packages", one, "--check", status=1)
    assert "run env DEBIAN_FRONTEND=noninteractive" in said
    assert f"add /var/cache/krg-provision/linux-image-{release}_" in said
    assert "update-grub is not run now" in said
    assert fleet.tree() == before
    said = fleet.deploy(build, "--packages", one)
    assert "1 node: 1 changed" in said
    for name in (f"linux-image-{release}", f"kerrighed-modules-{release}", "kerrighed-tools"):
        assert fleet.version(name).endswith(" installed"), name
    assert fleet.version(f"linux-headers-{release}") == ""
    # What is booted is what the plan printed: the package's scripts ran no update-grub.
    assert menu(fleet).startswith(old_menu)
    assert f"vmlinuz-{release}" in menu(fleet).removeprefix(old_menu)
    assert not fleet.node.file(f"/boot/initrd.img-{release}").exists()
    settings = fleet.node.file("/etc/default/kerrighed")
    nodes = fleet.node.file("/etc/kerrighed_nodes")
    assert "\nENABLE=true\n" in settings.read_text() and "nbmin=1\n" in nodes.read_text()
    assert not list(fleet.node.path.glob("etc/**/*.dpkg-*"))
    assert "1 unchanged" in fleet.deploy(build, "--packages", one)

    # update-grub, when somebody runs it, keeps our entry and the default.
    installed = menu(fleet)
    fleet.node.run(["update-grub", "-y"], check=True)
    entries = legacy.entries(menu(fleet))
    default = entries[legacy.default_index(menu(fleet))]
    assert default.kernel is not None and default.kernel.path.endswith(f"vmlinuz-{STOCK}")
    assert any(entry.ours for entry in entries)
    fleet.node.file("/boot/grub/menu.lst").write_text(installed, "latin-1")

    # An upgrade asks nothing and leaves the settings; the way back finds the former packages.
    settings.write_text(settings.read_text() + "# mine\n")
    middle = fleet.tree()
    # What nothing needs any more goes with the next change; the way back stays.
    cache = fleet.node.file("/var/cache/krg-provision")
    first = sorted(path.name for path in cache.iterdir())
    left, foreign = cache / "kerrighed-tools_0.9-1_amd64.deb", cache / "other_1_all.deb"
    left.write_text("of a build long gone")
    foreign.write_text("somebody's")
    gone = "remove /var/cache/krg-provision/kerrighed-tools_0.9-1_amd64.deb (nothing needs it"
    assert gone in fleet.deploy(build, "--packages", two, "--check", status=1)
    assert left.exists()
    said = fleet.deploy(build, "--packages", two)
    assert said.count(f"{gone} any more)") == said.count("(nothing needs it any more)") == 1
    assert not left.exists() and foreign.exists() and len(first) == 3
    assert all((cache / name).exists() for name in first)
    foreign.unlink()
    assert fleet.version("kerrighed-tools").startswith("2.6.20-2+")
    assert not list(fleet.node.path.glob("etc/**/*.dpkg-*"))
    said = fleet.krg("rollback")
    assert "1 node: 1 changed" in said
    assert fleet.version("kerrighed-tools").startswith("2.6.20-1+")
    now = fleet.tree()
    assert {name for name in now if now[name] != middle.get(name)} == set()
    assert now.keys() == middle.keys()
    settings.write_text(settings.read_text().replace("# mine\n", ""))

    # All of it.
    said = fleet.krg("rollback", "--check", status=1)
    assert f"dpkg -P kerrighed-tools kerrighed-modules-{release} linux-image-{release}" in said
    fleet.krg("rollback")
    assert fleet.version(f"linux-image-{release}") == ""
    assert fleet.version("kerrighed-tools") == ""
    now = fleet.tree()
    assert now.keys() ^ before.keys() == set()
    assert [name for name in now if now[name] != before[name]] == []


@pytest.mark.slow
def test_the_packages_of_a_build_that_nothing_names_go(
    fleet: Fleet, home: Path, build: Artifacts
) -> None:
    """The first of three: dpkg purges it, and what the last rollback needs stays."""
    before = fleet.tree()
    release = mini.make(home / "more")
    builds = [build] + [
        full_build.make(lambda *a: _krg(home, *a), release, home / name, f"LOCALVERSION={name}")
        for name in ("-second", "-third")
    ]
    first, second, third = (one.kernel_release for one in builds)
    for number, one in enumerate(builds):
        out = home / f"debs-of-{number}"
        _krg(home, "package", "-q", one.directory, "-o", out)
        said = fleet.deploy(one, "--packages", out)
        assert "1 node: 1 changed" in said
    assert f"remove the build {first}, deployed 2" in said
    assert f"dpkg -P kerrighed-modules-{first} linux-image-{first}" in said
    for name in (f"linux-image-{first}", f"kerrighed-modules-{first}"):
        assert fleet.version(name) == ""
    assert f"vmlinuz-{third}" in menu(fleet) and first not in menu(fleet)
    left = {n for n in fleet.tree() if first in n and not n.startswith("var/cache/krg-provision")}
    assert left == set()
    assert fleet.version(f"linux-image-{second}").endswith(" installed")
    assert "1 unchanged" in fleet.deploy(builds[2], "--packages", home / "debs-of-2")
    fleet.krg("rollback")
    assert f"vmlinuz-{second}" in menu(fleet) and third not in menu(fleet)
    said = fleet.krg("rollback", status=1)
    assert f"the entry of {first} would come back" in said
    fleet.krg("rollback", "--to", "20000101")
    now = fleet.tree()
    assert now.keys() ^ before.keys() == set()
    assert [name for name in now if now[name] != before[name]] == []


@pytest.mark.slow
def test_dpkg_killed_is_set_up_by_the_next_run(fleet: Fleet, home: Path, build: Artifacts) -> None:
    release = build.kernel_release
    before, old_menu = fleet.tree(), menu(fleet)
    one = debs(home, build, 1)
    killer = fleet.node.file("/etc/kernel/postinst.d/00-killer")
    killer.parent.mkdir(parents=True, exist_ok=True)
    killer.write_text("#!/bin/sh\nkill -9 $(pidof dpkg)\n")
    killer.chmod(0o755)
    said = fleet.deploy(build, "--packages", one, status=1)
    assert "some files are in place" in said and "dpkg" in said
    assert menu(fleet) == old_menu
    killer.unlink()
    said = fleet.deploy(build, "--packages", one)
    assert "dpkg was interrupted" in said and "--configure -a" in said
    assert fleet.version(f"linux-image-{release}").endswith(" installed")
    fleet.krg("rollback")
    now = fleet.tree()
    assert {name for name in now.keys() ^ before.keys() if "postinst.d" not in name} == set()
    assert menu(fleet) == old_menu


@pytest.mark.slow
def test_packages_over_files_and_meanwhile(fleet: Fleet, home: Path, build: Artifacts) -> None:
    one = debs(home, build, 1)
    # Somebody is at work with dpkg: what the plan was made from has changed.
    tar = fleet.node.file("/usr/local/sbin/tar")
    tar.write_text('#!/bin/sh\necho >>/var/lib/dpkg/status\nexec /bin/tar "$@"\n')
    tar.chmod(0o755)
    said = fleet.deploy(build, "--packages", one, status=1)
    assert "skipped: /var/lib/dpkg/status was changed since the plan was made" in said
    tar.unlink()
    fleet.deploy(build)
    said = fleet.deploy(build, "--packages", one, status=1)
    assert "lies there as files, not as packages" in said
    assert "no packages of ours" in fleet.deploy(build, "--packages", home, status=2)


@pytest.mark.slow
def test_grub_2(tmp_path: Path, home: Path, build: Artifacts) -> None:
    """A newer kernel would become the first entry of grub.cfg: it is not written at all."""
    with debian(tmp_path, home, "grub2-common") as fleet:
        before = fleet.tree()
        grub_cfg = fleet.node.file("/boot/grub/grub.cfg").read_text()
        said = fleet.deploy(build, "--packages", debs(home, build, 1))
        assert "1 node: 1 changed" in said
        assert fleet.node.file("/boot/grub/grub.cfg").read_text() == grub_cfg
        ours = fleet.node.file("/boot/grub/custom.cfg").read_text()
        assert f"vmlinuz-{build.kernel_release}" in ours
        fleet.node.run(["grub-script-check", "/boot/grub/custom.cfg"], check=True)
        fleet.krg("rollback")
        now = fleet.tree()
        assert now.keys() ^ before.keys() == set()
        assert [name for name in now if now[name] != before[name]] == []
