# SPDX-License-Identifier: GPL-2.0-or-later
"""A real sshd on loopback, with keys and a port of its own; its user is the caller."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from provision.cluster import Node
from provision.errors import FailedError
from provision.ssh import Shell


@dataclass(frozen=True)
class Host:
    """Where the server is, and the key it lets in."""

    target: str
    key: Path
    host_key: Path
    port: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _keygen(path: Path, kind: str = "ed25519") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path], check=True)
    return path


@contextmanager
def running(
    place: Path, remote_home: Path, known_hosts: Path | None, extra: str = ""
) -> Iterator[Host]:
    """Run a server until the end; its host key goes into ``known_hosts`` unless None.

    ``extra`` is added to its configuration, PLACE in it being its directory.
    """
    server = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if server is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no sshd: apt-get install openssh-server openssh-client")
    if os.geteuid() != 0:
        pytest.skip("sshd needs root to give its sessions another home: run the tests as root")
    place.mkdir()
    remote_home.mkdir()
    host_key, key = _keygen(place / "host"), _keygen(place / "user")
    authorized = place / "authorized"
    authorized.write_text(
        f'environment="HOME={remote_home}" ' + key.with_suffix(".pub").read_text()
    )
    port = free_port()
    user = pwd.getpwuid(os.geteuid()).pw_name
    config = place / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {host_key}\n"
        f"AuthorizedKeysFile {authorized}\nPidFile {place}/pid\nUsePAM no\nStrictModes no\n"
        "PasswordAuthentication no\nPermitRootLogin yes\nPermitUserEnvironment yes\n"
        f"SetEnv HOME={remote_home}\n" + extra.replace("PLACE", str(place))
    )
    for name in re.findall(r"HostKey PLACE/(\w+)", extra):
        _keygen(place / name, name)
    # sshd wants this directory; a machine that never ran one has none.
    Path("/run/sshd").mkdir(exist_ok=True)
    log = place / "log"
    process = subprocess.Popen(
        [server, "-D", "-E", log, "-f", config], stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        if known_hosts is not None:
            known_hosts.parent.mkdir(exist_ok=True, mode=0o700)
            kind, blob = host_key.with_suffix(".pub").read_text().split()[:2]
            known_hosts.write_text(f"[127.0.0.1]:{port} {kind} {blob}\n")
        yield Host(f"{user}@127.0.0.1:{port}", key, host_key, port)
    finally:
        process.terminate()
        process.wait(10)


def node(server: Host) -> Node:
    """Return the server as a node."""
    return Node("krg1", 1, "127.0.0.1", user="root", port=server.port, key=server.key)


def known(home: Path) -> Path:
    """Return the user's own known_hosts."""
    return home / ".ssh/known_hosts"


def blob(server: Host, kind: str) -> str:
    """Return a public key of the server: its kind, and the key in base64."""
    file = server.host_key.with_name({"ed25519": "host", "rsa": "rsa"}[kind] + ".pub")
    return " ".join(file.read_text().split()[:2])


def says_hello(of: Node) -> None:
    """Log in and run a command."""
    with Shell(of) as shell:
        assert shell.run("echo hello", label="test").out == b"hello\n"


def refused(of: Node) -> FailedError:
    """Log in where that must fail; return why it did."""
    with pytest.raises(FailedError) as caught:
        says_hello(of)
    assert "\n" not in caught.value.message
    return caught.value
