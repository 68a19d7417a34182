# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs krg-provision and cuts the power of a lab node at one step of it.

usage: power_cut.py PLAN COMMAND...

PLAN is JSON: ``node``, the directory of the node; ``at``, the step, or nothing; ``steps``, the file
that the steps are written to. A step is a script that is sent to the node; and, while one puts
files in place, a line of it. The node stands still there until its power is cut, the client's with
it, so the same step is the same place every time.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from provision.cli import main
from provision.errors import FailedError
from provision.lab import agent, qemu
from provision.ssh import Output, Shell

_STOP = """\
cuts=0
lab_cut() {
    cuts=$((cuts + 1))
    echo $cuts >/run/lab-cuts
    [ $cuts = WANTED ] || return 0
    : >/run/lab-stopped
    while :; do sleep 1; done
}
"""
PATIENCE = 120.0
# The exit status of a client that went with the node.
KILLED = 99


class Cutter:
    """Counts steps, and cuts the power at the wanted one."""

    def __init__(self, node: Path, at: str | None, steps: Path) -> None:
        self._node = node
        self._at = at
        self._steps = steps
        self._trips: Counter[str] = Counter()
        self._found: list[str] = []

    def cut(self) -> None:
        """Power off and on; what was not flushed is lost."""
        qemu.command(self._node, ("system_reset", {}))

    def cut_both(self) -> None:
        """Cut the power of this machine, too: the client ends without a word."""
        self.cut()
        os._exit(KILLED)

    def run(self, shell: Shell, script: str, **words: Any) -> Output:
        """Stand for Shell.run: every script that a node is sent comes by here."""
        kind = words["label"].removeprefix("krg-provision-")
        moves = kind.startswith(".krg-provision-")
        kind = "apply" if moves else kind
        # How often a node is looked at while it boots differs: each kind has its own count.
        self._trips[kind] += 1
        name = f"{kind} {self._trips[kind]}"
        self._note(name)
        if self._at == name:
            self.cut()
        if not moves:
            return _run(shell, script, **words)
        wanted = int(self._at.rpartition("+")[2]) if self._at and f"{name}+" in self._at else 0
        text = re.sub(_LINES, r"\1lab_cut\n\g<0>", script)
        if wanted:
            threading.Thread(target=self._cut_when_stopped, daemon=True).start()
        output = _run(shell, _STOP.replace("WANTED", str(wanted)) + text, **words)
        if self._at is None:
            count = int(agent.run(self._node, "cat /run/lab-cuts", 20).output)
            for number in range(1, count + 1):
                self._note(f"{name}+{number}")
        return output

    def watch_trial(self, said: str) -> None:
        """Cut the power once the console says that the kernel on trial has started."""
        log = self._node / qemu.CONSOLE_LOG
        before = log.stat().st_size

        def wait() -> None:
            while said not in log.read_bytes()[before:].decode("latin-1"):
                time.sleep(0.02)
            self.cut()

        threading.Thread(target=wait, daemon=True).start()

    def _note(self, name: str) -> None:
        self._found.append(name)
        self._steps.write_text(json.dumps(self._found))

    def _cut_when_stopped(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if agent.run(self._node, "ls /run/lab-stopped", 20).ok:
                    self.cut_both()
            except FailedError:
                return
            time.sleep(0.05)


# Whole commands on lines of their own, between which a node can be stopped.
_LINES = re.compile(
    r"^( *)(?:flush|check_reads|moving=yes|put_in_place \"|echo finished|said=\$\(update-rc"
    r"|mv -f \"?\$|mv \"\$journal\" )(?!\(\)).*$",
    re.MULTILINE,
)
_run = Shell.run


def start() -> None:
    """Run the command with the plan in force."""
    plan = json.loads(sys.argv[1])
    cutter = Cutter(Path(plan["node"]), plan["at"], Path(plan["steps"]))
    if plan["at"] and plan["at"].startswith("boot of "):
        cutter.watch_trial("Linux version " + plan["at"].removeprefix("boot of "))

    def run(shell: Shell, script: str, **words: Any) -> Output:
        return cutter.run(shell, script, **words)

    Shell.run = run  # type: ignore[method-assign]
    sys.argv[1:] = sys.argv[2:]
    main()


if __name__ == "__main__":
    start()
