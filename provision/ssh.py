# SPDX-License-Identifier: GPL-2.0-or-later
"""SSH as we use it: verified hosts, jump hosts, one session, a POSIX sh script over it.

Host keys are always verified. Fabric would accept any (its Connection sets
AutoAddPolicy and loads no known_hosts), so the policy is replaced before the session
is opened. Every wait has a limit.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import random
import secrets
import select
import shlex
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from provision import sudo
from provision.cluster import Login, Node, parse_login
from provision.errors import FailedError, InputError, KrgError
from provision.script import take
from provision.ssh_keys import KnownKeys, load_key, read_known_hosts

if TYPE_CHECKING:
    from fabric import Connection

CONNECT_SECONDS = 10.0
# An old machine takes its time to hash a kernel, but never this long without a word.
IDLE_SECONDS = 180.0
KEEPALIVE_SECONDS = 15
# What was sent and is not acknowledged for so long went to a machine that is gone.
DEAD_SECONDS = 60.0
_LIMITS: dict[str, Any] = {
    "banner_timeout": CONNECT_SECONDS,
    "auth_timeout": 2 * CONNECT_SECONDS,
}
# sshd's MaxStartups begins to drop connections at 10 that have not logged in.
_AT_ONCE = 6


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


# --- the way to a node --------------------------------------------------------------------


@functools.cache
def _hop_class() -> type[Connection]:
    from fabric import Connection

    # paramiko prints tracebacks of its threads through logging; ours are one line each.
    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    logging.getLogger("paramiko").propagate = False

    class Hop(Connection):  # type: ignore[misc]
        """A connection whose way there is built of the same kind, every wait limited."""

        def get_gateway(self) -> Any:
            named = self.ssh_config.get("proxyjump")
            if named is None or named.lower() == "none":
                command = self.ssh_config.get("proxycommand")
                return None if named is not None or command == "none" else command
            before: Any = None
            for word in named.split(","):
                login = parse_login(word.strip())
                if login is None:
                    raise InputError(
                        f"ssh_config: ProxyJump {word!r} is not USER@HOST:PORT",
                        hint="mend ~/.ssh/config, or give the node a jump in the cluster file",
                    )
                # A wildcard that means the jump host too.
                if before is None and login.host == self.original_host:
                    return None
                before = _hop(login, before, _LIMITS)
            return before

        def open_gateway(self) -> Any:
            if isinstance(self.gateway, str):
                return super().open_gateway()
            return self.gateway.transport.open_channel(
                kind="direct-tcpip",
                dest_addr=(self.host, int(self.port)),
                src_addr=("", 0),
                timeout=CONNECT_SECONDS,
            )

    return Hop


def _hop(login: Login, before: Any, arguments: dict[str, Any]) -> Connection:
    """Return the connection to a jump host; what ``login`` leaves out is ssh_config's."""
    return _hop_class()(
        login.host,
        user=login.user,
        port=login.port,
        gateway=before,
        connect_timeout=CONNECT_SECONDS,
        connect_kwargs=dict(arguments),
    )


def _fast_transport(sock: Any, **arguments: Any) -> Any:
    """Return paramiko's transport, which takes the cheapest cipher first that both sides have.

    AES-GCM (RFC 5647) costs half of what paramiko's first choice does, AES-CTR with a MAC.
    """
    import paramiko

    made = paramiko.Transport(sock, **arguments)
    wanted = made.get_security_options()
    wanted.ciphers = sorted(wanted.ciphers, key=lambda name: "gcm" not in name)
    return made


def _connection(node: Node) -> Connection:
    arguments = dict(_LIMITS)
    arguments["transport_factory"] = _fast_transport
    if node.key is not None:
        arguments["pkey"] = load_key(node.key)
    gateway: Any = None
    for login in node.jump or ():
        # Not with the node's key alone: the gate may know another one.
        gateway = _hop(login, gateway, arguments)
    if node.key is not None:
        arguments |= {"look_for_keys": False, "allow_agent": False}
    if node.jump == ():
        gateway = False
    # Given a user or port, Fabric does not look at ~/.ssh/config for them.
    connection = _hop_class()(
        node.address,
        user=node.user,
        port=node.port,
        gateway=gateway,
        connect_timeout=CONNECT_SECONDS,
        connect_kwargs=arguments,
    )
    if node.user is None and "user" not in connection.ssh_config:
        connection.user = "root"
    return connection


def _way(connection: Connection) -> list[Connection]:
    """Return the connections that lead to a node, the first jump host first."""
    found: list[Connection] = []
    hop: Any = connection
    while hop is not None and hasattr(hop, "client"):
        found.insert(0, hop)
        hop = getattr(hop, "gateway", None)
    return found


def _verify_keys(connection: Any, node: Node, *, old: bool) -> KnownKeys:
    """Make one connection check its host's key before it logs in; ``old`` as Node.old_ssh."""
    import paramiko

    said = connection.ssh_config
    named = str(said.get("userknownhostsfile", "")).split()
    files = [Path("/etc/ssh/ssh_known_hosts"), Path("~/.ssh/known_hosts").expanduser()]
    files += [Path(os.path.expanduser(name)) for name in named]  # noqa: PTH111 - ~nobody stays
    if node.known_hosts is not None:
        files.append(node.known_hosts)
    host, port = said.get("hostkeyalias", connection.host), int(connection.port)
    name = host if port == 22 or "hostkeyalias" in said else f"[{host}]:{port}"
    add_to = "~/.ssh/known_hosts" if node.known_hosts is None else str(node.known_hosts)
    known = KnownKeys(name, files, add_to if node.known_hosts is None else shlex.quote(add_to))

    class Check(paramiko.MissingHostKeyPolicy):
        """Asked for every key, as paramiko itself is given none."""

        def missing_host_key(
            self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
        ) -> None:
            known.check(key)

    connection.client.set_missing_host_key_policy(Check())
    arguments = connection.connect_kwargs
    disabled: dict[str, list[str]] = {}
    if old:
        disabled["pubkeys"] = ["rsa-sha2-512", "rsa-sha2-256"]
    unwanted = known.unwanted(paramiko.Transport._preferred_keys)  # type: ignore[attr-defined]
    if unwanted:
        disabled["keys"] = unwanted
    if disabled:
        arguments["disabled_algorithms"] = disabled
    # As ssh does; paramiko would end at a file that is not there.
    given = arguments.get("key_filename")
    if isinstance(given, list):
        arguments["key_filename"] = [name for name in given if Path(name).is_file()]
    return known


class _DroppedError(Exception):
    """The server closed the connection before it said anything: worth another try."""


_gates: dict[tuple[str, int], threading.Semaphore] = {}


def _open(hop: Any, known: KnownKeys, *, shared: bool) -> None:
    """Open one connection of the way; ``shared`` if other nodes are reached through it.

    :raises FailedError: what went wrong, and with which machine.
    :raises _DroppedError: it may go better a moment later.
    """
    import paramiko

    where = f"{hop.host} port {hop.port}"
    started = time.monotonic()
    place = hop.host, int(hop.port)
    # setdefault is one step for all threads.
    gate: Any = _gates.setdefault(place, threading.Semaphore(_AT_ONCE))
    if not shared:
        gate = contextlib.nullcontext()
    try:
        with gate:
            started = time.monotonic()
            hop.open()
    except paramiko.AuthenticationException as error:
        raise FailedError(
            f"{where} does not let {hop.user} in",
            hint="name the right key in the cluster file, or add it to the node's "
            "~/.ssh/authorized_keys",
        ) from error
    except socket.gaierror as error:
        raise FailedError(f"{hop.host}: no such host: {error.strerror}") from error
    except TimeoutError as error:
        raise FailedError(f"{where} does not answer") from error
    except paramiko.ChannelException as error:
        raise FailedError(
            f"{where} cannot be reached from {hop.gateway.host}: {error.text}"
        ) from error
    except (OSError, EOFError, paramiko.SSHException) as error:
        text = getattr(error, "strerror", None) or str(error) or "connection closed"
        if "No authentication methods" in text:
            raise FailedError(
                f"there is no key to log in to {where} with",
                hint="name one in the cluster file, or ssh-add it to a running ssh-agent",
            ) from error
        if "host key" in text and "no acceptable" in text:
            known.changed("it has none of the known kinds")
        silent = "banner" in text or isinstance(error, (EOFError, ConnectionResetError))
        if silent and time.monotonic() - started < 0.8 * CONNECT_SECONDS:
            raise _DroppedError(f"{where} closes new connections at once") from error
        if "banner" in text:
            raise FailedError(
                f"{where} accepts the connection and says nothing",
                hint="is it sshd that listens there, and does the machine still work?",
            ) from error
        raise FailedError(f"{where} cannot be reached: {text}") from error
    hop.transport.set_keepalive(KEEPALIVE_SECONDS)
    line = hop.transport.sock
    if isinstance(line, socket.socket):
        with contextlib.suppress(OSError):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(DEAD_SECONDS * 1000))


# --- the session --------------------------------------------------------------------------


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
            except _DroppedError:
                self.close()
                if self._ended.wait(random.uniform(0.5, 1.5)):  # noqa: S311 - not a secret
                    raise FailedError("the connection was given up") from None
                self._connect()
        except _DroppedError as error:
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
        self._connection = _connection(self.node)
        way = _way(self._connection)
        for hop in way:
            last = hop is way[-1]
            known = _verify_keys(hop, self.node, old=last and self.node.old_ssh)
            _open(hop, known, shared=not last)

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
            for hop in reversed(_way(self._connection)):
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

        The script travels on standard input too: a command line has limits, and
        the login shell may be any.

        :param label: what the process is called there.
        :param idle: how long the node may be silent.
        :raises FailedError: the connection was lost, or sudo refuses the password.
        """
        import paramiko

        assert self._connection is not None
        raw = script.encode()
        inner = take(len(raw))
        asks = self._connection.user != "root" and self.node.sudo == "ask"
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
