# SPDX-License-Identifier: GPL-2.0-or-later
"""Proves that modules fit their kernel, from the ELF files alone (pyelftools).

What the module loader compares, kernel/module.c: the machine, the vermagic
string, and for every symbol a module uses the CRC recorded in its __versions
section with the one the exporter has. CRCs are in vmlinux and in exporting modules, at symbols
``__crc_NAME``: their values where they are absolute, else (from 5.19 on, include/linux/
export-internal.h) the four bytes they point to.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from provision.errors import FailedError, InputError

_CRC = b"__crc_"
# SHN_ABS (elf.h): the symbol's value is a number, and no place.
_ABSOLUTE = 0xFFF1
# Elf32_Sym and Elf64_Sym (elf.h): name, value, shndx at these places.
_SYMBOL_32 = struct.Struct("<IIIBBH")
_SYMBOL_64 = struct.Struct("<IBBHQQ")
_WEAK = 2
_OBJECT = 1


@dataclass(frozen=True)
class Module:
    """What the loader would look at in one module."""

    path: Path
    machine: str
    vermagic: str
    versions: Mapping[str, int]
    undefined: frozenset[str]
    exports: Mapping[str, int]


@dataclass(frozen=True)
class Kernel:
    """What modules are compared with: machine, vermagic and exported symbols' CRCs."""

    machine: str
    vermagic: str
    exports: Mapping[str, int]


@dataclass(frozen=True)
class Mismatch:
    """One reason why a module would not load; ``symbol`` is None for the module as a whole."""

    module: str
    symbol: str | None
    why: str

    def __str__(self) -> str:
        return f"{self.module}: {self.symbol + ': ' if self.symbol else ''}{self.why}"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Give an ELF file; whatever is wrong in it, met now or while it is read, is InputError."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    # What pyelftools and struct come to when offsets and sizes lead anywhere.
    damage = (
        ELFError,
        struct.error,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        ArithmeticError,
        OSError,
        MemoryError,
    )
    with path.open("rb") as stream:
        try:
            yield ELFFile(stream)
        except damage as error:
            raise InputError(
                f"{path}: not an ELF file, or a damaged one ({error})",
                hint="build it again",
            ) from error


def _symbols(elf: Any) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield (name, value, section index, binding) of every symbol; fast, by hand."""
    table = elf.get_section_by_name(".symtab")
    if table is None:
        return
    names = elf.get_section(table["sh_link"]).data()
    wide = elf.elfclass == 64
    layout = _SYMBOL_64 if wide else _SYMBOL_32
    for fields in layout.iter_unpack(table.data()):
        if wide:
            name, info, _, section, value, _ = fields
        else:
            name, value, _, info, _, section = fields
        yield names[name : names.index(b"\0", name)], value, section, info >> 4


def _crcs(elf: Any, symbols: Iterable[tuple[bytes, int, int, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    sections: dict[int, tuple[int, bytes]] = {}
    for name, value, section, _ in symbols:
        if not name.startswith(_CRC) or section == 0:
            continue
        crc = value & 0xFFFFFFFF
        if section != _ABSOLUTE:
            if section not in sections:
                there = elf.get_section(section)
                sections[section] = (there["sh_addr"], there.data())
            start, data = sections[section]
            (crc,) = struct.unpack_from("<I", data, value - start)
        found[name[len(_CRC) :].decode("ascii", "replace")] = crc
    return found


def read_kernel(vmlinux: Path) -> Kernel:
    """Read an uncompressed kernel image with symbols."""
    with _opened(vmlinux) as elf:
        symbols = list(_symbols(elf))
        address = next((value for name, value, _, _ in symbols if name == b"vermagic"), None)
        vermagic = _string_at(elf, address) if address is not None else ""
        return Kernel(elf["e_machine"], vermagic, {**_exported(symbols), **_crcs(elf, symbols)})


def _string_at(elf: Any, address: int) -> str:
    for section in elf.iter_sections():
        start = section["sh_addr"]
        if (
            start
            and start <= address < start + section["sh_size"]
            and section["sh_type"] != "SHT_NOBITS"
        ):
            data = section.data()[address - start :]
            return str(data[: data.index(b"\0")].decode("ascii", "replace"))
    return ""


def read_module(path: Path) -> Module:
    """Read a kernel module."""
    with _opened(path) as elf:
        info = elf.get_section_by_name(".modinfo")
        vermagic = ""
        for entry in info.data().split(b"\0") if info is not None else ():
            if entry.startswith(b"vermagic="):
                vermagic = entry.removeprefix(b"vermagic=").decode("ascii", "replace")
        symbols = list(_symbols(elf))
        undefined = frozenset(
            name.decode("ascii", "replace")
            for name, _, section, binding in symbols
            if section == 0 and name and binding != _WEAK
        )
        return Module(
            path,
            elf["e_machine"],
            vermagic,
            _versions(elf),
            undefined,
            {**_exported(symbols), **_crcs(elf, symbols)},
        )


def _exported(symbols: Iterable[tuple[bytes, int, int, int]]) -> dict[str, int]:
    """Symbols exported without a CRC: those with an entry in the export table only."""
    prefix = b"__ksymtab_"
    return {
        name[len(prefix) :].decode("ascii", "replace"): 0
        for name, _, section, _ in symbols
        if name.startswith(prefix) and section != 0
    }


def _versions(elf: Any) -> dict[str, int]:
    """Read __versions: entries of 64 bytes, an unsigned long and the name (module.h)."""
    section = elf.get_section_by_name("__versions")
    if section is None:
        return {}
    word = "<Q" if elf.elfclass == 64 else "<I"
    size = struct.calcsize(word)
    data = section.data()
    entries = {}
    for start in range(0, len(data) - 63, 64):
        (crc,) = struct.unpack_from(word, data, start)
        name = data[start + size : start + 64].split(b"\0", 1)[0].decode("ascii", "replace")
        entries[name] = crc & 0xFFFFFFFF
    return entries


def mismatches(kernel: Kernel, modules: Iterable[Module]) -> list[Mismatch]:
    """Return every reason why one of ``modules`` would not load into ``kernel``.

    A symbol may come from the kernel or from any of the modules.
    """
    modules = list(modules)
    exports = dict(kernel.exports)
    # With MODVERSIONS off there are no CRCs anywhere, and names are all there is.
    versioned = any(kernel.exports.values())
    for module in modules:
        exports.update(module.exports)
    found = []
    for module in modules:
        name = module.path.name
        if module.machine != kernel.machine:
            found.append(
                Mismatch(name, None, f"made for {module.machine}, the kernel for {kernel.machine}")
            )
        if module.vermagic != kernel.vermagic:
            found.append(
                Mismatch(
                    name, None, f"vermagic {module.vermagic!r}, the kernel has {kernel.vermagic!r}"
                )
            )
        for symbol in sorted(module.undefined):
            if symbol not in exports:
                found.append(Mismatch(name, symbol, "used, but nothing exports it"))
            elif versioned and symbol not in module.versions:
                found.append(Mismatch(name, symbol, "used without a recorded CRC"))
        for symbol, crc in sorted(module.versions.items()):
            have = exports.get(symbol)
            if have is not None and have != crc:
                found.append(
                    Mismatch(name, symbol, f"wants CRC 0x{crc:08x}, the exporter has 0x{have:08x}")
                )
    return found


def prove(vmlinux: Path, modules_dir: Path, kernel_release: str) -> int:
    """Check all modules below ``modules_dir`` against ``vmlinux``; return how many there are.

    :raises FailedError: one does not fit; names module and symbol.
    """
    kernel = read_kernel(vmlinux)
    if kernel.vermagic.split(" ")[0] != kernel_release:
        raise FailedError(
            f"{vmlinux}: its vermagic is {kernel.vermagic!r}, "
            f"the build's release is {kernel_release}"
        )
    modules = [read_module(path) for path in sorted(modules_dir.rglob("*.ko"))]
    found = mismatches(kernel, modules)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise FailedError(
            f"modules do not fit their kernel: {found[0]}{more}",
            hint="module and kernel come from different builds or configurations",
        )
    return len(modules)


class Image(NamedTuple):
    """What a kernel image fills memory with, and where its variables are."""

    pieces: tuple[tuple[int, bytes], ...]
    objects: tuple[tuple[int, int], ...]
    wide: bool


def data_objects(path: Path) -> Image:
    """Return (address, bytes) of an image's sections, and (address, size) of its variables.

    :raises InputError: not an ELF file, or a damaged one.
    """
    with _opened(path) as elf:
        pieces = tuple(
            (section["sh_addr"], section.data())
            for section in elf.iter_sections()
            if section["sh_addr"] and section["sh_type"] != "SHT_NOBITS"
        )
        table = elf.get_section_by_name(".symtab")
        wide = elf.elfclass == 64
        layout = _SYMBOL_64 if wide else _SYMBOL_32
        objects = []
        for fields in layout.iter_unpack(table.data() if table is not None else b""):
            _, info, _, _, address, size = fields if wide else (0, fields[3], 0, 0, *fields[1:3])
            if info & 0xF == _OBJECT and address and size:
                objects.append((address, size))
        return Image(pieces, tuple(objects), wide)
