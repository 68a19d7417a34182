# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a node can boot a build and come back: every rule about it, and what is a mere note.

Values in, values out. A rule refuses only what could not boot, or not come back; the rest is
a note. The rules' names are in node_rules.py, what is known of kernels in node_rules.toml.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from provision import disk_rules, userland_rules
from provision.cluster import Node
from provision.disk_rules import Drivers
from provision.facts import Facts
from provision.node_rules import Refusal, table


@dataclass(frozen=True)
class Kernel:
    """A built kernel: its architecture, its release, its .config, and what its drivers take.

    ``drivers`` is None where the build does not tell.
    """

    arch: str
    release: str
    config: str
    drivers: Drivers | None = None


def check(
    kernel: Kernel, nodes: Sequence[Node], node: Node, facts: Facts, *, bootloader: bool
) -> Iterator[Refusal]:
    """Yield what speaks against booting ``kernel`` on ``node``.

    :param nodes: all nodes of the cluster file.
    :param bootloader: whether a boot entry is written.
    """
    yield from hostname(nodes, node, facts)
    yield from userland_rules.processor(kernel.arch, facts)
    yield from userland_rules.userland_arch(kernel.arch, kernel.config, facts)
    yield from userland_rules.c_library(kernel.release, facts)
    yield from userland_rules.init(kernel.release, facts, node.append)
    yield from disk_rules.root_fs(kernel.release, kernel.config, facts)
    if kernel.drivers is not None:
        yield from disk_rules.disk_driver(kernel.drivers, kernel.config, facts)
        yield from disk_rules.nic_driver(kernel.drivers, node.interface, facts)
    yield from clock(facts)
    if bootloader:
        yield from boot_loader(node, facts)


def space(lacking: Iterable[str]) -> Iterator[Refusal]:
    """Refuse a node that has no room for what would be sent; ``lacking`` says where."""
    for text in lacking:
        yield Refusal("space", text, "free some space")


def hostname(nodes: Sequence[Node], node: Node, facts: Facts) -> Iterator[Refusal]:
    """Refuse a machine that calls itself by the name of another node of the cluster.

    It would get that node's id: two nodes with one id, and the cluster does not form. Any
    other name is a note, for the ids on the kernel's command line count.
    """
    own = _names(facts)
    if not own or node.name in own:
        return
    for other in nodes:
        if other.id != node.id and other.name in own:
            yield Refusal(
                "hostname",
                f"the machine at {node.address} calls itself {other.name}, which is another node: "
                f"{node.name} would get its id twice",
                "correct the addresses in the cluster file",
            )
            return


def _names(facts: Facts) -> set[str]:
    """Return a machine's own names, as a whole and without the domain."""
    said = {facts.word("hostname") or "", (facts.word("etc_hostname") or "").strip()}
    return {part for name in said for part in (name, name.partition(".")[0]) if part}


def clock(facts: Facts) -> Iterator[Refusal]:
    """Refuse a clock that is so far off that a file system check would stop the boot."""
    skew = facts.number("clock_skew")
    if skew is not None and abs(skew) > table().clock_seconds:
        direction = "ahead" if skew > 0 else "behind"
        yield Refusal(
            "clock",
            f"its clock is {_duration(abs(skew))} {direction}: an old e2fsck takes times in the "
            "future for damage and stops the boot, and a process that migrates sees time jump",
            "set it: date -u MMDDhhmmYYYY, then hwclock --systohc",
        )


def _duration(seconds: float) -> str:
    for name, length in (("days", 86400), ("hours", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{seconds / 60:.0f} minutes"


def boot_loader(node: Node, facts: Facts) -> Iterator[Refusal]:
    """Refuse a node whose disk starts a loader that reads neither menu.lst nor grub.cfg.

    Which of two GRUBs is in use, and whether it can write, is judged with the boot entry. What
    the cluster file says about the loader counts more.
    """
    reader = {"lilo": "LILO", "syslinux": "SYSLINUX"}.get(facts.word("bootloader") or "")
    if reader is not None and node.boot_loader == "auto":
        yield Refusal(
            "boot-loader",
            f"{reader} boots this node and reads neither menu.lst nor grub.cfg",
            "install without a boot entry: --no-bootloader",
        )


def notes(kernel: Kernel, node: Node, facts: Facts) -> Iterator[str]:
    """Yield what a person should know, and what stops nothing."""
    own = _names(facts)
    if own and node.name not in own:
        yield (
            "the node calls itself by another name than the cluster file does; the kernel "
            "gets its ids from the boot entry instead of /etc/kerrighed_nodes"
        )
    skew = facts.number("clock_skew")
    if skew is not None and 60 < abs(skew) <= table().clock_seconds:
        yield f"its clock is {_duration(abs(skew))} {'ahead' if skew > 0 else 'behind'}"
    if facts.word("firmware") == "efi":
        yield "it was booted by EFI: whether this kernel finds its disks and screen is not known"
    yield from disk_rules.drivers_unknown(node.interface, facts, kernel.drivers)
