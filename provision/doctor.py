# SPDX-License-Identifier: GPL-2.0-or-later
"""Which programs each command needs, and the Debian package that brings each (needs.toml)."""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Need:
    """A program (a name on PATH, or a file when absolute) that ``command`` uses, and why."""

    command: str
    tool: str
    package: str
    why: str
    optional: bool = False


def load() -> list[Need]:
    """Return everything the commands need, from needs.toml beside this file."""
    raw = tomllib.loads(Path(__file__).with_name("needs.toml").read_text("utf-8"))
    return [Need(**entry) for entry in raw["need"]]


def present(need: Need) -> bool:
    """Tell whether this machine has what is needed."""
    if need.tool.startswith("/"):
        return any(Path("/").glob(need.tool[1:]))
    path = os.environ.get("PATH", "") + ":" + _SYSTEM_PATH
    return shutil.which(need.tool, path=path) is not None


def packages(needs: Iterable[Need]) -> list[str]:
    """Return the packages that bring ``needs``, each once, sorted."""
    return sorted({need.package for need in needs})
