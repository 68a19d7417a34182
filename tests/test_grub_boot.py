# SPDX-License-Identifier: GPL-2.0-or-later
"""Trying an entry once, on the real GRUB Legacy and the real GRUB 2, in QEMU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grub_boot
import pytest
from grub_boot import Machine
from test_boot_entry import NODE, RELEASE, SECOND, Place, grub2_place, legacy_place

from grub import grub2 as grub2_reader
from grub import grubenv
from provision import boot_entry
from provision.boot_entry import Switch
from provision.facts import Facts

KERNEL = f"/boot/vmlinuz-{RELEASE}"
MENU = """\
default 0
timeout 1
title Debian
root (hd0,0)
kernel /boot/vmlinuz-good root=/dev/hda1 ro good
title Debian (single-user mode)
root (hd0,0)
kernel /boot/vmlinuz-good root=/dev/hda1 ro single
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


Step = Callable[[Facts, str], Switch]


def files(node: Place) -> dict[str, bytes | None]:
    return {**node.texts, "/boot/vmlinuz-good": None, KERNEL: None}


def which(said: list[str]) -> list[str]:
    """Return who each of the kernels was, by its command line."""
    return ["ours" if "node_id=1" in line else line.split()[-1] for line in said]


def do(node: Place, machine: Machine, step: Step) -> None:
    """Do a step with what is on the disk now, and write what comes out."""
    for path in node.texts:
        node.texts[path] = machine.read(path)
    for file in node.do(step).texts:
        machine.write(file.path, file.content)


def test_legacy(tmp_path: Path, packages: Path) -> None:
    node = legacy_place(MENU)
    node.make()
    node.do(boot_entry.arm)
    package = grub_boot.unpacked("grub-legacy", packages)
    machine = grub_boot.legacy(tmp_path, package, files(node))
    assert which(machine.boots(3)) == ["ours", "good", "good"]
    assert machine.read("/boot/grub/default")[:2] == b"0\0"


def two_builds(node: Place) -> None:
    """Have a build as the default, and a second one armed beside it."""
    node.make(replace(NODE, append=("first",)))
    node.do(boot_entry.commit)
    node.make(replace(NODE, append=("second",), drop=("first",)), SECOND)
    node.do(boot_entry.arm, SECOND)


def tried_and_kept(node: Place, machine: Machine) -> None:
    """The second is booted once, then the first; without the second's kernel the first, too."""
    assert said(machine.boots(3)) == ["second", "first", "first"]
    do(node, machine, lambda facts, _: boot_entry.commit(facts, SECOND))
    machine.remove(f"/boot/vmlinuz-{SECOND}")
    assert said(machine.boots(1)) == ["first"]


def said(lines: list[str]) -> list[str]:
    return [line.split()[-1] for line in lines]


@pytest.mark.slow
def test_legacy_with_two_builds(tmp_path: Path, packages: Path) -> None:
    node = legacy_place(MENU)
    two_builds(node)
    package = grub_boot.unpacked("grub-legacy", packages)
    kernels = {f"/boot/vmlinuz-{SECOND}": None}
    tried_and_kept(node, grub_boot.legacy(tmp_path, package, {**files(node), **kernels}))


@pytest.mark.slow
def test_legacy_with_carriage_returns(tmp_path: Path, packages: Path) -> None:
    """And with nothing but a timeout above the entries: both lines are added."""
    text = MENU.replace("default 0\n", "").replace("\n", "\r\n")
    node = legacy_place(text)
    node.make()
    node.do(boot_entry.arm)
    package = grub_boot.unpacked("grub-legacy", packages)
    machine = grub_boot.legacy(tmp_path, package, files(node))
    assert which(machine.boots(2)) == ["ours", "good"]
    do(node, machine, boot_entry.commit)
    assert which(machine.boots(2)) == ["ours", "ours"]
    do(node, machine, lambda facts, _: boot_entry.remove(facts))
    assert node.texts["/boot/grub/menu.lst"] == text.encode()


@pytest.mark.slow
def test_legacy_kernel_that_cannot_be_loaded(tmp_path: Path, packages: Path) -> None:
    node = legacy_place(MENU.replace("default 0", "default saved"))
    node.make()
    package = grub_boot.unpacked("grub-legacy", packages)
    node.do(boot_entry.commit)
    machine = grub_boot.legacy(tmp_path, package, files(node))
    assert which(machine.boots(1)) == ["ours"]
    machine.remove(KERNEL)
    assert which(machine.boots(2)) == ["good", "good"]
    do(node, machine, boot_entry.arm)
    assert which(machine.boots(2)) == ["good", "good"]
    do(node, machine, boot_entry.disarm)
    assert node.texts["/boot/grub/menu.lst"].startswith(b"default saved\n")
    assert which(machine.boots(1)) == ["good"]


CFG = """\
if [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="0"
fi
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option
set timeout=1
menuentry 'Debian' $menuentry_id_option 'good' {
	insmod ext2
	set root='hd0,msdos1'
	linux	/boot/vmlinuz-good root=/dev/hda1 ro good
}
submenu 'More' {
	menuentry 'Debian (recovery mode)' {
		linux	/boot/vmlinuz-good root=/dev/hda1 ro single
	}
}
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
"""


@pytest.fixture
def grub2(tmp_path: Path, packages: Path) -> tuple[Place, Machine]:
    node = grub2_place(CFG)
    node.make()
    node.do(boot_entry.arm)
    package = grub_boot.unpacked("grub-pc-bin", packages)
    return node, grub_boot.grub2(tmp_path, package, files(node))


def test_grub2(grub2: tuple[Place, Machine]) -> None:
    _, machine = grub2
    assert which(machine.boots(3)) == ["ours", "good", "good"]
    assert b"krg_trial=\n" in machine.read("/boot/grub/grubenv")


@pytest.mark.slow
def test_grub2_with_two_builds(tmp_path: Path, packages: Path) -> None:
    node = grub2_place(CFG)
    two_builds(node)
    package = grub_boot.unpacked("grub-pc-bin", packages)
    kernels = {f"/boot/vmlinuz-{SECOND}": None}
    tried_and_kept(node, grub_boot.grub2(tmp_path, package, {**files(node), **kernels}))


@pytest.mark.slow
def test_grub2_kernel_that_cannot_be_loaded(grub2: tuple[Place, Machine]) -> None:
    node, machine = grub2
    machine.remove(KERNEL)
    assert which(machine.boots(2)) == ["good", "good"]
    do(node, machine, boot_entry.commit)
    assert which(machine.boots(2)) == ["good", "good"]


@pytest.mark.slow
def test_grub2_that_cannot_write_tries_nothing(grub2: tuple[Place, Machine]) -> None:
    """Where grub-reboot's own variable has the same kernel tried again and again."""
    _, machine = grub2
    assert which(machine.boots(2, writable=False)) == ["good", "good"]
    env = grubenv.write(grubenv.empty(), "next_entry", "krg-provision")
    machine.write("/boot/grub/grubenv", env.encode())
    assert which(machine.boots(3, writable=False)) == ["ours", "ours", "ours"]


@pytest.mark.slow
def test_grub_reboot_to_another_entry_still_works(grub2: tuple[Place, Machine]) -> None:
    node, machine = grub2
    do(node, machine, boot_entry.commit)
    env = grubenv.write(grubenv.empty(), "next_entry", "good")
    machine.write("/boot/grub/grubenv", env.encode())
    assert which(machine.boots(2)) == ["good", "ours"]
    do(node, machine, boot_entry.disarm)
    assert which(machine.boots(1)) == ["good"]


@pytest.mark.slow
def test_grub2_as_it_was_before_ids(tmp_path: Path, packages: Path) -> None:
    """A grub.cfg of 1.98 or 1.99: titles only, prev_saved_entry, no feature variables."""
    start = CFG.index('if [ x"${feature_menuentry_id}" = xy ]')
    stop = CFG.index("set timeout")
    text = (CFG[:start] + CFG[stop:]).replace(" $menuentry_id_option 'good'", "")
    text = text.replace("next_entry", "prev_saved_entry")
    node = grub2_place(text)
    node.make()
    assert b"menuentry_id_option" not in node.texts["/boot/grub/custom.cfg"]
    node.do(boot_entry.arm)
    package = grub_boot.unpacked("grub-pc-bin", packages)
    machine = grub_boot.grub2(tmp_path, package, files(node))
    assert which(machine.boots(2)) == ["ours", "good"]
    do(node, machine, boot_entry.commit)
    assert which(machine.boots(2)) == ["ours", "ours"]


_MANY = """\
menuentry 'First' --class x --id one { linux /boot/vmlinuz-good root=/dev/hda1 first; }
submenu "More" --id more {
  menuentry Third\\ one $none { linux /boot/vmlinuz-good root=/dev/hda1 third
  }
  submenu 'Deep > down' {
    menuentry 'It''s "fourth"' --id=four { linux /boot/vmlinuz-good \\
      root=/dev/hda1 fourth
    }
  }
}
if [ a = b ]; then menuentry 'Not there' { linux /boot/vmlinuz-good root=/dev/hda1 never; }; fi
"""


@pytest.mark.slow
def test_grub2_defaults_mean_what_we_read(tmp_path: Path, packages: Path) -> None:
    """Numbers, ids, titles and paths of them: GRUB boots the entries that grub2.find names."""
    config = grub2_reader.read(_MANY)
    values = ["0", "one", "First", "1>0", "More>Third one", "more>1>0", "1>Deep >> down>four"]
    lines = ["load_env"]
    for number, value in enumerate(values):
        now = str(number) if number else ""
        lines += [
            f'if [ "${{count}}" = "{now}" ]; then',
            f"  set default='{value}'",
            f"  set next={number + 1}",
            "fi",
        ]
    lines += ["set count=$next", "save_env count", "set timeout=0", _MANY]
    package = grub_boot.unpacked("grub-pc-bin", packages)
    texts: dict[str, bytes | None] = {
        "/boot/grub/grub.cfg": "\n".join(lines).encode(),
        "/boot/grub/grubenv": grubenv.empty().encode(),
        "/boot/vmlinuz-good": None,
    }
    machine = grub_boot.grub2(tmp_path, package, texts)
    found = [grub2_reader.find(config.entries, value) for value in values]
    kernels = [entry.kernel for entry in found if entry is not None]
    want = [kernel.arguments[-1] for kernel in kernels if kernel is not None]
    assert which(machine.boots(len(values))) == want
    assert want == ["first"] * 3 + ["third"] * 2 + ["fourth"] * 2
