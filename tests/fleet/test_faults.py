# SPDX-License-Identifier: GPL-2.0-or-later
"""A deploy or rollback that is killed, or runs out of disk, at each of its steps.

What a node's shell was about to do when it happened makes no difference: afterwards every file
is the old one or the new one, the menu boots, the next run comes to the same end as one that
nothing happened to, and rollback brings back every byte. By default some steps are tried, marked
slow each of them; docs/reliability.md has the numbers and the command that gives them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fault_points
import pytest

from grub import legacy
from provision import artifacts, node_rules
from provision.build_files import build_files
from provision.cluster import Cluster, Node
from provision.deploy import Target, make_plan
from provision.facts import Facts
from provision.journal import rollback
from provision.plan import Change, Plan, Wanted, text_wanted

from .faults import Node_, Tree, digest, without_notes
from .hosts import CONFIG, MENU_LST, RELEASE

pytestmark = pytest.mark.fleet

MENU = "boot/grub/menu.lst"
DATE = "20260102T000000Z"
FULL = [f"full:{place}" for place in ("boot", "etc", "lib/modules", "usr/local", "var", "all")]
ACTS = ["kill", "cut", "readonly:boot", "readonly:all", *FULL]
# How a fault is called in the table that is printed.
NAMES = {
    "kill": "kill -9",
    "cut": "cut",
    "short": "data cut short",
    "readonly": "read-only",
    "full": "disk full",
}


def small_build(directory: Path, mark: str, release: str = RELEASE) -> Path:
    """Write the smallest build that has one of everything; ``mark`` makes it differ."""
    modules = directory / "lib/modules" / release
    for path, text in (
        (f"lib/modules/{release}/extra/kerrighed.ko", f"module {mark}\n" * 50),
        (f"lib/modules/{release}/modules.dep", "extra/kerrighed.ko:\n"),
        ("tools/bin/krgadm", f"#!/bin/sh\necho {mark}\n"),
        ("vmlinuz", f"kernel {mark}\n" * 500),
        ("vmlinux", "not deployed"),
        ("System.map", "00000000 A start\n"),
        ("config", CONFIG),
    ):
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text)
    (directory / "tools/bin/krgadm").chmod(0o755)
    (directory / "tools/bin/migrate").symlink_to("krgadm")
    assert modules.is_dir()
    artifacts.write_manifest(
        directory,
        {"release": "test", "arch": "x86_64", "kernel_release": release, "build_id": mark},
    )
    return directory


def furnish(root: Path) -> None:
    """Put into an empty root what an administrator had there."""
    for directory in ("boot/grub", "etc/init.d", "etc/default", "usr/local/bin"):
        (root / directory).mkdir(parents=True)
    for level in "0123456S":
        (root / f"etc/rc{level}.d").mkdir()
    (root / MENU).write_bytes(MENU_LST)
    (root / MENU).chmod(0o600)
    (root / "etc/default/kerrighed").write_text("ENABLE=false\n# mine\n")
    (root / "etc/default/kerrighed").chmod(0o640)
    (root / "usr/local/bin/krgadm").write_text("mine\n")


def staged(tree: Tree) -> list[str]:
    """Return what an upload left behind."""
    return [name for name in tree if "/.krg-provision-" in f"/{name}"]


@dataclass
class Scene:
    """A root, the plan to be carried out there, and what has to come of it."""

    node: Node_
    target: Target
    back: bool
    # What goes for good: no rollback brings it back.
    retired: str = ""
    start: Path = field(init=False)
    plan: Plan = field(init=False)
    old: Tree = field(init=False)
    new: Tree = field(init=False)
    followed: set[str] = field(default_factory=set)

    @property
    def release(self) -> str:
        return self.target.build.kernel_release

    def is_old(self, tree: Tree) -> bool:
        """Tell whether everything is as it was, but for what is gone for good."""

        def kept(tree: Tree) -> Tree:
            return {n: v for n, v in tree.items() if not self.retired or self.retired not in n}

        return kept(tree) == kept(self.old)

    def facts(self) -> Facts:
        return self.node.facts(self.target.paths, journals=True)

    def deploy_plan(self) -> Plan:
        made = make_plan(self.target, self.target.cluster.nodes[0], self.facts())
        assert not made.problems, made.problems
        return made

    def rollback_plan(self) -> Plan:
        made = rollback(self.target.cluster.nodes[0], self.facts())
        assert not made.problems, made.problems
        return made

    def forth(self) -> Plan:
        return self.rollback_plan() if self.back else self.deploy_plan()

    def apply(self, plan: Plan) -> None:
        if not plan.empty:
            self.node.apply(plan, self.release, DATE)

    def prepare(self) -> None:
        """Note the start, and what a run that nothing happens to makes of it."""
        self.start = self.node.keep()
        self.old = without_notes(self.node.tree())
        self.plan = self.forth()
        self.apply(self.plan)
        self.new = without_notes(self.node.tree())
        assert self.new != self.old
        assert self.forth().empty or self.back
        self.node.bring_back(self.start)

    def steps(self) -> int:
        found = self.node.apply_until(self.plan, self.release, 0, "")
        assert found.said == "finished\n", found
        assert without_notes(self.node.tree()) == self.new
        self.node.bring_back(self.start)
        return found.steps

    def whole(self, tree: Tree) -> None:
        """Every file is the old or the new one, and what boots is there."""
        for name in self.old.keys() | self.new.keys():
            assert tree.get(name) in (self.old.get(name), self.new.get(name)), name
        assert not tree.keys() - (self.old.keys() | self.new.keys())
        menu = legacy.entries(tree[MENU][3].decode("latin-1"))
        assert any(entry.usable and not entry.ours for entry in menu)
        for release in {str(e.file).removeprefix("vmlinuz-") for e in menu if e.ours}:
            with_entry = self.old if self.back else self.new
            for name, value in with_entry.items():
                ours = release in name
                assert not ours or tree.get(name) in (value, self.old.get(name)), name
                assert not ours or name in tree, name

    def try_at(self, step: int, act: str) -> None:
        """Have ``act`` happen at a step; then run again, and take all back.

        The two ends of a pipeline are two steps or, now and then, one: the last may be missing.
        """
        self.node.bring_back(self.start)
        done = self.node.apply_until(self.plan, self.release, step, act)
        assert act.startswith("short") or done.steps >= step or done.said == "finished\n", done
        tree = self.node.tree()
        state = without_notes(tree)
        self.whole(state)
        if done.said == "finished\n":
            assert state == self.new
        elif act == "cut":
            # Nobody hears it, and it still makes an end.
            assert state in (self.old, self.new), done
            assert not staged(tree), done
        elif act != "kill":
            assert done.said.startswith("failed "), done
            if "some files are in place" not in done.said:
                assert state == self.old
        if digest(tree) in self.followed:
            return
        self.followed.add(digest(tree))
        aside = self.node.keep()
        again = self.forth()
        if again.empty:
            # Killed after the last word was written.
            assert state == self.new
        self.apply(again)
        assert without_notes(self.node.tree()) == self.new
        if not self.back:
            self.apply(self.rollback_plan())
            assert self.is_old(without_notes(self.node.tree()))
            assert not staged(self.node.tree())
            # At once, without running forward again.
            self.node.bring_back(aside)
            made = rollback(self.target.cluster.nodes[0], self.facts())
            assert not made.problems, made.problems
            if made.closes and state != self.old:
                self.apply(made)
                assert self.is_old(without_notes(self.node.tree()))


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("busybox", "bash")]


@pytest.fixture(params=["dash", *_SLOW])
def node(request: pytest.FixtureRequest, can_have_hosts: None, tmp_path: Path) -> Iterator[Node_]:
    made = Node_(tmp_path / "node", request.param)
    try:
        yield made
    finally:
        made.close()


def scene(node: Node_, tmp_path: Path, kind: str) -> Scene:
    """Return a first deploy, a second one over it, the way back from that, or a third build's.

    That one removes the first build, which no entry names any more.
    """
    cluster = Cluster(7, 1, (Node("krg1", 1, "10.0.0.1"),))
    furnish(node.root)
    made = []
    third = kind == "third"
    for mark in ("one", "two", "three")[: 3 if third else 2]:
        release = f"{RELEASE}-{mark}" if third else RELEASE
        build = artifacts.load(small_build(tmp_path / mark, mark, release))
        files = build_files(build)
        made.append(Target(cluster, build, files, CONFIG, force=frozenset(node_rules.RULES)))
    first, second, *more = (Scene(node, target, back=False) for target in made)
    if kind == "first":
        first.prepare()
        return first
    first.apply(first.deploy_plan())
    if kind == "back":
        first.back = True
        first.prepare()
        return first
    if third:
        second.apply(second.deploy_plan())
        (last,) = more
        last.retired = first.release
        last.prepare()
        assert [name for name in last.old if first.release in name]
        assert not [name for name in last.new if first.release in name]
        return last
    second.prepare()
    return second


Note = Callable[[str, object], None]


@pytest.fixture
def note(record_property: Note) -> Callable[[Scene, str, str, int], None]:
    """Return what counts fault points for the table at the end."""

    def points(made: Scene, kind: str, act: str, count: int) -> None:
        name = NAMES[act.partition(":")[0]]
        record_property(fault_points.KEY, f"{made.node.shell}, {kind}|{name}|{count}")

    return points


Points = Callable[[Scene, str, str, int], None]


@pytest.mark.parametrize("kind", ["first", "second", "back", "third"])
def test_some_steps(node: Node_, tmp_path: Path, kind: str, note: Points) -> None:
    made = scene(node, tmp_path, kind)
    count = made.steps()
    for number, act in enumerate(ACTS):
        steps = range(3 + number, count, count // (3 if act == "kill" else 1))
        for step in steps:
            made.try_at(step, act)
        note(made, kind, act, len(steps))
    made.try_at(made.node.data_size // 2, "short")
    made.try_at(0, "short:plain")
    # Two members, and nothing else is missing: the end of all, and the file that says so.
    made.try_at(made.node.data_size - 3 * 512, "short:plain")
    note(made, kind, "short", 3)


def tamper(node: Node_, line: str) -> None:
    """Let the node's tar do ``line`` after its work."""
    place = node.root / "usr/local/sbin"
    place.mkdir(exist_ok=True)
    (place / "tar").write_text(f'#!/bin/sh\n/usr/bin/tar "$@" || exit\n{line}\n')
    (place / "tar").chmod(0o755)


# busybox's shell takes its own tar before any other.
@pytest.mark.parametrize(
    "node", ["dash", pytest.param("bash", marks=pytest.mark.slow)], indirect=True
)
@pytest.mark.parametrize(
    "line",
    [
        "for f in /boot/.krg-*/vmlinuz*; do printf x | dd of=$f conv=notrunc bs=1 seek=7; done",
        "for f in /boot/.krg-*/vmlinuz*; do printf x >>$f; done",
        "rm -f /lib/modules/.krg-*/*/extra/kerrighed.ko",
    ],
    ids=["another byte", "one more", "one file less"],
)
@pytest.mark.parametrize("tool", ["cksum", "sha256sum"])
def test_what_is_written_wrong_is_found(node: Node_, tmp_path: Path, line: str, tool: str) -> None:
    made = scene(node, tmp_path, "first")
    tamper(node, line)
    if tool == "sha256sum":
        # Not every node has cksum.
        (node.root / "usr/local/sbin/cksum").write_text("#!/bin/sh\nexit 127\n")
        (node.root / "usr/local/sbin/cksum").chmod(0o755)
    before = node.tree()
    done = node.apply_until(made.plan, made.release, 0, "")
    assert done.said.startswith("failed what arrived is not what was sent: /"), done
    assert "vmlinuz" in done.said or "kerrighed.ko" in done.said
    # Nothing is left of it but an empty place for journals.
    after = node.tree()
    assert {n: v for n, v in after.items() if "lib/krg-provision" not in n} == before
    assert not staged(after)


def test_what_boots_is_moved_file_by_file(node: Node_) -> None:
    """The first that fails is the last that is tried: their order is one in which all boots."""
    furnish(node.root)
    (node.root / "boot/grub/default").write_text("2\n")
    place = node.root / "usr/local/sbin"
    place.mkdir()
    (place / "mv").write_text('#!/bin/sh\necho "$*" >>/run/moves\nexec /usr/bin/mv "$@"\n')
    (place / "mv").chmod(0o755)
    paths = ("/boot/grub/default", "/boot/grub/menu.lst", "/boot/grub/custom.cfg")
    seen = node.facts(list(paths)).files
    changes = tuple(Change(text_wanted(path, b"new\n"), seen.get(path)) for path in paths)
    node.apply(Plan("krg1", changes), "", DATE)
    moves = (node.root / "run/moves").read_text().splitlines()
    grub = [words[1:] for line in moves if "/boot/grub/" in (words := line.split())[-1]]
    assert [words[0].rpartition("/")[2] for words in grub] == [p.rpartition("/")[2] for p in paths]
    assert all(len(words) == 2 for words in grub)


def test_more_files_and_directories_than_a_program_is_given(node: Node_, tmp_path: Path) -> None:
    """Of 250 in one directory, and of as many directories, each is made and taken back."""
    furnish(node.root)
    wanted = [
        Wanted(f"/usr/local/{name}", hashlib.sha256(text).hexdigest(), len(text), 0o644,
               source=tmp_path / text.decode())
        for number in range(250)
        for name, text in (
            (f"lib/many/{number}", f"many{number}".encode()),
            (f"lib/deep/{number}/file", f"deep{number}".encode()),
        )
    ]  # fmt: skip
    for one in wanted:
        assert one.source is not None
        one.source.write_text(one.source.name)
    before = without_notes(node.tree())
    plan = Plan("krg1", tuple(Change(one, None) for one in wanted))
    node.apply(plan, "", DATE)
    tree = node.tree()
    for one in wanted:
        assert one.source is not None
        assert tree[one.path[1:]][3] == one.source.name.encode()
    assert not staged(tree)
    back = rollback(Node("krg1", 1, "10.0.0.1"), node.facts([], journals=True))
    node.apply(back, "", DATE)
    assert without_notes(node.tree()) == before


@pytest.mark.slow
@pytest.mark.parametrize("act", [*ACTS, "short", "short:plain"])
@pytest.mark.parametrize("kind", ["first", "second", "back", "third"])
def test_every_step(node: Node_, tmp_path: Path, kind: str, act: str, note: Points) -> None:
    made = scene(node, tmp_path, kind)
    count = made.steps()
    if act.startswith("short"):
        if act == "short:plain":
            made.try_at(0, act)
        steps = range(0, node.data_size, max(1, node.data_size // 40))
    else:
        # A full disk stays full: that is less tried than being killed.
        often = 5 if node.shell == "dash" else 20
        steps = range(1, count + 1, 1 if act == "kill" else often)
    for step in steps:
        made.try_at(step, act)
    note(made, kind, act, len(steps))
    print(f"\n{kind}, {act}: {len(steps)} fault points, {len(made.followed)} different states")
