# SPDX-License-Identifier: GPL-2.0-or-later
"""Which PCI devices the drivers built into a kernel take, read from vmlinux itself.

A build says nowhere what its built-in drivers take (modules.builtin.modinfo, from Linux 5.2 on,
leaves that out long after). The image does: every PCI driver is a struct pci_driver
(include/linux/pci.h of Linux 2.6.20: a list head, a pointer to its name, a pointer to its table
of devices), and the table (struct pci_device_id, include/linux/mod_devicetable.h) ends with an
entry of zeros. Linux 5.16 added a field to entries, override_only; of later kernels, 6.12 for one,
the list head is gone. How it is in this one is what makes sense for more drivers. Only what has a
readable name and a table that makes sense to its end is taken for a driver.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

from kconfig.built import Alias
from kconfig.drivers import Entry
from provision.elf import data_objects

_ANY = 0xFFFFFFFF
_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9 ._:/()+-]{1,39}\0")
# vendor, device, subvendor, subdevice, class, class_mask, driver_data; then override_only.
_ENTRIES = {
    True: (struct.Struct("<6IQ"), struct.Struct("<6IQI4x")),
    False: (struct.Struct("<7I"), struct.Struct("<8I")),
}
# How many pointers a struct pci_driver has before its name's: a list head, or none.
_BEFORE = (2, 0)
# Most makers of PCI devices have a number from here on; what a table of HID devices would be read
# as has not.
_FIRST_VENDOR = 0x1000
# Longer tables than any driver has.
_MOST_ENTRIES = 2000


class _Piece(NamedTuple):
    start: int
    data: bytes


def aliases(vmlinux: Path) -> tuple[Alias, ...]:
    """Return the patterns of the devices that built-in drivers take, with the drivers' names.

    :raises InputError: not an ELF file, or a damaged one.
    """
    image = data_objects(vmlinux)
    pieces = [_Piece(*piece) for piece in image.pieces]
    sizes = dict(image.objects)
    tries = []
    for entry, before in product(_ENTRIES[image.wide], _BEFORE):
        memory = _Memory(pieces, image.wide, entry)
        found: dict[Alias, None] = {}
        for address, size in image.objects:
            # A struct pci_driver has a struct device_driver inside.
            if size >= 20 * memory.pointer:
                for alias in _driver(memory, address + before * memory.pointer, sizes):
                    found[alias] = None
        tries.append(tuple(found))
    return max(tries, key=lambda one: len({alias.module for alias in one if _is_likely(alias)}))


def _is_likely(alias: Alias) -> bool:
    """Tell whether it looks like a PCI device: of other buses' tables, numbers are small."""
    vendor = alias.pattern.removeprefix("pci:v")[:8]
    return vendor[:1] == "*" or int(vendor, 16) >= _FIRST_VENDOR


class _Memory:
    """The kernel's memory as the image fills it."""

    def __init__(self, pieces: list[_Piece], wide: bool, entry: struct.Struct) -> None:
        self._pieces = pieces
        self.pointer = 8 if wide else 4
        self.word = struct.Struct("<Q" if wide else "<I")
        self.entry = entry

    def at(self, address: int, size: int) -> bytes:
        for start, data in self._pieces:
            if start <= address < start + len(data):
                return data[address - start : address - start + size]
        return b""


def _driver(memory: _Memory, address: int, sizes: Mapping[int, int]) -> Iterator[Alias]:
    """Yield what a driver takes; the pointers to its name and its table are at ``address``.

    :param sizes: of objects, by address: much that is no driver begins with a name and a pointer.
    """
    head = memory.at(address, 2 * memory.pointer)
    if len(head) < 2 * memory.pointer:
        return
    name, table = (memory.word.unpack_from(head, n * memory.pointer)[0] for n in (0, 1))
    match = _NAME.match(memory.at(name, 41)) if name and table else None
    if match is None or table not in sizes or sizes[table] % memory.entry.size:
        return
    text = match[0][:-1].decode("ascii").replace(" ", "_")
    for entry in _table(memory, table):
        yield Alias(entry.alias, text)


def _table(memory: _Memory, address: int) -> list[Entry]:
    """Return a table's entries; none when it makes no sense, or has no end."""
    raw = memory.at(address, memory.entry.size * _MOST_ENTRIES)
    found: list[Entry] = []
    for at in range(0, len(raw) - memory.entry.size + 1, memory.entry.size):
        vendor, device, subvendor, subdevice, kind, mask, *_ = memory.entry.unpack_from(raw, at)
        if not (vendor or device or subvendor or kind or mask):
            return found
        ids = (vendor, device, subvendor, subdevice)
        if any(value > 0xFFFF and value != _ANY for value in ids) or kind > 0xFFFFFF:
            return []
        plain = [-1 if value == _ANY else value for value in ids]
        found.append(Entry(plain[0], plain[1], plain[2], plain[3], kind, mask))
    return []
