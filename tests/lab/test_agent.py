# SPDX-License-Identifier: GPL-2.0-or-later
"""The node's agent, the real program on a real terminal line, and the host's side of it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.errors import MissingError
from provision.lab import agent
from provision.lab.userland import program


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """A directory whose agent.sock leads to an agent on a pseudo-terminal, as QEMU's does."""
    try:
        binary = program("agent", "x86_64")
    except MissingError as error:
        pytest.skip(f"{error}; {error.hint}")
    # Longer than a socket's name may be.
    directory = tmp_path / ("d" * 60) / ("e" * 60)
    directory.mkdir(parents=True)
    master, slave = os.openpty()
    running = subprocess.Popen([binary, os.ttyname(slave)])
    server = socket.socket(socket.AF_UNIX)
    handle = os.open(directory, os.O_PATH)
    server.bind(f"/proc/self/fd/{handle}/agent.sock")
    os.close(handle)
    server.listen(5)
    clients: list[socket.socket] = []

    def to_node() -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = server.accept()
                with link:
                    clients.append(link)
                    while data := link.recv(4096):
                        os.write(master, data)
                    clients.remove(link)

    def to_host() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(master, 4096):
                for link in list(clients):
                    with contextlib.suppress(OSError):
                        link.sendall(data)

    threads = [threading.Thread(target=target, daemon=True) for target in (to_node, to_host)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while True:
        try:
            assert agent.run(directory, "true", 2).ok
            break
        except agent.SilentError:
            assert time.monotonic() < deadline
    yield directory
    running.kill()
    running.wait()
    server.shutdown(socket.SHUT_RDWR)
    os.close(slave)
    # Both have ended before the descriptors' numbers are free: one that still read would
    # take what the next test's node says.
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    server.close()
    os.close(master)


def test_status_and_output(node: Path) -> None:
    assert agent.run(node, "echo out; echo err >&2; exit 7", 20) == agent.Reply(7, "out\nerr\n")
    assert agent.run(node, "kill -KILL $$", 20).status == 137
    quoted = """printf '%s|' "a b" 'c"d' 'é\\x'"""
    assert agent.run(node, quoted, 20).output == 'a b|c"d|é\\x|'


def test_much_output(node: Path) -> None:
    reply = agent.run(node, "seq 1 20000", 60)
    assert reply.output.split() == [str(n) for n in range(1, 20001)]


def test_a_session_of_its_own(node: Path) -> None:
    said = agent.run(node, "read -r stat < /proc/$$/stat; echo $$ $stat", 20).output.split()
    shell, group, session = said[0], said[5], said[6]
    assert shell == group == session


def test_out_of_time_does_not_block_others(node: Path) -> None:
    started = time.monotonic()
    with pytest.raises(agent.SilentError, match="no end within 1 s"):
        agent.run(node, "sleep 600", 1)
    assert agent.run(node, "echo still here", 20).output == "still here\n"
    assert time.monotonic() - started < 20


def test_what_is_left_in_the_background_does_not_hold_the_answer(node: Path) -> None:
    reply = agent.run(node, "sleep 300 & echo $!", 20)
    assert reply.ok and reply.output, reply
    os.kill(int(reply.output), 9)  # it runs on: a ProcessLookupError here would be the finding


def test_noise_on_the_line(node: Path) -> None:
    with agent.connect(node, "agent.sock", 5) as link:
        link.sendall(b"\xff\x00 noise\n\n1 2\nx 5 zz\n" + b"a" * 9000 + b"\nabc 5 6")
    assert agent.run(node, "echo fine", 20).output == "fine\n"


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(agent.SilentError, match="not running"):
        agent.run(tmp_path, "true", 1)
