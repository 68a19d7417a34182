# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the modules that were built drives a PCI device, as modprobe would find it.

depmod writes the modules' patterns to modules.alias; where that is missing they are read from
the modules themselves (the strings alias= of the section .modinfo). For what is built in the
kernel's build leaves the same in modules.builtin.modinfo, from Linux 5.2 on.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from kconfig import packed
from kconfig.drivers import Device
from kconfig.errors import KconfigError

_MOST_BYTES = 256 << 20
_MODULE = re.compile(r"(.+)\.ko(?:\.gz|\.xz|\.zst)?")
_RELEASE = re.compile(r"(\d{1,5})\.(\d{1,5})(?:\.(\d{1,5}))?")
# A hexadecimal digit that whoever named the device did not say. No pattern has it.
_UNKNOWN = "\0"
_SPECIAL = re.compile(r"[*?\[\\]")


class Alias(NamedTuple):
    """A pattern of device names, and the module that takes what matches."""

    pattern: str
    module: str


class Built(NamedTuple):
    """The modules of one kernel; ``inside`` is what is built in, None when that is not told."""

    directory: Path
    modules: tuple[Alias, ...]
    inside: tuple[Alias, ...] | None

    @property
    def release(self) -> str:
        """Return the kernel's release, which the directory is named after."""
        return self.directory.name

    @property
    def version(self) -> tuple[int, int, int] | None:
        """Return the numbers of the release, None when its name has none."""
        match = _RELEASE.match(self.release)
        return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def load(directory: Path) -> Built:
    """Read /lib/modules/RELEASE, or the one RELEASE below a directory that has lib/modules.

    :raises KconfigError: there are no modules, those of several kernels, or one is damaged.
    """
    place = _release_in(directory)
    try:
        text = _text(place / "modules.alias")
        modules = tuple(_listed(text) if text is not None else _in_modules(place))
        inside = _text(place / "modules.builtin.modinfo")
    except OSError as error:
        raise KconfigError(f"{error.filename or place}: {error.strerror or error}") from error
    return Built(place, modules, None if inside is None else tuple(_in_kernel(inside)))


def names(aliases: Iterable[Alias], device: Device) -> list[str]:
    """Return the modules whose patterns match, as far as is known about the device."""
    text = _modalias(device)
    start = text.partition(_UNKNOWN)[0]
    found = {
        module
        for pattern, module in aliases
        if _may_begin(pattern, start) and _matches(pattern, text)
    }
    return sorted(found)


def _release_in(directory: Path) -> Path:
    if not directory.is_dir():
        raise KconfigError(f"{directory}: no such directory")
    if _has_modules(directory):
        return directory.resolve()
    rooms = [directory / "lib/modules", directory / "usr/lib/modules", directory]
    found = {
        place.resolve(): None
        for room in rooms if room.is_dir()
        for place in sorted(room.iterdir()) if place.is_dir() and _has_modules(place)
    }  # fmt: skip
    if not found:
        raise KconfigError(
            f"{directory}: no modules in it: neither /lib/modules/RELEASE nor lib/modules below"
        )
    if len(found) > 1:
        releases = ", ".join(place.name for place in found)
        raise KconfigError(f"{directory}: modules of several kernels ({releases}): name one")
    return next(iter(found))


def _has_modules(directory: Path) -> bool:
    marks = ("modules.alias", "modules.order", "modules.dep", "modules.builtin", "kernel")
    return any((directory / mark).exists() for mark in marks)


def _bytes(path: Path) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(min(path.stat().st_size + 1, _MOST_BYTES))
    if len(data) == _MOST_BYTES:
        raise KconfigError(f"{path}: more than {_MOST_BYTES >> 20} MiB")
    return data


def _text(path: Path) -> str | None:
    return _bytes(path).decode("latin-1") if path.is_file() else None


def _listed(text: str) -> Iterator[Alias]:
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "alias" and words[1].startswith("pci:"):
            yield Alias(words[1], words[2])


def _in_kernel(text: str) -> Iterator[Alias]:
    for entry in text.split("\0"):
        module, _, pattern = entry.partition(".alias=")
        if pattern.startswith("pci:"):
            yield Alias(pattern, module)


def _in_modules(place: Path) -> Iterator[Alias]:
    for path in sorted(place.rglob("*.ko*")):
        match = _MODULE.fullmatch(path.name)
        if match and path.is_file():
            for entry in _modinfo(path).split(b"\0"):
                if entry.startswith(b"alias=pci:"):
                    pattern = entry.removeprefix(b"alias=").decode("latin-1")
                    yield Alias(pattern, match[1].replace("-", "_"))


def _modinfo(path: Path) -> bytes:
    """Return a module's section .modinfo.

    :raises KconfigError: the file is damaged, or no module.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    data = _bytes(path)
    kind = packed.kind_of(data)
    if kind is not None:
        data, trouble = packed.unpack(data, kind)
        if trouble:
            raise KconfigError(f"{path}: {trouble}")
    try:
        section = ELFFile(BytesIO(data)).get_section_by_name(".modinfo")
        return bytes(section.data()) if section is not None else b""
    # What pyelftools comes to when offsets and sizes in the file lead anywhere.
    except (ELFError, struct.error, ValueError, LookupError, AttributeError, TypeError,
            ArithmeticError, OSError, MemoryError) as error:  # fmt: skip
        raise KconfigError(f"{path}: not a module, or a damaged one ({error})") from error


def _modalias(device: Device) -> str:
    """Return the device's name as in /sys, with _UNKNOWN for digits that are not known."""
    text = "pci:"
    ids = (device.vendor, device.device, device.subvendor, device.subdevice)
    for name, value in zip(("v", "d", "sv", "sd"), ids, strict=True):
        text += name + (_UNKNOWN * 8 if value < 0 else f"{value:08X}")
    for name, shift in (("bc", 16), ("sc", 8), ("i", 0)):
        known = device.pci_class >= 0 and (device.class_known >> shift) & 0xFF == 0xFF
        text += name + (f"{(device.pci_class >> shift) & 0xFF:02X}" if known else _UNKNOWN * 2)
    return text


def _may_begin(pattern: str, start: str) -> bool:
    """Tell cheaply that a pattern cannot match: most name another vendor or device."""
    literal = _SPECIAL.split(pattern, maxsplit=1)[0]
    return literal.startswith(start) or start.startswith(literal)


def _matches(pattern: str, text: str) -> bool:
    """Match as fnmatch(3) does without flags; Python's own knows no backslashes and no [^...].

    A character of ``text`` that is _UNKNOWN matches what stands for one character.
    """
    first, *rest = _between_stars(pattern)
    made = first
    if rest:
        # The first place where a part fits is as good as any: no need to go back.
        made += "".join(f"(?>.*?{part})" for part in rest[:-1]) + f".*{rest[-1]}"
    try:
        return re.fullmatch(made, text, re.S) is not None
    except re.error:  # such as a range from z to a, which matches nothing
        return False


def _between_stars(pattern: str) -> list[str]:
    """Return regular expressions for what stands between the stars of a pattern."""
    parts = [""]
    at = 0
    while at < len(pattern):
        sign = pattern[at]
        at += 1
        if sign == "*":
            parts.append("")
        elif sign == "?":
            parts[-1] += "."
        elif sign == "[" and (end := _end_of_set(pattern, at)) is not None:
            negated = pattern[at] in "!^"
            body = "".join(c if c == "-" else re.escape(c) for c in pattern[at + negated : end])
            parts[-1] += f"[^{body}]" if negated else f"[{body}{_UNKNOWN}]"
            at = end + 1
        else:
            if sign == "\\" and at < len(pattern):
                sign, at = pattern[at], at + 1
            parts[-1] += f"[{re.escape(sign)}{_UNKNOWN}]"
    return parts


def _end_of_set(pattern: str, at: int) -> int | None:
    """Return where the ] of a set is; one that comes first stands for itself."""
    first = at + 1 if pattern[at : at + 1] in ("!", "^") else at
    end = pattern.find("]", first + 1)
    return end if end > 0 else None
