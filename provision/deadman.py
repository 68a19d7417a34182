# SPDX-License-Identifier: GPL-2.0-or-later
"""The way back from a trial that comes up and cannot be reached: a script on the node waits.

Arming a trial writes, with the boot loader's files, a script that the node's init starts
(templates/trial.init.j2, which says how it works) and an order for it: for one boot of one kernel,
so many seconds. Unless the trial is confirmed by then the node restarts, and the boot loader
starts the entry that was the default before. Where a watchdog may be used the script feeds it.

Sources: Documentation/watchdog/watchdog-api.txt of Linux 2.6.20 (the timer runs from open(2) on; a
V before close(2) stops it, unless the driver was made with nowayout); update-rc.d(8);
systemd.unit(5); openrc-run(8); init/init.c of busybox (what it does with inittab); and systemd's
automatic boot assessment for the rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from provision import boot_entry
from provision.boot_entry import File, Switch
from provision.cluster import Node
from provision.data import render
from provision.errors import FailedError
from provision.facts import Facts

if TYPE_CHECKING:
    from provision.node import Session

STATE = "/var/lib/krg-provision"
ORDER = f"{STATE}/trial"
# What became of the order, as the script leaves it.
RECORDS = tuple(f"{ORDER}-{name}" for name in ("running", "gave-up", "back", "missed"))
NAME = "krg-provision-trial"
SCRIPT = f"/etc/init.d/{NAME}"
UNIT = f"/etc/systemd/system/{NAME}.service"
WANTED = f"/etc/systemd/system/sysinit.target.wants/{NAME}.service"
# OpenRC starts what has a dependency function; a link in a runlevel has it started.
OPENRC = "/etc/init.d/krg-provision-way-back"
RUNLEVELS = "/etc/runlevels"
RUNNERS = ("/sbin/openrc-run", "/sbin/runscript")
INITTAB = "/etc/inittab"
# What a node has to say whole for this: node.Session.facts asks for them all.
TEXTS = (SCRIPT, UNIT, OPENRC, INITTAB, ORDER, *RECORDS)
# What has init start it before the scripts that load modules, and what undoes that. Versions of
# update-rc.d that read the script's head leave the number out.
START = f"update-rc.d {NAME} defaults 01"
# It may say that all is well and do nothing: a link in the runlevel that Debian starts is proof.
STARTED = f"ls /etc/rc2.d/S[0-9][0-9]{NAME}"
START_UNDONE_BY = f"update-rc.d -f {NAME} remove"
# Seconds for a restart in order, and lines of the kernel's log that are kept.
PATIENCE = 120
LOG_LINES = 200


def hook(facts: Facts) -> str | None:
    """Return how a script is started at boot on a node.

    :return: "rc.d", "systemd", "openrc", "inittab" (busybox's), or None: not known.

    OpenRC may be what sysvinit or busybox starts: its inittab says so. update-rc.d under an init
    that nobody can name is taken for rc.d, as it is for Kerrighed's own script, which a trial has
    to start anyway.
    """
    kind = (facts.word("init") or "unknown").split()[0]
    if kind == "systemd":
        return "systemd"
    text = _inittab(facts)
    runner = _runner(facts) is not None
    if kind == "openrc" or (kind == "busybox" and runner and _OPENRC.search(text)):
        return "openrc" if runner and f"{RUNLEVELS}/{_runlevel(text)}" in facts.has else None
    if kind == "busybox":
        return "inittab" if _SYSINIT.search(text) else None
    known = facts.word("tool") == "update-rc.d" or any(map(_is_link, facts.has))
    return "rc.d" if known and kind in ("sysv", "upstart", "unknown") else None


def _inittab(facts: Facts) -> bytes:
    there = facts.texts.get(INITTAB)
    return b"" if there is None else there.content


# OpenRC and its runlevel, started by a line that is no comment.
_OPENRC = re.compile(rb"^[^#\n]*/(openrc|rc)\s+(\w*)", re.MULTILINE)
# busybox's init does these one after the other, in the order of the file.
_SYSINIT = re.compile(rb"^[^#:\n]*:[^:\n]*:sysinit:", re.MULTILINE)
_BUSYBOX = f"::sysinit:/bin/sh {SCRIPT} start\n".encode()


def _with_line(inittab: bytes) -> bytes:
    """Return busybox's inittab with a line of ours at its end, behind what mounts file systems."""
    if _BUSYBOX in inittab.splitlines(keepends=True):
        return inittab
    return inittab + b"\n" * (not inittab.endswith(b"\n")) + _BUSYBOX


def _runner(facts: Facts) -> str | None:
    """Return what runs OpenRC's scripts; the second is its name of old."""
    return next((path for path in RUNNERS if path in facts.has), None)


def _runlevel(inittab: bytes) -> str:
    """Return OpenRC's runlevel for the script: the one that brings up networks.

    Debian's rcS and rc, which its inittab starts, know no runlevel "boot".
    """
    return "boot" if any(m[2] == b"boot" for m in _OPENRC.finditer(inittab)) else "default"


def _is_link(path: str) -> bool:
    return re.fullmatch(rf"/etc/rc2\.d/S[0-9]{{2}}{NAME}", path) is not None


def script(service: str | None = None, **places: str) -> str:
    """Return the script as it lies on a node.

    :param service: the script of the release's module, which is started after it; None: there
        is none.
    :param places: others than a node's, for a test.
    """
    usual = {
        "state": STATE,
        "watchdog": "/dev/watchdog",
        "sysrq": "/proc/sysrq-trigger",
        "path": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    values = {**usual, **places, "service": service}
    return render("trial.init.j2", patience=PATIENCE, lines=LOG_LINES, **values)


def order(kernel_release: str, seconds: int, watchdog: bool | str) -> bytes:
    """Return the order for one boot.

    :param watchdog: the cluster file's: whether it may be used, or the module that drives it.
    """
    driver = watchdog if isinstance(watchdog, str) else "yes" if watchdog else "no"
    return f"release {kernel_release}\nseconds {seconds}\nwatchdog {driver}\n".encode()


def arm(facts: Facts, kernel_release: str, node: Node, seconds: int, service: str | None) -> Switch:
    """Return boot_entry.arm's switch, with the script and its order before the boot loader's files.

    What has init start the script comes before those, too: where that fails, nothing is armed.

    :param seconds: how long the script waits.
    :param service: as for :func:`script`.
    :raises FailedError: as boot_entry.arm.
    """
    switch = boot_entry.arm(facts, kernel_release, node)
    how = hook(facts)
    if how is None:
        return switch
    texts = [File(SCRIPT, script(service).encode(), 0o755)]
    first = switch.first
    if how == "openrc":
        runner, level = _runner(facts), _runlevel(_inittab(facts))
        made = render("trial.openrc.j2", script=SCRIPT, runner=runner)
        texts.append(File(OPENRC, made.encode(), 0o755))
        # As rc-update does it.
        link = f"{RUNLEVELS}/{level}/{OPENRC.rpartition('/')[2]}"
        if link not in facts.has:
            texts.append(File(link, b"", 0o777, OPENRC))
    elif how == "inittab":
        texts.append(File(INITTAB, _with_line(_inittab(facts)), 0o644))
    elif how == "systemd":
        texts.append(File(UNIT, render("trial.service.j2", script=SCRIPT).encode(), 0o644))
        # Not by "systemctl enable": for a script in /etc/init.d that calls update-rc.d, too.
        if WANTED not in facts.has:
            texts.append(File(WANTED, b"", 0o777, f"../{NAME}.service"))
    elif not any(map(_is_link, facts.has)) or (
        # With another head it may be started elsewhere in the order.
        facts.word("tool") == "update-rc.d" and _differs(facts, texts[0])
    ):
        first = (*first, START, STARTED)
    texts.append(File(ORDER, order(kernel_release, seconds, node.watchdog), 0o644))
    return replace(switch, texts=(*texts, *switch.texts), first=first)


def _differs(facts: Facts, file: File) -> bool:
    there = facts.texts.get(file.path)
    return there is not None and there.content != file.content


def waits(switch: Switch) -> bool:
    """Tell whether an arming has the node come back by itself."""
    return any(file.path == ORDER for file in switch.texts)


def texts(facts: Facts, switch: Switch, node: Node, seconds: int) -> Iterator[str]:
    """Yield what people should know: what brings a trial back, and what does not."""
    said = last(facts)
    if said:
        yield f"note: the trial before: {said}"
    if not waits(switch):
        yield (
            "note: not covered: this node has no dead man's switch, for how its init "
            f"({facts.word('init') or 'unknown'}) starts scripts is not known: a kernel that comes "
            "up and cannot be reached, and any hang, wait for its power switch"
        )
        return
    yield (
        f"if it comes up and is not confirmed within {seconds} s of its init scripts, for nobody "
        f"reaches it, the node restarts by itself ({SCRIPT})"
    )
    if node.watchdog:
        driver = f" of {node.watchdog}" if isinstance(node.watchdog, str) else ""
        yield (
            f"from its init scripts until it is confirmed the watchdog{driver} is fed, if the new "
            "kernel has it: a hang then resets the node; one of a driver with nowayout cannot be "
            "stopped and is fed on"
        )
        yield "note: not covered: a hang before its init scripts waits for its power switch"
        return
    seen = facts.word("watchdog")
    if seen is not None:
        also = "" if seen == "yes" else f" ({seen})"
        yield f"note: its watchdog{also} is not used: watchdog = true in the cluster file does it"
    yield (
        "note: not covered: a hang before its init scripts, or one in which no program runs any "
        "more: they wait for its power switch"
    )


# --- what became of it --------------------------------------------------------------------


def _record(facts: Facts, names: Sequence[str]) -> tuple[str, int] | None:
    """Return release and seconds of the first record that is there."""
    for name in names:
        text = facts.texts.get(f"{ORDER}{name}")
        if text is not None:
            content = text.content.decode("ascii", "replace")
            found = re.match(r"release (\S{1,64})\nseconds ([0-9]{1,5})\n", content)
            return (found[1], int(found[2])) if found else None
    return None


def gave_up(facts: Facts, kernel_release: str) -> int | None:
    """Return after how many seconds a trial of the kernel went back by itself; None: it did not."""
    record = _record(facts, ("-gave-up", "-back"))
    return record[1] if record is not None and record[0] == kernel_release else None


def ended(facts: Facts, kernel_release: str) -> str:
    """Say how a trial of the kernel ended, from what a node says that fell back; "" if unknown."""
    seconds = gave_up(facts, kernel_release)
    if seconds is not None:
        return (
            f"by itself after {seconds} s without being reached: {kernel_release} ran, but nothing "
            "could log in to it"
        )
    record = _record(facts, ("-running",))
    if record is not None and record[0] == kernel_release:
        return (
            f"{kernel_release} came as far as its init scripts and was reset then: by a panic, by "
            "a watchdog or by its power switch"
        )
    record = _record(facts, ("", "-missed"))
    if record is not None and record[0] == kernel_release:
        return f"{kernel_release} did not come as far as its init scripts"
    return ""


def last(facts: Facts) -> str:
    """Say how the trial before ended, of whatever kernel, if it left a record; else ""."""
    record = _record(facts, ("-gave-up", "-back", "-running", "-missed"))
    if record is None or record[0] == facts.word("kernel"):
        return ""
    return ended(facts, record[0])


def clear(session: Session) -> None:
    """Have a node forget the trial before.

    :raises FailedError: it cannot; an order of old would count for another boot.
    """
    said = _run(session, clear=True)
    if said != "cleared":
        raise FailedError(said.removeprefix("failed ") or "it did not forget the trial before")


# What a node may say when its trial is settled.
SETTLED = ("confirmed", "confirmed fed", "gave up", "none")


def settle(session: Session) -> str:
    """Confirm a trial: from now on the node stays up.

    :return: "confirmed", "confirmed fed" (its watchdog was in use), "gave up" (too late: the node
        is about to restart), or "none": no trial is running.
    """
    return _run(session, clear=False)


def _run(session: Session, *, clear: bool) -> str:
    text = render("trial_settle.sh.j2", state=STATE, clear=clear)
    output = session.run(text, label="krg-provision-settle", idle=30.0)
    return output.out.decode("utf-8", "replace").strip()
