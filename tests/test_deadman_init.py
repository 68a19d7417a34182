# SPDX-License-Identifier: GPL-2.0-or-later
"""The way back from a trial as real inits start it: busybox's, OpenRC."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_root import Root, root

from provision import deadman
from provision.boot_entry import File
from provision.cluster_rules import Node
from provision.facts import Facts, Text

MENU = (
    b"default 0\ntimeout 5\ntitle Debian\nroot (hd0,0)\nkernel /boot/vmlinuz-old root=/dev/hda1\n"
    b"\n### BEGIN KRG-PROVISION +1 ### written by krg-provision deploy, changes here are lost\n"
    b"title new\nroot (hd0,0)\nkernel /boot/vmlinuz-%s root=/dev/hda1 node_id=1\n"
    b"### END KRG-PROVISION ###\n"
)
# The kernel that runs is the one on trial; its restart is never waited for.
KERNEL = platform.release()
SECONDS = 60_000


def armed(
    init: str,
    has: tuple[str, ...] = (),
    inittab: bytes = b"",
    release: str = KERNEL,
    seconds: int = SECONDS,
) -> tuple[File, ...]:
    """Return what arming a trial writes on a node with such an init, but the boot loader's."""
    texts = {"/boot/grub/menu.lst": MENU % release.encode(), deadman.INITTAB: inittab}
    facts = Facts(
        words={"init": init, "kernel": "old", "saved": "0"},
        texts={path: Text(content, 0o644, 0, 0, path) for path, content in texts.items()},
        has=frozenset(has),
    )
    made = deadman.arm(facts, release, Node("krg1", 1, "krg1"), seconds, "kerrighed")
    assert made.first == () and deadman.waits(made)
    return tuple(file for file in made.texts if not file.path.startswith("/boot/"))


def install(files: tuple[File, ...], place: Path) -> None:
    """Write files as a node has them; nothing in the script leads to this machine's sysrq."""
    for file in files:
        path = place / file.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.target is not None:
            path.symlink_to(file.target)
            continue
        path.write_bytes(file.content.replace(b"/proc/sysrq-trigger", b"/sysrq"))
        path.chmod(file.mode)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A root with busybox, its init among it, and an inittab that is not ours."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox: apt-get install busybox-static")
    if os.geteuid() != 0:
        pytest.skip("a process table of its own needs root: run the tests as root")
    for name in ("bin", "sbin", "dev", "etc/init.d", "var/lib/krg-provision"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(busybox, tmp_path / "bin/busybox")
    for name in ("bin/sh", "bin/uname", "bin/mv", "bin/sleep", "bin/sync", "sbin/init"):
        (tmp_path / name).symlink_to("/bin/busybox")
    script = tmp_path / "etc/init.d/rcS"
    script.write_text("#!/bin/sh\n: >/var/lib/krg-provision/rcS\n")
    script.chmod(0o755)
    return tmp_path


def test_busybox_init(small: Path) -> None:
    # No line end at its end; what is "once" comes after all of "sysinit".
    before = b"::once:/bin/sh /etc/once\n::sysinit:/etc/init.d/rcS\n::respawn:/bin/sleep 1000"
    (small / "etc/once").write_text(
        "ls() { for f in *; do echo $f; done; }\n"
        "cd /var/lib/krg-provision; ls >list.new; mv list.new list\n"
    )
    files = armed("busybox", inittab=before)
    install(files, small)
    argv = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "chroot", small, "/sbin/init"]
    state = small / "var/lib/krg-provision"
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        try:
            deadline = time.monotonic() + 20
            while not (state / "list").exists():
                assert running.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            running.kill()
    names = (state / "list").read_text().split()
    assert {"rcS", "trial-running"} <= set(names) and "trial" not in names
    # What a rollback brings back, and what another trial writes.
    assert (
        armed("busybox", inittab=(small / "etc/inittab").read_bytes())[1].content
        == (small / "etc/inittab").read_bytes()
    )


@pytest.fixture(scope="module")
def openrc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    with root(tmp_path_factory.mktemp("openrc"), include=("openrc",)) as made:
        yield made


@pytest.mark.debian
def test_openrc(openrc: Root) -> None:
    # Only ours and one more: others would set this machine's clock.
    for link in openrc.path.glob("etc/runlevels/*/*"):
        link.unlink()
    network = openrc.file("/etc/init.d/a-network")
    network.write_text(
        "#!/sbin/openrc-run\ndepend() { provide net; }\n"
        "start() { ls /var/lib/krg-provision >/before-network; }\n"
    )
    network.chmod(0o755)
    openrc.run(["rc-update", "add", "a-network", "default"], check=True)
    files = armed("openrc", ("/sbin/openrc-run", "/etc/runlevels/boot", "/etc/runlevels/default"))
    install(files, openrc.path)
    shown = openrc.run(["rc-update", "show"]).stdout.split("\n")
    assert ["krg-provision-way-back", "|", "default"] in [line.split() for line in shown]
    done = openrc.run(["sh", "-c", "openrc sysinit && openrc default && rc-status -a"], check=True)
    said = done.stdout + done.stderr
    assert f"{KERNEL} is on trial: back in {SECONDS} s unless it is confirmed" in said
    assert "krg-provision-way-back" in said and "started" in said
    assert openrc.file("/before-network").read_text().split()[-1] == "trial-running"
    # The way back goes as rc-update would take it: the link is all there is.
    openrc.run(["rc-update", "del", "krg-provision-way-back", "default"], check=True)
    assert not openrc.file("/etc/runlevels/default/krg-provision-way-back").is_symlink()
