# SPDX-License-Identifier: GPL-2.0-or-later
"""Lab state on disk, and processes that are, or are not, a node's."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.errors import FailedError, InputError
from provision.lab import lifecycle, qemu, state
from provision.lab.state import Lab, LabNode

UUID = "6c1e7f0e-8a35-4d6f-9a4b-0f4f3f3f9e55"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.fixture
def lab() -> Lab:
    made = Lab("one", 1, "/b", "x86_64", "2.6.20-krg", 256, "tcg", 1.0, (LabNode(1, UUID),))
    made.path(made.nodes[0]).mkdir(parents=True)
    return made


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is not ours to end; its command line can name a node's UUID."""
    started: list[subprocess.Popen[bytes]] = []
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started.append(process)
    yield process
    process.kill()
    process.wait()


def test_written_and_read(lab: Lab) -> None:
    assert state.load("one") is None
    assert state.names() == []
    state.save(lab)
    assert state.load("one") == lab
    assert state.names() == ["one"]
    assert [p.name for p in lab.directory.iterdir() if p.is_file()] == ["lab.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 2, "name": "one"}'])
def test_a_state_file_that_is_not_ours(lab: Lab, text: str) -> None:
    (lab.directory / "lab.json").write_text(text)
    with pytest.raises(InputError, match="not the state of a lab"):
        state.load("one")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "-a", "a b", "a" * 32, "a\n"])
def test_names_that_cannot_be_one(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a lab"):
        state.load(name)


def test_labs_stay_apart(lab: Lab) -> None:
    other = dataclasses.replace(lab, name="two")
    assert lab.network != other.network
    group, port = lab.network
    assert group.startswith("239.255.")
    assert 20000 <= port < 60000
    twelve = LabNode(12, UUID)
    assert lab.mac(twelve) != lab.mac(lab.nodes[0])
    assert int(lab.mac(twelve)[:2], 16) & 3 == 2  # local, and no group address


def test_a_foreign_process_is_never_a_node(lab: Lab, stranger: subprocess.Popen[bytes]) -> None:
    """A pid file of a node long gone, its number now another's."""
    pid_file = lab.path(lab.nodes[0]) / "qemu.pid"
    pid_file.write_text(f"{stranger.pid}\n")
    state.save(lab)
    assert state.pid(lab, lab.nodes[0]) is None
    assert lifecycle.down("one") == (0, lab.directory)
    assert stranger.poll() is None


def test_a_node_is_known_by_its_uuid_and_ended(lab: Lab) -> None:
    argv = [sys.executable, "-c", "print(1, flush=True); input()", "-uuid", UUID]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        (lab.path(lab.nodes[0]) / "qemu.pid").write_text(f"{process.pid}\n")
        state.save(lab)
        assert state.pid(lab, lab.nodes[0]) == process.pid
        # It has no control socket: signals must do.
        assert lifecycle.down("one")[0] == 1
        assert process.wait(10) < 0
    assert state.load("one") is None


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "99999999"])
def test_a_pid_file_that_says_nothing(lab: Lab, text: str) -> None:
    (lab.path(lab.nodes[0]) / "qemu.pid").write_text(text)
    assert state.pid(lab, lab.nodes[0]) is None


def test_two_at_once(lab: Lab) -> None:
    with state.locked("one"):
        with pytest.raises(FailedError, match="another krg-provision"), state.locked("one"):
            pytest.fail("the lock was given twice")
        with state.locked("two"):
            pass
    with state.locked("one"):
        pass


def test_multicast_over_loopback(lab: Lab) -> None:
    qemu.check_network(lab.network)


def test_answers_of_nodes() -> None:
    whole = "2.6.20-krg\nabc-def\n0\n2\n1\nPOSSIBLE:128\nONLINE:3\nPRESENT:2\n"
    seen = lifecycle.parse_look(2, 77, whole)
    assert seen == lifecycle.NodeStatus(2, "up", 77, "2.6.20-krg", "abc-def", 2, 1, 3, 2)
    assert lifecycle.parse_look(2, 77, "2.6.20-krg\nabc\n-\n-\n").state == "booting"
    failed = lifecycle.parse_look(2, 77, "2.6.20-krg\nabc\n1\n-\n")
    assert (failed.state, failed.node_id, failed.online) == ("failed", None, None)
    assert lifecycle.parse_look(2, 77, "").state == "booting"
