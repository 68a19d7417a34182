# SPDX-License-Identifier: GPL-2.0-or-later
"""What compressed data unpacks to, in bounds of size, memory and time.

gzip, bzip2, xz and lzma are read by Python itself; zstd, lz4 and lzo by the programs that
made them, as the kernel's own scripts do. Data is a stranger's: what is whole comes out,
what is not comes with the trouble in words, and nothing grows beyond ``Budget``.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

# How each kind begins. lz4 has two: the frame of today, and the older one kernels use.
MAGICS = {
    "gzip": (b"\x1f\x8b\x08",),
    "xz": (b"\xfd7zXZ\x00",),
    "bzip2": (b"BZh",),
    "lzma": (b"\x5d\x00\x00",),
    "zstd": (b"\x28\xb5\x2f\xfd",),
    "lz4": (b"\x02\x21\x4c\x18", b"\x04\x22\x4d\x18"),
    "lzo": (b"\x89LZO\x00\r\n\x1a\n",),
}


class Tool(NamedTuple):
    """A program that unpacks standard input to standard output, and its Debian package."""

    command: tuple[str, ...]
    package: str


TOOLS = {
    "zstd": Tool(("zstd", "-dcq"), "zstd"),
    "lz4": Tool(("lz4", "-dcq"), "lz4"),
    "lzo": Tool(("lzop", "-dcq"), "lzop"),
}
# All that is unpacked while one file is looked through: a large kernel, several times.
MOST = 256 << 20
_IN_ALL = 1 << 30
_SECONDS = 60.0
# What a dictionary may take: xz -9 wants 65 MiB.
_MEMORY = 256 << 20
_STEP = 1 << 16
_PIECE = 1 << 20
_PARTS = 10_000
# What a block of 8 MiB takes at most in lz4's older format, and more blocks than any file has.
_LZ4_MOST = (8 << 20) + (8 << 20) // 255 + 16
_LZ4_BLOCKS = 1_000_000
_LZ4_FLAGS = {"dictionary": 0x01, "checksum": 0x04, "size": 0x08, "block checksums": 0x10}


@dataclass
class Budget:
    """How many bytes may still come out of one file, and for how long programs may still run."""

    left: int = _IN_ALL
    seconds: float = _SECONDS


class Unpacked(NamedTuple):
    """What came out; ``trouble`` says in words why it is not all there is, else ""."""

    data: bytes
    trouble: str


def kind_of(data: bytes | memoryview) -> str | None:
    """Return how ``data`` is compressed, by its first bytes; None when it is not."""
    head = bytes(data[:16])
    for kind, magics in MAGICS.items():
        if head.startswith(magics):
            return kind
    return None


def unpack(
    data: bytes | memoryview, kind: str, budget: Budget | None = None, most: int = MOST
) -> Unpacked:
    """Unpack what begins ``data``; bytes behind its end do no harm, further parts are read.

    :param kind: a key of MAGICS.
    :param budget: what the whole file may still cost; this is taken off.
    """
    budget = budget or Budget()
    if budget.left <= 0:
        return Unpacked(b"", f"unpacks to more than {_IN_ALL >> 20} MiB in all")
    most = min(most, budget.left)
    unpacked = (_by_program if kind in TOOLS else _by_python)(memoryview(data), kind, budget, most)
    budget.left -= len(unpacked.data)
    return unpacked


def _too_much(most: int) -> str:
    return f"unpacks to more than {most >> 20} MiB"


def _by_python(data: memoryview, kind: str, budget: Budget, most: int) -> Unpacked:
    make, errors = _unpacker(kind)
    out = bytearray()
    # A part of the same kind that follows belongs to it: so read it gzip, bzip2 and xz.
    for _ in range(_PARTS):
        unpacker = make()
        try:
            end = _part(unpacker, data, out, most)
        except errors as error:
            return Unpacked(bytes(out), f"damaged {kind} data ({error})")
        if len(out) > most:
            del out[most:]
            return Unpacked(bytes(out), _too_much(most))
        if not unpacker.eof:
            return Unpacked(bytes(out), f"the {kind} data ends too early")
        data = data[end:]
        if kind == "lzma" or kind_of(data) != kind:
            return Unpacked(bytes(out), "")
    return Unpacked(bytes(out), f"the {kind} data has more than {_PARTS} parts")


def _unpacker(kind: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """Return what makes an unpacker, and the errors it raises; imported when asked for."""
    if kind == "gzip":
        return (lambda: zlib.decompressobj(wbits=31)), (zlib.error,)
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, (OSError, ValueError)
    import lzma

    form = lzma.FORMAT_XZ if kind == "xz" else lzma.FORMAT_ALONE
    return (lambda: lzma.LZMADecompressor(form, memlimit=_MEMORY)), (lzma.LZMAError, MemoryError)


def _part(unpacker: Any, data: memoryview, out: bytearray, most: int) -> int:
    """Append what one part unpacks to, a little over ``most`` at most; return where it ends."""
    for start in range(0, len(data), _STEP):
        given: bytes | memoryview = data[start : start + _STEP]
        while True:
            piece = unpacker.decompress(given, _PIECE)
            out += piece
            if len(out) > most:
                return start
            if unpacker.eof:
                return min(start + _STEP, len(data)) - len(unpacker.unused_data)
            # zlib hands back what it did not take, the others keep it.
            given = getattr(unpacker, "unconsumed_tail", b"")
            if not given and len(piece) < _PIECE:
                break
    return len(data)


def _lz4_end(data: memoryview) -> int:
    """Return where the lz4 data that begins ``data`` ends, or its length if that is not clear.

    lz4 1.10 and later lose some or all of what came before when something else follows, such
    as the size that stands behind a kernel. Source: lz4_Frame_format.md.
    """
    end, steps = 0, iter(range(_LZ4_BLOCKS))
    while True:
        if end and (skipped := _lz4_skipped(data, end)) is not None:
            end = skipped
        if kind_of(data[end:]) != "lz4":
            break
        found = (_lz4_old if data[end] == 0x02 else _lz4_frame)(data, end, steps)
        if found is None:
            return len(data)
        end = found
    return end


def _lz4_skipped(data: memoryview, start: int) -> int | None:
    """Return where a frame ends that is for somebody else; None when there is none."""
    head = bytes(data[start : start + 8])
    if len(head) < 8 or head[1:4] != b"\x2a\x4d\x18" or head[0] >> 4 != 5:
        return None
    end = start + 8 + int.from_bytes(head[4:], "little")
    return end if end <= len(data) else None


def _lz4_old(data: memoryview, start: int, steps: Iterator[int]) -> int | None:
    """Return where blocks of the older format end: nothing says so but what follows them."""
    at = start + 4
    for _ in steps:
        size = int.from_bytes(data[at : at + 4], "little")
        if not 0 < size <= _LZ4_MOST or at + 4 + size > len(data):
            return at if at > start + 4 else None
        at += 4 + size
    return None


def _lz4_frame(data: memoryview, start: int, steps: Iterator[int]) -> int | None:
    """Return where a frame of today ends; None when it is not whole."""
    flags = bytes(data[start + 4 : start + 5]) or b"\0"
    has = {name: bool(flags[0] & bit) for name, bit in _LZ4_FLAGS.items()}
    at = start + 7 + 8 * has["size"] + 4 * has["dictionary"]
    for _ in steps:
        if at + 4 > len(data):
            return None
        size = int.from_bytes(data[at : at + 4], "little") & 0x7FFFFFFF
        at += 4
        if size == 0:
            at += 4 * has["checksum"]
            return at if at <= len(data) else None
        at += size + 4 * has["block checksums"]
    return None


def _by_program(data: memoryview, kind: str, budget: Budget, most: int) -> Unpacked:
    tool = TOOLS[kind]
    # Variables such as LZOP would give the program options of their own.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    started = time.monotonic()
    end = _lz4_end(data) if kind == "lz4" else len(data)
    try:
        with tempfile.TemporaryFile(prefix="krg-packed-") as file:
            file.write(data[:end])
            file.seek(0)
            process = subprocess.Popen(
                tool.command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=environment,
            )  # fmt: skip
    except FileNotFoundError:
        name = tool.command[0]
        return Unpacked(
            b"", f"{kind} data needs the program {name}, which is not here "
            f"(apt-get install {tool.package})",
        )  # fmt: skip
    except OSError as error:
        return Unpacked(b"", f"{tool.command[0]} cannot run ({error.strerror or error})")
    limit = max(budget.seconds, 0.1)
    watch = threading.Timer(limit, process.kill)
    watch.start()
    try:
        with process:
            assert process.stdout is not None
            out = process.stdout.read(most + 1)
            if len(out) > most:
                process.kill()
    finally:
        watch.cancel()
        process.kill()
    spent = time.monotonic() - started
    budget.seconds -= spent
    trouble = ""
    if len(out) > most:
        trouble = _too_much(most)
    elif process.returncode and spent >= limit:
        trouble = f"{tool.command[0]} took more than {limit:.0f} s"
    elif process.returncode or end < len(data):
        trouble = f"{kind} data that is damaged, ends too early, or has something behind it"
    return Unpacked(out[:most], trouble)
