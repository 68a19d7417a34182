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

from kconfig import built
from kconfig.built import Built
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
_INTERFACE = re.compile(r"\(prog-if ([0-9a-f]{2})\b")
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
    return NodeFacts(facts, _distinct(devices))


def _device(line: str) -> Device | None:
    match = _MODALIAS.match(line)
    if match:
        vendor, device, subvendor, subdevice = (int(part, 16) for part in match.groups()[:4])
        return Device(vendor, device, subvendor, subdevice, int(match[5] + match[6] + match[7], 16))
    match = _LSPCI.match(line) or _LSPCI_NAMED.match(line[:600])
    if match:
        pci_class, known = int(match[1], 16) << 8, 0xFFFF00
        interface = _INTERFACE.search(line[:600])
        if interface:  # lspci -v
            pci_class, known = pci_class | int(interface[1], 16), 0xFFFFFF
        return Device(int(match[2], 16), int(match[3], 16), pci_class=pci_class, class_known=known)
    return None


def _distinct(found: Iterable[Device]) -> tuple[Device, ...]:
    """Return devices without those that another line tells more about."""
    devices = list(found)
    whole = {(one.vendor, one.device, one.pci_class >> 8) for one in devices if one.subvendor >= 0}
    return tuple(
        one for one in devices
        if one.subvendor >= 0 or (one.vendor, one.device, one.pci_class >> 8) not in whole
    )  # fmt: skip


def unchecked(subject: Subject, found: Sequence[Device]) -> Finding:
    """Return the finding that devices are known, and nothing that tells their drivers."""
    return Finding(
        "node/devices", "info", "", f"{len(found)} devices not checked", "",
        "which driver a device needs is in the sources of the kernel, or in its modules", "",
        "say --tree, with a tree that has its drivers, or --modules",
        subject.config.name, 0,
    )  # fmt: skip


def devices(
    subject: Subject, tree: Path | None, found: Sequence[Device], made: Built | None = None
) -> list[Finding]:
    """Return a finding for each disk controller and network card without a driver.

    :param tree: the kernel's sources, where the drivers' tables of devices are.
    :param made: the modules that were built, which count more than the sources.
    """
    if tree is not None and not (tree / "include/linux/pci_ids.h").is_file():
        tree = None
    if tree is None and made is None:
        return [unchecked(subject, found)]
    needed = [device for device in found if device.kind]
    symbols: Mapping[Device, frozenset[str]] = {}
    if tree is not None and not (made is not None and made.inside is not None):
        symbols = symbols_for(tree, needed)
    values = subject.final
    if values is None:
        values = {name: entry.value for name, entry in subject.assigned.items()}
    findings = [] if made is None else _other_kernel(subject, made)
    for device in needed:
        on = {symbol: values.get(symbol, "n") for symbol in symbols.get(device, ())}
        lack = None
        if made is not None:
            lack = _in_modules(subject, device, made, on if tree is not None else None)
        elif tree is not None:
            lack = _in_tree(subject, device, on)
        if lack is not None:
            findings.append(
                Finding(
                    f"node/{device.kind}-driver", lack.severity, "", lack.have, "", lack.why,
                    "the drivers' tables of PCI devices", lack.fix, subject.config.name, 0,
                )
            )  # fmt: skip
    return sorted(findings)


class _Lack(NamedTuple):
    severity: str
    have: str
    why: str
    fix: str


def _in_tree(subject: Subject, device: Device, on: Mapping[str, str]) -> _Lack | None:
    """Judge a device by the symbols that build its driver, and their values."""
    one = "one of " if len(on) > 1 else ""
    names = ", ".join(sorted(on))
    what = f"{device.kind} device {device}"
    if not on:
        why, fix = "the node cannot use it with this kernel", "use another card or kernel"
        return _Lack("recommended", f"no driver for {what} in this tree", why, fix)
    if "y" in on.values():
        return None
    if "m" in on.values():
        return _module(subject, device, names, f"build {one}{names} in")
    why = f"the node would come up without its {device.kind}, or not at all"
    return _Lack("required", f"no driver for {what}: {names} off", why, f"set {one}{names}")


def _module(subject: Subject, device: Device, names: str, fix: str) -> _Lack | None:
    """Judge a device whose driver is a module: what the root is on needs it before there is one."""
    before_root = "network" if subject.facts.get("root.disk") == "nfs" else "disk"
    if device.kind != before_root or subject.facts.get("boot.initrd") == "yes":
        return None
    return _Lack(
        "recommended", f"the driver of {device.kind} device {device} is a module ({names})",
        "without an initrd a module cannot bring the root file system",
        f"{fix}, or boot with an initrd (--initrd)",
    )  # fmt: skip


def _in_modules(
    subject: Subject, device: Device, made: Built, on: Mapping[str, str] | None
) -> _Lack | None:
    """Judge a device by what was built; ``on`` are its symbols in the tree, None without one."""
    what = f"{device.kind} device {device}"
    if built.names(made.inside or (), device):
        return None
    names = built.names(made.modules, device)
    if names:
        return _module(subject, device, ", ".join(names), "build the driver in")
    why = f"the node would come up without its {device.kind}, or not at all"
    if made.inside is not None:
        have = f"nothing in {made.release} drives {what}, neither a module nor what is built in"
        return _Lack("required", have, why, "build its driver, or use another card")
    if on is None:
        return _Lack(
            "recommended", f"no module of {made.release} drives {what}",
            "its driver may be built in: kernels before 5.2 do not tell",
            "say --tree too, with the kernel's sources",
        )  # fmt: skip
    if "y" in on.values() or "m" not in on.values():
        return _in_tree(subject, device, on)
    modular = ", ".join(sorted(symbol for symbol, value in on.items() if value == "m"))
    have = f"no module of {made.release} drives {what}, although {modular} is m"
    return _Lack("required", have, why, "build and install the modules of this configuration")


def _other_kernel(subject: Subject, made: Built) -> list[Finding]:
    """Return the finding that the modules are of another version than the configuration."""
    # Since 3.0 the third number is a correction, and distributions keep 0 in the release.
    count = 3 if made.version is not None and made.version[0] < 3 else 2
    if None in (made.version, subject.version):
        return []
    if (made.version or ())[:count] == (subject.version or ())[:count]:
        return []
    version = ".".join(str(number) for number in subject.version or ())
    return [
        Finding(
            "node/modules", "recommended", "", f"modules of {made.release}", version,
            "what was built from another kernel says little about this configuration", "",
            "say --modules with the modules of this kernel", subject.config.name, 0,
        )
    ]  # fmt: skip
