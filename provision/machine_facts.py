# SPDX-License-Identifier: GPL-2.0-or-later
"""What df, ls, ip, ifconfig and others printed on a node, understood here.

The facts script starts each program once and sends what it said as it is: the node may be old
and slow, this machine is not. Nothing is trusted: what makes no sense is left out.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_NAME = re.compile(r"[^\s/]{1,64}")
_LINK = re.compile(r" (/sys/\S{1,1000}) -> (\S{1,1000})")
_MOST_LINES = 10_000


@dataclass(frozen=True)
class Space:
    """The file system a directory is on: where it is mounted, and what is free in bytes."""

    mount: str
    free: int


@dataclass(frozen=True)
class Pci:
    """A disk controller or network card: its name in /sys (modalias), and who drives it now."""

    address: str
    modalias: str
    driver: str | None


@dataclass(frozen=True)
class Nic:
    """A network interface: its hardware address, its card's PCI address, its addresses."""

    name: str
    mac: str | None
    pci: str | None
    addresses: tuple[str, ...] = ()


def lines(blob: bytes) -> list[str]:
    """Return the lines of what a program said; of very many the first."""
    return blob.decode("utf-8", "replace").split("\n", _MOST_LINES)[:_MOST_LINES]


def first_line(blob: bytes) -> str:
    """Return the first line with something in it, at most 200 characters of it."""
    return next((line.strip()[:200] for line in lines(blob) if line.strip()), "")


# The programs whose first bytes are asked for, as head names them.
_PROGRAM = r"/sbin/init|/bin/sh|/lib(?:|/[^/\n]{1,100}|64|32)/libc\.so\.6"
_HEAD = re.compile(rf"(?:^|\n)==> ({_PROGRAM}) <==\n".encode())


def heads(blobs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the first bytes of programs: by "libc PATH", and of what starts first by "init".

    :param blobs: "heads" is what head said of all; "head PATH" what dd gave of one.
    """
    # What the names divide it into; the empty file comes last.
    parts = _HEAD.split(blobs.get("heads", b"").removesuffix(b"\n==> /dev/null <==\n"))
    found = {
        name.decode("utf-8", "replace"): content
        for name, content in zip(parts[1::2], parts[2::2], strict=True)
    }
    for name, content in blobs.items():
        kind, _, path = name.partition(" ")
        if kind == "head" and re.fullmatch(_PROGRAM, path):
            found[path] = content
    return {
        f"libc {path}" if path.endswith("/libc.so.6") else "init": content
        for path, content in found.items()
    }


def _rows(blob: bytes) -> list[tuple[int, str]]:
    """Return (free, mount point) of each line of df -P after its head."""
    found = []
    for line in lines(blob)[1:]:
        words = line.split(None, 5)
        if len(words) == 6 and re.fullmatch("-|-?[0-9]{1,18}", words[3]):
            free = 0 if words[3].startswith("-") else int(words[3])
            found.append((free, words[5].rstrip()))
    return found


def spaces(places: Sequence[str], df: bytes) -> dict[str, Space]:
    """Return the file system of each place.

    :param places: "NAME DIRECTORY" lines, in the order in which df was asked.
    :param df: what df -P -k said of the directories, one line for each.
    """
    rows = _rows(df)
    pairs = [tuple(place.split(" ", 1)) for place in places if " " in place]
    found: dict[str, Space] = {}
    for number, (name, directory) in enumerate(pairs):
        if len(rows) == len(pairs):
            free, mount = rows[number]
        else:
            # One of them could not be asked: the file system is the nearest above.
            above = [
                (len(mount), mount, free) for free, mount in rows if _is_below(directory, mount)
            ]
            if not above:
                continue
            _, mount, free = max(above)
        found[name] = Space(mount, free * 1024)
    return found


def _is_below(path: str, mount: str) -> bool:
    return path == mount or path.startswith(mount.rstrip("/") + "/")


def inodes(df: bytes) -> dict[str, int]:
    """Return the number of free inodes by mount point, from what df -P -i said."""
    return {mount: free for free, mount in _rows(df)}


def links(ls: bytes) -> dict[str, str]:
    """Return where links in /sys lead, from what ls -l said, as it is written in them."""
    return {m[1]: m[2] for line in lines(ls) if (m := _LINK.search(line)) is not None}


def pci_in(paths: Iterable[str]) -> str | None:
    """Return the last PCI address in paths of /sys: bridges come before it."""
    parts = [part for path in paths for part in path.split("/") if _PCI.fullmatch(part)]
    return parts[-1] if parts else None


# A path has colons of its own, in PCI addresses: what follows the file's name is its text.
_VALUE = re.compile(r"(/sys/\S{1,1000}/(?:class|modalias|address)):(.{0,1000})")


def values(grep: bytes) -> dict[str, str]:
    """Return what stands in files of /sys, from what grep said: "PATH:LINE"."""
    return {m[1]: m[2].strip() for line in lines(grep) if (m := _VALUE.match(line))}


def cards(values: Mapping[str, str], where: Mapping[str, str]) -> dict[str, Pci]:
    """Return the disk controllers and network cards, with their drivers by the links."""
    found = {}
    for path, kind in values.items():
        match = re.fullmatch(rf"/sys/bus/pci/devices/({_PCI.pattern})/class", path)
        # PCI's base classes of mass storage and of network controllers.
        if match and kind.startswith(("0x01", "0x02")):
            room = f"/sys/bus/pci/devices/{match[1]}"
            driver = _base(where.get(f"{room}/driver", ""))
            found[match[1]] = Pci(match[1], values.get(f"{room}/modalias", ""), driver)
    return found


def _base(path: str) -> str | None:
    name = posixpath.basename(path)
    return name if _NAME.fullmatch(name) else None


def root_pci(where: Mapping[str, str]) -> tuple[str, ...]:
    """Return the PCI addresses of what / lies on: of one disk, or of several that it is made of."""
    slaves = [path for path in where if "/slaves/" in path]
    paths = slaves or [path for path in where if path.startswith("/sys/block/")]
    found = [pci_in([where[path]]) for path in paths]
    return tuple(dict.fromkeys(address for address in found if address))


def root_drivers(where: Mapping[str, str]) -> str:
    """Return the drivers above the root disk, the nearest first."""
    above = [p for p in where if p.startswith("/sys/devices/") and p.endswith("/driver")]
    names = [_base(where[path]) for path in sorted(above, key=len, reverse=True)]
    return " ".join(name for name in names if name)


def addresses(said: bytes) -> dict[str, list[str]]:
    """Return the addresses of interfaces, from ``ip -o addr`` or ``ifconfig -a``."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in lines(said):
        by_ip = re.match(r"\d+: (\S+)\s+inet6? (\S+)", line)
        if by_ip:
            # eth0@if2 is one end of a pair, eth0:1 a second name of eth0.
            found.setdefault(re.split("[@:]", by_ip[1])[0], []).append(by_ip[2])
            continue
        if line[:1].strip():
            name = re.split(r"[:\s]", line)[0]
        by_ifconfig = re.search(
            r"\sinet(?:6?\s+addr:\s*|6?\s+)([0-9A-Fa-f:.]{2,45}(?:/\d+)?)", line
        )
        if by_ifconfig and name:
            found.setdefault(name, []).append(by_ifconfig[1])
    return found


def nics(
    values: Mapping[str, str], where: Mapping[str, str], numbers: Mapping[str, list[str]]
) -> dict[str, Nic]:
    """Return the network interfaces but lo, with their cards by the links."""
    found = {}
    for path, mac in values.items():
        place, _, _ = path.rpartition("/")
        name = place.removeprefix("/sys/class/net/")
        if place == f"/sys/class/net/{name}" and _NAME.fullmatch(name) and name != "lo":
            plain = mac.lower() if re.fullmatch("[0-9A-Fa-f:]{2,60}", mac) else None
            # Today the interface is a link, and the card's address in it; of old only device is.
            paths = [where.get(place, ""), where.get(f"{place}/device", "")]
            found[name] = Nic(name, plain, pci_in(paths), tuple(numbers.get(name, ())))
    return found


def journal_features(said: bytes) -> str:
    """Return the features of ext3's journal, from what dumpe2fs -h said."""
    for line in lines(said):
        if line.startswith("Journal features:"):
            return line.partition(":")[2].strip()[:200]
    return ""
