# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the configuration in what it comes in: a file, standard input, .gz, a kernel, a module.

A kernel built with IKCONFIG carries its .config, compressed with gzip, between the marks
IKCFG_ST and IKCFG_ED (kernel/configs.c): in vmlinux as it is, in configs.ko with
IKCONFIG=m, and in a bzImage inside the compressed kernel, whose place the boot protocol's
header tells (Documentation/x86/boot.rst).
"""

from __future__ import annotations

import stat
import struct
import sys
from pathlib import Path
from typing import BinaryIO

from kconfig import packed
from kconfig.config_file import ConfigFile, parse
from kconfig.errors import KconfigError

# A vmlinux with debug information is this large at most; a .config has kilobytes.
_MOST_READ = 1 << 30
_STEP = 1 << 20
_MOST_TEXT = 16 << 20
_MOST_PACKED = 4 << 20
# The same few bytes can stand in a kernel by chance: so many places are tried, and fewer
# when each try starts a program.
_TRIES = 40
_FEW = 4
_ELF = b"\x7fELF"
_START = b"IKCFG_ST"


def read(name: str) -> ConfigFile:
    """Read the configuration in file ``name``; - is standard input.

    :raises KconfigError: it cannot be read, or there is no configuration in it.
    """
    text, shown, origin = read_text(name)
    return parse(text, shown, origin)


def read_text(name: str) -> tuple[str, str, str]:
    """Return the text in file ``name``, what messages call it, and where in it that was.

    :raises KconfigError: it cannot be read, or is no text.
    """
    shown = "standard input" if name == "-" else name
    try:
        data = _data(name)
        if len(data) > _MOST_READ:
            raise KconfigError(f"{shown}: more than {_MOST_READ >> 20} MiB")
        text, origin = config_text(data, shown)
    except OSError as error:
        raise KconfigError(f"{shown}: {error.strerror or error}") from error
    except MemoryError as error:
        raise KconfigError(f"{shown}: too large for the memory there is") from error
    return text, shown, origin


def _data(name: str) -> bytes:
    if name == "-":
        if sys.stdin is None:
            raise KconfigError("standard input: closed")
        return _all(sys.stdin.buffer)
    path = Path(name)
    mode = path.stat().st_mode
    # A named pipe that nobody writes to would wait for ever, a device never end;
    # /dev/fd/N (a shell's process substitution) is a pipe with a writer.
    if not stat.S_ISREG(mode) and not (stat.S_ISFIFO(mode) and name.startswith("/dev/fd/")):
        raise KconfigError(f"{name}: not a regular file (- reads standard input)")
    with path.open("rb") as stream:
        return _all(stream)


def _all(stream: BinaryIO) -> bytes:
    """Read to the end, whatever size the file claims: those in /proc have none.

    In steps: one read() of all that is allowed would ask for that much memory at once.
    """
    data = bytearray()
    while len(data) <= _MOST_READ and (step := stream.read(_STEP)):
        data += step
    return bytes(data)


def config_text(data: bytes, name: str) -> tuple[str, str]:
    """Return the .config in ``data``, and where in it; "" when it is all of it.

    :raises KconfigError: there is none; ``name`` is named.
    """
    budget = packed.Budget()
    origin = ""
    for _ in range(3):
        kind = packed.kind_of(data)
        if kind is None:
            break
        data, trouble = packed.unpack(data, kind, budget)
        if trouble:
            raise KconfigError(f"{name}: {trouble}")
        origin = f"{kind}-compressed"
    if b"\0" not in data[: 1 << 16] and not data.startswith(_ELF):
        if len(data) > _MOST_TEXT:
            raise KconfigError(f"{name}: more than {_MOST_TEXT >> 20} MiB: not a configuration")
        return data.decode("utf-8", "backslashreplace"), origin
    found = _embedded(data, budget)
    trouble = ""
    kernel = data[0x202:0x206] == b"HdrS"
    if found is None and kernel:
        found, trouble = _in_kernel(data, budget)
    if found is None:
        what = "it has no configuration inside (IKCFG_ST): built without IKCONFIG"
        if trouble:
            what = f"no configuration found, the kernel in it did not unpack: {trouble}"
        elif not kernel and not data.startswith(_ELF):
            line = data.count(b"\n", 0, data.index(b"\0")) + 1
            what = f"binary (a NUL in line {line}), and neither a kernel image nor a module"
        raise KconfigError(f"{name}: {what}")
    if len(found) > _MOST_TEXT:
        raise KconfigError(f"{name}: the configuration inside is larger than any is")
    return found.decode("utf-8", "backslashreplace"), "IKCONFIG"


def _embedded(data: bytes, budget: packed.Budget) -> bytes | None:
    """Return the configuration between the marks; None if there is none that unpacks."""
    mark = _START + packed.MAGICS["gzip"][0]
    at = -1
    for _ in range(_TRIES):
        at = data.find(mark, at + 1)
        if at < 0:
            return None
        start = at + len(_START)
        # The end mark may be missing in what was cut off; gzip knows its own end.
        window = memoryview(data)[start : start + _MOST_PACKED]
        text, trouble = packed.unpack(window, "gzip", budget, _MOST_TEXT + 1)
        if text and (not trouble or len(text) > _MOST_TEXT):
            return text
    return None


def _in_kernel(image: bytes, budget: packed.Budget) -> tuple[bytes | None, str]:
    """Return the configuration inside a bzImage's compressed kernel, or why there is none."""
    payload = _payload(image)
    kind = packed.kind_of(payload)
    if kind is not None:
        # The build appends the unpacked size, four bytes; gzip's own end is the same.
        whole = payload if kind == "gzip" else payload[:-4]
        kernel, trouble = packed.unpack(whole, kind, budget)
        return _embedded(kernel, budget), trouble
    # Before 2.6.26 the header does not say where the kernel is: try what looks like one.
    trouble = ""
    for kind, magics in packed.MAGICS.items():
        for magic in magics:
            at = -1
            for _ in range(_TRIES if kind not in packed.TOOLS else _FEW):
                at = image.find(magic, at + 1)
                if at < 0 or not budget.left:
                    break
                kernel, why = packed.unpack(memoryview(image)[at:], kind, budget)
                found = _embedded(kernel, budget)
                if found is not None:
                    return found, ""
                # Bytes that look like gzip by chance are no news; a missing program is.
                if kind in packed.TOOLS and not kernel:
                    trouble = trouble or why
    return None, trouble


def _payload(image: bytes) -> memoryview:
    """Return where the boot protocol's header (2.08, Linux 2.6.26) says the kernel is."""
    if len(image) < 0x250 or struct.unpack_from("<H", image, 0x206)[0] < 0x208:
        return memoryview(b"")
    offset, length = struct.unpack_from("<II", image, 0x248)
    # The offset counts from the protected-mode code, behind the boot sector and the setup.
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    return memoryview(image)[start : start + length]
