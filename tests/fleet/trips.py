# SPDX-License-Identifier: GPL-2.0-or-later
"""A host at which something goes wrong at one round trip of the client's.

Root's login shell there counts what the client asks for. At the wanted one it stands still,
says so, and waits to be told how it goes on; meanwhile the test does what it wants: end a
process, switch the machine off, change its keys.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess

from .faults import Tree
from .hosts import Hosts, wait_for
from .machine import Machine

TOPS = ("boot", "etc", "lib/modules", "usr/local", "var")

# How it goes on: "go" as if nothing was, "slow", "drop" without having done anything, "lose"
# what was done there, so that nobody hears of it, "late" when the answer has been given.
# The command is sshd's -c COMMAND; its parent is the session's sshd.
_SHELL = """#!/bin/sh
at=/run/fault
read -r count <$at/count
count=$((count + 1))
echo $count >$at/count
read -r wanted <$at/wanted
[ "$count" = "$wanted" ] || exec /bin/sh "$@"
echo $PPID >$at/session.new
mv $at/session.new $at/session
while ! read -r way 2>/dev/null <$at/way; do sleep 0.02; done
case $way in
    slow) sleep 3 ;;
    drop) kill -9 $PPID; exit 1 ;;
    lose) /bin/sh "$@" >/dev/null 2>&1; kill -9 $PPID; exit 1 ;;
    late) /bin/sh "$@"; kill -9 $PPID; exit 1 ;;
esac
exec /bin/sh "$@"
"""


class Trips:
    """One host whose round trips are counted, and can be put back to what it was."""

    def __init__(self, hosts: Hosts, machine: Machine) -> None:
        self.hosts = hosts
        self.machine = machine
        self.host = machine.host
        self._kept = self.host.directory / "kept"
        # In memory: it is no part of what a deploy sees.
        self._place = self.host.path("/run/fault")
        self._place.mkdir()
        shell = self._place / "shell"
        shell.write_text(_SHELL)
        shell.chmod(0o755)
        passwd = self.host.path("/etc/passwd")
        lines = passwd.read_text().replace("root:/root:/bin/sh", "root:/root:/run/fault/shell")
        passwd.write_text(lines)
        self.arm(0)

    def arm(self, wanted: int) -> None:
        """Count from the beginning, and stand still at one."""
        for name in ("session", "way"):
            (self._place / name).unlink(missing_ok=True)
        (self._place / "count").write_text("0\n")
        (self._place / "wanted").write_text(f"{wanted}\n")

    @property
    def count(self) -> int:
        return int((self._place / "count").read_text())

    def wait(self, running: subprocess.Popen[str]) -> bool:
        """Wait until the host stands still; False when the client ended before that."""
        session = self._place / "session"
        wait_for("a round trip", lambda: session.exists() or running.poll() is not None, 60)
        return session.exists()

    def go_on(self, way: str) -> None:
        new = self._place / "way.new"
        new.write_text(f"{way}\n")
        new.rename(self._place / "way")

    def kill_sshd(self) -> None:
        """End the server that new sessions come to, and the session that stands still."""
        listener = self.host.path("/run/sshd.pid")
        for file in (listener, self._place / "session"):
            self.machine.signal_inside(file.read_text().strip(), "KILL")
        listener.unlink()

    def keep(self) -> None:
        """Keep what is on its disks now, for ``bring_back``."""
        for top in TOPS:
            place = self._kept / top
            place.mkdir(parents=True)
            subprocess.run(["cp", "-a", f"{self.host.root / top}/.", str(place)], check=True)

    def bring_back(self) -> None:
        """Make its disks what they were, and restart it."""
        self.arm(0)
        self.machine.switch_off()
        for top in TOPS:
            for path in (self.host.root / top).iterdir():
                subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=True)
            subprocess.run(
                ["cp", "-a", f"{self._kept / top}/.", str(self.host.root / top)], check=True
            )
        self.machine.switch_on()

    def tree(self) -> Tree:
        """Return what counts of its disks: without notes, locks, and what GRUB writes itself.

        A trial that failed leaves /boot/grub/default there, and the next one notes that.
        """
        found: Tree = {}
        for name, (mode, content) in self.host.tree().items():
            if not name.startswith(("var/", "etc/ssh/")) and name != "boot/grub/default":
                status = (self.host.root / name).lstat()
                text = re.sub(rb"(?m)^### KRG-PROVISION saved default was .*\n", b"", content)
                found[name] = (mode, status.st_uid, status.st_gid, text)
        return found


def kill_client(running: subprocess.Popen[str]) -> None:
    """End the client and all its threads as kill -9 does."""
    os.killpg(running.pid, signal.SIGKILL)
    running.wait(30)


def known_key(hosts: Hosts, machine: Machine) -> None:
    """Have the client know the key that the host has now, as an administrator would."""
    public = machine.host.path("/etc/ssh/host_key.pub").read_text()
    machine.host.host_key = " ".join(public.split()[:2])
    hosts.write()
