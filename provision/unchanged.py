# SPDX-License-Identifier: GPL-2.0-or-later
"""Which nodes had nothing to change the last time, and the seal of what that was decided by.

A seal is the digest of a node's answer to the first part of templates/facts.sh.j2: the running
kernel and boot, and type, mode, owner, size and content of every file of the build and of every
settings file. Where a node gives the same seal for the same build, cluster file, options and
program, there is nothing to change still, and the rest of its facts need not be asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from provision import events
from provision.data import data_dir

if TYPE_CHECKING:
    from provision.deploy import Target

_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Known:
    """What is remembered of a node: its seal, and the notes that its plan had."""

    seal: str
    notes: tuple[str, ...] = ()


def _program() -> list[tuple[str, int, int]]:
    """Return what tells one state of the program from another: names, sizes and times."""
    found = []
    for top in (data_dir("cli").parent, data_dir("templates"), data_dir("grub")):
        for path in top.rglob("*"):
            if path.suffix in (".py", ".j2", ".toml"):
                there = path.stat()
                found.append((str(path), there.st_size, there.st_mtime_ns))
    return sorted(found)


def key(target: Target) -> str:
    """Return the digest of all that a plan is made from, but for the node's own facts."""
    build = target.build
    what = (
        _program(),
        replace(target.cluster, only=None, path=None),
        build.build_id,
        str(build.directory),
        [(one.path, one.token, one.mode) for one in target.files],
        target.config,
        target.bootloader,
        sorted(target.force),
        target.reboot,
        target.packages,
    )
    return hashlib.sha256(repr(what).encode()).hexdigest()


class Memory:
    """What is remembered of a cluster's nodes; nothing of it is needed.

    :param path: the file it is kept in, in the cluster's state directory.
    """

    def __init__(self, path: Path, target: Target) -> None:
        self._path = path
        self._key = key(target)
        self._nodes = dict(_read(path, self._key))
        self._before = dict(self._nodes)

    def seal(self, name: str) -> str:
        """Return the seal of a node that had nothing to change; empty if it is not known."""
        known = self._nodes.get(name)
        return "" if known is None else known.seal

    def notes(self, name: str) -> tuple[str, ...]:
        """Return the notes of such a node's plan."""
        known = self._nodes.get(name)
        return () if known is None else known.notes

    def keep(self, name: str, seal: str | None, notes: Iterable[str] = ()) -> None:
        """Remember a node that had nothing to change, or, without a seal, forget it."""
        self._nodes.pop(name, None)
        if seal is not None:
            self._nodes[name] = Known(seal, tuple(notes))

    def write(self) -> None:
        """Write it down, whole or not at all; where that cannot be done, it is forgotten."""
        if self._nodes == self._before:
            return
        nodes = {name: [known.seal, *known.notes] for name, known in self._nodes.items()}
        text = json.dumps({"key": self._key, "nodes": nodes})
        new = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                new.write_text(text, "utf-8")
                os.replace(new, self._path)  # noqa: PTH105 - the same
            finally:
                new.unlink(missing_ok=True)


def _read(path: Path, wanted: str) -> Mapping[str, Known]:
    """Return what the file says under this key; nothing where it makes no sense."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return {}
        said = json.loads(path.read_text("utf-8"))
        if said["key"] != wanted:
            return {}
        return {
            str(name): Known(str(seal), tuple(str(note) for note in notes))
            for name, (seal, *notes) in said["nodes"].items()
            if len(seal) == 64 and set(seal) <= set("0123456789abcdef")
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def memory(target: Target) -> Memory:
    """Return what is remembered of the target's cluster."""
    return Memory(events.directory(target.cluster) / "unchanged.json", target)
