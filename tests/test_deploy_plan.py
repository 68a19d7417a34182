# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of the plan that deploy makes for a node, from facts alone."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from plans import MENU_LST, RELEASE, elf, kernel_line, make_build, make_target, planned, some_facts

from provision import abi_note, artifacts, plan
from provision.boot_entry import MENU
from provision.build_files import build_files
from provision.deploy import make_plan
from provision.errors import InputError
from provision.facts import Seen, Space
from provision.node_packages import Package
from provision.plan import Wanted


@pytest.mark.parametrize(
    ("menu", "words", "says"),
    [
        (MENU_LST.replace(b"/dev/hda1", b"UUID=1"), {}, "needs an initrd"),
        (MENU_LST.replace(b"/dev/hda1", b"LABEL=/"), {"rootdev": "/dev/root"}, "needs an initrd"),
        (MENU_LST.replace(b"/dev/hda1", b"LABEL=/"), {"rootdev": "/dev/vda1"}, "needs an initrd"),
        (MENU_LST.replace(b"/dev/hda1", b"/dev/vg0/root"), {}, "needs an initrd"),
        (MENU_LST.replace(b"/dev/hda1", b"/dev/mapper/r"), {}, "needs an initrd"),
        (MENU_LST.replace(b"/dev/hda1", b"/dev/disk/by-uuid/x"), {}, "needs an initrd"),
        (MENU_LST.replace(b"/dev/hda1", b"PARTLABEL=x"), {}, "needs an initrd"),
        (MENU_LST.replace(b"/dev/hda1", b"ZFS=x"), {}, "needs an initrd"),
        (MENU_LST.replace(b"/dev/hda1", b"/dev/md0"), {}, "needs an initrd"),
        (MENU_LST.replace(b"/dev/hda1", b"/dev/vda1"), {}, "needs an initrd"),
        (MENU_LST.replace(b"/dev/hda1", b"/dev/mapper/r"), {"rootdev": "/dev/hda1"}, None),
        (MENU_LST.replace(b"/dev/hda1", b"/dev/cciss/c0d0p2"), {}, None),
        (MENU_LST.replace(b"/dev/hda1", b"/dev/nfs"), {}, None),
        (MENU_LST.replace(b"/dev/hda1", b"302"), {}, None),
        (MENU_LST + b" ip=10.0.0.7::", {}, None),
        (MENU_LST.rstrip() + b" ip=10.0.0.7::\n", {}, "ignores node_id=1"),
        (MENU_LST.rstrip() + b" ip=dhcp\n", {}, "ignores node_id=1"),
        (MENU_LST.rstrip() + b" ip=10.0.0.1::\n", {}, None),
        (MENU_LST.rstrip() + b" nfsaddrs=10.0.0.7::\n", {}, "ignores node_id=1"),
        (MENU_LST.rstrip() + b" nfsaddrs=10.0.0.1::\n", {}, None),
        (b"default 1\n" + MENU_LST[10:], {}, "could come to mean the new entry"),
        (b"default saved\n" + MENU_LST[10:], {"saved": "1"}, "the saved default is 1"),
        (b"default saved\n" + MENU_LST[10:], {"saved": "0"}, None),
        (MENU_LST, {"grub2": "/boot/grub/grub.cfg"}, "--no-bootloader, or --force boot-loader"),
        (MENU_LST, {"rootfs": "ext4"}, "--force root-fs"),
        (MENU_LST, {"rootfs": "btrfs"}, "its / is btrfs"),
        (MENU_LST, {"rootfs": "ext3"}, None),
        (MENU_LST, {"rootfs": "ext2"}, "its / is ext2: the kernel was built without it"),
        (b"timeout 5\n", {}, "no entry with a kernel line"),
        (MENU_LST, {"uid": "1000"}, "not root's"),
        (MENU_LST, {"machine": "i686"}, "32-bit"),
        (MENU_LST, {"machine": "i686", "cpu64": "yes"}, None),
    ],
)
def test_nodes_that_are_refused(
    tmp_path: Path, menu: bytes, words: dict[str, str], says: str | None
) -> None:
    target = make_target(tmp_path / "b", config="CONFIG_KRG_AUTONODEID=y\nCONFIG_EXT3_FS=y\n")
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
        line = f"kernel\t\t/boot/vmlinuz-{RELEASE} root={want} session_id=1 node_id=1 panic=10 ro\n"
        assert text.endswith(line.encode() + b"### END KRG-PROVISION ###\n")


@pytest.mark.parametrize(
    ("drivers", "root", "says"),
    [
        ("sd pata_via pcieport", None, "is driven by pata_via: an IDE disk is hda"),
        ("sd ata_piix", None, "--force root-disk"),
        ("sd ahci", None, None),
        ("sd ata_piix", "/dev/hda1", None),
    ],
)
def test_disk_that_has_another_name_under_this_kernel(
    tmp_path: Path, drivers: str, root: str | None, says: str | None
) -> None:
    menu = MENU_LST.replace(b"/dev/hda1", b"/dev/sda1")
    made = planned(tmp_path / "b", some_facts(menu, rootdrivers=drivers), root=root)
    if says is None:
        assert f"root={root or '/dev/sda1'} " in kernel_line(made)
    else:
        assert says in made.problems[0]
    forced = planned(tmp_path / "c", some_facts(menu, rootdrivers=drivers), "root-disk")
    assert "root=/dev/sda1 " in kernel_line(forced)


def test_disk_whose_driver_is_not_known_is_a_note(tmp_path: Path) -> None:
    menu = MENU_LST.replace(b"/dev/hda1", b"/dev/sda1")
    assert any("if it is an IDE disk" in n for n in planned(tmp_path / "b", some_facts(menu)).notes)
    assert not any("IDE" in n for n in planned(tmp_path / "c", some_facts()).notes)


@pytest.mark.parametrize(
    ("arch", "config", "init", "libc", "rule"),
    [
        ("i386", "", elf(64), None, "userland-arch"),
        ("i386", "", elf(32), None, None),
        ("i386", "", elf(32), elf(32, (2, 6, 18)), None),
        ("i386", "", elf(32), elf(32, (3, 2, 0)), "glibc"),
        # That of a foreign architecture, installed beside.
        ("i386", "", elf(32), elf(64, (3, 2, 0)), None),
        ("x86_64", "", elf(64), elf(64, (2, 6, 20)), None),
        ("x86_64", "", elf(64), elf(64, (2, 6, 32)), "glibc"),
        ("x86_64", "", elf(32), None, "userland-arch"),
        ("x86_64", "CONFIG_IA32_EMULATION=y\n", elf(32), None, None),
        ("x86_64", "", b"#!/bin/sh\n", None, None),
        ("x86_64", "", b"\x7fELF", b"", None),
    ],
)
def test_userland_that_the_kernel_cannot_run(
    tmp_path: Path, arch: str, config: str, init: bytes, libc: bytes | None, rule: str | None
) -> None:
    target = make_target(tmp_path / "b", arch=arch, config=config)
    blobs = {"init": init, **({} if libc is None else {"libc /lib/libc.so.6": libc})}
    answer = replace(some_facts(), blobs=blobs)
    node = target.cluster.nodes[0]
    made = make_plan(target, node, answer)
    assert bool(made.problems) == (rule is not None), made.problems
    if rule is None:
        return
    assert f"--force {rule})" in made.problems[0]
    assert not make_plan(replace(target, force=frozenset({rule})), node, answer).problems
    # Without a boot entry nothing boots it there: good to know, but no obstacle.
    without = make_plan(replace(target, bootloader=False), node, answer)
    assert not without.problems and any(f"--force {rule})" in note for note in without.notes)


def test_least_kernel_of_this_machines_own_c_library() -> None:
    path = next(iter(sorted(Path("/lib").glob("*/libc.so.6"))), None)
    if path is None or shutil.which("readelf") is None:
        pytest.skip("needs glibc and readelf: apt-get install binutils")
    said = subprocess.run(["readelf", "-n", str(path)], capture_output=True, text=True).stdout
    want = said.split("ABI: ")[1].split()[0]
    found = abi_note.least_kernel(path.read_bytes()[:8192])
    assert found is not None and ".".join(map(str, found)) == want


def test_ids_come_before_what_a_kernel_may_cut_off(tmp_path: Path) -> None:
    menu = MENU_LST.rstrip() + b" quiet splash vga=791\n"
    line = kernel_line(planned(tmp_path / "b", some_facts(menu), id=25))
    assert "root=/dev/hda1 session_id=1 node_id=25 panic=10 ro quiet" in line


@pytest.mark.parametrize(("length", "fits"), [(255, True), (256, False)])
def test_command_line_that_the_kernel_would_cut(tmp_path: Path, length: int, fits: bool) -> None:
    fixed = len("root=/dev/hda1 session_id=1 node_id=1 panic=10 ro ")
    menu = MENU_LST.rstrip() + b" " + b"x" * (length - fixed) + b"\n"
    made = planned(tmp_path / "b", some_facts(menu))
    if fits:
        assert len(kernel_line(made).split(" ", 1)[1]) == length
    else:
        assert "would have 256 bytes; it reads 255" in made.problems[0]


def test_arguments_that_are_for_another_kernel_are_not_taken_over(tmp_path: Path) -> None:
    menu = MENU_LST.rstrip() + b" rootfstype=ext4 rootflags=x=y init=/bin/systemd resume=/dev/x a\n"
    made = planned(tmp_path / "b", some_facts(menu))
    assert kernel_line(made).endswith(" root=/dev/hda1 session_id=1 node_id=1 panic=10 ro a")
    dropped = [n.split(" ")[0] for n in made.notes if "is not taken over" in n]
    assert dropped == ["rootfstype=ext4", "rootflags=x=y", "init=/bin/systemd", "resume=/dev/x"]
    asked = planned(tmp_path / "c", some_facts(menu), append=("rootfstype=ext3",))
    assert kernel_line(asked).endswith(" a rootfstype=ext3")


@pytest.mark.parametrize("word", ["single", "1", "S", "s", "emergency", "init=/bin/sh"])
def test_entries_for_single_user_work_are_not_copied(tmp_path: Path, word: str) -> None:
    single = b"title Single\nkernel /vmlinuz root=/dev/hdz9 ro " + word.encode() + b"\n"
    for menu in (b"default 0\n" + single + MENU_LST, b"default 1\n" + MENU_LST[10:] + single):
        made = planned(tmp_path / str(len(menu)), some_facts(menu))
        assert "root=/dev/hda1 " in kernel_line(made)


def test_entry_that_boots_by_default_is_never_touched(tmp_path: Path) -> None:
    first = planned(tmp_path / "b", some_facts())
    menu = first.changes[-1].wanted.content
    assert menu is not None
    ours = some_facts(b"default 1\n" + menu[10:])
    assert not planned(tmp_path / "c", ours).problems
    for changed in ({"append": ("noapic",)}, {"id": 2}):
        made = planned(tmp_path / str(changed), ours, **changed)
        assert "--force default-entry" in made.problems[0]
        assert not planned(tmp_path / f"{changed}f", ours, "default-entry", **changed).problems


def test_another_kernel_of_the_name_that_boots_by_default(tmp_path: Path) -> None:
    """Nothing would be left to go back to; a release of its own is put beside it."""
    menu = planned(tmp_path / "b", some_facts()).changes[-1].wanted.content
    assert menu is not None
    kernel = f"/boot/vmlinuz-{RELEASE}"
    other = Seen(0o100644, 5, "0" * 64)
    there = replace(some_facts(b"default 1\n" + menu[10:]), files={kernel: other})
    (problem,) = planned(tmp_path / "c", there).problems
    assert problem.startswith(f"{kernel}, which its default entry boots, would be replaced")
    assert "--set LOCALVERSION=" in problem and "--force default-entry" in problem
    assert not planned(tmp_path / "d", there, "default-entry").problems
    # Not the default, or nothing there yet: an ordinary change.
    assert not planned(tmp_path / "e", replace(there, texts=some_facts(menu).texts)).problems
    assert not planned(tmp_path / "f", replace(there, files={})).problems
    # Nor does dpkg write over it, once that is of another build.
    deb = Wanted("/var/cache/krg-provision/x.deb", "1" * 64, 1, 0o644)
    package = Package(f"linux-image-{RELEASE}", "2", "amd64", deb)
    for version, kernel_there, refused in (
        ("1", other, True),
        ("2", other, False),
        ("1", Seen(0o100644, 7, hashlib.sha256(b"vmlinuz").hexdigest()), False),
    ):
        said = f"package {package.name} {version} install ok installed\n"
        answer = replace(
            there,
            words={**there.words, "dpkg_architecture": "amd64"},
            files={kernel: kernel_there},
            blobs={"packages": f"{said}package kmod 1 install ok installed\n".encode()},
        )
        target = replace(make_target(tmp_path / f"{version}{refused}"), packages=(package,))
        problems = make_plan(target, target.cluster.nodes[0], answer).problems
        assert problems == ((problem,) if refused else ())


def test_notes_say_what_is_not_covered(tmp_path: Path) -> None:
    two = MENU_LST + b"title Old\nkernel /vmlinuz.old root=/dev/hda1 ro\n"
    for menu, last in ((two, False), (b"default 1\n" + two[10:], True), (MENU_LST, False)):
        made = planned(tmp_path / f"{len(menu)}{last}", some_facts(menu, node_id="1"))
        assert any("not after a hang" in note for note in made.notes)
        assert any("harms all nodes of its cluster" in note for note in made.notes)
        assert any("the last entry before the new one" in n for n in made.notes) == last


def test_menu_is_the_last_thing_written(tmp_path: Path) -> None:
    target = make_target(tmp_path / "b")
    made = make_plan(target, target.cluster.nodes[0], some_facts())
    paths = [change.place for change in made.changes]
    assert paths[-1] == MENU
    assert paths.index(f"/lib/modules/{RELEASE}/kerrighed.ko") == 0


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../etc/x", "..", "", "a\nb", "../../x"])
def test_links_that_lead_out_are_refused(tmp_path: Path, target: str) -> None:
    build = artifacts.load(make_build(tmp_path / "b"))
    for name in ("tools/bin/link", f"lib/modules/{RELEASE}/link"):
        link = artifacts.Entry("0" * 64, 1, 0o777, target)
        files = {**build.files, name: link}
        if (name, target) == ("tools/bin/link", ".."):
            continue
        with pytest.raises(InputError, match="out of its place"):
            build_files(replace(build, files=files))


@pytest.mark.parametrize(
    ("mode", "what"),
    [(0o40755, "directory"), (0o10644, "pipe, socket or device"),
     (0o20666, "pipe, socket or device"), (0o100644, None), (0o120777, None)],
)  # fmt: skip
def test_only_files_and_links_are_replaced(tmp_path: Path, mode: int, what: str | None) -> None:
    path = f"/boot/vmlinuz-{RELEASE}"
    facts = replace(some_facts(), files={path: Seen(mode, 5, "0" * 64)})
    problems = planned(tmp_path, facts).problems
    assert problems == (() if what is None else (f"{path} is a {what}",))


def test_files_below_a_link_are_refused(tmp_path: Path) -> None:
    build = artifacts.load(make_build(tmp_path / "b"))
    link = artifacts.Entry("0" * 64, 1, 0o777, "lib")
    files = {"tools/bin": link, **build.files}
    with pytest.raises(InputError, match="tools/bin/krgadm is below /usr/local/bin, which is a"):
        build_files(replace(build, files=files))


def test_strangers_files_are_named_and_kept(tmp_path: Path) -> None:
    build = make_build(tmp_path / "b")
    for number in range(20):
        (build / f"tools/bin/tool{number}").write_bytes(b"x")
    artifacts.write_manifest(
        build, {"release": "r", "arch": "x86_64", "kernel_release": RELEASE, "build_id": "b"}
    )
    target = replace(make_target(tmp_path / "c"), files=build_files(artifacts.load(build)))
    paths = [f"/usr/local/bin/tool{number}" for number in range(20)]
    files = {path: Seen(0o100755, 7, "0" * 64) for path in paths}
    made = make_plan(target, target.cluster.nodes[0], replace(some_facts(), files=files))
    text = "\n".join(text for _, text in plan.show([made]))
    for path in paths:
        assert f"replace {path} (1 bytes; the old one is kept)" in text
    assert {c.place for c in made.changes if c.backed_up} == {*paths, MENU}


@pytest.mark.parametrize(
    ("name", "hostname", "noted"),
    [
        ("krg1", "krg1", False),
        ("krg1", "krg1.example.org", False),
        ("krg1.example.org", "krg1.example.org", False),
        ("krg1", "other", True),
        ("krg1.example.org", "krg1", True),
    ],
)
def test_name_note(tmp_path: Path, name: str, hostname: str, noted: bool) -> None:
    made = planned(tmp_path / "b", some_facts(hostname=hostname), name=name)
    assert any("calls itself by another name" in note for note in made.notes) == noted


def test_odd_menu_is_no_obstacle_where_it_is_not_written(tmp_path: Path) -> None:
    target = make_target(tmp_path / "b")
    odd = replace(some_facts(), odd=(MENU,), texts={})
    node = target.cluster.nodes[0]
    assert f"{MENU} is not a plain file" in make_plan(target, node, odd).problems[0]
    assert not make_plan(replace(target, bootloader=False), node, odd).problems


def test_space_counts_every_file_system_once(tmp_path: Path) -> None:
    target = make_target(tmp_path / "b")
    full = replace(some_facts(), space={"/boot": Space("/boot", 4096), "/etc": Space("/", 1 << 30)})
    made = make_plan(target, target.cluster.nodes[0], full)
    assert [p.split(":")[0] for p in made.problems] == ["not enough space on /boot"]
