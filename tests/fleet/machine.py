# SPDX-License-Identifier: GPL-2.0-or-later
"""A host that can be restarted: sshd ends, a boot loader chooses, another kernel seems to run.

A namespace cannot boot a kernel, so this part is played: the boot loader reads the host's
real menu.lst and /boot/grub/default as GRUB Legacy does, and what the kernel says of itself
(boot_id, uptime, command line, release, /sys/kerrighed) is written here. The same road with a
real GRUB and real kernels is in tests/lab.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from .hosts import Host, wait_for

STOCK = "2.6.26-2-686"
_SHIMS = {
    "uname": 'case $1 in -r) cat /run/machine/release ;; *) exec /usr/bin/uname "$@" ;; esac',
    "reboot": ": >/run/machine/wish",
}


class Machine:
    """The host's power switch, boot loader and kernel. ``fate`` says what a kernel does.

    By release: "ok", "panic", "hang", "no module", "other id", "no network" (up, and no SSH
    server answers), "dies" (that, and it is reset once its init scripts ran); those not named are
    "ok".
    ``boots`` lists the releases that were started.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.fate: dict[str, str] = {}
        self.boots: list[str] = []
        self.new_host_key = False
        # As an old kernel without anything but a dead clock to make one from.
        self.same_boot_id = False
        self._server: subprocess.Popen[bytes] | None = None
        self._end = threading.Event()
        # Its own restart and what a person does to it come one after the other.
        self._turn = threading.RLock()
        state = host.path("/run/machine")
        state.mkdir()
        self._lies = {
            "boot_id": "/proc/sys/kernel/random/boot_id",
            "release": "/proc/sys/kernel/osrelease",
            "uptime": "/proc/uptime",
            "cmdline": "/proc/cmdline",
        }
        for name, place in self._lies.items():
            (state / name).write_text("-\n")
            inside = str(host.directory / "root")
            subprocess.run(
                ["nsenter", f"--mount=/proc/{host.space.pid}/ns/mnt", "mount", "--bind",
                 f"{inside}/run/machine/{name}", inside + place],
                check=True,
            )  # fmt: skip
        shims = host.path("/usr/local/sbin")
        shims.mkdir(exist_ok=True)
        for name, script in _SHIMS.items():
            (shims / name).write_text(f"#!/bin/sh\n{script}\n")
            (shims / name).chmod(0o755)
        host.path(f"/boot/vmlinuz-{STOCK}").write_bytes(b"stock")
        self._runs(STOCK, "root=/dev/hda1 ro quiet")
        self._watch = threading.Thread(target=self._attend)
        self._watch.start()

    # What a person or a power cut does.

    def power_cycle(self) -> None:
        """Switch it off and on."""
        with self._turn:
            self.switch_off()
            self._start()

    def switch_off(self) -> None:
        """End all that runs, and stay off."""
        with self._turn:
            self._kill()
            self.host.path("/run/machine/wish").unlink(missing_ok=True)

    def switch_on(self) -> None:
        """Start it."""
        with self._turn:
            self._start()

    @property
    def quiet(self) -> bool:
        """Tell whether it is up, and nothing of ours runs on it or is about to."""
        with self._turn:
            return (
                not self.host.path("/run/machine/wish").exists()
                and self.host.path("/run/sshd.pid").exists()
                and not any(b"krg-provision" in text for text in self._command_lines())
            )

    def _command_lines(self) -> Iterator[bytes]:
        mine = Path(f"/proc/{self.host.space.pid}/ns/pid").readlink()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if entry.name.isdigit() and (entry / "ns/pid").readlink() == mine:
                    yield (entry / "cmdline").read_bytes()

    def start_server(self) -> None:
        """Start its SSH server if there is none, as a person at its console would."""
        with self._turn:
            if not self.host.path("/run/sshd.pid").exists():
                if self._server is not None:
                    self._server.wait()
                self._serve()

    def change_host_key(self) -> None:
        """Give it a new key, of which its server learns at once."""
        with self._turn:
            self._make_host_key()
            self.signal_inside(self.host.path("/run/sshd.pid").read_text().strip(), "HUP")

    def signal_inside(self, pid: str, name: str) -> None:
        """Send a signal to a process by its number inside."""
        subprocess.run(
            ["nsenter", "-t", str(self.host.space.pid), "--mount", "--pid",
             "chroot", str(self.host.directory / "root"), "/bin/sh", "-c", f"kill -{name} {pid}"],
            check=True,
        )  # fmt: skip

    def close(self) -> None:
        """End the watching; the host itself is ended by its owner."""
        self._end.set()
        self._watch.join()
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    @property
    def release(self) -> str:
        """Return the kernel that runs."""
        return self.host.path("/run/machine/release").read_text().strip()

    # What the machine does.

    def _attend(self) -> None:
        wish = self.host.path("/run/machine/wish")
        while not self._end.wait(0.05):
            with self._turn:
                if wish.exists():
                    wish.unlink()
                    self._kill()
                    self._start()

    def _kill(self) -> None:
        """End every process of the host but those that hold its namespaces."""
        # A server that has just taken a connection has one process more than were listed.
        while running := self._processes():
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        # What is in memory is gone.
        for name in ("sshd.pid", "krg-provision-restart"):
            self.host.path(f"/run/{name}").unlink(missing_ok=True)
        if self._server is not None:
            self._server.wait()
            self._server = None

    def _processes(self) -> list[int]:
        mine = Path(f"/proc/{self.host.space.pid}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                holds = (entry / "comm").read_text().strip() == "cat"
                same = (entry / "ns/pid").readlink() == mine
                if same and state != "Z" and not holds and int(entry.name) != self.host.space.pid:
                    found.append(int(entry.name))
        return found

    def _start(self) -> None:
        """Go through the boot loader until a kernel stays up or hangs."""
        for _ in range(4):
            chosen = self._choose()
            if chosen is None:
                return
            release, arguments = chosen
            self.boots.append(release)
            fate = self.fate.get(release, "ok")
            if fate == "hang" or (fate == "panic" and "panic=" not in arguments):
                return
            if fate != "panic":
                self._runs(release, arguments)
                self._starts_scripts()
                if fate == "dies":
                    # What runs in the background has seen the order.
                    self._kill()
                    self.fate.pop(release)
                    continue
                if fate != "no network":
                    self._serve()
                return

    def _choose(self) -> tuple[str, str] | None:
        """Return release and arguments of the entry that GRUB Legacy would start."""
        text = self.host.path("/boot/grub/menu.lst").read_bytes().decode("latin-1")
        saved = self.host.path("/boot/grub/default")
        head, *titles = re.split(r"(?m)^title\b", text)
        default = re.search(r"(?m)^default[ \t=]+(\S+)", head)
        fallback = re.search(r"(?m)^fallback[ \t=]+(\d+)", head)
        word = default[1] if default else "0"
        if word == "saved":
            word = re.match(r"\d*", saved.read_text("latin-1"))[0] or "0"  # type: ignore[index]
        for number in (int(word), int(fallback[1]) if fallback else None):
            if number is None or number >= len(titles):
                continue
            for line in titles[number].splitlines()[1:]:
                name, _, rest = line.strip().replace("\t", " ").partition(" ")
                if name == "savedefault":
                    content = saved.read_bytes()
                    digits = b"%s\0" % rest.strip().encode()
                    saved.write_bytes(digits + content[len(digits) :])
                if name == "kernel":
                    path, _, arguments = rest.strip().partition(" ")
                    if not self.host.path(path).is_file():
                        break
                    return path.rpartition("vmlinuz-")[2], arguments.strip()
        return None

    def _runs(self, release: str, arguments: str) -> None:
        state = self.host.path("/run/machine")
        (state / "release").write_text(release + "\n")
        if not self.same_boot_id:
            (state / "boot_id").write_text(f"{uuid.uuid4()}\n")
        (state / "uptime").write_text("12.50 10.00\n")
        (state / "cmdline").write_text(arguments + "\n")
        ids = dict(re.findall(r"\b(node_id|session_id)=(\d+)", arguments))
        shown = self.host.path("/sys/kerrighed")
        fate = self.fate.get(release, "ok")
        if fate == "other id":
            ids["node_id"] = "99"
        for name in ("node_id", "session_id"):
            (shown / name).unlink(missing_ok=True)
        if ids and fate != "no module":
            shown.mkdir(exist_ok=True)
            for name, value in ids.items():
                (shown / name).write_text(value + "\n")
        elif shown.is_dir():
            shown.rmdir()

    def _inside(self, *argv: str) -> list[str]:
        pid = str(self.host.space.pid)
        root = str(self.host.directory / "root")
        enter = ("nsenter", "-t", pid, "--mount", "--pid", "--net", "--uts")
        return [*enter, "chroot", root, *argv]

    def _starts_scripts(self) -> None:
        """Do what init does with the one script that matters here, if it was told to."""
        name = "krg-provision-trial"
        unit = self.host.path(f"/etc/systemd/system/sysinit.target.wants/{name}.service")
        if unit.is_symlink() or list(self.host.path("/etc/rc2.d").glob(f"S??{name}")):
            subprocess.run(
                self._inside("/bin/sh", f"/etc/init.d/{name}", "start"),
                check=True,
                stdout=subprocess.DEVNULL,
                timeout=30,
            )

    def _make_host_key(self) -> None:
        key = self.host.path("/etc/ssh/host_key")
        for path in (key, key.with_suffix(".pub")):
            path.unlink()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)

    def _serve(self) -> None:
        if self.new_host_key:
            self._make_host_key()
        self._server = subprocess.Popen(
            self._inside("/usr/sbin/sshd", "-D", "-e"),
            stdin=subprocess.DEVNULL,
            stderr=(self.host.directory / "log").open("ab"),
        )
        wait_for("sshd after a restart", self.host.path("/run/sshd.pid").exists)
