# SPDX-License-Identifier: GPL-2.0-or-later
"""Build hosts: user@host[:port], reached as nodes are, host keys verified."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provision.errors import InputError
from provision.runner import HostRunner, LocalRunner, Runner


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
    from provision.cluster import Node, parse_login
    from provision.ssh import Shell, check_access

    login = parse_login(host)
    if login is None:
        raise InputError(f"--host {host!r}: expected user@host or user@host:port")
    # What is left out comes from ~/.ssh/config.
    node = Node(login.host, 1, login.host, user=login.user, port=login.port, key=key)
    check_access([node])
    with Shell(node) as session:
        yield HostRunner(session.connection())
