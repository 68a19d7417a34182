# SPDX-License-Identifier: GPL-2.0-or-later
"""A node's menu.lst with our entry in it: values in, text out.

Sources: the GRUB 0.97 manual, Documentation/kernel-parameters.txt of Linux 2.6.20, and
node_rules.toml for what that kernel makes of its command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grub import legacy
from provision.cluster import Node
from provision.data import render
from provision.errors import FailedError
from provision.facts import Facts
from provision.node_rules import Refusal, find, root_disk, table

MENU = "/boot/grub/menu.lst"
# Seconds after a panic until the node reboots: an old entry is then booted again.
PANIC_SECONDS = 10


@dataclass(frozen=True)
class Entry:
    """The new menu.lst, what speaks against writing it, and what a person should know."""

    text: bytes
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]


def _root(node: Node, value: str, facts: Facts) -> str:
    """Return the root= of our entry: a device the kernel finds, for there is no initrd."""
    if node.root is not None:
        return node.root
    for device in (value, facts.word("rootdev") or ""):
        if find(table().root, device) is not None:
            return device
    raise FailedError(
        f"{MENU} has root={value}, which this kernel cannot find: that needs an initrd or a "
        "driver, and this build has none",
        hint='name the device in the cluster file, such as root = "/dev/hda1"',
    )


def _check_address(node: Node, arguments: Sequence[str], autonodeid: bool) -> None:
    """Refuse an address on the kernel line that would silently become the node id.

    ``ip=`` and ``nfsaddrs=`` are two names of one parameter (net/ipv4/ipconfig.c).
    """
    for word in arguments:
        name, _, value = word.partition("=")
        if not autonodeid or name not in ("ip", "nfsaddrs") or value in ("off", "none"):
            continue
        last = re.match(r"[0-9]+\.[0-9]+\.[0-9]+\.([0-9]+)", value)
        if last is None or int(last.group(1)) != node.id:
            raise FailedError(
                f"{MENU} has {word}: this kernel then takes the address's last byte as node "
                f"id and ignores node_id={node.id}",
                hint=f"give the node that id, remove {name}=, or build without KRG_AUTONODEID",
            )


def _check_length(arguments: Sequence[str]) -> None:
    length, limit = len(" ".join(arguments)), table().command_line_size - 1
    if length > limit:
        raise FailedError(
            f"the kernel's arguments would have {length} bytes; it reads {limit} and cuts the rest",
            hint=f"shorten append in the cluster file, or the default entry in {MENU}",
        )


def _notes(text: str, saved: int | None, root: str, facts: Facts) -> Iterator[str]:
    used = legacy.numbers(text, saved)
    others = [n for n, entry in enumerate(legacy.entries(text)) if not entry.ours]
    if not used.is_saved and used.default == max(others) and used.default > 0:
        yield (
            f"default is {used.default}, the last entry before the new one: if an entry above "
            "it goes away (update-grub removes those of removed kernels), that number means "
            "the new one; name a lower one, or use default saved"
        )
    if root.startswith("/dev/sd") and facts.word("rootdrivers") is None:
        yield (
            f"it cannot be told which driver has {root}: if it is an IDE disk, it is hda under "
            'the new kernel, and the cluster file has to say root = "/dev/hda1"'
        )
    yield (
        f"panic={PANIC_SECONDS} brings the node back after a panic of the new kernel, not after "
        "a hang: that takes a watchdog, power control or a hand"
    )


def make(node: Node, facts: Facts, *, session: int, kernel_release: str, autonodeid: bool) -> Entry:
    """Return the node's menu.lst with our entry in it.

    :raises FailedError: there is none, or it cannot be edited safely.
    """
    there = facts.texts.get(MENU)
    if there is None:
        what = f"{MENU} is not a plain file" if MENU in facts.odd else f"there is no {MENU}"
        raise FailedError(
            what,
            hint="if GRUB Legacy is not in use there, --no-bootloader installs all but the entry",
        )
    text = there.content.decode("latin-1")
    try:
        saved = legacy.saved_index(facts.word("saved") or "")
        good = legacy.known_good(text, saved)
        assert good.kernel is not None
        current = good.kernel.value("root") or ""
        root = _root(node, current, facts)
        dropped = [
            (word, found.why)
            for word in good.kernel.arguments
            if word not in node.append and (found := find(table().argument, word)) is not None
        ]
        kept = [a for a in good.kernel.arguments if a not in {word for word, _ in dropped}]
        arguments = legacy.with_arguments(
            _with_root(kept, root),
            (
                ("session_id", str(session)),
                ("node_id", str(node.id)),
                ("panic", str(PANIC_SECONDS)),
            ),
            node.append,
        )
        _check_address(node, arguments, autonodeid)
        _check_length(arguments)
        path = legacy.kernel_path(
            good.kernel, f"vmlinuz-{kernel_release}", boot_is_separate=facts.boot_is_separate
        )
        body = render(
            "menu_lst.j2",
            kernel_release=kernel_release,
            node_id=node.id,
            session=session,
            root=f"{good.root.name}\t\t{good.root.argument.strip()}" if good.root else "",
            kernel=path,
            arguments=" ".join(arguments),
        )
        made = legacy.put(text, body, saved)
        refusals = [] if node.root is not None else list(root_disk(root, facts))
        if made != text and legacy.boots_ours(text, saved):
            refusals.append(
                Refusal(
                    "default-entry",
                    "its default entry is the one that would be replaced: it would boot what was "
                    "never tried there",
                    "make another entry the default",
                )
            )
        notes = [f"{word} is not taken over from the default entry: {why}" for word, why in dropped]
        notes += _notes(text, saved, root, facts)
        return Entry(made.encode("latin-1"), tuple(refusals), tuple(notes))
    except legacy.MenuError as error:
        raise FailedError(f"{MENU}: {error}", hint="edit it on the node, then deploy") from error


def _with_root(arguments: Sequence[str], root: str) -> list[str]:
    """Return the arguments with one root=, where the last one was."""
    last = max(n for n, a in enumerate(arguments) if a.startswith("root="))
    return [
        f"root={root}" if n == last else a
        for n, a in enumerate(arguments)
        if n == last or not a.startswith("root=")
    ]
