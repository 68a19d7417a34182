# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is at work on a cluster, written down on its nodes: two operators do not meet there.

The lock is a link on each node that says who, and since when. It outlives restarts. One whose
process has ended on this machine is taken over; of another machine's nobody can tell, and
--break-lock says that its process is gone.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from provision.cluster import Node
from provision.data import render
from provision.errors import FailedError, KrgError
from provision.fleet import ClosedError, Fleet, fleet
from provision.node import Session
from provision.plan import plain

_HOLDER = re.compile(r"([A-Za-z0-9_.@-]{1,120}):([0-9]{1,10}):([0-9]{1,12})")


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:60] or "_"


def mine() -> str:
    """Return what a lock of this process says: USER@HOST:PROCESS:SECONDS since 1970."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{_word(user)}@{_word(socket.gethostname())}:{os.getpid()}:{int(time.time())}"


def describe(holder: str) -> str:
    """Return a lock's text as people read it."""
    match = _HOLDER.fullmatch(holder)
    if match is None:
        return "somebody"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(int(match[3])))
    return f"{match[1]} (process {match[2]}, since {since})"


def is_left(holder: str, me: str) -> bool:
    """Tell whether a lock is of this machine's user and its process has ended."""
    match = _HOLDER.fullmatch(holder)
    if match is None or match[1] != me.partition(":")[0]:
        return False
    try:
        os.kill(int(match[2]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _ask(session: Session, *, me: str, give: bool = False, instead: str = "") -> str:
    script = render(
        "lock.sh.j2", me=shlex.quote(me), give=give, instead=shlex.quote(instead) if instead else ""
    )
    if "\n" not in instead:
        # What is one line needs no program to read it.
        lines = (line.strip() for line in script.splitlines())
        script = " ".join(line for line in lines if line and not line.startswith("#"))
    output = session.run(script, label="krg-provision-lock", idle=30.0)
    return output.out.decode("utf-8", "replace").strip()


@contextmanager
def held(
    nodes: Sequence[Node], among: Fleet, say: Callable[[str], None], *, break_lock: bool = False
) -> Iterator[None]:
    """Hold the lock on all nodes meanwhile.

    A node that cannot be asked is left out: it will fail by itself.

    :param break_lock: take the lock of others, whose work is known to have ended.
    :raises FailedError: somebody else holds it on a node; none is kept then.
    """
    me = mine()

    def take(node: Node) -> str:
        # The session that the node was asked for its facts with.
        session = among.session(node)
        said = _ask(session, me=me)
        holder = said.removeprefix("held ")
        if said != holder and (break_lock or is_left(holder, me)):
            said = _ask(session, me=me, instead=holder)
        return said

    taken: list[Node] = []
    others: dict[str, str] = {}
    try:
        for node, answer in among.each(nodes, take):
            if isinstance(answer, KrgError) or answer in ("taken", ""):
                # Without an answer it may be ours all the same: it is given back if it is.
                taken.append(node)
            elif answer.startswith("held "):
                others[node.name] = answer.removeprefix("held ")
            else:
                say(f"{node.name}: no lock: {plain(answer.removeprefix('failed '))}")
        if others:
            name, holder = min(others.items())
            raise FailedError(
                f"{describe(holder)} is at work on {name}; nothing was changed",
                hint="wait until that is done; if it was interrupted for good: --break-lock",
            )
        yield
    except KeyboardInterrupt:
        # What is under way ends first: an upload must not go on behind a lock that is given back.
        among.close()
        with fleet(taken, 16) as others_done:
            _give_back(taken, others_done, me, say)
        raise
    except BaseException:
        _give_back(taken, among, me, say)
        raise
    else:
        _give_back(taken, among, me, say)


def _give_back(nodes: Sequence[Node], among: Fleet, me: str, say: Callable[[str], None]) -> None:
    def given(session: Session) -> bool:
        with suppress(FailedError):
            answer = _ask(session, me=me, give=True)
            if answer == "stays":
                say(f"{session.node.name}: the lock could not be removed; the next: --break-lock")
            return answer in ("given", "stays")
        return False

    def give(node: Node) -> None:
        session = among.session(node)
        if session.is_open and not among.is_left(node) and given(session):
            return
        # The connection was cut, or the node restarted: others would be kept out for good. A node
        # that cannot be reached is not waited for again.
        for _ in range(2):
            with among.again(node) as session:
                if given(session):
                    return

    # After Ctrl-C the fleet is still open: it is closed by the one who opened it.
    with suppress(ClosedError, RuntimeError):
        for _ in among.each(nodes, give):
            pass
