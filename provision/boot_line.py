# SPDX-License-Identifier: GPL-2.0-or-later
"""What both boot loaders share: the values, and the kernel's command line of our entry.

Sources: Documentation/kernel-parameters.txt of Linux 2.6.20, and node_rules.toml for what that
kernel makes of its command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grub import kernel_line
from provision.cluster import Node
from provision.errors import FailedError
from provision.facts import Facts
from provision.node_rules import Refusal, find, root_disk, table

# Seconds after a panic until the node reboots: an old entry is then booted again.
PANIC_SECONDS = 10


@dataclass(frozen=True)
class File:
    """A boot loader's file as it shall be; ``mode`` is for one that is not there yet.

    With ``target`` it is a link to that, known not to be there.
    """

    path: str
    content: bytes
    mode: int
    target: str | None = None


@dataclass(frozen=True)
class Entry:
    """The files with our entry in them, what speaks against writing them, and what to know."""

    texts: tuple[File, ...]
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Switch:
    """A change of what boots next: files in the order in which they are to be written.

    ``first`` are shell commands that must succeed before anything of the boot loader is written.
    With ``refusals`` nothing of it may be done, unless they are overruled by name.
    """

    texts: tuple[File, ...] = ()
    first: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True)
class Line:
    """The kernel's arguments of our entry, and what to know about them."""

    arguments: tuple[str, ...]
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]


def make(
    node: Node,
    facts: Facts,
    current: Sequence[str],
    *,
    where: str,
    session: int,
    autonodeid: bool,
) -> Line:
    """Return the arguments for our kernel, made from those of an entry that is known to boot.

    :param current: its arguments, ``root=`` among them.
    :param where: the file they come from, for messages.
    :raises FailedError: no root= this kernel can find, or a line it does not read as meant.
    """
    roots = [word.partition("=")[2] for word in current if word.startswith("root=")]
    root = _root(node, roots[-1], facts, where)
    dropped = [
        (word, found.why)
        for word in current
        if word not in node.append and (found := find(table().argument, word)) is not None
    ]
    dropped += [
        (word, "the cluster file drops it")
        for word in current
        if word in node.drop or word.partition("=")[0] in node.drop
    ]
    kept = [word for word in current if word not in {name for name, _ in dropped}]
    arguments = kernel_line.with_arguments(
        _with_root(kept, root),
        (
            ("session_id", str(session)),
            ("node_id", str(node.id)),
            ("panic", str(PANIC_SECONDS)),
        ),
        node.append,
    )
    _check_address(node, arguments, autonodeid, where)
    _check_length(arguments, where)
    refusals = () if node.root is not None else tuple(root_disk(root, facts))
    notes = [f"{word} is not taken over from the default entry: {why}" for word, why in dropped]
    return Line(arguments, refusals, (*notes, *_notes(root, facts)))


def _root(node: Node, value: str, facts: Facts, where: str) -> str:
    """Return the root= of our entry: a device the kernel finds, for there is no initrd."""
    if node.root is not None:
        return node.root
    for device in (value, facts.word("rootdev") or ""):
        if find(table().root, device) is not None:
            return device
    raise FailedError(
        f"{where} has root={value}, which this kernel cannot find: that needs an initrd or a "
        "driver, and this build has none",
        hint='name the device in the cluster file, such as root = "/dev/hda1"',
    )


def _with_root(arguments: Sequence[str], root: str) -> list[str]:
    """Return the arguments with one root=, where the last one was."""
    last = max(n for n, a in enumerate(arguments) if a.startswith("root="))
    return [
        f"root={root}" if n == last else a
        for n, a in enumerate(arguments)
        if n == last or not a.startswith("root=")
    ]


def _check_address(node: Node, arguments: Sequence[str], autonodeid: bool, where: str) -> None:
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
                f"{where} has {word}: this kernel then takes the address's last byte as node "
                f"id and ignores node_id={node.id}",
                hint=f"give the node that id, remove {name}=, or build without KRG_AUTONODEID",
            )


def _check_length(arguments: Sequence[str], where: str) -> None:
    length, limit = len(" ".join(arguments)), table().command_line_size - 1
    if length > limit:
        raise FailedError(
            f"the kernel's arguments would have {length} bytes; it reads {limit} and cuts the rest",
            hint=f"shorten append in the cluster file, or the default entry in {where}",
        )


def _notes(root: str, facts: Facts) -> Iterator[str]:
    if root.startswith("/dev/sd") and facts.word("rootdrivers") is None:
        yield (
            f"it cannot be told which driver has {root}: if it is an IDE disk, it is hda under "
            'the new kernel, and the cluster file has to say root = "/dev/hda1"'
        )
    yield (
        f"panic={PANIC_SECONDS} brings the node back after a panic of the new kernel, not after "
        "a hang: that takes a watchdog, power control or a hand"
    )


def own_default() -> Refusal:
    """Return the refusal to change our entry while it is the default."""
    return Refusal(
        "default-entry",
        "its default entry is the one that would be changed: it would boot what was never tried "
        "there",
        "deploy a build of another kernel release, which is put beside it, make another entry the "
        "default",
    )


def other_kernel(path: str) -> Refusal:
    """Return the refusal to write another kernel over the one that is booted by default."""
    return Refusal(
        "default-entry",
        f"{path}, which its default entry boots, would be replaced by another kernel of the same "
        "name: that was never tried there, and nothing would be left to go back to",
        "build it under another name (build-kernel --set LOCALVERSION=...): both are kept then",
    )


def beside(before: Sequence[str], after: Sequence[str], proven: str | None) -> Iterator[str]:
    """Say what becomes of our other entry; all are named by their kernels' files."""
    for kernel in before:
        if kernel not in after and proven is not None:
            yield f"our entry for {kernel} is taken out of the menu: there is room for two"
    if proven in after and set(after) - set(before):
        yield f"our entry for {proven}, the default, stays: it is the way back"


def storage(facts: Facts, bad: Sequence[str]) -> list[Refusal]:
    """Refuse to arm where GRUB cannot write what undoes the arming, or nobody knows."""
    kind = facts.word("grubenv_storage") or "unknown"
    if kind not in bad:
        return []
    what = "it is not known what" if kind == "unknown" else f"{kind} is what"
    return [
        Refusal(
            "grubenv",
            f"{what} /boot/grub lies on, and GRUB can write to plain disks only: "
            "a kernel on trial might be started again and again",
            "use a plain partition for /boot",
        )
    ]
