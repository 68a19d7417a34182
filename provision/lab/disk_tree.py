# SPDX-License-Identifier: GPL-2.0-or-later
"""The root file system of a node with a disk: what lies where, before a node is told its name.

Userland as in the initramfs lab, and an SSH server, Debian's kernel, a boot loader, and the
places that scripts for Debian expect: /etc/init.d, /etc/rc?.d, update-rc.d.
"""

from __future__ import annotations

from typing import Any

from provision.data import data_dir
from provision.lab import disk_loader
from provision.lab.cpio import Tree, block, character, directory, link, regular
from provision.lab.disk_loader import Loader
from provision.lab.disk_stock import stock
from provision.lab.image import DEVICES
from provision.lab.userland import busybox, dropbear, program
from provision.musl import Arch

_DIRECTORIES = (
    "/boot",
    "/config",
    "/dev/pts",
    "/etc/default",
    "/etc/dropbear",
    "/etc/init.d",
    *(f"/etc/rc{level}.d" for level in range(7)),
    "/lib/modules",
    "/mnt",
    "/proc",
    "/run",
    "/sys",
    "/usr/local/bin",
    "/usr/local/lib",
    "/usr/local/sbin",
    "/var/backups",
    "/var/chkpt",
    "/var/log",
)
# The management card is QEMU's user network, whose addresses are always these; the cluster's
# card needs an address only for people: TIPC has its own.
NETWORK = "eth0 10.0.2.15 255.255.255.0 10.0.2.2\neth1 10.77.{session}.{number} 255.255.255.0\n"
_ACCOUNTS = {
    "/etc/passwd": "root:*:0:0:root:/root:/bin/sh\nnobody:*:65534:65534:nobody:/:/bin/false\n",
    "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "/etc/shells": "/bin/sh\n",
    "/etc/debian_version": "12\n",
    "/etc/hosts": "127.0.0.1\tlocalhost\n",
}


def node_tree(arch: Arch, loader: Loader, recipe: dict[str, Any]) -> Tree:
    """Return the root file system of every node, made of what ``recipe`` (disk.toml) names.

    :raises MissingError: no compiler, or Debian's archive is out of reach.
    """
    tree = Tree()
    for path in _DIRECTORIES:
        tree.add(path, directory())
    tree.add("/tmp", directory(0o1777))  # noqa: S108 - a name inside the image
    tree.add("/root", directory(0o700))
    tree.add("/root/.ssh", directory(0o700))
    for name, (major, minor, mode) in DEVICES.items():
        tree.add(f"/dev/{name}", character(major, minor, mode))
    for name, (kind, major, minor) in recipe["devices"].items():
        made = block(major, minor) if kind == "b" else character(major, minor)
        tree.add(f"/dev/{name}", made)
    _programs(tree, arch)
    for path, text in _ACCOUNTS.items():
        tree.add(path, regular(text.encode()))
    tree.add("/etc/fstab", regular(b"/dev/root / ext3 defaults 0 1\n"))
    kernel = stock(arch, recipe["stock"])
    tree.add(f"/boot/vmlinuz-{kernel.release}", regular(kernel.kernel.read_bytes()))
    tree.add(f"/boot/initrd.img-{kernel.release}", regular(kernel.initrd.read_bytes()))
    for path, file in kernel.modules().items():
        tree.add(path, regular(file.read_bytes()))
    disk_loader.add_files(tree, loader, recipe, kernel.release)
    return tree


def _programs(tree: Tree, arch: Arch) -> None:
    tools = busybox(arch)
    tree.add("/bin/busybox", regular(tools.program.read_bytes(), 0o755))
    for name in tools.links:
        tree.add(name, link("/bin/busybox"))
    # Kerrighed's scheduler script names Debian's place.
    tree.add("/usr/bin/stat", link("/bin/busybox"))
    tree.add("/usr/sbin/dropbear", regular(dropbear(arch).read_bytes(), 0o755))
    for name in ("dropbearkey", "scp"):
        tree.add(f"/usr/bin/{name}", link("/usr/sbin/dropbear"))
    for path, name in (
        ("/sbin/init", "init"),
        ("/sbin/lab-agent", "agent"),
        ("/usr/local/bin/counter", "counter"),
        ("/usr/local/sbin/lab-freeze", "freeze"),
    ):
        tree.add(path, regular(program(name, arch).read_bytes(), 0o755))
    for path, name in (
        ("/etc/lab/start", "disk-start.sh"),
        ("/usr/sbin/update-rc.d", "update-rc.d.sh"),
    ):
        tree.add(path, regular((data_dir("lab") / name).read_bytes(), 0o755))


def node_files(
    *, name: str, number: int, session: int, host_key: bytes, authorized: str
) -> dict[str, tuple[bytes, int]]:
    """Return what makes one node of the common disk: content and mode by path."""
    network = NETWORK.format(session=session, number=number)
    return {
        "/etc/hostname": (f"{name}\n".encode(), 0o644),
        "/etc/lab/network": (network.encode(), 0o644),
        "/etc/dropbear/dropbear_ed25519_host_key": (host_key, 0o600),
        "/root/.ssh/authorized_keys": (f"{authorized}\n".encode(), 0o600),
    }
