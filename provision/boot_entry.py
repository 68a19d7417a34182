# SPDX-License-Identifier: GPL-2.0-or-later
"""Our boot entry on a node, whatever its boot loader: install, try once, keep, take back.

``make`` never changes what boots by default. While that is an entry of ours for another kernel,
it stays, and the new one is put beside it: two of ours at most (grub.slots). ``arm`` has the next
boot, and only that one, start the entry of a release; ``commit`` makes it the default; ``disarm``
goes back to the entry before. All of them turn what the node said (facts) into files to be
written; nothing is done here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Protocol

from provision import boot_grub2, boot_legacy, boot_line
from provision.boot_legacy import MENU
from provision.boot_line import PANIC_SECONDS, Entry, File, Switch
from provision.cluster import Node
from provision.facts import Facts
from provision.node_rules import Refusal
from provision.plan import Change

__all__ = [
    "MENU", "PANIC_SECONDS", "TEXTS", "Entry", "File", "Switch", "arm", "commit", "disarm",
    "has_loader", "loader", "make", "remove", "replaced", "state",
]  # fmt: skip

# What a node has to say whole for this: node.Session.facts asks for them all.
TEXTS = (boot_legacy.MENU, boot_legacy.SAVED, *boot_grub2.TEXTS)


class _Loader(Protocol):
    """What the module of a boot loader offers."""

    def make(
        self, node: Node, facts: Facts, *, session: int, kernel_release: str, autonodeid: bool,
        title: str,
    ) -> Entry: ...  # fmt: skip
    def state(self, facts: Facts, kernel_release: str) -> str: ...
    def arm(self, facts: Facts, kernel_release: str) -> Switch: ...
    def commit(self, facts: Facts, kernel_release: str) -> Switch: ...
    def disarm(self, facts: Facts, kernel_release: str, leaving: Collection[str]) -> Switch: ...
    def remove(self, facts: Facts) -> Switch: ...
    def kernels(self, facts: Facts) -> frozenset[str] | None: ...
    def bring_back(self, facts: Facts, former: Mapping[str, bytes]) -> Switch: ...


def loader(facts: Facts, wanted: str = "auto") -> str:
    """Return the boot loader that boots the node: "legacy", "grub2", "none", or "unknown".

    :param wanted: what the cluster file says; "auto" looks at the node.
    """
    if wanted != "auto":
        return wanted
    old, new = MENU in facts.texts or MENU in facts.odd, boot_grub2.there(facts)
    if old and new:
        said = facts.word("bootloader")
        return said if said in ("legacy", "grub2") else "unknown"
    return "grub2" if new else "legacy"


def has_loader(facts: Facts) -> bool:
    """Tell whether there is a boot loader's file that an entry can go into."""
    return MENU in facts.texts or boot_grub2.there(facts)


def _wanted(node: Node | None) -> str:
    return str(getattr(node, "boot_loader", "auto"))


def _module(facts: Facts, wanted: str) -> _Loader | None:
    """Return the module for the node's loader; None where none is to be touched."""
    kind = loader(facts, wanted)
    if kind == "none":
        return None
    # Unknown was refused by make, unless that was overruled.
    return boot_grub2 if kind == "grub2" else boot_legacy


def make(
    node: Node,
    facts: Facts,
    *,
    session: int,
    kernel_release: str,
    autonodeid: bool,
    title: str = "Kerrighed",
) -> Entry:
    """Return the boot loader's files with our entry in them, put in or brought up to date.

    :raises FailedError: there are none, or they cannot be edited safely.
    """
    module = _module(facts, _wanted(node))
    if module is None:
        return Entry((), (), ('no boot entry is written (boot_loader = "none")',))
    made = module.make(
        node, facts, session=session, kernel_release=kernel_release, autonodeid=autonodeid,
        title=title,
    )  # fmt: skip
    if loader(facts, _wanted(node)) != "unknown":
        return made
    refusal = Refusal(
        "boot-loader",
        f"there are {MENU} and {boot_grub2.config(facts)}: it is not known which boots the node",
        'say boot_loader = "legacy" or "grub2" in the cluster file, use --no-bootloader',
    )
    return Entry(made.texts, (*made.refusals, refusal), made.notes)


def state(facts: Facts, kernel_release: str, node: Node | None = None) -> str:
    """Say what the next boot does with our entry for ``kernel_release``.

    "none": it is not there; "installed": another entry boots; "armed": ours boots once;
    "default": ours boots, until something else is said.

    :raises FailedError: the files cannot be read.
    """
    module = _module(facts, _wanted(node))
    return (
        "none" if module is None or not has_loader(facts) else module.state(facts, kernel_release)
    )


def kernels(facts: Facts, node: Node) -> frozenset[str] | None:
    """Return the files of our entries' kernels; None where it is not known what boots the node."""
    if loader(facts, node.boot_loader) not in ("legacy", "grub2"):
        return None
    module = _module(facts, node.boot_loader)
    return None if module is None else module.kernels(facts)


def unread(facts: Facts) -> bool:
    """Tell whether a boot loader's file is there that could not be read whole."""
    return any(path in facts.odd for path in TEXTS)


def replaced(
    node: Node, facts: Facts, kernel_release: str, planned: Iterable[Change]
) -> Iterator[Refusal]:
    """Refuse to write another kernel over the one that our default entry boots.

    What was proven would be gone, and what has its name was never tried. Releases with names of
    their own lie side by side, and their entries too.
    """
    path = f"/boot/vmlinuz-{kernel_release}"
    over = any(one.wanted.path == path and one.before is not None for one in planned)
    if over and state(facts, kernel_release, node) == "default":
        yield boot_line.other_kernel(path)


def arm(facts: Facts, kernel_release: str, node: Node | None = None) -> Switch:
    """Return what makes the next boot, and only that one, start our entry.

    If the kernel panics or cannot be loaded, the boot after it starts the entry that was the
    default before.

    :raises FailedError: our entry is not there; there is no way back; the menu waits for a key.
    """
    module = _module(facts, _wanted(node))
    return Switch() if module is None else module.arm(facts, kernel_release)


def commit(facts: Facts, kernel_release: str, node: Node | None = None) -> Switch:
    """Return what makes our entry the default; a good one is booted if it cannot be loaded.

    :raises FailedError: as for :func:`arm`.
    """
    module = _module(facts, _wanted(node))
    return Switch() if module is None else module.commit(facts, kernel_release)


def disarm(
    facts: Facts,
    kernel_release: str = "",
    node: Node | None = None,
    leaving: Collection[str] = (),
) -> Switch:
    """Return what makes the entry before ours the default again; ours stays in the menu.

    That is the former one of ours, if that was the default, else another system's.

    :param kernel_release: which of ours; the newest, if there is none of that release.
    :param leaving: kernel releases that are to go, none of which becomes the default.
    :raises FailedError: the files cannot be edited safely.
    """
    module = _module(facts, _wanted(node))
    return Switch() if module is None else module.disarm(facts, kernel_release, leaving)


def remove(facts: Facts, node: Node | None = None) -> Switch:
    """Return what takes our entries out and leaves the files as they were before them.

    :raises FailedError: the files cannot be edited safely.
    """
    module = _module(facts, _wanted(node))
    return Switch() if module is None else module.remove(facts)


def bring_back(facts: Facts, former: Mapping[str, bytes], node: Node | None = None) -> Switch:
    """Return what makes our entries those of former files, and leaves all else as it is now.

    :param former: content by path; files that were not there are left out.
    :raises FailedError: the files cannot be edited safely.
    """
    module = _module(facts, _wanted(node))
    return Switch() if module is None else module.bring_back(facts, former)
