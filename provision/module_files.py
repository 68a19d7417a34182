# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node shall have of its module besides the build: settings, and the script that loads it.

A release's [module] says which files and of which template; here they become texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from provision.cluster import Cluster
from provision.data import render
from provision.facts import Facts
from provision.module import Module
from provision.plan import Wanted, text_wanted

_ENABLED = re.compile(r"update-rc\.d ([a-z][a-z0-9-]{1,30}) defaults")


def texts(module: Module | None, cluster: Cluster, *, packaged: bool) -> tuple[Wanted, ...]:
    """Return the module's files.

    :param packaged: a package brings the script that loads it.
    """
    if module is None:
        return ()
    values = {
        "module": module,
        "session": cluster.session,
        "nbmin": cluster.nbmin,
        "nodes": cluster.nodes,
        "legacy_sched": cluster.legacy_sched,
        "packaged": False,
    }
    return tuple(
        text_wanted(file.path, render(file.template, **values).encode(), file.bits)
        for file in module.files
        if not (packaged and file.path == module.script)
    )


def notes(module: Module | None, facts: Facts) -> Iterator[str]:
    """Yield what an administrator has to do for the module."""
    if module and module.files and not facts.linked and facts.word("tool") != "update-rc.d":
        yield f"no update-rc.d: {module.script} is not started at boot"


def enable(module: Module | None, facts: Facts, *, packaged: bool) -> tuple[str, ...]:
    """Return the command that has the script started at boot, where it is not yet."""
    if module is None or not module.files or packaged or facts.linked:
        return ()
    return (f"update-rc.d {module.name} defaults",) if facts.word("tool") == "update-rc.d" else ()


def disable(ran: Iterable[str]) -> tuple[str, ...]:
    """Return the commands that undo those of ``enable`` that were run."""
    names = dict.fromkeys(match[1] for command in ran if (match := _ENABLED.fullmatch(command)))
    return tuple(f"update-rc.d -f {name} remove" for name in names)
