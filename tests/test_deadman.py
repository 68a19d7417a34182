# SPDX-License-Identifier: GPL-2.0-or-later
"""The script that takes a node back from a trial nobody can reach, in three shells."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from provision import deadman
from provision.data import render

KERNEL = "2.6.20-krg"
SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}
# What a node may have: a kernel of that name, and a restart that is only noted.
PROGRAMS = {
    "uname": f"echo {KERNEL}",
    "reboot": 'echo reboot >>"$HERE/done"',
    "dmesg": 'echo "eth0: no such device"; cat "$HERE/dmesg" 2>/dev/null',
    "modprobe": 'echo "modprobe $1" >>"$HERE/done"',
    "sync": ":",
    "shutdown": "exit 1",
    # Seconds are shorter here.
    "sleep": "exec /bin/sleep 0.02",
    "mv": 'exec /bin/mv "$@"',
}
# busybox's shell takes its own programs whatever PATH says, among them one that restarts.
# A function that waited would be where a signal is taken, so that is put in by name.
_FUNCTIONS = "".join(
    f'{name}() {{ "$HERE/bin/{name}" "$@"; }}\n' for name in PROGRAMS if name != "sleep"
)


def wait_for(what: str, test: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not test():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.01)


@dataclass
class Place:
    """A directory that stands for a node's /var/lib/krg-provision, /dev and programs."""

    root: Path
    shell: str

    @property
    def state(self) -> Path:
        return self.root / "state"

    def names(self) -> set[str]:
        return {path.name for path in self.state.iterdir()} - {"trial-log", "trial-log.new"}

    def done(self) -> list[str]:
        path = self.root / "done"
        return path.read_text().splitlines() if path.exists() else []

    def order(self, seconds: int, release: str = KERNEL, watchdog: bool | str = False) -> None:
        (self.state / "trial").write_bytes(deadman.order(release, seconds, watchdog))

    def start(self, verb: str = "start") -> str:
        """Run the script as init does; what waits goes on by itself."""
        done = subprocess.run(
            [*SHELLS[self.shell], str(self.root / "script"), verb],
            capture_output=True,
            text=True,
            timeout=20,
            env={"HERE": str(self.root)},
            cwd=self.root,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def settle(self, clear: bool = False) -> str:
        script = render("trial_settle.sh.j2", state=str(self.state), clear=clear)
        argv = [*SHELLS[self.shell], "-c", script]
        return subprocess.run(argv, capture_output=True, text=True, timeout=20).stdout.strip()

    def switch_off(self) -> None:
        """End what runs; its children come and go."""
        while running := self.waiting():
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def waiting(self) -> list[int]:
        """Return the processes of this place's script that run."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line = (entry / "cmdline").read_bytes().split(b"\0")
                alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            except OSError:
                continue
            if str(self.root / "script").encode() in line and alive:
                found.append(int(entry.name))
        return found


@pytest.fixture(params=SHELLS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    shell = request.param
    if shutil.which(SHELLS[shell][0]) is None:
        pytest.skip(f"no {shell}: apt-get install busybox")
    made = Place(tmp_path, shell)
    programs = tmp_path / "bin"
    for path in (made.state, programs):
        path.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    script = deadman.script(
        state=str(made.state),
        watchdog=str(tmp_path / "watchdog"),
        sysrq=str(tmp_path / "sysrq"),
        path=f"{programs}:/usr/bin:/bin",
    )
    head, path, rest = script.partition("\nexport PATH\n")
    rest = re.sub(r"(?m)^( +)sleep ", r'\1"$HERE/bin/sleep" ', rest)
    (tmp_path / "script").write_text(head + path + _FUNCTIONS + rest)
    yield made
    made.switch_off()


def test_a_trial_that_nobody_confirms_goes_back_once(place: Place) -> None:
    place.order(1)
    assert "on trial: back in 1 s" in place.start()
    wait_for("the restart", lambda: place.done() == ["reboot"])
    assert place.names() == {"trial-gave-up"}
    assert (place.state / "trial-gave-up").read_bytes() == deadman.order(KERNEL, 1, False)
    assert (place.state / "trial-log").read_text() == "eth0: no such device\n"
    # Too late for that.
    assert place.settle() == "gave up"
    # The machine goes down, and comes up with whatever kernel: nothing is begun again.
    place.switch_off()
    for _ in range(2):
        assert place.start() == ""
        assert (place.names(), place.waiting(), place.done()) == ({"trial-back"}, [], ["reboot"])
    assert place.settle() == "none"
    assert place.settle(clear=True) == "cleared"
    assert not place.names()


def test_a_trial_that_is_confirmed_stays(place: Place) -> None:
    place.order(60_000)
    place.start()
    assert place.names() == {"trial-running"}
    assert place.settle() == "confirmed"
    wait_for("the end", lambda: not place.waiting())
    assert (place.names(), place.done()) == (set(), [])
    # The client was killed after that: no later start is a trial.
    place.start()
    assert (place.names(), place.waiting(), place.done()) == (set(), [], [])


def test_a_start_that_is_no_trial(place: Place) -> None:
    place.start()
    assert (place.names(), place.waiting()) == (set(), [])
    # Another kernel came up: the trial is over, and its own kernel is not taken back later.
    place.order(1, release="2.6.20-other")
    place.start()
    assert (place.names(), place.waiting()) == ({"trial-missed"}, [])
    # An order that makes no sense is none.
    for content in ("", f"release {KERNEL}\n", f"release {KERNEL}\nseconds 1;reboot\n"):
        (place.state / "trial").write_text(content)
        place.start()
        assert (place.names(), place.waiting()) == ({"trial-missed"}, [])
    assert place.done() == []


def test_a_trial_that_was_reset_is_none_afterwards(place: Place) -> None:
    place.order(60_000)
    place.start()
    place.switch_off()
    assert place.start() == ""
    assert (place.names(), place.waiting(), place.done()) == ({"trial-running"}, [], [])


def test_where_nothing_can_be_written_nothing_is_done(place: Place) -> None:
    place.order(1)
    # As a read-only file system would; root needs no permission for it.
    (place.root / "bin/mv").write_text("#!/bin/sh\nexit 1\n")
    assert "has no way back" in place.start()
    assert (place.names(), place.waiting(), place.done()) == ({"trial"}, [], [])


def test_a_disk_that_fails_later_does_not_keep_the_node_up(place: Place) -> None:
    place.order(2)
    place.start()
    (place.root / "bin/mv").write_text("#!/bin/sh\nexit 1\n")
    wait_for("the restart", lambda: place.done() == ["reboot"])


def test_a_restart_that_hangs_is_forced(place: Place) -> None:
    script = place.root / "script"
    text = script.read_text()
    assert f"left={deadman.PATIENCE}" in text
    script.write_text(text.replace(f"left={deadman.PATIENCE}", "left=1"))
    place.order(1)
    place.start()
    wait_for("sysrq", lambda: (place.root / "sysrq").exists() and not place.waiting())
    assert (place.root / "sysrq").read_text() == "b\n"
    assert place.done() == ["reboot"]


class Watchdog:
    """A pipe in the place of /dev/watchdog: what is written to it, and that it was closed."""

    def __init__(self, place: Place) -> None:
        os.mkfifo(place.root / "watchdog")
        self._pipe = os.open(place.root / "watchdog", os.O_RDONLY | os.O_NONBLOCK)

    def read(self, until: bytes) -> bytes:
        """Return all that comes until ``until``, or, without it, until it is closed."""
        got = b""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            select.select([self._pipe], [], [], 0.05)
            try:
                more = os.read(self._pipe, 100)
            except BlockingIOError:
                continue
            got += more
            if (not more and got and not until) or (until and until in got):
                return got
        raise AssertionError(f"{got!r} has no {until!r}")


def test_a_watchdog_is_fed_until_the_trial_is_confirmed(place: Place) -> None:
    watchdog = Watchdog(place)
    place.order(60_000, watchdog=True)
    place.start()
    assert b"V" not in watchdog.read(b".\n.\n")
    assert place.settle() == "confirmed fed"
    # The V that stops the timer comes last.
    assert watchdog.read(b"").endswith(b"V")
    wait_for("the end", lambda: not place.waiting())
    assert place.done() == []


def test_a_watchdog_is_fed_where_that_cannot_be_written_down(place: Place) -> None:
    watchdog = Watchdog(place)
    # Nothing can be written there, as on a disk that is full.
    (place.state / "trial-watchdog").mkdir()
    place.order(60_000, watchdog=True)
    place.start()
    watchdog.read(b".\n.\n.\n")
    assert place.settle() == "confirmed fed"
    assert watchdog.read(b"").endswith(b"V")


def test_a_watchdog_that_cannot_be_stopped_is_fed_on(place: Place) -> None:
    watchdog = Watchdog(place)
    (place.root / "dmesg").write_text("i6300ESB: initialized. heartbeat=30 sec (nowayout=1)\n")
    place.order(60_000, watchdog="i6300esb")
    place.start()
    watchdog.read(b".\n")
    assert place.done() == ["modprobe i6300esb"]
    assert place.settle() == "confirmed fed"
    wait_for("the feeding", lambda: b"V" not in watchdog.read(b"."))
    assert place.waiting()


def test_a_shutdown_stops_the_watchdog(place: Place) -> None:
    watchdog = Watchdog(place)
    place.order(60_000, watchdog=True)
    place.start()
    watchdog.read(b".\n")
    for pid in place.waiting():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    assert watchdog.read(b"").endswith(b"V")


def test_a_watchdog_that_may_not_be_used_or_is_none(place: Place) -> None:
    (place.root / "watchdog").write_text("a file")
    place.order(60_000, watchdog=True)
    place.start()
    assert place.settle() == "confirmed"
    wait_for("the end", lambda: not place.waiting())
    assert (place.root / "watchdog").read_text() == "a file"
    (place.root / "watchdog").unlink()
    place.order(60_000)
    place.start()
    assert place.settle() == "confirmed"
    wait_for("the end", lambda: not place.waiting())
    assert place.done() == []


def test_the_unit_is_one(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("no systemd-analyze: apt-get install systemd")
    unit = tmp_path / "krg-provision-trial.service"
    unit.write_text(render("trial.service.j2", script="/etc/init.d/krg-provision-trial"))
    done = subprocess.run([tool, "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert "krg-provision-trial" not in done.stderr, done.stderr
