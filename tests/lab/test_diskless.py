# SPDX-License-Identifier: GPL-2.0-or-later
"""What "diskless render" wrote, served by real daemons, boots nodes that have nothing.

In namespaces of the test's own: dnsmasq, pxelinux, NFS-Ganesha, a bridge, and QEMU nodes without
a disk. What would start a server when it is installed is unpacked aside.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision import artifacts
from provision.debian_archive import DebianArchive
from provision.errors import InputError, KrgError
from provision.lab import agent
from provision.lab.image import initramfs
from provision.paths import cache_dir

# Read when this is imported: a test may have a home of its own later.
CACHE = cache_dir() / "debian"
TOOLS = ("qemu-system-x86_64", "dnsmasq", "cpio", "ip", "unshare")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
pytestmark = [
    pytest.mark.lab,
    pytest.mark.sources,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="bridges and taps are root's"),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no /dev/net/tun"),
    *(
        pytest.mark.skipif(shutil.which(tool, path=PATH) is None, reason=f"no {tool} here")
        for tool in TOOLS
    ),
]
PACKAGES = ("pxelinux", "syslinux-common", "rpcbind", "nfs-ganesha", "nfs-ganesha-vfs",
            "nfs-kernel-server")  # fmt: skip
LIMIT = 420.0  # a boot may take five minutes on a crowded machine
HEAD = "10.77.5.254"
SESSION = 5
# The lab's userland sets this address too: its session and node id. KRG_AUTONODEID takes the
# ids from the last bytes.
IDS = (11, 12)


def unpacked(target: Path) -> None:
    """Unpack the packages and the libraries that they need, beside the machine's own."""
    archive = DebianArchive(CACHE)
    left, seen = list(PACKAGES), {"libc6", "libgcc-s1"}
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        archive.unpack(name, target)
        left += [need for need in archive.depends(name) if need.startswith("lib")]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Return a directory with node1 and node2, which boot while the test looks."""
    try:
        build = artifacts.find("kerrighed-2.4.4", "x86_64")
    except InputError as error:
        pytest.skip(f"{error}; enable with: krg-provision build-kernel")
    try:
        unpacked(tmp_path / "aside")
    except KrgError as error:
        pytest.skip(f"{error.message}")
    macs = [f"02:77:00:00:05:{number:02x}" for number in IDS]
    text = f"session = {SESSION}\n[defaults]\nappend = 'init=/init console=ttyS0,115200 noapic'\n"
    for number, mac in zip(IDS, macs, strict=True):
        text += f"[[node]]\nname = 'krg{number}'\nid = {number}\n"
        text += f"address = '10.77.{SESSION}.{number}'\nmac = '{mac}'\n"
    (tmp_path / "cluster.toml").write_text(text)
    subprocess.run(
        [sys.executable, "-m", "provision", "diskless", "render", "--nodes", "cluster.toml",
         "--artifacts", build.directory, "--head", HEAD, "--driver", "E1000", "--output", "head"],
        cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    given = {
        "HEAD": tmp_path / "head", "ASIDE": tmp_path / "aside", "INITRAMFS": initramfs(build),
        "ADDRESS": HEAD, "NODES": " ".join(macs), "PATH": PATH,
    }  # fmt: skip
    script = Path(__file__).with_name("head_node.sh")
    with subprocess.Popen(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
         "sh", script],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **{name: str(value) for name, value in given.items()}},
    ) as server:  # fmt: skip
        assert server.stdin is not None and server.stdout is not None
        assert server.stdout.readline() == "ready\n", "the head node did not start"
        yield tmp_path
        server.stdin.close()
        server.wait(60)


def asked(place: Path, number: int, command: str, wanted: str) -> str:
    """Ask a node until what it says fits; it has LIMIT seconds for that."""
    deadline = time.monotonic() + LIMIT
    said = "nothing"
    while time.monotonic() < deadline:
        try:
            said = agent.run(place / f"node{number}", f"({command}) 2>&1", 20).output
        except agent.SilentError as error:
            said = error.message
        if re.search(wanted, said):
            return said
        time.sleep(0.5)
    console = (place / f"node{number}/console.log").read_text("latin-1")[-2000:]
    raise AssertionError(f"node {number}: wanted {wanted}, it says {said}\n{console}")


def test_nodes_without_a_disk_become_a_cluster(place: Path) -> None:
    for number, node_id in enumerate(IDS, 1):
        said = asked(place, number, "cat /sys/kerrighed/node_id /sys/kerrighed/session_id", r"^\d")
        assert said.split() == [str(node_id), str(SESSION)]
        # By the least number of nodes on the kernel line, nobody having said "start".
        asked(place, number, "cat /proc/nodes/nrnodes", r"ONLINE:2\s")
    # The root is on NFS, one for both, and can be written to.
    assert re.search(r"^/dev/root / nfs rw,\S*vers=3\S*proto=tcp", asked(
        place, 1, "cat /proc/mounts", "/ nfs"), re.MULTILINE)  # fmt: skip
    asked(place, 1, "echo from node 1 >/root/note && cat /root/note", "^from node 1$")
    asked(place, 2, "cat /root/note", "^from node 1$")
    # As exportfs understood it, for the kernel's own server.
    exports = (place / "exports.seen").read_text()
    for number in IDS:
        place_of = rf"^/srv/krg-diskless/root\s+10\.77\.{SESSION}\.{number}\(\S*"
        assert re.search(rf"{place_of}\brw,\S*no_root_squash", exports, re.MULTILINE), exports
    served = (place / "dnsmasq.log").read_text()
    for number in IDS:
        assert f"sent /srv/krg-diskless/tftp/pxelinux.cfg/01-02-77-00-00-05-{number:02x}" in served
