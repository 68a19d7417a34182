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

from kconfig.bridge import bridge
from kconfig.errors import KconfigError

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


class _Kconfig(kconfiglib.Kconfig):  # type: ignore[misc] # the library has no types
    """Kconfiglib, reading through the bridge."""

    def _open(self, filename: str, mode: str) -> Any:
        if mode != "r":
            return super()._open(filename, mode)
        with Path(filename).open(encoding="latin-1", newline=None) as stream:
            text = stream.read()
        name = os.path.relpath(filename, self.srctree) if self.srctree else filename
        return io.StringIO(bridge(name, text))


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
            for name, value in former.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def arches(tree: Path) -> list[str]:
    """Return the architectures a tree can be configured for."""
    return sorted(path.parent.name for path in tree.glob("arch/*/Kconfig"))


def load(tree: Path, arch: str) -> kconfiglib.Kconfig:
    """Return the Kconfig symbols of ``tree`` for ``arch``, with no configuration loaded.

    :raises KconfigError: not a kernel tree, no such architecture, or a syntax error.
    """
    tree = tree.resolve()
    version = kernel_version(tree)
    start = "Kconfig" if (tree / "Kconfig").is_file() else f"arch/{arch}/Kconfig"
    if not (tree / "arch" / arch).is_dir() or not (tree / start).is_file():
        known = ", ".join(arches(tree)) or "none"
        raise KconfigError(f"{tree}: cannot be configured for {arch} (it has: {known})")
    settings = {
        "srctree": str(tree),
        "ARCH": arch,
        "SRCARCH": arch,
        "KERNELVERSION": str(version),
        "KERNELRELEASE": str(version),
    }
    with _environment(settings):
        try:
            return _Kconfig(start, warn=False)
        except (kconfiglib.KconfigError, OSError, RecursionError) as error:
            raise KconfigError(f"{tree}: {str(error).strip()}") from error
