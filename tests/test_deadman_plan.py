# SPDX-License-Identifier: GPL-2.0-or-later
"""What a plan says of the way back from a trial, and what deploy makes of how a trial ended."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from provision import boot, boot_plan, deadman, journal, module
from provision.boot import Limits
from provision.cluster_rules import Cluster, Node
from provision.facts import Facts, Text
from provision.node import apply_script
from provision.plan import Plan
from provision.ssh import Output
from provision.upload import lists

KERNEL = "2.6.20-krg"
MENU = (
    b"default 0\ntimeout 5\n"
    b"title Debian\nroot (hd0,0)\nkernel /boot/vmlinuz-old root=/dev/hda1 ro\n"
)
NODE = Node("krg1", 1, "krg1")


def text(content: bytes, path: str) -> Text:
    return Text(content, 0o644, 0, 0, path)


def facts(has: tuple[str, ...] = (), **words: str) -> Facts:
    from provision import boot_entry

    before = Facts(
        words={"uid": "0", "kernel": "old", "boot_id": "1", "saved": "0", **words},
        texts={"/boot/grub/menu.lst": text(MENU, "/boot/grub/menu.lst")},
        has=frozenset(has),
        complete=True,
    )
    made = boot_entry.make(NODE, before, session=1, kernel_release=KERNEL, autonodeid=False)
    texts = {file.path: text(file.content, file.path) for file in made.texts}
    return replace(before, texts={**before.texts, **texts})


def planned(seen: Facts, node: Node = NODE, service: str | None = "kerrighed") -> boot_plan.Boot:
    made = boot_plan.make(
        node,
        seen,
        Plan("krg1"),
        kernel_release=KERNEL,
        whole_cluster=False,
        force=("grubenv",),
        alone=Limits().alone,
        service=service,
    )
    assert made is not None
    return made


LINK = "/etc/rc2.d/S01krg-provision-trial"


@pytest.mark.parametrize(
    ("words", "has", "expect"),
    [
        (
            {"init": "sysv", "tool": "update-rc.d"},
            (),
            "update-rc.d krg-provision-trial defaults 01",
        ),
        ({"init": "sysv", "tool": "update-rc.d"}, (LINK,), None),
        ({"init": "unknown", "tool": "update-rc.d"}, (), "update-rc.d krg-provision-trial"),
        ({"init": "upstart 0.3.9", "tool": "update-rc.d"}, (), "update-rc.d krg-provision-trial"),
        ({"init": "systemd 252"}, (), None),
        ({"init": "systemd 252"}, (deadman.WANTED,), None),
    ],
)
def test_what_init_starts(words: dict[str, str], has: tuple[str, ...], expect: str | None) -> None:
    boot = planned(facts(has, **words))
    paths = [file.path for file in boot.switch.texts]
    assert paths[0] == deadman.SCRIPT and deadman.ORDER in paths
    # The boot loader's files come last: nothing is armed before its way back is there.
    assert max(map(paths.index, (deadman.SCRIPT, deadman.ORDER))) < paths.index(
        "/boot/grub/menu.lst"
    )
    systemd = words["init"].startswith("systemd")
    assert (deadman.UNIT in paths) == systemd
    assert (deadman.WANTED in paths) == (systemd and deadman.WANTED not in has)
    first = [deadman.START, deadman.STARTED] if expect else []
    assert list(boot.switch.first) == first and (not expect or first[0].startswith(expect))
    assert not systemd or not first
    assert deadman.waits(boot.switch)
    said = "\n".join(boot.texts)
    assert "not confirmed within 450 s" in said and "+seconds 450" in said
    assert f"add {deadman.SCRIPT} (" in said
    assert "not covered: a hang before its init scripts, or one" in said


ALPINE = (
    b"::sysinit:/sbin/openrc sysinit\n::sysinit:/sbin/openrc boot\n::wait:/sbin/openrc default\n"
)
SIMPLE = b"# \xe9\n::sysinit:/etc/init.d/rcS\ntty1::askfirst:-/bin/sh"
BOOT, DEFAULT = "/etc/runlevels/boot", "/etc/runlevels/default"


@pytest.mark.parametrize(
    ("kind", "inittab", "has", "link"),
    [
        ("openrc 0.45", b"", ("/sbin/openrc-run", BOOT, DEFAULT), DEFAULT),
        ("openrc", b"si::sysinit:/etc/init.d/rcS\n", ("/sbin/runscript", BOOT, DEFAULT), DEFAULT),
        ("openrc", b"rc::bootwait:/sbin/rc boot\n", ("/sbin/runscript", BOOT, DEFAULT), BOOT),
        ("busybox", ALPINE, ("/sbin/openrc-run", BOOT, DEFAULT), BOOT),
        (
            "busybox",
            b"#::sysinit:/sbin/openrc boot\n::wait:/sbin/openrc default\n",
            ("/sbin/openrc-run", BOOT, DEFAULT),
            DEFAULT,
        ),
    ],
)
def test_openrc_starts_it(kind: str, inittab: bytes, has: tuple[str, ...], link: str) -> None:
    seen = facts(has, init=kind)
    seen = replace(seen, texts={**seen.texts, "/etc/inittab": text(inittab, "/etc/inittab")})
    made = planned(seen).switch
    files = {file.path: file for file in made.texts}
    assert list(files)[:3] == [deadman.SCRIPT, deadman.OPENRC, f"{link}/krg-provision-way-back"]
    assert files[f"{link}/krg-provision-way-back"].target == deadman.OPENRC
    assert files[deadman.OPENRC].content.startswith(f"#!{has[0]}\n".encode())
    assert made.first == () and "no dead man's switch" not in "\n".join(planned(seen).texts)
    # The next trial finds the link.
    again = replace(seen, has=seen.has | {f"{link}/krg-provision-way-back"})
    assert not [file for file in planned(again).switch.texts if file.target]
    # Without that runlevel nothing starts it.
    assert not deadman.waits(planned(replace(seen, has=frozenset(has[:1]))).switch)


def test_busybox_starts_it_by_a_line_of_its_inittab() -> None:
    # OpenRC is there, and nothing starts it.
    off = text(b"#::sysinit:/sbin/openrc boot\n" + SIMPLE, "/etc/inittab")
    seen = facts(("/sbin/openrc-run", BOOT, DEFAULT), init="busybox")
    seen = replace(seen, texts={**seen.texts, "/etc/inittab": off})
    assert deadman.hook(seen) == "inittab"
    seen = facts((), init="busybox")
    seen = replace(seen, texts={**seen.texts, "/etc/inittab": text(SIMPLE, "/etc/inittab")})
    made = {file.path: file.content for file in planned(seen).switch.texts}
    line = f"::sysinit:/bin/sh {deadman.SCRIPT} start\n".encode()
    assert made["/etc/inittab"] == SIMPLE + b"\n" + line
    assert "+::sysinit:/bin/sh" in "\n".join(planned(seen).texts)
    # The next trial adds no other.
    there = text(made["/etc/inittab"], "/etc/inittab")
    seen = replace(seen, texts={**seen.texts, "/etc/inittab": there})
    assert "inittab" not in "\n".join(planned(seen).texts)
    # One that somebody made a comment starts nothing.
    off = made["/etc/inittab"].replace(line, b"#" + line)
    seen = replace(seen, texts={**seen.texts, "/etc/inittab": text(off, "/etc/inittab")})
    made = {file.path: file.content for file in planned(seen).switch.texts}
    assert made["/etc/inittab"] == off + line


def test_nothing_is_armed_before_init_starts_the_script() -> None:
    seen = facts((), init="sysv", tool="update-rc.d")
    plan = boot.switch_plan(NODE, planned(seen).switch, seen)
    found = lists(plan, "stage")
    early, late = ([line.split()[1] for line in found[name]] for name in ("early", "late"))
    assert early == [deadman.SCRIPT]
    assert late == [deadman.ORDER, "/boot/grub/default", "/boot/grub/menu.lst"]
    text = apply_script(plan, KERNEL, "20260101T000000Z", "0" * 16)
    steps = ("lines=$early\n", deadman.START, deadman.STARTED, "lines=$late\n")
    assert sorted(steps, key=text.rindex) == list(steps)
    assert ("ran", deadman.START) in plan.about


def test_a_script_with_another_head_gets_its_place_in_the_order_anew() -> None:
    seen = facts((LINK,), init="sysv", tool="update-rc.d")
    old = text(deadman.script("nodeids").encode(), deadman.SCRIPT)
    seen = replace(seen, texts={**seen.texts, deadman.SCRIPT: old})
    assert planned(seen).switch.first == (deadman.START, deadman.STARTED)
    assert planned(seen, service="nodeids").switch.first == ()


@pytest.mark.parametrize(
    "words",
    [
        {"init": "sysv"},
        {"init": "busybox", "tool": "update-rc.d"},
        {"init": "openrc 0.40", "tool": "update-rc.d"},
        {"init": "none", "tool": "update-rc.d"},
    ],
)
def test_an_init_that_starts_nothing_of_ours(words: dict[str, str]) -> None:
    boot = planned(facts((), **words))
    assert not deadman.waits(boot.switch)
    said = "\n".join(boot.texts)
    assert "not covered: this node has no dead man's switch" in said and words["init"] in said


@pytest.mark.parametrize("name", ["kerrighed", "nodeids", None])
def test_it_starts_before_the_release_s_own_script(name: str | None) -> None:
    boot = planned(facts((), init="sysv", tool="update-rc.d"), service=name)
    head = boot.switch.texts[0].content.decode().partition("### END INIT INFO")[0]
    lines = [line.split() for line in head.splitlines() if "X-Start-Before" in line]
    assert lines == ([] if name is None else [["#", "X-Start-Before:", name]])


def test_a_release_says_what_its_script_is_called() -> None:
    kerrighed = module.kerrighed()
    assert kerrighed.service == "kerrighed"
    assert replace(kerrighed, files=()).service is None


def test_what_the_plan_says_of_a_watchdog() -> None:
    words = {"init": "sysv", "tool": "update-rc.d", "watchdog": "i6300ESB timer"}
    said = "\n".join(planned(facts((), **words)).texts)
    assert "its watchdog (i6300ESB timer) is not used: watchdog = true" in said
    for value, order in ((True, "+watchdog yes"), ("i6300esb", "+watchdog i6300esb")):
        said = "\n".join(planned(facts((), **words), replace(NODE, watchdog=value)).texts)
        assert order in said and "a hang then resets the node" in said and "nowayout" in said
        assert "not covered: a hang before its init scripts waits" in said


def test_how_a_trial_ended() -> None:
    now = facts()
    assert (deadman.ended(now, KERNEL), deadman.last(now)) == ("", "")

    def left(name: str, release: str = KERNEL) -> Facts:
        path = f"{deadman.ORDER}{name}"
        assert path in deadman.TEXTS
        content = deadman.order(release, 450, False)
        return replace(now, texts={**now.texts, path: text(content, path)})

    for name in ("-gave-up", "-back"):
        assert deadman.gave_up(left(name), KERNEL) == 450
        assert deadman.ended(left(name), KERNEL).startswith("by itself after 450 s without")
        assert deadman.gave_up(left(name, "2.6.20-other"), KERNEL) is None
    assert "was reset then" in deadman.ended(left("-running"), KERNEL)
    assert "not come as far" in deadman.ended(left("-missed"), KERNEL)
    assert "the trial before: by itself after 450 s" in "\n".join(
        planned(replace(left("-back"), words={**now.words, "init": "sysv"})).texts
    )
    odd = replace(now, texts={f"{deadman.ORDER}-back": text(b"\xff", "x")})
    assert deadman.ended(odd, KERNEL) == ""


def test_a_rollback_undoes_what_has_init_start_it() -> None:
    name = "20260101T000000Z-" + "0" * 16
    about = f"state done\ncommand boot\nran {deadman.START}\nnumber 1\n"
    paths = [(deadman.SCRIPT, "a"), (deadman.ORDER, "b")]
    lines = "".join(f"path absent - - - file:{d * 64} no {p}\n" for p, d in paths)
    node = replace(facts(), blobs={f"journal {name}": (about + lines).encode()}, words={"uid": "0"})
    plan = journal.rollback(NODE, node)
    # Even where the files themselves have gone.
    assert plan.runs == (deadman.START_UNDONE_BY,) and not plan.problems
    assert plan.closes == (name,)


def test_how_long_a_trial_stays_up() -> None:
    assert Limits().alone == 450
    assert Limits(1e9).alone == 99_999
    assert boot.Limits(20, 2).alone == 26


class Sessions:
    """Answers a node gives, in their order: facts, or what a script prints."""

    def __init__(self, *answers: Facts | bytes) -> None:
        self.answers = list(answers)
        self.applied: list[Plan] = []

    def again(self, node: Node) -> Sessions:
        return self

    def pause(self, seconds: float) -> None:
        pass

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def facts(self, *_: object, **__: object) -> Facts:
        answer = self.answers.pop(0)
        assert isinstance(answer, Facts)
        return answer

    def run(self, *_: object, **__: object) -> Output:
        answer = self.answers.pop(0)
        assert isinstance(answer, bytes)
        return Output(0, answer, b"")

    def apply(self, plan: Plan, *_: object) -> None:
        self.applied.append(plan)


def judged(doors: Sessions, now: Facts) -> tuple[boot.Result, list[str]]:
    cluster = Cluster(1, 1, (NODE,))
    steps: list[str] = []
    trial = boot.Trial(cluster, KERNEL, None, Limits(1, 1))
    watched = replace(NODE, watchdog=True)
    result = boot.judge(cast(boot.Doors, doors), trial, watched, now, "x", steps.append)
    return result, steps


def test_confirmed_too_late() -> None:
    up = facts((), kernel=KERNEL, cmdline="session_id=1 node_id=1")
    down = replace(up, words={**up.words, "kernel": "old", "boot_id": "2"})
    path = f"{deadman.ORDER}-back"
    record = text(deadman.order(KERNEL, 3, True), path)
    down = replace(down, texts={**down.texts, path: record})
    doors = Sessions(b"gave up\n", up, down, b"a log\n", b"none\n", down)
    result, steps = judged(doors, up)
    assert (result.state, result.log) == ("fell back", ("a log",))
    assert "came back with old instead of 2.6.20-krg, by itself after 3 s" in str(result.error)
    assert steps == ["up", "not confirmed in time", "fell back"]
    # The entry was not made the default.
    assert not doors.applied and not doors.answers


@pytest.mark.parametrize(("said", "heard"), [(b"confirmed\n", True), (b"confirmed fed\n", False)])
def test_a_watchdog_that_was_asked_for_and_is_none(said: bytes, heard: bool) -> None:
    up = facts((), kernel=KERNEL, cmdline="session_id=1 node_id=1")
    doors = Sessions(said, up)
    result, steps = judged(doors, up)
    assert result.state == "booted" and len(doors.applied) == 1
    assert any("watchdog could not be used" in step for step in steps) is heard
