# SPDX-License-Identifier: GPL-2.0-or-later
"""What deploy and rollback show while they work: a table on a terminal, lines in a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from .hosts import Hosts
from .test_deploy import FORCE

pytestmark = pytest.mark.fleet

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(hosts: Hosts, *words: str, columns: int, **more: str) -> tuple[int, str, str]:
    """Return the exit status, stdout (a pipe) and what came to the terminal that is stderr."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    out = hosts.directory / "stdout"
    with out.open("wb") as stdout:
        process = subprocess.Popen(
            hosts.argv(*words),
            env={**hosts.environment(), "TERM": "xterm-256color", **more},
            cwd=hosts.directory,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=child,
        )
    os.close(child)
    said = b""
    while True:
        try:
            data = os.read(parent, 1 << 16)
        # The last writer has gone.
        except OSError:
            break
        said += data
    os.close(parent)
    return process.wait(60), out.read_text(), said.decode()


def test_a_table_on_a_terminal_and_lines_in_a_pipe(hosts: Hosts, build: Path) -> None:
    words = ("deploy", "--nodes", str(hosts.cluster), "--artifacts", str(build), *FORCE)
    broken = hosts.hosts[1].path("/usr/local/sbin/tar")
    broken.parent.mkdir(exist_ok=True)
    broken.write_text("#!/bin/sh\necho no tar today\nexit 1\n")
    broken.chmod(0o755)
    status, out, said = on_a_terminal(
        hosts, *words, "--wave", "2", "--format", "json", columns=60, NO_COLOR="1"
    )
    assert status == 1, said
    states = {node["name"]: node["state"] for node in json.loads(out)["nodes"]}
    assert states == {"krg1": "changed", "krg2": "failed", "krg3": "changed"}
    assert "\x1b[?25l" in said and said.count("\x1b[?25l") == said.count("\x1b[?25h")
    # Moves of the cursor are no colours.
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", said)
    plain = re.sub(r" +\n", "\n", ESCAPE.sub("", said).replace("\r", ""))
    # Two looks a second: who is in that state for less may not be seen in it.
    assert re.search(r"(?m)^reading facts +\d", plain)
    assert "krg2: failed: unpacking: no tar today\n" in plain
    assert "krg1: done" not in plain
    # What stays on the screen is the last table, and it stands below the failure.
    last = plain.rpartition("wave 2 of 2  0:")[2]
    assert plain.index("krg2: failed") < len(plain) - len(last)
    assert re.search(r"(?m)^sending +0  (\S+ KiB) of \S+ KiB$", last)
    assert re.search(r"(?m)^done +2  krg\[1,3\]$", last)
    assert re.search(r"(?m)^failed +1  krg2$", last)

    status, out, said = on_a_terminal(hosts, *words, columns=60, TERM="dumb")
    assert status == 1 and not CONTROL.search(said.replace("\r\n", "\n")), said
    assert "krg2: failed: unpacking" in said
    broken.unlink()
    done = hosts.run(*words)
    assert done.returncode == 0, done.stderr
    assert not CONTROL.search(done.stdout + done.stderr)
    assert re.fullmatch(
        r"asking 3 nodes what they have\nkrg2: sending \S+ KiB\nkrg2: done in \S+ s\n", done.stderr
    )
    assert done.stdout.endswith("3 nodes: 2 unchanged, 1 changed\n")

    status, out, said = on_a_terminal(hosts, "rollback", "--nodes", str(hosts.cluster), columns=20)
    assert status == 0 and out.endswith("3 nodes: 3 changed\n"), said
    assert "\x1b[32m" in said
    # Where a frame is wiped away, the next one begins.
    frames = re.sub(r"\r\x1b\[2K(?:\x1b\[1A\x1b\[2K)*", "\n", said)
    rows = re.findall(r"(?m)^done +\d.*$", ESCAPE.sub("", frames).replace("\r", ""))
    assert re.fullmatch(r"done +3  k\S*\u2026", rows[-1]) and all(len(row) <= 20 for row in rows), (
        rows
    )
