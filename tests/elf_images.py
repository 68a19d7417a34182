# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel images as small as they can be: one PCI driver, and the symbol that leads to it."""

from __future__ import annotations

import struct
from collections.abc import Callable


def driver_image(
    bits: int,
    change: Callable[[bytearray], None] = lambda _: None,
    *,
    recent: bool = False,
    listed: bool = True,
    entries: float | None = 3,
    others: int = 0,
) -> bytes:
    """Return an ELF file with one section, one struct pci_driver in it, and its symbol.

    :param recent: entries of the table are as long as from Linux 5.16 on.
    :param listed: the driver begins with a list head, as it does not in Linux 6.12.
    :param entries: how many the table's symbol says that it has; None: it has no symbol.
    :param others: how many drivers of HID devices there are besides (struct hid_driver, 64 bits).
    """
    wide = bits == 64
    pointer, base = (8, 0x1000) if wide else (4, 0x1000)
    size = 30 * pointer
    entry = struct.Struct("<6IQ" if wide else "<7I")
    more = bytes(pointer) if recent else b""
    table_at, name_at = base + size, base + size + 3 * (entry.size + len(more))
    data = bytearray(size)
    at = 2 * pointer if listed else 0
    struct.pack_into("<2Q" if wide else "<2I", data, at, name_at, table_at)
    data += entry.pack(0x8086, 0x7111, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, 1) + more
    data += entry.pack(0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0x010601, 0xFFFFFF, 0) + more
    data += bytes(entry.size) + more + b"some driver\0"
    change(data)
    objects = [(base, size)]
    if entries is not None:
        objects.append((table_at, int(entries * (entry.size + len(more)))))
    for number in range(others):
        place = base + len(data)
        # Bus, group, vendor, product, and what the driver keeps with it.
        ids = b"".join(struct.pack("<HHIIxxxxQ", 3, 0, 0x046D, n, 0) for n in (1, 2, 3)) + bytes(24)
        objects += [(place, size), (place + size, len(ids))]
        data += struct.pack("<2Q", place + size + len(ids), place + size).ljust(size, b"\0")
        data += ids + b"keyboard %03d\0\0\0\0" % number
    symbol = b"".join(
        struct.pack("<IBBHQQ", 0, 1, 0, 1, *one)
        if wide
        else struct.pack("<IIIBBH", 0, *one, 1, 0, 1)
        for one in objects
    )
    names = b"\0.data\0.symtab\0.shstrtab\0"
    head = 64 if wide else 52
    parts = [bytes(data), symbol, names]
    offsets = [head, head + len(data), head + len(data) + len(symbol)]
    table_offset = offsets[2] + len(names)
    layout = "<IIQQQQIIQQ" if wide else "<10I"
    rows = [
        (0,) * 10,
        (1, 1, 3, base, offsets[0], len(data), 0, 0, 1, 0),
        (7, 2, 0, 0, offsets[1], len(symbol), 3, 0, 1, len(symbol) // len(objects)),
        (15, 3, 0, 0, offsets[2], len(names), 0, 0, 1, 0),
    ]
    ident = b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9)
    form = "<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH"
    machine_id = 62 if wide else 3
    fields = (2, machine_id, 1, 0, 0, table_offset, 0, head, 0, 0, struct.calcsize(layout), 4, 3)
    sections = b"".join(struct.pack(layout, *row) for row in rows)
    return ident + struct.pack(form, *fields) + b"".join(parts) + sections
