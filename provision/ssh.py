# SPDX-License-Identifier: GPL-2.0-or-later
"""SSH as we use it: one session with a node, and a POSIX sh script over it.

How a node is reached, and its key verified, is in ssh_way.py. Every wait has a limit.
"""

from __future__ import annotations

import contextlib
import io
import math
import random
import re
import secrets
import select
import shlex
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Self

from provision import sudo
from provision.cluster import Node
from provision.errors import FailedError, KrgError
from provision.script import take
from provision.ssh_keys import load_key, read_known_hosts
from provision.ssh_way import DroppedError, connection_to, hops, open_hop, verify_keys

if TYPE_CHECKING:
    from fabric import Connection

# Such a line in quotes no shell takes for anything else, csh and fish included, old ones neither;
# and it is short enough for a csh and a dropbear of 2006.
_PLAIN_LINE = re.compile(r"[ -~]{1,800}")
_UNQUOTABLE = re.compile(r"[\\!]")
# An old machine takes its time to hash a kernel, but never this long without a word.
IDLE_SECONDS = 180.0


@dataclass(frozen=True)
class Output:
    """What a script on a node did; ``timed_out`` means that ``out`` is only its beginning."""

    status: int
    out: bytes
    err: bytes
    timed_out: bool = False


def check_access(nodes: Sequence[Node]) -> None:
    """Check the files that the cluster names and get the password, before anything is tried.

    :raises InputError: the first key or known_hosts file that cannot be used; or a password
        is needed, and there is no way to ask for it.
    """
    for key in dict.fromkeys(node.key for node in nodes if node.key is not None):
        load_key(key)
    for path in dict.fromkeys(n.known_hosts for n in nodes if n.known_hosts is not None):
        read_known_hosts(path)
    if any(node.sudo == "ask" and node.user != "root" for node in nodes):
        sudo.password()


class Shell:
    """One SSH session with a node; a context manager. Commands run as root."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._connection: Connection | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        """Connect, log in and verify the host's key; FailedError says what went wrong.

        A connection that is dropped before the server says anything is tried once more:
        sshd does that to a part of those that come at the same time (MaxStartups).
        """
        import paramiko

        try:
            try:
                self._connect()
            except DroppedError:
                self.close()
                if self._ended.wait(random.uniform(0.5, 1.5)):  # noqa: S311 - not a secret
                    raise FailedError("the connection was given up") from None
                self._connect()
        except DroppedError as error:
            self.close()
            raise FailedError(
                f"{error}, twice",
                hint="too many log in at the same time: use fewer --forks, or raise MaxStartups "
                "there",
            ) from error
        except KrgError:
            self.close()
            raise
        except (OSError, paramiko.SSHException) as error:  # from reading ssh_config
            self.close()
            raise FailedError(f"{self.node.address} cannot be reached: {error}") from error
        except BaseException:
            self.close()
            raise
        return self

    def _connect(self) -> None:
        self._connection = connection_to(self.node)
        way = hops(self._connection)
        for hop in way:
            last = hop is way[-1]
            known = verify_keys(hop, self.node, old=last and self.node.old_ssh)
            open_hop(hop, known, shared=not last)

    def __exit__(self, *_: object) -> None:
        self.close()

    def connection(self) -> Connection:
        """Return the open Fabric connection, for the runner of a build host."""
        assert self._connection is not None
        return self._connection

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened, and not ended since."""
        return self._connection is not None and not self._ended.is_set()

    def close(self) -> None:
        """End the session; harmless from another thread and when repeated."""
        if self._connection is not None:
            for hop in reversed(hops(self._connection)):
                with contextlib.suppress(Exception):
                    hop.close()
                # Also one that is still being opened, which Fabric takes for closed.
                with contextlib.suppress(Exception):
                    hop.client.close()

    def end(self) -> None:
        """End the session for good, and any wait before another try."""
        self._ended.set()
        self.close()

    def run(
        self,
        script: str,
        *,
        label: str,
        send: Callable[[IO[bytes]], None] | None = None,
        idle: float = IDLE_SECONDS,
        limit: float = 3600.0,
    ) -> Output:
        """Run a POSIX sh script on the node, ``send`` writing its standard input.

        The script travels on standard input too, unless it is one short line: a command
        line has limits, and the login shell may be any.

        :param label: what the process is called there.
        :param idle: how long the node may be silent.
        :raises FailedError: the connection was lost, or sudo refuses the password.
        """
        import paramiko

        assert self._connection is not None
        raw = script.encode()
        inner = take(len(raw))
        asks = self._connection.user != "root" and self.node.sudo == "ask"
        # Where sudo may ask, it is not to run before its mark was seen: what it says would be
        # taken for sudo's words.
        if not asks and _PLAIN_LINE.fullmatch(script) and not _UNQUOTABLE.search(script):
            raw, inner = b"", script
        mark = secrets.token_hex(16)
        if asks:
            inner = f"echo {mark}; {inner}"
        command = f"sh -c {shlex.quote(inner)} {shlex.quote(label)}"
        if asks:
            # The prompt is ours whatever the language there is.
            command = f"env LC_ALL=C sudo -S -p {mark}: {command}"
        elif self._connection.user != "root":
            command = f"sudo -n {command}"
        out: list[bytes] = []
        deadline = time.monotonic() + limit
        try:
            channel = self._connection.transport.open_session(timeout=30)
            channel.settimeout(idle)
            channel.exec_command(command)
            try:
                if asks:
                    refused = self._become_root(channel, mark, idle)
                    if refused is not None:
                        return refused
                _hold_back(channel)
                with contextlib.suppress(ConnectionError, BrokenPipeError):
                    _feed(channel, raw, send, deadline)
                while data := channel.recv(1 << 16):
                    out.append(data)
                    if time.monotonic() > deadline:
                        raise TimeoutError
                err = channel.makefile_stderr("rb").read()
                status = channel.exit_status if channel.status_event.wait(10) else -1
            except TimeoutError:
                return Output(-1, b"".join(out), b"", timed_out=True)
            finally:
                channel.close()
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise FailedError(f"the connection was lost: {error or 'closed'}") from error
        return Output(status, b"".join(out), err)

    def _become_root(self, channel: Any, mark: str, idle: float) -> Output | None:
        """Answer sudo's prompt if there is one, until the shell says ``mark``.

        The script must not be sent earlier, or sudo might take it for a password; nor the
        password unasked, or the shell might take it for the script.

        :returns: None, or what sudo said when it ended instead.
        """
        password = sudo.password()
        out = err = b""
        sent = False
        with password.attempt():
            while mark.encode() not in out:
                if not _readable(channel, idle):
                    raise TimeoutError
                if channel.recv_stderr_ready():
                    err += channel.recv_stderr(1 << 12)
                elif data := channel.recv(1 << 12):
                    out += data
                else:
                    err += channel.makefile_stderr("rb").read()
                    status = channel.exit_status if channel.status_event.wait(10) else -1
                    said = err.replace(f"{mark}:".encode(), b"")
                    return Output(status, out, said)
                prompts = err.count(f"{mark}:".encode())
                if prompts > 1:
                    raise password.refuse(self.node.name)
                if prompts and not sent:
                    channel.sendall(password.bytes)
                    sent = True
            if sent:
                password.taken()
        return None

    @property
    def user(self) -> str | None:
        """Return who is logged in, None before."""
        return None if self._connection is None else self._connection.user


def _readable(channel: Any, seconds: float) -> bool:
    """Wait until the channel has something on either stream, or its end."""
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    return bool(poll.poll(seconds * 1000))


# How much is sent that the node has not taken yet, if it is so near (seconds there and back).
_AHEAD = 1 << 19
_NEAR = 0.005


def _hold_back(channel: Any) -> None:
    """Leave most of the window of an OpenSSH server in this room unused.

    It gives 2 MiB (CHAN_SES_WINDOW_DEFAULT in its channels.h) and keeps them in a buffer that is
    copied as a whole for every packet by which it grows (sshbuf.c); on a busy machine that costs
    more than all the rest of receiving. It gives more whenever three packets were taken
    (channel_check_window in channels.c, since it gives that much); other servers may wait for half
    of what they gave, and so are left alone. Over a long way the window is what makes speed.
    """
    transport = channel.get_transport()
    version = getattr(transport, "remote_version", "")
    if version.startswith("SSH-2.0-OpenSSH") and _round_trip(transport.sock) < _NEAR:
        with channel.lock:
            channel.out_window_size = min(channel.out_window_size, _AHEAD)


def _round_trip(line: Any) -> float:
    """Return the least seconds there and back that the kernel measured on a connection (tcp(7)).

    Infinity where nobody measured: behind a jump host a connection is no socket.
    """
    if not isinstance(line, socket.socket):
        return math.inf
    with contextlib.suppress(OSError, struct.error):
        # tcpi_min_rtt of struct tcp_info (linux/tcp.h, since 4.6), in microseconds: others have the
        # time in that an answer was waited for.
        told = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 152)
        return int(struct.unpack_from("=I", told, 148)[0]) / 1e6
    return math.inf


class _Pipe(io.RawIOBase):
    """A channel's sending end as a file."""

    def __init__(self, channel: Any, deadline: float) -> None:
        self._channel = channel
        self._deadline = deadline

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if time.monotonic() > self._deadline:
            raise TimeoutError
        self._channel.sendall(data)
        return len(data)


def _feed(
    channel: Any, script: bytes, send: Callable[[IO[bytes]], None] | None, deadline: float
) -> None:
    try:
        channel.sendall(script)
        if send is not None:
            with io.BufferedWriter(_Pipe(channel, deadline), 1 << 16) as pipe:
                send(pipe)
        channel.shutdown_write()
    except TimeoutError:
        raise
    except OSError as error:
        # The script ended before it took everything: its output says why.
        raise BrokenPipeError from error
