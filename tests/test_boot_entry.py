# SPDX-License-Identifier: GPL-2.0-or-later
"""Our entry in whichever boot loader a node has: facts in, files out."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_grub_legacy import ONE

from grub import grubenv
from provision import boot_entry, boot_grub2
from provision.boot_entry import Switch
from provision.cluster import Node
from provision.errors import FailedError
from provision.facts import Facts, Space, Text

CORPUS = Path(__file__).parent / "grub_corpus"
GRUB_CFG = (CORPUS / "debian12.grub.cfg").read_text()
MENU_LST = "default 0\ntimeout 5\n" + ONE
RELEASE = "2.6.20-krg-1a2b3c4d"
SECOND, THIRD = "2.6.20-krg-2", "2.6.20-krg-3"
NODE = Node("krg1", 1, "192.168.0.1")


class Place:
    """The files of a node, asked and written the way a deploy does it."""

    def __init__(self, texts: dict[str, str], **words: str) -> None:
        self.texts = {path: text.encode("latin-1") for path, text in texts.items()}
        self.words = {"rootdev": "/dev/hda1", "grubenv_storage": "plain", **words}

    @property
    def facts(self) -> Facts:
        texts = {path: Text(t, 0o600, 0, 0, path) for path, t in self.texts.items()}
        space = {"/boot": Space("/boot", 1 << 30)} if self.words.get("boot") == "separate" else {}
        return Facts(words=self.words, texts=texts, space=space, complete=True)

    def make(self, node: Node = NODE, release: str = RELEASE) -> boot_entry.Entry:
        made = boot_entry.make(
            node, self.facts, session=1, kernel_release=release, autonodeid=False
        )
        self.write(made.texts)
        return made

    def do(self, step: Callable[[Facts, str], Switch], release: str = RELEASE) -> Switch:
        made = step(self.facts, release)
        self.write(made.texts)
        return made

    def write(self, texts: tuple[boot_entry.File, ...]) -> None:
        self.texts.update({file.path: file.content for file in texts})

    @property
    def state(self) -> str:
        return boot_entry.state(self.facts, RELEASE)

    @property
    def states(self) -> list[str]:
        """Return the states of the builds RELEASE, SECOND and THIRD."""
        return [boot_entry.state(self.facts, one) for one in (RELEASE, SECOND, THIRD)]


def legacy_place(text: str = MENU_LST, **words: str) -> Place:
    return Place({"/boot/grub/menu.lst": text}, **words)


def grub2_place(text: str = GRUB_CFG, custom: str | None = None, **words: str) -> Place:
    texts = {"/boot/grub/grub.cfg": text}
    if custom is not None:
        texts["/boot/grub/custom.cfg"] = custom
    return Place(texts, grub2="/boot/grub/grub.cfg", **words)


PLACES = pytest.mark.parametrize("place", [legacy_place, grub2_place], ids=["legacy", "grub2"])


@PLACES
def test_from_nothing_to_the_default_and_back(place: Callable[[], Place]) -> None:
    node = place()
    before = dict(node.texts)
    assert node.state == "none"
    for step in (boot_entry.arm, boot_entry.commit):
        with pytest.raises(FailedError, match="no entry of ours"):
            node.do(step)
    assert node.make().refusals == ()
    assert node.state == "installed"
    installed = dict(node.texts)
    assert node.make().texts[0].content == installed[node.make().texts[0].path]
    for step, state in (
        (boot_entry.arm, "armed"),
        (boot_entry.arm, "armed"),
        (boot_entry.commit, "default"),
        (boot_entry.disarm, "installed"),
        (boot_entry.commit, "default"),
        (boot_entry.arm, "armed"),
        (boot_entry.disarm, "installed"),
    ):
        assert node.do(step).refusals == ()
        assert node.state == state
        assert node.do(step).texts == (), "done twice is done once"
        if state == "installed":
            assert {p: node.texts[p] for p in installed} == installed
    node.write(boot_entry.remove(node.facts).texts)
    assert node.state == "none"
    assert {path: node.texts[path] for path in before} == before


@PLACES
def test_a_second_build_falls_back_to_the_first(place: Callable[[], Place]) -> None:
    node = place()
    before = dict(node.texts)
    node.make()
    node.do(boot_entry.commit)
    first = dict(node.texts)
    made = node.make(release=SECOND)
    assert made.refusals == () and any(f"vmlinuz-{RELEASE}, the default" in n for n in made.notes)
    assert node.states == ["default", "installed", "none"]
    beside = dict(node.texts)
    for step, states in (
        (boot_entry.arm, ["installed", "armed", "none"]),
        (boot_entry.disarm, ["default", "installed", "none"]),
        (boot_entry.commit, ["installed", "default", "none"]),
        (boot_entry.arm, ["installed", "armed", "none"]),
        (boot_entry.commit, ["installed", "default", "none"]),
        (boot_entry.disarm, ["default", "installed", "none"]),
        (boot_entry.arm, ["installed", "armed", "none"]),
        (boot_entry.commit, ["installed", "default", "none"]),
    ):
        assert node.do(step, SECOND).refusals == ()
        assert node.states == states
        assert node.do(step, SECOND).texts == (), "done twice is done once"
        node.make(release=SECOND)
        assert node.states == states and node.do(step, SECOND).texts == ()
        if step is boot_entry.disarm:
            assert {p: node.texts[p] for p in beside} == beside
    # The next one takes the place of the oldest, and what is the default stays.
    made = node.make(release=THIRD)
    assert made.refusals == ()
    assert f"our entry for vmlinuz-{RELEASE} is taken out" in " ".join(made.notes)
    assert node.states == ["none", "default", "installed"]
    node.do(boot_entry.commit, THIRD)
    assert node.states == ["none", "installed", "default"]
    # Back to one that is still there is a deploy like any other.
    assert node.make(release=SECOND).refusals == ()
    node.do(boot_entry.arm, SECOND)
    assert node.states == ["none", "armed", "installed"]
    node.do(boot_entry.disarm, SECOND)
    assert node.states == ["none", "installed", "default"]
    # Both go: then it is another system's turn.
    node.write(boot_entry.disarm(node.facts, THIRD, leaving=(SECOND, THIRD)).texts)
    assert node.states == ["none", "installed", "installed"]
    node.write(boot_entry.remove(node.facts).texts)
    assert {path: node.texts[path] for path in before} == before and first != before


def test_a_plan_says_what_boots_in_place_of_an_entry_without_a_number() -> None:
    """As the real GRUB does it: tests/test_grub_boot.py."""
    sure = grub2_place()
    firmware = (
        "### BEGIN /etc/grub.d/30_uefi-firmware ###\n"
        'if [ "$grub_platform" = efi ]; then\n'
        "menuentry 'UEFI Firmware Settings' { fwsetup }\nfi\n"
    )
    (mark,) = (line for line in GRUB_CFG.splitlines(True) if line.startswith("if [ -f  $"))
    unsure = grub2_place(GRUB_CFG.replace(mark, firmware + mark))
    for node in (sure, unsure):
        assert not [n for n in node.make().notes if "no number" in n], "nothing of ours before it"
        node.do(boot_entry.commit)
        notes = [n for n in node.make(release=SECOND).notes if "no number" in n]
        assert len(notes) == (node is unsure)
        node.do(boot_entry.arm, SECOND)
        once = node.texts["/boot/grub/custom.cfg"].partition(b"# Once")[2]
        assert (b"set fallback='2 0'" if node is sure else b"set fallback=0\n") in once
        if node is unsure:
            assert f"if vmlinuz-{SECOND} cannot be loaded, GRUB boots 'Debian" in notes[0]
            assert f"after a panic it is vmlinuz-{RELEASE}" in notes[0]


@PLACES
def test_former_entries_come_back_into_changed_files(place: Callable[[], Place]) -> None:
    node = place()
    node.make()
    node.do(boot_entry.commit)
    former = dict(node.texts)
    node.make(release=SECOND)
    node.do(boot_entry.commit, SECOND)
    # Somebody's line in the file that has our entries.
    (path,) = (name for name in node.texts if name.endswith(("menu.lst", "custom.cfg")))
    node.texts[path] = b"# mine\n" + node.texts[path]
    node.write(boot_entry.bring_back(node.facts, former, NODE).texts)
    assert node.states == ["default", "none", "none"]
    assert node.texts[path] == b"# mine\n" + former[path].replace(
        b"saved default was not there", b"saved default was 0"
    )
    node.write(boot_entry.bring_back(node.facts, {}, NODE).texts)
    assert node.state == "none"


@PLACES
def test_the_default_itself_does_not_change(place: Callable[[], Place]) -> None:
    node = place()
    node.make()
    node.do(boot_entry.commit)
    node.make(release=SECOND)
    other = replace(NODE, append=("noapic",))
    assert node.make(other, SECOND).refusals == ()
    made = boot_entry.make(other, node.facts, session=1, kernel_release=RELEASE, autonodeid=False)
    assert [refusal.rule for refusal in made.refusals] == ["default-entry"]
    assert "another kernel release" in str(made.refusals[0])


@pytest.mark.parametrize("kind", ["plain", "lvm", "raid", "btrfs", "zfs", "unknown", None])
def test_storage_that_grub_cannot_write(kind: str | None) -> None:
    new, old = grub2_place(), legacy_place()
    for node in (new, old):
        node.make()
        node.words.pop("grubenv_storage")
        if kind is not None:
            node.words["grubenv_storage"] = kind
    refused = [r.rule for r in new.do(boot_entry.arm).refusals]
    assert refused == ([] if kind == "plain" else ["grubenv"])
    refused = [r.rule for r in old.do(boot_entry.arm).refusals]
    assert refused == ([] if kind in ("plain", "unknown", None) else ["grubenv"])


def test_which_loader() -> None:
    both = {"/boot/grub/menu.lst": MENU_LST, "/boot/grub/grub.cfg": GRUB_CFG}
    node = Place(both, grub2="/boot/grub/grub.cfg")
    assert boot_entry.loader(node.facts) == "unknown"
    assert [r.rule for r in node.make().refusals] == ["boot-loader"]
    for word, path in (("legacy", "menu.lst"), ("grub2", "custom.cfg")):
        node = Place(both, grub2="/boot/grub/grub.cfg", bootloader=word)
        made = node.make()
        assert [file.path for file in made.texts] == [f"/boot/grub/{path}"]
        assert made.refusals == ()
        assert boot_entry.loader(Place({}, bootloader=word).facts, "none") == "none"


@pytest.mark.skipif(
    shutil.which("grub-editenv") is None, reason="needs grub-editenv: apt-get install grub-common"
)
def test_grub_editenv_reads_what_is_armed(tmp_path: Path) -> None:
    node = grub2_place()
    node.texts["/boot/grub/grubenv"] = grubenv.write(grubenv.empty(), "saved_entry", "0").encode()
    node.make()
    node.do(boot_entry.arm)
    path = tmp_path / "grubenv"
    path.write_bytes(node.texts["/boot/grub/grubenv"])
    done = subprocess.run(["grub-editenv", path, "list"], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["saved_entry=0", "krg_trial=1"]


@pytest.mark.parametrize(("release", "first"), [("2.6.18-6-686", True), ("2.6.26-2-686", False)])
def test_update_grub_would_list_ours_first(release: str, first: bool) -> None:
    text = (CORPUS / "debian-etch.menu.lst").read_text().replace("2.6.18-6-686", release)
    notes = legacy_place(text).make().notes
    assert any("lists 2.6.20" in note for note in notes) == first


@pytest.mark.parametrize(
    ("release", "first"), [("2.6.18-6-686", True), ("2.6.32-5-686", False), (RELEASE, False)]
)
def test_update_grub_would_list_ours_first_in_grub_cfg(release: str, first: bool) -> None:
    text = (CORPUS / "squeeze-1.98.grub.cfg").read_text().replace("2.6.32-5-686", release)
    # It has listed ours already, beside another.
    if release == RELEASE:
        text += text[text.index("menuentry") :].replace(RELEASE, "2.6.26-2-686")
    notes = grub2_place(text).make().notes
    assert any("lists 2.6.20" in note for note in notes) == first


@pytest.mark.parametrize("default", ["0", "1"])
def test_a_kernel_that_grub_cfg_boots_is_not_taken_away(default: str) -> None:
    """update-grub was run meanwhile, and put ours above the older one."""
    text = (CORPUS / "squeeze-1.98.grub.cfg").read_text()
    start, end = text.index("menuentry"), text.index("if [ -f  $prefix/custom.cfg")
    newer = text[start : text.index("menuentry", start + 1)].replace("2.6.32-5-686", RELEASE)
    text = text[:start] + newer + text[start:end] + text[end:]
    node = grub2_place(text.replace('set default="0"', f'set default="{default}"'))
    before = node.make()
    assert before.refusals == ()
    gone = boot_grub2.unbootable(node.facts, frozenset({f"vmlinuz-{RELEASE}"}))
    said = list(gone)
    assert len(said) == (default == "0")
    assert all("default entry starts vmlinuz-2.6.20" in line for line in said)
    assert not list(boot_grub2.unbootable(node.facts, frozenset({"vmlinuz-2.6.26"})))
    node.texts["/boot/grub/grub.cfg"] = b"menuentry {"
    assert not list(boot_grub2.unbootable(node.facts, frozenset({f"vmlinuz-{RELEASE}"})))
