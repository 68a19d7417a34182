# SPDX-License-Identifier: GPL-2.0-or-later
"""The only door to nodes: one round trip for facts, one for changes, over one SSH session."""

from __future__ import annotations

import hashlib
import secrets
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from provision import boot_entry, boot_facts, deadman
from provision import facts as _facts
from provision import module as modules
from provision.data import render
from provision.errors import FailedError
from provision.facts import Facts
from provision.module import Module
from provision.plan import AREAS, BUILDS, JOURNALS, MadeFrom, Plan, area
from provision.ssh import IDLE_SECONDS, Output, Shell
from provision.upload import are_apart, is_worth_packing, lists, write_tar

# Read or asked for by what is decided here, never written: a plan holds as long as they stay.
READS = (
    "/boot/grub/default",
    "/boot/grub/grub.cfg",
    "/boot/grub/grubenv",
    "/boot/grub2/grub.cfg",
    "/boot/grub2/grubenv",
    "/etc/default/grub",
)
# What dpkg knows of all packages.
_DPKG_STATUS = "/var/lib/dpkg/status"
_STAGE = ".krg-provision-"
_STAGE_AREAS = (
    "/boot", "/boot/grub", "/boot/grub2", *(name for name in AREAS if name != "/etc"), JOURNALS,
    deadman.STATE,
)  # fmt: skip


class ChangedError(FailedError):
    """A file on the node is no longer what the plan was made from."""


def apply_script(
    plan: Plan, kernel_release: str, date: str, token: str, *, packed: bool = True
) -> str:
    """Return the script that carries out a plan on a node, reading what write_tar writes.

    :param token: names its staging directories and its journal, DATE-TOKEN.
    :param packed: the same as write_tar is given.
    """
    stage = _STAGE + token
    tops = sorted({area(change.place) for change in plan.changes} | {JOURNALS, "/etc"})
    others = [name for name in tops if name != "/etc"]
    found = lists(plan, stage)
    return render(
        "apply.sh.j2",
        stage=stage,
        packed=packed,
        # The one in /etc last: as long as it is there, the others will be looked for.
        stages=" ".join(f"{name}/{stage}" for name in (*others, "/etc")),
        elsewhere=" ".join(f"{name}/{stage}" for name in others),
        tops=" ".join(tops),
        areas=_STAGE_AREAS,
        journals=JOURNALS,
        **_boot(plan.made_from),
        reads=plan.made_from.files,
        lists={name: shlex.quote("\n".join(lines)) for name, lines in found.items()},
        apart=are_apart(found),
        date=date,
        token=token,
        tree=f"/lib/modules/{kernel_release}" if kernel_release else "",
        staged_tree=f"/lib/modules/{stage}/{kernel_release}",
        checks=tuple(command.replace("{stage}", stage) for command in plan.checks),
        first=plan.first,
        runs=plan.runs,
        closes=plan.closes,
        prunes=plan.prunes,
        drops=plan.drops,
        builds=BUILDS,
        noted=dict(plan.lists),
        retires=plan.retires,
    )


def _boot(made_from: MadeFrom) -> dict[str, Any]:
    """Return what tells whether it is still the boot that the plan was made from.

    ``boot`` says of what is in a file which one, and its digest; without them the kernel says it.
    A boot_id may come twice, and then the root device may still be another.
    """
    words = {name: made_from.word(name) for name in ("kernel", "boot_id", "root_number")}
    boot = {
        what: (f"/proc/sys/kernel/{path}", hashlib.sha256(f"{words[name]}\n".encode()).hexdigest())
        for name, path, what in _BOOT
        if words[name] is not None and words["boot_id"] is not None
    }
    return {
        "boot": boot,
        **{name: "" if word is None else shlex.quote(word) for name, word in words.items()},
    }


_BOOT = (
    ("kernel", "osrelease", "the running kernel"),
    ("boot_id", "random/boot_id", "the boot (the node was rebooted)"),
)


class Session(Shell):
    """One SSH session with a node; a context manager. Commands run as root."""

    def facts(
        self,
        paths: Sequence[str],
        *,
        running: bool = False,
        journals: bool = False,
        packages: bool = False,
        known: str = "",
        module: Module | None = None,
        idle: float = 60.0,
    ) -> Facts:
        """Ask the node about itself and about the files ``paths``, in one round trip.

        :param running: also ask the running cluster, which can hang: what came before is kept.
        :param journals: also ask for all that former runs wrote down, and for the files named
            there; otherwise only what each run was.
        :param packages: also ask dpkg, where there is one.
        :param known: a seal that facts had before: if it holds, nothing else is asked, and
            the word "same" is all there is in the answer.
        :param module: whose files are to be told whole; None: Kerrighed's.
        :raises FailedError: the answer is unusable; says why where the node said so.
        """
        mark = "krg-" + secrets.token_hex(16)
        dpkg = packages or journals
        module = module or modules.kerrighed()
        texts = (*module.texts, *boot_entry.TEXTS, *deadman.TEXTS)
        also = [path for path in READS if path not in texts]
        script = render(
            "facts.sh.j2",
            places=" ".join(("/boot", *AREAS, "/var", "/")),
            has=" ".join(boot_facts.HAS),
            texts=" ".join(texts),
            service=module.name,
            also=" ".join((*also, *((_DPKG_STATUS,) if dpkg else ()))),
            journals=JOURNALS,
            builds=BUILDS,
            whole=journals,
            dpkg=dpkg,
            token=mark,
            running=running,
            paths=shlex.quote("\n".join(paths)),
            known=known,
        )
        began = time.time()
        output = self.run(script, label="krg-provision-facts", idle=idle)
        found = _with_skew(_facts.parse(output.out, mark), began, time.time())
        if not found.complete and not (running and output.timed_out and found.word("kernel")):
            self._explain(output)
        return found

    def _explain(self, output: Output) -> None:
        said = output.err.decode("utf-8", "replace").strip().splitlines()
        if output.timed_out:
            raise FailedError("the node stopped answering")
        user = self.user
        if user != "root" and said and "sudo" in said[-1]:
            raise FailedError(
                f"{user} cannot become root: {said[-1]}",
                hint='log in as root, allow sudo without a password, or give the node sudo = "ask"',
            )
        raise FailedError(f"the node's answer makes no sense: {said[-1] if said else 'no output'}")

    def apply(
        self,
        plan: Plan,
        kernel_release: str,
        date: str,
        on_sent: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Carry out the plan: all files, or none of them.

        :param on_sent: told the size of every file that was sent.
        :raises FailedError: nothing was changed, unless the message says that some
            files are in place.
        """
        token = secrets.token_hex(8)
        stage = _STAGE + token
        packed = is_worth_packing(plan)
        script = apply_script(plan, kernel_release, date, token, packed=packed)
        output = self.run(
            script,
            label=stage,
            send=lambda pipe: write_tar(pipe, plan, stage, on_sent, packed=packed),
            # Nothing is heard of dpkg until it has ended.
            idle=900.0 if plan.first or plan.retires else IDLE_SECONDS,
        )
        self._judge(output)

    def _judge(self, output: Output) -> None:
        said = output.out.decode("utf-8", "replace").strip().splitlines()
        last = said[-1] if said else ""
        kind, _, rest = last.partition(" ")
        if output.status == 0 and last == "finished":
            return
        if output.timed_out:
            raise FailedError("the node stopped answering; run the command again")
        if kind == "changed":
            raise ChangedError(
                f"{rest} was changed since the plan was made; nothing was done",
                hint="run the command again to see the new plan",
            )
        if kind == "failed":
            text = rest.replace("unpacking: ", "") if "No space left" in rest else rest
            raise FailedError(text, hint="free some space" if "No space left" in rest else None)
        error = output.err.decode("utf-8", "replace").strip().splitlines()
        if error and "No space left" in error[-1]:
            raise FailedError(error[-1], hint="free some space")
        raise FailedError(f"the connection was lost or the node's shell failed: {last or error}")


def _with_skew(found: Facts, began: float, ended: float) -> Facts:
    """Add the word clock_skew: by how many seconds at least the node's clock is ahead."""
    clock = found.number("clock")
    if clock is None:
        return found
    # It was read between the two, in whole seconds.
    skew = clock - ended if clock > ended else min(0.0, clock + 1 - began)
    return replace(found, words={**found.words, "clock_skew": f"{skew:.0f}"})
