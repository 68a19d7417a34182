# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the configuration in what it comes in: a file, standard input, .gz, a kernel, a module.

A kernel built with IKCONFIG carries its .config, compressed with gzip, between the marks
IKCFG_ST and IKCFG_ED (kernel/configs.c): in vmlinux as it is, in configs.ko with
IKCONFIG=m, and in a bzImage inside the compressed payload.
"""

from __future__ import annotations

import stat
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from kconfig.config_file import ConfigFile, parse
from kconfig.errors import KconfigError

# A vmlinux with debug information is this large at most; a .config has kilobytes.
_MOST_READ = 1 << 30
_MOST_UNPACKED = 256 << 20
_MOST_TEXT = 16 << 20
# The same four bytes can stand in a kernel by chance: so many places are tried.
_TRIES = 40
_GZIP = b"\x1f\x8b\x08"
_XZ = b"\xfd7zXZ\x00"
_BZIP2 = b"BZh"
_LZMA = b"\x5d\x00\x00"
_NOT_READ = {
    "zstd": b"\x28\xb5\x2f\xfd",
    "lz4": b"\x02\x21\x4c\x18",
    "lzo": b"\x89LZO\x00\r\n\x1a\n",
}
_START, _END = b"IKCFG_ST", b"IKCFG_ED"


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def read(name: str) -> ConfigFile:
    """Read the configuration in file ``name``; - is standard input.

    :raises KconfigError: it cannot be read, or there is no configuration in it.
    """
    shown = "standard input" if name == "-" else name
    try:
        data = _data(name)
    except OSError as error:
        raise KconfigError(f"{shown}: {error.strerror or error}") from error
    if len(data) > _MOST_READ:
        raise KconfigError(f"{shown}: more than {_MOST_READ >> 20} MiB")
    text, origin = config_text(data, shown)
    return parse(text, shown, origin)


def _data(name: str) -> bytes:
    if name == "-":
        if sys.stdin is None:
            raise KconfigError("standard input: closed")
        return sys.stdin.buffer.read(_MOST_READ + 1)
    path = Path(name)
    mode = path.stat().st_mode
    # A named pipe that nobody writes to would wait for ever, a device never end;
    # /dev/fd/N (a shell's process substitution) is a pipe with a writer.
    if not stat.S_ISREG(mode) and not (stat.S_ISFIFO(mode) and name.startswith("/dev/fd/")):
        raise KconfigError(f"{name}: not a regular file (- reads standard input)")
    with path.open("rb") as stream:
        return stream.read(_MOST_READ + 1)


def config_text(data: bytes, name: str) -> tuple[str, str]:
    """Return the .config in ``data``, and where in it; "" when it is all of it.

    :raises KconfigError: there is none; ``name`` is named.
    """
    origin = ""
    for _ in range(3):
        kind = _outer(data)
        if kind is None:
            break
        data = _whole(data, kind, name)
        origin = f"{kind}-compressed"
    if b"\0" not in data[: 1 << 16] and not data.startswith(b"\x7fELF"):
        if len(data) > _MOST_TEXT:
            raise KconfigError(f"{name}: more than {_MOST_TEXT >> 20} MiB: not a configuration")
        return data.decode("utf-8", "backslashreplace"), origin
    found = _embedded(data)
    if found is None and data[0x202:0x206] == b"HdrS":
        found = _in_payload(data)
    if found is None:
        what = "it has no configuration inside (IKCFG_ST): built without IKCONFIG"
        if not data.startswith(b"\x7fELF") and data[0x202:0x206] != b"HdrS":
            line = data.count(b"\n", 0, data.index(b"\0")) + 1
            what = f"binary (a NUL in line {line}), and neither a kernel image nor a module"
        else:
            odd = [kind for kind, magic in _NOT_READ.items() if magic in data]
            if odd and not data.startswith(b"\x7fELF"):
                what += f", or compressed with {' or '.join(odd)}, which is not read here"
        raise KconfigError(f"{name}: {what}")
    if len(found) > _MOST_TEXT:
        raise KconfigError(f"{name}: the configuration inside is larger than any is")
    return found.decode("utf-8", "backslashreplace"), "IKCONFIG"


def _outer(data: bytes) -> str | None:
    for kind, magic in (("gzip", _GZIP), ("xz", _XZ), ("bzip2", _BZIP2)):
        if data.startswith(magic):
            return kind
    return None


def _unpacker(kind: str) -> tuple[Callable[[], _Unpacker], tuple[type[Exception], ...]]:
    """Return what makes an unpacker, and the errors it raises; imported when asked for."""
    if kind == "gzip":
        return (lambda: zlib.decompressobj(wbits=31)), (zlib.error,)
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, (OSError, ValueError)
    import lzma

    form = lzma.FORMAT_XZ if kind == "xz" else lzma.FORMAT_ALONE
    return (lambda: lzma.LZMADecompressor(form, memlimit=512 << 20)), (lzma.LZMAError,)


def _whole(data: bytes, kind: str, name: str) -> bytes:
    make, errors = _unpacker(kind)
    unpacker = make()
    try:
        unpacked = unpacker.decompress(data, _MOST_UNPACKED)
    except errors as error:
        raise KconfigError(f"{name}: damaged {kind} data ({error})") from error
    if not unpacker.eof:
        if len(unpacked) >= _MOST_UNPACKED:
            raise KconfigError(f"{name}: unpacks to more than {_MOST_UNPACKED >> 20} MiB")
        raise KconfigError(f"{name}: the {kind} data ends too early")
    return unpacked


def _embedded(data: bytes) -> bytes | None:
    """Return the configuration between the marks; None if there is none that unpacks."""
    at = data.find(_START)
    while at >= 0:
        start = at + len(_START)
        if data.startswith(_GZIP, start):
            end = data.find(_END, start)
            unpacker = zlib.decompressobj(wbits=31)
            try:
                text = unpacker.decompress(data[start : end if end > 0 else None], _MOST_TEXT + 1)
            except zlib.error:
                text = b""
            if text and (unpacker.eof or len(text) > _MOST_TEXT):
                return text
        at = data.find(_START, start)
    return None


def _in_payload(image: bytes) -> bytes | None:
    """Return the configuration inside a bzImage's compressed kernel, if there is one."""
    for kind, magic in (("gzip", _GZIP), ("xz", _XZ), ("bzip2", _BZIP2), ("lzma", _LZMA)):
        make, errors = _unpacker(kind)
        at = image.find(magic)
        for _ in range(_TRIES):
            if at < 0:
                break
            try:
                found = _embedded(make().decompress(image[at:], _MOST_UNPACKED))
            except errors:
                found = None
            if found is not None:
                return found
            at = image.find(magic, at + 1)
    return None
