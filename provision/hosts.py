# SPDX-License-Identifier: GPL-2.0-or-later
"""Build hosts: user@host[:port], reached as nodes are, host keys verified."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provision.errors import InputError
from provision.runner import HostRunner, LocalRunner, Runner

_HOST = re.compile(
    r"(?:(?P<user>[a-z_][a-z0-9_.-]*)@)?(?P<host>[^@:\[\]]+|\[[^\]]+\])(?::(?P<port>\d+))?"
)


@contextmanager
def runner_for(host: str | None, key: Path | None = None) -> Iterator[Runner]:
    """Give the runner of this machine, or of ``user@host[:port]`` over SSH.

    :param key: a private key file; otherwise ssh-agent, ~/.ssh and ssh_config are used.
    :raises InputError: not a host.
    :raises FailedError: no connection; an unknown host key says its fingerprint.
    """
    if host is None:
        yield LocalRunner()
        return
    from provision.cluster import Node, is_host
    from provision.ssh import Shell, check_access

    match = _HOST.fullmatch(host)
    name = match["host"].strip("[]") if match else ""
    if match is None or not is_host(name) or not 0 < int(match["port"] or 22) < 65536:
        raise InputError(f"--host {host!r}: expected user@host or user@host:port")
    node = Node(
        name=name,
        id=1,
        address=name,
        # Left out, they come from ~/.ssh/config.
        user=match["user"],
        port=int(match["port"]) if match["port"] else None,
        key=key,
    )
    check_access([node])
    with Shell(node) as session:
        yield HostRunner(session.connection())
