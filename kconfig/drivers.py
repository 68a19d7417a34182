# SPDX-License-Identifier: GPL-2.0-or-later
"""Which symbols build the driver of a PCI device, read from the sources of a kernel tree.

A driver lists its devices in a table of ``struct pci_device_id``; the Makefile beside it
says which symbol builds the file. Both are read as text: no compiler runs, and what
a macro hides deeper than one ``#define`` is not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

# Where the drivers of disks and network cards are, over the years.
_ROOMS = (
    "drivers/net", "drivers/ata", "drivers/ide", "drivers/scsi", "drivers/block",
    "drivers/message", "drivers/nvme", "drivers/virtio",
)  # fmt: skip
_ANY = -1
_MOST_BYTES = 4 << 20
_DEFINE = re.compile(
    r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+\(?(0[xX][0-9a-fA-F]+|\d+|\w+)\)?[ \t]*$", re.M
)
_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)\(([\w, \t]*)\)((?:.*\\\n)*.*)$", re.M)
_TABLE = re.compile(r"(?:struct[ \t]+pci_device_id|DEFINE_PCI_DEVICE_TABLE\()[^;={]{0,200}=\s*\{")
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([\w-][\w./-]*)"', re.M)
_CALL = re.compile(r"(\w+)\s*\(([^()]*)\)")
_RULE = re.compile(r"^([\w.-]+)-(?:\$\(CONFIG_(\w+)\)|(y|m|objs))[ \t]*[:+]?=[ \t]*(.*)$", re.M)


class Device(NamedTuple):
    """A PCI device; subsystem and class are -1 where whoever named it did not say."""

    vendor: int
    device: int
    subvendor: int = _ANY
    subdevice: int = _ANY
    pci_class: int = _ANY

    def __str__(self) -> str:
        return f"{self.vendor:04x}:{self.device:04x}"

    @property
    def kind(self) -> str:
        """Return disk or network for what a node cannot do without, else ""."""
        return {0x01: "disk", 0x02: "network"}.get(self.pci_class >> 16, "")


class Entry(NamedTuple):
    """One line of a driver's table."""

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
        if self.mask and device.pci_class != _ANY:
            return (self.pci_class ^ device.pci_class) & self.mask == 0
        # A line that names neither a device nor a class is one that was not understood.
        return (self.vendor, self.device) != (_ANY, _ANY)


def symbols_for(tree: Path, devices: Iterable[Device]) -> Mapping[Device, frozenset[str]]:
    """Return for each device the symbols of the drivers in ``tree`` that take it."""
    wanted = set(devices)
    found: dict[Device, set[str]] = {device: set() for device in wanted}
    constants = _constants(_text(tree / "include/linux/pci_ids.h"))
    constants |= {"PCI_ANY_ID": _ANY}
    makefiles: dict[Path, dict[str, set[str]]] = {}
    for path in _sources(tree):
        text = _text(path)
        if "pci_device_id" not in text and "DEFINE_PCI_DEVICE_TABLE" not in text:
            continue
        entries = list(_entries(path, text, constants))
        taken = [d for d in wanted if any(entry.matches(d) for entry in entries)]
        if not taken:
            continue
        if path.parent not in makefiles:
            makefiles[path.parent] = _built_by(path.parent)
        symbols = makefiles[path.parent].get(f"{path.stem}.o", set())
        for device in taken:
            found[device] |= symbols
    return {device: frozenset(symbols) for device, symbols in found.items()}


def _sources(tree: Path) -> Iterator[Path]:
    for room in _ROOMS:
        yield from sorted((tree / room).rglob("*.c"))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_MOST_BYTES).decode("latin-1")
    except OSError:
        return ""


def _constants(text: str) -> dict[str, int]:
    raw = dict(_DEFINE.findall(text))
    values = {}
    for name, text_value in raw.items():
        value = text_value
        for _ in range(4):
            value = raw.get(value, value)
        number = _number(value, {})
        if number is not None:
            values[name] = number
    return values


def _number(text: str, constants: Mapping[str, int]) -> int | None:
    """Return a constant expression of at most one shift or | of numbers and names."""
    text = text.strip().strip("()").strip()
    if text in constants:
        return constants[text]
    if re.fullmatch(r"~0[uUlL]*", text):
        return _ANY
    if re.fullmatch(r"(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,18})[uUlL]*", text):
        digits = text.rstrip("uUlL")
        return int(digits, 16) if digits[:2] in ("0x", "0X") else int(digits)
    for operator in ("<<", "|"):
        left, found, right = text.partition(operator)
        if found:
            a, b = _number(left, constants), _number(right, constants)
            if a is None or b is None or not 0 <= b < 1 << 32:
                return None
            return a << min(b, 31) if operator == "<<" else a | b
    return None


def _entries(path: Path, text: str, constants: Mapping[str, int]) -> Iterator[Entry]:
    text = _COMMENT.sub(" ", text)
    everything = "\n".join([*_headers(path.parent, text, 3), text])
    known = {**constants, **_constants(everything)}
    macros = {
        name: ([word.strip() for word in words.split(",")], body.replace("\\\n", " "))
        for name, words, body in _MACRO.findall(everything)
    }
    for match in _TABLE.finditer(text):
        for entry in _braced(text, match.end()):
            made = _entry(_expanded(entry, macros), known)
            if made is not None:
                yield made


def _headers(directory: Path, text: str, depth: int) -> Iterator[str]:
    """Return the driver's own headers, those included by them first."""
    for name in _INCLUDE.findall(text) if depth else ():
        header = _text(directory / name)
        yield from _headers(directory, header, depth - 1)
        yield header


def _braced(text: str, start: int) -> Iterator[str]:
    """Return what stands at the top level between braces, or calls a macro, in a table."""
    depth, begin, at = 1, start, start
    while at < len(text) and depth:
        character = text[at]
        if character in "{(":
            if depth == 1 and character == "{":
                begin = at + 1
            depth += 1
        elif character in "})":
            depth -= 1
            if depth == 1 and character == "}":
                yield text[begin:at]
                begin = at + 1
        elif character == "," and depth == 1:
            if text[begin:at].strip():
                yield text[begin:at]
            begin = at + 1
        at += 1


def _expanded(entry: str, macros: Mapping[str, tuple[list[str], str]]) -> str:
    def call(match: re.Match[str]) -> str:
        name, given = match[1], [word.strip() for word in match[2].split(",")]
        if name == "PCI_DEVICE" and len(given) == 2:
            return f"{given[0]}, {given[1]}, PCI_ANY_ID, PCI_ANY_ID"
        if name == "PCI_VDEVICE" and len(given) == 2:
            return f"PCI_VENDOR_ID_{given[0]}, {given[1]}, PCI_ANY_ID, PCI_ANY_ID, 0, 0"
        if name == "PCI_DEVICE_SUB" and len(given) == 4:
            return ", ".join(given)
        if name == "PCI_DEVICE_CLASS" and len(given) == 2:
            return f"PCI_ANY_ID, PCI_ANY_ID, PCI_ANY_ID, PCI_ANY_ID, {given[0]}, {given[1]}"
        if name in macros:
            words, body = macros[name]
            for word, value in zip(words, given, strict=False):
                if word:
                    literal = value.replace("\\", r"\\")
                    body = re.sub(rf"\b{re.escape(word)}\b", literal, body)
            return body.strip().strip("{}").strip().rstrip(",")
        return match[0]

    for _ in range(3):
        expanded = _CALL.sub(call, entry)
        if expanded == entry:
            break
        entry = expanded
    return entry


def _entry(text: str, constants: Mapping[str, int]) -> Entry | None:
    named = dict(re.findall(r"\.(\w+)\s*=\s*([^,]+)", text))
    if named:
        words = [
            named.get(name, default)
            for name, default in (
                ("vendor", "PCI_ANY_ID"), ("device", "PCI_ANY_ID"), ("subvendor", "PCI_ANY_ID"),
                ("subdevice", "PCI_ANY_ID"), ("class", "0"), ("class_mask", "0"),
            )
        ]  # fmt: skip
        plain = [word for word in text.split(",") if "=" not in word and word.strip()]
        words = (plain + words[len(plain) :]) if plain else words
    else:
        words = text.strip().strip("{}").split(",")
    words = (words + ["PCI_ANY_ID"] * 2 + ["0"] * 2 if len(words) == 2 else words + ["0"] * 2)[:6]
    numbers = [_number(word, constants) for word in words]
    if len(numbers) < 6 or any(number is None for number in numbers[:2]):
        return None
    filled = [0 if number is None else number for number in numbers]
    if filled[:2] == [0, 0]:  # the end of the table
        return None
    return Entry(*(n if n == _ANY or n < 0xFFFFFFFF else _ANY for n in filled))


def _built_by(directory: Path) -> dict[str, set[str]]:
    """Return for each object of a directory the symbols that build it."""
    text = _text(directory / "Makefile") + "\n" + _text(directory / "Kbuild")
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
    return built
