# SPDX-License-Identifier: GPL-2.0-or-later
"""Another kernel, another module, on a node with a disk: deployed, booted, proven, taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.test_cluster import User
from lab.test_disk import krg
from lab.test_disk import pytestmark as needs
from provision import artifacts
from provision.errors import InputError

pytestmark = [*needs, pytest.mark.sources]


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    made = User(tmp_path / "state")
    yield made
    for one in json.loads(made("list", "--format", "json").stdout):
        made("down", "--name", one["name"])


@pytest.mark.parametrize(
    "release", ["debian-6.1", pytest.param("debian-6.12", marks=pytest.mark.slow)]
)
def test_deployed_booted_and_proven(user: User, release: str) -> None:
    try:
        build = artifacts.find(release, "x86_64")
    except InputError as error:
        pytest.skip(f"{error}; enable with: krg-provision build-kernel --release {release}")
    words = ("--nodes", "1", "--session", "9", "--accel", "tcg", "--bootloader", "grub2")
    begun = user("up", *words, "--artifacts", str(build.directory))
    assert begun.returncode == 0, begun.stderr
    nodes = ("--nodes", str(user.node("krg", 1).parent / "cluster.toml"))
    with_build = (*nodes, "--artifacts", str(build.directory))

    done = krg(user, "deploy", "--reboot", *with_build, "--format", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    node = json.loads(done.stdout)["nodes"][0]
    assert node["state"] == "booted"
    seen = {item["what"]: item["have"] for item in node["evidence"]}
    assert seen["kernel booted"] == build.kernel_release
    assert seen["module loaded"] == "node 1, session 9"
    # What is Kerrighed's alone is neither there nor asked for.
    assert "peers seen" not in seen
    said = user("ssh", "1", "ls /etc/init.d /etc/rc2.d; cat /sys/kernel/nodeids/*; lsmod").stdout
    assert "nodeids\n" in said and "kerrighed" not in said
    assert "1\n9\n" in said

    proven = krg(user, "verify", *with_build)
    assert proven.returncode == 0 and "module loaded" in proven.stdout, proven.stdout
    status = json.loads(krg(user, "status", *with_build, "--format", "json").stdout)["nodes"][0]
    assert [status[k] for k in ("node_id", "session_id", "build")] == [1, 9, "running"]
    started = krg(user, "start", *with_build)
    assert started.returncode == 1 and "there is no cluster to start" in started.stderr
    assert krg(user, "deploy", "--check", *with_build).returncode == 0

    # Without the module there is no proof.
    user("ssh", "1", "rmmod nodeids")
    assert krg(user, "verify", *with_build).returncode == 1
