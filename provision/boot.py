# SPDX-License-Identifier: GPL-2.0-or-later
"""One trial boot of one node: restart it, wait, look, and only then make the entry the default.

The rule is that of systemd's automatic boot assessment: nothing is permanent until the node
has shown that it came up. The entry was armed for one boot (boot_entry.arm): whatever happens
in the trial, the next start is of the entry that was known to be good.

Sources: GRUB 0.97 manual, "Booting fallback systems"; for what is looked at, evidence.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from provision import boot_entry, boot_plan, deadman, evidence
from provision.boot_entry import Switch
from provision.cluster import Cluster, Node
from provision.data import render
from provision.errors import FailedError
from provision.evidence import Evidence
from provision.facts import Facts
from provision.fleet import ClosedError
from provision.module import Module
from provision.node import Session
from provision.plan import Plan, changes, made_from

# Lines of a kernel's log that are shown.
LOG_LINES = 20
# Seconds after which a node that does not end its programs is restarted anyway.
PATIENCE = 120
# What may be wrong with a node that answers no more, besides what kept the last look.
_POWER_SWITCH = (
    "if it hangs, that is not covered by the way back: restart it by its power switch; it then "
    "boots the entry that was the default before"
)


@dataclass(frozen=True)
class Limits:
    """How long, in seconds, is waited: for a node to come back, and then for its module."""

    boot: float = 300.0
    module: float = 90.0

    @property
    def alone(self) -> int:
        """Return how many seconds a trial stays up without being confirmed.

        Longer than it is waited for, a fifth more for slow sessions: a node that can be reached
        is to be judged here.
        """
        return min(99_999, math.ceil(self.boot * 1.2 + self.module))


@dataclass(frozen=True)
class Trial:
    """What is to be booted on a node, and what it has to show."""

    cluster: Cluster
    kernel_release: str
    module: Module | None
    limits: Limits


@dataclass(frozen=True)
class Result:
    """How a trial boot ended.

    ``state``: booted (proven, now the default), fell back (another kernel came up), unproven
    (it came up without what it has to show), down (it did not come back in time).
    """

    state: str
    evidence: tuple[Evidence, ...] = ()
    error: str | None = None
    hint: str | None = None
    log: tuple[str, ...] = ()


class Doors(Protocol):
    """How a node is reached: a new session each time, for those from before are dead."""

    def again(self, node: Node) -> Session:
        """Return a session, not yet open."""

    def pause(self, seconds: float) -> None:
        """Wait between two looks; ClosedError when the work is to end."""


Step = Callable[[str], None]


def _pauses() -> Iterator[float]:
    """Yield the seconds between looks: short ones first, for a virtual machine is quick."""
    pause = 0.2
    while True:
        yield pause
        pause = min(pause * 1.4, 5.0)


def restarted(before: Facts, now: Facts, *, marked: bool = False) -> bool:
    """Tell whether a node was started anew between two looks.

    :param marked: a mark was left in its memory; where that is gone, so is the boot.

    Another boot_id is not all that is asked for: a kernel that starts with little to make random
    numbers from may give the same one twice.
    """
    if before.word("boot_id") != now.word("boot_id"):
        return True
    if marked:
        return now.word("restart") is None
    ups = [_seconds(facts.word("uptime")) for facts in (before, now)]
    return None not in ups and ups[1] < ups[0]  # type: ignore[operator]


def _seconds(text: str | None) -> float | None:
    try:
        return float((text or "").split()[0])
    except (ValueError, IndexError):
        return None


def switch_plan(node: Node, switch: Switch, facts: Facts) -> Plan:
    """Return the plan that carries out a change of what is booted."""
    return Plan(
        node.name,
        changes(map(boot_plan.wanted, switch.texts), facts),
        switch.runs,
        notes=switch.notes,
        made_from=made_from(facts),
        about=(("command", "boot"), *(("ran", command) for command in switch.runs)),
    )


def restart(session: Session, facts: Facts) -> bool:
    """Have the node restart itself; returns before it does.

    :return: whether a mark was left in its memory.
    :raises FailedError: it was restarted by somebody else since ``facts``, or did not answer.
    """
    boot_id = facts.word("boot_id") or ""
    if not all(c in "0123456789abcdef-" for c in boot_id):
        raise FailedError("its boot_id makes no sense")
    script = render("reboot.sh.j2", boot_id=boot_id, patience=PATIENCE)
    output = session.run(script, label="krg-provision-reboot", idle=60.0)
    said = output.out.decode("utf-8", "replace").strip()
    if said not in ("going", "going marked"):
        raise FailedError(said.removeprefix("failed ") or "it did not take the order to restart")
    return said == "going marked"


def wait(
    doors: Doors,
    node: Node,
    before: Facts,
    limits: Limits,
    *,
    marked: bool,
) -> tuple[Facts | None, FailedError]:
    """Wait until a node answers that was restarted since ``before``.

    :return: its facts, or None when the time was up, and what kept it the last time.
    """
    deadline = time.monotonic() + limits.boot
    last = FailedError("no answer")
    for pause in _pauses():
        try:
            with doors.again(node) as session:
                now = session.facts([], running=True, idle=20.0)
                if restarted(before, now, marked=marked):
                    return now, last
                last = FailedError("it is still up and has not restarted")
        except ClosedError:
            raise
        except FailedError as error:
            last = error
        if time.monotonic() > deadline:
            break
        doors.pause(pause)
    return None, last


def prove(doors: Doors, trial: Trial, node: Node, now: Facts) -> tuple[Evidence, ...]:
    """Return what the node shows, asking again until it is all right or the time is up.

    The SSH server may be up before the script that loads the module has run.
    """
    deadline = time.monotonic() + trial.limits.module
    for pause in _pauses():
        found = evidence.of_node(trial.cluster, node, trial.kernel_release, trial.module, now)
        wrong = [item for item in found if not item.ok]
        # Only what is not there yet can still come.
        if not all(item.have == "-" for item in wrong) or not wrong or time.monotonic() > deadline:
            break
        doors.pause(pause)
        try:
            with doors.again(node) as session:
                now = session.facts([], running=True, idle=20.0)
        except ClosedError:
            raise
        except FailedError:
            continue
    return found


def _log(doors: Doors, node: Node, template: str, kernel_release: str) -> tuple[str, ...]:
    """Return the last lines of a log on the node; a node that does not tell has none."""
    pattern = kernel_release.replace(".", "[.]").replace("+", "[+]")
    script = render(template, kernel_release=kernel_release, pattern=pattern, lines=LOG_LINES)
    try:
        with doors.again(node) as session:
            output = session.run(script, label="krg-provision-log", idle=20.0)
    except FailedError:
        return ()
    return tuple(output.out.decode("utf-8", "replace").splitlines()[-LOG_LINES:])


class _GaveUpError(FailedError):
    """The node did not wait any longer for being confirmed."""


def _switch(doors: Doors, node: Node, release: str, make: Callable[..., Switch], date: str) -> str:
    """Carry out ``boot_entry.commit`` or ``disarm`` on the node as it is now; end its trial first.

    :return: what the node said of its trial.
    """
    with doors.again(node) as session:
        # Before the facts: should it change its mind after them, nothing is done.
        said = deadman.settle(session)
        if said == "gave up" and make is boot_entry.commit:
            raise _GaveUpError("it is restarting by itself")
        if said not in deadman.SETTLED and make is boot_entry.commit:
            raise FailedError("it could not be told that its trial is over, and may restart")
        facts = session.facts([], idle=60.0)
        plan = switch_plan(node, make(facts, release, node), facts)
        if not plan.empty:
            session.apply(plan, release, date)
    return said


def _arm(session: Session, node: Node, what: Trial, planned: Switch, date: str) -> Facts:
    """Arm the entry exactly as it was planned; return the facts from before the restart.

    :raises FailedError: the boot loader's files are not what the plan was made from.
    """
    release = what.kernel_release
    deadman.clear(session)
    facts = session.facts([], running=True, idle=60.0)
    if boot_entry.state(facts, release, node) != "default":
        switch = deadman.arm(facts, release, node, what.limits.alone)
        if (switch.texts, switch.runs) != (planned.texts, planned.runs):
            raise FailedError(
                "the boot loader's files were changed since the plan was made",
                hint="run deploy again to see the new plan",
            )
        plan = switch_plan(node, switch, facts)
        if not plan.empty:
            session.apply(plan, release, date)
    return facts


def trial(doors: Doors, what: Trial, node: Node, planned: Switch, date: str, step: Step) -> Result:
    """Boot a node once into our entry, and make that its default if it proves itself.

    :param planned: the arming as it was printed.
    :param step: takes a word for each step: rebooting, up, committed, ...
    :return: what came of it; a node that cannot be reached is a result, not an error.
    """
    try:
        with doors.again(node) as session:
            before = _arm(session, node, what, planned, date)
            step("restarting")
            marked = restart(session, before)
    except FailedError as error:
        return Result("failed", error=f"not restarted: {error.message}", hint=error.hint)
    limits, waited = what.limits, what.limits.boot
    now, last = wait(doors, node, before, limits, marked=marked)
    if now is None and deadman.waits(planned):
        # Its time began at most that long ago, and the way back is one more boot.
        longer = replace(limits, boot=limits.alone + limits.boot)
        step(f"not reached; it should come back by itself within {longer.boot:g} s")
        waited += longer.boot
        now, last = wait(doors, node, before, longer, marked=marked)
    if now is None:
        return Result(
            "down",
            error=f"did not come back within {waited:g} s ({last})",
            hint=_POWER_SWITCH + (f" ({last.hint})" if last.hint else ""),
        )
    return judge(doors, what, node, now, date, step)


def judge(doors: Doors, what: Trial, node: Node, now: Facts, date: str, step: Step) -> Result:
    """Go on from where a node has come up: prove and commit, or say what it saw."""
    release = what.kernel_release
    if now.word("kernel") != release:
        step("fell back")
        return _fell_back(doors, what, node, now, date)
    step("up")
    found = prove(doors, what, node, now)
    if not all(item.ok for item in found):
        step("unproven")
        return _unproven(doors, what, node, found, date, step)
    try:
        said = _switch(doors, node, release, boot_entry.commit, date)
    except _GaveUpError:
        step("not confirmed in time")
        back, last = wait(doors, node, now, what.limits, marked=False)
        if back is None:
            return Result("down", found, f"was not confirmed in time; did not come back ({last})")
        step("fell back")
        return _fell_back(doors, what, node, back, date)
    except FailedError as error:
        return Result(
            "unproven",
            found,
            f"came up right, but could not be made the default: {error.message}",
            hint="run deploy again",
        )
    step("committed")
    if node.watchdog and said == "confirmed":
        step("its watchdog could not be used: there is none, or no driver of it is loaded")
    return Result("booted", found)


def _fell_back(doors: Doors, what: Trial, node: Node, now: Facts, date: str) -> Result:
    log = _log(doors, node, "last_boot.sh.j2", what.kernel_release)
    how = deadman.ended(now, what.kernel_release)
    also = f", {how}" if how.startswith("by itself") else f"; {how}" if how else ""
    hint = None if log else "no log of that boot was left on it: look at its console"
    if deadman.gave_up(now, what.kernel_release) is not None:
        hint = "look at its network card, its name and its driver, and at its SSH server"
    try:
        _switch(doors, node, what.kernel_release, boot_entry.disarm, date)
    except FailedError as error:
        also += f"; and its boot loader could not be set back: {error.message}"
    return Result(
        "fell back",
        error=f"came back with {now.word('kernel')} instead of {what.kernel_release}{also}",
        hint=hint,
        log=log,
    )


def _unproven(
    doors: Doors,
    what: Trial,
    node: Node,
    found: tuple[Evidence, ...],
    date: str,
    step: Step,
) -> Result:
    """Send a node that came up wrong back to the entry that was the default before."""
    release = what.kernel_release
    wrong = ", ".join(f"{i.what}: {i.have}, not {i.want}" for i in found if not i.ok)
    log = _log(doors, node, "kernel_log.sh.j2", release)
    error = f"came up with {release}, but {wrong}"
    try:
        _switch(doors, node, release, boot_entry.disarm, date)
        with doors.again(node) as session:
            before = session.facts([], running=True, idle=60.0)
            step("going back")
            marked = restart(session, before)
        now, last = wait(doors, node, before, what.limits, marked=marked)
    except FailedError as failure:
        return Result("unproven", found, f"{error}; not set back: {failure.message}", log=log)
    if now is None:
        return Result("down", found, f"{error}; then it did not come back ({last})", log=log)
    return Result("unproven", found, f"{error}; it is back on {now.word('kernel')}", log=log)
