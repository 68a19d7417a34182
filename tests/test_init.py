# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision init: lists of hosts, questions on a real terminal, what is not written."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from provision.cli.init import init as command
from provision.cluster import Cluster, Login, Node, read_cluster, read_toml
from provision.errors import FailedError, InputError
from provision.new_cluster import Answer, parse_answer, read_hosts, with_answer, write

ROOT = Path(__file__).resolve().parent.parent


def init(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "provision", "init", *arguments],
        cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stderr and "bug:" not in done.stderr, done.stderr
    return done


def test_from_a_node_set(home: Path, tmp_path: Path) -> None:
    options = "--interface eth1 --user admin --ask-sudo --jump gate:2222 --session 9"
    done = init(tmp_path, "--hosts", "krg[01-03]", *options.split(), "--key", "my key")
    assert done.returncode == 0, done.stderr
    assert "wrote cluster.toml: session 9, krg[01-03]" in done.stdout
    assert "next: krg-provision status --nodes cluster.toml" in done.stdout
    cluster = read_cluster(tmp_path / "cluster.toml")
    assert (cluster.session, cluster.nbmin) == (9, 3)
    node = cluster.nodes[1]
    assert (node.name, node.id, node.address, node.interface) == ("krg02", 2, "krg02", "eth1")
    assert (node.user, node.sudo, node.jump) == ("admin", "ask", (Login("gate", None, 2222),))
    assert node.key == tmp_path / "my key"
    # Not over a file that is there, and nothing beside it.
    before = (tmp_path / "cluster.toml").read_text()
    done = init(tmp_path, "--hosts", "other1")
    assert (done.returncode, (tmp_path / "cluster.toml").read_text()) == (2, before)
    assert "--force" in done.stderr
    assert init(tmp_path, "--hosts", "other1", "--force").returncode == 0
    assert read_cluster(tmp_path / "cluster.toml").nodes[0].name == "other1"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cluster.toml", "home"]


def test_from_a_file_of_hosts(home: Path, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(
        "# ours\nroot@10.0.0.1:2222\n\n10.0.0.2 krg7\t# in the corner\nkrg[08-09].example.org\n"
    )
    done = init(tmp_path, "--hosts", "hosts", "c.toml")
    assert done.returncode == 0, done.stderr
    assert "named by their addresses" in done.stdout
    nodes = read_cluster(tmp_path / "c.toml").nodes
    assert [(n.name, n.id, n.address, n.port) for n in nodes] == [
        ("10.0.0.1", 1, "10.0.0.1", 2222),
        ("krg7", 2, "10.0.0.2", None),
        ("krg08", 3, "krg08.example.org", None),
        ("krg09", 4, "krg09.example.org", None),
    ]


def test_from_the_tutorials_file(home: Path, tmp_path: Path) -> None:
    (tmp_path / "kerrighed_nodes").write_text(
        "session = 3\nnbmin = 2\n192.168.0.103:1:eth1\n192.168.0.104:7:eth1\n"
    )
    done = init(tmp_path, "--from", "kerrighed_nodes")
    assert done.returncode == 0, done.stderr
    assert (
        read_cluster(tmp_path / "cluster.toml").nodes_file()
        == read_cluster(tmp_path / "kerrighed_nodes").nodes_file()
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "there is no terminal to ask questions on"),
        (["--hosts", "krg[1-"], "missing bracket"),
        (["--hosts", ""], "there is no host in ''"),
        (["--hosts", "a;b"], "';' cannot be in a node's name"),
        (["--hosts", "root@h:0"], "is not HOST, USER@HOST"),
        (["--hosts", "hosts"], "hosts:2: node set 'b['"),
        (["--hosts", "a1,a2", "--session", "256"], "session 256 is not between"),
        (["--hosts", "a1", "--interface", "e th"], "is not a network interface's name"),
        (["--hosts", "a1", "--jump", "x y"], "--jump 'x y' is not"),
        (["--hosts", "a1", "--user", "x y"], "'x y' is not a user name"),
        (["--hosts", "a1", "--from", "n"], "two ways to say the same"),
        (["--from", "n"], "n: no such file"),
        (["--hosts", "a1", "nodes"], "ends in .toml"),
        (["--hosts", "a1", "no/c.toml"], "no: no such directory"),
        (["--hosts", "fe80::1"], "'fe80::1' is not a host name"),
        (["--hosts", ",".join(f"{'n' * 50}{n}" for n in range(1, 81))], "fewer than 4096"),
    ],
)
def test_what_is_not_written(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts").write_text("a\nb[\n")
    done = CliRunner().invoke(command, arguments)
    assert isinstance(done.exception, InputError), done.output
    assert says in done.exception.message and done.output == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "hosts"]


def test_questions_on_a_terminal(home: Path, tmp_path: Path) -> None:
    control, terminal = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "provision", "init"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    said = ""

    def until(text: str, answer: str) -> None:
        nonlocal said
        deadline = time.monotonic() + 60
        while text not in said:
            assert time.monotonic() < deadline, said
            if select.select([control], [], [], 1)[0]:
                said += os.read(control, 1 << 16).decode()
        said = ""
        os.write(control, answer.encode() + b"\n")

    try:
        until("Hosts, such as", "krg[")
        until("Hosts, such as", "krg[1-4]")
        until("Log in as [root]", "ad min")
        until("Log in as [root]", "admin")
        until("Does sudo ask", "y")
        until("Log in now", "n")
        until("Network card of the cluster [eth0]", "")
        until("Session; another", "300")
        until("Session; another", "12")
        until("so many nodes are there [4]", "3")
        assert running.wait(60) == 0
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
        os.close(control)
    cluster = read_cluster(tmp_path / "cluster.toml")
    assert (cluster.session, cluster.nbmin, len(cluster.nodes)) == (12, 3, 4)
    assert (cluster.nodes[0].user, cluster.nodes[0].sudo) == ("admin", "ask")


def test_what_a_node_says() -> None:
    said = b"motd\nname krg1.x\nfile krg1\naddress lo 127.0.0.1\naddress eth1 10.0.0.1\nend\n"
    answer = parse_answer(said)
    assert answer == Answer("krg1", (("lo", "127.0.0.1"), ("eth1", "10.0.0.1")))
    node = with_answer(Node("10.0.0.1", 1, "10.0.0.1"), answer)
    assert (node.name, node.address, node.interface) == ("krg1", "10.0.0.1", "eth1")
    # By name: the one address it has. Through a port that leads there: what works stays.
    assert with_answer(Node("k", 1, "k"), answer).address == "10.0.0.1"
    assert with_answer(Node("k", 1, "k", port=2201), answer).address == "k"
    two = Answer("krg1", (("eth0", "10.0.0.1"), ("eth1", "10.1.0.1")))
    assert with_answer(Node("k", 1, "k"), two).interface == "eth0"
    assert with_answer(Node("k", 1, "10.1.0.1"), two).interface == "eth1"
    for broken in (b"", b"end\n", b"name x\n", b"\xff\n"):
        with pytest.raises(FailedError):
            parse_answer(broken)


def test_ids() -> None:
    assert [node.id for node in read_hosts("krg[05,03]")] == [3, 5]
    assert [node.id for node in read_hosts("krg[0-2]")] == [1, 2, 3]
    assert [node.id for node in read_hosts("a7,b7")] == [1, 2]
    assert [node.id for node in read_hosts("krg[254-256]")] == [1, 2, 3]
    assert [node.id for node in read_hosts("192.168.0.[103-104]")] == [1, 2]


@given(st.text(max_size=30))
def test_any_list_of_hosts_is_read_or_refused(text: str) -> None:
    try:
        nodes = read_hosts(text)
        cluster = Cluster(1, 1, tuple(nodes))
        written = write(Path("/c/x.toml"), cluster)
    except InputError:
        return
    again = read_toml(Path("/c/x.toml"), written)
    assert [(n.name, n.id, n.address, n.user, n.port) for n in again.nodes] == [
        (n.name, n.id, n.address, n.user, n.port) for n in nodes
    ]


@given(st.text(min_size=1, max_size=20))
def test_a_file_name_survives(name: str) -> None:
    key = Path("/c") / name
    try:
        written = write(Path("/c/x.toml"), Cluster(1, 1, (Node("a", 1, "a", key=key),)))
    except InputError:
        assert not name.isprintable() or name.startswith("~")
        return
    assert read_toml(Path("/c/x.toml"), written).nodes[0].key == key
