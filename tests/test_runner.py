# SPDX-License-Identifier: GPL-2.0-or-later
"""The door to processes: this machine, and a real sshd on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mini
import pytest
import sshd
from conftest import Command

from provision import artifacts
from provision.errors import FailedError, InputError, MissingError
from provision.hosts import runner_for
from provision.runner import LocalRunner, Runner

LIMIT = 20.0


def wait_for(what: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def host(tmp_path: Path, home: Path) -> Iterator[sshd.Host]:
    with sshd.running(tmp_path / "sshd", tmp_path / "far", home / ".ssh/known_hosts") as made:
        yield made


@pytest.fixture(params=["here", "there"])
def runner(request: pytest.FixtureRequest, home: Path) -> Iterator[Runner]:
    """Each of the two runners: what a test says here holds for both."""
    if request.param == "here":
        yield LocalRunner()
        return
    host = request.getfixturevalue("host")
    with runner_for(host.target, host.key) as made:
        yield made


def test_what_a_command_says_and_returns(runner: Runner) -> None:
    lines: list[str] = []
    result = runner.run(
        ["sh", "-c", "echo out; echo err >&2; printf 'no newline'; exit 3"],
        on_line=lines.append,
        check=False,
    )
    assert result.status == 3 and not result.ok
    assert sorted(lines[:2]) == ["err", "out"] and lines[2:] == ["no newline"]
    assert result.output == "\n".join(lines)


def test_arguments_arrive_as_they_are(runner: Runner, tmp_path: Path) -> None:
    words = ["a b", "$HOME", "`id`", "'", '"', ";", "\\n", "*", "", "ä", "-n", "a\nb"]
    result = runner.run(["printf", "%s\\001", *words])
    assert result.output.split("\1")[:-1] == words


def test_directory_and_environment(runner: Runner, tmp_path: Path) -> None:
    place = tmp_path / "a $(b) 'c'"
    place.mkdir()
    script = 'pwd; printf "%s\\n" "$WORD"'
    result = runner.run(["sh", "-c", script], cwd=place, env={"WORD": "x'; exit 1; '"})
    assert result.output == f"{place}\nx'; exit 1; '\n"


def test_standard_input_is_empty(runner: Runner) -> None:
    assert runner.run(["cat"], timeout=LIMIT).output == ""


def test_much_output_and_odd_bytes(runner: Runner) -> None:
    lines: list[str] = []
    code = "import sys;w=sys.stdout.buffer.write\nfor i in range(20000): w(b'%d \\xff\\r\\n' % i)"
    result = runner.run([sys.executable, "-c", code], on_line=lines.append)
    assert len(lines) == 20000 and lines[19999] == "19999 \ufffd\r"
    assert result.output.count("\n") == 20000


def test_a_failure_names_command_and_place(runner: Runner) -> None:
    with pytest.raises(FailedError) as caught:
        runner.run(["sh", "-c", "echo first; echo the reason; exit 4"])
    assert "status 4" in caught.value.message and caught.value.message.endswith("the reason")
    assert runner.name in caught.value.message


def test_ended_by_a_signal(runner: Runner) -> None:
    assert runner.run(["sh", "-c", "kill -9 $$"], check=False).status == 137


def test_out_of_time_ends_all_of_it(runner: Runner, tmp_path: Path) -> None:
    script = "sleep 1000 & echo $! $$ >pids.new; mv pids.new pids; echo begun; wait"
    started = time.monotonic()
    with pytest.raises(FailedError, match=r"took more than 1(\.5)? s"):
        runner.run(["sh", "-c", script], cwd=tmp_path, timeout=1.5)
    assert time.monotonic() - started < LIMIT
    for pid in (tmp_path / "pids").read_text().split():
        wait_for(lambda pid=pid: gone(int(pid)), f"{pid} goes on")


def test_out_of_time_ends_also_who_does_not_listen(tmp_path: Path) -> None:
    """A child that ignores SIGTERM outlives its parent, but not the group's end."""
    script = "(trap '' TERM; echo $(exec sh -c 'echo $PPID') >pid.new; mv pid.new pid;"
    script += " while :; do sleep 1; done) & wait"
    with pytest.raises(FailedError):
        LocalRunner().run(["sh", "-c", script], cwd=tmp_path, timeout=1)
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: gone(pid), "the deaf child goes on")


def test_an_interruption_ends_all_of_it(runner: Runner, tmp_path: Path) -> None:
    """What Ctrl-C does: KeyboardInterrupt in the middle of reading a command's output."""

    class Stop(BaseException):
        pass

    def stop(line: str) -> None:
        raise Stop

    script = "sleep 1000 & echo $! $$ >pids.new; mv pids.new pids; echo begun; wait"
    with pytest.raises(Stop):
        runner.run(["sh", "-c", script], cwd=tmp_path, on_line=stop)
    for pid in (tmp_path / "pids").read_text().split():
        wait_for(lambda pid=pid: gone(int(pid)), f"{pid} goes on")


def test_what_is_not_there() -> None:
    with pytest.raises(MissingError, match="no-such-program: not found"):
        LocalRunner().run(["no-such-program"])
    with pytest.raises(FailedError, match="no such directory"):
        LocalRunner().run(["true"], cwd=Path("/no/such/place"))


def test_what_is_not_there_on_a_host(host: sshd.Host) -> None:
    with runner_for(host.target, host.key) as runner:
        with pytest.raises(FailedError, match="no-such-program"):
            runner.run(["no-such-program"])
        with pytest.raises(FailedError, match="/no/such/place"):
            runner.run(["true"], cwd=Path("/no/such/place"))


def test_trees_go_there_and_back(runner: Runner, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep/er").mkdir(parents=True)
    (source / "empty").mkdir()
    names = ["plain", "a b", "-rf", "$(id)", "quo'te", 'dou"ble', "new\nline", "ä", "*", ".hidden"]
    for number, name in enumerate(names):
        file = source / "deep" / name
        file.write_bytes(os.urandom(number * 1000))
        file.chmod([0o644, 0o755, 0o600, 0o444][number % 4])
    (source / "link").symlink_to("deep/a b")
    (source / "deep/er/up").symlink_to("../plain")
    far = tmp_path / "there; touch x"
    runner.send_tree(source, far)
    back = tmp_path / "back"
    runner.fetch_tree(far, back)
    assert artifacts.list_files(back) == artifacts.list_files(source)
    assert (back / "empty").is_dir() and not (tmp_path / "x").exists()


def test_a_tree_that_leads_out_is_refused(host: sshd.Host, tmp_path: Path) -> None:
    """A build host is a stranger too."""
    far = tmp_path / "stage"
    far.mkdir()
    (far / "link").symlink_to("/etc")
    with runner_for(host.target, host.key) as runner:
        with pytest.raises(InputError, match="links out of the tree"):
            runner.fetch_tree(far, tmp_path / "back")
        with pytest.raises(FailedError, match="could not send"):
            runner.fetch_tree(tmp_path / "nowhere", tmp_path / "back2")
        (tmp_path / "file").write_text("x")
        with pytest.raises(FailedError, match="could not receive"):
            runner.send_tree(far, tmp_path / "file")


def test_a_lying_tar_is_refused(host: sshd.Host, tmp_path: Path) -> None:
    """A host whose tar sends what it likes: nothing lands outside."""
    evil = tmp_path / "evil.tar.gz"
    with tarfile.open(evil, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../escaped"))
    bin_ = tmp_path / "far/bin"
    bin_.mkdir()
    (bin_ / "tar").write_text(f"#!/bin/sh\ncat {evil}\n")
    (bin_ / "tar").chmod(0o755)
    (tmp_path / "far/.bashrc").write_text(f"PATH={bin_}:$PATH\n")
    (tmp_path / "far/.profile").write_text(f"PATH={bin_}:$PATH\n")
    with runner_for(host.target, host.key) as runner:
        if str(bin_) not in runner.run(["sh", "-c", "echo $PATH"]).output:
            pytest.skip("the login shell here reads no .bashrc: cannot put a tar of ours first")
        with pytest.raises(InputError, match="leads out of the tree"):
            runner.fetch_tree(tmp_path, tmp_path / "in/side")
    assert not (tmp_path / "in/escaped").exists()


def test_an_unknown_host_key_is_refused_with_its_fingerprint(
    host: sshd.Host, home: Path, mini: mini.Mini, krg: Command
) -> None:
    (home / ".ssh/known_hosts").unlink()
    done = krg("build-kernel", *mini.options, "--host", host.target, "--identity", host.key)
    said = subprocess.run(
        ["ssh-keygen", "-lf", host.host_key.with_suffix(".pub")], capture_output=True, text=True
    ).stdout.split()[1]
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr


def test_a_changed_host_key_is_refused(
    host: sshd.Host, home: Path, tmp_path: Path, mini: mini.Mini, krg: Command
) -> None:
    other = sshd._keygen(tmp_path / "other").with_suffix(".pub").read_text().split()
    (home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{host.port} {other[0]} {other[1]}\n")
    done = krg("build-kernel", *mini.options, "--host", host.target, "--identity", host.key)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if "error:" in line]) == 1


@pytest.mark.parametrize("kind", ["missing", "empty", "public"])
def test_a_key_that_cannot_be_used(
    host: sshd.Host, tmp_path: Path, mini: mini.Mini, krg: Command, kind: str
) -> None:
    key = tmp_path / "key"
    if kind != "missing":
        text = host.key.with_suffix(".pub").read_text() if kind == "public" else ""
        key.write_text(text)
    done = krg("build-kernel", *mini.options, "--host", host.target, "--identity", key)
    assert done.returncode == 2 and str(key) in done.stderr and "Traceback" not in done.stderr


def test_nobody_listens(home: Path, mini: mini.Mini, krg: Command, tmp_path: Path) -> None:
    target = f"root@127.0.0.1:{sshd.free_port()}"
    done = krg("build-kernel", *mini.options, "--host", target)
    assert done.returncode == 1 and "127.0.0.1" in done.stderr and "Traceback" not in done.stderr


def test_a_build_there_equals_one_here(
    host: sshd.Host, mini: mini.Mini, krg: Command, tmp_path: Path
) -> None:
    here = krg("build-kernel", *mini.options, "--format", "json", "-o", tmp_path / "one")
    assert here.returncode == 0, here.stderr
    options = [*mini.options, "--host", host.target, "--identity", host.key]
    there = krg("build-kernel", *options, "--format", "json", "-o", tmp_path / "two")
    assert there.returncode == 0, there.stderr
    one, two = (artifacts.load(tmp_path / name) for name in ("one", "two"))
    assert one.build_id == two.build_id
    assert two.manifest["builder"] == host.target.rpartition(":")[0]
    same = {name: entry for name, entry in one.files.items() if name != "build.log"}
    assert {name: entry for name, entry in two.files.items() if name != "build.log"} == same
    # Nothing is left there.
    assert list((tmp_path / "far").rglob("mini*")) == []
    again = krg("build-kernel", *options, "--format", "json", "-o", tmp_path / "two")
    assert json.loads(again.stdout)["built"] is False


def test_interrupted_there(host: sshd.Host, mini: mini.Mini, krg: Command, tmp_path: Path) -> None:
    """The work on the build host ends with the command here."""
    mark = tmp_path / "mark"
    # sshd gives its sessions an environment of its own: this is how the tree hears of it.
    text = mini.release.read_text()
    (tmp_path / "far/mini-wait").write_text(f"x {mark}\n")
    wait = '["sh", "scripts/wait.sh", "x"],\n    ["make"'
    mini.release.write_text(text.replace('["make"', wait, 1))
    process = subprocess.Popen(
        [sys.executable, "-m", "provision", "build-kernel", *mini.options,
         "--host", host.target, "--identity", str(host.key)],
        stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(mark.exists, "the build never came to the waiting place")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 130 and "interrupted" in said
    pid = int(mark.read_text())
    wait_for(lambda: gone(pid), "the work on the build host goes on")


def test_a_lost_connection_is_said(host: sshd.Host, tmp_path: Path) -> None:
    """The session's own sshd is killed under a running command."""
    mark = tmp_path / "mark"
    script = f"echo $$ >{mark}.new; mv {mark}.new {mark}; exec sleep 1000"

    def cut() -> None:
        wait_for(mark.exists, "the command never began")
        pid = int(mark.read_text())
        while "sshd" not in Path(f"/proc/{pid}/comm").read_text():
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=cut)
    with runner_for(host.target, host.key) as runner:
        thread.start()
        with pytest.raises(FailedError, match=r"lost|closed|ended"):
            runner.run(["sh", "-c", script])
        thread.join()
    os.kill(int(mark.read_text()), signal.SIGKILL)
