# SPDX-License-Identifier: GPL-2.0-or-later
"""Which Debian packages are made of a build, and what goes where: packages.toml read. No output."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provision import module as modules
from provision import tables
from provision.artifacts import Artifacts
from provision.data import data_dir
from provision.deb import NAME, VERSION
from provision.errors import InputError
from provision.tables import Table

MAINTAINER = "krg-provision <krg-provision@localhost>"
DEBIAN_ARCH = {"x86_64": "amd64", "i386": "i386"}
# What gcc -dumpmachine begins with, and what Debian calls that.
_MACHINES = {"x86_64": "amd64", "i686": "i386", "i586": "i386", "aarch64": "arm64"}
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Wishes:
    """What the user may choose.

    :param output: a directory for the packages; None: one per build, below the user's data.
    :param revision: the Debian revision; of two packages with the same build only a higher
        one is an upgrade.
    """

    output: Path | None = None
    compression: str = "gzip"
    revision: str = "1"
    maintainer: str = MAINTAINER


@dataclass(frozen=True)
class Move:
    """One file of the build and where the package has it.

    ``append`` is a template whose text goes behind the file's own, "" for none.
    """

    source: str
    target: str
    mode: int | None
    strip: str
    compress: bool
    append: str


@dataclass(frozen=True)
class Recipe:
    """One package to make: its names, what goes in, and the values of its templates."""

    id: str
    name: str
    version: str
    architecture: str
    moves: tuple[Move, ...]
    archives: tuple[tuple[str, str, str], ...]
    links: tuple[tuple[str, str], ...]
    texts: tuple[tuple[str, str, int], ...]

    @property
    def sources(self) -> list[str]:
        """Return the names of the build's files that go in."""
        return [move.source for move in self.moves] + [archive[0] for archive in self.archives]

    @property
    def file(self) -> str:
        """Return the package's file name."""
        return f"{self.name}_{self.version}_{self.architecture}.deb"


def plan(build: Artifacts, wishes: Wishes) -> list[Recipe]:
    """Return the packages to make of a build."""
    raw = _data()
    keys = {
        "id", "name", "needs", "lacks", "architecture", "version", "file", "archive", "link", "text"
    }  # fmt: skip
    has_module = modules.of(build.manifest) is not None
    recipes = []
    for one in raw.tables("package", keys):
        needs = [_fill(name, build) for name in one.texts("needs")]
        if "{module}" in one.text("name") and not has_module:
            continue
        if any(name in build.files for name in one.texts("lacks", ())):
            continue
        if all(name in build.files for name in needs):
            recipes.append(_recipe(one, build, wishes))
    if not recipes:
        raise InputError(f"{build.directory}: nothing in it belongs into a package")
    return recipes


def libraries() -> dict[str, tuple[str, str]]:
    """Return which package has a shared library, and what its symbol versions begin with.

    By the library's soname; "" where the version of the package does not follow from them.
    """
    return {
        soname: (one.text("package"), one.text("versions", ""))
        for one in _data().tables("library", {"package", "sonames", "versions"})
        for soname in one.texts("sonames")
    }


def _data() -> Table:
    return tables.read(data_dir("templates") / "packages/packages.toml", {"package", "library"})


def _recipe(raw: Table, build: Artifacts, wishes: Wishes) -> Recipe:
    name, version = _fill(raw.text("name"), build), _version(raw.text("version"), build, wishes)
    if not NAME.fullmatch(name) or not VERSION.fullmatch(version):
        raise InputError(
            f"dpkg takes no package {name} {version}: names are small letters, digits, + - and .",
            hint="build with another LOCALVERSION (--set LOCALVERSION=...)",
        )
    target = DEBIAN_ARCH[build.arch]
    archives = tuple(
        (entry.text("from"), _fill(entry.text("to"), build), entry.text("strip", ""))
        for entry in _maybe(raw, "archive", {"from", "to", "strip"})
    )
    builder = raw.text("architecture") == "builder"
    architecture = _builder_arch(build) if builder else target
    return Recipe(
        raw.text("id"), name, version, architecture,
        tuple(_moves(raw, build)),
        archives,
        tuple(
            (_fill(entry.text("path"), build), _fill(entry.text("target"), build))
            for entry in _maybe(raw, "link", {"path", "target"})
        ),
        tuple(
            (text.text("from"), _fill(text.text("to"), build), _mode(text) or 0o644)
            for text in _maybe(raw, "text", {"from", "to", "mode"})
        ),
    )  # fmt: skip


def _version(kind: str, build: Artifacts, wishes: Wishes) -> str:
    """Return a package's version.

    Packages with the build's id in their names need it nowhere else; the tools have one
    name for all builds, so the id tells the builds apart.
    """
    if kind == "kernel":
        return f"{build.manifest['kernel_version']}-{wishes.revision}"
    match = re.search(r"-(\d[0-9A-Za-z.+~]*)$", build.release)
    upstream = match[1] if match else build.manifest["kernel_version"]
    return f"{upstream}-{wishes.revision}+{build.build_id}"


def _maybe(raw: Table, key: str, known: set[str]) -> list[Table]:
    return raw.tables(key, known) if key in raw else []


def _mode(raw: Table) -> int | None:
    text = raw.maybe("mode")
    return None if text is None else int(text, 8)


def _fill(text: str, build: Artifacts) -> str:
    module = modules.of(build.manifest)
    name = "" if module is None else module.name
    return text.replace("{release}", build.kernel_release).replace("{module}", name)


def _moves(raw: Table, build: Artifacts) -> Iterator[Move]:
    keys = {"from", "to", "mode", "except", "optional", "strip", "compress", "append"}
    for entry in _maybe(raw, "file", keys):
        pattern, to = _fill(entry.text("from"), build), _fill(entry.text("to"), build)
        without = [_fill(name, build) for name in entry.texts("except", ())]
        names = [
            name
            for name in build.files
            if _matches(name, pattern) and not any(_matches(name, w) for w in without)
        ]
        if not names and not entry.flag("optional"):
            raise InputError(f"{build.directory}: no {pattern}, which {raw.text('id')} needs")
        wild = _WILD.search(pattern)
        fixed = pattern[: wild.start()].rpartition("/")[0] + "/" if wild else ""
        for name in names:
            target = to + name.removeprefix(fixed) if to.endswith("/") else to
            yield Move(
                name,
                target,
                _mode(entry),
                entry.text("strip", ""),
                entry.flag("compress"),
                entry.text("append", ""),
            )


def _matches(name: str, pattern: str) -> bool:
    """Tell whether a name matches: * stays inside a folder, ** does not."""
    if "**" in pattern:
        return fnmatch.fnmatchcase(name, pattern.replace("**", "*"))
    return name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)


def _builder_arch(build: Artifacts) -> str:
    """Return Debian's name of the machine that programs run on that the build made for itself."""
    machine = str(build.manifest.get("builder_machine", "")).partition("-")[0]
    if machine not in _MACHINES:
        raise InputError(
            f"{build.directory}: its manifest.json does not say what machine built it",
            hint="build it again: krg-provision build-kernel",
        )
    return _MACHINES[machine]
