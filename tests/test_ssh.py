# SPDX-License-Identifier: GPL-2.0-or-later
"""The SSH door against a real sshd on loopback: ssh_config, the agent, servers that misbehave."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import paramiko
import pytest
import sshd
from sshd import blob, known, node, refused, says_hello

from provision import ssh, ssh_way
from provision.cluster import Login, Node
from provision.errors import FailedError, InputError
from provision.fleet import fleet
from provision.script import take
from provision.ssh import Shell

# --- ssh_config, keys, the agent ----------------------------------------------------------


def configure(home: Path, text: str) -> None:
    (home / ".ssh/config").write_text(text)


def test_ssh_config_is_honoured(server: sshd.Host, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other known"
    known(home).rename(tmp_path / "other")
    proxy = f"{sys.executable} {tmp_path}/proxy %h %p"
    (tmp_path / "proxy").write_text(
        "import socket, sys, threading, os\n"
        f"open({str(tmp_path / 'used')!r}, 'a').write(' '.join(sys.argv[1:]) + chr(10))\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def up():\n"
        "    while data := os.read(0, 65536):\n"
        "        s.sendall(data)\n"
        "    os._exit(0)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := s.recv(65536):\n"
        "    os.write(1, data)\n"
    )
    configure(
        home,
        f"Host krg1\n  HostName 127.0.0.1\n  Port {server.port}\n  User root\n"
        f"  IdentityFile {tmp_path}/absent\n  IdentityFile {server.key}\n"
        f"  UserKnownHostsFile {tmp_path}/other\n  ProxyCommand {proxy}\n",
    )
    of = Node("krg1", 1, "krg1")
    says_hello(of)
    assert (tmp_path / "used").read_text() == f"127.0.0.1 {server.port}\n"
    # An empty jump goes directly.
    says_hello(replace(of, jump=()))
    assert len((tmp_path / "used").read_text().splitlines()) == 1
    alias = f"krg1-key {blob(server, 'ed25519')}\n"
    other.write_text(alias)
    configure(
        home,
        f"Host krg1\n  HostName 127.0.0.1\n  Port {server.port}\n  HostKeyAlias krg1-key\n"
        f"  IdentityFile {server.key}\n  ProxyJump none\n",
    )
    says_hello(replace(of, known_hosts=other))


@pytest.mark.parametrize("jump", ["a b", "root@h:99999", "-oX"])
def test_ssh_config_that_cannot_be_used(server: sshd.Host, home: Path, jump: str) -> None:
    configure(home, f"Host *\n  ProxyJump {jump}\n")
    with pytest.raises(InputError, match="ssh_config: ProxyJump"):
        says_hello(node(server))


def test_jump_hosts_of_the_cluster_file_and_of_ssh_config(
    server: sshd.Host, home: Path, tmp_path: Path
) -> None:
    gate = Login("127.0.0.1", "root", server.port)
    of = node(server)
    says_hello(replace(of, jump=(gate,)))
    says_hello(replace(of, jump=(gate, gate, gate)))
    closed = sshd.free_port()
    error = refused(replace(of, port=closed, jump=(gate,)))
    assert f"127.0.0.1 port {closed} cannot be reached from 127.0.0.1" in error.message
    error = refused(replace(of, jump=(Login("127.0.0.1", "root", closed),)))
    assert f"127.0.0.1 port {closed} cannot be reached" in error.message
    error = refused(replace(of, jump=(Login("127.0.0.1", "nobody", server.port),)))
    assert f"127.0.0.1 port {server.port} does not let nobody in" in error.message
    configure(
        home,
        f"Host 127.0.0.1\n  IdentityFile {server.key}\n"
        f"Host localhost\n  ProxyJump root@127.0.0.1:{server.port},127.0.0.1:{server.port}\n"
        "Host *\n  User root\n",
    )
    with known(home).open("a") as file:
        file.write(f"[localhost]:{server.port} {blob(server, 'ed25519')}\n")
    says_hello(replace(of, address="localhost"))


def test_keys_of_the_agent(
    server: sshd.Host, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "there is no key to log in to" in refused(replace(node(server), key=None)).message
    agent = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL) as running:
        try:
            monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
            while subprocess.run(["ssh-add", "-q", server.key], capture_output=True).returncode:
                assert running.poll() is None
            says_hello(replace(node(server), key=None))
        finally:
            running.terminate()


def test_a_proxy_command_that_says_nothing_is_ended(
    server: sshd.Host, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_way, "_LIMITS", {"banner_timeout": 0.5, "auth_timeout": 5.0})
    monkeypatch.setattr(ssh_way, "CONNECT_SECONDS", 0.6)
    configure(home, f"Host *\n  ProxyCommand sh -c 'echo $$ >{tmp_path}/pid; exec sleep 600'\n")
    assert "says nothing" in refused(node(server)).message
    pid = int((tmp_path / "pid").read_text())
    with contextlib.suppress(ProcessLookupError):
        # Ended: at most its exit status is still to be read.
        assert os.waitid(os.P_PID, pid, os.WEXITED) is not None


def test_many_nodes_behind_one_gate(home: Path, tmp_path: Path) -> None:
    """sshd drops what is more than its MaxStartups; all nodes log in to the gate first."""
    file = home / ".ssh/known_hosts"
    hard = "MaxStartups 16:100:16\n"
    with (
        sshd.running(tmp_path / "gate", tmp_path / "a", file, hard) as gate,
        sshd.running(tmp_path / "sshd", tmp_path / "b", home / "more", "MaxStartups 99\n") as end,
    ):
        with file.open("a") as known:
            known.write((home / "more").read_text())
        keys = tmp_path / "gate/authorized"
        keys.write_text(keys.read_text() + end.key.with_suffix(".pub").read_text())
        jump = (Login("127.0.0.1", "root", gate.port),)
        nodes = [replace(node(end), name=f"n{number}", jump=jump) for number in range(40)]
        with fleet(nodes, 40) as among:

            def hello(of: Node) -> bytes:
                with among.session(of) as shell:
                    return shell.run("echo hello", label="test").out

            found = [answer for _, answer in among.each(nodes, hello)]
        assert found == [b"hello\n"] * 40
        assert "MaxStartups" not in (tmp_path / "gate/log").read_text()


OLD = """HostKey PLACE/rsa
HostKeyAlgorithms ssh-rsa
PubkeyAcceptedAlgorithms ssh-rsa
KexAlgorithms diffie-hellman-group14-sha1
Ciphers aes128-ctr
MACs hmac-sha1
"""


def test_a_server_of_the_time(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing newer than what OpenSSH 5.1 has; reached by another name in ssh_config."""
    # It says nothing of the signatures it takes. Today's does, since OpenSSH 9.3 or so rightly.
    silent = property(lambda _: {}, lambda *_: None)
    monkeypatch.setattr(paramiko.Transport, "server_extensions", silent, raising=False)
    with sshd.running(tmp_path / "sshd", tmp_path / "there", known(home), OLD) as server:
        key = tmp_path / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", key], check=True)
        authorized = tmp_path / "sshd/authorized"
        authorized.write_text(key.with_suffix(".pub").read_text())
        known(home).write_text(f"[127.0.0.1]:{server.port} {blob(server, 'rsa')}\n")
        configure(home, "Host krg1\n  HostName 127.0.0.1\n")
        of = Node("krg1", 1, "krg1", port=server.port, key=key)
        assert "does not let root in" in refused(of).message
        says_hello(replace(of, old_ssh=True))


# --- servers that misbehave ---------------------------------------------------------------


@contextmanager
def listening(serve: Callable[[socket.socket, int], None]) -> Iterator[int]:
    """Accept connections on a port; each is given to ``serve`` with its number."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def accept() -> None:
            for number in range(100):
                try:
                    line = door.accept()[0]
                except OSError:
                    return
                threading.Thread(target=serve, args=(line, number), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield door.getsockname()[1]
        finally:
            door.shutdown(socket.SHUT_RDWR)


def test_a_host_that_accepts_and_says_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_way, "_LIMITS", {"banner_timeout": 0.5, "auth_timeout": 5.0})
    monkeypatch.setattr(ssh_way, "CONNECT_SECONDS", 0.6)
    kept = []
    with listening(lambda line, _: kept.append(line)) as port:
        error = refused(Node("krg1", 1, "127.0.0.1", port=port))
        assert f"127.0.0.1 port {port} accepts the connection and says nothing" in error.message
    assert len(kept) == 1


def _through(line: socket.socket, port: int) -> None:
    with line, socket.create_connection(("127.0.0.1", port)) as there:

        def copy(one: socket.socket, two: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := one.recv(1 << 16):
                    two.sendall(data)
                two.shutdown(socket.SHUT_WR)

        back = threading.Thread(target=copy, args=(there, line), daemon=True)
        back.start()
        copy(line, there)
        back.join()


@pytest.mark.parametrize("drops", [1, 2])
def test_a_dropped_connection_is_tried_once_more(server: sshd.Host, home: Path, drops: int) -> None:
    numbers = []

    def serve(line: socket.socket, number: int) -> None:
        numbers.append(number)
        if number < drops:
            line.sendall(b"Exceeded MaxStartups\r\n")
            line.close()
        else:
            _through(line, server.port)

    with listening(serve) as port:
        with known(home).open("a") as file:
            file.write(f"[127.0.0.1]:{port} {blob(server, 'ed25519')}\n")
        of = replace(node(server), port=port)
        if drops == 1:
            says_hello(of)
        else:
            error = refused(of)
            assert f"127.0.0.1 port {port} closes new connections at once, twice" in error.message
            assert "MaxStartups" in (error.hint or "")
    assert len(numbers) == 2


def test_a_server_with_no_place_left(home: Path, tmp_path: Path) -> None:
    """MaxStartups is full of connections that do not log in; one ends before the second try."""
    file = home / ".ssh/known_hosts"
    with sshd.running(tmp_path / "sshd", tmp_path / "there", file, "MaxStartups 1:100:1\n") as host:
        while (blocker := socket.create_connection(("127.0.0.1", host.port))).recv(4) != b"SSH-":
            blocker.close()
        with blocker:
            assert "closes new connections at once, twice" in refused(node(host)).message
        says_hello(node(host))


def stop(shell: Shell) -> int:
    """Stop the server's process for this session and return its number."""
    said = shell.run("echo $PPID", label="test").out
    # The session's sshd, above the login shell.
    pid = int(said)
    parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return pid if b"sshd" in command else parent


def test_a_host_that_stops_answering_midway(
    server: sshd.Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_way, "DEAD_SECONDS", 2.0)
    with Shell(node(server)) as shell:
        pid = stop(shell)

        def halt(pipe: IO[bytes]) -> None:
            os.kill(pid, signal.SIGSTOP)

        try:
            done = shell.run("echo begun; cat; echo end", label="test", send=halt, idle=1.0)
            assert done.timed_out and b"end" not in done.out
        finally:
            os.kill(pid, signal.SIGCONT)
    # And with more to send than any buffer holds: the wait for acknowledgement is limited too.
    with Shell(node(server)) as shell:
        pid = stop(shell)

        def halt_and_send(pipe: IO[bytes]) -> None:
            os.kill(pid, signal.SIGSTOP)
            for _ in range(64):
                pipe.write(bytes(1 << 20))

        try:
            done = shell.run("cat >/dev/null", label="test", send=halt_and_send, idle=1.0)
            assert done.timed_out
        except FailedError as error:
            assert "the connection was lost" in error.message
        finally:
            os.kill(pid, signal.SIGCONT)


def test_what_is_finished_is_kept_when_interrupted(
    server: sshd.Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [replace(node(server), name=f"krg{number}") for number in range(1, 5)]
    begun = threading.Event()
    results: list[futures.Future[str]] = []
    found = []

    def as_completed(given: tuple[futures.Future[str], ...]) -> Iterator[futures.Future[str]]:
        results.extend(given)
        begun.set()
        return futures.as_completed(given)

    monkeypatch.setattr("provision.fleet.as_completed", as_completed)

    def work(of: Node) -> str:
        if of.name == "krg4":
            assert begun.wait(30) and not futures.wait(results[:3], 30).not_done
            os.kill(os.getpid(), signal.SIGINT)
            return "late"
        return of.name

    with pytest.raises(KeyboardInterrupt), fleet(nodes, 4) as among:
        for of, _ in among.each(nodes, work):
            found.append(of.name)
    assert {"krg1", "krg2", "krg3"} <= set(found)


@pytest.mark.parametrize("shell", [["dash"], ["bash"], ["busybox", "sh"]], ids=lambda argv: argv[0])
def test_a_script_that_is_cut_short_does_nothing(tmp_path: Path, shell: list[str]) -> None:
    """What is left of "da" may be "d": no command of it is run."""
    if shutil.which(shell[0]) is None:
        pytest.skip(f"needs {shell[0]}: apt-get install dash bash busybox-static")
    script = b"touch first\ntouch da d\n"
    for count in range(0, len(script), 3):
        argv = [*shell, "-c", take(len(script))]
        done = subprocess.run(argv, input=script[:count], cwd=tmp_path, capture_output=True)
        assert done.returncode == 74 and not list(tmp_path.iterdir()), script[:count]
    argv = [*shell, "-c", take(len(script)) + "; cat"]
    done = subprocess.run(argv, input=script + b"more", cwd=tmp_path, capture_output=True)
    assert {path.name for path in tmp_path.iterdir()} == {"first", "da", "d"}
    # Not one byte more is read: that is the data.
    assert done.stdout == b"more"


def test_little_is_sent_ahead_of_a_slow_reader(server: sshd.Host) -> None:
    """OpenSSH says when it has room again also where most of what it offers is left unused."""
    size = 6 << 20
    most: list[int] = []

    def send(pipe: IO[bytes]) -> None:
        (channel,) = transport._channels.values()
        for _ in range(size >> 16):
            most.append(channel.out_window_size)
            pipe.write(bytes(1 << 16))

    with Shell(node(server)) as shell:
        transport = shell.connection().transport
        # As slow as a disk that is busy.
        script = "for n in 1 2 3 4 5 6 7 8; do dd bs=1 count=100; done >/dev/null 2>&1; wc -c"
        done = shell.run(script, label="test", send=send)
    assert done.out.split() == [str(size - 800).encode()] and done.status == 0
    assert max(most) <= ssh._AHEAD


def test_other_servers_windows_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    near, other = socket.socketpair()
    transport = SimpleNamespace(remote_version="SSH-2.0-dropbear_2022.83", sock=near)
    channel = SimpleNamespace(
        get_transport=lambda: transport, out_window_size=1 << 24, lock=threading.Lock()
    )
    ssh._hold_back(channel)
    assert channel.out_window_size == 1 << 24
    transport.remote_version = "SSH-2.0-OpenSSH_4.3"
    # Nobody measured that way: it may be long.
    ssh._hold_back(channel)
    assert channel.out_window_size == 1 << 24
    for line in (near, other):
        line.close()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport.sock = socket.create_connection(listener.getsockname())
        assert 0 <= ssh._round_trip(transport.sock) < 0.1
        for offered, taken in ((1 << 17, 1 << 17), (1 << 24, ssh._AHEAD)):
            channel.out_window_size = offered
            ssh._hold_back(channel)
            assert channel.out_window_size == taken
        monkeypatch.setattr(ssh, "_NEAR", 0.0)
        channel.out_window_size = 1 << 24
        ssh._hold_back(channel)
        assert channel.out_window_size == 1 << 24
        transport.sock.close()


@pytest.mark.parametrize(
    ("script", "on_the_line"),
    [("echo 'a b'", True), ("echo \\\\", False), ("echo !", False), ("echo a\necho b", False),
     ("echo é", False), ("echo " + "x" * 800, False)],
)  # fmt: skip
def test_what_goes_on_the_command_line(server: sshd.Host, script: str, on_the_line: bool) -> None:
    def send(pipe: IO[bytes]) -> None:
        pipe.write(b"more")

    with Shell(node(server)) as shell:
        found = shell.run(f"{script}; cat /proc/$$/cmdline; cat", label="t", send=send)
    expected = subprocess.run(["sh", "-c", script], capture_output=True).stdout
    assert found.out.startswith(expected) and found.out.endswith(b"more")
    assert (b"dd bs=" in found.out) is not on_the_line


def test_the_cheapest_cipher_that_both_sides_have(
    server: sshd.Host, home: Path, tmp_path: Path
) -> None:
    with Shell(node(server)) as shell:
        transport = shell.connection().transport
        offered = transport.get_security_options().ciphers
        # Debian 12's paramiko has none of these.
        has_gcm = any("gcm" in name for name in offered)
        assert ("gcm" in transport.local_cipher) == has_gcm
        assert sorted(offered) == sorted(paramiko.Transport._preferred_ciphers)  # type: ignore[attr-defined]
    # As on a machine of 2007.
    with sshd.running(
        tmp_path / "old", tmp_path / "there", known(home), "Ciphers aes256-ctr\n"
    ) as old:
        says_hello(node(old))
