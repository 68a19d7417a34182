# SPDX-License-Identifier: GPL-2.0-or-later
"""Which boot loader a node has and what its GRUB can write, from what the facts script saw.

Values in, values out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set

from provision import superblock

# Files whose being there says which loader may be in use. dpkg's list of a package's files
# costs a node nothing, where dpkg-query reads everything that is installed.
LISTS = {
    "grub-legacy": "legacy",
    "grub-pc": "grub2",
    "grub-efi-amd64": "grub2",
    "grub-efi-ia32": "grub2",
    "lilo": "lilo",
    "extlinux": "syslinux",
}
FILES = {
    "/boot/grub/menu.lst": "legacy",
    "/boot/grub/grub.conf": "legacy",
    "/boot/grub/stage2": "legacy",
    "/boot/grub/grub.cfg": "grub2",
    "/boot/grub2/grub.cfg": "grub2",
    "/boot/grub/i386-pc/core.img": "grub2",
    "/boot/grub2/i386-pc/core.img": "grub2",
    "/etc/lilo.conf": "lilo",
    "/boot/extlinux/extlinux.conf": "syslinux",
    "/boot/extlinux.conf": "syslinux",
    "/boot/syslinux/syslinux.cfg": "syslinux",
}
# What a stage of the loader itself, and not only its settings, says.
_STAGES = {
    "/boot/grub/stage2": "legacy",
    "/boot/grub/i386-pc/core.img": "grub2",
    "/boot/grub2/i386-pc/core.img": "grub2",
}
_LIST = "/var/lib/dpkg/info/{}.list"
# Asked for as well: what other rules and steps want to know.
OTHERS = (
    "/sbin/init", "/etc/init", "/bin/init", "/bin/sh", "/sbin/openrc-run", "/sbin/runscript",
    "/etc/inittab", "/boot/grub/grubenv", "/boot/grub2/grubenv", "/boot/grub/custom.cfg",
    "/etc/grub.d/41_custom", "/etc/udev/rules.d/70-persistent-net.rules",
    # The node's shell makes names out of it. What is started there: deadman.py.
    "/etc/rc[2-5].d/S[0-9][0-9]krg-provision-trial",
    "/etc/systemd/system/sysinit.target.wants/krg-provision-trial.service",
    "/etc/runlevels/boot", "/etc/runlevels/default", "/etc/runlevels/*/krg-provision-way-back",
)  # fmt: skip
HAS = (*FILES, *(_LIST.format(name) for name in LISTS), *OTHERS)


def bootloader(blobs: Mapping[str, bytes], has: Set[str]) -> str:
    """Return legacy, grub2, lilo, syslinux, or unknown where what is there contradicts itself.

    Boot code counts most, the disk's before the partition's; then a loader's own stages; then
    settings and packages, when all of them speak for one.
    """
    for name in ("disk", "root"):
        kind = superblock.boot_code(blobs.get(name, b""))
        if kind is not None:
            return kind
    signs = [{kind for path, kind in table.items() if path in has} for table in (_STAGES, FILES)]
    signs.append({kind for name, kind in LISTS.items() if _LIST.format(name) in has})
    for kinds in signs:
        if len(kinds) == 1:
            return kinds.pop()
    return "unknown"


# statfs(2) names by stat(1): "ext2/ext3" is all three of them.
_TYPES = {"btrfs": "btrfs", "zfs": "zfs"}
_PLAIN = re.compile(
    r"((hd|sd|vd|xvd|ubd)[a-z]{1,3}[0-9]{0,3}|(nvme\d+n\d+|mmcblk\d+|loop\d+)(p\d+)?"
    r"|(cciss|ida|rd|ataraid)!c\d+d\d+(p\d+)?)"
)


def grubenv_storage(words: Mapping[str, str]) -> str:
    """Return what GRUB's environment lies on: plain, lvm, raid, btrfs, zfs or unknown.

    GRUB writes it block by block as the file system laid it out, and only on a disk or
    partition that it sees itself (GRUB manual, "Environment block").
    """
    kind = words.get("grub_type", "").strip().lower()
    if kind in _TYPES:
        return _TYPES[kind]
    device = words.get("grub_device", "")
    if re.fullmatch(r"md(_d)?\d+(p\d+)?", device):
        return "raid"
    if re.fullmatch(r"dm-\d+", device):
        # What the device mapper made may also be RAID of a BIOS, or encrypted: not written either.
        mapper = words.get("grub_mapper", "")
        return "raid" if mapper.startswith(("DMRAID-", "MD-")) else "lvm"
    return "plain" if _PLAIN.fullmatch(device) else "unknown"


def init_system(words: Mapping[str, str], versions: Mapping[str, str], has: Set[str]) -> str:
    """Return what /sbin/init will be, and its version where a tool says one.

    One of sysv, systemd, upstart, openrc, busybox, none and unknown.
    """
    name = words.get("init_link", "").rpartition("/")[2]
    if name == "systemd":
        return f"systemd {_version(versions.get('systemctl', ''))}".strip()
    if name == "busybox":
        return "busybox"
    if "upstart" in versions.get("initctl", ""):
        return f"upstart {_version(versions['initctl'])}".strip()
    # The kernel tries these three, and then a shell, which no network card comes up with
    # (init/main.c). That /bin/sh was seen says that the node told what it has.
    if "/bin/sh" in has and not has & {"/sbin/init", "/etc/init", "/bin/init"}:
        return "none"
    if has & {"/sbin/openrc-run", "/sbin/runscript"}:
        return f"openrc {_version(versions.get('openrc', ''))}".strip()
    return "sysv" if "/etc/inittab" in has else "unknown"


def udev(versions: Mapping[str, str]) -> str | None:
    """Return the version of udev, None where no tool of it said one."""
    said = versions.get("udevadm") or versions.get("udevinfo") or ""
    return _version(said) or None


def dpkg_architecture(versions: Mapping[str, str]) -> str | None:
    """Return the architecture of dpkg, which it says behind its version; None without dpkg."""
    match = re.search(r"\(([a-z0-9-]{2,30})\)", versions.get("dpkg", ""))
    return match[1] if match else None


def _version(said: str) -> str:
    match = re.search(r"(?<![\w.])\d{1,6}(\.\d{1,6}){0,4}", said)
    return match[0] if match else ""
