# SPDX-License-Identifier: GPL-2.0-or-later
"""Loads the Kconfig files of a kernel tree with Kconfiglib, whatever the tree's age.

Before 2.6.24 a tree has no Kconfig file at its top: the start is
arch/ARCH/Kconfig (the kernel's own scripts/kconfig/Makefile does the same).
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kconfiglib

from kconfig import dialect, garbage, limits, reading
from kconfig import shell as shells
from kconfig import values as rules
from kconfig.bridge import bridge
from kconfig.errors import KconfigError
from kconfig.quick import Quick

_VERSION_LINE = re.compile(
    r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)\s*=[ \t]*(\S*)", re.MULTILINE
)
# Kconfiglib takes its settings from the process's environment.
_ENVIRONMENT = threading.Lock()


@dataclass(frozen=True)
class KernelVersion:
    """A tree's version as its Makefile states it: 2.6.20-krg is ((2, 6, 20), "-krg")."""

    numbers: tuple[int, int, int]
    extra: str

    def __str__(self) -> str:
        return ".".join(map(str, self.numbers)) + self.extra


def kernel_version(tree: Path) -> KernelVersion:
    """Read the version of a kernel tree from its Makefile; KconfigError if it is none."""
    try:
        text = (tree / "Makefile").read_text("latin-1")
    except OSError as error:
        raise KconfigError(f"{tree}: not a kernel tree (no Makefile)") from error
    values = dict(_VERSION_LINE.findall(text))
    try:
        numbers = (int(values["VERSION"]), int(values["PATCHLEVEL"]), int(values["SUBLEVEL"]))
    except (KeyError, ValueError) as error:
        raise KconfigError(f"{tree}/Makefile: no kernel version in it") from error
    return KernelVersion(numbers, values.get("EXTRAVERSION", ""))


class _Kconfig(Quick):
    """Kconfiglib, reading through the bridge, with the value rules of the tree's age."""

    def __init__(
        self, filename: str, version: dialect.Version, shell: shells.Shell, keeps_help: bool
    ) -> None:
        self.version = version
        self.keeps_help = keeps_help
        self._shell = shell
        # Choices that were visible once, choices to be asked again, and choices given modes
        # that contradict: see kconfig.values and kconfig.reading. Whether a walk does not
        # know yet if modules are on. In which order members of choices were given values.
        self.shown_choices: set[Any] = set()
        self.doubted_choices: set[Any] = set()
        self.odd_choices: dict[Any, int] = {}
        self.modules_unasked = False
        self.turns: dict[Any, dict[Any, None]] = {}
        self._expansions = 0
        try:
            super().__init__(filename, warn=False)
        except limits.STUMBLES as error:
            raise KconfigError(f"{self._here()}: cannot be read as Kconfig ({error})") from error
        except RecursionError as error:
            raise KconfigError(f"{self._here()}: nested too deeply to be read") from error
        rules.adopt(self, version)

    def _here(self) -> str:
        return f"{self.filename or 'Kconfig'}:{self.linenr or 0}"

    def _tokenize(self, s: str) -> Any:
        # The program fills in $NAME in the names of files only.
        names = os.path.expandvars if s.lstrip().startswith("source") else str
        kconfiglib.expandvars = names
        return super()._tokenize(s)

    def _expand_macro(self, s: str, i: int, args: tuple[str, ...]) -> tuple[str, int]:
        if dialect.SHELL.holds(self.version):
            self._expansions += 1
            if self._expansions > limits.EXPANSIONS or len(s) > limits.EXPANDED:
                self._parse_error("macros without end")
            expanded: tuple[str, int] = super()._expand_macro(s, i, args)
            return expanded
        return s, i + len("$(")  # an old tree has no macros, and runs nothing

    def _parse_assignment(self, s: str) -> None:
        if not dialect.SHELL.holds(self.version):
            self._parse_error("syntax error")
        super()._parse_assignment(s)

    def _fn_val(self, args: list[str]) -> str:
        if args[0] == "shell" and len(args) == 2:
            return self._shell(args[1])
        if args[0] == "error-if" and not self._shell.runs:
            return ""  # it would be about tools that were not asked
        return str(super()._fn_val(args))

    def _add_props_to_sym(self, node: Any) -> None:
        if (
            node.selects
            and node.item.orig_type is not kconfiglib.TRISTATE
            and dialect.BOOL_CONDITIONS.holds(self.version)
        ):
            node.selects = [
                (target, rules.without_not_n(condition, self)) for target, condition in node.selects
            ]
        super()._add_props_to_sym(node)

    def _build_dep(self) -> None:
        super()._build_dep()
        if dialect.LOOPS.holds(self.version):
            # What Kconfiglib has looked at already is not searched for loops.
            for symbol in self.unique_defined_syms:
                symbol._visited = 2

    def _load_config(self, filename: str, replace: bool) -> None:
        if replace:
            self.missing_syms: list[tuple[str, str]] = []
            reading.forget(self)
        with Path(filename).open(encoding="latin-1", newline="\n") as lines:
            reading.read(self, lines, self.version)

    def _open(self, filename: str, mode: str) -> Any:
        if mode != "r":
            return super()._open(filename, mode)
        text = limits.text_of(filename, self.srctree)
        # os.path.relpath would take a tenth of the time of a load.
        return io.StringIO(bridge(filename.removeprefix(f"{self.srctree}/"), text))


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    with _ENVIRONMENT:
        former = {name: os.environ.get(name) for name in values}
        running = kconfiglib._UNAME_RELEASE
        os.environ.update(values)
        # Old trees name the running machine's configuration in a default; the
        # kernel's tool keeps the reference as it stands, Kconfiglib fills it in.
        kconfiglib._UNAME_RELEASE = "$UNAME_RELEASE"
        try:
            yield
        finally:
            kconfiglib._UNAME_RELEASE = running
            kconfiglib.expandvars = os.path.expandvars
            for name, value in former.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def arches(tree: Path) -> list[str]:
    """Return the architectures a tree can be configured for."""
    return sorted(path.parent.name for path in tree.glob("arch/*/Kconfig"))


# ARCH names of which the top Makefile makes another SRCARCH.
_SOURCES = {"i386": "x86", "x86_64": "x86"}


def start(tree: Path, arch: str) -> str:
    """Return the Kconfig file where a tree starts."""
    if (tree / "Kconfig").is_file():
        return "Kconfig"
    return f"arch/{_source_arch(tree, arch)}/Kconfig"


def _source_arch(tree: Path, arch: str) -> str:
    return arch if (tree / "arch" / arch).is_dir() else _SOURCES.get(arch, arch)


def default_config(tree: Path, arch: str) -> Path:
    """Return the default configuration that ``make defconfig`` takes for ``arch``.

    :raises KconfigError: there is none where trees have it.
    """
    source = tree / "arch" / _source_arch(tree, arch)
    places = (
        tree / f"arch/{arch}/defconfig",
        source / f"configs/{arch}_defconfig",
        source / "configs/defconfig",
        source / "defconfig",
    )
    for place in places:
        if place.is_file():
            return place
    raise KconfigError(f"{tree}: has no default configuration for {arch}; name a base (--config)")


def settings(tree: Path, arch: str, *, shell: bool = True) -> dict[str, str]:
    """Return the environment in which the Kconfig files of ``tree`` are read."""
    numbers = kernel_version(tree).numbers
    version = str(kernel_version(tree))
    return {
        **shells.settings(numbers, shell),
        "srctree": str(tree),
        "ARCH": arch,
        "SRCARCH": _source_arch(tree, arch),
        "KERNELVERSION": version,
        "KERNELRELEASE": version,
    }


def commands_run(kconf: kconfiglib.Kconfig) -> tuple[str, ...]:
    """Return the commands that loading a tree ran."""
    return tuple(kconf._shell.commands) if kconf._shell.runs else ()


def load(
    tree: Path, arch: str, *, shell: bool = True, help_texts: bool = True
) -> kconfiglib.Kconfig:
    """Return the Kconfig symbols of ``tree`` for ``arch``, with no configuration loaded.

    :param shell: kernels from 4.18 on run commands while they are read; False runs none,
        and takes every ability of the tools asked for as missing. Old trees run nothing.
    :param help_texts: False leaves them empty, and is faster.
    :raises KconfigError: not a kernel tree, no such architecture, or a syntax error.
    """
    tree = tree.resolve()
    version = kernel_version(tree)
    values = settings(tree, arch, shell=shell)
    first = start(tree, arch)
    if not (tree / "arch" / values["SRCARCH"]).is_dir() or not (tree / first).is_file():
        known = ", ".join(arches(tree)) or "none"
        raise KconfigError(f"{tree}: cannot be configured for {arch} (it has: {known})")
    runs = shells.Shell(values) if shell else shells.NoShell()
    with _environment(values), garbage.kept():
        try:
            return _Kconfig(first, version.numbers, runs, help_texts)
        except (kconfiglib.KconfigError, KconfigError, OSError) as error:
            raise KconfigError(f"{tree}: {limits.one_line(error)}") from error
        finally:
            runs.close()
