# SPDX-License-Identifier: GPL-2.0-or-later
"""Which symbols build the driver of a PCI device, read from the sources of a kernel tree.

A driver lists its devices in a table of ``struct pci_device_id`` (include/linux/
mod_devicetable.h); a Makefile says which symbol builds the file. Both are read as text, with
the macros in them expanded: no compiler and no make runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kconfig.macros import Flat, Macro, Reader, TooMuchError, evaluate, expand, read, tokens

# Where the drivers of disks and network cards are, over the years.
ROOMS = (
    "drivers/net", "drivers/ata", "drivers/ide", "drivers/scsi", "drivers/block",
    "drivers/message", "drivers/nvme", "drivers/virtio",
)  # fmt: skip
_ANY = -1
_WORD = 0xFFFFFFFF
# Where a table begins: up to the brace, in C or in what a macro stands for.
_TABLE = re.compile(r"(?:struct\s+pci_device_id\s|DEFINE_PCI_DEVICE_TABLE\()[^;={]{0,200}=\s*\{")
_EXPORTED = re.compile(r"MODULE_DEVICE_TABLE\s*\(\s*pci\s*,\s*(\w+)\s*\)")
_ENUM = re.compile(r"^\s*(\w+)\s*=\s*(0[xX][0-9a-fA-F]+|\d+)\s*[,}]", re.M)
_MOST_TABLE = 1 << 20
_FIELDS = ("vendor", "device", "subvendor", "subdevice", "class", "class_mask")
_RULE = re.compile(r"^([\w.-]+)-(?:\$[({]CONFIG_(\w+)[)}]|(y|m|objs))[ \t]*[:+]?=[ \t]*(.*)$", re.M)
_PLACE = re.compile(r"-I[ \t]*(?:\$[({](src|obj|srctree)[)}]/?)?([\w./-]*)")
_HEADERS = ("mod_devicetable.h", "pci_ids.h", "pci.h")
# What the build itself defines; PCI_ANY_ID is in no header that all kernels have.
_KNOWN = {"__KERNEL__": Macro(None, ()), "PCI_ANY_ID": Macro(None, ("~", "0"))}


class Device(NamedTuple):
    """A PCI device; subsystem and class are -1 where whoever named it did not say.

    ``class_known`` masks the bits of the class that are known.
    """

    vendor: int
    device: int
    subvendor: int = _ANY
    subdevice: int = _ANY
    pci_class: int = _ANY
    class_known: int = 0xFFFFFF

    def __str__(self) -> str:
        return f"{self.vendor:04x}:{self.device:04x}"

    @property
    def kind(self) -> str:
        """Return disk or network for what a node cannot do without, else ""."""
        return {0x01: "disk", 0x02: "network"}.get(self.pci_class >> 16, "")


class Entry(NamedTuple):
    """One line of a driver's table; -1 stands for any."""

    vendor: int
    device: int
    subvendor: int
    subdevice: int
    pci_class: int
    mask: int

    def matches(self, device: Device) -> bool:
        """Tell whether the driver takes the device, as far as is known about it."""
        pairs = (
            (self.vendor, device.vendor), (self.device, device.device),
            (self.subvendor, device.subvendor), (self.subdevice, device.subdevice),
        )  # fmt: skip
        if any(a not in (_ANY, b) and b != _ANY for a, b in pairs):
            return False
        if device.pci_class == _ANY:
            # A line that names a class only says nothing about a device of no known class.
            return (self.vendor, self.device) != (_ANY, _ANY)
        return (self.pci_class ^ device.pci_class) & self.mask & device.class_known == 0

    @property
    def alias(self) -> str:
        """Return the pattern that the kernel's build makes of the line (file2alias.c)."""
        words = ((self.vendor, "v"), (self.device, "d"), (self.subvendor, "sv"),
                 (self.subdevice, "sd"))  # fmt: skip
        text = "".join(name + ("*" if value == _ANY else f"{value:08X}") for value, name in words)
        for name, shift in (("bc", 16), ("sc", 8), ("i", 0)):
            known = (self.mask >> shift) & 0xFF == 0xFF
            text += name + (f"{(self.pci_class >> shift) & 0xFF:02X}" if known else "*")
        return f"pci:{text}" + ("" if text.endswith("*") else "*")


def symbols_for(tree: Path, devices: Iterable[Device]) -> Mapping[Device, frozenset[str]]:
    """Return for each device the symbols of the drivers in ``tree`` that take it."""
    found: dict[Device, set[str]] = {device: set() for device in devices}
    for entries, symbols in tables(tree):
        for device, known in found.items():
            if not symbols <= known and any(entry.matches(device) for entry in entries):
                known.update(symbols)
    return {device: frozenset(symbols) for device, symbols in found.items()}


def tables(tree: Path) -> Iterator[tuple[Sequence[Entry], frozenset[str]]]:
    """Yield the devices of each driver in ROOMS, and the symbols that build it."""
    reader = Reader([tree / "include/linux" / name for name in _HEADERS], _KNOWN)
    makefiles = _Makefiles(tree)
    for room in ROOMS:
        for path in sorted((tree / room).rglob("*.c")):
            text = read(path)
            if "pci_device_id" not in text and "PCI_DEVICE" not in text:
                continue
            entries = _entries(reader.flat(path, makefiles.places(path.parent)))
            if entries:
                yield entries, makefiles.symbols(path)


def _entries(flat: Flat) -> list[Entry]:
    """Return the lines of the tables that a file exports, or of all when it exports none."""
    found: dict[str, list[Entry]] = {}
    # Constants of an enum do for a macro: tables have those with a number of their own.
    numbers = {name: Macro(None, (value,)) for piece in flat.pieces if "enum" in piece
               for name, value in _ENUM.findall(piece)}  # fmt: skip
    macros = {**numbers, **flat.macros}
    openers = {
        name for name, macro in flat.macros.items()
        if "pci_device_id" in macro.body and macro.body[-2:] == ("=", "{")
    }  # fmt: skip
    exported = set()
    for number, piece in enumerate(flat.pieces):
        exported |= set(_EXPORTED.findall(piece))
        starts = []
        if "pci_device_id" in piece or "DEFINE_PCI_DEVICE_TABLE" in piece:
            starts = [(match[0], match.end()) for match in _TABLE.finditer(piece)]
        for name in openers:
            if name in piece:
                starts += [(" ".join(flat.macros[name].body), match.end())
                           for match in re.finditer(rf"\b{name}\b", piece)]  # fmt: skip
        for head, end in starts:
            text = piece[end : end + _MOST_TABLE]
            for more in flat.pieces[number + 1 :]:
                if "};" in text or len(text) > _MOST_TABLE:
                    break
                text += more
            names = [word for word in re.findall(r"\w+", head) if word != "__initdata"]
            found.setdefault(names[-1], []).extend(_lines(text, macros))
    wanted = exported & set(found) or set(found)
    return [entry for name in found if name in wanted for entry in found[name]]


def _lines(text: str, macros: Mapping[str, Macro]) -> list[Entry]:
    """Return the lines of a table, from behind its opening brace on."""
    made = []
    line: list[str] = []
    depth = 1
    try:
        for word in expand(tokens(text), macros):
            depth += (word in ("{", "(")) - (word in ("}", ")"))
            if depth == 1 and word == "}":
                entry = _entry(line)
                if entry is not None:
                    made.append(entry)
            elif depth == 2 and word == "{":
                line = []
            elif not depth:
                break
            else:
                line.append(word)
    except TooMuchError:
        pass
    return made


def _entry(line: Sequence[str]) -> Entry | None:
    """Return one line of a table as C reads it: in order, or by the names of fields."""
    fields: dict[int, Sequence[str]] = {}
    at = 0
    for words in _parts(line):
        value = words
        if len(words) > 3 and words[0] == "." and words[2] == "=":
            if words[1] == "override_only":  # only for those who ask for the driver by name
                return None
            at, value = _FIELDS.index(words[1]) if words[1] in _FIELDS else 99, words[3:]
        fields[at] = value
        at += 1
    numbers = [evaluate(fields.get(number, "0")) for number in range(len(_FIELDS))]
    if numbers[0] is None or numbers[1] is None:
        return None
    values = [0 if number is None else number & _WORD for number in numbers]
    if not any(values[:3]) and not values[5]:  # the end of the table
        return None
    if values[:2] == [_WORD, _WORD] and not values[5]:  # other tables are made of this type, too
        return None
    ids = [_ANY if value == _WORD else value for value in values[:4]]
    return Entry(ids[0], ids[1], ids[2], ids[3], values[4] & 0xFFFFFF, values[5] & 0xFFFFFF)


def _parts(line: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield what stands between commas."""
    begin = depth = 0
    for at, word in enumerate(line):
        depth += (word in ("(", "{")) - (word in (")", "}"))
        if word == "," and not depth:
            yield line[begin:at]
            begin = at + 1
    if begin < len(line):
        yield line[begin:]


class _Makefiles:
    """What the Makefiles of a tree say about objects; each is read once."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._rules: dict[Path, dict[str, set[str]]] = {}

    def places(self, directory: Path) -> list[Path]:
        """Return where headers are looked for, besides beside the file (-I)."""
        bases = {"src": directory, "obj": directory, "srctree": self._tree, "": self._tree}
        text = read(directory / "Makefile").replace("$(srctree)/$(src)", "$(src)")
        return [bases[base] / rest.strip("/") for base, rest in _PLACE.findall(text) if rest]

    def symbols(self, path: Path) -> frozenset[str]:
        """Return the symbols that build a source file; a parent's Makefile can name it too."""
        name = f"{path.stem}.o"
        for directory in path.parents:
            if directory == self._tree or not directory.is_relative_to(self._tree):
                break
            found = self._built_by(directory).get(name)
            if found:
                return frozenset(found)
            name = f"{directory.name}/{name}"
        return frozenset()

    def _built_by(self, directory: Path) -> dict[str, set[str]]:
        """Return for each object of a directory the symbols that build it."""
        if directory in self._rules:
            return self._rules[directory]
        text = read(directory / "Makefile") + "\n" + read(directory / "Kbuild")
        rules = _RULE.findall(text.replace("\\\n", " "))
        built: dict[str, set[str]] = {}
        for target, symbol, _, objects in rules:
            if target == "obj" and symbol:
                for name in objects.split():
                    built.setdefault(name, set()).add(symbol)
        for target, _, _, objects in rules:
            if target != "obj" and f"{target}.o" in built:
                for name in objects.split():
                    built.setdefault(name, set()).update(built[f"{target}.o"])
        self._rules[directory] = built
        return built
