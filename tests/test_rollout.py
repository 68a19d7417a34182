# SPDX-License-Identifier: GPL-2.0-or-later
"""Waves and stop rules; the journal and locks of rollouts; what counts as evidence."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision import boot, boot_plan, events, evidence, lock, module, operate, release
from provision.cluster import Cluster, Node
from provision.errors import FailedError, InputError
from provision.facts import Facts
from provision.plan import Plan
from provision.rollout import Pace, roll, waves

NAMES = st.lists(st.integers(0, 99).map("krg{}".format), unique=True, max_size=20)
PACES = st.builds(
    Pace,
    canary=st.integers(0, 4),
    wave=st.none() | st.integers(1, 8),
    max_down=st.none() | st.integers(0, 5),
)
CLUSTER = Cluster(7, 1, (Node("krg1", 1, "10.0.0.1"), Node("krg2", 2, "10.0.0.2")))
KERNEL = "2.6.20-krg"
KERRIGHED = module.kerrighed()


@given(NAMES, PACES)
def test_every_node_is_in_one_wave_in_order(names: list[str], pace: Pace) -> None:
    found = waves(names, pace)
    assert [name for wave in found for name in wave] == names
    assert all(found)
    if pace.canary and len(names) > pace.canary:
        assert len(found[0]) == pace.canary
        found = found[1:]
    assert all(len(wave) <= (pace.wave or len(names)) for wave in found)


@given(NAMES, PACES, st.sets(st.integers(0, 99).map("krg{}".format)), st.integers(0, 6))
def test_a_rollout_stops_as_its_rules_say(
    names: list[str], pace: Pace, bad: set[str], before: int
) -> None:
    begun: list[tuple[str, ...]] = []

    def work(wave: Sequence[str]) -> Iterator[tuple[str, bool]]:
        begun.append(tuple(wave))
        for name in wave:
            yield name, name not in bad

    left = dict(roll(names, pace, work, failed_before=before))
    done = [name for wave in begun for name in wave]
    assert [*done, *left] == names
    # Nothing was begun once there were too many failures, and all was begun until then.
    failed = before
    for number, wave in enumerate(begun):
        assert pace.max_down is None or failed <= pace.max_down
        if number:
            canary = 0 < pace.canary < len(names) and bad & set(begun[0])
            assert not canary
        failed += len(bad & set(wave))
    if left:
        canary_failed = 0 < pace.canary < len(names) and bool(begun and bad & set(begun[0]))
        assert canary_failed or (pace.max_down is not None and failed > pace.max_down)


@pytest.mark.parametrize("pace", [Pace(canary=-1), Pace(wave=0)])
def test_sizes_that_make_no_sense(pace: Pace) -> None:
    with pytest.raises(InputError):
        waves(["krg1"], pace)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_the_journal_says_what_to_repeat(state: Path) -> None:
    assert events.to_repeat(CLUSTER) == ()
    with events.locked(CLUSTER) as place, events.journal(place) as journal:
        for node in ("krg1", "krg2"):
            journal.write("planned", node)
        journal.write("ended", "krg1", state="booted")
    assert events.last_states(CLUSTER) == {"krg1": "booted", "krg2": "interrupted"}
    assert events.to_repeat(CLUSTER) == ("krg2",)
    # Half of a line, as a killed run leaves it.
    file = next(place.glob("*.jsonl"))
    file.write_text(file.read_text() + '{"step": "ended", "node": "kr')
    assert events.to_repeat(CLUSTER) == ("krg2",)
    # Another cluster has another journal, whatever its file is called.
    other = replace(CLUSTER, session=8)
    assert events.to_repeat(other) == ()


def test_old_journals_go(state: Path) -> None:
    place = events.directory(CLUSTER)
    place.mkdir(parents=True)
    for day in range(1, 29):
        (place / f"202601{day:02}T000000Z.jsonl").write_text("")
    with events.journal(place) as journal:
        journal.write("begun")
    kept = sorted(path.name for path in place.glob("*.jsonl"))
    assert len(kept) == events.KEPT and kept[0] > "20260109"


def hold(ready: object, end: object) -> None:
    with events.locked(CLUSTER):
        ready.set()  # type: ignore[attr-defined]
        end.wait(60)  # type: ignore[attr-defined]


def test_one_process_at_a_time_and_a_killed_one_holds_nothing(state: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, end = context.Event(), context.Event()
    other = context.Process(target=hold, args=(ready, end))
    other.start()
    assert ready.wait(60)
    with pytest.raises(FailedError, match=rf"\(process {other.pid}\) since .* is at work"):
        events.locked(CLUSTER).__enter__()
    other.kill()
    other.join()
    with events.locked(CLUSTER):
        pass


def test_a_state_directory_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(Exception, match="cannot be written") as caught:
        events.locked(CLUSTER).__enter__()
    assert getattr(caught.value, "exit_code", None) == 3


def test_whose_lock_was_left() -> None:
    me = lock.mine()
    user = me.partition(":")[0]
    child = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    child.start()
    child.join()
    assert lock.is_left(f"{user}:{child.pid}:1700000000", me)
    assert not lock.is_left(me, me)
    assert not lock.is_left(f"ann@elsewhere:{child.pid}:1700000000", me)


@given(st.text())
def test_whatever_a_lock_says(text: str) -> None:
    assert lock.describe(text)
    assert lock.is_left(text, lock.mine()) in (True, False)


# --- evidence ------------------------------------------------------------------------------


def facts(complete: bool = True, **words: str) -> Facts:
    return Facts(words=words, complete=complete)


GOOD = {
    "kernel": KERNEL,
    "cmdline": "root=/dev/hda1 session_id=7 node_id=1 panic=10",
    "node_id": "1",
    "session_id": "7",
    "nrnodes": "POSSIBLE: 254 ONLINE: 2 PRESENT: 2",
}


def test_all_that_proves_a_node() -> None:
    found = evidence.of_node(CLUSTER, CLUSTER.nodes[0], KERNEL, KERRIGHED, facts(**GOOD))
    assert [item.what for item in found] == [
        "kernel booted", "command line", "module loaded", "peers seen",
    ]  # fmt: skip
    assert all(item.ok for item in found)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("kernel", "6.1.0"),
        ("cmdline", "session_id=7 node_id=2"),
        ("cmdline", ""),
        ("node_id", "2"),
        ("session_id", "8"),
        ("node_id", ""),
    ],
)
def test_each_wrong_thing_is_seen(word: str, value: str) -> None:
    words = {**GOOD, word: value}
    found = evidence.of_node(CLUSTER, CLUSTER.nodes[0], KERNEL, KERRIGHED, facts(**words))
    assert sum(not item.ok for item in found) == 1


def test_a_kernel_without_kerrighed_needs_no_module() -> None:
    words = {name: GOOD[name] for name in ("kernel", "cmdline")}
    found = evidence.of_node(CLUSTER, CLUSTER.nodes[0], KERNEL, None, facts(**words))
    assert all(item.ok for item in found) and len(found) == 2
    found = evidence.of_node(CLUSTER, CLUSTER.nodes[0], KERNEL, KERRIGHED, facts(**words))
    assert [item.what for item in found if not item.ok] == ["module loaded"]


def test_the_ids_of_another_module_prove_nothing() -> None:
    other = release.load("debian-6.1").module
    assert other is not None
    for ids, good in ((other.ids, True), ("/sys/kernel/others", False)):
        found = evidence.of_node(CLUSTER, CLUSTER.nodes[0], KERNEL, other, facts(**GOOD, ids=ids))
        assert all(item.ok for item in found) == good
    # Nor do they make one machine of several nodes.
    assert evidence.kerrighed_runs(facts(**GOOD))
    assert not evidence.kerrighed_runs(facts(**GOOD, ids=other.ids))


def test_when_a_restart_harms_others() -> None:
    alone = {**GOOD, "nrnodes": "POSSIBLE: 254 ONLINE: 1 PRESENT: 1"}
    waiting = {**GOOD, "nrnodes": "POSSIBLE: 254 ONLINE: 0 PRESENT: 3"}
    assert evidence.in_running_cluster(facts(**GOOD))
    assert not evidence.in_running_cluster(facts(**alone))
    assert not evidence.in_running_cluster(facts(**waiting))
    # Asked for its cluster it fell silent.
    assert evidence.in_running_cluster(facts(complete=False, node_id="1"))
    assert not evidence.in_running_cluster(facts(kernel="6.1.0"))


def test_one_node_of_a_running_cluster_is_not_restarted_alone() -> None:
    node, plan = CLUSTER.nodes[0], Plan("krg1", runs=("true",))
    with pytest.raises(FailedError, match="one of 2 nodes of a running") as caught:
        boot_plan.make(
            node,
            facts(**GOOD),
            plan,
            kernel_release=KERNEL,
            whole_cluster=False,
            force=(),
            alone=9,
        )
    assert "--whole-cluster" in (caught.value.hint or "")


def test_one_that_the_cluster_lost_is_restarted_with_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is up again and in no cluster: left as it is the others could not start one with it."""
    monkeypatch.setattr(boot_plan.boot_entry, "state", lambda *_: "default")
    lost = {**GOOD, "nrnodes": "POSSIBLE: 254 ONLINE: 0 PRESENT: 2"}
    for words, whole, action in (
        (lost, True, "restart"),
        (lost, False, None),
        (GOOD, True, "restart"),
        ({"kernel": KERNEL}, True, None),
    ):
        made = boot_plan.make(
            CLUSTER.nodes[0],
            facts(**words),
            Plan("krg1"),
            kernel_release=KERNEL,
            whole_cluster=whole,
            force=(),
            alone=9,
        )
        assert (made and made.action) == action


def test_a_cluster_that_has_lost_a_node_is_not_called_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second = {**GOOD, "node_id": "2", "cmdline": "session_id=7 node_id=2"}
    second["nrnodes"] = "POSSIBLE: 254 ONLINE: 0 PRESENT: 2"
    answers = {"krg1": facts(**GOOD), "krg2": facts(**second)}
    monkeypatch.setattr(operate, "ask", lambda *_: answers)
    with pytest.raises(FailedError, match="krg2: online 0, present 2, not online 2") as caught:
        next(operate.start(CLUSTER, None, KERNEL, KERRIGHED, 1.0))  # type: ignore[arg-type]
    assert "--whole-cluster" in (caught.value.hint or "")


def test_a_node_whose_boot_loader_is_not_ours_is_not_restarted() -> None:
    node, plan = replace(CLUSTER.nodes[0], boot_loader="none"), Plan("krg1")
    with pytest.raises(FailedError, match='boot_loader = "none"'):
        boot_plan.make(
            node,
            facts(kernel="6.1"),
            plan,
            kernel_release=KERNEL,
            whole_cluster=False,
            force=(),
            alone=9,
        )


@pytest.mark.parametrize(
    ("before", "now", "expect"),
    [
        (("a", "100.0 9"), ("a", "101.0 9"), False),
        (("a", "100.0 9"), ("b", "101.0 9"), True),
        # The same boot_id twice.
        (("a", "100.0 9"), ("a", "3.0 1"), True),
        (("a", "odd"), ("a", ""), False),
    ],
)
def test_a_restart_is_seen(before: tuple[str, str], now: tuple[str, str], expect: bool) -> None:
    one, two = (facts(boot_id=words[0], uptime=words[1]) for words in (before, now))
    assert boot.restarted(one, two) is expect


def test_nodes_of_one_cluster_see_the_same() -> None:
    second = {**GOOD, "node_id": "2", "cmdline": "session_id=7 node_id=2"}
    answers = {"krg1": facts(**GOOD), "krg2": facts(**second)}
    found = operate.prove(CLUSTER, KERNEL, KERRIGHED, answers)
    assert all(item.ok for item in found)
    second["nrnodes"] = "POSSIBLE: 254 ONLINE: 2 PRESENT: 1"
    found = operate.prove(CLUSTER, KERNEL, KERRIGHED, {**answers, "krg2": facts(**second)})
    assert [(item.what, item.where) for item in found if not item.ok] == [("cluster runs", "krg2")]
    found = operate.prove(CLUSTER, KERNEL, KERRIGHED, {**answers, "krg2": FailedError("gone")})
    assert [(item.what, item.have) for item in found if not item.ok] == [("answers", "gone")]


@given(st.lists(st.text(min_size=1).filter(lambda s: "\0" not in s), min_size=2, max_size=4))
def test_words_of_a_command_stay_words(words: list[str]) -> None:
    import shlex

    assert shlex.split(operate.command_line(words)) == words
