# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node said about itself: the values, and the reader of what templates/facts.sh.j2 prints.

Nothing a node says is trusted: unknown or malformed lines are skipped, numbers are
checked, and names are used as dictionary keys only.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from provision import boot_facts, machine_facts, superblock
from provision.machine_facts import Nic, Pci, Space
from provision.superblock import Superblock

__all__ = ["ABSENT", "Facts", "Nic", "Pci", "Seen", "Space", "Text", "parse"]

# More than any honest answer has: what is beyond is not read.
_MOST_BYTES = 64 << 20
_MOST_WORD = 4096
_MOST_LINES = 200_000
_MOST_TEXT = 1 << 20
# A settings file that is longer is not edited; as in facts.sh.
_MOST_SETTINGS = 262144


@dataclass(frozen=True)
class Seen:
    """A file, link or directory on the node, by its lstat(2) mode; ``sha256`` for files only."""

    st_mode: int
    size: int
    sha256: str | None = None
    target: str | None = None

    @property
    def kind(self) -> str:
        """Return "file", for a link too, "directory", or "pipe, socket or device"."""
        if stat.S_ISREG(self.st_mode) or stat.S_ISLNK(self.st_mode):
            return "file"
        return "directory" if stat.S_ISDIR(self.st_mode) else "pipe, socket or device"

    @property
    def mode(self) -> int:
        """Return the permission bits."""
        return stat.S_IMODE(self.st_mode)


@dataclass(frozen=True)
class Text:
    """A configuration file: content, permission bits, owner; ``real`` is where links lead."""

    content: bytes
    mode: int
    uid: int
    gid: int
    real: str

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return len(self.content)

    @property
    def sha256(self) -> str:
        """Return the digest of the content in hex."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Facts:
    """Everything one round trip brought; None and empty where the node said nothing.

    ``blobs`` holds the first bytes of programs, "init" and "libc PATH" for each C library, and
    of what is booted: "disk" and "root". ``inodes`` is by mount point, ``versions`` by tool;
    ``has`` names files that exist; ``root_pci`` is what the root disk hangs on; ``reads`` has
    the digest, or ABSENT, of each settings file; ``seal`` is the digest of all that decides
    whether a node is as wanted, None where these facts cannot vouch for it.
    """

    words: Mapping[str, str] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    readonly: tuple[str, ...] = ()
    linked: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    space: Mapping[str, Space] = field(default_factory=dict)
    files: Mapping[str, Seen] = field(default_factory=dict)
    texts: Mapping[str, Text] = field(default_factory=dict)
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    inodes: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    has: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()
    pci: Mapping[str, Pci] = field(default_factory=dict)
    nics: Mapping[str, Nic] = field(default_factory=dict)
    root_pci: tuple[str, ...] = ()
    superblock: Superblock | None = None
    reads: Mapping[str, str] = field(default_factory=dict)
    seal: str | None = None
    complete: bool = False

    def word(self, name: str) -> str | None:
        """Return the single value ``name``: kernel, machine, boot_id, node_id, nrnodes, ..."""
        return self.words.get(name)

    def number(self, name: str) -> float | None:
        """Return what ``name`` begins with as a number: uptime, clock, clock_skew."""
        match = re.match(r"-?[0-9]{1,18}(\.[0-9]{1,9})?(?![^ ])", self.words.get(name, ""))
        return float(match[0]) if match else None

    @property
    def boot_is_separate(self) -> bool:
        """Tell whether /boot is a file system of its own."""
        return "/boot" in self.space and self.space["/boot"].mount == "/boot"


_WORDS = frozenset((
    "boot_id", "clock", "cmdline", "cpu64", "etc_hostname", "firmware",
    "grub2", "grub_device", "grub_mapper", "grub_type", "hostname", "ids", "init_link", "journal",
    "kernel", "machine", "modules", "node_id", "nrnodes", "restart", "root_number", "rootdev",
    "rootdrivers", "rootfs", "rootmapper", "same", "saved", "session_id", "tool", "uid",
    "uptime", "watchdog", "watchdog_driver",
))  # fmt: skip
_LISTS = ("absent", "has", "lacks", "linked", "odd", "place", "readonly", "reads")
# In place of a digest.
ABSENT = "absent"


class _Reader:
    """Takes lines and, between them, texts that end with a mark only this run knows."""

    def __init__(self, raw: bytes, mark: str) -> None:
        self._raw = raw
        self._mark = b"\n" + mark.encode() + b"\n"
        self._at = 0

    def lines(self) -> Iterator[str]:
        while self._at < len(self._raw):
            stop = self._raw.find(b"\n", self._at)
            stop = len(self._raw) if stop < 0 else stop
            line = self._raw[self._at : min(stop, self._at + _MOST_WORD)]
            self._at = stop + 1
            yield line.decode("utf-8", "replace").rstrip()

    def text(self) -> bytes | None:
        stop = self._raw.find(self._mark, self._at)
        if stop < 0:
            return None
        content = self._raw[self._at : stop]
        self._at = stop + len(self._mark)
        return content[:_MOST_TEXT]


class _Found:
    """What the lines said so far."""

    def __init__(self) -> None:
        self.words: dict[str, str] = {}
        self.lists: dict[str, list[str]] = {name: [] for name in _LISTS}
        self.stats: dict[str, tuple[int, int, int, int]] = {}
        self.sums: dict[str, str] = {}
        self.links: dict[str, str] = {}
        self.reals: dict[str, str] = {}
        self.contents: dict[str, tuple[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.complete = False

    def take(self, line: str, reader: _Reader) -> bool:
        """Take one line; False when nothing after it can be understood.

        :raises ValueError: the line is malformed, and says nothing.
        """
        kind, _, rest = line.partition(" ")
        if kind in _WORDS:
            self.words[kind] = rest
        elif kind in self.lists:
            self.lists[kind].append(rest)
        elif kind == "stat":
            mode, size, uid, gid, path = rest.split(" ", 4)
            self.stats[path] = (_mode(mode, 16), _count(size), _count(uid), _count(gid))
        elif kind == "link":
            path, _, links_to = rest.partition(" ")
            self.links[path] = links_to
        elif kind == "real":
            path, _, real = rest.partition(" ")
            self.reals[path] = real
        elif len(kind) == 64 and rest.startswith(" "):
            self.sums[rest[1:]] = kind
        elif kind == "text":
            path, _, real = rest.partition(" ")
            content = reader.text()
            if content is None:
                return False
            self.contents[path] = (real, content)
        elif kind == "blob" and (head := reader.text()) is not None:
            self.blobs[rest] = head
        elif kind == "end":
            self.complete = True
        return True

    def texts(self) -> dict[str, Text]:
        """Return the settings files; one that is not known whole, with its owner, is odd."""
        found = {}
        for path, (real, content) in self.contents.items():
            there = self.stats.get(real)
            if there is None or len(content) > _MOST_SETTINGS:
                self.lists["odd"].append(path)
            else:
                mode, _, uid, gid = there
                found[path] = Text(content, stat.S_IMODE(mode), uid, gid, real)
        return found

    def reads(self, texts: Mapping[str, Text]) -> dict[str, str]:
        """Return the digests of what is read; of the content that was looked at, if there is."""
        found = dict.fromkeys(self.lists["absent"], ABSENT)
        for path in self.lists["reads"]:
            digest = self.sums.get(self.reals.get(path, path))
            if path in texts:
                digest = texts[path].sha256
            if digest is not None:
                found[path] = digest
        return found

    def vouches(self, texts: Mapping[str, Text]) -> bool:
        """Tell whether the files had the same content each time they were read."""
        return self.complete and all(
            self.sums.get(text.real) == text.sha256 for text in texts.values()
        )


def _count(text: str) -> int:
    """Read a number of at most 18 digits; a negative one is 0.

    :raises ValueError: it is none.
    """
    if len(text) > 19:
        raise ValueError(text)
    return max(0, int(text))


def _mode(text: str, base: int) -> int:
    mode = int(text, base)
    if not 0 <= mode < 1 << 32:
        raise ValueError(text)
    return mode


def _add_words(words: dict[str, str], blobs: Mapping[str, bytes]) -> None:
    """Add what a program's output comes to, and make words plain."""
    if "uptime" in words:
        words["uptime"] = words["uptime"].partition(" ")[0]
    # Who drives the watchdog, where the kernel says that; else that there is one.
    driver = words.pop("watchdog_driver", "")
    if driver and "watchdog" in words:
        words["watchdog"] = driver
    journal = machine_facts.journal_features(blobs.get("features", b""))
    if journal:
        words["journal"] = journal
    drivers = machine_facts.root_drivers(machine_facts.links(blobs.get("links", b"")))
    if drivers:
        words["rootdrivers"] = drivers


def parse(raw: bytes, mark: str) -> Facts:
    """Read the output of the facts script; ``mark`` ends the texts in it.

    Never raises: what makes no sense is left out, and sizes are bounded. What follows from
    several facts is added to the words: ``bootloader``, ``grubenv_storage``, ``init`` and
    ``udev`` (boot_facts.py), ``root_uuid``.
    """
    found = _Found()
    reader = _Reader(raw[:_MOST_BYTES], mark)
    for count, line in enumerate(reader.lines()):
        if count >= _MOST_LINES:
            break
        try:
            if not found.take(line, reader):
                break
        except ValueError:
            continue
    lists, words, blobs = found.lists, found.words, found.blobs
    blobs.update(machine_facts.heads(blobs))
    _add_words(words, blobs)
    versions = {
        name.removeprefix("version "): machine_facts.first_line(said)
        for name, said in blobs.items()
        if name.startswith("version ") and said.strip()
    }
    has = frozenset(lists["has"])
    block = superblock.read(blobs.get("root", b""))
    if block is not None and block.uuid:
        words["root_uuid"] = block.uuid
    words["bootloader"] = boot_facts.bootloader(blobs, has)
    words["grubenv_storage"] = boot_facts.grubenv_storage(words)
    words["init"] = boot_facts.init_system(words, versions, has)
    for name, value in (
        ("udev", boot_facts.udev(versions)),
        ("dpkg_architecture", boot_facts.dpkg_architecture(versions)),
    ):
        if value is not None:
            words[name] = value
    texts = found.texts()
    seal = None
    stop = raw.find(b"\nsealed\n")
    if stop >= 0 and found.vouches(texts):
        seal = hashlib.sha256(raw[: stop + 1]).hexdigest()
    links = machine_facts.links(blobs.get("links", b""))
    values = machine_facts.values(blobs.get("sys", b""))
    addresses = machine_facts.addresses(blobs.get("addresses", b""))
    return Facts(
        words=words,
        lacks=tuple(lists["lacks"]),
        readonly=tuple(lists["readonly"]),
        linked=tuple(lists["linked"]),
        odd=tuple(lists["odd"]),
        space=machine_facts.spaces(lists["place"], blobs.get("df", b"")),
        files={
            path: Seen(mode, size, found.sums.get(path), found.links.get(path))
            for path, (mode, size, _, _) in found.stats.items()
        },
        texts=texts,
        blobs=blobs,
        inodes=machine_facts.inodes(blobs.get("inodes", b"")),
        versions=versions,
        has=has,
        modules=frozenset(words.pop("modules", "").split()),
        pci=machine_facts.cards(values, links),
        nics=machine_facts.nics(values, links, addresses),
        root_pci=machine_facts.root_pci(links),
        superblock=block,
        reads=found.reads(texts),
        seal=seal,
        complete=found.complete,
    )
