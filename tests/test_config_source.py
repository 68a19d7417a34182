# SPDX-License-Identifier: GPL-2.0-or-later
"""What configurations come in: files, compressed ones, kernels, modules; bombs and rubbish."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Command
from hypothesis import given, settings
from hypothesis import strategies as st

from kconfig import config_source, packed
from kconfig.errors import KconfigError

# A busy machine is no failure.
CALM = settings(deadline=None)
FEW = settings(deadline=None, max_examples=30)
TEXT = "CONFIG_NET=y\n# CONFIG_KEYS is not set\n"
# As scripts/Makefile.lib of the kernel packs a payload, and as people pack a file.
PACKERS = {
    "zstd kernel": ["zstd", "-q", "-22", "--ultra"],
    "zstd": ["zstd", "-q"],
    "lz4 kernel": ["lz4", "-q", "-l", "-9", "-", "-"],
    "lz4": ["lz4", "-q", "-", "-"],
    "lzo": ["lzop", "-q", "-9"],
}


def pack(how: str, data: bytes) -> bytes:
    """Compress with the real program; skip where it is not."""
    command = PACKERS[how]
    if not shutil.which(command[0]):
        package = {"lzop": "lzop", "lz4": "lz4", "zstd": "zstd"}[command[0]]
        pytest.skip(f"no {command[0]}; enable with: apt-get install {package}")
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def by_python(how: str, data: bytes) -> bytes:
    return {
        "gzip": gzip.compress,
        "xz": lzma.compress,
        "bzip2": bz2.compress,
        "lzma": lambda raw: lzma.compress(raw, format=lzma.FORMAT_ALONE),
    }[how](data)


def packed_as(how: str, data: bytes) -> bytes:
    return pack(how, data) if how in PACKERS else by_python(how, data)


KINDS = ["gzip", "xz", "bzip2", "lzma", *PACKERS]


def ikconfig(text: str) -> bytes:
    """Lay out a configuration as kernel/configs.c does."""
    return b"IKCFG_ST" + gzip.compress(text.encode()) + b"IKCFG_ED"


@pytest.fixture(scope="module")
def vmlinux(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real ELF file with a configuration in its data, linked by the real tools."""
    place = tmp_path_factory.mktemp("elf")
    (place / "blob").write_bytes(ikconfig(TEXT))
    (place / "noise").write_bytes(os.urandom(1 << 20))
    (place / "a.S").write_text(
        '.section .rodata\n.incbin "blob"\n.zero 300000\n.incbin "noise"\n.zero 300000\n'
    )
    subprocess.run(["gcc", "-c", "a.S"], cwd=place, check=True)
    return (place / "a.o").read_bytes()


def bzimage(payload: bytes, protocol: int = 0x20F, behind: bytes = b"") -> bytes:
    """Lay out boot sector, setup, code and payload as a bzImage (the kernel's boot.rst)."""
    sectors, code = 3, os.urandom(777) + b"\x1f\x8b\x08 not really"
    head = bytearray(os.urandom((sectors + 1) * 512))
    head[0x1F1] = sectors
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, protocol)
    struct.pack_into("<II", head, 0x248, len(code), len(payload))
    return bytes(head) + code + payload + behind


def appended(how: str, kernel: bytes) -> bytes:
    """Return a payload with the size behind it, which gzip has of its own."""
    size = b"" if how == "gzip" else struct.pack("<I", len(kernel))
    return packed_as(how, kernel) + size


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("protocol", [0x20F, 0x204])
def test_configuration_inside_kernels(how: str, protocol: int, vmlinux: bytes) -> None:
    image = bzimage(appended(how, vmlinux), protocol, b"signature" + os.urandom(600))
    assert config_source.config_text(image, "x") == (TEXT, "IKCONFIG")


@pytest.mark.parametrize("how", KINDS)
def test_compressed_kernels_and_modules(how: str, vmlinux: bytes) -> None:
    data = packed_as(how, vmlinux)
    assert config_source.config_text(data, "x") == (TEXT, "IKCONFIG")


def test_configuration_inside_elf_files(vmlinux: bytes) -> None:
    assert config_source.config_text(vmlinux, "x") == (TEXT, "IKCONFIG")
    # Others had the mark in a string: it is not the configuration.
    odd = vmlinux.replace(b"IKCFG_ST", b"IKCFG_ST\x1f\x8b\x08 IKCFG_ST", 1)
    assert config_source.config_text(odd, "x") == (TEXT, "IKCONFIG")


@pytest.mark.parametrize("how", KINDS)
def test_kernels_without_a_configuration(how: str, vmlinux: bytes) -> None:
    bare = vmlinux.replace(b"IKCFG_ST", b"IKCFG_XX")
    with pytest.raises(KconfigError, match=r"^x: .*without IKCONFIG$"):
        config_source.config_text(bzimage(appended(how, bare)), "x")
    with pytest.raises(KconfigError, match=r"^x: .*without IKCONFIG$"):
        config_source.config_text(packed_as(how, bare), "x")


@pytest.mark.parametrize("how", KINDS)
def test_damaged_kernels(how: str, vmlinux: bytes) -> None:
    payload = appended(how, vmlinux.replace(b"IKCFG_ST", b"IKCFG_XX"))
    cut = payload[: len(payload) // 2]
    with pytest.raises(KconfigError, match=r"^x: .*did not unpack: .*(damaged|ends too early)"):
        config_source.config_text(bzimage(cut), "x")
    # What was unpacked before the damage is looked at, and gzip's checksum vouches for it.
    late = appended(how, vmlinux)[:-200]
    if how in ("gzip", "zstd kernel", "zstd", "lzma", "xz"):
        assert config_source.config_text(bzimage(late), "x") == (TEXT, "IKCONFIG")


@pytest.mark.parametrize("how", KINDS)
def test_compressed_files(how: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(packed_as(how, TEXT.encode()))
    found = config_source.read(str(path))
    assert set(found.values()) == {"NET", "KEYS"} and found.origin.endswith("-compressed")
    long = "".join(f"CONFIG_A{n}={n * 7919 % 1000}\n" for n in range(3000)).encode()
    for cut in (5, 1000):
        path.write_bytes(packed_as(how, long)[:-cut])
        with pytest.raises(KconfigError, match=r"damaged|ends too early"):
            config_source.read(str(path))
    path.write_bytes(packed_as(how, TEXT.encode())[:13] + b"\xff" * 40)
    with pytest.raises(KconfigError, match=r"damaged|ends too early|more than"):
        config_source.read(str(path))


def test_files_of_several_parts() -> None:
    for how in ("gzip", "xz", "bzip2", "zstd", "lz4"):
        data = b"".join(packed_as(how, line.encode()) for line in TEXT.splitlines(keepends=True))
        assert config_source.config_text(data, "x") == (TEXT, f"{how}-compressed")
    many = gzip.compress(b"") * 20_000
    with pytest.raises(KconfigError, match="more than 10000 parts"):
        config_source.config_text(many, "x")


@pytest.mark.parametrize(
    "command",
    [PACKERS["lz4 kernel"], PACKERS["lz4"], ["lz4", "-q", "-B4", "-BX", "--content-size"],
     ["lz4", "-q", "--no-frame-crc"]],
)  # fmt: skip
def test_what_follows_lz4_is_kept_from_the_program(command: list[str], tmp_path: Path) -> None:
    """lz4 1.10 writes less than all of what came before, not the same on every run."""
    if not shutil.which("lz4"):
        pytest.skip("no lz4; enable with: apt-get install lz4")
    text = os.urandom(1 << 20) + bytes(300_000)
    (tmp_path / "text").write_bytes(text)
    # From a file: of a pipe the size is not known.
    argv = [word for word in command if word != "-"]
    subprocess.run([*argv, tmp_path / "text", tmp_path / "packed"], check=True)
    data = (tmp_path / "packed").read_bytes()
    assert packed.unpack(data, "lz4") == (text, "")
    assert packed.unpack(data * 3, "lz4") == (text * 3, "")
    # What is for somebody else may stand between.
    other = b"\x53\x2a\x4d\x18" + struct.pack("<I", 5) + b"other"
    assert packed.unpack(data + other + data, "lz4") == (text * 2, "")
    noise = b"\xff" + random.Random(1).randbytes(50_000)
    for behind in (struct.pack("<I", len(text)), bytes(100), noise + b"signature"):
        # Not all versions of the program show it.
        assert packed._lz4_end(memoryview(data + behind)) == len(data)
        found = packed.unpack(data + behind, "lz4")
        assert found.data == text and "something behind it" in found.trouble
    cut = packed.unpack(data[:-20], "lz4")
    assert text.startswith(cut.data) and len(cut.data) < len(text) and cut.trouble


@pytest.mark.parametrize("how", ["gzip", "zstd", "lz4 kernel", "lzo"])
def test_a_bomb_is_refused(how: str, tmp_path: Path) -> None:
    command = {"gzip": ["gzip", "-1"], "zstd kernel": ["zstd", "-q"]}.get(how) or PACKERS[how]
    if not shutil.which(command[0]):
        pytest.skip(f"no {command[0]}; enable with: apt-get install {command[0]}")
    with (tmp_path / "zeros").open("w+b") as stream:
        stream.truncate(257 << 20)
        done = subprocess.run([*command, "-c"], stdin=stream, capture_output=True, check=True)
    with pytest.raises(KconfigError, match=r"^x: unpacks to more than 256 MiB"):
        config_source.config_text(done.stdout, "x")
    with pytest.raises(KconfigError, match=r"did not unpack: unpacks to more than 256 MiB"):
        config_source.config_text(bzimage(done.stdout + b"size"), "x")


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("size", [0, 1, packed._PIECE, 2 * packed._PIECE, (3 << 20) - 1, 3 << 20])
def test_no_more_comes_out_than_asked_for(how: str, size: int) -> None:
    whole = os.urandom(1000) * (size // 1000 + 1)
    data = packed_as(how, whole[:size])
    assert packed.unpack(data, how.split(maxsplit=1)[0]) == (whole[:size], "")
    budget = packed.Budget()
    found = packed.unpack(data, how.split(maxsplit=1)[0], budget, 2 << 20)
    assert found.data == whole[: min(size, 2 << 20)] and bool(found.trouble) == (size > 2 << 20)
    assert budget.left == packed.Budget().left - len(found.data)


# What the bounds are for: each of these kept an unbounded reader busy for hours.
HOSTILE = {
    "marks": b"\0IKCFG_ST\x1f\x8b\x08" * 3_000_000,
    "bombs": bzimage(b"", 0x204) + gzip.compress(bytes(64 << 20)) * 60,
    "marked bombs": b"\0" + (b"IKCFG_ST" + gzip.compress(bytes(9 << 20), 1)[:-9]) * 200,
    "lzma heads": bzimage(b"", 0x204) + b"\x5d\0\0\0\x0f" * 500_000,
    "zstd heads": bzimage(b"", 0x204) + packed.MAGICS["zstd"][0] * 500_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_take_bounded_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[packed.Budget] = []
    calls = []
    plain = packed.unpack

    def counted(data: bytes, kind: str, budget: packed.Budget, *most: int) -> packed.Unpacked:
        calls.append(kind)
        budgets.append(budget)
        return plain(data, kind, budget, *most)

    monkeypatch.setattr(packed, "unpack", counted)
    with pytest.raises(KconfigError, match=r"^x: "):
        config_source.config_text(HOSTILE[name], "x")
    assert len(calls) < 1000 and all(budget is budgets[0] for budget in budgets)
    assert budgets[0].left >= -1


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """A process with little memory reads a bomb in words, not with a MemoryError."""
    bomb = tmp_path / "bomb"
    with bomb.open("wb") as stream:
        stream.write(gzip.compress(bytes(400 << 20), 1))
    (tmp_path / "large").write_bytes((os.urandom(99) + b"\0") * (3 << 20))
    code = (
        "import resource, sys\nfrom kconfig import config_source\n"
        "resource.setrlimit(resource.RLIMIT_AS, (900 << 20, 900 << 20))\n"
        "from kconfig.errors import KconfigError\n"
        "for name in sys.argv[1:]:\n try:\n  config_source.read(name)\n"
        " except KconfigError as e:\n  print(e)\n"
    )
    argv = [sys.executable, "-c", code, bomb, tmp_path / "large"]
    done = subprocess.run(argv, capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert first == f"{bomb}: unpacks to more than 256 MiB", done.stderr
    assert second.startswith(f"{tmp_path}/large: binary (a NUL in line "), done.stderr


@pytest.mark.parametrize("how", PACKERS)
def test_without_the_program(
    how: str, krg: Command, vmlinux: bytes, home: Path, tmp_path: Path
) -> None:
    (home / "image").write_bytes(bzimage(appended(how, vmlinux)))
    (home / "file").write_bytes(pack(how, TEXT.encode()))
    (tmp_path / "bin").mkdir()
    environment = os.environ | {"PATH": str(tmp_path / "bin")}
    done = krg("config", "lint", "--policy", "none", "image", "file", env=environment)
    program = PACKERS[how][0]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and all(f"(apt-get install {program})" in line for line in lines)
    assert lines[0].startswith("krg-provision: error: image: ")


def fake(place: Path, body: str) -> None:
    for name in ("zstd", "lz4", "lzop"):
        (place / name).write_text(f"#!/bin/sh\n{body}\n")
        (place / name).chmod(0o755)


@pytest.mark.parametrize("how", ["zstd", "lz4", "lzo"])
def test_programs_that_misbehave(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed.MAGICS[how][0] + bytes(100)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    fake(tmp_path, "exec sleep 1000")
    slow = packed.unpack(data, how, packed.Budget(seconds=0.2))
    assert slow.data == b"" and "took more than" in slow.trouble
    fake(tmp_path, "exec cat /dev/zero")
    endless = packed.unpack(data, how, packed.Budget(), 1 << 20)
    assert len(endless.data) == 1 << 20 and "more than 1 MiB" in endless.trouble
    fake(tmp_path, 'test -z "$LZOP$KRG_SECRET" && echo CONFIG_A=y')
    monkeypatch.setenv("LZOP", "--best")
    monkeypatch.setenv("KRG_SECRET", "x")
    assert packed.unpack(data, how) == (b"CONFIG_A=y\n", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("zstd", "lz4", "lzop"):
        (tmp_path / name).write_bytes(b"\0")
    assert "cannot run" in packed.unpack(data, how).trouble


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("pipe", "not a regular file"), (".", "not a regular file"),
                       ("none", "No such file"), ("/dev/zero", "not a regular file")):  # fmt: skip
        with pytest.raises(KconfigError, match=said):
            config_source.read(str(tmp_path / name))
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 40)
    with pytest.raises(KconfigError, match="neither a kernel image nor a module"):
        config_source.read(str(tmp_path / "noise"))


@pytest.mark.skipif(
    not Path("/proc/config.gz").exists(),
    reason="this kernel has no IKCONFIG_PROC; enable by booting one that has",
)
def test_the_running_kernel() -> None:
    assert config_source.read("/proc/config.gz").version is not None


def test_files_of_proc_say_they_are_empty() -> None:
    """/proc/config.gz has size 0, as all of /proc has; a thread's name is one that we can set."""
    comm = Path("/proc/self/comm")
    before = comm.read_text()
    try:
        comm.write_text("CONFIG_A=y")
        assert comm.stat().st_size == 0
        assert set(config_source.read(str(comm)).values()) == {"A"}
    finally:
        comm.write_text(before)


def read_or_refused(data: bytes) -> None:
    try:
        text, _ = config_source.config_text(data, "here")
    except KconfigError as error:
        assert str(error).startswith("here: ") and "\n" not in str(error)
    else:
        assert isinstance(text, str)


@CALM
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_in_words(data: bytes) -> None:
    heads = [magic for kind, magics in packed.MAGICS.items() if kind not in packed.TOOLS
             for magic in magics]  # fmt: skip
    for head in (b"", *heads, b"BZh9", b"\x7fELF\0IKCFG_ST\x1f\x8b\x08"):
        read_or_refused(head + data)


@CALM
@given(
    st.binary(max_size=80), st.integers(0, 255), st.integers(0x200, 0x20F),
    st.one_of(st.integers(0, 2000), st.integers(0, 2**32 - 1)),
    st.one_of(st.integers(0, 2000), st.integers(0, 2**32 - 1)), st.integers(0, 0x300),
)  # fmt: skip
def test_any_header_is_read_or_refused_in_words(
    data: bytes, sectors: int, protocol: int, offset: int, length: int, size: int
) -> None:
    image = bytearray(bzimage(gzip.compress(ikconfig(TEXT))))
    image[0x1F1] = sectors
    struct.pack_into("<H", image, 0x206, protocol)
    struct.pack_into("<II", image, 0x248, offset, length)
    read_or_refused(bytes(image[: size or None]) + data)


CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["set", "drop", "double"]), st.integers(0, 255)),
    min_size=1, max_size=6,
)  # fmt: skip


def changed(data: bytes, changes: list[tuple[float, str, int]]) -> bytes:
    out = bytearray(data)
    for where, what, value in changes:
        at = int(where * (len(out) - 1)) if out else 0
        if what == "set" and out:
            out[at] = value
        elif what == "drop":
            del out[at : at + value]
        else:
            out[at:at] = out[at : at + value]
    return bytes(out)


SMALL = b"\x7fELF" + bytes(40) + ikconfig(TEXT) + b"kernel " * 2000


@CALM
@given(st.sampled_from(["gzip", "xz", "bzip2", "lzma"]), st.booleans(), CHANGES)
def test_changed_files_are_read_or_refused_in_words(
    how: str, image: bool, changes: list[tuple[float, str, int]]
) -> None:
    data = by_python(how, SMALL)
    read_or_refused(changed(bzimage(data + b"size") if image else data, changes))


@FEW
@given(st.sampled_from(list(PACKERS)), st.booleans(), CHANGES)
def test_changed_files_of_programs_too(
    how: str, image: bool, changes: list[tuple[float, str, int]]
) -> None:
    data = pack(how, SMALL)
    read_or_refused(changed(bzimage(data + b"size") if image else data, changes))
