# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices against the modules that were built: the same answers as modprobe gives."""

from __future__ import annotations

import ctypes
import gzip
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Command
from hypothesis import given, settings
from hypothesis import strategies as st

from kconfig import built, crosscheck, lint
from kconfig.config_file import parse
from kconfig.drivers import Device
from kconfig.errors import KconfigError

CALM = settings(deadline=None)
RELEASE = "6.1.0-test"
# Not everybody's PATH has depmod and modprobe.
SBIN = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
# What the kernel's build leaves of drivers: patterns as they are in real kernels, and odd ones.
ALIASES = {
    "e1000": ["pci:v00008086d0000100Esv*sd*bc*sc*i*", "pci:v00008086d00001000sv*sd*bc*sc*i*"],
    "ahci": ["pci:v00008086d00002922sv*sd*bc*sc*i*", "pci:v*d*sv*sd*bc01sc06i01*"],
    "ata-generic": ["pci:v*d*sv*sd*bc01sc01i*", "pci:v00008086d*sv*sd*bc01sc01i*"],
    "nvme": ["pci:v*d*sv*sd*bc01sc08i02*"],
    "tg3": ["pci:v000014E4d00001677sv00001028sd*bc*sc*i*", "pci:v000014E4d0000167[0-6]sv*"],
    "odd_one": ["pci:v000010ECd0000813?sv*sd*bc*sc*i*", "pci:v000010ECd000081[!0-8]*",
                "usb:v1d1p1*", "pci:v0000AAAAd[^B]*bc02*", "pci:v0000BBBBd[z-a]*",
                "pci:v0000CCCCd["],
}  # fmt: skip
INSIDE = {"virtio_pci": ["pci:v00001AF4d*sv*sd*bc*sc*i*"]}
DEVICES = [
    Device(0x8086, 0x100E, 0x1AF4, 0x1100, 0x020000), Device(0x8086, 0x2922, 0, 0, 0x010601),
    Device(0x144D, 0xA808, 0, 0, 0x010802), Device(0x144D, 0xA808, 0, 0, 0x010801),
    Device(0x8086, 0x7010, 0, 0, 0x010180), Device(0x14E4, 0x1677, 0x1028, 1, 0x020000),
    Device(0x14E4, 0x1677, 0x103C, 1, 0x020000), Device(0x14E4, 0x1673, 1, 1, 0x020000),
    Device(0x10EC, 0x8139, 1, 1, 0x020000), Device(0x10EC, 0x8189, 1, 1, 0x020000),
    Device(0xAAAA, 0xC0000000, 1, 1, 0x020000), Device(0xAAAA, 0xB0000000, 1, 1, 0x020000),
    Device(0xBBBB, 1, 1, 1, 0x020000), Device(0xCCCC, 1, 1, 1, 0x020000),
    Device(0x1AF4, 0x1000, 0x1AF4, 1, 0x020000), Device(0x1AF4, 0x1001, 0x1AF4, 2, 0x010000),
]  # fmt: skip


def modalias(device: Device) -> str:
    kind = f"bc{device.pci_class >> 16:02X}sc{device.pci_class >> 8 & 255:02X}"
    ids = "v{:08X}d{:08X}sv{:08X}sd{:08X}".format(*device[:4])
    return f"pci:{ids}{kind}i{device.pci_class & 255:02X}"


def module(place: Path, name: str, aliases: list[str]) -> None:
    """Assemble an object file with the section that modinfo reads."""
    strings = "".join(f'.asciz "alias={alias}"\n' for alias in aliases)
    source = f'.section .modinfo,"a"\n.asciz "license=GPL"\n{strings}'
    place.mkdir(parents=True, exist_ok=True)
    argv = ["as", "-o", place / f"{name}.ko", "-"]
    subprocess.run(argv, input=source, text=True, check=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root directory with modules as they are installed, indexed by the real depmod."""
    place = tmp_path_factory.mktemp("root")
    modules = place / "lib/modules" / RELEASE
    for name, aliases in ALIASES.items():
        module(modules / "kernel/drivers", name, aliases)
    (modules / "modules.order").write_text("".join(f"kernel/drivers/{n}.ko\n" for n in ALIASES))
    (modules / "modules.builtin").write_text("".join(f"kernel/drivers/{n}.ko\n" for n in INSIDE))
    entries = [f"{name}.alias={alias}" for name, found in INSIDE.items() for alias in found]
    entries.append("virtio_pci.license=GPL")
    (modules / "modules.builtin.modinfo").write_text("\0".join(entries) + "\0")
    subprocess.run(["depmod", "-b", place, RELEASE], check=True, env=SBIN)
    return place


def modprobe(place: Path, release: str, device: Device) -> list[str]:
    argv = ["modprobe", "-d", place, "-S", release, "--resolve-alias", modalias(device)]
    done = subprocess.run(argv, capture_output=True, text=True, env=SBIN)
    return sorted(set(done.stdout.split()))


def ours(made: built.Built, device: Device) -> list[str]:
    return sorted({*built.names(made.modules, device), *built.names(made.inside or (), device)})


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_the_same_as_modprobe(device: Device, root: Path) -> None:
    assert ours(built.load(root), device) == modprobe(root, RELEASE, device)


def test_from_the_modules_themselves(root: Path, tmp_path: Path) -> None:
    """Where depmod never ran; compressed modules too."""
    place = tmp_path / "lib/modules" / RELEASE
    shutil.copytree(root / "lib/modules" / RELEASE, place)
    whole = built.load(tmp_path)
    for name in place.glob("modules.alias*"):
        name.unlink()
    assert set(built.load(tmp_path).modules) == set(whole.modules)
    packers: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "xz": lzma.compress}
    for kind, pack in packers.items():
        for path in list(place.rglob("*.ko"))[:2]:
            path.with_suffix(f".ko.{kind}").write_bytes(pack(path.read_bytes()))
            path.unlink()
    assert set(built.load(tmp_path).modules) == set(whole.modules)
    for data, said in ((b"", "not a module"), (b"\x7fELF" + os.urandom(100), "not a module"),
                       (b"\x1f\x8b\x08", "ends too early")):  # fmt: skip
        (place / "kernel/bad.ko").write_bytes(data)
        with pytest.raises(KconfigError, match=rf"/bad\.ko: .*{said}"):
            built.load(tmp_path)


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1), st.binary(min_size=1, max_size=40))
def test_any_module_is_read_or_refused(root: Path, where: float, data: bytes) -> None:
    path = root / "changed" / "x.ko"
    path.parent.mkdir(exist_ok=True)
    whole = (root / "lib/modules" / RELEASE / "kernel/drivers/ahci.ko").read_bytes()
    at = int(where * len(whole))
    path.write_bytes(whole[:at] + data + whole[at + len(data) :])
    try:
        built._modinfo(path)
    except KconfigError as error:
        assert str(error).startswith(f"{path}: ")


def test_which_directory(root: Path, tmp_path: Path) -> None:
    release = root / "lib/modules" / RELEASE
    for place in (root, root / "lib/modules", release):
        assert built.load(place).release == RELEASE
    assert built.load(root).version == (6, 1, 0)
    (tmp_path / "usr/lib").mkdir(parents=True)
    with pytest.raises(KconfigError, match="no modules in it"):
        built.load(tmp_path)
    with pytest.raises(KconfigError, match="no such directory"):
        built.load(tmp_path / "none")
    shutil.copytree(root / "lib", tmp_path / "usr/lib", dirs_exist_ok=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    assert built.load(tmp_path).release == RELEASE
    (tmp_path / "lib/modules/2.6.20/kernel").mkdir(parents=True)
    with pytest.raises(KconfigError, match=r"several kernels \(2\.6\.20, 6\.1\.0-test\)"):
        built.load(tmp_path)
    old = built.load(tmp_path / "lib/modules/2.6.20")
    assert (old.modules, old.inside, old.version) == ((), None, (2, 6, 20))


FNMATCH = ctypes.CDLL(None).fnmatch


@CALM
@given(
    st.text("a*?[]!^-bc\\", max_size=12),
    st.lists(st.text("abc-]!", max_size=8), min_size=1, max_size=4),
)
def test_patterns_match_as_in_the_c_library(pattern: str, texts: list[str]) -> None:
    # Left out: sets with something escaped, classes, ranges with ends that are no characters.
    inner = re.sub(r"\[[!^]?\]?", "[", pattern)
    if ("\\" in pattern and "[" in pattern) or re.search(r"-[\]-]|\[-|--", inner):
        return
    for text in texts:
        wanted = FNMATCH(pattern.encode(), text.encode(), 0) == 0
        if pattern.endswith("\\") and not pattern.endswith("\\\\"):
            continue
        assert built._matches(pattern, text) == wanted, (pattern, text)


def test_stars_take_no_time() -> None:
    assert not built._matches("pci:" + "*0" * 2000 + "x", "pci:" + "0" * 70)


def findings(made: built.Built, config: str, devices: list[Device], tree: Path | None = None,
             **facts: str) -> list[tuple[str, str, str]]:  # fmt: skip
    version = made.version if made.version != (6, 1, 0) else (6, 1, 192)
    subject = lint.Subject(parse(config, "x"), version, "x86_64", facts)
    found = crosscheck.devices(subject, tree, devices, made)
    return [(one.rule, one.severity, one.have) for one in found]


AHCI, NIC = Device(0x8086, 0x2922, 0, 0, 0x010601), Device(0x8086, 0x100E, 0, 0, 0x020000)
LOST = Device(0x1234, 0x5678, 0, 0, 0x020000)


def test_findings_about_what_was_built(root: Path) -> None:
    made = built.load(root)
    module = ("node/disk-driver", "recommended", "the driver of disk device 8086:2922 is a module "
              "(ahci)")  # fmt: skip
    virtio = Device(0x1AF4, 0x1001, 0x1AF4, 2, 0x010000)
    assert findings(made, "CONFIG_A=y\n", [AHCI, NIC, virtio]) == [module]
    initrd = {"boot.initrd": "yes"}
    assert findings(made, "CONFIG_A=y\n", [AHCI, NIC, virtio], **initrd) == []
    # A root on the network needs its card, and no disk.
    ((rule, _, have),) = findings(made, "CONFIG_A=y\n", [AHCI, NIC], **{"root.disk": "nfs"})
    assert rule == "node/network-driver" and "(e1000)" in have
    ((rule, severity, have),) = findings(made, "CONFIG_A=y\n", [LOST])
    assert severity == "required" and "nothing in 6.1.0-test drives network device" in have
    vague = Device(0x144D, 0xA808, pci_class=0x010800, class_known=0xFFFF00)
    assert "(nvme)" in findings(made, "CONFIG_A=y\n", [vague])[0][2]


def test_findings_about_old_kernels(root: Path, tmp_path: Path) -> None:
    """They do not say what is built in: the tree does, if there is one."""
    made = built.load(root)._replace(inside=None, directory=Path("/lib/modules/2.6.20-krg"))
    ((_, severity, have),) = findings(made, "CONFIG_A=y\n", [LOST])
    assert severity == "recommended" and "no module of 2.6.20-krg" in have
    for name, text in {
        "include/linux/pci_ids.h": "#define X 1\n",
        "drivers/net/Makefile": "obj-$(CONFIG_LOST) += lost.o\n",
        "drivers/net/lost.c": "struct pci_device_id t[] = { { 0x1234, 0x5678, ~0, ~0 }, {} };\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for config, said in (
        ("CONFIG_LOST=y\n", None),
        ("CONFIG_LOST=m\n", "no module of 2.6.20-krg drives network device 1234:5678, although"),
        ("# CONFIG_LOST is not set\nCONFIG_A=y\n", "LOST off"),
    ):
        found = findings(made, config, [LOST, NIC], tmp_path)
        assert [said in have for _, _, have in found if said] == [True] * bool(said), found
        assert all(severity == "required" for _, severity, _ in found)


def test_modules_of_another_kernel(root: Path) -> None:
    subject = lint.Subject(parse("CONFIG_A=y\n", "x"), (2, 6, 20), "x86_64", {})
    (found,) = crosscheck.devices(subject, None, [NIC], built.load(root))
    assert (found.rule, found.have, found.want) == (
        "node/modules",
        f"modules of {RELEASE}",
        "2.6.20",
    )


def test_a_device_named_twice_is_one(root: Path) -> None:
    text = f"00:05.0 0106: 8086:2922\n{modalias(AHCI)}\n01:00.0 0108: 144d:a808 (prog-if 02 [x])\n"
    seen = crosscheck.node_facts([("n", text)])
    assert seen.devices == (AHCI, Device(0x144D, 0xA808, pci_class=0x010802))


def test_the_command(krg: Command, home: Path, root: Path) -> None:
    (home / "c").write_text("# Linux/x86 6.1.0 Kernel Configuration\nCONFIG_SATA_AHCI=m\n")
    (home / "node").write_text(f"{modalias(AHCI)}\n{modalias(LOST)}\n")
    options = ("config", "lint", "--policy", "none", "--node", "node", "c")
    done = krg(*options, "--modules", root)
    assert done.returncode == 1 and "is a module (ahci)" in done.stdout, done.stderr
    assert "nothing in 6.1.0-test drives network device 1234:5678" in done.stdout
    wrong = krg(*options, "--modules", home)
    assert wrong.returncode == 2 and "no modules in it" in wrong.stderr
    alone = krg("config", "lint", "--modules", root, "c")
    assert alone.returncode == 2 and "--node, which is missing" in alone.stderr
    assert "Traceback" not in wrong.stderr + alone.stderr
