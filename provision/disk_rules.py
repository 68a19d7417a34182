# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a kernel without an initrd finds a node's / and its network card."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kconfig import built, crosscheck
from kconfig.built import Alias
from kconfig.drivers import Device
from kconfig.errors import KconfigError
from provision.abi_note import kernel_version
from provision.facts import Facts, Pci
from provision.node_rules import Refusal, find, table
from provision.superblock import Superblock

_IDE = 0x0101
# From here on a file system's driver reads what is made today.
_TODAY = (3, 10)
# Prog-if bits of an IDE controller: a channel that is not at the addresses of old.
_NATIVE = 0x05


# eq=False: one build's drivers are one object, by which what they take is remembered.
@dataclass(frozen=True, eq=False)
class Drivers:
    """The PCI devices that a build's drivers take: those built in, and those that are modules."""

    inside: tuple[Alias, ...]
    modules: tuple[Alias, ...]


def built_in(config: str, symbol: str) -> bool:
    """Tell whether a .config has a symbol built in."""
    return f"CONFIG_{symbol}=y\n" in config


def _drivers_of_ext(config: str, block: Superblock) -> list[str]:
    """Return the file system drivers in the kernel that could mount it, the best one first."""
    have = [name for name in ("ext3", "ext2", "ext4dev") if built_in(config, f"{name.upper()}_FS")]
    # ext4dev of 2.6.20 mounts only what was told with rootfstype=, and a journal on ext2 is left.
    return [name for name in have if name != "ext3" or block.has_journal]


def root_fs(release: str, config: str, facts: Facts) -> Iterator[Refusal]:
    """Refuse a / that the kernel cannot mount: by its type, for ext by its features.

    A file system made as ext3 is ext4 to a kernel that mounts it with its ext4 driver, so the
    superblock counts more than the name.

    :param config: the kernel's .config.
    """
    kind = facts.word("rootfs") or ""
    block = facts.superblock
    is_ext = kind.startswith("ext") or (block is not None and not kind)
    if is_ext and built_in(config, "EXT4_FS"):
        # Since 2.6.28: it mounts ext2 and ext3 as well, and came with nearly all features.
        return
    if block is not None and is_ext:
        yield from _features(release, config, block, facts.word("journal") or "")
        return
    bad = find(table().root_fs, kind)
    if bad is None or (bad.needs is not None and built_in(config, bad.needs)):
        return
    why, hint = bad.why, "move / to ext3"
    if bad.needs is None and kernel_version(release) >= _TODAY:
        # What the table says of 2.6.20 is over.
        if built_in(config, f"{kind.upper()}_FS"):
            return
        why, hint = "the kernel was built without it", "build it in"
    yield Refusal("root-fs", f"its / is {kind}: {why}", hint)


def of_entry(refusals: Iterable[Refusal], config: str) -> Iterator[Refusal]:
    """Yield what stands against a boot entry of a kernel with this .config.

    Whoever writes the entry does not know it: with SCSI's disks and without IDE's, no disk is
    called hda.
    """
    only_sd = built_in(config, "BLK_DEV_SD") and not built_in(config, "BLK_DEV_IDEDISK")
    for refusal in refusals:
        if refusal.rule != "root-disk" or not only_sd:
            yield refusal


def unknown_features(block: Superblock, driver: str) -> tuple[list[str], list[str]]:
    """Return the names of features that ``driver`` cannot mount, and that it cannot write."""
    found: dict[str, list[str]] = {"incompat": [], "ro_compat": []}
    for word, names in found.items():
        value = getattr(block, word)
        for bit in (1 << n for n in range(32) if value >> n & 1):
            known = next((f for f in table().feature if (f.word, f.bit) == (word, bit)), None)
            if known is None or driver not in known.known:
                names.append(known.name if known is not None else f"{word} {bit:#x}")
    return found["incompat"], found["ro_compat"]


def _features(release: str, config: str, block: Superblock, journal: str) -> Iterator[Refusal]:
    drivers = _drivers_of_ext(config, block)
    if not drivers:
        name = "ext3" if block.has_journal else "ext2"
        yield Refusal("root-fs", f"its / is {name}: the kernel was built without it")
        return
    trouble = {name: unknown_features(block, name) for name in drivers if name != "ext4dev"}
    if any(not unmountable and not unwritable for unmountable, unwritable in trouble.values()):
        # FEATURE_I5 and the like are those that dumpe2fs has no name for; C are ignored ones.
        named = [
            w for w in journal.split() if re.fullmatch("[a-z][a-z0-9_]+|FEATURE_[IR][0-9]+", w)
        ]
        strange = [word for word in named if word not in table().journal]
        if strange and drivers[0] == "ext3":
            yield Refusal(
                "root-features",
                f"its / has a journal with {', '.join(strange)}, which Linux "
                f"{release.partition('-')[0]} cannot read",
                "make the journal anew: tune2fs -O ^has_journal, then -j, from another system",
            )
        return
    unmountable, unwritable = next(iter(trouble.values()), (["ext4"], []))
    what, effect = (unmountable, "mount") if unmountable else (unwritable, "mount for writing")
    yield Refusal(
        "root-features",
        f"its / has the ext features {', '.join(what)}, with which Linux "
        f"{release.partition('-')[0]} cannot {effect} it",
        "make / anew with mke2fs -t ext3, and copy the files",
    )


# --- drivers ------------------------------------------------------------------------------


def _device(card: Pci) -> Device | None:
    try:
        found = crosscheck.node_facts([(card.address, card.modalias)]).devices
    except KconfigError:
        return None
    return found[0] if found else None


@functools.lru_cache(maxsize=1024)
def _taken(drivers: Drivers, inside: bool, device: Device) -> tuple[str, ...]:
    """Return the drivers that take a device: those built in, or the modules."""
    aliases = drivers.inside if inside else drivers.modules
    names = built.names(aliases, device)
    # An entry that takes whatever there is may have a condition of its own.
    strange = {a.module for a in aliases if a.module in names and _is_wish(a)}
    if not strange:
        return tuple(names)
    sure = [a for a in aliases if a.module in strange and not _is_wish(a)]
    again = built.names(sure, device)
    return tuple(name for name in names if name not in strange or name in again)


def _is_wish(alias: Alias) -> bool:
    return find(table().not_a_driver, f"{alias.module} {alias.pattern}") is not None


def disk_driver(drivers: Drivers, config: str, facts: Facts) -> Iterator[Refusal]:
    """Refuse a root disk whose controller has no driver built in: there is no initrd."""
    if facts.word("rootfs") in ("nfs", "nfs3", "nfs4"):
        return
    for address in facts.root_pci:
        card = facts.pci.get(address)
        device = _device(card) if card is not None else None
        if card is None or device is None or _taken(drivers, True, device):
            continue
        if _at_old_addresses(device) and built_in(config, "IDE_GENERIC"):
            continue
        modules = _taken(drivers, False, device)
        what = f"the controller of its root disk, {_name(card, device)}"
        if modules:
            reason = f"{what}, has its driver as a module ({', '.join(modules)}), and there is "
            yield Refusal("disk-driver", reason + "no initrd to load it", "build the driver in")
        else:
            hint = "build with its driver, or move / to another controller"
            yield Refusal("disk-driver", f"{what}, has no driver in this kernel", hint)
        return


def _at_old_addresses(device: Device) -> bool:
    """Tell whether it is an IDE controller that the generic IDE driver finds without PCI."""
    return device.pci_class >> 8 == _IDE and not device.pci_class & _NATIVE


def nic_driver(drivers: Drivers, interface: str, facts: Facts) -> Iterator[Refusal]:
    """Refuse a node whose card of the cluster has no driver in the build.

    :param interface: its name in the cluster file.
    """
    nic = facts.nics.get(interface)
    card = facts.pci.get(nic.pci or "") if nic is not None else None
    device = _device(card) if card is not None else None
    if card is None or device is None or _taken(drivers, True, device):
        return
    what = f"the network card of {interface}, {_name(card, device)}"
    modules = _taken(drivers, False, device)
    if not modules:
        hint = "build with its driver, or name another interface in the cluster file"
        yield Refusal("nic-driver", f"{what}, has no driver in this build", hint)
    elif facts.word("rootfs") in ("nfs", "nfs3", "nfs4"):
        yield Refusal(
            "nic-driver",
            f"{what}, has its driver as a module ({', '.join(modules)}), which is on / and / "
            "comes over the network",
            "build the driver in",
        )


def _name(card: Pci, device: Device) -> str:
    now = f", now driven by {card.driver}" if card.driver else ""
    return f"{device} at {card.address}{now}"


def drivers_unknown(interface: str, facts: Facts, drivers: Drivers | None) -> Iterator[str]:
    """Yield notes about drivers that could not be checked."""
    if drivers is None and (facts.pci or facts.root_pci):
        yield "the build does not tell which devices its drivers take: they are not checked"
    elif facts.pci and interface not in facts.nics:
        yield (
            f"there is no {interface} now, the cluster's interface in the cluster file: whether "
            "its card has a driver is not checked"
        )
    elif (
        facts.pci
        and not re.match("/dev/nfs|nfs", facts.word("rootfs") or "")
        and not (set(facts.root_pci) & set(facts.pci))
    ):
        yield "it cannot be told which controller has the root disk: its driver is not checked"
