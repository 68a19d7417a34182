# SPDX-License-Identifier: GPL-2.0-or-later
"""A node's root in which apply.sh runs command by command, and something goes wrong at one.

The shell traces each simple command before it runs it, on a pipe that holds less than one line
of the trace: so it stands still before every command, built-in ones too, until the line is
read. What happens then happens at exactly that step, every time.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from provision.cluster import Node
from provision.node import Session, apply_script
from provision.plan import Plan
from provision.ssh import Output
from provision.upload import write_tar

from .hosts import Space

TOPS = ("boot", "etc", "lib/modules", "usr/local", "var")
SHELLS = {"dash": ["dash"], "busybox": ["busybox", "sh"], "bash": ["bash"]}
_MARK = b"\x01"
# More than a read and a pipe hold together.
_WIDTH = 9000
_TRACE = 'PS4=$(cat /run/ps4); set -x; eval "$(cat /run/script)"'

ROOT_SCRIPT = """
set -e
mount -t tmpfs -o size=256m,mode=755 root "$ROOT"
cd "$ROOT"
mkdir usr lib proc dev sys tmp run boot etc var
mount --rbind /usr usr
mount -o remount,bind,ro usr
ln -s usr/bin bin
ln -s usr/sbin sbin
for entry in /usr/lib/*; do
    case ${entry##*/} in
        modules) ;;
        *) ln -s "../usr/lib/${entry##*/}" "lib/${entry##*/}" ;;
    esac
done
[ -d /usr/lib64 ] && ln -s usr/lib64 lib64
mkdir lib/modules
mount -t proc proc proc
mknod -m 666 dev/null c 1 3
mknod -m 444 dev/urandom c 1 9
if [ -n "$BUSYBOX" ]; then
    cp "$(command -v busybox)" run/busybox
    mount -t tmpfs -o size=8m,mode=755 box usr/bin
    mount -t tmpfs -o size=8m,mode=755 box usr/sbin
    cp run/busybox usr/bin/
    chroot . /usr/bin/busybox --install -s /usr/bin
fi
for place in boot etc lib/modules usr/local var; do
    mount -t tmpfs -o size=2m,mode=755 "$place" "$place"
done
echo ready
cat >/dev/null
"""

Tree = dict[str, tuple[int, int, int, bytes]]


@dataclass
class Step:
    """How far a run came: how many steps, what it said, how it ended."""

    steps: int
    said: str
    status: int


class Node_(Session):
    """A session that is no SSH: scripts run in a root of ours, with the wanted shell."""

    def __init__(self, directory: Path, shell: str) -> None:
        super().__init__(Node("krg1", 1, "10.0.0.1"))
        self.shell = shell
        self._argv = SHELLS[shell]
        directory.mkdir()
        where = directory / "root"
        where.mkdir()
        box = "yes" if shell == "busybox" else ""
        self.space = Space(ROOT_SCRIPT, {"ROOT": str(where), "BUSYBOX": box}, directory / "log")
        self._where = where
        self.root = Path(f"/proc/{self.space.pid}/root") / str(where).lstrip("/")
        (self.root / "run/ps4").write_bytes(_MARK + b"x" * _WIDTH + b" ")
        self._kept = 0
        self.data_size = 0

    def close(self) -> None:
        self.space.close()

    def _enter(self, *argv: str) -> list[str]:
        pid = str(self.space.pid)
        return ["nsenter", "-t", pid, "-m", "-p", "chroot", str(self._where), *argv]

    def run(
        self,
        script: str,
        *,
        label: str,
        send: Callable[[IO[bytes]], None] | None = None,
        idle: float = 180.0,
        limit: float = 3600.0,
    ) -> Output:
        """Run a script to its end."""
        (self.root / "run/script").write_text(script)
        data = io.BytesIO()
        if send is not None:
            send(data)
        done = subprocess.run(
            self._enter(*self._argv, "-c", 'eval "$(cat /run/script)"', label),
            input=data.getvalue(),
            capture_output=True,
            cwd="/",
            timeout=idle,
        )
        return Output(done.returncode, done.stdout, done.stderr)

    def apply_until(self, plan: Plan, kernel_release: str, at: int, act: str) -> Step:
        """Carry a plan out; at step ``at`` do something bad.

        :param act: "kill" the shell and its programs, "cut" the connection, "full:PLACE",
            "readonly:PLACE" ("all" is a place too); or "short": it was cut after ``at`` bytes of
            the data; "short:plain": which is not compressed.
        """
        token = "0" * 16
        packed = act != "short:plain"
        script = apply_script(plan, kernel_release, "20260101T000000Z", token, packed=packed)
        (self.root / "run/script").write_text(script)
        data = self.root / "run/data"
        with data.open("wb") as stream:
            write_tar(stream, plan, f".krg-provision-{token}", lambda _: None, packed=packed)
        self.data_size = data.stat().st_size
        if act.startswith("short"):
            os.truncate(data, at)
        trace, theirs = os.pipe()
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
        # What a script says fits into a pipe.
        listen, speak = os.pipe()
        heard = os.fdopen(listen, "rb")
        with data.open("rb") as source:
            process = subprocess.Popen(
                self._enter(*self._argv, "-c", _TRACE, f".krg-provision-{token}"),
                stdin=source, stdout=speak, stderr=theirs, cwd="/", start_new_session=True,
            )  # fmt: skip
        os.close(theirs)
        os.close(speak)
        steps = 0
        waiting = bool(at) and not act.startswith("short")
        try:
            while chunk := os.read(trace, 4096):
                # bash says the first character once more for each level.
                if _MARK in chunk:
                    steps += 1
                    if waiting and steps >= at:
                        # A file system with a file open for writing does not become read-only.
                        waiting = not self._act(act, process.pid, heard)
        finally:
            os.close(trace)
            if process.poll() is None and at and act == "kill" and steps >= at:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)
        self._undo(act)
        said = b"" if heard.closed else heard.read()
        heard.close()
        return Step(steps, said.decode(), process.returncode)

    def _act(self, act: str, group: int, heard: IO[bytes]) -> bool:
        """Do it, and tell whether it was possible."""
        kind, _, place = act.partition(":")
        if kind == "kill":
            os.killpg(group, signal.SIGKILL)
        elif kind == "cut":
            heard.close()
        elif kind == "full":
            for top in _places(place):
                self._fill(top)
        else:
            return all([self._mount(top, "ro") for top in _places(place)])
        return True

    def _fill(self, top: str) -> None:
        filler = os.open(self.root / top / ".fill", os.O_WRONLY | os.O_CREAT)
        try:
            while True:
                os.write(filler, bytes(4096))
        except OSError:
            os.close(filler)

    def _undo(self, act: str) -> None:
        kind, _, place = act.partition(":")
        for top in _places(place):
            if kind == "full":
                (self.root / top / ".fill").unlink(missing_ok=True)
            elif kind == "readonly":
                self._mount(top, "rw")

    def _mount(self, place: str, option: str) -> bool:
        done = subprocess.run(
            ["nsenter", "-t", str(self.space.pid), "-m", "mount", "-o", f"remount,{option}",
             str(self._where / place)],
            check=False, capture_output=True,
        )  # fmt: skip
        return done.returncode == 0

    def tree(self) -> Tree:
        """Return everything that a run may touch."""
        found: Tree = {}
        for top in TOPS:
            for path in sorted((self.root / top).rglob("*")):
                status = path.lstat()
                if path.is_symlink():
                    content = os.fsencode(path.readlink())
                else:
                    content = path.read_bytes() if path.is_file() else b""
                name = str(path.relative_to(self.root))
                found[name] = (status.st_mode, status.st_uid, status.st_gid, content)
        return found

    def keep(self) -> Path:
        """Copy the root's content aside; return where, for ``bring_back``."""
        self._kept += 1
        place = self.root / f"run/kept{self._kept}"
        for top in TOPS:
            (place / top).mkdir(parents=True)
            subprocess.run(["cp", "-a", f"{self.root / top}/.", str(place / top)], check=True)
        return place

    def bring_back(self, place: Path) -> None:
        """Make the root's content what it was when it was kept."""
        for top in TOPS:
            for path in (self.root / top).iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            subprocess.run(["cp", "-a", f"{place / top}/.", str(self.root / top)], check=True)


def _places(word: str) -> tuple[str, ...]:
    """Return the file systems that "boot", "all" or nothing at all means."""
    return TOPS if word == "all" else (word,) if word else ()


def without_notes(tree: Tree) -> Tree:
    """Return a tree without what only krg-provision itself reads."""
    return {
        name: value
        for name, value in tree.items()
        if not name.startswith("var/") and "/.krg-provision-" not in f"/{name}"
    }


def digest(tree: Tree) -> str:
    """Return one word for a whole tree; whose lock it is makes no difference."""
    items = [(name, value[:3] if name.endswith(".pid") else value) for name, value in tree.items()]
    return hashlib.sha256(repr(sorted(items)).encode()).hexdigest()
