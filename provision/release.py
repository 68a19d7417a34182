# SPDX-License-Identifier: GPL-2.0-or-later
"""Releases: what to fetch, how to check it, which patches, fix-ups, policy and steps.

A release is releases/NAME.toml, shipped or the user's own file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from provision import module as modules
from provision import tables
from provision.data import data_dir
from provision.errors import InputError
from provision.module import Module
from provision.tables import Table

DEFAULT = "kerrighed-2.4.4"
_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_KEYS = {
    "name",
    "title",
    "extends",
    "kernel_version",
    "policy",
    "base",
    "epoch",
    "archive",
    "patches",
    "arch",
    "step",
    "module",
    "tools",
}
_MOST_BASES = 8
# What a configuration begins with, as make's targets of these names do.
BASES = ("defconfig", "allnoconfig")
_HEX = {"sha256": re.compile(r"[0-9a-f]{64}"), "tree": re.compile(r"[0-9a-f]{40}")}


@dataclass(frozen=True)
class Archive:
    """A source archive: the file names it is known by, where to get it, how to check it.

    One of these is set: ``sha256`` (hex, of the file), ``tree`` (git tree id of its content),
    ``debian`` (a Debian package that brings it, whose digests dpkg knows) or ``directory``
    (a directory beside the release file, or an example's name).
    """

    name: str
    files: tuple[str, ...]
    urls: tuple[str, ...]
    sha256: str | None
    tree: str | None
    git_ref: str | None
    fixups: tuple[str, ...]
    debian: str | None = None
    directory: Path | None = None

    @property
    def pinned(self) -> str | None:
        """Return its identity where the release itself says it."""
        if self.sha256:
            return f"sha256:{self.sha256}"
        return f"tree:{self.tree}" if self.tree else None


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
    """A release file's content.

    ``kernel_version`` may be a part of the tree's: of 6.1.x it is 6.1. ``epoch`` is the time,
    in seconds since 1970, that builds and packages say they are from; ``base`` one of BASES.
    """

    name: str
    title: str
    kernel_version: str
    policy: str
    base: str
    epoch: int
    archives: Mapping[str, Archive]
    patches: Patches | None
    arches: Mapping[str, Arch]
    steps: tuple[Step, ...]
    module: Module | None = None
    tools: tuple[str, ...] = ()

    def identity(self) -> object:
        """Return what decides a build's result: not titles, addresses or comments."""
        return [
            self.name,
            self.kernel_version,
            self.epoch,
            [(a.name, a.sha256, a.tree, a.fixups) for a in self.archives.values()],
            astuple(self.patches) if self.patches else None,
            [
                (a.name, a.image, a.gcc_flags, sorted(a.values.items()))
                for a in self.arches.values()
            ],
            [astuple(step) for step in self.steps],
            # Only where they are there: they came later, and old builds are still good.
            *([f"base {self.base}"] if self.base != BASES[0] else ()),
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
    path = _path(name, Path())
    return _release(_read(name, path), path.parent)


def parse(text: str, where: str) -> Release:
    """Return the Release a TOML text describes; ``where`` names it in errors."""
    return _release(_extended(tables.parse(text, where, _KEYS), Path(), ()), Path())


def _path(name: str, beside: Path) -> Path:
    if name.endswith(".toml") and "\0" not in name:
        return beside / name
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is not a release name")
    return data_dir("releases") / f"{name}.toml"


def _read(name: str, path: Path, chain: tuple[Path, ...] = ()) -> Table:
    try:
        raw = tables.read(path, _KEYS)
    except FileNotFoundError as error:
        raise InputError(
            f"no release {name}", hint=f"there are: {', '.join(names())}; or name a .toml file"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    return _extended(raw, path.parent, (*chain, path.absolute()))


def _extended(raw: Table, beside: Path, chain: tuple[Path, ...]) -> Table:
    """Return a release with what it takes over from the one that it extends."""
    base = raw.maybe("extends")
    if base is None:
        return raw
    if "name" not in raw:
        raise InputError(f"{raw.where}: 'name' is missing; that of {base} is taken")
    # A directory that it names is looked for beside this one.
    if "/" in base:
        raise InputError(f"{raw.where}: extends {base!r}, which is not beside it")
    path = _path(base, beside)
    if path.absolute() in chain:
        raise InputError(f"{raw.where}: extends itself, by way of {base}")
    if len(chain) > _MOST_BASES:
        raise InputError(f"{raw.where}: extends one that extends more than {_MOST_BASES} others")
    return raw.over(_read(base, path, chain), {"archive", "arch"})


def _release(raw: Table, beside: Path) -> Release:
    archives = {
        _plain(name, raw.where): _archive(name, raw, beside) for name in raw.table("archive")
    }
    if "linux" not in archives:
        raise InputError(f"{raw.where}: there must be an [archive.linux]")
    arches = {_plain(name, raw.where): _arch(name, raw) for name in raw.table("arch")}
    if not arches:
        raise InputError(f"{raw.where}: there must be an [arch.NAME]")
    steps: list[Step] = []
    trees = set(archives)
    for one in raw.tables("step", {"name", "tree", "copy_of", "run"}):
        step = _step(one, trees)
        trees.add(step.tree)
        steps.append(step)
    return Release(
        name=_plain(raw.text("name"), raw.where),
        title=raw.text("title"),
        kernel_version=raw.text("kernel_version"),
        policy=raw.text("policy"),
        base=_base(raw),
        epoch=raw.number("epoch"),
        archives=archives,
        patches=_patches(raw, archives) if "patches" in raw else None,
        arches=arches,
        steps=tuple(steps),
        module=modules.table(raw),
        tools=_tools(raw),
    )


def _tools(raw: Table) -> tuple[str, ...]:
    """Return what a build needs besides what every build does: programs, and headers of C."""
    tools = raw.texts("tools", ())
    for tool in tools:
        _plain(tool, raw.where)
    return tools


def _base(raw: Table) -> str:
    base = raw.text("base", BASES[0])
    if base not in BASES:
        raise InputError(f"{raw.where}: base is {' or '.join(BASES)}, not {base!r}")
    return base


def _plain(name: str, where: str) -> str:
    """Return a name that will be part of a path, if it can be nothing but one."""
    if not _PLAIN.fullmatch(name):
        raise InputError(f"{where}: {name!r} is not a plain name")
    return name


def _archive(name: str, release: Table, beside: Path) -> Archive:
    raw = release.table("archive").table(
        name, {"files", "urls", "sha256", "tree", "git_ref", "fixups", "debian", "directory"}
    )
    place = raw.maybe("directory")
    archive = Archive(
        name,
        raw.texts("files", None if place is None else ()),
        raw.texts("urls", ()),
        raw.maybe("sha256"),
        raw.maybe("tree"),
        raw.maybe("git_ref"),
        raw.texts("fixups", ()),
        raw.maybe("debian"),
        None if place is None else _directory(tables.below(place, raw.where), beside),
    )
    if not archive.files and place is None:
        raise InputError(f"{raw.where}: files must name the archive")
    for file in archive.files:
        _plain(file, raw.where)
    checks = [key for key in ("sha256", "tree", "debian", "directory") if key in raw]
    if len(checks) != 1:
        raise InputError(f"{raw.where}: needs either sha256 or tree, or else debian or directory")
    for kind, value in (("sha256", archive.sha256), ("tree", archive.tree)):
        if value is not None and not _HEX[kind].fullmatch(value):
            raise InputError(f"{raw.where}: {kind} is not a digest in hex")
    if archive.debian is not None and not _PACKAGE.fullmatch(archive.debian):
        raise InputError(f"{raw.where}: {archive.debian!r} is no Debian package's name")
    if archive.urls and archive.pinned is None:
        raise InputError(f"{raw.where}: urls need sha256 or tree, to check what comes from there")
    return archive


def _directory(name: str, beside: Path) -> Path:
    """Return the directory of that name beside the release file, else the example so called."""
    place = beside / name
    return place if place.is_dir() else data_dir("examples") / name


def _patches(release: Table, archives: Mapping[str, Archive]) -> Patches:
    raw = release.table("patches", {"archive", "glob", "count", "target", "strip"})
    patches = Patches(
        raw.text("archive"),
        tables.below(raw.text("glob"), raw.where),
        raw.number("count"),
        raw.text("target"),
        raw.number("strip", 1),
    )
    for end in (patches.archive, patches.target):
        if end not in archives:
            raise InputError(f"{raw.where}: there is no archive {end}")
    return patches


def _arch(name: str, release: Table) -> Arch:
    raw = release.table("arch").table(name, {"image", "objects", "gcc_flags", "values"})
    return Arch(
        name,
        tables.below(raw.text("image"), raw.where),
        raw.number("objects", 0),
        raw.texts("gcc_flags", ()),
        raw.table("values").texts_by_key(),
    )


def _step(raw: Table, trees: set[str]) -> Step:
    step = Step(
        raw.text("name"),
        _plain(raw.text("tree"), raw.where),
        raw.maybe("copy_of"),
        raw.lists("run"),
    )
    source = step.tree if step.copy_of is None else step.copy_of
    if source not in trees:
        raise InputError(f"{raw.where}: there is no tree {source}")
    if not step.run or not all(step.run):
        raise InputError(f"{raw.where}: run must hold argument lists")
    return step
