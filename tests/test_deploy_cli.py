# SPDX-License-Identifier: GPL-2.0-or-later
"""What deploy decides and says without a node: bad input, plans, scripts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from provision import artifacts, facts, plan, status
from provision.cluster import Cluster, Node
from provision.data import data_dir, render
from provision.deploy import MENU, Target, build_files, make_plan
from provision.errors import InputError
from provision.facts import Facts, Seen, Space, Text

REPOSITORY = Path(__file__).resolve().parent.parent
RELEASE = "2.6.20-krg-t"
MENU_LST = b"default 0\ntitle Debian\nroot (hd0,0)\nkernel /vmlinuz root=/dev/hda1 ro\n"


def make_build(directory: Path, *, arch: str = "x86_64", release: str = RELEASE) -> Path:
    modules = directory / "lib/modules" / release
    modules.mkdir(parents=True)
    (modules / "kerrighed.ko").write_bytes(b"module")
    (directory / "tools/bin").mkdir(parents=True)
    (directory / "tools/bin/krgadm").write_bytes(b"tool")
    for name in ("vmlinuz", "System.map"):
        (directory / name).write_bytes(name.encode())
    (directory / "config").write_text("CONFIG_KRG_AUTONODEID=y\n")
    artifacts.write_manifest(
        directory,
        {"release": "r", "arch": arch, "kernel_release": release, "build_id": "b"},
    )
    return directory


def make_target(directory: Path, *, arch: str = "x86_64") -> Target:
    build = artifacts.load(make_build(directory, arch=arch))
    cluster = Cluster(1, 1, (Node("krg1", 1, "10.0.0.1"),))
    return Target(cluster, build, build_files(build), True)


def some_facts(menu: bytes = MENU_LST, **words: str) -> Facts:
    places = ("/boot", "/lib/modules", "/usr/local", "/etc", "/var")
    return Facts(
        words={"uid": "0", "machine": "x86_64", "hostname": "krg1", **words},
        linked=("/etc/rc2.d/S20kerrighed",),
        space={place: Space("/", 1 << 30) for place in places},
        texts={MENU: Text(menu, 0o600, 0, 0, MENU)},
        complete=True,
    )


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
    for release in ("../../etc", "a b", "", "-x"):
        with pytest.raises(InputError, match="is not a kernel release"):
            build_files(replace(build, kernel_release=release))


@pytest.mark.parametrize(
    ("menu", "words", "says"),
    [
        (MENU_LST.replace(b"/dev/hda1", b"UUID=1"), {}, "needs an initrd"),
        (MENU_LST.replace(b"/dev/hda1", b"LABEL=/"), {"rootdev": "/dev/root"}, "needs an initrd"),
        (MENU_LST.replace(b"/dev/hda1", b"/dev/mapper/r"), {"rootdev": "/dev/hda1"}, "an initrd"),
        (MENU_LST + b" ip=10.0.0.7::", {}, None),
        (MENU_LST.rstrip() + b" ip=10.0.0.7::\n", {}, "ignores node_id=1"),
        (MENU_LST.rstrip() + b" ip=dhcp\n", {}, "ignores node_id=1"),
        (MENU_LST.rstrip() + b" ip=10.0.0.1::\n", {}, None),
        (b"timeout 5\n", {}, "no entry with a kernel line"),
        (MENU_LST, {"uid": "1000"}, "not root's"),
        (MENU_LST, {"machine": "i686"}, "32-bit"),
        (MENU_LST, {"machine": "i686", "cpu64": "yes"}, None),
    ],
)
def test_nodes_that_are_refused(
    tmp_path: Path, menu: bytes, words: dict[str, str], says: str | None
) -> None:
    target = make_target(tmp_path / "b")
    made = make_plan(target, target.cluster.nodes[0], some_facts(menu, **words))
    if says is None:
        assert not made.problems and not made.empty
    else:
        assert says in "; ".join(made.problems)
        assert made.empty


def test_root_by_label_becomes_the_device_or_what_the_admin_says(tmp_path: Path) -> None:
    target = make_target(tmp_path / "b")
    node = target.cluster.nodes[0]
    menu = MENU_LST.replace(b"/dev/hda1", b"UUID=1-2")
    for given, want in ((None, "/dev/hda5"), ("/dev/sda5", "/dev/sda5")):
        made = make_plan(target, replace(node, root=given), some_facts(menu, rootdev="/dev/hda5"))
        text = made.changes[-1].wanted.content
        assert text is not None
        line = f"kernel\t\t/boot/vmlinuz-{RELEASE} root={want} ro session_id=1 node_id=1 panic=10\n"
        assert text.endswith(line.encode() + b"### END KRG-PROVISION ###\n")


def test_menu_is_the_last_thing_written(tmp_path: Path) -> None:
    target = make_target(tmp_path / "b")
    made = make_plan(target, target.cluster.nodes[0], some_facts())
    paths = [change.place for change in made.changes]
    assert paths[-1] == MENU
    assert paths.index(f"/lib/modules/{RELEASE}/kerrighed.ko") == 0


def test_space_counts_every_file_system_once(tmp_path: Path) -> None:
    target = make_target(tmp_path / "b")
    full = replace(some_facts(), space={"/boot": Space("/boot", 4096), "/etc": Space("/", 1 << 30)})
    made = make_plan(target, target.cluster.nodes[0], full)
    assert [p.split(":")[0] for p in made.problems] == ["not enough space on /boot"]


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
        b"uid 0\nstat zzzz 1 /a\nstat 81a4 5 /b\nsum abc  /b\ndf /boot x\n"
        b"text /t 644 0 0 /t\nuid 7\nkrg-mark\nend\nkrg-mark\nlink /b /c\nunknown line\n\xff\n"
    )
    found = facts.parse(raw, "krg-mark")
    # Text ends at its mark and nowhere else; "uid 7" belongs to it.
    assert found.texts["/t"].content == b"uid 7"
    assert found.word("uid") == "0"
    assert found.files == {"/b": Seen(0o100644, 5, "abc", "/c")}
    assert found.complete and not found.space
    assert not facts.parse(raw[: raw.index(b"end")], "krg-mark").complete


def test_cut_answer_is_not_complete() -> None:
    assert not facts.parse(b"uid 0\ntext /t 644 0 0 /t\nhalf", "mark").complete


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


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="needs shellcheck: apt-get install shellcheck"
)
@pytest.mark.parametrize("name", ["facts.sh.j2", "apply.sh.j2", "kerrighed.init.j2"])
def test_scripts_are_clean(name: str, tmp_path: Path) -> None:
    text = render(
        name,
        **{
            "places": "/boot /etc",
            "stages": "/boot/.krg-provision-* /etc/.krg-provision-*",
            "texts": "/etc/kerrighed_nodes /boot/grub/menu.lst",
            "token": "krg-0",
            "running": True,
            "stage": ".krg-provision-0",
            "areas": ("/boot", "/etc"),
            "before": [("-", "/etc/kerrighed_nodes"), ("0" * 64, "/boot/grub/menu.lst")],
            "backups": [("/boot/grub", "/boot/grub/menu.lst")],
            "date": "20260101T000000Z",
            "tree": "/lib/modules/x",
            "staged_tree": "/lib/modules/.krg-provision-0/x",
            "runs": ["update-rc.d kerrighed defaults"],
        },
    )
    assert str(data_dir("templates"))
    path = tmp_path / "script"
    path.write_text(text)
    done = subprocess.run(["shellcheck", "-s", "sh", str(path)], capture_output=True, text=True)
    assert done.stdout == ""
    assert subprocess.run(["dash", "-n", str(path)], capture_output=True).returncode == 0
