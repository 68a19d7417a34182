# SPDX-License-Identifier: GPL-2.0-or-later
"""What deploy decides and says without a node: bad input, plans, scripts."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from provision import abi_note, artifacts, facts, plan, status
from provision import deploy as deployment
from provision.boot_entry import MENU
from provision.build_files import build_files
from provision.cluster import Cluster, Node
from provision.deploy import Target, make_plan
from provision.errors import InputError
from provision.facts import Facts, Seen, Space, Text
from provision.fleet import fleet
from provision.node_packages import Package
from provision.plan import Wanted

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


def make_target(
    directory: Path, *, arch: str = "x86_64", config: str = "CONFIG_KRG_AUTONODEID=y\n"
) -> Target:
    build = artifacts.load(make_build(directory, arch=arch))
    cluster = Cluster(1, 1, (Node("krg1", 1, "10.0.0.1"),))
    return Target(cluster, build, build_files(build), config)


def some_facts(menu: bytes = MENU_LST, **words: str) -> Facts:
    places = ("/boot", "/lib/modules", "/usr/local", "/etc", "/var")
    return Facts(
        words={"uid": "0", "machine": "x86_64", "hostname": "krg1", **words},
        linked=("/etc/rc2.d/S20kerrighed",),
        space={place: Space("/", 1 << 30) for place in places},
        texts={MENU: Text(menu, 0o600, 0, 0, MENU)},
        complete=True,
    )


def planned(directory: Path, facts: Facts, *force: str, **node: object) -> plan.Plan:
    """Return the plan of one node for a small build, made in ``directory``."""
    target = replace(make_target(directory), force=frozenset(force))
    return make_plan(target, replace(target.cluster.nodes[0], **node), facts)


def kernel_line(made: plan.Plan) -> str:
    """Return the kernel line of the entry that a plan writes."""
    assert not made.problems, made.problems
    text = made.changes[-1].wanted.content
    assert text is not None
    (line,) = (x for x in text.decode("latin-1").split("\n") if f"vmlinuz-{RELEASE}" in x)
    return line


def elf(bits: int, least: tuple[int, int, int] | None = None) -> bytes:
    """Return the first bytes of a program: its class, and a note of the least kernel."""
    # A header, one program header behind it, and the note that it leads to.
    start = {32: 52 + 32, 64: 64 + 56}[bits]
    note = b""
    if least is not None:
        note = struct.pack("<3I4s4I", 4, 16, 1, b"GNU\0", 0, *least)
    head = b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9)
    if bits == 32:
        head += struct.pack("<HHIIIIIHHHHHH", 3, 3, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        head += struct.pack("<8I", 4, start, start, start, len(note), len(note), 4, 4)
    else:
        head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        head += struct.pack("<2I6Q", 4, 4, start, start, start, len(note), len(note), 4)
    return head + note


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
    for release in ("../../etc", "a b", "", "-x", 7, None, ["x"]):
        with pytest.raises(InputError, match="is not a kernel release"):
            build_files(replace(build, kernel_release=release))  # type: ignore[arg-type]


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


def test_one_nodes_bug_is_its_own_failure() -> None:
    nodes = [Node(f"n{number}", number, "127.0.0.1") for number in (1, 2, 3)]

    def work(node: Node) -> int:
        if node.id == 2:
            raise RuntimeError("a bug")
        return node.id

    with fleet(nodes, 2) as among:
        found = {node.name: answer for node, answer in among.each(nodes, work)}
    assert (found["n1"], found["n3"]) == (1, 3)
    assert "unexpected error: RuntimeError: a bug" in str(found["n2"])
    with fleet(nodes, 2, debug=True) as among, pytest.raises(RuntimeError, match="a bug"):
        list(among.each(nodes, work))


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
        b"uid 0\nstat zzzz 1 0 0 /a\nstat 81a4 5 0 0 /b\n" + b"a" * 64 + b"  /b\ndf /boot x\n"
        b"stat 81a4 5 0 0 /t\ntext /t /t\nuid 7\nkrg-mark\nend\nkrg-mark\n"
        b"link /b /c\nunknown line\n\xff\n"
    )
    found = facts.parse(raw, "krg-mark")
    # Text ends at its mark and nowhere else; "uid 7" belongs to it.
    assert found.texts["/t"].content == b"uid 7"
    assert found.word("uid") == "0"
    assert found.files == {
        "/b": Seen(0o100644, 5, "a" * 64, "/c"),
        "/t": Seen(0o100644, 5),
    }
    assert found.complete and not found.space
    blobs = facts.parse(b"blob init\n\0\n\xff\nend\nkrg-mark\nend\n", "krg-mark")
    assert blobs.blobs == {"init": b"\0\n\xff\nend"} and blobs.complete
    assert not facts.parse(raw[: raw.index(b"end")], "krg-mark").complete


def test_cut_answer_is_not_complete() -> None:
    assert not facts.parse(b"uid 0\ntext /t /t\nhalf", "mark").complete


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


def test_known_hosts_with_a_broken_line(tmp_path: Path) -> None:
    (tmp_path / "known").write_text("# ours\n10.0.0.1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI!\n")
    path = tmp_path / "cluster.toml"
    path.write_text(
        'session = 1\nknown_hosts = "known"\n[[node]]\nname = "a"\nid = 1\naddress = "127.0.0.1"\n'
    )
    done = run("status", "--nodes", str(path))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert f"known_hosts {tmp_path}/known:2: not a host key" in done.stderr


@pytest.mark.parametrize("value", ["~nouser/x", "a\\u0000b", ""])
@pytest.mark.parametrize("key", ["key", "known_hosts"])
def test_paths_that_are_none(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(f'session = 1\n[[node]]\nname = "a"\nid = 1\n{key} = "{value}"\n')
    done = run("status", "--nodes", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{path}:5: {key} '" in done.stderr and "Traceback" not in done.stderr


def test_what_a_node_says_moves_no_cursor() -> None:
    """Its kernel, its watchdog and others stand in notes and in what is said of its boot."""
    said = "back to 2.6\x1b[2J\r\x9b1A"
    text = "back to 2.6\\x1b[2J\\x0d\\x9b1A"
    assert list(plan.folded([("krg1", [f"{said}\n+\ta"])])) == [("krg1", f"{text}\n+\ta")]
    made = plan.Plan("krg1", runs=("true",), notes=(said,))
    assert list(plan.show([made])) == [("krg1", f"run true\nnote: {text}")]


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


def test_the_whole_cluster_is_all_of_its_nodes(tmp_path: Path) -> None:
    build = artifacts.load(make_build(tmp_path / "b", arch="x86_64"))
    nodes = (Node("krg1", 1, "10.0.0.1"), Node("krg2", 2, "10.0.0.2"))
    cluster = Cluster(1, 1, nodes)
    assert deployment.target(cluster, build, reboot=True, whole_cluster=True).whole_cluster
    some = replace(cluster, only=frozenset({"krg1"}))
    assert deployment.target(some, build, reboot=True).cluster.selected == nodes[:1]
    with pytest.raises(InputError, match="restarts all 2 nodes, and 1 are chosen"):
        deployment.target(some, build, reboot=True, whole_cluster=True)
