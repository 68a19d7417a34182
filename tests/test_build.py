# SPDX-License-Identifier: GPL-2.0-or-later
"""build-kernel on the release in small: results, second runs, interruptions, failures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mini
import pytest
from conftest import Command

from provision import artifacts, paths

LIMIT = 60.0


def wait_for(what: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Tell whether a process is over; one that nobody has reaped yet is."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def come_to(process: subprocess.Popen[str], mark: Path) -> int:
    """Wait until a build is at the place asked for; return the process that waits there."""

    def there() -> bool:
        assert process.poll() is None, process.communicate()[1]
        return mark.exists()

    wait_for(there, "the build never came to the place")
    (Path.home() / "mini-wait").unlink()
    return int(mark.read_text())


def built(krg: Command, made: mini.Mini, *more: object) -> Path:
    done = krg("build-kernel", *made.options, "--format", "json", *more)
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["directory"])


def one_error(done: subprocess.CompletedProcess[str]) -> str:
    errors = [line for line in done.stderr.splitlines() if "error:" in line and "krg-" in line]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return errors[0]


def test_a_whole_build(mini: mini.Mini, krg: Command) -> None:
    directory = built(krg, mini, "-j", 2)
    made = artifacts.load(directory)
    assert made.changed() == []
    assert made.kernel_release == f"2.6.20-mini-{made.build_id}"
    modules = f"lib/modules/{made.kernel_release}"
    assert set(made.files) >= {
        "vmlinuz", "vmlinux", "System.map", "config", "Module.symvers", "build.log",
        f"{modules}/modules.dep", f"{modules}/kernel/drivers/user.ko", "tools/bin/hello",
    }  # fmt: skip
    # Links into a work tree that is gone would be of no use to a node.
    assert f"{modules}/build" not in made.files
    said = subprocess.run([made.path("tools/bin/hello")], capture_output=True, text=True)
    assert said.stdout == "hello from the tools\n"
    manifest = made.manifest
    assert manifest["modules_proven"] == 2
    assert manifest["sources"]["linux"]["identity"] == f"tree:{mini.tree}"
    assert manifest["fixups"] == {"mini-old-name": "applied", "mini-never": "not needed"}
    assert manifest["inputs"]["tools"]["gcc"].startswith("gcc")
    assert "build-kernel" in manifest["repeat"] and "-j 2" in manifest["repeat"]
    assert f'CONFIG_LOCALVERSION="-{made.build_id}"' in made.path("config").read_text()
    log = made.path("build.log").read_text()
    assert "CC      kernel/main.o" in log and "$ cd " in log
    assert list((paths.cache_dir() / "work").glob("mini-*/")) == []


def test_a_second_run_does_nothing_and_says_so(mini: mini.Mini, krg: Command) -> None:
    directory = built(krg, mini)
    before = (directory / "manifest.json").stat()
    started = time.monotonic()
    done = krg("build-kernel", *mini.options)
    assert time.monotonic() - started < 10
    assert done.returncode == 0 and done.stdout == f"up to date: {directory}\n"
    after = (directory / "manifest.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    # It does not even need the archives.
    shutil.rmtree(mini.sources)
    assert krg("build-kernel", *mini.options).returncode == 0


@pytest.mark.parametrize("how", ["changed", "removed", "mode"])
def test_a_damaged_build_is_made_again(mini: mini.Mini, krg: Command, how: str) -> None:
    directory = built(krg, mini)
    file = directory / "System.map"
    whole = file.read_bytes()
    if how == "changed":
        file.write_bytes(whole[:-1] + b"?")
    elif how == "removed":
        file.unlink()
    else:
        file.chmod(0o600)
    done = krg("build-kernel", *mini.options)
    assert done.returncode == 0 and "System.map was changed" in done.stderr
    assert file.read_bytes() == whole and artifacts.load(directory).changed() == []


def test_other_inputs_are_another_build(mini: mini.Mini, krg: Command, tmp_path: Path) -> None:
    first = built(krg, mini)
    assert built(krg, mini, "--set", "MODVERSIONS=n") != first
    fragment = tmp_path / "site.config"
    fragment.write_text("CONFIG_BUFFERS=20\n")
    other = built(krg, mini, "--fragment", fragment)
    assert other != first and "CONFIG_BUFFERS=20\n" in (other / "config").read_text()
    assert built(krg, mini) == first


def start(made: mini.Mini, mark: Path, stage: str, *more: object) -> subprocess.Popen[str]:
    (Path.home() / "mini-wait").write_text(f"{stage} {mark}\n")
    return subprocess.Popen(
        [sys.executable, "-m", "provision", "build-kernel", *made.options, *map(str, more)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["kernel", "modules", "install"])
def test_interrupted(
    mini: mini.Mini, krg: Command, tmp_path: Path, stage: str, number: signal.Signals
) -> None:
    mark = tmp_path / "mark"
    process = start(mini, mark, stage)
    try:
        pid = come_to(process, mark)
        process.send_signal(number)
        _, said = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 130 and "interrupted" in said and "Traceback" not in said
    wait_for(lambda: gone(pid), "the compiler goes on")
    # Neither a build nor half of one.
    assert list(paths.builds_dir().iterdir()) == []
    directory = built(krg, mini)
    assert artifacts.load(directory).changed() == []
    assert [p.name for p in paths.builds_dir().iterdir()] == [directory.name]


def test_killed_in_the_middle(mini: mini.Mini, krg: Command, tmp_path: Path) -> None:
    """What no program can clean up after must not be taken for whole either."""
    mark = tmp_path / "mark"
    process = start(mini, mark, "install")
    pid = come_to(process, mark)
    process.kill()
    process.wait()
    os.kill(pid, signal.SIGKILL)
    leftovers = list(paths.builds_dir().glob(f"*/{artifacts.MANIFEST}"))
    assert leftovers == []
    directory = built(krg, mini)
    assert [p.name for p in paths.builds_dir().iterdir()] == [directory.name]


def test_interrupted_anywhere(mini: mini.Mini, krg: Command) -> None:
    """At moments that nobody chose: whatever is there afterwards is whole or nothing."""
    for delay in (0.3, 0.5, 0.7, 0.9, 1.2):
        process = start(mini, Path("/nowhere"), "never")
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LIMIT)
        # Before Python has come to our code, SIGINT is Python's own.
        assert process.returncode in (0, 130, -signal.SIGINT), said
        for directory in paths.builds_dir().glob("*"):
            assert artifacts.load(directory).changed() == []
    built(krg, mini)


def test_two_at_once(mini: mini.Mini, krg: Command, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    first = start(mini, mark, "modules")
    try:
        pid = come_to(first, mark)
        second = krg("build-kernel", *mini.options)
        assert second.returncode == 1 and "another build" in one_error(second)
        elsewhere = krg("build-kernel", *mini.options, "--work-dir", tmp_path / "elsewhere")
        assert elsewhere.returncode == 1 and "another build" in one_error(elsewhere)
        assert not gone(pid)
    finally:
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=LIMIT)
    built(krg, mini)


def test_two_into_one_place(mini: mini.Mini, krg: Command, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    first = start(mini, mark, "modules", "-o", tmp_path / "out")
    try:
        come_to(first, mark)
        done = krg("build-kernel", *mini.options, "-o", tmp_path / "out", "--set", "KEYS=n",
                   "--set", "BUFFERS=5")  # fmt: skip
        assert done.returncode == 1 and "another build" in one_error(done)
    finally:
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=LIMIT)


def test_a_compiler_error_is_shown_with_its_log(mini: mini.Mini, krg: Command) -> None:
    done = krg("build-kernel", *mini.options, "--set", "BROKEN=y")
    assert done.returncode == 1
    assert one_error(done).startswith("krg-provision: error: kernel: make")
    assert "kernel/main.c:" in done.stderr and "no_such_variable" in done.stderr
    place = done.stderr.rpartition("the whole log: ")[2].strip()
    assert "no_such_variable" in Path(place).read_text()
    assert list(paths.builds_dir().iterdir()) == []


def test_a_module_that_does_not_fit_is_a_failure(mini: mini.Mini, krg: Command) -> None:
    done = krg("build-kernel", *mini.options, "--set", "BAD_CRC=y")
    assert done.returncode == 1
    error = one_error(done)
    assert "user.ko" in error and "mini_print" in error and "0x00004321" in error
    assert list(paths.builds_dir().iterdir()) == []


def test_oldconfig_that_changes_something_is_a_failure(mini: mini.Mini, krg: Command) -> None:
    done = krg("build-kernel", *mini.options, "--set", "DROPPED=y")
    assert done.returncode == 1
    assert "oldconfig changes the configuration: CONFIG_DROPPED=y" in one_error(done)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--arch", "sparc"], 2, "no architecture 'sparc'"),
        (["--set", "KERIGHED=y"], 1, "no such symbol, perhaps KERRIGHED"),
        (["--set", "PREEMPT=y"], 1, "the choice 'Preemption Model' has PREEMPT (policy mini"),
        (["--set", "NET"], 2, "is not SYMBOL=value"),
        (["--set", "BUFFERS=2"], 1, "BUFFERS is"),
        (["--fragment", "/nowhere/x"], 2, "/nowhere/x"),
        (["--config", "/nowhere/x"], 2, "/nowhere/x"),
        (["--policy", "nothing"], 2, "no policy nothing"),
        (["-j", "0"], 2, "-j"),
        (["--host", "a;b@c"], 2, "--host"),
        (["--host", "-oProxyCommand=x"], 2, "--host"),
        (["--release", "nothing"], 2, "no release nothing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_orders(
    mini: mini.Mini, krg: Command, options: list[str], code: int, said: str
) -> None:
    done = krg("build-kernel", *mini.options, *options)
    assert said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code
    assert not paths.builds_dir().exists() or list(paths.builds_dir().iterdir()) == []


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_is_no_build_is_never_replaced(
    mini: mini.Mini, krg: Command, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "mine"
    if kind == "directory":
        place.mkdir()
        (place / "thesis.tex").write_text("years")
    else:
        place.write_text("years")
    done = krg("build-kernel", *mini.options, "-o", place)
    assert done.returncode == 2 and "exists and is not a build" in one_error(done)
    assert (place / "thesis.tex" if kind == "directory" else place).read_text() == "years"


def test_an_output_of_ones_own(mini: mini.Mini, krg: Command, tmp_path: Path) -> None:
    place = tmp_path / "results+1,2@here_"
    assert built(krg, mini, "-o", place) == place
    again = krg("build-kernel", *mini.options, "-o", place)
    assert again.stdout == f"up to date: {place}\n"
    other = krg("build-kernel", *mini.options, "-o", place, "--set", "BUFFERS=9")
    assert other.returncode == 0 and "its inputs have changed since" in other.stderr
    assert sorted(p.name for p in tmp_path.iterdir() if "results" in p.name) == [place.name]


@pytest.mark.parametrize("option", ["-o", "--work-dir"])
@pytest.mark.parametrize("name", ["a b", "a'b", "a$b", "a:b", "a;b", "a\nb", "a#b"])
def test_places_that_make_cannot_stand(
    mini: mini.Mini, krg: Command, tmp_path: Path, option: str, name: str
) -> None:
    done = krg("build-kernel", *mini.options, option, tmp_path / name)
    assert done.returncode == 2 and "make cannot build below a path with" in done.stderr
    assert not (tmp_path / name).exists()


def test_a_manifest_that_is_not_ours(mini: mini.Mini, krg: Command) -> None:
    directory = built(krg, mini)
    for text in ("", "[]", "{}", '{"format": 99}', "\0"):
        (directory / "manifest.json").write_text(text)
        done = krg("build-kernel", *mini.options)
        assert done.returncode == 2, (text, done.stderr)
        assert str(directory) in one_error(done)


def test_tools_that_are_missing(mini: mini.Mini, krg: Command, tmp_path: Path) -> None:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("sh", "nproc", "head", "gcc", "ld", "as", "perl", "cp", "ln", "yes"):
        (bin_ / name).symlink_to(shutil.which(name) or "/none")
    done = krg("build-kernel", *mini.options, env={**os.environ, "PATH": str(bin_)})
    # depmod is found in /sbin whatever PATH says, so only make is sure to be missing.
    assert done.returncode == 3 and "make" in one_error(done)
