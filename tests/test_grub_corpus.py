# SPDX-License-Identifier: GPL-2.0-or-later
"""Shapes of menu.lst and grub.cfg as they occur, one a file in grub_corpus/.

``refused-*`` take no entry at all, ``unarmed-*`` take one that cannot be tried; all others go
through everything. GRUB's own checkers judge every text that comes out.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_boot_entry import CORPUS, GRUB_CFG, RELEASE, SECOND, Place, grub2_place, legacy_place
from test_grub_legacy import oracle
from test_grub_trial import Disk

from grub import custom_cfg, grub2, grubenv, legacy, legacy_put, legacy_trial, script
from provision import boot_entry
from provision.errors import FailedError

FILES = sorted(path.name for path in CORPUS.iterdir())
STEPS = (boot_entry.arm, boot_entry.commit, boot_entry.disarm)
needs_grub = pytest.mark.skipif(
    shutil.which("grub-script-check") is None or shutil.which("grub-menulst2cfg") is None,
    reason="needs grub-script-check and grub-menulst2cfg: apt-get install grub-common",
)


def place(name: str) -> Place:
    text = (CORPUS / name).read_bytes().decode("latin-1")
    make = legacy_place if name.endswith(".menu.lst") else grub2_place
    return make(text, boot="separate") if "separate" in name else make(text)


def check_with_grub(node: Place, directory: Path) -> None:
    """Have GRUB's programs read what was written; our kernel line must be what they see."""
    menu = node.texts.get("/boot/grub/menu.lst")
    if menu is not None:
        text = menu.decode("latin-1")
        found = oracle(text, directory)
        assert [path for _, (path, *_) in found if path.endswith(f"/vmlinuz-{RELEASE}")]
        mine = [(e.title, e.kernel) for e in legacy.entries(text) if e.ours]
        lines = [(title, [k.path, *k.arguments]) for title, k in mine if k is not None]
        assert found[-len(mine) :] == lines
        # grub-menulst2cfg makes wrong scripts of some commands (hiddenmenu, color).
        if accepted(
            converted(legacy_put.remove(legacy_trial.disarm(text).text), directory), directory
        ):
            assert accepted(converted(text, directory), directory)
    else:
        assert accepted(node.texts["/boot/grub/custom.cfg"], directory)


def converted(text: str, directory: Path) -> bytes:
    path = directory / "menu.lst"
    path.write_bytes(text.encode("latin-1"))
    done = subprocess.run(["grub-menulst2cfg", path], capture_output=True, check=True)
    return done.stdout


def accepted(text: bytes, directory: Path) -> bool:
    path = directory / "script.cfg"
    path.write_bytes(text)
    return subprocess.run(["grub-script-check", path], capture_output=True).returncode == 0


def starts_by_itself(node: Place) -> None:
    """Tell that what boots if ours does not is an entry that starts Linux."""
    if "/boot/grub/menu.lst" in node.texts:
        text = node.texts["/boot/grub/menu.lst"].decode("latin-1")
        saved = legacy.saved_index(node.texts.get("/boot/grub/default", b"").decode("latin-1"))
        menu = legacy.entries(text)
        if menu[legacy.default_index(text, saved)].ours:
            *former, good = legacy.numbers(text, saved).fallback
            assert menu[good].usable and not menu[good].ours
            assert all(menu[number].ours for number in former)
    else:
        custom = node.texts["/boot/grub/custom.cfg"].decode("latin-1")
        config = grub2.read(node.texts["/boot/grub/grub.cfg"].decode("latin-1"))
        for number in re.findall(r"set fallback='?(?:\d+ )?(\d+)'?\n", custom):
            good = grub2.find(config.entries, number)
            assert good is not None and grub2.usable(good, config)


@needs_grub
@pytest.mark.parametrize("name", [n for n in FILES if not n.startswith(("refused", "unarmed"))])
def test_all_the_way(name: str, tmp_path: Path) -> None:
    node = place(name)
    before = dict(node.texts)
    node.make()
    installed = dict(node.texts)
    node.make()
    assert node.texts == installed, "put twice is put once"
    check_with_grub(node, tmp_path)
    starts = node.state
    assert starts == "installed"
    for first in STEPS:
        for second in STEPS:
            for step in dict.fromkeys((first, second)):
                node.do(step)
                starts_by_itself(node)
                if first == second:
                    check_with_grub(node, tmp_path)
                assert node.do(step).texts == ()
                node.make()
                assert node.do(step).texts == (), "put keeps what was switched"
    node.do(boot_entry.disarm)
    assert {path: node.texts[path] for path in installed} == installed
    node.do(boot_entry.commit)
    node.write(boot_entry.remove(node.facts).texts)
    assert {path: node.texts[path] for path in before} == before
    assert node.texts.get("/boot/grub/custom.cfg", b"") == b""


def holds(condition: tuple[script.Statement, ...], env: dict[str, str]) -> bool:
    """Tell what a condition of ours comes to: a comparison, or that the environment is written."""
    (command,) = script.commands(condition)
    if command.name == "save_env":
        return True
    left, how, right = command.arguments[:3]
    return (env.get(left[2:-1], "") == right) == (how == "=")


def run(statements: tuple[script.Statement, ...], env: dict[str, str]) -> None:
    """Do what GRUB does with the lines of ours in custom.cfg."""
    for one in statements:
        if isinstance(one, script.Choice):
            if holds(one.parts[0], env):
                run(one.parts[1], env)
        elif one.name == "set":
            name, _, value = one.arguments[0].partition("=")
            env[name] = value


def boots(node: Place) -> tuple[str, list[str]]:
    """Boot as GRUB does; return which kernel, and those to fall back to where ours are known."""
    if "/boot/grub/menu.lst" in node.texts:
        stored = node.texts.get("/boot/grub/default", b"")
        text = node.texts["/boot/grub/menu.lst"].decode("latin-1")
        disk = Disk(text, legacy.saved_index(stored.decode("latin-1")))
        menu, used = legacy.entries(text), legacy.numbers(text, disk.saved)
        number = disk.boot()
        assert number is not None
        if used.is_saved and disk.saved is not None:
            node.texts["/boot/grub/default"] = b"%d\0" % disk.saved
        return menu[number].file or "", [menu[n].file or "" for n in used.fallback]
    custom = node.texts["/boot/grub/custom.cfg"].decode("latin-1")
    config = grub2.read(node.texts["/boot/grub/grub.cfg"].decode("latin-1"))
    stored = node.texts.get("/boot/grub/grubenv", grubenv.empty().encode())
    saved = grubenv.read(stored.decode("latin-1"))
    env = {"default": grub2.default_value(config, None, saved), "fallback": "", **saved}
    run(script.parse(custom), env)
    if env.get("krg_trial") != saved.get("krg_trial"):
        made = grubenv.write(stored.decode("latin-1"), "krg_trial", env["krg_trial"])
        node.texts["/boot/grub/grubenv"] = made.encode("latin-1")
    own = grub2.read(custom).entries
    menu2 = [e for e in config.entries if e.top][: config.custom] + list(own)
    found = grub2.find(own, env["default"]) or grub2.find(config.entries, env["default"])
    back = [menu2[int(number)] for number in env["fallback"].split()]
    return file_of(found), [file_of(one) for one in back]


def file_of(entry: grub2.Entry | None) -> str:
    return "" if entry is None or entry.kernel is None else entry.kernel.path.rpartition("/")[2]


@needs_grub
@pytest.mark.parametrize("name", [n for n in FILES if not n.startswith(("refused", "unarmed"))])
def test_two_builds(name: str, tmp_path: Path) -> None:
    """The second is tried, and falls back to the first; kept, and taken back: the first again."""
    node = place(name)
    before = dict(node.texts)
    first, second = f"vmlinuz-{RELEASE}", f"vmlinuz-{SECOND}"
    node.make()
    node.do(boot_entry.commit)
    assert boots(node)[0] == first
    node.make(release=SECOND)
    beside = dict(node.texts)
    assert boots(node)[0] == first and node.texts == beside
    node.do(boot_entry.arm, SECOND)
    starts_by_itself(node)
    check_with_grub(node, tmp_path)
    booted, back = boots(node)
    assert booted == second
    # GRUB 2 takes a number only, and what stands in an if may be there or not.
    unsure = name == "debian12-efi-entry.grub.cfg"
    assert back[:-1] == ([] if unsure else [first]) and back[-1] not in ("", first, second)
    assert [boots(node)[0], boots(node)[0]] == [first, first]
    node.do(boot_entry.commit, SECOND)
    starts_by_itself(node)
    assert [boots(node)[0], boots(node)[0]] == [second, second]
    assert boots(node)[1][:-1] == ([] if unsure else [first])
    node.do(boot_entry.disarm, SECOND)
    assert boots(node)[0] == first
    assert {path: node.texts[path] for path in beside if "default" not in path} == {
        path: text for path, text in beside.items() if "default" not in path
    }
    node.write(boot_entry.remove(node.facts).texts)
    left = {path: node.texts[path] for path in before}
    assert left == before and node.texts.get("/boot/grub/custom.cfg", b"") == b""


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("unarmed")])
def test_cannot_be_tried(name: str) -> None:
    node = place(name)
    node.make()
    installed = dict(node.texts)
    for step in (boot_entry.arm, boot_entry.commit):
        with pytest.raises(FailedError):
            node.do(step)
    node.do(boot_entry.disarm)
    assert node.texts == installed


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("refused")])
def test_refused(name: str) -> None:
    with pytest.raises(FailedError) as found:
        place(name).make()
    assert "\n" not in found.value.message and found.value.hint


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("debian-etch.menu.lst", "/boot/vmlinuz-R root=/dev/hda1 OURS ro"),
        ("debian-separate-boot.menu.lst", "/vmlinuz-R root=/dev/hda1 OURS ro"),
        ("debian12-separate-boot.grub.cfg", "/vmlinuz-R root=/dev/hda1 OURS ro quiet"),
        ("debian-lvm-root.menu.lst", "/boot/vmlinuz-R root=/dev/hda1 OURS ro"),
        ("redhat-el4.menu.lst", "/boot/vmlinuz-R ro root=/dev/hda1 OURS rhgb quiet"),
        ("mandriva-2008.menu.lst", "(hd0,0)/boot/vmlinuz-R BOOT_IMAGE=linux root=/dev/hda1 OURS"
         " splash=silent vga=788"),
        ("debian12.grub.cfg", "/boot/vmlinuz-R root=/dev/hda1 OURS ro quiet"),
        ("debian12-btrfs.grub.cfg", "/@rootfs/boot/vmlinuz-R root=/dev/hda1 OURS ro quiet"),
        ("debian12-default-in-submenu.grub.cfg", "/boot/vmlinuz-R root=/dev/hda1 OURS ro sub"),
        ("debian12-quotes.grub.cfg",
         "/boot/vmlinuz-R root=/dev/hda1 OURS ro quiet net.ifnames=0"),
        ("squeeze-1.98.grub.cfg", "/boot/vmlinuz-R root=/dev/hda1 OURS ro quiet"),
    ],
)  # fmt: skip
def test_the_kernel_line(name: str, line: str) -> None:
    node = place(name)
    made = node.make().texts[0].content.decode("latin-1")
    want = line.replace("R", RELEASE, 1).replace("OURS", "session_id=1 node_id=1 panic=10")
    assert want in [re.sub(r"^\s*\S+\s+", "", text) for text in made.splitlines()]


# --- grub.cfg and custom.cfg -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("debian12.grub.cfg", ["0 Debian GNU/Linux (gnulinux-simple-1)",
                               "1 Advanced options for Debian GNU/Linux (gnulinux-advanced-1)",
                               "1>0 Debian GNU/Linux, with Linux 6.1 (recovery mode) (r)"]),
        ("squeeze-1.98-double-quotes.grub.cfg",
         ["0 Debian GNU/Linux, with Linux 2.6.32-5-686 (None)",
          "1 Debian GNU/Linux, with Linux 2.6.32-5-686 (recovery mode) (None)"]),
        ("by-hand.grub.cfg", ["0 Linux (None)"]),
    ],
)  # fmt: skip
def test_entries_of_grub_cfg(name: str, entries: list[str]) -> None:
    config = grub2.read((CORPUS / name).read_text("latin-1"))
    assert [f"{e.number} {e.title} ({e.id})" for e in config.entries] == entries


def test_entries_in_an_if_are_unsure() -> None:
    config = grub2.read((CORPUS / "debian12-efi-entry.grub.cfg").read_text())
    assert [e.sure for e in config.entries] == [True, True, True, False]
    assert config.custom == 2


def test_recordfail_waits_for_a_key() -> None:
    node = place("precise-1.99-recordfail.grub.cfg")
    env = grubenv.write(grubenv.empty(), "recordfail", "1")
    node.texts["/boot/grub/grubenv"] = env.encode()
    node.make()
    with pytest.raises(FailedError, match="GRUB_RECORDFAIL_TIMEOUT"):
        node.do(boot_entry.arm)


OTHERS = st.lists(
    st.sampled_from(
        ["set timeout=3\n", "# a comment\n", "menuentry 'Mine' { linux /x root=/dev/sda1 ro\n}\n",
         "\n", "set default=1\n", "echo x \\\n", "if [ a = a ]; then\n set x=1\nfi\n",
         "submenu More {\n}\n", "true; true\n", "set color='a\nb'\n"]
    ), max_size=6
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(OTHERS, st.booleans(), st.lists(st.sampled_from(range(4)), max_size=6))
def test_custom_cfg_of_others_stays(lines: list[str], cut: bool, steps: list[int]) -> None:
    text = "".join(lines)
    text = text[:-1] if cut else text
    node = grub2_place(GRUB_CFG, custom=text)
    try:
        node.make()
    except FailedError:
        return
    installed = dict(node.texts)
    for step in steps:
        if step == 3:
            node.make()
        else:
            node.do(STEPS[step])
        done = node.texts["/boot/grub/custom.cfg"].decode()
        assert custom_cfg.others(done) == text
        assert done.startswith(text)
        starts_by_itself(node)
    node.do(boot_entry.disarm)
    assert node.texts["/boot/grub/custom.cfg"] == installed["/boot/grub/custom.cfg"]
    assert node.state == "installed"
    node.write(boot_entry.remove(node.facts).texts)
    assert node.texts["/boot/grub/custom.cfg"].decode() == text


@given(st.text(st.characters(max_codepoint=255), max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (grub2.read, script.parse, custom_cfg.ours, grubenv.read):
        try:
            read(text)
        except (legacy.MenuError, grubenv.EnvError):
            continue


@pytest.mark.skipif(
    shutil.which("grub-editenv") is None, reason="needs grub-editenv: apt-get install grub-common"
)
def test_grubenv_is_what_grub_editenv_writes(tmp_path: Path) -> None:
    path = tmp_path / "grubenv"
    path.write_text(grubenv.empty())
    mine = grubenv.empty()
    for name, value in (
        ("saved_entry", "0"), ("next_entry", "a>b c"), ("saved_entry", "Debian, with Linux 6.1"),
        ("x", "back\\slash"), ("next_entry", ""), ("y", "two\nlines"), ("next_entry", None),
        ("saved_entry", "1"), ("z", "#"), ("x", None), ("big", "v" * 600), ("big", "w"),
    ):  # fmt: skip
        change = ["unset", name] if value is None else ["set", f"{name}={value}"]
        subprocess.run(["grub-editenv", path, *change], check=True)
        mine = grubenv.write(mine, name, value)
        assert path.read_text() == mine
    with pytest.raises(grubenv.EnvError, match="full"):
        grubenv.write(mine, "big", "v" * 1000)
    made = subprocess.run(["grub-editenv", path, "create"], check=True)
    assert made.returncode == 0 and grubenv.read(path.read_text()) == {}
