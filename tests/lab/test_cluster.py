# SPDX-License-Identifier: GPL-2.0-or-later
"""The real thing: QEMU nodes that boot a finished build, as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from provision import artifacts
from provision.artifacts import Artifacts
from provision.errors import InputError
from provision.paths import builds_dir, cache_dir

pytestmark = [
    pytest.mark.lab,
    pytest.mark.sources,
    pytest.mark.skipif(
        shutil.which("qemu-system-x86_64") is None,
        reason="no QEMU: apt-get install qemu-system-x86",
    ),
]
LIMIT = 420  # a boot may take five minutes on a crowded machine


class User:
    """Runs krg-provision with a state directory of its own; cache and builds are the user's."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.env = {
            **os.environ,
            "XDG_STATE_HOME": str(state),
            "XDG_CACHE_HOME": str(cache_dir().parent),
            "XDG_DATA_HOME": str(builds_dir().parent.parent),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "provision", "lab", *words]

    def __call__(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            env={**self.env, **more},
            stdin=subprocess.DEVNULL,
        )

    def node(self, name: str, number: int) -> Path:
        return self.state / "krg-provision" / "labs" / name / f"node{number}"

    def pid(self, name: str, number: int) -> int:
        return int((self.node(name, number) / "qemu.pid").read_text())


def build_for(arch: str) -> Artifacts:
    try:
        return artifacts.find("kerrighed-2.4.4", arch)
    except InputError as error:
        pytest.skip(f"{error}; enable with: krg-provision build-kernel --arch {arch}")


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    # A long path: sockets' names are limited to 108 bytes, and nodes must not care.
    made = User(tmp_path / ("long" * 20) / ("path" * 10))
    yield made
    for one in json.loads(made("list", "--format", "json").stdout):
        made("down", "--name", one["name"])


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
def test_three_nodes_are_one_system(user: User, arch: str) -> None:
    build = build_for(arch)
    begun = user(
        "up",
        "--nodes",
        "3",
        "--session",
        "7",
        "--artifacts",
        str(build.directory),
        "--accel",
        "tcg",
    )
    assert begun.returncode == 0, begun.stderr
    seen = json.loads(user("status", "--format", "json").stdout)
    assert [(n["state"], n["node_id"], n["session_id"]) for n in seen["nodes"]] == [
        ("up", number, 7) for number in (1, 2, 3)
    ]
    assert {n["kernel_release"] for n in seen["nodes"]} == {build.kernel_release}
    # Not that they differ: two machines that start in the same moment with nothing else to
    # seed it have been seen to draw the same one from 2.6.20's random numbers.
    assert all(UUID(n["boot_id"]).version == 4 for n in seen["nodes"])

    proof = user("test", "--format", "json")
    assert proof.returncode == 0, proof.stdout + proof.stderr
    items: list[dict[str, Any]] = json.loads(proof.stdout)["evidence"]
    assert {item["what"] for item in items} >= {
        "module loaded",
        "cluster runs",
        "processors",
        "memory",
        "says where it is",
        "/proc/PID/stat",
        "goes on counting",
    }
    # It can be asked again: the cluster runs already.
    again = user("test")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "krgadm cluster start " not in again.stdout

    refused = user("up", "--nodes", "1", "--artifacts", str(build.directory))
    assert refused.returncode == 2
    assert "is up already with 3 of 3 nodes" in refused.stderr

    console = subprocess.run(
        user.argv("console", "2"),
        input="echo on $((40 + 2)) $(hostname)\n",
        capture_output=True,
        text=True,
        timeout=120,
        env=user.env,
    )
    assert "on 42 node2" in console.stdout

    # A node that dies is named; what is left is ended, and only that.
    pids = [user.pid("krg", number) for number in (1, 2, 3)]
    os.kill(pids[2], signal.SIGKILL)
    wait_until(lambda: gone(pids[2]), "the killed node's end")
    after = user("status")
    assert after.returncode == 1
    assert "ended" in after.stdout
    broken = user("test")
    assert broken.returncode == 1
    assert "kernel booted (node 3)" in broken.stderr
    ended = user("down")
    assert "2 nodes ended" in ended.stderr
    assert all(gone(pid) for pid in pids)
    assert "Kerrighed is running on 3 nodes" in (user.node("krg", 1) / "console.log").read_text()
    assert user("down").returncode == 2


def test_a_killed_client_leaves_a_lab_that_is_found_again(user: User) -> None:
    build = build_for("x86_64")
    argv = user.argv("up", "--nodes", "2", "--artifacts", str(build.directory), "--accel", "tcg")
    with subprocess.Popen(argv, env=user.env, stderr=subprocess.DEVNULL) as client:
        wait_until((user.node("krg", 2) / "qemu.pid").exists, "the second node's start", client)
        client.kill()
    pids = [user.pid("krg", number) for number in (1, 2)]
    wait_until(lambda: user("status").returncode == 0, "both nodes up")
    assert [user.pid("krg", number) for number in (1, 2)] == pids
    assert "2 nodes ended" in user("down").stderr
    assert all(gone(pid) for pid in pids)


def test_interrupted_up_leaves_nothing_running(user: User) -> None:
    build = build_for("x86_64")
    argv = user.argv("up", "--nodes", "2", "--artifacts", str(build.directory), "--accel", "tcg")
    with subprocess.Popen(argv, env=user.env, stderr=subprocess.PIPE, text=True) as client:
        wait_until((user.node("krg", 2) / "qemu.pid").exists, "the second node's start", client)
        pids = [user.pid("krg", number) for number in (1, 2)]
        busy = user("up", "--artifacts", str(build.directory))
        client.send_signal(signal.SIGINT)
        said = client.communicate(timeout=60)[1]
    assert busy.returncode == 1
    assert "another krg-provision is starting or stopping lab krg" in busy.stderr
    assert client.returncode == 130
    assert "Traceback" not in said
    assert all(gone(pid) for pid in pids)
    assert user("status").returncode == 2


def test_a_module_that_does_not_load_is_told(user: User, tmp_path: Path) -> None:
    build = build_for("x86_64")
    other = tmp_path / "build"
    shutil.copytree(build.directory, other, symlinks=True)
    module = other / "lib/modules" / build.kernel_release / "extra/kerrighed.ko"
    module.write_bytes(module.read_bytes()[:5000])
    damaged = user("up", "--nodes", "1", "--artifacts", str(other), "--name", "bad")
    assert damaged.returncode == 2
    assert "not as it was built: lib/modules/" in damaged.stderr
    artifacts.write_manifest(
        other,
        {k: v for k, v in build.manifest.items() if k not in ("format", "files")},
    )
    failed = user(
        "up", "--nodes", "1", "--artifacts", str(other), "--name", "bad", "--accel", "tcg"
    )
    assert failed.returncode == 1
    assert "its start script failed: lab: FAILED: modprobe kerrighed" in failed.stderr
    assert user("status", "--name", "bad").returncode == 2


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["up", "--nodes", "0"], 2, "--nodes 0: must be between 1 and 32"),
        (["up", "--session", "256"], 2, "--session 256: must be between 0 and 255"),
        (["up", "--memory", "7"], 2, "--memory 7: must be between"),
        (["up", "--name", "../x"], 2, "cannot name a lab"),
        (["up", "--nodes", "three"], 2, "not a valid integer"),
        (["status"], 2, "no lab krg is up"),
        (["test"], 2, "no lab krg is up"),
        (["console", "1"], 2, "no lab krg is up"),
    ],
)
def test_bad_input(user: User, words: list[str], status: int, said: str) -> None:
    if words[0] == "up":
        words = [*words, "--artifacts", str(build_for("x86_64").directory)]
    done = user(*words)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr


def test_no_qemu_names_the_package(user: User, tmp_path: Path) -> None:
    build = build_for("x86_64")
    done = user("up", "--artifacts", str(build.directory), PATH=str(tmp_path))
    assert done.returncode == 3
    assert "apt-get install qemu-system-x86" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.parametrize(
    ("variable", "said"),
    [("XDG_STATE_HOME", "0 MB free"), ("XDG_CACHE_HOME", "no space left in")],
)
def test_no_space(user: User, tmp_path: Path, variable: str, said: str) -> None:
    build = build_for("x86_64")
    small = tmp_path / "small"
    small.mkdir()
    # A mount of the child's own: it ends with it.
    script = 'mount -t tmpfs -o size=16k none "$1" && shift && exec "$@"'
    words = user.argv("up", "--artifacts", str(build.directory), "--accel", "tcg")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", small, *words],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**user.env, variable: str(small)},
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert done.returncode == 3
    assert said in done.stderr.splitlines()[-2]
    assert str(small) in done.stderr
    assert "Traceback" not in done.stderr


def test_no_build(user: User, tmp_path: Path) -> None:
    done = user("up", XDG_DATA_HOME=str(tmp_path))
    assert done.returncode == 2
    assert "no finished build" in done.stderr
    done = user("up", "--artifacts", str(tmp_path))
    assert done.returncode == 2
    assert "not a finished build" in done.stderr


def wait_until(
    ask: Any, what: str, client: subprocess.Popen[Any] | None = None, seconds: float = LIMIT
) -> None:
    deadline = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        assert client is None or client.poll() is None, f"{what}: the client ended"
        time.sleep(0.05)
