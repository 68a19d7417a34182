# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes between a plan and its end: interruptions, full disks, other operators, editors."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .hosts import MENU_LST, RELEASE, Host, Hosts, make_build, wait_for
from .test_deploy import FORCE, KERNEL, MENU, deploy

pytestmark = pytest.mark.fleet


def test_disk_that_fills_up_in_between_leaves_nothing(hosts: Hosts, build: Path) -> None:
    # Space enough, but no room for so many files, and nobody wanted to hear that.
    node = hosts.hosts[1]
    node.mount("/lib/modules", "size=64m,nr_inodes=12")
    before = node.tree()
    code, out, err = deploy(hosts, build, "--check")
    assert "krg2: failed: not enough inodes on /lib/modules: " in out
    code, out, err = deploy(hosts, build, "--force", "space")
    assert code == 1, out + err
    failed = [line for line in out.splitlines() if line.startswith("krg2: failed:")]
    assert len(failed) == 1 and "No space left on device" in failed[0]
    assert "3 nodes: 2 changed, 1 failed" in out
    assert node.tree() == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_interrupted_upload_leaves_nothing(
    host: Hosts, tmp_path: Path, number: signal.Signals
) -> None:
    build = make_build(tmp_path / "large", bulk=48)
    node = host.hosts[0]
    before = node.tree()
    running = host.start("deploy", "--nodes", str(host.cluster), "--artifacts", str(build), *FORCE)
    try:
        wait_for("the upload to begin", lambda: list(node.path("/lib/modules").glob(".krg*/*/k*")))
        running.send_signal(number)
        running.communicate(timeout=30)
    finally:
        if running.poll() is None:
            running.kill()
            running.communicate()
    assert running.returncode in (-signal.SIGKILL, 130)
    wait_for("the node to clean up", lambda: not node.stages())
    # A killed process cannot give its lock back: the next one finds that it has ended.
    lock = node.path("/var/lib/krg-provision/lock")
    assert lock.is_symlink() == (number == signal.SIGKILL)
    left = lock.readlink() if lock.is_symlink() else Path()
    lock.unlink(missing_ok=True)
    assert node.tree() == before
    if number == signal.SIGKILL:
        lock.symlink_to(left)
    assert deploy(host, build)[0] == 0
    assert not lock.is_symlink()


def test_what_a_crashed_node_kept_is_removed(host: Hosts, build: Path) -> None:
    for place in ("/etc", "/lib/modules", "/boot"):
        left = host.hosts[0].path(f"{place}/.krg-provision-0123456789abcdef")
        left.mkdir()
    # Beside a linked text, outside the known places: its directory is in the list.
    beside = host.hosts[0].path("/var/grub/.krg-provision-0123456789abcdef")
    beside.mkdir(parents=True)
    kept = host.hosts[0].path("/var/grub/kept")
    kept.mkdir()
    control = host.hosts[0].path("/etc/.krg-provision-0123456789abcdef")
    (control / "stages").write_text(
        "/var/grub/.krg-provision-0123456789abcdef\n/var/grub/kept\n/\n"
    )
    control.with_name(control.name + ".pid").symlink_to("1")
    alone = host.hosts[0].path("/etc/.krg-provision-fedcba9876543210.pid")
    alone.symlink_to("99999999")
    assert deploy(host, build)[0] == 0
    assert host.hosts[0].stages() == []
    assert not beside.exists() and kept.is_dir()


def test_deploy_in_the_middle_of_another_is_refused(host: Hosts, tmp_path: Path) -> None:
    build = make_build(tmp_path / "large", bulk=48)
    node = host.hosts[0]
    running = host.start("deploy", "--nodes", str(host.cluster), "--artifacts", str(build), *FORCE)
    wait_for("the upload to begin", lambda: list(node.path("/lib/modules").glob(".krg*/*/k*")))
    os.killpg(running.pid, signal.SIGSTOP)
    # From this machine, then by somebody at another.
    same, _, said = deploy(host, build)
    host.operator = "elsewhere"
    locked, _, also = deploy(host, build)
    # Even where the lock is overruled, two do not write to one node.
    code, out, _ = deploy(host, build, "--break-lock")
    os.killpg(running.pid, signal.SIGCONT)
    first, err = running.communicate(timeout=60)
    assert (same, locked, code, running.returncode) == (1, 1, 1, 0), out + first + err
    assert f"(process {running.pid}, since " in also and "is at work on krg1" in also
    assert f"(process {running.pid}) since " in said and "is at work on this cluster" in said
    assert "another krg-provision is at work on this node" in out
    assert node.stages() == []


def test_somebody_else_at_work_on_the_cluster(hosts: Hosts, build: Path) -> None:
    """Nothing is changed on any node while another operator holds the lock of one."""
    lock = hosts.hosts[1].path("/var/lib/krg-provision/lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.symlink_to("ann@desk:4711:1700000000")
    code, out, err = deploy(hosts, build)
    assert code == 1
    assert "ann@desk (process 4711, since 2023-11-1" in err and "at work on krg2" in err
    assert not any(host.path(KERNEL).exists() for host in hosts.hosts)
    locks = [host.path("/var/lib/krg-provision/lock") for host in hosts.hosts]
    assert [path.is_symlink() for path in locks] == [False, True, False]
    code, out, err = deploy(hosts, build, "--break-lock")
    assert code == 0, out + err
    assert [path.is_symlink() for path in locks] == [False, False, False]


def test_a_lock_that_cannot_be_removed_is_said(host: Hosts, build: Path) -> None:
    node = host.hosts[0]
    rm = node.path("/usr/local/sbin/rm")
    rm.parent.mkdir(parents=True, exist_ok=True)
    rm.write_text('#!/bin/sh\ncase "$*" in *-provision/lock) exit 1 ;; esac\nexec /bin/rm "$@"\n')
    rm.chmod(0o755)
    code, out, err = deploy(host, build)
    assert code == 0, out + err
    assert "krg1: the lock could not be removed" in err and "--break-lock" in err
    assert node.path("/var/lib/krg-provision/lock").is_symlink()


def on_move(node: Host, script: str) -> None:
    """Make the host's mv run ``script`` first."""
    mv = node.path("/usr/local/sbin/mv")
    mv.parent.mkdir(parents=True, exist_ok=True)
    mv.write_text(f'#!/bin/sh\n{script}\nexec /bin/mv "$@"\n')
    mv.chmod(0o755)


def test_menu_changed_while_files_are_moved_is_left_alone(host: Hosts, build: Path) -> None:
    node = host.hosts[0]
    on_move(node, f'case "$*" in *"/vmlinuz-{RELEASE} /boot/") echo "# meanwhile" >>{MENU} ;; esac')
    code, out, err = deploy(host, build)
    assert code == 1, out + err
    assert "some files are in place" in out
    assert f"{MENU} was changed meanwhile; it was left as it is" in out
    assert node.path(MENU).read_bytes() == MENU_LST + b"# meanwhile\n"
    assert node.stages() == []
    node.path("/usr/local/sbin/mv").unlink()
    assert deploy(host, build)[0] == 0


def test_a_file_changed_while_others_are_moved_is_left_alone(host: Hosts, build: Path) -> None:
    node = host.hosts[0]
    node.path("/usr/local/bin").mkdir(parents=True, exist_ok=True)
    for name in ("krgadm", "migrate"):
        node.path(f"/usr/local/bin/{name}").write_text("mine\n")
    on_move(
        node, 'case "$*" in *"/krgadm /usr/local/bin/") echo new >/usr/local/bin/migrate ;; esac'
    )
    code, out, err = deploy(host, build)
    assert code == 1, out + err
    assert "/usr/local/bin/migrate was changed meanwhile; it was left as it is" in out
    assert node.path("/usr/local/bin/migrate").read_text() == "new\n"


def test_interruption_says_which_nodes_are_done(hosts: Hosts, build: Path) -> None:
    slow = hosts.hosts[1]
    on_move(slow, "while [ ! -e /tmp/go ]; do sleep 0.1; done")
    running = hosts.start(
        "deploy", "--nodes", str(hosts.cluster), "--artifacts", str(build), *FORCE
    )
    done = [hosts.hosts[0], hosts.hosts[2]]
    try:
        assert running.stderr is not None
        said: list[str] = []
        while sum(": done in " in line for line in said) < len(done):
            said.append(running.stderr.readline())
            assert said[-1], said
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    finally:
        slow.path("/tmp/go").touch()
        if running.poll() is None:
            running.kill()
            running.communicate()
    assert running.returncode == 130
    assert "interrupted: krg[1,3]: done" in err
    assert "interrupted: krg2: not known to be done; deploy again" in err
    wait_for("the node to end", lambda: not slow.stages())
    slow.path("/usr/local/sbin/mv").unlink()
    assert deploy(hosts, build)[0] == 0


def test_file_changed_after_the_plan_skips_the_node(host: Hosts, tmp_path: Path) -> None:
    build = make_build(tmp_path / "large", bulk=24)
    node = host.hosts[0]
    running = host.start("deploy", "--nodes", str(host.cluster), "--artifacts", str(build), *FORCE)
    wait_for("the upload to begin", lambda: list(node.path("/lib/modules").glob(".krg*")))
    with node.path(MENU).open("ab") as menu:
        menu.write(b"# meanwhile\n")
    out, err = running.communicate(timeout=60)
    assert running.returncode == 1, out + err
    assert f"krg1: skipped: {MENU} was changed since the plan was made" in out
    assert node.path(MENU).read_bytes() == MENU_LST + b"# meanwhile\n"
    assert not node.path(KERNEL).exists()
    assert node.stages() == []
