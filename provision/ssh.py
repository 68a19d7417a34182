# SPDX-License-Identifier: GPL-2.0-or-later
"""SSH as we use it: keys, verified hosts, one session, a POSIX sh script over it.

Host keys are always verified. Fabric would accept any (its Connection sets
AutoAddPolicy and loads no known_hosts), so the policy is replaced before the session
is opened. Every wait has a limit.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import logging
import os
import shlex
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from provision.cluster import Node
from provision.errors import FailedError, InputError

if TYPE_CHECKING:
    import paramiko
    from fabric import Connection

CONNECT_SECONDS = 10.0
# An old machine takes its time to hash a kernel, but never this long without a word.
IDLE_SECONDS = 180.0


@dataclass(frozen=True)
class Output:
    """What a script on a node did; ``timed_out`` means that ``out`` is only its beginning."""

    status: int
    out: bytes
    err: bytes
    timed_out: bool = False


def fingerprint(key: Any) -> str:
    """Return a public key's fingerprint as ssh prints it: SHA256:..."""
    raw = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(raw).decode().rstrip("=")


def load_key(path: Path) -> paramiko.PKey:
    """Read a private key file of any kind paramiko knows.

    :raises InputError: it cannot be read, is no key, or needs a passphrase.
    """
    import paramiko

    kinds = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
    try:
        text = path.read_text("ascii")
    except OSError as error:
        raise InputError(
            f"key {path}: cannot be read: {error.strerror}",
            hint="name a private key file, or leave key out to use ssh-agent",
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"key {path}: not a private key") from error
    except ValueError as error:
        raise InputError(f"key {path!s:.200}: {error}") from error
    for kind in kinds:
        try:
            return kind.from_private_key(io.StringIO(text))
        except paramiko.PasswordRequiredException as error:
            raise InputError(
                f"key {path}: protected by a passphrase",
                hint=f"run: ssh-add {path}, and leave key out of the cluster file",
            ) from error
        except (paramiko.SSHException, ValueError, IndexError, TypeError):
            continue
    raise InputError(
        f"key {path}: not a private key (Ed25519, ECDSA or RSA)",
        hint="make one: ssh-keygen -t ed25519",
    )


def check_access(nodes: Sequence[Node]) -> None:
    """Check the key and known_hosts files that the cluster names, before anything is tried.

    :raises InputError: the first one that cannot be used.
    """
    import paramiko

    for key in dict.fromkeys(node.key for node in nodes if node.key is not None):
        load_key(key)
    for path in dict.fromkeys(n.known_hosts for n in nodes if n.known_hosts is not None):
        _load_known_hosts(paramiko.HostKeys().load, path)


def _load_known_hosts(load: Callable[[str], None], path: Path) -> None:
    """Have paramiko read a known_hosts file; InputError names the line it cannot read."""
    try:
        load(str(path))
    except OSError as error:
        raise InputError(f"known_hosts {path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # of a dozen kinds, from base64 to the libraries of each key
        raise InputError(
            f"known_hosts {path}:{_broken_line(path)}: not a host key: {error}",
            hint="remove that line; ssh-keyscan gives the key again",
        ) from error


def _broken_line(path: Path) -> int:
    from paramiko.hostkeys import HostKeyEntry
    from paramiko.ssh_exception import SSHException

    number = 0
    for number, raw in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            line = raw.decode("utf-8").strip()
            if line and not line.startswith("#"):
                HostKeyEntry.from_line(line, number)
        except SSHException:
            continue
        except Exception:
            return number
    return number


def _policy(node: Node) -> Any:
    import paramiko

    class Refuse(paramiko.MissingHostKeyPolicy):
        """Refuses an unknown key, saying which it is."""

        def missing_host_key(
            self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
        ) -> None:
            file = node.known_hosts or "~/.ssh/known_hosts"
            # paramiko's name for it; of a jump host's key, that is the jump host.
            host, _, port = hostname.lstrip("[").partition("]:")
            raise FailedError(
                f"unknown host key {fingerprint(key)} ({key.get_name()}) of {hostname}",
                hint="compare it on the node: ssh-keygen -lf /etc/ssh/ssh_host_KIND_key.pub; "
                f"if it is the same: ssh-keyscan -t {_kind(key)} -p {port or 22} {host} >>{file}",
            )

    return Refuse()


def _known_as(address: str, port: int) -> str:
    return address if port == 22 else f"[{address}]:{port}"


def _kind(key: Any) -> str:
    name = str(key.get_name())
    return "ecdsa" if "ecdsa" in name else "ed25519" if "ed25519" in name else "rsa"


def _connection(node: Node) -> Connection:
    from fabric import Connection

    # paramiko prints tracebacks of its threads through logging; ours are one line each.
    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    logging.getLogger("paramiko").propagate = False
    arguments: dict[str, Any] = {
        "banner_timeout": CONNECT_SECONDS,
        "auth_timeout": 2 * CONNECT_SECONDS,
    }
    if node.key is not None:
        arguments |= {"pkey": load_key(node.key), "look_for_keys": False, "allow_agent": False}
    if node.old_ssh:
        arguments["disabled_algorithms"] = {"pubkeys": ["rsa-sha2-512", "rsa-sha2-256"]}
    # Given a user or port, Fabric does not look at ~/.ssh/config for them.
    connection = Connection(
        node.address,
        user=node.user,
        port=node.port,
        connect_timeout=CONNECT_SECONDS,
        connect_kwargs=arguments,
    )
    if node.user is None and "user" not in connection.ssh_config:
        connection.user = "root"
    hop: Any = connection
    while hop is not None and hasattr(hop, "client"):
        _verify_keys(hop, node)
        hop = getattr(hop, "gateway", None)
    return connection


def _verify_keys(connection: Any, node: Node) -> None:
    """Make one connection check host keys; also those of the jump hosts on the way."""
    client = connection.client
    named = str(connection.ssh_config.get("userknownhostsfile", "")).split()
    files = [Path("/etc/ssh/ssh_known_hosts"), Path("~/.ssh/known_hosts").expanduser()]
    files += [Path(os.path.expanduser(name)) for name in named]  # noqa: PTH111 - ~nobody stays
    if node.known_hosts is not None:
        files.append(node.known_hosts)
    for path in files:
        if path.is_file():
            _load_known_hosts(client.load_system_host_keys, path)
    client.set_missing_host_key_policy(_policy(node))


class Shell:
    """One SSH session with a node; a context manager. Commands run as root."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        """Connect, log in and verify the host's key; FailedError says what went wrong."""
        import paramiko

        user, port = self.node.user or "root", self.node.port or 22
        where = f"{self.node.address} port {port}"
        try:
            self._connection = _connection(self.node)
            # What ~/.ssh/config said is known only now.
            user, port = self._connection.user, self._connection.port
            where = f"{self.node.address} port {port}"
            self._connection.open()
            self._connection.transport.set_keepalive(15)
        except paramiko.BadHostKeyException as error:
            self.close()
            raise FailedError(
                f"the host key of {where} has changed: it is {fingerprint(error.key)}, "
                f"known was {fingerprint(error.expected_key)}",
                hint="if the node was installed again, remove the old key: "
                f"ssh-keygen -R '{_known_as(self.node.address, port)}'",
            ) from error
        except paramiko.AuthenticationException as error:
            self.close()
            raise FailedError(
                f"{where} does not let {user} in",
                hint="name the right key in the cluster file, or add it to the node's "
                "~/.ssh/authorized_keys",
            ) from error
        except socket.gaierror as error:
            self.close()
            raise FailedError(f"{self.node.address}: no such host: {error.strerror}") from error
        except TimeoutError as error:
            self.close()
            raise FailedError(f"{where} does not answer") from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            self.close()
            text = getattr(error, "strerror", None) or str(error) or "connection closed"
            raise FailedError(f"{where} cannot be reached: {text}") from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connection(self) -> Connection:
        """Return the open Fabric connection, for the runner of a build host."""
        assert self._connection is not None
        return self._connection

    def close(self) -> None:
        """End the session; harmless from another thread and when repeated."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()

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
        :raises FailedError: the connection was lost.
        """
        import paramiko

        assert self._connection is not None
        raw = script.encode()
        inner = f'eval "$(dd bs=1 count={len(raw)} 2>/dev/null)"'
        command = f"sh -c {shlex.quote(inner)} {shlex.quote(label)}"
        if self._connection.user != "root":
            command = f"sudo -n {command}"
        out: list[bytes] = []
        deadline = time.monotonic() + limit
        try:
            channel = self._connection.transport.open_session(timeout=30)
            channel.settimeout(idle)
            channel.exec_command(command)
            try:
                with contextlib.suppress(ConnectionError, BrokenPipeError):
                    _feed(channel, raw, send)
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

    @property
    def user(self) -> str | None:
        """Return who is logged in, None before."""
        return None if self._connection is None else self._connection.user


class _Pipe(io.RawIOBase):
    """A channel's sending end as a file."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._channel.sendall(data)
        return len(data)


def _feed(channel: Any, script: bytes, send: Callable[[IO[bytes]], None] | None) -> None:
    try:
        channel.sendall(script)
        if send is not None:
            with io.BufferedWriter(_Pipe(channel), 1 << 16) as pipe:
                send(pipe)
        channel.shutdown_write()
    except TimeoutError:
        raise
    except OSError as error:
        # The script ended before it took everything: its output says why.
        raise BrokenPipeError from error
