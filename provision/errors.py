# SPDX-License-Identifier: GPL-2.0-or-later
"""The two kinds of error: what the user can act on (here), and our bugs (anything else)."""

from __future__ import annotations


class KrgError(Exception):
    """A failure the user can act on: one line of what and where, one hint of what to do next.

    The command line prints ``message`` and ``hint`` without a traceback and exits with
    ``exit_code``: 1 findings or failed nodes, 2 usage or bad input, 3 the environment
    lacks something.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class FailedError(KrgError):
    """The work was tried and did not succeed: a compile error, a node that refused."""

    exit_code = 1


class InputError(KrgError):
    """Something handed to us is wrong: a file, a digest, a name, an option."""

    exit_code = 2


class MissingError(KrgError):
    """This machine (or the build host) lacks a tool, a permission or space."""

    exit_code = 3
