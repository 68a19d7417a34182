# SPDX-License-Identifier: GPL-2.0-or-later
"""The proof that modules fit: real ELF files, then the same ones with one thing wrong."""

from __future__ import annotations

import contextlib
import random
import shutil
import struct
import subprocess
from pathlib import Path

import mini
import pytest

from provision import elf
from provision.errors import FailedError, InputError

RELEASE = "2.6.20-mini"


class Tree:
    """The small kernel, compiled by gcc and make with nothing of ours in between."""

    def __init__(self, place: Path, *, versions: bool = True) -> None:
        shutil.copytree(mini.HERE / "linux", place)
        self.place, self.modules = place, place / "out/lib/modules"
        main = place / "kernel/main.c"
        main.write_text(main.read_text().replace("OLD_COMPILERS_KNEW_THIS", "2"))
        makefile = place / "Makefile"
        text = makefile.read_text().replace("EXTRAVERSION =", "EXTRAVERSION = -mini")
        makefile.write_text(text)
        config = "CONFIG_MODULES=y\n" + ("CONFIG_MODVERSIONS=y\n" if versions else "")
        (place / ".config").write_text(config)
        self.make()

    def make(self) -> None:
        subprocess.run(
            ["make", "-s", "ARCH=x86_64", "INSTALL_MOD_PATH=out",
             "bzImage", "modules", "modules_install"],
            cwd=self.place, check=True, capture_output=True,
        )  # fmt: skip

    def module(self, name: str) -> Path:
        return self.modules / RELEASE / "kernel/drivers" / f"{name}.ko"

    def compile(self, name: str, text: str, *flags: str) -> None:
        source = self.place / f"{name}.c"
        source.write_text('#include "module.h"\nMODULE\n' + text)
        subprocess.run(
            ["gcc", "-O1", "-ffreestanding", "-fno-pie", "-fcf-protection=none", "-Iinclude",
             f'-DRELEASE="{RELEASE}"', "-DMODVERSIONS", *flags, "-c", "-o", self.module(name),
             source],
            cwd=self.place, check=True,
        )  # fmt: skip

    def prove(self) -> int:
        return elf.prove(self.place / "vmlinux", self.modules, RELEASE)

    def wrong(self) -> str:
        with pytest.raises(FailedError) as caught:
            self.prove()
        return caught.value.message


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "linux")


def test_what_fits_is_counted(tree: Tree) -> None:
    assert tree.prove() == 2


def test_what_is_read(tree: Tree) -> None:
    kernel = elf.read_kernel(tree.place / "vmlinux")
    assert kernel.machine == "EM_X86_64"
    assert kernel.vermagic == f"{RELEASE} mod_unload MODVERSIONS "
    assert kernel.exports["mini_print"] == 0x1234
    user = elf.read_module(tree.module("user"))
    assert user.vermagic == kernel.vermagic
    assert user.versions == {"mini_print": 0x1234, "mini_help": 0x5678}
    assert user.undefined == {"mini_print", "mini_help"}
    assert elf.read_module(tree.module("helper")).exports["mini_help"] == 0x5678


@pytest.mark.parametrize("crc", [0x1234, 0x1235])
def test_crcs_of_newer_kernels_lie_in_a_section(tree: Tree, crc: int) -> None:
    """As EXPORT_SYMBOL leaves them from 5.19 on, in kernel and modules alike."""
    header = tree.place / "include/module.h"
    absolute = 'asm(".globl __crc_" #name "\\n.set __crc_" #name ", " #value);'
    placed = (
        'asm(".section \\"__kcrctab\\",\\"a\\"\\n.long 0xdeadbeef\\n__crc_" #name ": .long " '
        '#value "\\n.previous");'
    )
    text = header.read_text()
    assert absolute in text
    header.write_text(text.replace(absolute, placed))
    user = tree.place / "drivers/user.c"
    user.write_text(user.read_text().replace("0x1234", hex(crc)))
    subprocess.run(["make", "-s", "clean"], cwd=tree.place, check=False, capture_output=True)
    for made in (*tree.place.rglob("*.o"), *tree.place.rglob("*.ko")):
        made.unlink()
    tree.make()
    assert elf.read_kernel(tree.place / "vmlinux").exports["mini_print"] == 0x1234
    assert elf.read_module(tree.module("helper")).exports["mini_help"] == 0x5678
    if crc == 0x1234:
        assert tree.prove() == 2
    else:
        assert "mini_print: wants CRC 0x00001235, the exporter has 0x00001234" in tree.wrong()


def test_without_versions_names_are_all_there_is(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "linux", versions=False)
    assert elf.read_kernel(tree.place / "vmlinux").exports["mini_print"] == 0
    assert tree.prove() == 2
    tree.module("helper").unlink()
    assert "user.ko: mini_help: used, but nothing exports it" in tree.wrong()


def test_a_flipped_crc(tree: Tree) -> None:
    path = tree.module("user")
    data = path.read_bytes()
    entry = struct.pack("<Q", 0x5678) + b"mini_help\0"
    assert data.count(entry) == 1
    path.write_bytes(data.replace(entry, struct.pack("<Q", 0x5679) + b"mini_help\0"))
    assert "user.ko: mini_help: wants CRC 0x00005679, the exporter has 0x00005678" in tree.wrong()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"2.6.20-mini mod", b"2.6.21-mini mod"),
        (b"mod_unload MODVERSIONS ", b"mod_unload MODVERSIONS\0"),
        (b"vermagic=", b"fermagic="),
    ],
)
def test_another_vermagic(tree: Tree, old: bytes, new: bytes) -> None:
    path = tree.module("helper")
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    assert "helper.ko: vermagic" in tree.wrong()


def test_a_symbol_nobody_exports(tree: Tree) -> None:
    tree.compile("odd", 'USES({ 1, "nobody" })\nint nobody(void);\nint f(void){return nobody();}')
    assert "odd.ko: nobody: used, but nothing exports it" in tree.wrong()


def test_a_weak_symbol_may_be_missing(tree: Tree) -> None:
    text = "int nobody(void) __attribute__((weak));\nint f(void){return nobody ? nobody() : 0;}"
    tree.compile("odd", text)
    assert tree.prove() == 3


def test_a_symbol_without_a_crc(tree: Tree) -> None:
    tree.compile("odd", "int f(void) { return mini_print(1); }")
    assert "odd.ko: mini_print: used without a recorded CRC" in tree.wrong()


def test_another_machine(tree: Tree) -> None:
    probe = subprocess.run(
        ["gcc", "-m32", "-xc", "-c", "-o", "/dev/null", "-"], input="int x;", text=True,
        capture_output=True,
    )  # fmt: skip
    if probe.returncode != 0:
        pytest.skip("gcc cannot compile for i386: apt-get install gcc-multilib")
    tree.compile("odd", "int x;", "-m32")
    assert "odd.ko: made for EM_386, the kernel for EM_X86_64" in tree.wrong()


def test_32_bit_versions_are_read(tree: Tree) -> None:
    test_another_machine(tree)
    tree.compile(
        "odd", 'USES({ 0x1234, "mini_print" })\nint f(void){return mini_print(1);}', "-m32"
    )
    assert elf.read_module(tree.module("odd")).versions == {"mini_print": 0x1234}


def test_all_are_counted_in_the_message(tree: Tree) -> None:
    for name in ("odd", "odder"):
        tree.compile(name, "int f(void) { return mini_print(1); }")
    assert tree.wrong().endswith("(and 1 more)")


def test_another_release(tree: Tree) -> None:
    with pytest.raises(FailedError, match="its vermagic is"):
        elf.prove(tree.place / "vmlinux", tree.modules, "2.6.20-other")


def test_a_truncated_module_is_named(tree: Tree) -> None:
    path = tree.module("user")
    whole = path.read_bytes()
    # The table of sections is at the end, so no cut leaves a module that can be read.
    for size in (0, 4, 63, 64, *range(100, len(whole), 97), len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises((InputError, FailedError), match=r"user\.ko"):
            tree.prove()


def test_noise_in_a_module_is_never_a_traceback(tree: Tree) -> None:
    path = tree.module("user")
    whole = path.read_bytes()
    for seed in range(150):
        chance = random.Random(seed)
        data = bytearray(whole)
        for _ in range(3):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        with contextlib.suppress(InputError, FailedError):
            assert tree.prove() == 2


def test_a_section_larger_than_any_memory(tree: Tree) -> None:
    path = tree.module("user")
    data = bytearray(path.read_bytes())
    table, size, count = struct.unpack_from("<Q10xHH", data, 40)
    for at in range(table, table + size * count, size):
        struct.pack_into("<Q", data, at + 32, 1 << 60)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"user\.ko: not an ELF file, or a damaged one"):
        tree.prove()


def test_no_elf_at_all(tree: Tree) -> None:
    tree.module("user").write_bytes(b"#!/bin/sh\n" * 100)
    with pytest.raises(InputError, match=r"user\.ko: not an ELF file"):
        tree.prove()
    (tree.place / "vmlinux").write_bytes(b"")
    with pytest.raises(InputError, match="vmlinux: not an ELF file"):
        tree.prove()
