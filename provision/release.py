# SPDX-License-Identifier: GPL-2.0-or-later
"""Releases: what to fetch, how to check it, which patches, fix-ups, policy and steps.

A release is releases/NAME.toml, shipped or the user's own file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from provision.data import data_dir
from provision.errors import InputError

DEFAULT = "kerrighed-2.4.4"
_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_HEX = {"sha256": re.compile(r"[0-9a-f]{64}"), "tree": re.compile(r"[0-9a-f]{40}")}


@dataclass(frozen=True)
class Archive:
    """A source archive: the file names it is known by, where to get it, how to check it.

    Either ``sha256`` (hex, of the file) or ``tree`` (git tree id of its content) is set.
    """

    name: str
    files: tuple[str, ...]
    urls: tuple[str, ...]
    sha256: str | None
    tree: str | None
    git_ref: str | None
    fixups: tuple[str, ...]


@dataclass(frozen=True)
class Patches:
    """Patches inside one archive, applied to the tree of another in name order."""

    archive: str
    glob: str
    count: int
    target: str
    strip: int


@dataclass(frozen=True)
class Arch:
    """What the steps need to know of one architecture."""

    name: str
    image: str
    objects: int
    gcc_flags: tuple[str, ...]
    values: Mapping[str, str]


@dataclass(frozen=True)
class Step:
    """A part of the build: argument lists run in a tree, words in braces filled in."""

    name: str
    tree: str
    copy_of: str | None
    run: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Release:
    """A release file's content."""

    name: str
    title: str
    kernel_version: str
    policy: str
    archives: Mapping[str, Archive]
    patches: Patches | None
    arches: Mapping[str, Arch]
    steps: tuple[Step, ...]

    def identity(self) -> object:
        """Return what decides a build's result: not titles, addresses or comments."""
        return [
            self.name,
            self.kernel_version,
            [(a.name, a.sha256, a.tree, a.fixups) for a in self.archives.values()],
            astuple(self.patches) if self.patches else None,
            [
                (a.name, a.image, a.gcc_flags, sorted(a.values.items()))
                for a in self.arches.values()
            ],
            [astuple(step) for step in self.steps],
        ]

    def arch(self, name: str) -> Arch:
        """Return one architecture; InputError lists those there are."""
        try:
            return self.arches[name]
        except KeyError as error:
            known = ", ".join(self.arches)
            raise InputError(f"{self.name} has no architecture {name!r}; it has {known}") from error


def names() -> list[str]:
    """Return the names of the releases shipped."""
    return sorted(path.stem for path in data_dir("releases").glob("*.toml"))


def load(name: str) -> Release:
    """Read a release by name, or from a file when ``name`` is a path ending in .toml.

    :raises InputError: no such release, or the file is wrong; says where.
    """
    path = Path(name) if name.endswith(".toml") else data_dir("releases") / f"{name}.toml"
    if not name.endswith(".toml") and not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is not a release name")
    try:
        text = path.read_text("utf-8")
        return parse(text, str(path))
    except FileNotFoundError as error:
        raise InputError(
            f"no release {name}", hint=f"there are: {', '.join(names())}; or name a .toml file"
        ) from error


def parse(text: str, where: str) -> Release:
    """Return the Release a TOML text describes; ``where`` names it in errors."""
    try:
        raw = tomllib.loads(text)
        archives = {k: _archive(k, v, where) for k, v in raw["archive"].items()}
        release = Release(
            name=raw["name"],
            title=raw["title"],
            kernel_version=raw["kernel_version"],
            policy=raw["policy"],
            archives=archives,
            patches=Patches(**raw["patches"]) if "patches" in raw else None,
            arches={k: _arch(k, v) for k, v in raw["arch"].items()},
            steps=tuple(_step(s) for s in raw["step"]),
        )
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: {error} is missing or of the wrong type") from error
    if not _NAME.fullmatch(release.name):
        raise InputError(f"{where}: {release.name!r} is not a release name")
    if "linux" not in archives:
        raise InputError(f"{where}: there must be an [archive.linux]")
    for end in (release.patches.archive, release.patches.target) if release.patches else ():
        if end not in archives:
            raise InputError(f"{where}: patches name an archive {end} that is not described")
    return release


def _archive(name: str, raw: Mapping[str, Any], where: str) -> Archive:
    archive = Archive(
        name,
        tuple(raw["files"]),
        tuple(raw.get("urls", ())),
        raw.get("sha256"),
        raw.get("tree"),
        raw.get("git_ref"),
        tuple(raw.get("fixups", ())),
    )
    for file in archive.files:
        if not _FILE.fullmatch(file):
            raise InputError(f"{where}: archive {name}: {file!r} is not a plain file name")
    checks = {k: v for k, v in (("sha256", archive.sha256), ("tree", archive.tree)) if v}
    if len(checks) != 1:
        raise InputError(f"{where}: archive {name} needs either sha256 or tree")
    for kind, value in checks.items():
        if not _HEX[kind].fullmatch(value):
            raise InputError(f"{where}: archive {name}: {kind} is not a digest in hex")
    return archive


def _arch(name: str, raw: Mapping[str, Any]) -> Arch:
    return Arch(
        name,
        raw["image"],
        raw.get("objects", 0),
        tuple(raw.get("gcc_flags", ())),
        dict(raw.get("values", {})),
    )


def _step(raw: Mapping[str, Any]) -> Step:
    return Step(
        raw["name"], raw["tree"], raw.get("copy_of"), tuple(tuple(argv) for argv in raw["run"])
    )
