# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes that have nothing boot from the lab's head node: real dnsmasq, pxelinux, NFS-Ganesha.

Driven by the command. What "diskless render" wrote is what the head node serves.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.test_cluster import LIMIT, wait_until
from provision import artifacts
from provision.artifacts import Artifacts
from provision.debian_archive import DebianArchive
from provision.errors import InputError, KrgError
from provision.lab import agent, head
from provision.paths import builds_dir, cache_dir

# Read when this is imported: a test may have a home of its own later.
CACHE, DATA = cache_dir(), builds_dir().parent
pytestmark = [
    pytest.mark.lab,
    pytest.mark.sources,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="bridges and taps are root's"),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no /dev/net/tun"),
    *(
        pytest.mark.skipif(shutil.which(tool, path=head._path()) is None, reason=f"no {tool} here")
        for tool in ("qemu-system-x86_64", "dnsmasq", "cpio", "ip", "nsenter")
    ),
]
NODES = 2
SESSION = 5


@pytest.fixture
def build() -> Artifacts:
    try:
        found = artifacts.find("kerrighed-2.4.4", "x86_64")
        head.tools()
    except InputError as error:
        pytest.skip(f"{error}; enable with: krg-provision build-kernel")
    except KrgError as error:
        pytest.skip(error.message)
    return found


class Lab:
    """The command, with a state directory of its own, for the lab krg there."""

    def __init__(self, state: Path) -> None:
        self.place = state / "krg-provision/labs/krg"
        homes = {"STATE": state, "CACHE": CACHE.parent, "DATA": DATA.parent}
        self.env = {
            **os.environ,
            **{f"XDG_{name}_HOME": str(path) for name, path in homes.items()},
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "provision", "lab", *words]
        return subprocess.Popen(
            argv, env=self.env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, *words: str, status: int = 0) -> str:
        with self.start(*words) as process:
            out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == status, out + err
        return out if status == 0 else err

    def node(self, number: int, command: str) -> str:
        return agent.run(self.place / f"node{number}", f"({command}) 2>&1", 60).output

    def processes(self) -> list[int]:
        """Return all processes in the network of the lab's head node."""
        number = (self.place / "head.pid").read_text().strip()
        network = Path(f"/proc/{number}/ns/net").readlink()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if (path / "ns/net").readlink() == network:
                    found.append(int(path.name))
            except OSError:
                continue
        return found


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "state")
    yield made
    made.start("down").communicate(timeout=60)


def alive(pids: list[int]) -> list[str]:
    """Return what of these processes still runs, as their command lines."""
    left = []
    for number in pids:
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z":
                left.append(Path(f"/proc/{number}/cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return left


def exports(lab: Lab, scratch: Path) -> str:
    """Return the exports as exportfs understands them, whose own server need not be there."""
    archive = DebianArchive(CACHE / "debian")
    archive.unpack("nfs-kernel-server", scratch)
    files = {"TOOLS": head.tools(), "EXPORTFS": scratch / "usr/sbin/exportfs", "HEAD": lab.place}
    script = """
        mount -t tmpfs none /etc && mkdir /etc/exports.d && : >/etc/exports
        mkdir -p /var/lib/nfs && cp "$HEAD/served/krg-diskless.exports" /etc/exports.d/
        export LD_LIBRARY_PATH="$(echo "$TOOLS"/usr/lib/*-linux-gnu)"
        "$EXPORTFS" -ra && "$EXPORTFS" -s"""
    pid = (lab.place / "head.pid").read_text().strip()
    done = subprocess.run(
        ["nsenter", "--target", pid, "--mount", "unshare", "--mount", "sh", "-euc", script],
        env={**os.environ, **{name: str(value) for name, value in files.items()}},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nodes_without_a_disk_become_a_cluster(lab: Lab, build: Artifacts, tmp_path: Path) -> None:
    said = lab("diskless", "up", "--nodes", str(NODES), "--session", str(SESSION), "--accel",
               "tcg", "--artifacts", str(build.directory), "--format", "json")  # fmt: skip
    found = json.loads(said)["evidence"]
    assert all(item["ok"] for item in found), found
    seen = {(item["what"], item["where"]) for item in found}
    for what in ("module loaded", "booted by pxelinux", "root over NFS", "cluster runs"):
        assert {(what, f"node {number}") for number in range(1, NODES + 1)} <= seen
    # By the least number of nodes on the kernel line, nobody having said "start".
    assert "krgadm cluster start" not in {item["what"] for item in found}
    status = json.loads(lab("status", "--format", "json"))
    assert status["head"]["state"] == "up" and status["bootloader"] == "pxelinux"
    assert [(n["state"], n["online"]) for n in status["nodes"]] == [("up", NODES)] * NODES
    # By way of SSH, from inside their network; one root for both, and it can be written to.
    assert lab("ssh", "2", "cat", "/sys/kerrighed/node_id") == "2\n"
    lab.node(1, "echo from node 1 >/root/note")
    assert lab.node(2, "cat /root/note") == "from node 1\n"
    # As exportfs understood it, for the kernel's own server.
    text = exports(lab, tmp_path / "nfs")
    for number in range(1, NODES + 1):
        place = rf"^/srv/krg-diskless/root\s+10\.77\.{SESSION}\.{number}\(\S*"
        assert re.search(rf"{place}\brw,\S*no_root_squash", text, re.MULTILINE), text

    # One server that ends takes the head node along, and "down" the rest.
    pids = lab.processes()
    servers = [n for n in pids if "ganesha" in Path(f"/proc/{n}/comm").read_text()]
    first = os.pidfd_open(int((lab.place / "head.pid").read_text()))
    os.kill(servers[0], signal.SIGKILL)
    wait_for_end(first)
    assert (lab.place / "head.log").read_text() == "a server ended\n"
    # Their QEMUs: a head node that is lost is no power cut. Who waited for it is about to end.
    wait_until(lambda: len(alive(pids)) == NODES, "the head node's end")
    lab("down")
    assert alive(pids) == []
    assert sorted(path.name for path in lab.place.iterdir()) == [
        *("dnsmasq.log", "ganesha.log", "head.log", "node1", "node2")
    ]


def wait_for_end(handle: int) -> None:
    try:
        assert select.select([handle], [], [], 60)[0], "the head node runs on"
    finally:
        os.close(handle)


@pytest.mark.parametrize("sign", ["head.pid", "head.ready", "node2/qemu.pid"])
def test_a_client_that_is_killed_leaves_what_down_finds(
    lab: Lab, build: Artifacts, sign: str
) -> None:
    """Whatever it had started by then."""
    with lab.start(
        "diskless", "up", "--artifacts", str(build.directory), "--accel", "tcg"
    ) as client:
        wait_until((lab.place / sign).exists, sign, client)
        client.kill()
    pids = lab.processes()
    assert pids
    lab("down")
    assert alive(pids) == []
    assert "no lab krg is up" in lab("down", status=2)
