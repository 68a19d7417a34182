# SPDX-License-Identifier: GPL-2.0-or-later
"""What people see: results on stdout, progress and messages on stderr.

Colour and live progress only on a terminal; NO_COLOR is honoured by rich itself
(https://no-color.org). In a pipe every message is one plain line.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@cache
def err() -> Console:
    """Return the console for progress and messages (stderr)."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


@cache
def out() -> Console:
    """Return the console for results (stdout)."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def say(text: str) -> None:
    """Print one line of progress to stderr, its text taken literally."""
    if sys.stderr.isatty():
        err().print(text, markup=False)
    else:
        # Importing rich takes longer than asking a node. In one piece, for there are many threads.
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
