# SPDX-License-Identifier: GPL-2.0-or-later
"""Which runs a rollback takes back, what it refuses, what journals on nodes may hold."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision import journal, node_packages, rollback
from provision.cluster import Node
from provision.facts import Facts, Seen, Space, Text

NODE = Node("krg1", 1, "10.0.0.1")


def one(number: int, state: str = "done", command: str = "deploy", *more: str, day: int = 0) -> str:
    """Return a journal as facts hold it, and its name as its first word."""
    name = f"202611{day or number:02}T000000Z-{number:016x}"
    lines = [f"state {state}", f"command {command}", f"number {number}", *more]
    return "\n".join([name, *lines])


def facts(*journals: str, **files: Seen) -> Facts:
    blobs = {}
    for text in journals:
        name, _, rest = text.partition("\n")
        blobs[f"journal {name}"] = rest.encode()
    return Facts(words={"uid": "0"}, blobs=blobs, files=files, complete=True)


def numbers(found: tuple[journal.Journal, ...]) -> list[int]:
    return [each.number for each in found]


def name(number: int, day: int = 0) -> str:
    return one(number, day=day).partition("\n")[0]


@pytest.mark.parametrize(
    ("journals", "chosen"),
    [
        ([one(1), one(2)], [2]),
        ([one(2, day=1), one(1, day=2)], [2]),  # the clock of another machine was behind
        ([one(1), one(2, "begun"), one(3)], [2, 3]),
        ([one(1), one(2, "begun")], [2]),
        ([one(1), one(2, "rolled-back"), one(3, "done", "rollback", f"undoes {name(2)}")], [1]),
        # Its own state was not written any more.
        ([one(1), one(2), one(3, "done", "rollback", f"undoes {name(2)}")], [1]),
        # Interrupted: it is finished, and no more is taken back.
        ([one(1), one(2), one(3, "begun", "rollback", f"undoes {name(2)}")], [2, 3]),
        (
            [one(1), one(2), one(3, "begun", "rollback", f"undoes {name(2)}"), one(4)],
            [2, 3, 4],
        ),
        ([one(1), one(2, day=9), one(3, "done", "boot", day=9), one(4, "done", "boot", day=9)],
         [2, 3, 4]),
        ([], []),
    ],
)  # fmt: skip
def test_chosen(journals: list[str], chosen: list[int]) -> None:
    assert numbers(journal.chosen(journal.read(facts(*journals)))) == chosen


def test_since_a_date() -> None:
    found = journal.read(facts(*(one(number) for number in range(1, 6))))
    assert numbers(journal.chosen(found, "20261103")) == [3, 4, 5]
    assert numbers(journal.chosen(found, "20261103T000001Z")) == [4, 5]
    assert journal.chosen(found, "2027") == ()


def test_what_goes_away() -> None:
    found = journal.read(facts(*(one(number) for number in range(1, 8))))
    assert journal.expendable(found) == tuple(name(number) for number in (1, 2, 3))
    assert journal.expendable(found[:4]) == ()
    # The interrupted one belongs to the oldest that stays.
    begun = [one(number, "begun" if number == 3 else "done") for number in range(1, 8)]
    assert journal.expendable(journal.read(facts(*begun))) == (name(1), name(2))


PATH = "/usr/local/bin/krgadm"


def line(before: str, after: str, kept: str = "no") -> str:
    owner = "- - -" if before == "absent" else "755 0 0"
    return f"path {before} {owner} {after} {kept} {PATH}"


def file(content: bytes) -> tuple[str, Seen]:
    digest = hashlib.sha256(content).hexdigest()
    return f"file:{digest}", Seen(0o100755, len(content), digest)


def test_the_way_back() -> None:
    (old, _), (new, there), (_, other) = file(b"old"), file(b"new"), file(b"other")
    added = one(1, "done", "deploy", line("absent", new), "added /usr/local/bin")
    plan = journal.rollback(NODE, facts(added, **{PATH: there}))
    assert [(c.verb, c.place, c.keep) for c in plan.changes] == [("remove", PATH, False)]
    assert plan.emptied == ("/usr/local/bin",) and plan.closes == (name(1),)
    # Gone already: the journal is closed all the same.
    plan = journal.rollback(NODE, facts(added))
    assert plan.changes == () and not plan.empty
    changed = journal.rollback(NODE, facts(added, **{PATH: other}))
    assert "was changed since 20261101T000000Z" in changed.problems[0]
    forced = journal.rollback(NODE, facts(added, **{PATH: other}), force=frozenset(["changed"]))
    assert [(c.verb, c.keep) for c in forced.changes] == [("remove", True)]
    lost = journal.rollback(NODE, facts(one(1, "done", "deploy", line(old, new)), **{PATH: there}))
    assert lost.problems == (f"no copy of {PATH} was kept",)


def test_packages_back_and_forth() -> None:
    noted = ["kerrighed-tools - 1 amd64", "kerrighed-tools 1 2 amd64", "$(reboot) - 1 amd64"]

    def blob(*lines: str) -> Facts:
        return Facts(blobs={"packages": "\n".join(lines).encode()})

    now = "package kerrighed-tools 2 install ok installed"
    assert node_packages.undo(noted, blob(now)).purged == ("kerrighed-tools",)
    found = node_packages.undo(noted[1:], blob(now))
    assert found.problems == (
        "/var/cache/krg-provision/kerrighed-tools_1_amd64.deb is no longer there",
    )
    cached = "cached kerrighed-tools_1_amd64.deb"
    found = node_packages.undo(noted[1:], blob(now, cached, "broken xz install ok half-configured"))
    assert "--configure -a" in found.first[0]
    assert " -i /var/cache/krg-provision/kerrighed-tools_1_amd64.deb" in found.first[1]
    found = node_packages.undo(noted, blob("package kerrighed-tools 3 install ok installed"))
    assert "by somebody else" in found.problems[0]


@pytest.mark.parametrize("packaged", [False, True])
def test_no_kernel_goes_that_update_grub_made_the_default(packaged: bool) -> None:
    """As a file or with its package, it is what menu.lst boots: listed first since it came."""
    menu, kernel = "/boot/grub/menu.lst", "/boot/vmlinuz-2.6.20-krg"
    entry = "title {0}\nkernel /boot/vmlinuz-{0} root=/dev/hda1 ro\n"
    before = ("default 0\ntimeout 5\n" + entry.format("2.6.18")).encode()
    ours = (
        "### BEGIN KRG-PROVISION +0 ###\n"
        + entry.format("2.6.20-krg")
        + "### END KRG-PROVISION ###\n"
    ).encode()
    listed = before.replace(b"title", entry.format("2.6.20-krg").encode() + b"title", 1)
    lines = [f"path {file(before)[0]} 600 0 0 {file(before + ours)[0]} yes {menu}"]
    files = {}
    if packaged:
        lines.append("package linux-image-2.6.20-krg - 1 i386")
    else:
        token, files[kernel] = file(b"kernel")
        lines.append(f"path absent - - - {token} no {kernel}")
    for now, refused in ((before + ours, False), (listed + ours, True)):
        found = facts(one(1, "done", "deploy", *lines), **files, **{menu: file(now)[1]})
        installed = b"package linux-image-2.6.20-krg 1 install ok installed"
        blobs = {f"copy {name(1)} {menu}": before, "packages": installed}
        plan = journal.rollback(
            NODE,
            replace(
                found,
                words={"uid": "0", "kernel": "2.6.18"},
                texts={menu: Text(now, 0o100755, 0, 0, menu)},
                blobs={**found.blobs, **blobs},
            ),
        )
        assert [text.partition(":")[2] for text in plan.problems] == (
            [" default is an entry whose kernel would be removed: change it first"] * refused
        )
        assert plan.empty == refused


def test_a_menu_that_grub2_does_not_read_refuses_nothing() -> None:
    menu, kernel = "/boot/grub/menu.lst", "/boot/vmlinuz-2.6.20-krg"
    token, seen = file(b"kernel")
    found = facts(one(1, "done", "deploy", f"path absent - - - {token} no {kernel}"),
                  **{kernel: seen})  # fmt: skip
    said = {"uid": "0", "kernel": "2.6.18", "bootloader": "grub2", "grub2": "/boot/grub/grub.cfg"}
    texts = {menu: Text(b"# see grub.cfg\n", 0o100644, 0, 0, menu)}
    plan = journal.rollback(NODE, replace(found, words=said, texts=texts))
    assert not plan.problems and [c.place for c in plan.changes] == [kernel]
    plan = journal.rollback(
        NODE, replace(found, words={**said, "bootloader": "legacy"}, texts=texts)
    )
    assert "no entry left that boots" in plan.problems[0] or "no bootable" in plan.problems[0]


@given(st.binary(max_size=300), st.sampled_from(["state", "path", "added", "number", "undoes"]))
def test_a_journal_that_is_not_ours_is_never_obeyed(raw: bytes, word: str) -> None:
    text = b"state done\nnumber 1\n" + word.encode() + b" " + raw
    made = Facts(words={"uid": "0"}, blobs={f"journal {name(1)}": text, "packages": raw})
    for found in journal.read(made):
        assert all(each.path.startswith("/") and " " not in each.path for each in found.paths)
    journal.rollback(NODE, made)
    node_packages.read(made)


def test_a_running_kernel_is_purged_only_after_a_restart() -> None:
    noted = ["linux-image-2.6.20-krg - 1 i386"]
    there = b"package linux-image-2.6.20-krg 1 install ok installed"
    text = one(1, "done", "deploy", f"package {noted[0]}").partition("\n")[2]
    made = Facts(
        words={"uid": "0", "kernel": "2.6.20-krg"},
        blobs={f"journal {name(1)}": text.encode(), "packages": there},
        space={place: Space("/", 1 << 30) for place in ("/boot", "/etc", "/var")},
        complete=True,
    )
    node = Node("krg1", 1, "10.0.0.1")
    assert "is the kernel that runs" in " ".join(journal.rollback(node, made).problems)
    planned = rollback._planned(node, made, rollback.Wish(reboot=True))
    assert planned.state == "would change", planned.error
    # It has to be left before, and its entry with it.
    assert rollback.leaves(planned)
    assert planned.plan is not None and rollback._going(planned.plan) == {"2.6.20-krg"}
