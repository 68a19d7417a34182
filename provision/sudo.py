# SPDX-License-Identifier: GPL-2.0-or-later
"""The password for sudo: asked once, written to sudo's standard input, kept nowhere else.

It is never on a command line, in an environment that a child gets, or in a message. The first
node tries it alone: a wrong password is then refused once and not by every node, which would
lock the account where nodes share one.
"""

from __future__ import annotations

import getpass
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from provision.errors import FailedError, InputError

VARIABLE = "KRG_SUDO_PASSWORD"


class Password:
    """A password that was given, and whether a node has taken or refused it."""

    def __init__(self, text: str) -> None:
        self.bytes = text.encode() + b"\n"
        self._lock = threading.Lock()
        self._taken = False
        self._refused: str | None = None

    def __repr__(self) -> str:
        """Say nothing of it."""
        return "Password(...)"

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Let one node try; alone as long as no node has taken the password."""
        if self._taken:
            yield
            return
        with self._lock:
            if self._refused is not None:
                raise FailedError(f"not tried: {self._refused}")
            yield

    def taken(self) -> None:
        """Note that a node has taken it."""
        self._taken = True

    def refuse(self, where: str) -> FailedError:
        """Note that it was refused, and return what to raise."""
        said = f"sudo on {where} refuses the password"
        if not self._taken:
            self._refused = said
        return FailedError(said, hint=f"run it again, and check {VARIABLE} if that is set")


_given: list[Password] = []


def password() -> Password:
    """Return the password, asking for it at the first call.

    :raises InputError: it is not in the environment and there is no terminal to ask on.
    """
    if not _given:
        _given.append(Password(_ask()))
    return _given[0]


def _ask() -> str:
    # Taken out of the environment: what this process starts shall not get it.
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError as error:
            raise InputError(
                'sudo = "ask": there is no terminal to ask for the password on',
                hint=f"give it in the environment variable {VARIABLE}",
            ) from error
        text = getpass.getpass("Password for sudo on the nodes: ")
    if not text or any(c in text for c in "\n\r\0"):
        raise InputError("the password for sudo is empty or has more than one line")
    return text
