# SPDX-License-Identifier: GPL-2.0-or-later
"""What deploy says without a node: bad input, what is printed, what a node says."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from plans import MENU_LST, RELEASE, make_build, make_target, some_facts

from provision import artifacts, facts, plan, status
from provision import deploy as deployment
from provision.build_files import build_files
from provision.cluster import Cluster, Node
from provision.deploy import make_plan
from provision.errors import InputError
from provision.facts import Seen
from provision.fleet import fleet

REPOSITORY = Path(__file__).resolve().parent.parent


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "provision", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "HOME": "/nonexistent"},
    )


@pytest.mark.parametrize("command", ["deploy", "status"])
def test_help_has_examples_and_loads_nothing_heavy(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "provision", command, "--help"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
    )
    assert "Examples:" in done.stdout
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"paramiko", "fabric", "rich", "jinja2", "ClusterShell"}


def test_bad_cluster_file_is_one_message_and_code_2(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text('session = 1\n[[node]]\nname = "a b"\nid = 1\naddress = "x;y"\n')
    for command in ("deploy", "status"):
        done = run(command, "--nodes", str(path))
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{path}:3: 'a b' is not a host name" in done.stderr
        assert f"{path}:5: 'x;y' is not a host name" in done.stderr


def test_no_build_and_damaged_build(tmp_path: Path) -> None:
    nodes = tmp_path / "kerrighed_nodes"
    nodes.write_text("session=1\nnbmin=1\n127.0.0.1:1:eth0\n")
    done = run("deploy", "--nodes", str(nodes))
    assert done.returncode == 2
    assert "no finished build" in done.stderr
    build = make_build(tmp_path / "build")
    (build / "vmlinuz").write_bytes(b"vmlinux")
    done = run("deploy", "--nodes", str(nodes), "--artifacts", str(build))
    assert done.returncode == 2
    assert "vmlinuz is not what the build made" in done.stderr


@pytest.mark.parametrize("name", ["a b", "-x", "a;b", "$(id)", "a'b", "new\nline", ".hidden"])
def test_names_that_a_shell_would_read_are_refused(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "build"
    make_build(directory)
    (directory / "tools/bin" / name).write_bytes(b"x")
    artifacts.write_manifest(
        directory, {"release": "r", "arch": "i386", "kernel_release": RELEASE, "build_id": "b"}
    )
    with pytest.raises(InputError, match="cannot deploy a file named"):
        build_files(artifacts.load(directory))


def test_kernel_release_from_outside_is_checked(tmp_path: Path) -> None:
    build = artifacts.load(make_build(tmp_path / "b"))
    for release in ("../../etc", "a b", "", "-x", 7, None, ["x"]):
        with pytest.raises(InputError, match="is not a kernel release"):
            build_files(replace(build, kernel_release=release))  # type: ignore[arg-type]


def test_one_nodes_bug_is_its_own_failure() -> None:
    nodes = [Node(f"n{number}", number, "127.0.0.1") for number in (1, 2, 3)]

    def work(node: Node) -> int:
        if node.id == 2:
            raise RuntimeError("a bug")
        return node.id

    with fleet(nodes, 2) as among:
        found = {node.name: answer for node, answer in among.each(nodes, work)}
    assert (found["n1"], found["n3"]) == (1, 3)
    assert "unexpected error: RuntimeError: a bug" in str(found["n2"])
    with fleet(nodes, 2, debug=True) as among, pytest.raises(RuntimeError, match="a bug"):
        list(among.each(nodes, work))


def test_terminal_escapes_of_a_node_are_shown_not_obeyed(tmp_path: Path) -> None:
    target = make_target(tmp_path / "b")
    made = make_plan(
        target, target.cluster.nodes[0], some_facts(MENU_LST + b"\x1b]0;owned\x07\xe9\n")
    )
    text = "\n".join(text for _, text in plan.show([made]))
    assert "\x1b" not in text and "\\x1b]0;owned\\x07" in text


def test_same_changes_are_shown_once() -> None:
    wanted = plan.Wanted("/etc/x", "0" * 64, 2, 0o644, content=b"x\n")
    plans = [plan.Plan(f"krg{n}", (plan.Change(wanted, None),)) for n in (1, 2, 3, 10)]
    assert list(plan.show(plans)) == [
        ("krg[1-3,10]", "--- /dev/null\n+++ /etc/x\n@@ -0,0 +1 @@\n+x")
    ]


def test_what_a_node_says_is_not_trusted() -> None:
    raw = (
        b"uid 0\nstat zzzz 1 0 0 /a\nstat 81a4 5 0 0 /b\n" + b"a" * 64 + b"  /b\ndf /boot x\n"
        b"stat 81a4 5 0 0 /t\ntext /t /t\nuid 7\nkrg-mark\nend\nkrg-mark\n"
        b"link /b /c\nunknown line\n\xff\n"
    )
    found = facts.parse(raw, "krg-mark")
    # Text ends at its mark and nowhere else; "uid 7" belongs to it.
    assert found.texts["/t"].content == b"uid 7"
    assert found.word("uid") == "0"
    assert found.files == {
        "/b": Seen(0o100644, 5, "a" * 64, "/c"),
        "/t": Seen(0o100644, 5),
    }
    assert found.complete and not found.space
    blobs = facts.parse(b"blob init\n\0\n\xff\nend\nkrg-mark\nend\n", "krg-mark")
    assert blobs.blobs == {"init": b"\0\n\xff\nend"} and blobs.complete
    assert not facts.parse(raw[: raw.index(b"end")], "krg-mark").complete


def test_cut_answer_is_not_complete() -> None:
    assert not facts.parse(b"uid 0\ntext /t /t\nhalf", "mark").complete


def test_status_reads_counts_and_tells_wrong_ids() -> None:
    node = Node("krg2", 2, "10.0.0.2")
    cluster = Cluster(1, 1, (node,))
    answer = some_facts(
        node_id="3", session_id="1", nrnodes="POSSIBLE:3 ONLINE:3 PRESENT:2", kernel=RELEASE
    )
    found = status.read(cluster, node, answer, None)
    assert dict(found.counts) == {"possible": 3, "online": 3, "present": 2}
    assert found.findings == ("runs as node 3, the cluster file says 2",)
    assert status.rows([found])[1][1:7] == ("yes", RELEASE, "3", "1", "3", "2")
    cut = status.read(cluster, node, replace(answer, complete=False), None)
    assert any("stopped answering" in text for text in cut.findings)


def test_known_hosts_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(
        'session = 1\nknown_hosts = "nowhere"\n[[node]]\nname = "a"\nid = 1\n'
        'address = "127.0.0.1"\n'
    )
    done = run("status", "--nodes", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"known_hosts {tmp_path}/nowhere: cannot be read" in done.stderr


def test_known_hosts_with_a_broken_line(tmp_path: Path) -> None:
    (tmp_path / "known").write_text("# ours\n10.0.0.1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI!\n")
    path = tmp_path / "cluster.toml"
    path.write_text(
        'session = 1\nknown_hosts = "known"\n[[node]]\nname = "a"\nid = 1\naddress = "127.0.0.1"\n'
    )
    done = run("status", "--nodes", str(path))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert f"known_hosts {tmp_path}/known:2: not a host key" in done.stderr


@pytest.mark.parametrize("value", ["~nouser/x", "a\\u0000b", ""])
@pytest.mark.parametrize("key", ["key", "known_hosts"])
def test_paths_that_are_none(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(f'session = 1\n[[node]]\nname = "a"\nid = 1\n{key} = "{value}"\n')
    done = run("status", "--nodes", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{path}:5: {key} '" in done.stderr and "Traceback" not in done.stderr


def test_what_a_node_says_moves_no_cursor() -> None:
    """Its kernel, its watchdog and others stand in notes and in what is said of its boot."""
    said = "back to 2.6\x1b[2J\r\x9b1A"
    text = "back to 2.6\\x1b[2J\\x0d\\x9b1A"
    assert list(plan.folded([("krg1", [f"{said}\n+\ta"])])) == [("krg1", f"{text}\n+\ta")]
    made = plan.Plan("krg1", runs=("true",), notes=(said,))
    assert list(plan.show([made])) == [("krg1", f"run true\nnote: {text}")]


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["krg1", "krg2", "krg3"], "krg[1-3]"),
        (["krg08", "krg09", "krg11"], "krg[08-09,11]"),
        (["192.168.0.103", "192.168.0.104", "192.168.0.101"], "192.168.0.[101,103-104]"),
        (["a-1.example.org"], "a-1.example.org"),
    ],
)
def test_node_sets(names: list[str], folded: str) -> None:
    assert plan.fold(names) == folded


def test_the_whole_cluster_is_all_of_its_nodes(tmp_path: Path) -> None:
    build = artifacts.load(make_build(tmp_path / "b", arch="x86_64"))
    nodes = (Node("krg1", 1, "10.0.0.1"), Node("krg2", 2, "10.0.0.2"))
    cluster = Cluster(1, 1, nodes)
    assert deployment.target(cluster, build, reboot=True, whole_cluster=True).whole_cluster
    some = replace(cluster, only=frozenset({"krg1"}))
    assert deployment.target(some, build, reboot=True).cluster.selected == nodes[:1]
    with pytest.raises(InputError, match="restarts all 2 nodes, and 1 are chosen"):
        deployment.target(some, build, reboot=True, whole_cluster=True)
