# SPDX-License-Identifier: GPL-2.0-or-later
"""The only door to processes: the same interface on this machine and on a build host.

A command is an argument list, never a shell string; on a build host it is quoted
with shlex. Output is merged (stdout and stderr), decoded as UTF-8 with
replacement, handed line by line to ``on_line`` and kept whole in the result.
A command that is interrupted or out of time is ended with its whole process group.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from provision.errors import FailedError, MissingError
from provision.unpack import unpack

if TYPE_CHECKING:
    from fabric import Connection

# Bytes that do not move for so long will not move any more.
_STALL_SECONDS = 120.0

OnLine = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """What a command did: its exit status (128+N when ended by signal N) and its output."""

    argv: tuple[str, ...]
    status: int
    output: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Tell whether the exit status was 0."""
        return self.status == 0


class Runner(Protocol):
    """Runs commands and moves trees; paths in arguments are paths on the runner's machine."""

    @property
    def name(self) -> str:
        """Say where commands run: "this machine" or user@host."""

    @property
    def is_local(self) -> bool:
        """Tell whether paths here and there are the same."""

    def run(
        self,
        argv: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        clean: bool = False,
        timeout: float | None = None,
        on_line: OnLine | None = None,
        check: bool = True,
    ) -> Result:
        """Run ``argv`` and return its result; with ``check`` a failure raises FailedError.

        ``env`` is added to the environment there, or is all of it with ``clean``.
        """

    def send_tree(self, source: Path, target: Path) -> None:
        """Make the local directory ``source`` appear as directory ``target`` there."""

    def fetch_tree(self, source: Path, target: Path) -> None:
        """Make the runner's directory ``source`` appear as local directory ``target``."""


class _Lines:
    """Splits a byte stream into lines and remembers all of it."""

    def __init__(self, on_line: OnLine | None) -> None:
        self._on_line = on_line
        self._rest = b""
        self._all: list[bytes] = []

    def feed(self, data: bytes) -> None:
        self._all.append(data)
        if self._on_line is None:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._on_line(line.decode("utf-8", "replace"))

    def finish(self) -> str:
        if self._on_line is not None and self._rest:
            self._on_line(self._rest.decode("utf-8", "replace"))
            self._rest = b""
        return b"".join(self._all).decode("utf-8", "replace")


def _checked(result: Result, check: bool, where: str) -> Result:
    if check and not result.ok:
        last = result.output.strip().splitlines()[-1:] or ["no output"]
        raise FailedError(
            f"{shlex.join(result.argv[:4])} on {where} ended with status {result.status}: {last[0]}"
        )
    return result


class LocalRunner:
    """Runs commands on this machine."""

    name = "this machine"
    is_local = True

    def run(
        self,
        argv: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        clean: bool = False,
        timeout: float | None = None,
        on_line: OnLine | None = None,
        check: bool = True,
    ) -> Result:
        """Run ``argv`` on this machine; see Runner.run."""
        started = time.monotonic()
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=cwd,
                env={**({} if clean else os.environ), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # A group of its own, so that make's children end with make.
                start_new_session=True,
            )
        except FileNotFoundError as error:
            if cwd is not None and not Path(cwd).is_dir():
                raise FailedError(f"{cwd}: no such directory") from error
            raise MissingError(
                f"{argv[0]}: not found on this machine",
                hint="krg-provision doctor says which package brings it",
            ) from error
        lines = _Lines(on_line)
        try:
            self._pump(process, lines, None if timeout is None else started + timeout)
            status = process.wait()
        except subprocess.TimeoutExpired as error:
            self._end(process)
            raise FailedError(
                f"{shlex.join(list(argv)[:4])} took more than {timeout:g} s and was ended"
            ) from error
        except BaseException:
            self._end(process)
            raise
        status = 128 - status if status < 0 else status
        result = Result(tuple(argv), status, lines.finish(), time.monotonic() - started)
        return _checked(result, check, self.name)

    @staticmethod
    def _pump(process: subprocess.Popen[bytes], lines: _Lines, deadline: float | None) -> None:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector, process.stdout as stream:
            selector.register(stream, selectors.EVENT_READ)
            while True:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise subprocess.TimeoutExpired(process.args, 0)
                if not selector.select(left):
                    continue
                data = os.read(stream.fileno(), 1 << 16)
                if not data:
                    return
                lines.feed(data)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        """End the process group: all of it, also what outlives its first process."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + 5.0
            try:
                os.killpg(process.pid, number)
                while time.monotonic() < deadline:
                    process.poll()
                    # Signal 0 only asks whether anybody is left.
                    os.killpg(process.pid, 0)
                    time.sleep(0.02)
            except (ProcessLookupError, PermissionError):
                break
        process.wait()

    def send_tree(self, source: Path, target: Path) -> None:
        """Copy a directory; nothing to do when both names are the same directory."""
        if source.resolve() != target.resolve():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)

    fetch_tree = send_tree


class HostRunner:
    """Runs commands on a build host over one SSH connection (Fabric)."""

    is_local = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.name = f"{connection.user}@{connection.host}"

    def run(
        self,
        argv: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        clean: bool = False,
        timeout: float | None = None,
        on_line: OnLine | None = None,
        check: bool = True,
    ) -> Result:
        """Run ``argv`` over SSH; see Runner.run."""
        started = time.monotonic()
        # The shell tells its process group first, so that an interruption here
        # can end the work there: without a terminal sshd leaves it running.
        values = [f"{name}={value}" for name, value in (env or {}).items()]
        words = ["env", *(["-i"] if clean else []), *values, *argv]
        inner = "echo $$; " + (f"cd {shlex.quote(str(cwd))} && " if cwd else "")
        inner += f"exec {shlex.join(words)}"
        # A shell of our own: the account's may be one that knows no 2>&1. It stays
        # alive, so that setsid need not fork, which would hide the signal that ended argv.
        outer = f"setsid -w sh -c {shlex.quote(inner)} 2>&1 </dev/null; exit $?"
        channel = self._channel(f"sh -c {shlex.quote(outer)}")
        lines = _Lines(on_line)
        group = b""
        try:
            deadline = None if timeout is None else started + timeout
            for data in self._chunks(channel, deadline):
                if group.endswith(b"\n"):
                    lines.feed(data)
                    continue
                # The first line is the process group, the rest is output.
                first, newline, rest = (group + data).partition(b"\n")
                group = first + newline
                lines.feed(rest)
            status = channel.recv_exit_status()
        except TimeoutError as error:
            self._end(group)
            raise FailedError(
                f"{shlex.join(list(argv)[:4])} on {self.name} took more than {timeout:g} s"
            ) from error
        except BaseException:
            self._end(group)
            raise
        finally:
            channel.close()
        if status == -1:
            raise FailedError(f"{self.name}: the connection was lost while {argv[0]} ran")
        result = Result(tuple(argv), status, lines.finish(), time.monotonic() - started)
        return _checked(result, check, self.name)

    def _channel(self, command: str) -> Any:
        import paramiko

        try:
            self._connection.open()
            channel = self._connection.transport.open_session(timeout=30)
            channel.settimeout(_STALL_SECONDS)
            channel.exec_command(command)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise FailedError(f"{self.name}: the connection was lost ({error})") from error
        return channel

    @staticmethod
    def _chunks(channel: Any, deadline: float | None) -> Iterator[bytes]:
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            channel.settimeout(1.0 if left is None else max(0.05, min(1.0, left)))
            try:
                data: bytes = channel.recv(1 << 16)
            except TimeoutError:
                continue
            if not data:
                return
            yield data

    def _end(self, group: bytes) -> None:
        if not group.strip().isdigit():
            return
        number = int(group)
        # Killed when asking was not enough; kill -0 only asks who is left.
        script = (
            f"kill -s TERM -- -{number}; for i in 1 2 3 4 5 6 7 8 9 10; do "
            f"kill -s 0 -- -{number} 2>/dev/null || exit 0; sleep 0.5; done; "
            f"kill -s KILL -- -{number}"
        )
        with contextlib.suppress(Exception):
            channel = self._channel(f"sh -c {shlex.quote(script)}")
            channel.settimeout(10.0)
            channel.recv(1)

    @contextlib.contextmanager
    def _moving(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (TimeoutError, EOFError, ConnectionError) as error:
            raise FailedError(
                f"{self.name}: the connection stalled or was lost at {path}"
            ) from error

    def send_tree(self, source: Path, target: Path) -> None:
        """Send a directory as one tar stream; needs tar and gzip there."""
        with tempfile.TemporaryFile() as packed, self._moving(target):
            with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
                archive.add(source, arcname=".")
            packed.seek(0)
            quoted = shlex.quote(str(target))
            channel = self._channel(f"mkdir -p {quoted} && tar -C {quoted} -xzf -")
            while data := packed.read(1 << 18):
                channel.sendall(data)
            channel.shutdown_write()
            said = channel.makefile("rb").read().decode("utf-8", "replace").strip()
            if channel.recv_exit_status() != 0:
                raise FailedError(f"{self.name}: could not receive {target}: {said}")

    def fetch_tree(self, source: Path, target: Path) -> None:
        """Receive a directory as one tar stream, checked as an archive from a stranger is.

        :raises InputError: something in it leads out of ``target``, or is a device.
        """
        channel = self._channel(f"tar -C {shlex.quote(str(source))} -czf - .")
        with tempfile.NamedTemporaryFile(prefix="krg-fetch-") as packed, self._moving(source):
            while data := channel.recv(1 << 18):
                packed.write(data)
            if channel.recv_exit_status() != 0:
                said = channel.makefile_stderr("rb").read().decode("utf-8", "replace").strip()
                raise FailedError(f"{self.name}: could not send {source}: {said}")
            packed.flush()
            unpack(Path(packed.name), target, strip=0, all_modes=True, into=True)
