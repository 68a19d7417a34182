# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node says about itself: the script in every shell and root, and its reader."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision import boot_facts, disk_rules, evidence, facts, machine_facts, preflight, superblock
from provision.cluster import Node
from provision.data import render
from provision.facts import Facts, Pci
from provision.node import BUILDS, JOURNALS, Session
from provision.ssh import Output

MARK = "krg-mark"
SHELLS = (("dash",), ("busybox", "ash"), ("bash", "--posix"), ("bash",))
IDE = "pci:v00008086d00007111sv00001AF4sd00001100bc01sc01i80"
E1000 = "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"


def script(known: str = "", paths: Sequence[str] = ("/etc/passwd", "/no/such")) -> str:
    return render(
        "facts.sh.j2",
        places="/boot /lib/modules /usr/local /etc /var /",
        texts="/etc/kerrighed_nodes /boot/grub/menu.lst",
        has=" ".join(boot_facts.HAS),
        also="/etc/hostname",
        journals=JOURNALS,
        builds=BUILDS,
        whole=True,
        dpkg=True,
        token=MARK,
        running=False,
        paths=shlex.quote("\n".join(paths)),
        known=known,
    )


@pytest.mark.parametrize("shell", [("dash",), ("bash",)], ids=" ".join)
def test_a_head_without_c(shell: tuple[str, ...], tmp_path: Path) -> None:
    """As busybox without FEATURE_FANCY_HEAD: what refuses a kernel must not be missing."""
    if shutil.which(shell[0]) is None:
        pytest.skip(f"needs {shell[0]}: apt-get install dash bash")
    expected = ask(*shell)[0].blobs
    stub = tmp_path / "head"
    stub.write_text("#!/bin/sh\necho 'head: invalid option -- c' >&2\nexit 1\n")
    stub.chmod(0o755)
    text = script().replace("PATH=/usr/local/sbin", f"PATH={tmp_path}:/usr/local/sbin", 1)
    done = subprocess.run([*shell, "-s"], input=text.encode(), capture_output=True, check=True)
    found = facts.parse(done.stdout, MARK).blobs
    names = {name for name in expected if name == "init" or name.startswith("libc ")}
    assert names and {name: found[name] for name in names} == {n: expected[n] for n in names}


def ask(*shell: str, root: Path | None = None) -> tuple[Facts, str]:
    """Run the script, in ``root`` if given; return what was understood and what was complained."""
    where = [] if root is None else ["chroot", str(root)]
    done = subprocess.run(
        [*where, *shell, "-c", script()],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=True,
    )
    return facts.parse(done.stdout, MARK), done.stderr.decode()


LIBRARIES = ("lib/libc.so.6", "lib/*/libc.so.6", "lib64/libc.so.6", "lib32/libc.so.6")


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_this_machine_in_every_shell(shell: tuple[str, ...]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"needs {shell[0]}: apt-get install dash bash busybox-static")
    found, complaints = ask(*shell)
    assert found.complete and not complaints
    assert found.word("kernel") == os.uname().release
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert found.word("boot_id") == boot
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    said = found.number("uptime")
    assert said is not None and 0 <= uptime - said < 60
    assert abs((found.number("clock") or 0) - time.time()) < 60
    assert found.word("cmdline") == Path("/proc/cmdline").read_text().strip()
    assert found.files["/etc/passwd"].size == Path("/etc/passwd").stat().st_size
    assert "/no/such" not in found.files
    assert found.space["/"].free > 0 and found.inodes["/"] >= 0
    for name, card in found.nics.items():
        assert (card.mac or "") == Path(f"/sys/class/net/{name}/address").read_text().strip()
    for address in found.pci:
        assert Path(f"/sys/bus/pci/devices/{address}").exists()
    loaded = Path("/proc/modules")
    names = {x.split()[0] for x in loaded.read_text().splitlines()} if loaded.exists() else set()
    assert found.modules == names
    if shutil.which("dpkg"):
        assert "dpkg" in found.versions and found.word("dpkg_architecture")
    heads = {
        name.removeprefix("libc "): head for name, head in found.blobs.items() if name != "init"
    }
    libraries = {path for pattern in LIBRARIES for path in Path("/").glob(pattern)}
    assert {path for path in heads if path.startswith("/lib")} == {str(p) for p in libraries}
    for path in libraries:
        assert heads[str(path)] == path.read_bytes()[:8192]
    init = next(path for path in (Path("/sbin/init"), Path("/bin/sh")) if path.is_file())
    assert found.blobs["init"] == init.read_bytes()[:8192]


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_few_files_and_many_are_told_alike(shell: tuple[str, ...], tmp_path: Path) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"needs {shell[0]}: apt-get install dash bash busybox-static")
    paths = [f"{tmp_path}/{'deep-' * 20}{number}" for number in range(1500)]
    for number, path in enumerate(paths):
        Path(path).write_text(str(number))
    (tmp_path / "link").symlink_to("where it leads")
    paths += [f"{tmp_path}/link", f"{tmp_path}/none"]
    told: dict[str, facts.Seen] = {}
    for some in (paths[-150:], paths):
        done = subprocess.run(
            [*shell, "-s"], input=script(paths=some).encode(), capture_output=True, check=True
        )
        assert not done.stderr
        found = facts.parse(done.stdout, MARK).files
        assert set(some) - found.keys() == {f"{tmp_path}/none"}
        assert all(found[path] == seen for path, seen in told.items())
        told = {path: found[path] for path in some[:-1]}
    for number, path in enumerate(paths[:-2]):
        assert told[path].sha256 == hashlib.sha256(str(number).encode()).hexdigest()
    assert told[f"{tmp_path}/link"].target == "where it leads"


# --- roots made for the purpose ------------------------------------------------------------

APPLETS = (
    "sh", "cat", "chroot", "date", "dd", "df", "echo", "find", "grep", "gzip", "head", "id",
    "ip", "ls", "mkdir", "mv", "readlink", "rm", "sed", "sha256sum", "stat", "sync", "tail",
    "tar", "tr", "true", "uname", "xargs",
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with dash, busybox's commands, an IDE disk, a network card and ext3."""
    if os.geteuid() != 0:
        pytest.skip("needs root for chroot: sudo ./dev test")
    box = shutil.which("busybox")
    if box is None or b"static" not in subprocess.check_output(["sh", "-c", f"file -L {box}"]):
        pytest.skip("needs a static busybox, and file: apt-get install busybox-static file")
    for name in ("bin", "sbin", "boot/grub", "etc", "dev", "var", "usr/bin", "proc/sys/kernel"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(box, tmp_path / "bin/busybox")
    # busybox's own shell finds its commands without their links; dash does not.
    dash = shutil.which("dash")
    if dash is None or shutil.which("ldd") is None:
        pytest.skip("needs dash and ldd: apt-get install dash libc-bin")
    needs = subprocess.run(["ldd", dash], capture_output=True, text=True, check=True).stdout
    for path in (dash, *(word for word in needs.split() if word.startswith("/"))):
        there = tmp_path / ("bin/dash" if path == dash else path.lstrip("/"))
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, there)
    for name in APPLETS:
        (tmp_path / "bin" / name).symlink_to("busybox")
    (tmp_path / "sbin/init").symlink_to("../bin/busybox")
    (tmp_path / "etc/hostname").write_bytes(b"krg1")  # no line end
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tmp_path / "boot/grub/menu.lst").write_text("default 0\n")
    (tmp_path / "proc/cmdline").write_text("root=/dev/hda1 ro  quiet\n")
    (tmp_path / "proc/uptime").write_text("12.34 5.00\n")
    (tmp_path / "proc/mounts").write_text("rootfs / rootfs rw 0 0\n/dev/root / ext3 rw 0 0\n")
    (tmp_path / "proc/modules").write_text("e1000 1 0 - Live 0x0\nsoftdog 1 0 - Live 0x0\n")
    number = tmp_path.stat().st_dev
    disk = tmp_path / "sys/devices/pci0000:00/0000:00:1f.1/ide0/0.0"
    disk.mkdir(parents=True)
    driver = tmp_path / "sys/bus/pci/drivers"
    for name in ("PIIX_IDE", "e1000"):
        (driver / name).mkdir(parents=True)
    part = tmp_path / "sys/block/hda/hda1"
    part.mkdir(parents=True)
    (part / "dev").write_text(f"{os.major(number)}:{os.minor(number)}\n")
    (part.parent / "device").symlink_to("../../devices/pci0000:00/0000:00:1f.1/ide0/0.0")
    pci = tmp_path / "sys/bus/pci/devices"
    pci.mkdir(parents=True)
    for address, modalias, pci_class, name in (
        ("0000:00:1f.1", IDE, "0x010180", "PIIX_IDE"),
        ("0000:00:03.0", E1000, "0x020000", "e1000"),
        ("0000:00:00.0", "pci:v00008086", "0x060000", "none"),
    ):
        device = tmp_path / "sys/devices/pci0000:00" / address
        device.mkdir(exist_ok=True)
        (device / "modalias").write_text(modalias + "\n")
        (device / "class").write_text(pci_class + "\n")
        (device / "driver").symlink_to(f"../../../bus/pci/drivers/{name}")
        (pci / address).symlink_to(f"../../../devices/pci0000:00/{address}")
    for name in ("eth0", "lo"):
        card = tmp_path / "sys/class/net" / name
        card.mkdir(parents=True)
        (card / "address").write_text("00:16:3E:00:00:01\n")
    (card.parent / "eth0/device").symlink_to("../../../devices/pci0000:00/0000:00:03.0")
    return tmp_path


@pytest.mark.parametrize("shell", [("/bin/busybox", "ash"), ("/bin/dash",)], ids=" ".join)
def test_small_root(root: Path, shell: tuple[str, ...]) -> None:
    found, complaints = ask(*shell, root=root)
    assert found.complete and complaints == ""
    assert found.word("etc_hostname") == "krg1"
    assert found.word("cmdline") == "root=/dev/hda1 ro  quiet"
    assert found.number("uptime") == 12.34
    assert found.word("rootdev") == "/dev/hda1" and found.word("rootfs") == "ext3"
    assert found.word("rootdrivers") == "PIIX_IDE"
    assert found.root_pci == ("0000:00:1f.1",)
    assert found.pci == {
        "0000:00:1f.1": Pci("0000:00:1f.1", IDE, "PIIX_IDE"),
        "0000:00:03.0": Pci("0000:00:03.0", E1000, "e1000"),
    }
    assert found.nics["eth0"].pci == "0000:00:03.0"
    assert found.nics["eth0"].mac == "00:16:3e:00:00:01" and set(found.nics) == {"eth0"}
    assert found.modules == {"e1000", "softdog"}
    assert found.word("init_link") == "/bin/busybox"
    assert found.word("bootloader") == "legacy"
    assert found.word("grubenv_storage") == "plain"
    assert found.word("watchdog") is None and not found.versions


@pytest.mark.parametrize("tool", [name for name in APPLETS if name not in ("sh", "chroot")])
def test_a_missing_tool_breaks_nothing(root: Path, tool: str) -> None:
    (root / "bin" / tool).unlink()
    found, _ = ask("/bin/dash", root=root)
    assert found.complete
    assert found.number("uptime") == 12.34 and found.word("etc_hostname") == "krg1"
    assert found.modules == {"e1000", "softdog"}
    assert len(found.pci) == (0 if tool == "grep" else 2)
    if tool in ("df", "sed", "stat", "tar"):
        assert tool in found.lacks


def test_under_kerrighed_nothing_is_read_that_may_hang(root: Path) -> None:
    (root / "sys/kerrighed").mkdir()
    (root / "sys/kerrighed/node_id").write_text("3\n")
    # A reader of these waits for ever, as of the real ones once a node is lost.
    for name in ("uptime", "mounts", "cpuinfo", "meminfo", "loadavg", "stat"):
        (root / "proc" / name).unlink(missing_ok=True)
        os.mkfifo(root / "proc" / name)
    (root / "bin/df").unlink()  # busybox's reads /proc/mounts
    found, _ = ask("/bin/dash", root=root)
    assert found.complete and found.word("node_id") == "3"
    assert found.word("uptime") is None


def test_ids_of_any_module(root: Path) -> None:
    for name in ("debug", "nodeids"):
        (root / "sys/kernel" / name).mkdir(parents=True)
    (root / "sys/kernel/nodeids/node_id").write_text("3\n")
    (root / "sys/kernel/nodeids/session_id").write_text("7\n")
    found, _ = ask("/bin/dash", root=root)
    words = [found.word(name) for name in ("ids", "node_id", "session_id")]
    assert words == ["/sys/kernel/nodeids", "3", "7"]
    # It is not Kerrighed: nothing hangs, and all is asked.
    assert found.word("uptime") is not None
    assert not evidence.kerrighed_runs(found)


# In namespaces of its own, so that nothing stays mounted; the machine's devices are seen.
ON_DISK = """
set -e
mount "$1" "$2"
cp -a "$3/." "$2"
for name in proc sys dev; do
    rm -rf "$2/$name"
    mkdir "$2/$name"
    mount --rbind "/$name" "$2/$name"
done
exec chroot "$2" /bin/dash -c "$4"
"""


@pytest.mark.parametrize(
    ("kind", "refused"), [("ext2", []), ("ext3", []), ("ext4", ["root-features"])]
)
def test_root_on_a_real_disk(
    root: Path, tmp_path_factory: pytest.TempPathFactory, kind: str, refused: list[str]
) -> None:
    place = tmp_path_factory.mktemp("disk")
    image, top = place / "image", place / "root"
    top.mkdir()
    image.write_bytes(bytes(32 << 20))
    subprocess.run(["mke2fs", "-qF", "-t", kind, str(image)], check=True)
    with image.open("r+b") as stream:
        # What GRUB 2 leaves in the first sector.
        stream.seek(0x180)
        stream.write(b"GRUB \0Geom")
    attached = subprocess.run(
        ["losetup", "--find", "--show", str(image)], capture_output=True, text=True
    )
    if attached.returncode:
        pytest.skip(f"no loop devices here (modprobe loop): {attached.stderr.strip()}")
    device = attached.stdout.strip()
    try:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", ON_DISK, "sh", device, top, root, script()],
            input=b"/etc/passwd\n",
            capture_output=True,
            timeout=60,
        )
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    assert done.returncode == 0, done.stderr
    found = facts.parse(done.stdout, MARK)
    assert found.complete and found.superblock is not None
    assert found.word("rootdev") == device
    assert (found.word("bootloader"), found.word("grubenv_storage")) == ("grub2", "plain")
    assert found.word("grub_device") == device.removeprefix("/dev/")
    assert found.space["/boot"].mount == "/" and 0 < found.inodes["/"] < 10_000
    told = subprocess.run(["dumpe2fs", "-h", image], capture_output=True, text=True, check=True)
    said = dict(line.split(":", 1) for line in told.stdout.splitlines() if ":" in line)
    assert found.word("root_uuid") == said["Filesystem UUID"].strip()
    names = said["Filesystem features"].split()
    journal = machine_facts.journal_features(told.stdout.encode())
    assert journal == said.get("Journal features", "").strip()
    assert found.superblock.has_journal == ("has_journal" in names)
    cannot, read_only = disk_rules.unknown_features(found.superblock, "ext3")
    # e2fsprogs 1.47 has ext4 keep a file of orphans; that it is in use is noted while mounted.
    assert {*cannot, *read_only} - {"orphan_present"} == set(names) & NOT_OF_EXT3
    made = preflight.Kernel("i386", "2.6.20", "CONFIG_EXT2_FS=y\nCONFIG_EXT3_FS=y\n")
    assert [r.rule for r in disk_rules.root_fs(made.release, made.config, found)] == refused


# What mke2fs can give, and ext3 of Linux 2.6.20 cannot have.
NOT_OF_EXT3 = {
    "extent", "64bit", "flex_bg", "metadata_csum", "metadata_csum_seed", "huge_file", "dir_nlink",
    "extra_isize", "uninit_bg", "orphan_present", "inline_data", "mmp", "bigalloc", "quota",
}  # fmt: skip


# --- the reader ---------------------------------------------------------------------------

LINES = st.sampled_from(
    [b"place", b"stat", b"link", b"a" * 64, b"text", b"real", b"reads", b"sealed",
     b"blob root", b"blob disk", b"blob sys", b"blob heads\n==> /sbin/init <==\n",
     b"has", b"blob addresses", b"blob inodes", b"blob version udevadm", b"modules", b"clock",
     b"blob links", b"blob df", b"blob features",
     b"uptime", b"end", MARK.encode(), b"uid", b"grub_type", b"grub_device md0", b"journal"]
)  # fmt: skip
VALUES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"", b"-1", b"9" * 400, b"0000:00:1f.1 pci:v - -", b"a b c d e f g h",
                     b"/x /x", b"81a4 5 0 0 /b", b"x" * 9000]),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(LINES, VALUES), max_size=40), st.binary(max_size=200))
def test_any_answer_is_read_without_an_exception(
    lines: list[tuple[bytes, bytes]], tail: bytes
) -> None:
    raw = b"\n".join(kind + b" " + value for kind, value in lines) + tail
    found = facts.parse(raw, MARK)
    assert all(len(word) <= 4096 for word in found.words.values())
    for name in ("clock", "uptime", "uid"):
        found.number(name)
    assert found.word("bootloader") in ("legacy", "grub2", "lilo", "syslinux", "unknown")
    assert all(0 <= space.free < 1 << 80 for space in found.space.values())


def test_sizes_are_bounded() -> None:
    raw = b"hostname " + b"h" * 100_000 + b"\nstat 81a4 1 0 0 /t\ntext /t /t\n" + b"t" * (2 << 20)
    found = facts.parse(raw + f"\n{MARK}\nend\n".encode(), MARK)
    assert found.complete and len(found.words["hostname"]) < 4097
    assert not found.texts and found.odd == ("/t",)
    many = facts.parse(b"has /x\n" * 300_000 + b"end\n", MARK)
    assert not many.complete


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("/sys/block/sda -> ../devices/pci0000:00/0000:00:1e.0/0000:02:05.0/block/sda",
         ("0000:02:05.0",)),
        ("/sys/block/hda/device -> ../../devices/pci0000:00/0000:00:1f.1/ide0/0.0",
         ("0000:00:1f.1",)),
        ("/sys/block/md0/slaves/sda1/../device -> ../../devices/pci0000:00/0000:00:1f.2/host0\n"
         "/sys/block/md0/slaves/sdb1/../device -> ../../devices/pci0000:00/0000:00:1f.5/host0\n"
         "/sys/block/md0 -> ../devices/virtual/block/md0", ("0000:00:1f.2", "0000:00:1f.5")),
        ("/sys/block/ram0 -> x", ()),
        ("/sys/class/net/eth0 -> 0000:00:1f.1", ()),
    ],
)  # fmt: skip
def test_what_the_root_disk_hangs_on(lines: str, found: tuple[str, ...]) -> None:
    said = "\n".join(f"lrwxrwxrwx 1 root root 0 Jan 1 00:00 {x}" for x in lines.split("\n"))
    assert facts.parse(blob("links", said.encode()), MARK).root_pci == found


@pytest.mark.parametrize(
    ("lines", "storage"),
    [
        ("grub_type ext2/ext3\ngrub_device sda1", "plain"),
        ("grub_type ext2/ext3\ngrub_device cciss!c0d0p1", "plain"),
        ("grub_type ext2/ext3\ngrub_device nvme0n1p2", "plain"),
        ("grub_type btrfs\ngrub_device sda1", "btrfs"),
        ("grub_type zfs", "zfs"),
        ("grub_type xfs\ngrub_device md0", "raid"),
        ("grub_device dm-0\ngrub_mapper LVM-abc", "lvm"),
        ("grub_device dm-0\ngrub_mapper DMRAID-isw", "raid"),
        ("grub_type overlayfs", "unknown"),
        ("", "unknown"),
    ],
)
def test_what_grub_keeps_its_environment_on(lines: str, storage: str) -> None:
    assert facts.parse(lines.encode(), MARK).word("grubenv_storage") == storage


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("watchdog yes", "yes"),
        ("watchdog yes\nwatchdog_driver i6300ESB timer", "i6300ESB timer"),
        ("watchdog_driver x", None),
        ("", None),
    ],
)
def test_watchdog(lines: str, said: str | None) -> None:
    assert facts.parse(lines.encode(), MARK).word("watchdog") == said


def said(tool: str, text: str) -> str:
    return f"blob version {tool}\n{text}\n{MARK}"


@pytest.mark.parametrize(
    ("lines", "init", "udev"),
    [
        (f"init_link /lib/systemd/systemd\n{said('systemctl', 'systemd 252 (252.38-1)')}",
         "systemd 252", None),
        (f"init_link /lib/systemd/systemd\n{said('udevadm', '252')}", "systemd", "252"),
        (f"has /sbin/init\nhas /etc/inittab\n{said('udevinfo', 'udevinfo, version 125')}",
         "sysv", "125"),
        (f"has /sbin/init\n{said('initctl', 'initctl (upstart 0.3.9)')}", "upstart 0.3.9", None),
        ("has /sbin/init\nhas /sbin/openrc-run", "openrc", None),
        ("init_link /bin/busybox\nhas /sbin/init", "busybox", None),
        (f"has /bin/sh\nhas /bin/init\n{said('udevadm', 'nothing')}", "unknown", None),
        ("has /bin/sh", "none", None),
        ("kernel 2.6.20", "unknown", None),
    ],
)  # fmt: skip
def test_init_and_udev(lines: str, init: str, udev: str | None) -> None:
    found = facts.parse(f"{lines}\nend\n".encode(), MARK)
    assert (found.word("init"), found.word("udev")) == (init, udev)


def blob(name: str, content: bytes) -> bytes:
    return f"blob {name}\n".encode() + content + f"\n{MARK}\n".encode()


@pytest.mark.parametrize(
    ("raw", "loader"),
    [
        (b"has /boot/grub/menu.lst\n", "legacy"),
        (b"has /boot/grub/menu.lst\nhas /boot/grub/grub.cfg\n", "unknown"),
        (b"has /boot/grub/menu.lst\nhas /boot/grub/grub.cfg\nhas /boot/grub/stage2\n", "legacy"),
        (b"has /var/lib/dpkg/info/grub-pc.list\n", "grub2"),
        (b"has /etc/lilo.conf\n", "lilo"),
        (blob("disk", bytes(6) + b"LILO") + b"has /boot/grub/menu.lst\n", "lilo"),
        (blob("disk", bytes(62) + b"\3\2" + bytes(300) + b"GRUB \0Geom"), "legacy"),
        (blob("disk", bytes(380) + b"GRUB \0Geom"), "grub2"),
        (blob("disk", bytes(512)) + blob("root", bytes(3) + b"SYSLINUX" + bytes(500)), "syslinux"),
        (b"", "unknown"),
    ],
)
def test_which_boot_loader(raw: bytes, loader: str) -> None:
    assert facts.parse(raw, MARK).word("bootloader") == loader


@pytest.mark.parametrize(
    ("glob", "loader"),
    [("/usr/lib/grub/i386-pc/boot.img", "grub2"), ("/usr/lib/grub/*/stage1", "legacy")],
)
def test_boot_code_of_the_real_loaders(glob: str, loader: str) -> None:
    path = next(iter(Path("/").glob(glob.lstrip("/"))), None)
    if path is None:
        pytest.skip(f"needs {glob}: apt-get install grub-pc-bin grub-legacy")
    assert superblock.boot_code(path.read_bytes()) == loader


@pytest.mark.parametrize(
    ("options", "incompat", "ro_compat"),
    [
        (("-t", "ext3", "-O", "^resize_inode"), 0x2, 0x3),
        (("-t", "ext2", "-O", "none"), 0, 0),
        (("-t", "ext4", "-O", "^metadata_csum,^64bit"), 0x242, 0x6B),
    ],
)
def test_superblock_that_mke2fs_wrote(
    tmp_path: Path, options: tuple[str, ...], incompat: int, ro_compat: int
) -> None:
    image = tmp_path / "image"
    uuid = "12345678-1234-4321-8765-123456789abc"
    if shutil.which("mke2fs") is None:
        pytest.skip("needs mke2fs: apt-get install e2fsprogs")
    image.write_bytes(bytes(8 << 20))
    subprocess.run(["mke2fs", "-qF", "-U", uuid, *options, str(image)], check=True)
    found = facts.parse(blob("root", image.read_bytes()[:2048]), MARK)
    assert found.superblock is not None
    assert (found.superblock.incompat, found.superblock.ro_compat) == (incompat, ro_compat)
    assert found.word("root_uuid") == uuid
    assert found.superblock.has_journal == (options[1] != "ext2")


INIT, LIBC = b"/sbin/init", b"/lib/tls/libc.so.6"
BYTES = st.lists(
    st.sampled_from([b"\x7fELF", b"\n", b"==> ", b" <==", b"/dev/null", b"\0", b"/sbin/x", b""]),
    max_size=12,
).map(b"".join)


@given(
    st.lists(st.tuples(st.sampled_from([INIT, LIBC]), BYTES), max_size=3, unique_by=lambda x: x[0])
)
def test_heads_of_programs(files: list[tuple[bytes, bytes]]) -> None:
    """As head of GNU and of busybox names them: whatever is in them."""
    parts = [*files, (b"/dev/null", b"")]
    said = b"\n".join(b"==> " + name + b" <==\n" + content for name, content in parts)
    names = {INIT: "init", LIBC: f"libc {LIBC.decode()}"}
    found = machine_facts.heads({"heads": said})
    assert found == {names[name]: content for name, content in files}
    assert machine_facts.heads({"heads": said[: len(said) // 2]}).keys() <= found.keys()
    # What dd gave one by one.
    assert found == machine_facts.heads({f"head {n.decode()}": c for n, c in files})


def test_what_is_no_superblock() -> None:
    for start in (b"", bytes(2048), b"\x53\xef" * 1024, bytes(1024) + bytes(56) + b"\x53\xef"):
        superblock.read(start)
    old = bytearray(2048)
    struct.pack_into("<H", old, 1024 + 56, 0xEF53)
    assert superblock.read(bytes(old)) == superblock.Superblock(0, 0, 0, "")
    assert superblock.read(bytes(1080) + b"\x53\xef") is None


# --- the clock ----------------------------------------------------------------------------


class Answering(Session):
    """A session whose node answers at once, with a clock that is off."""

    def __init__(self, ahead: int) -> None:
        super().__init__(Node("krg1", 1, "192.0.2.1"))
        self._ahead = ahead

    def run(self, script: str, **_: object) -> Output:  # type: ignore[override]
        clock = int(time.time()) + self._ahead
        return Output(0, f"kernel x\nclock {clock}\nend\n".encode(), b"")


@pytest.mark.parametrize("ahead", [0, 7200, -7200, 10**9])
def test_clock_is_compared_around_the_round_trip(ahead: int) -> None:
    skew = Answering(ahead).facts([]).number("clock_skew")
    assert skew is not None and abs(skew - ahead) <= 2
    assert ahead or skew == 0
