# SPDX-License-Identifier: GPL-2.0-or-later
"""What an interrupted command leaves of a repository, and two at the same time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from conftest import Command
from debs import deb
from repos import needs_tools, published, whole

from provision import repo

pytestmark = needs_tools


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "repo"


# Runs a command of ours and kills it, as a power cut would, at the N-th thing that it does to
# the file system or asks of another program; exit status 0 when there were fewer.
KILL = """\
import os, signal, sys
from provision import cli, runner
count = int(sys.argv[1])
def wrapped(function):
    def call(*args, **options):
        global count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return call
for name in ("link", "rename", "replace", "symlink", "unlink"):
    setattr(os, name, wrapped(getattr(os, name)))
runner.LocalRunner.run = wrapped(runner.LocalRunner.run)
cli.main(sys.argv[2:])
"""


def killed_at(count: int, *words: object) -> bool:
    # What a killed run leaves in the place for temporary files goes with this.
    with tempfile.TemporaryDirectory(prefix="krg-kill-") as place:
        done = subprocess.run(
            [sys.executable, "-c", KILL, str(count), *map(str, words)],
            capture_output=True, text=True, env={**os.environ, "TMPDIR": place},
        )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def test_publish_killed_at_every_step(tmp_path: Path, home: Path) -> None:
    made = tmp_path / "made"
    published(made, tmp_path, "krg-a")
    published(made, tmp_path)
    repo.add(made, repo.offers([deb(tmp_path, "krg-b")]))
    seen = []
    while True:
        store = tmp_path / f"repo{len(seen)}"
        shutil.copytree(made, store, symlinks=True)
        if not killed_at(len(seen) + 1, "repo", "publish", store):
            break
        seen.append(whole(store) == {"krg-a", "krg-b"})
        # Now and then, and always near the exchange, let the next run finish the work.
        if seen[-1] or len(seen) % 8 == 0:
            published(store, tmp_path)
            assert whole(store) == {"krg-a", "krg-b"}
            assert len(list((store / "published").iterdir())) == 2
            assert sorted(p.name for p in store.iterdir()) == ["pool", "published", "state", "www"]
            assert not list((store / "state").glob("cache.*"))
        shutil.rmtree(store)
    assert len(seen) > 20 and seen == sorted(seen) and seen[-1]
    assert whole(store) == {"krg-a", "krg-b"}


def test_the_first_publish_killed_at_every_step(tmp_path: Path, home: Path) -> None:
    made = tmp_path / "made"
    repo.add(made, repo.offers([deb(tmp_path, "krg-a")]))
    steps = 1
    while True:
        store = tmp_path / f"repo{steps}"
        shutil.copytree(made, store)
        killed = killed_at(steps, "repo", "publish", store)
        if killed:
            published(store, tmp_path)
        assert whole(store) == {"krg-a"}
        shutil.rmtree(store)
        if not killed:
            break
        # Making a key is slow, and all the same: look at every third step.
        steps += 3
    assert steps > 20


def test_add_killed_at_every_step(tmp_path: Path, home: Path) -> None:
    made = tmp_path / "made"
    published(made, tmp_path, "krg-a")
    files = [deb(tmp_path, "krg-b"), deb(tmp_path, "krg-c")]
    steps = 1
    while True:
        store = tmp_path / f"repo{steps}"
        shutil.copytree(made, store, symlinks=True)
        killed = killed_at(steps, "repo", "add", store, *files)
        names = {p.name for p in repo.load(store).packages}
        assert names in ({"krg-a"}, {"krg-a", "krg-b", "krg-c"})
        repo.add(store, repo.offers(files))
        assert {p.name for p in repo.load(store).packages} == {"krg-a", "krg-b", "krg-c"}
        assert repo.changed(store, repo.load(store)) == []
        assert repo.unlisted(store, repo.load(store)) == []
        if not killed:
            break
        shutil.rmtree(store)
        steps += 1
    assert steps > 5
    published(store, tmp_path)
    assert whole(store) == {"krg-a", "krg-b", "krg-c"}


def test_publishes_at_the_same_time(krg: Command, store: Path, tmp_path: Path) -> None:
    published(store, tmp_path, "krg-a")
    repo.add(store, repo.offers([deb(tmp_path, "krg-b")]))
    results: list[int] = []

    def one() -> None:
        results.append(krg("repo", "publish", store).returncode)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0, 0, 0, 0]
    assert whole(store) == {"krg-a", "krg-b"}
    assert (store / "www").readlink() == Path("published/5")
