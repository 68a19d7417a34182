# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node said about itself: the values, and the reader of what templates/facts.sh.j2 prints.

Nothing a node says is trusted: unknown or malformed lines are skipped, numbers are
checked, and names are used as dictionary keys only.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Seen:
    """A file, link or directory on the node, by its lstat(2) mode; ``sha256`` for files only."""

    st_mode: int
    size: int
    sha256: str | None = None
    target: str | None = None

    @property
    def is_directory(self) -> bool:
        """Tell whether it is a directory."""
        return stat.S_ISDIR(self.st_mode)

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
class Space:
    """The file system a directory is on: where it is mounted, and what is free in bytes."""

    mount: str
    free: int


@dataclass(frozen=True)
class Facts:
    """Everything one round trip brought; None and empty where the node said nothing.

    ``blobs`` holds the first bytes of programs: "init", and "libc PATH" for each C library.
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
    complete: bool = False

    def word(self, name: str) -> str | None:
        """Return the single value ``name``: kernel, machine, boot_id, node_id, nrnodes, ..."""
        return self.words.get(name)

    @property
    def boot_is_separate(self) -> bool:
        """Tell whether /boot is a file system of its own."""
        return "/boot" in self.space and self.space["/boot"].mount == "/boot"


_WORDS = frozenset(
    {
        "boot_id",
        "cpu64",
        "grub2",
        "hostname",
        "kernel",
        "machine",
        "node_id",
        "nrnodes",
        "root_number",
        "rootdev",
        "rootdrivers",
        "rootfs",
        "saved",
        "session_id",
        "tool",
        "uid",
    }
)
_LISTS = ("lacks", "readonly", "linked", "odd", "huge")


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
            line = self._raw[self._at : stop]
            self._at = stop + 1
            yield line.decode("utf-8", "replace").rstrip()

    def text(self) -> bytes | None:
        stop = self._raw.find(self._mark, self._at)
        if stop < 0:
            return None
        content = self._raw[self._at : stop]
        self._at = stop + len(self._mark)
        return content


def parse(raw: bytes, mark: str) -> Facts:
    """Read the output of the facts script; ``mark`` ends the texts in it."""
    words: dict[str, str] = {}
    lists: dict[str, list[str]] = {name: [] for name in _LISTS}
    space: dict[str, Space] = {}
    sizes: dict[str, tuple[int, int]] = {}
    sums: dict[str, str] = {}
    links: dict[str, str] = {}
    texts: dict[str, Text] = {}
    blobs: dict[str, bytes] = {}
    complete = False
    reader = _Reader(raw, mark)
    for line in reader.lines():
        kind, _, rest = line.partition(" ")
        try:
            if kind in _WORDS:
                words[kind] = rest
            elif kind in _LISTS:
                lists[kind].append(rest)
            elif kind == "df":
                place, _, _, _, free, _, mount = rest.split(None, 6)
                space[place] = Space(mount, max(0, int(free)) * 1024)
            elif kind == "stat":
                mode, size, path = rest.split(" ", 2)
                sizes[path] = (int(mode, 16), int(size))
            elif kind == "link":
                path, _, links_to = rest.partition(" ")
                links[path] = links_to
            elif kind == "sum":
                digest, _, path = rest.partition("  ")
                sums[path] = digest
            elif kind == "text":
                path, mode, uid, gid, real = rest.split(" ", 4)
                content = reader.text()
                if content is None:
                    break
                texts[path] = Text(content, int(mode, 8), int(uid), int(gid), real)
            elif kind == "blob" and (head := reader.text()) is not None:
                blobs[rest] = head
            elif kind == "end":
                complete = True
        except ValueError:
            continue
    return Facts(
        words=words,
        lacks=tuple(lists["lacks"]),
        readonly=tuple(lists["readonly"]),
        linked=tuple(lists["linked"]),
        odd=tuple(lists["odd"] + lists["huge"]),
        space=space,
        files={
            path: Seen(mode, size, sums.get(path), links.get(path))
            for path, (mode, size) in sizes.items()
        },
        texts=texts,
        blobs=blobs,
        complete=complete,
    )
