# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be wrong with a lab, and the line that says so: nothing here boots."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Command

from provision import artifacts
from provision.errors import FailedError, InputError, MissingError
from provision.lab import lifecycle, qemu, state
from provision.lab.state import Lab, LabNode
from provision.paths import labs_dir

UUIDS = ("6c1e7f0e-8a35-4d6f-9a4b-0f4f3f3f9e55", "0b0f8f0c-57a4-4f61-8f4e-6a1d1d2f0a11")


@pytest.fixture
def lab(home: Path) -> Lab:
    nodes = tuple(LabNode(number, uuid) for number, uuid in enumerate(UUIDS, 1))
    made = Lab("krg", 1, "/b", "x86_64", "2.6.20-krg", 256, "tcg", 1.0, nodes)
    for node in nodes:
        made.path(node).mkdir(parents=True)
    return made


@pytest.fixture
def up(krg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """``lab up`` of a build with nothing in it: refused before the build is looked into."""
    build = tmp_path / "build"
    build.mkdir()
    keys = ("release", "arch", "kernel_release", "build_id")
    artifacts.write_manifest(build, dict(zip(keys, ("r", "x86_64", "2.6.20", "id"), strict=True)))
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("qemu-system-x86_64", "qemu-img", "mke2fs", "debugfs"):
        (programs / name).touch(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)

    def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
        return krg("lab", "up", "--artifacts", build, *words, **options)

    return run


def one_line(done: subprocess.CompletedProcess[str], status: int, said: str) -> None:
    """Look for one line of what is wrong, at most one of what to do, and the exit code."""
    assert done.returncode == status, done.stderr
    error, *hint = done.stderr.splitlines()
    assert error.startswith("krg-provision: error: ") and said in error
    assert len(hint) <= 1 and all(line.startswith("  ") for line in hint), done.stderr


class Standing:
    """Processes that run until they are ended, with words of ours on their command lines."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, *words: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", "print(1, flush=True); input()", *words]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        assert process.stdout is not None and process.stdout.readline() == b"1\n"
        return process


@pytest.fixture
def standing() -> Iterator[Standing]:
    with ExitStack() as stack:
        yield Standing(stack)


def test_no_qemu(up: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = up()
    one_line(done, 3, "qemu-system-x86_64: not found")
    assert "apt-get install qemu-system-x86" in done.stderr


def test_too_much_memory(up: Command) -> None:
    available = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])
    if available > 32 * 3072 * 1024:
        pytest.skip("this machine has room for the largest lab")
    one_line(up("--nodes", "32", "--memory", "3072"), 3, "the nodes want 98304 MB of memory")


def test_no_space_for_the_logs(
    up: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    unshare = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []), "sh", "-c"]
    script = 'mount -t tmpfs -o size=16k none "$0" && exec "$@"'
    if subprocess.run([*unshare, script, small, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    monkeypatch.setenv("XDG_STATE_HOME", str(small))
    run = subprocess.run

    def in_it(argv: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return run([*unshare, script, small, *argv], **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(subprocess, "run", in_it)
    one_line(up("--accel", "tcg"), 3, f"{small}/krg-provision/labs: 0 MB free")


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(MissingError, match=f"no space left in {tmp_path}, where") as caught,
        lifecycle._space_named(tmp_path, "disks are made", "XDG_STATE_HOME"),
    ):
        Path("/dev/full").write_bytes(b"x")
    assert "XDG_STATE_HOME" in str(caught.value.hint)


def test_the_network_s_port_is_in_use(up: Command, lab: Lab) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", lab.network[1]))
        done = up()
    one_line(done, 3, f"UDP port {lab.network[1]}, the network of this lab, is in use")
    assert "another --name" in done.stderr


def test_no_port_is_free(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(lifecycle, "_PORTS", range(port, port + 1))
        with pytest.raises(MissingError, match=f"no 1 free ports from {port} to {port}"):
            lifecycle._ports("krg", 1)


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU")
@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="apt-get install qemu-utils")
def test_a_port_that_is_taken_after_the_look(lab: Lab) -> None:
    """QEMU itself meets it: nothing runs afterwards."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        node = LabNode(1, UUIDS[0], taken.getsockname()[1])
        disk = lab.path(node) / qemu.DISK
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
        with pytest.raises(FailedError, match=r"QEMU did not start: .*host forwarding") as caught:
            qemu.start(lab, node, qemu.disk_boot(lab, node))
    assert "\n" not in caught.value.message and "taken meanwhile" in str(caught.value.hint)
    assert state.pid(lab, node) is None


def test_a_lab_that_is_up(up: Command, lab: Lab, standing: Standing) -> None:
    process = standing(UUIDS[0])
    (lab.path(lab.nodes[0]) / "qemu.pid").write_text(f"{process.pid}\n")
    state.save(lab)
    one_line(up(), 2, "lab krg is up already with 1 of 2 nodes")


def test_two_ups_at_once(up: Command, krg: Command) -> None:
    with state.locked("krg"):
        one_line(up(), 1, "another krg-provision is starting or stopping lab krg")
        one_line(krg("lab", "down"), 1, "another krg-provision is starting or stopping lab krg")


def test_nodes_whose_directory_is_gone(up: Command, lab: Lab, standing: Standing) -> None:
    """They would be on the new lab's network, under the same numbers."""
    process = standing(*qemu.arguments(lab, lab.nodes[0], []))
    shutil.rmtree(lab.directory)
    done = up()
    one_line(done, 2, "nodes of an earlier lab krg still run, and its directory knows nothing")
    assert f"kill {process.pid}\n" in done.stderr
    assert qemu.strays(state.network_of(labs_dir() / "other")) == []
    assert process.poll() is None


def test_a_stale_directory_is_used_again(lab: Lab) -> None:
    """After a crash: a state file, processes long gone, more nodes than the new lab has."""
    state.save(lab)
    (lab.path(lab.nodes[0]) / "qemu.pid").write_text("99999999\n")
    (lab.path(lab.nodes[1]) / "agent.sock").touch()
    (lab.directory / "node-notes").mkdir()
    lifecycle._check_down("krg")
    again = Lab("krg", 1, "/b", "x86_64", "k", 256, "tcg", 1.0, lab.nodes[:1])
    lifecycle._lay_out(again)
    left = sorted(str(path.relative_to(lab.directory)) for path in lab.directory.rglob("*"))
    assert left == ["lab.json", "node-notes", "node1"]


@pytest.mark.parametrize("kind", ["file", "link", "place"])
def test_something_is_in_the_way(lab: Lab, tmp_path: Path, kind: str) -> None:
    """It stays what it is."""
    path = lab.directory if kind == "place" else lab.path(lab.nodes[0])
    shutil.rmtree(path)
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"{path}: not a directory of a lab's"):
        lifecycle._lay_out(lab)
    assert path.is_symlink() or path.read_text() == "mine"


def test_a_state_that_cannot_be_one(krg: Command, lab: Lab) -> None:
    path = lab.directory / "lab.json"
    state.save(lab)
    good = path.read_text()
    for text in (
        good.replace('"memory": 256', '"memory": "x"'),
        good.split('"nodes"')[0] + '"nodes": []}',
    ):
        path.write_text(text)
        with pytest.raises(InputError, match="not the state of a lab"):
            state.load("krg")
    path.unlink()
    path.mkdir()
    one_line(krg("lab", "status"), 2, f"{path}: not the state of a lab (Is a directory)")
    shutil.rmtree(lab.directory)
    lab.directory.touch()
    one_line(krg("lab", "down"), 2, f"{path}: not the state of a lab (Not a directory)")


def test_a_node_that_is_killed_while_it_boots(lab: Lab, standing: Standing) -> None:
    """It is named with the last of its console, and the other one is ended."""
    state.save(lab)
    processes = [standing(uuid) for uuid in UUIDS]
    for node, process in zip(lab.nodes, processes, strict=True):
        (lab.path(node) / "qemu.pid").write_text(f"{process.pid}\n")
    (lab.path(lab.nodes[1]) / qemu.CONSOLE_LOG).write_text("Linux version\r\nMounting root\r\n")
    processes[1].send_signal(signal.SIGKILL)
    said = "node 2: its QEMU ended while it booted: Mounting root"
    with pytest.raises(FailedError, match=said) as caught:
        lifecycle._wait_for_all(lab)
    assert str(lab.path(lab.nodes[1]) / qemu.CONSOLE_LOG) in str(caught.value.hint)
    assert processes[0].wait(10) == -signal.SIGTERM
    assert state.load("krg") is None


def test_a_node_that_was_killed(krg: Command, lab: Lab) -> None:
    disks = Lab("krg", 1, "/b", "x86_64", "k", 256, "tcg", 1.0, lab.nodes, "grub2")
    state.save(disks)
    status = krg("lab", "status")
    assert status.returncode == 1 and status.stdout.count("ended") == 2 and not status.stderr
    for words in (("console", "2"), ("ssh", "2", "true"), ("fault", "2", "powercut")):
        one_line(krg("lab", *words), 1, "node 2 of lab krg does not run")
