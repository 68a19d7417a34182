# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures: hosts to deploy to, and a build to deploy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .hosts import Hosts, make_build, make_hosts, missing


@pytest.fixture(scope="session")
def can_have_hosts() -> None:
    """Skip, saying why, where no hosts can be made."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def hosts(can_have_hosts: None, tmp_path: Path) -> Iterator[Hosts]:
    """Three hosts, the third with busybox's commands only."""
    made = make_hosts(tmp_path / "fleet", 3, busybox=(3,))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def host(can_have_hosts: None, tmp_path: Path) -> Iterator[Hosts]:
    """One host."""
    made = make_hosts(tmp_path / "fleet", 1)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """Return the directory of a small build."""
    return make_build(tmp_path / "build")
