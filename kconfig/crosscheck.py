# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts about the node a configuration is for, and its devices against the drivers.

Facts are what policies ask for with ``when``. They are read from what any node can print:
/proc/cmdline, /proc/mounts, ``lspci -n``, the modalias files in /sys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kconfig.condition import CMDLINE
from kconfig.drivers import Device, symbols_for
from kconfig.errors import KconfigError
from kconfig.finding import Finding
from kconfig.lint import Subject

_MOST_LINES = 100_000
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MODALIAS = re.compile(
    r"pci:v([0-9A-F]{8})d([0-9A-F]{8})sv([0-9A-F]{8})sd([0-9A-F]{8})"
    r"bc([0-9A-F]{2})sc([0-9A-F]{2})i([0-9A-F]{2})"
)
_LSPCI = re.compile(
    r"(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7] (?:Class )?\"?([0-9a-f]{4})\"?: "
    r"([0-9a-f]{4}):([0-9a-f]{4})\b"
)
_LSPCI_NAMED = re.compile(
    r"(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7] [^\[]{0,200}\[([0-9a-f]{4})\]: "
    r".{0,300}\[([0-9a-f]{4}):([0-9a-f]{4})\]"
)
_MOUNT = re.compile(r"(\S+) / ([a-z0-9_]+) \S+ \d+ \d+")
_CMDLINE = re.compile(
    r"(?:cmdline:|Kernel command line:)?\s*(.*\b(?:root|BOOT_IMAGE|session_id)=.*)"
)
_DISKS = (
    (re.compile(r"/dev/hd[a-z]"), "hd"),
    (re.compile(r"/dev/sd[a-z]"), "sd"),
    (re.compile(r"/dev/vd[a-z]"), "vd"),
    (re.compile(r"/dev/nvme\d"), "nvme"),
    (re.compile(r"/dev/md\d"), "md"),
    (re.compile(r"/dev/mapper/"), "mapper"),
    (re.compile(r"/dev/nfs$"), "nfs"),
    (re.compile(r"(?:UUID|LABEL|PARTUUID)="), "uuid"),
)


class NodeFacts(NamedTuple):
    """``facts`` by name (cmdline.ip, root.type, root.disk, boot.initrd), and PCI devices."""

    facts: Mapping[str, str]
    devices: tuple[Device, ...]


def cmdline_facts(text: str) -> dict[str, str]:
    """Return a fact for each parameter of a kernel command line; the last one counts."""
    facts = {CMDLINE: "yes"}
    for word in text.split()[:1000]:
        name, found, value = word.partition("=")
        if _NAME.fullmatch(name):
            facts[f"cmdline.{name}"] = value if found else "yes"
            if name == "console":
                facts["console.serial"] = (
                    "yes" if value.startswith("ttyS") else facts.get("console.serial", "no")
                )
    root = facts.get("cmdline.root", "")
    for pattern, kind in _DISKS:
        if pattern.match(root):
            facts["root.disk"] = kind
    if "cmdline.rootfstype" in facts:
        facts["root.type"] = facts["cmdline.rootfstype"]
    return facts


def node_facts(
    texts: Iterable[tuple[str, str]], cmdline: str | None = None, initrd: bool | None = None
) -> NodeFacts:
    """Return what (name, text) pairs say about a node; ``cmdline`` counts more than they do.

    :raises KconfigError: a text in which nothing is recognised.
    """
    facts: dict[str, str] = {}
    devices: dict[Device, None] = {}
    for name, text in texts:
        before = len(facts) + len(devices)
        for line in text.split("\n", _MOST_LINES)[:_MOST_LINES]:
            device = _device(line)
            mount = _MOUNT.match(line)
            if device is not None:
                devices[device] = None
            elif mount and mount[2] != "rootfs":
                facts["root.type"] = mount[2]
            elif match := _CMDLINE.match(line[:8192]):
                facts |= cmdline_facts(match[1])
        if len(facts) + len(devices) == before:
            raise KconfigError(
                f"{name}: nothing recognised in it: neither a command line, mounts, "
                "lspci -n nor modaliases"
            )
    if cmdline is not None:
        facts |= cmdline_facts(cmdline)
    if initrd is not None:
        facts["boot.initrd"] = "yes" if initrd else "no"
    return NodeFacts(facts, tuple(devices))


def _device(line: str) -> Device | None:
    match = _MODALIAS.match(line)
    if match:
        vendor, device, subvendor, subdevice = (int(part, 16) for part in match.groups()[:4])
        return Device(vendor, device, subvendor, subdevice, int(match[5] + match[6] + match[7], 16))
    match = _LSPCI.match(line) or _LSPCI_NAMED.match(line[:600])
    if match:
        return Device(int(match[2], 16), int(match[3], 16), pci_class=int(match[1], 16) << 8)
    return None


def unchecked(subject: Subject, found: Sequence[Device]) -> Finding:
    """Return the finding that devices are known, and no tree with their drivers."""
    return Finding(
        "node/devices", "info", "", f"{len(found)} devices not checked", "",
        "which driver a device needs is in the sources of the kernel", "",
        "say --tree, with a tree that has its drivers",
        subject.config.name, 0,
    )  # fmt: skip


def devices(subject: Subject, tree: Path, found: Sequence[Device]) -> list[Finding]:
    """Return a finding for each disk controller and network card without a driver.

    :param tree: the kernel's sources, where the drivers' tables of devices are.
    """
    if not (tree / "include/linux/pci_ids.h").is_file():
        return [unchecked(subject, found)]
    values = subject.final
    if values is None:
        values = {name: entry.value for name, entry in subject.assigned.items()}
    needed = [device for device in found if device.kind]
    findings = []
    for device, symbols in symbols_for(tree, needed).items():
        on = {symbol: values.get(symbol, "n") for symbol in symbols}
        one = "one of " if len(on) > 1 else ""
        names = ", ".join(sorted(on))
        what = f"{device.kind} device {device}"
        if not symbols:
            severity, have = "recommended", f"no driver for {what} in this tree"
            why, fix = "the node cannot use it with this kernel", "use another card or kernel"
        elif "y" in on.values() or ("m" in on.values() and device.kind == "network"):
            continue
        elif "m" in on.values():
            if subject.facts.get("boot.initrd") == "yes":
                continue
            severity, have = "recommended", f"the driver of {what} is a module ({names})"
            why = "without an initrd a module cannot bring the root file system"
            fix = f"build {one}{names} in, or boot with an initrd (--initrd)"
        else:
            severity, have = "required", f"no driver for {what}: {names} off"
            why = f"the node would come up without its {device.kind}, or not at all"
            fix = f"set {one}{names}"
        findings.append(
            Finding(
                f"node/{device.kind}-driver", severity, "", have, "", why,
                "the drivers' tables of PCI devices", fix, subject.config.name, 0,
            )
        )  # fmt: skip
    return sorted(findings)
