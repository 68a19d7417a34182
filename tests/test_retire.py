# SPDX-License-Identifier: GPL-2.0-or-later
"""Which builds a deploy removes from a node: none that anything boots, or that a rollback needs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provision import boot_entry, journal, retire
from provision.cluster_rules import Node
from provision.facts import Facts, Seen, Text
from provision.plan import BUILDS, JOURNALS, Change, Plan, Wanted, text_wanted

NODE = Node("krg1", 1, "krg1")
MENU = boot_entry.MENU
HEAD = (
    b"default 0\ntimeout 5\ntitle Debian\nroot (hd0,0)\nkernel /boot/vmlinuz-old root=/dev/hda1\n"
)
START = b"\n### BEGIN KRG-PROVISION +1 ###\n"
ENTRY = b"title %s\nroot (hd0,0)\nkernel /boot/vmlinuz-%s root=/dev/hda1 node_id=1\n"


def menu(*releases: str, head: bytes = HEAD) -> bytes:
    entries = b"".join(ENTRY % (name.encode(), name.encode()) for name in releases)
    return head + (START + entries + b"### END KRG-PROVISION ###\n" if releases else b"")


def name(number: int) -> str:
    return f"202611{number:02}T000000Z-{number:016x}"


def run(number: int, release: str, *about: str, state: str = "done") -> tuple[str, bytes]:
    words = ("command deploy", f"kernel_release {release}", f"number {number}", *about)
    return f"journal {name(number)}", "\n".join((f"state {state}", *words, "")).encode()


def node(text: bytes, *runs: tuple[str, bytes], kernel: str = "old", **more: bytes) -> Facts:
    return Facts(
        words={"uid": "0", "kernel": kernel},
        texts={MENU: Text(text, 0o600, 0, 0, MENU)},
        blobs={**dict(runs), **more},
    )


def plan(facts: Facts, text: bytes | None = None, bootloader: bool = True) -> Plan:
    """Return the plan of a deploy of D that writes the menu ``text``."""
    changes = ()
    if text is not None:
        changes = (Change(text_wanted(MENU, text, 0o600), facts.texts[MENU]),)
    about = (("command", "deploy"), ("kernel_release", "D"))
    made = Plan("krg1", changes, about=about)
    return retire.with_retired(made, facts, NODE, "D", bootloader=bootloader)


def releases(made: Plan) -> list[str]:
    return [one.release for one in made.retires]


A, B, C = run(1, "A", "menu -"), run(2, "B", "menu A"), run(3, "C", "menu A B")


def test_the_one_that_lost_its_entry_to_the_last_run_goes_with_this() -> None:
    facts = node(menu("C", "B"), A, B, C)
    made = plan(facts, menu("D", "B"))
    assert releases(made) == ["A"]
    (gone,) = made.retires
    assert (gone.date, gone.places, gone.command) == (
        "20261101T000000Z", (f"{JOURNALS}/{name(1)}",), None
    )  # fmt: skip
    assert ("menu", "B C") in made.about and ("retired", "A") in made.about
    assert made.about[0] == ("command", "deploy")


def test_once_is_enough() -> None:
    done = run(4, "D", "menu B C", "retired A")
    made = plan(node(menu("D", "B"), A, B, C, done))
    assert made.empty and not releases(made)
    # Interrupted, whatever it had done: the next run ends it, and belongs to it.
    begun = run(4, "D", "menu B C", "retired A", state="begun")
    made = plan(node(menu("D", "B"), A, B, C, begun))
    assert releases(made) == ["A"] and made.settled and not made.empty
    assert dict(made.about)["command"] == "retire"
    last = journal.parse(name(5), b"state done\ncommand retire\nnumber 5\n", {})
    assert last is not None
    runs = journal.read(node(menu("D", "B"), A, B, C, begun))
    assert [one.number for one in journal.chosen((*runs, last))] == [4, 5]


def test_a_build_that_came_again_is_there_again() -> None:
    again = run(5, "A", "menu B D")
    removed = run(4, "D", "menu B C", "retired A")
    facts = node(menu("A", "D"), A, B, C, removed, again)
    made = plan(facts, menu("D", "E"))
    assert "A" not in releases(made) and releases(made) == ["B", "C"]


@pytest.mark.parametrize(
    "facts",
    [
        # It runs; an entry of somebody's names it, or a link, or a comment; it cannot be seen.
        node(menu("C", "B"), A, B, C, kernel="A"),
        node(menu("C", "B", head=HEAD + ENTRY % (b"mine", b"A")), A, B, C),
        node(menu("C", "B", head=b"# vmlinuz-A\n" + HEAD), A, B, C),
        replace(
            node(menu("C", "B"), A, B, C),
            files={"/vmlinuz.old": Seen(0o120777, 1, target="boot/vmlinuz-A")},
        ),
        replace(node(menu("C", "B"), A, B, C), odd=("/boot/grub/grub.cfg",)),
        node(menu("C", "B"), A, B, C, boot_names=b"linux /vmlinuz-A-1\nlinux /vmlinuz-A\n"),
        # Nobody says that it was ours, or it was taken back.
        node(menu("C", "B"), B, C),
        node(menu("C", "B"), run(1, "A", "menu -", state="rolled-back"), B, C),
        node(menu("C", "B"), run(1, "A/../x", "menu -"), B, C),
    ],
)
def test_what_stays(facts: Facts) -> None:
    assert not releases(plan(facts, menu("D", "B")))


def test_a_name_that_only_begins_alike_is_another() -> None:
    head = HEAD + ENTRY % (b"mine", b"A-1")
    facts = node(menu("C", "B", head=head), A, B, C)
    assert releases(plan(facts, menu("D", "B", head=head))) == ["A"]
    # What update-grub lists stays, and people are told.
    listed = menu("C", "B", head=HEAD + ENTRY % (b"listed", b"A"))
    made = plan(node(listed, A, B, C), menu("D", "B"))
    assert "the build A is none of our entries and stays" in "\n".join(made.notes)


def test_without_a_boot_loader_nothing_goes() -> None:
    facts = node(menu("C", "B"), A, B, C)
    assert not plan(facts, menu("D", "B"), bootloader=False).retires
    both = replace(facts, words={**facts.words, "grub2": "/boot/grub/grub.cfg"})
    assert not plan(both, menu("D", "B")).retires


def test_runs_of_an_earlier_version_say_nothing_of_the_menu() -> None:
    old = [run(number, release) for number, release in ((1, "A"), (2, "B"), (3, "C"))]
    assert not plan(node(menu("C", "B"), *old)).retires
    assert releases(plan(node(menu("C", "B"), *old), menu("D", "B"))) == ["A"]


def test_packages_are_purged() -> None:
    image, modules = "package linux-image-1a - 1 amd64", "package kerrighed-modules-1a - 1 amd64"
    tools = "package kerrighed-tools 1 2 amd64"
    first = run(1, "1a", "menu -", image, modules, tools)
    facts = node(menu("C", "B"), first, B, C)
    # Nothing is known of what is installed.
    assert not plan(facts, menu("D", "B")).retires
    said = "\n".join(
        f"package {one} 1 install ok installed"
        for one in ("linux-image-1a", "kerrighed-modules-1a", "kerrighed-tools")
    )
    (gone,) = plan(replace(facts, blobs={**facts.blobs, "packages": said.encode()}),
                   menu("D", "B")).retires  # fmt: skip
    assert gone.command is not None
    assert gone.command.endswith("dpkg -P kerrighed-modules-1a linux-image-1a </dev/null")


@pytest.mark.parametrize(
    ("noted", "version"),
    [
        # Somebody had installed it before; somebody installed another one since.
        ("linux-image-1a 1 2 amd64", "2"),
        ("linux-image-1a - 1 amd64", "3"),
    ],
)
def test_packages_of_somebody_stay(noted: str, version: str) -> None:
    first = run(1, "1a", "menu -", f"package {noted}")
    said = f"package linux-image-1a {version} install ok installed"
    facts = node(menu("C", "B"), first, B, C, packages=said.encode())
    assert not plan(facts, menu("D", "B")).retires


def test_interrupted_runs_are_taken_back_with_the_next_and_need_their_builds() -> None:
    # C's entry came, and the run ended; the rollback of D brings back A and B.
    begun = run(3, "C", "menu A B", state="begun")
    facts = node(menu("C", "B"), A, B, begun)
    made = plan(facts, menu("D", "B"))
    assert not made.retires and ("menu", "B C") in made.about
    # So it does where D was interrupted, too.
    facts = node(menu("D", "B"), A, B, begun, run(4, "D", "menu B C", state="begun"))
    assert not plan(facts).retires
    # And with a rollback that was interrupted goes all that it was taking back.
    undoing = (f"state begun\ncommand rollback\nnumber 4\nundoes {name(3)}\n").encode()
    facts = node(menu("A", "B"), A, run(2, "E", "menu A B"), run(3, "C", "menu E B"),
                 (f"journal {name(4)}", undoing))  # fmt: skip
    assert "E" not in releases(plan(facts, menu("D", "B")))


def test_a_kernel_with_another_name_stays() -> None:
    facts = node(menu("C", "B"), A, B, C)

    def left(*lines: bytes) -> Plan:
        said = b"\n".join((b"9 /boot/vmlinuz-A", b"9 /boot/vmlinuz-B", *lines, b""))
        seen = replace(facts, blobs={**facts.blobs, "boot": said})
        return plan(seen, menu("D", "B"))

    assert releases(left(b"8 /boot/vmlinuz-old", b"9")) == ["A"]
    for name in (b"/boot/vmlinuz-old", b"/boot/my kernel", b"/vmlinuz.safe"):
        made = left(b"9 " + name)
        assert not made.retires and "the build A is none of our entries" in made.notes[0]


def test_the_list_of_a_build_outlives_its_journal() -> None:
    facts = node(menu("C", "B"), A, B, C)
    made = replace(plan(facts), prunes=(name(1), name(2)))
    kept = retire.with_retired(made, facts, NODE, "D", bootloader=True)
    assert dict(kept.lists) == {name(1): "A", name(2): "B"}
    # Not of one that goes.
    kept = retire.with_retired(
        replace(made, changes=plan(facts, menu("D", "B")).changes), facts, NODE, "D",
        bootloader=True,
    )  # fmt: skip
    assert releases(kept) == ["A"] and dict(kept.lists) == {name(2): "B"}
    left = {f"build {name(1)}": A[1].partition(b"\n")[2]}
    facts = node(menu("C", "B"), B, C, **left)
    (gone,) = plan(facts, menu("D", "B")).retires
    assert gone.places == (f"{BUILDS}/{name(1)}",)


@pytest.mark.parametrize("state", ["done", "begun"])
def test_no_rollback_brings_back_an_entry_without_its_kernel(state: str) -> None:
    done = run(4, "D", "menu B C", "retired A", state=state)
    facts = node(menu("D", "B"), A, B, C, done)
    change = Change(text_wanted(MENU, menu("A", "B"), 0o600), facts.texts[MENU])
    refused = retire.checked(Plan("krg1", (change,)), facts, NODE)
    assert "the entry of A would come back, and the run of 20261104T000000Z" in refused.problems[0]
    assert not refused.changes
    back = Change(replace(Wanted("/boot/vmlinuz-A", "0" * 64, 1, 0o644), known="file:1"), None)
    for made in (
        Plan("krg1", (change, back)),
        Plan("krg1", (Change(text_wanted(MENU, menu("C", "B"), 0o600), facts.texts[MENU]),)),
    ):
        assert retire.checked(made, facts, NODE) == made
