# SPDX-License-Identifier: GPL-2.0-or-later
"""Run commands on a lab node through its second serial port; agent.c has the protocol."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from provision.errors import FailedError

# The node's side reads one line into a fixed buffer.
LONGEST_COMMAND = 1500


@dataclass(frozen=True)
class Reply:
    """A command's exit status (128+N: by signal N) and output, both streams merged."""

    status: int
    output: str

    @property
    def ok(self) -> bool:
        """Tell whether the exit status was 0."""
        return self.status == 0


class SilentError(FailedError):
    """The node did not answer in time."""


@contextmanager
def connect(directory: Path, name: str, timeout: float) -> Iterator[socket.socket]:
    """Connect to the Unix socket ``name`` in a directory whose path may be long.

    :raises SilentError: nobody listens there.
    """
    # A socket's name is limited to 108 bytes; one below /proc/self/fd is short.
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(timeout)
            try:
                link.connect(f"/proc/self/fd/{handle}/{name}")
            except OSError as error:
                raise SilentError(f"{directory.name}: not running ({error.strerror})") from error
            yield link
    finally:
        os.close(handle)


def run(directory: Path, command: str, timeout: float) -> Reply:
    """Run a shell command on the node whose directory this is.

    The command is a session of its own and keeps its children if it leaves any.

    :raises SilentError: the node, or the command, gave no answer in ``timeout`` seconds.
    """
    raw = command.encode()
    assert 0 < len(raw) <= LONGEST_COMMAND and b"\0" not in raw
    deadline = time.monotonic() + timeout
    token = secrets.token_hex(8)
    # Emulated clocks run fast or slow: the host's decides, the guest's only cleans up.
    request = f"\n{token} {int(timeout) * 3 + 1} {raw.hex()}\n".encode()
    output: list[bytes] = []
    with connect(directory, "agent.sock", timeout) as link:
        link.sendall(request)
        for words in _lines(link, deadline):
            match words:
                case [first, b"o", piece] if first == token.encode():
                    output.append(bytes.fromhex(piece.decode()))
                case [first, b"x", status] if first == token.encode():
                    return Reply(int(status), b"".join(output).decode("utf-8", "replace"))
                case [first, b"t"] if first == token.encode():
                    break
    raise SilentError(f"{directory.name}: no end within {timeout:g} s of: {command}")


def _lines(link: socket.socket, deadline: float) -> Iterator[list[bytes]]:
    rest = b""
    while (left := deadline - time.monotonic()) > 0:
        link.settimeout(left)
        try:
            data = link.recv(1 << 16)
        except (TimeoutError, ConnectionError):
            return
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.strip().split(b" ")
