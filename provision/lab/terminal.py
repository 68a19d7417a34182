# SPDX-License-Identifier: GPL-2.0-or-later
"""Connect this terminal to a node's serial console."""

from __future__ import annotations

import os
import select
import socket
import sys
import termios
import time
import tty

from provision.console import say
from provision.lab import agent, state
from provision.lab.state import Lab, LabNode

ESCAPE = b"\x1d"  # Ctrl-], as telnet has it
QUIET_SECONDS = 2.0


def attach(lab: Lab, node: LabNode) -> None:
    """Copy between standard input/output and the console until Ctrl-] or the node's end.

    Where the input is no terminal, its end does it, once the console has been quiet
    for a while.

    :raises FailedError: the node does not run.
    """
    state.require_running(lab, node)
    with agent.connect(lab.path(node), "console.sock", 5.0) as link:
        link.settimeout(None)
        if not sys.stdin.isatty():
            _copy(link, from_terminal=False)
            return
        say(f"node {node.number} of lab {lab.name}: Ctrl-] leaves the console")
        before = termios.tcgetattr(0)
        try:
            tty.setraw(0)
            link.sendall(b"\r")  # the shell shows its prompt again
            _copy(link, from_terminal=True)
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
            sys.stderr.write("\n")


def _copy(link: socket.socket, *, from_terminal: bool) -> None:
    readers: list[int] = [0, link.fileno()]
    quiet_at = float("inf")
    while (left := quiet_at - time.monotonic()) > 0:
        ready, _, _ = select.select(readers, [], [], None if left == float("inf") else left)
        if link.fileno() in ready:
            data = link.recv(1 << 16)
            if not data:
                return
            os.write(1, data)
            if 0 not in readers:
                quiet_at = time.monotonic() + QUIET_SECONDS
        if 0 in ready:
            data = os.read(0, 4096)
            if from_terminal and ESCAPE in data:
                return
            if not data:
                readers.remove(0)
                quiet_at = time.monotonic() + QUIET_SECONDS
                continue
            link.sendall(data if from_terminal else data.replace(b"\n", b"\r"))
