# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things live on the user's machine (XDG Base Directory Specification 0.8)."""

from __future__ import annotations

import os
from pathlib import Path


def _base(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    # The specification: a relative path is invalid and to be ignored.
    root = Path(value) if value.startswith("/") else Path.home() / default
    return root / "krg-provision"


def cache_dir() -> Path:
    """Return the directory for what can be fetched or made again."""
    return _base("XDG_CACHE_HOME", ".cache")


def sources_dir() -> Path:
    """Return the directory where source archives are looked for and downloaded to."""
    return cache_dir() / "sources"


def builds_dir() -> Path:
    """Return the directory of finished builds, one subdirectory each."""
    return _base("XDG_DATA_HOME", ".local/share") / "builds"


def packages_dir() -> Path:
    """Return the directory of Debian packages, one subdirectory for each build."""
    return _base("XDG_DATA_HOME", ".local/share") / "packages"


def state_dir() -> Path:
    """Return the directory for what is kept between runs and cannot be made again."""
    return _base("XDG_STATE_HOME", ".local/state")


def labs_dir() -> Path:
    """Return the directory of labs, one subdirectory each."""
    return state_dir() / "labs"
