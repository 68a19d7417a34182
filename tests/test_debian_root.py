# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian system that other tests install packages in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_root import Root, root

pytestmark = pytest.mark.debian


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    with root(tmp_path_factory.mktemp("debian")) as made:
        yield made


def test_it_is_a_debian_with_apt_and_proc(node: Root) -> None:
    assert node.run(["dpkg", "--print-architecture"], check=True).stdout == "amd64\n"
    assert node.run(["apt-get", "--version"]).returncode == 0
    assert node.run(["cat", "/proc/1/comm"]).stdout == "cat\n"
    assert node.run(["cat"], input="word").stdout == "word"
    assert node.run(["sh", "-c", "echo $A$HOME; exit 3"], env={"A": "a"}).returncode == 3
    with pytest.raises(AssertionError, match="no-such-file"):
        node.run(["ls", "/no-such-file"], check=True)


def test_nothing_stays_mounted_or_running(node: Root) -> None:
    node.run(["sh", "-c", "sleep 1000 & echo started"], check=True)
    assert str(node.path) not in Path("/proc/self/mounts").read_text()
    assert not any((node.path / "proc").iterdir())
    running = [p for p in Path("/proc").glob("[0-9]*") if _root_of(p) == node.path]
    assert running == []


def _root_of(process: Path) -> Path | None:
    try:
        return (process / "root").readlink()
    except OSError:
        return None
