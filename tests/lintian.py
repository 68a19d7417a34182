# SPDX-License-Identifier: GPL-2.0-or-later
"""What lintian says of packages made for nodes of any age."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

# Of Debian 13's lintian; that of 12 does not know its name, and cannot be told to leave it out.
# A node may be from before /lib was a link to usr/lib: its kernel's modules must be in /lib.
_ALIASED = ": aliased-location ["


def complaints(debs: Iterable[Path], *suppressed: str) -> str:
    """Return the errors and warnings of lintian, without the tags ``suppressed``."""
    argv = ["lintian", "--allow-root"]
    if suppressed:
        argv += ["--suppress-tags", ",".join(suppressed)]
    done = subprocess.run([*argv, *debs], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines(keepends=True) if _ALIASED not in line]
    # With lintian's own troubles: it says nothing there when all is well.
    return "".join(lines) + done.stderr * (done.returncode != 0)
