# SPDX-License-Identifier: GPL-2.0-or-later
"""The way to a node: jump hosts, logging in, host keys verified, every wait limited.

Fabric would accept any host key (its Connection sets AutoAddPolicy and loads no known_hosts), so
the policy is replaced before a connection is opened.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shlex
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provision.cluster import Login, Node, parse_login
from provision.errors import FailedError, InputError
from provision.ssh_keys import KnownKeys, load_key

if TYPE_CHECKING:
    from fabric import Connection

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 15
# What was sent and is not acknowledged for so long went to a machine that is gone.
DEAD_SECONDS = 60.0
_LIMITS: dict[str, Any] = {
    "banner_timeout": CONNECT_SECONDS,
    "auth_timeout": 2 * CONNECT_SECONDS,
}
# sshd's MaxStartups begins to drop connections at 10 that have not logged in.
_AT_ONCE = 6


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


def connection_to(node: Node) -> Connection:
    """Return the connection to a node, not opened yet, with the jump hosts before it.

    :raises InputError: its key cannot be used.
    """
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


def hops(connection: Connection) -> list[Connection]:
    """Return the connections that lead to a node, the first jump host first."""
    found: list[Connection] = []
    hop: Any = connection
    while hop is not None and hasattr(hop, "client"):
        found.insert(0, hop)
        hop = getattr(hop, "gateway", None)
    return found


def verify_keys(connection: Any, node: Node, *, old: bool) -> KnownKeys:
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


class DroppedError(Exception):
    """The server closed the connection before it said anything: worth another try."""


_gates: dict[tuple[str, int], threading.Semaphore] = {}


def open_hop(hop: Any, known: KnownKeys, *, shared: bool) -> None:
    """Open one connection of the way; ``shared`` if other nodes are reached through it.

    :raises FailedError: what went wrong, and with which machine.
    :raises DroppedError: it may go better a moment later.
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
            raise DroppedError(f"{where} closes new connections at once") from error
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
