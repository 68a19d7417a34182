# SPDX-License-Identifier: GPL-2.0-or-later
"""What reaches a node's disk, and when: which sync is asked for under which kernel."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from provision.node import apply_script
from provision.plan import Plan


@pytest.mark.parametrize(
    ("kernel", "able", "asked"),
    [
        # Without syncfs(2) busybox's sync -f does nothing, and says that all is well.
        ("2.6.20-krg", True, [""]),
        ("2.6.20-krg", False, [""]),
        ("6.1.0", True, ["-f /etc /var/lib/krg-provision/journal"]),
        ("6.1.0", False, ["-f /etc /var/lib/krg-provision/journal", ""]),
    ],
)
def test_sync(tmp_path: Path, kernel: str, able: bool, asked: list[str]) -> None:
    text = apply_script(Plan("krg1"), "", "20260101T000000Z", "0" * 16)
    found = re.search(r"(?ms)^flush\(\) \{.*?^\}$", text)
    assert found
    for name, body in {
        "uname": f"echo {kernel}",
        "sync": f'echo "sync $*" >&3; [ -z "$*" ] || {str(able).lower()}',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", f"PATH={tmp_path}:$PATH; exec 3>&1\n{found[0]}\nflush"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [f"sync {words}" for words in asked]
