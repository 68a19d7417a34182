# SPDX-License-Identifier: GPL-2.0-or-later
"""Every rule that refuses a node: with facts that it refuses, and with facts that it does not."""

from __future__ import annotations

import struct
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from elf_images import driver_image
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import elf, make_target, planned, some_facts

from kconfig.built import Alias
from provision import abi_note, artifacts, disk_rules, paths, preflight, vmlinux
from provision.boot_entry import MENU
from provision.cluster import Node
from provision.disk_rules import Drivers
from provision.errors import InputError
from provision.facts import Facts, Nic, Pci, Space, Text, parse
from provision.node_rules import RULES, Refusal, table
from provision.preflight import Kernel
from provision.superblock import Superblock

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = "CONFIG_EXT2_FS=y\nCONFIG_EXT3_FS=y\nCONFIG_IDE_GENERIC=y\nCONFIG_ROOT_NFS=y\n"
NODES = (Node("krg1", 1, "10.0.0.1"), Node("krg2", 2, "10.0.0.2"))
PIIX = "pci:v00008086d00007111sv00000000sd00000000bc01sc01i80"
NATIVE = "pci:v00008086d00007111sv00000000sd00000000bc01sc01i8F"
VIRTIO = "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00"
E1000 = "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"
TAKES = {
    "PIIX_IDE": "pci:v00008086d00007111sv*sd*bc*sc*i*",
    "e1000": "pci:v00008086d0000100Esv*sd*bc*sc*i*",
    "PCI_IDE": "pci:v*d*sv*sd*bc01sc01i*",
}
EXT3 = Superblock(0x3C, 0x6, 0x3, "")
EXT4 = Superblock(0x3C, 0x2C2, 0x46B, "")


def kernel(inside: str = "", modules: str = "", **changed: str) -> Kernel:
    made = Kernel("i386", "2.6.20-krg", CONFIG)
    aliases = [
        tuple(Alias(TAKES[name], name) for name in names.split()) for names in (inside, modules)
    ]
    return replace(made, drivers=Drivers(*aliases), **changed)  # type: ignore[arg-type]


def machine(**words: str) -> Facts:
    return Facts(words={"hostname": "krg1", "machine": "i686", "rootfs": "ext3", **words})


def disk(modalias: str, **words: str) -> Facts:
    card = Pci("0000:00:1f.1", modalias, "x")
    return replace(machine(**words), pci={card.address: card}, root_pci=(card.address,))


def card(**words: str) -> Facts:
    pci = Pci("0000:00:03.0", E1000, None)
    nic = Nic("eth0", None, pci.address)
    return replace(machine(**words), pci={pci.address: pci}, nics={"eth0": nic})


def ext(block: Superblock, **words: str) -> Facts:
    return replace(machine(**words), superblock=block)


def programs(init: int, *least: int) -> Facts:
    blobs = {"init": elf(init)}
    if least:
        blobs["libc /lib/libc.so.6"] = elf(init, (least[0], least[1], least[2]))
    return replace(machine(), blobs=blobs)


# rule -> what it refuses, and what it does not
CASES: Mapping[str, tuple[list[tuple[Kernel, Facts]], list[tuple[Kernel, Facts]]]] = {
    "processor": (
        [(kernel(arch="x86_64"), machine())],
        [
            (kernel(arch="x86_64"), machine(cpu64="yes")),
            (kernel(arch="x86_64"), machine(node_id="1")),
            (kernel(), machine()),
        ],
    ),
    "userland-arch": (
        [(kernel(), programs(64)), (kernel(arch="x86_64"), programs(32))],
        [
            (kernel(), programs(32)),
            (kernel(arch="x86_64", config="CONFIG_IA32_EMULATION=y\n"), programs(32)),
        ],
    ),
    "glibc": (
        [(kernel(), programs(32, 2, 6, 21)), (kernel(), programs(32, 3, 2, 0))],
        [(kernel(), programs(32, 2, 6, 20)), (kernel(), programs(32))],
    ),
    "init": (
        [
            (kernel(), machine(init="systemd 252")),
            (kernel(), machine(init="systemd")),
            (kernel(release="2.6.29"), machine(init="systemd 1")),
            (kernel(release="2.6.38"), machine(init="systemd 44")),
            (kernel(release="2.6.39"), machine(init="systemd 207")),
            (kernel(release="3.16"), machine(init="systemd 258")),
            (kernel(), machine(init="sysv", udev="136")),
            (kernel(release="2.6.24"), machine(init="sysv", udev="143")),
            (kernel(release="2.6.26"), machine(init="sysv", udev="164")),
            (kernel(release="2.6.32"), machine(init="sysv", udev="175")),
            (kernel(), machine(init="none")),
        ],
        [
            (kernel(), machine(init="sysv", udev="125")),
            (kernel(), machine(init="sysv", udev="135")),
            (kernel(), machine(init="busybox")),
            (kernel(), machine(init="upstart 0.3.9")),
            (kernel(release="2.6.30"), machine(init="systemd 33")),
            (kernel(release="2.6.39"), machine(init="systemd 44")),
            (kernel(release="2.6.32"), machine(init="sysv", udev="172")),
            (kernel(release="3.16"), machine(init="systemd 252", udev="215")),
            (kernel(), machine(udev="nonsense")),
        ],
    ),
    "root-fs": (
        [
            (kernel(), machine(rootfs=name))
            for name in ("xfs", "btrfs", "ext4", "overlay", "reiserfs")
        ]
        + [(kernel(config=""), ext(EXT3)), (kernel(release="6.1.192"), machine(rootfs="xfs"))],
        [
            (kernel(), machine()),
            (kernel(config="CONFIG_REISERFS_FS=y\n"), machine(rootfs="reiserfs")),
            (kernel(), ext(EXT3, rootfs="ext4")),
            (kernel(), machine(rootfs="nfs")),
            # A kernel of today, with the drivers of today.
            (kernel(release="6.1.192", config="CONFIG_EXT4_FS=y\n"), ext(EXT3)),
            (kernel(release="6.1.192", config="CONFIG_EXT4_FS=y\n"), ext(EXT4, rootfs="ext4")),
            (kernel(release="6.1.192", config="CONFIG_EXT4_FS=y\n"), machine(rootfs="ext4")),
            (kernel(release="6.1.192", config="CONFIG_XFS_FS=y\n"), machine(rootfs="xfs")),
        ],
    ),
    "root-features": (
        [
            (kernel(), ext(EXT4, rootfs="ext4")),
            # The driver of today calls it ext3; 2.6.20 mounts it for reading only.
            (kernel(), ext(replace(EXT3, ro_compat=0x43))),
            (kernel(), ext(replace(EXT3, incompat=0x80006))),
            (kernel(config="CONFIG_EXT2_FS=y\n"), ext(EXT3)),
            (kernel(), ext(EXT3, journal=" journal_incompat_revoke journal_64bit")),
            (kernel(), ext(EXT3, journal="fast_commit")),
            (kernel(), ext(EXT3, journal="FEATURE_I9")),
            (kernel(config="CONFIG_EXT4DEV_FS=y\n"), ext(EXT4)),
        ],
        [
            (kernel(), ext(EXT3)),
            (kernel(), ext(EXT3, rootfs="ext4", journal=" journal_incompat_revoke")),
            (kernel(config="CONFIG_EXT2_FS=y\n"), ext(replace(EXT3, incompat=0x2))),
            (kernel(config="CONFIG_EXT3_FS=y\n"), ext(EXT3)),
            (kernel(), ext(EXT3, journal="journal_checksum FEATURE_C7")),
            (kernel(), ext(EXT3, journal="(none)")),
        ],
    ),
    "disk-driver": (
        [
            (kernel(), disk(VIRTIO)),
            (kernel("e1000", "PIIX_IDE", config=""), disk(PIIX)),
            (kernel(config=""), disk(PIIX)),
            (kernel(), disk(NATIVE)),
            (kernel("PCI_IDE"), disk(NATIVE)),
        ],
        [
            (kernel("PIIX_IDE"), disk(PIIX)),
            (kernel("PIIX_IDE"), disk(NATIVE)),
            (kernel(), disk(PIIX)),  # by IDE_GENERIC, at the old addresses
            (kernel(), disk(VIRTIO, rootfs="nfs")),
            (kernel(), machine()),
            (kernel(), disk("usb:v1d6b")),
            (replace(kernel(), drivers=None), disk(VIRTIO)),
        ],
    ),
    "nic-driver": (
        [(kernel(), card()), (kernel("", "e1000"), card(rootfs="nfs"))],
        [
            (kernel("e1000"), card(rootfs="nfs")),
            (kernel("", "e1000"), card()),
            (kernel(), machine()),
        ],
    ),
    "boot-loader": (
        [(kernel(), machine(bootloader="lilo")), (kernel(), machine(bootloader="syslinux"))],
        [
            (kernel(), machine(bootloader=name, grub2="/boot/grub/grub.cfg"))
            for name in ("legacy", "grub2", "unknown")
        ],
    ),
    "clock": (
        [(kernel(), machine(clock_skew=skew)) for skew in ("3601", "-3601", "-800000000")],
        [(kernel(), machine(clock_skew=skew)) for skew in ("3600", "-3600", "0", "", "x")],
    ),
    "hostname": (
        [
            (kernel(), machine(hostname="krg2")),
            (kernel(), machine(hostname="krg2.example.org")),
            (kernel(), machine(hostname="localhost", etc_hostname="krg2")),
        ],
        [
            (kernel(), machine()),
            (kernel(), machine(hostname="krg1.example.org")),
            (kernel(), machine(hostname="elsewhere")),
            (kernel(), Facts()),
        ],
    ),
}


def refused(made: Kernel, facts: Facts, bootloader: bool = True) -> list[str]:
    found = preflight.check(made, NODES, NODES[0], facts, bootloader=bootloader)
    return [refusal.rule for refusal in found]


@pytest.mark.parametrize("rule", CASES)
def test_rule_refuses_and_does_not(rule: str) -> None:
    bad, good = CASES[rule]
    for case in bad:
        assert rule in refused(*case), case
    for case in good:
        assert rule not in refused(*case), case


@pytest.mark.parametrize("rule", CASES)
def test_reasons_are_sentences_with_a_way_out(rule: str) -> None:
    for made, facts in CASES[rule][0]:
        found = preflight.check(made, NODES, NODES[0], facts, bootloader=True)
        for refusal in found:
            assert refusal.rule in RULES
            assert str(refusal).endswith(f"--force {refusal.rule})")
            assert "\n" not in refusal.reason and not refusal.reason.endswith(".")


def test_nothing_known_refuses_nothing() -> None:
    assert refused(kernel(), Facts()) == []


def test_another_init_than_the_nodes_own() -> None:
    node = replace(NODES[0], append=("init=/sbin/other",))
    for kind, udev, rules in (("systemd 252", None, []), ("none", "252", ["init"])):
        facts = machine(init=kind, **({"udev": udev} if udev else {}))
        found = preflight.check(kernel(), NODES, node, facts, bootloader=True)
        assert [refusal.rule for refusal in found] == rules


DEVICES = st.one_of(
    st.sampled_from([PIIX, NATIVE, VIRTIO, E1000, "-", "pci:", ""]),
    st.text(max_size=200).map(lambda text: text.replace("\n", "")),
)
WORDS = st.sampled_from(
    ["init systemd", "init systemd 99999999999", "udev x", "version udevadm 252", "rootfs ext3",
     "rootfs (", "journal journal_64bit", "bootloader lilo", "hostname [", "etc_hostname krg2",
     "clock_skew nan", "watchdog yes",
     "init_link /lib/systemd/systemd", "version systemctl systemd", "firmware efi"]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(DEVICES, DEVICES, st.lists(WORDS, max_size=12), st.binary(max_size=1200))
def test_no_answer_of_a_node_ends_the_check(
    disk_is: str, card_is: str, words: list[str], start: bytes
) -> None:
    devices = []
    for address, kind, modalias in (("1f.1", 1, disk_is), ("03.0", 2, card_is)):
        room = f"/sys/bus/pci/devices/0000:00:{address}"
        devices += [f"{room}/class:0x0{kind}0180", f"{room}/modalias:{modalias}"]
    lines = [*words, "blob sys", *devices, "mark"]
    raw = "\n".join(lines).encode("utf-8", "surrogatepass")
    raw += b"\nblob links\nl /sys/block/hda/device -> 0000:00:1f.1\n"
    raw += b"l /sys/class/net/eth0/device -> 0000:00:03.0\nmark"
    for name in (b"root", b"disk", b"init", b"libc /x"):
        raw += b"\nblob " + name + b"\n" + start + b"\nmark\n"
    found = parse(raw + b"end\n", "mark")
    assert found.complete
    for made in (kernel("PIIX_IDE", "e1000"), replace(kernel(), drivers=None)):
        refused(made, found)
        list(preflight.notes(made, NODES[0], found))


def test_rules_of_the_boot_entry_wait_for_one() -> None:
    facts = machine(bootloader="lilo")
    assert refused(kernel(), facts) == ["boot-loader"]
    assert refused(kernel(), facts, bootloader=False) == []


# The rules whose facts are a node's texts and the plan itself.


def test_root_disk(tmp_path: Path) -> None:
    menu = b"default 0\ntitle x\nkernel /vmlinuz root=/dev/sda1 ro\n"
    made = planned(tmp_path / "a", some_facts(menu, rootdrivers="pata_via"))
    assert "--force root-disk)" in made.problems[0]
    assert not planned(tmp_path / "b", some_facts(menu, rootdrivers="aic7xxx")).problems
    # A kernel without the IDE drivers of old calls that disk sda.
    refusals = [Refusal("root-disk", "hda"), Refusal("space", "full")]
    for config, rules in (
        ("CONFIG_BLK_DEV_SD=y\n", ["space"]),
        ("CONFIG_BLK_DEV_SD=y\nCONFIG_BLK_DEV_IDEDISK=y\n", ["root-disk", "space"]),
    ):
        assert [r.rule for r in disk_rules.of_entry(refusals, config)] == rules


def test_space_and_inodes(tmp_path: Path) -> None:
    target = make_target(tmp_path / "b")
    node = target.cluster.nodes[0]
    from provision.deploy import make_plan

    full = replace(some_facts(), space={"/boot": Space("/boot", 4096)})
    few = replace(some_facts(), inodes={"/": 5})
    for facts, what in ((full, "not enough space on /boot"), (few, "not enough inodes on /")):
        (problem,) = make_plan(target, node, facts).problems
        assert problem.startswith(what) and problem.endswith("--force space)")
        assert not make_plan(replace(target, force=frozenset({"space"})), node, facts).problems
    # File systems without a number of inodes say 0.
    for count in (0, 100_000):
        assert not make_plan(target, node, replace(few, inodes={"/": count})).problems


def test_default_entry_is_tested_with_the_boot_entry() -> None:
    text = (REPOSITORY / "tests/test_deploy_plan.py").read_text()
    assert "--force default-entry" in text
    assert Text(b"", 0o600, 0, 0, MENU).size == 0


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_in_the_manual(rule: str) -> None:
    assert f"\n| `{rule}` | " in (REPOSITORY / "docs/deploy.md").read_text()


def test_notes() -> None:
    made = replace(kernel(), drivers=None)
    said = "\n".join(preflight.notes(made, NODES[0], card(hostname="x", clock_skew="-180")))
    assert "another name" in said and "3 minutes behind" in said
    assert "does not tell which devices its drivers take" in said
    efi = replace(disk(PIIX, firmware="efi"), nics={"eth0": Nic("eth0", None, None)})
    assert ["booted by EFI" in n for n in preflight.notes(kernel(), NODES[0], efi)] == [True]
    lost = replace(card(), nics={})
    assert any("there is no eth0 now" in n for n in preflight.notes(kernel(), NODES[0], lost))
    assert any("which controller" in n for n in preflight.notes(kernel(), NODES[0], card()))
    assert not list(preflight.notes(kernel(), NODES[0], machine()))


def test_tables_name_their_sources() -> None:
    raw = tomllib.loads((REPOSITORY / "provision/node_rules.toml").read_text())
    assert all(one["why"] and one["source"] for one in raw["program"])
    assert len({(one["word"], one["bit"]) for one in raw["feature"]}) == len(raw["feature"])
    assert all(one.bit & (one.bit - 1) == 0 for one in table().feature)


# --- what a library and an image say --------------------------------------------------------


@pytest.mark.parametrize("bits", [32, 64])
def test_abi_note(bits: int) -> None:
    whole = elf(bits, (2, 6, 18))
    assert abi_note.least_kernel(whole) == (2, 6, 18)
    for end in range(0, len(whole), 7):
        assert abi_note.least_kernel(whole[:end]) is None
    for at in range(len(whole)):
        for value in (0, 0x7F, 0xFF):
            abi_note.least_kernel(whole[:at] + bytes([value]) + whole[at + 1 :])


@pytest.mark.parametrize("bits", [32, 64])
def test_abi_note_at_the_end_of_a_library(bits: int) -> None:
    """As in Debian 13: only the table of segments says where, and it is not sent."""
    head = elf(bits, (3, 2, 0))
    # Offset, size and alignment of the only segment.
    table, form, at = (52, "<I", (4, 16, 28)) if bits == 32 else (64, "<Q", (8, 32, 48))

    def least(offset: int, size: int = 32, align: int = 4) -> tuple[int, int, int] | None:
        data = bytearray(head.ljust(8192, b"\0"))
        for place, value in zip(at, (offset, size, align), strict=True):
            struct.pack_into(form, data, table + place, value)
        return abi_note.least_kernel(bytes(data))

    assert least(0x1E016C) == least(8192) == (3, 2, 0)
    # With others beside it, such as a note of the package.
    assert least(0x1E016C, size=0xC4) == (3, 2, 0)
    # Cut short, another note, or one of the processor's.
    assert least(8190) is least(0x1E016C, size=36) is least(0x1E016C, align=8) is None


@pytest.mark.parametrize("bits", [32, 64])
def test_drivers_built_in_are_read_from_the_image(tmp_path: Path, bits: int) -> None:
    image = tmp_path / "vmlinux"
    image.write_bytes(driver_image(bits))
    assert vmlinux.aliases(image) == (
        Alias("pci:v00008086d00007111sv*sd*bc*sc*i*", "some_driver"),
        Alias("pci:v*d*sv*sd*bc01sc06i01*", "some_driver"),
    )

    def no_end(data: bytearray) -> None:
        data[-12 - (32 if bits == 64 else 28)] = 1

    def no_name(data: bytearray) -> None:
        data[-12] = 0xFF

    known = vmlinux.aliases(image)
    for recent, listed in product((True, False), repeat=2):
        image.write_bytes(driver_image(bits, recent=recent, listed=listed))
        assert vmlinux.aliases(image) == known
    if bits == 64:
        # Theirs would be read as tables of PCI devices, in a layout that this kernel has not.
        image.write_bytes(driver_image(bits, recent=True, others=5))
        assert vmlinux.aliases(image) == known
    # Many a struct begins with a name and leads to a number, or to a part of something else.
    for entries in (0.125, None):
        image.write_bytes(driver_image(bits, listed=False, entries=entries))
        assert vmlinux.aliases(image) == ()
    for change in (no_end, no_name):
        image.write_bytes(driver_image(bits, change))
        assert vmlinux.aliases(image) == ()
    image.write_bytes(b"not an image")
    with pytest.raises(InputError, match="not an ELF file"):
        vmlinux.aliases(image)


@pytest.mark.parametrize("version", ["6.1", "6.12"])
def test_drivers_of_debians_kernels(version: str) -> None:
    """Of every driver of a disk or network card that the policy has built in, some device."""
    try:
        build = artifacts.find(f"debian-{version}", "x86_64")
    except InputError as error:
        pytest.skip(f"{error}; enable with: krg-provision build-kernel --release debian-{version}")
    config = build.path("config").read_text()
    drivers = {alias.module for alias in vmlinux.aliases(build.path("vmlinux"))}
    symbols = {"ahci": "SATA_AHCI", "ata_piix": "ATA_PIIX", "e1000": "E1000", "e1000e": "E1000E"}
    built_in = {name for name, symbol in symbols.items() if f"CONFIG_{symbol}=y\n" in config}
    assert built_in and drivers >= built_in
    assert not drivers & (symbols.keys() - built_in)


@pytest.mark.parametrize("arch", ["i386", "x86_64"])
def test_drivers_of_a_finished_build(arch: str) -> None:
    found = [
        p
        for p in sorted(paths.builds_dir().glob(f"kerrighed-*-{arch}-*"))
        if (p / "vmlinux").exists()
    ]
    if not found:
        pytest.skip(f"needs a build: krg-provision build-kernel --arch {arch}")
    build = artifacts.load(found[-1])
    from provision.deploy import _drivers

    drivers = _drivers(build.directory, build.kernel_release)
    assert drivers is not None
    config = build.path("config").read_text()
    made = Kernel(build.arch, build.kernel_release, config, drivers)
    for symbol, modalias in (("BLK_DEV_PIIX", NATIVE), ("VIRTIO_PCI", VIRTIO)):
        lacks = "disk-driver" in refused(made, disk(modalias))
        assert lacks == (not disk_rules.built_in(config, symbol)), symbol
    if disk_rules.built_in(config, "E1000"):
        assert "nic-driver" not in refused(made, card(rootfs="nfs"))
