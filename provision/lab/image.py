# SPDX-License-Identifier: GPL-2.0-or-later
"""The initramfs that every node of a lab boots: userland, Kerrighed's tools and modules.

One image serves all nodes; what differs is on the kernel's command line. It is kept in
the cache under the digest of its own content.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import cast

from provision.artifacts import Artifacts
from provision.atomic import write_bytes
from provision.data import data_dir
from provision.errors import InputError
from provision.lab.cpio import Tree, character, directory, link, pack, regular
from provision.lab.userland import busybox, program
from provision.musl import Arch
from provision.paths import cache_dir

# Needed by the nodes where the kernel has them as modules; their dependencies follow.
DRIVERS = ("e1000.ko",)
TOOLS = ("krgadm", "krgcapset", "migrate")

# Linux's own allocation of device numbers (Documentation/devices.txt).
DEVICES = {
    "console": (5, 1, 0o600),
    "full": (1, 7, 0o666),
    "kmsg": (1, 11, 0o644),
    "null": (1, 3, 0o666),
    "ptmx": (5, 2, 0o666),
    "random": (1, 8, 0o666),
    "tty": (5, 0, 0o666),
    "ttyS0": (4, 64, 0o600),
    "ttyS1": (4, 65, 0o600),
    "urandom": (1, 9, 0o666),
    "zero": (1, 5, 0o666),
}


def initramfs(artifacts: Artifacts) -> Path:
    """Return the compressed initramfs for a finished build, made if the cache has none.

    :raises InputError: the build lacks the module or a tool.
    """
    arch = cast(Arch, artifacts.arch)  # toolchain() says so if there is no such
    tree = Tree()
    _userland(tree, arch)
    _tools(tree, artifacts)
    _modules(tree, artifacts)
    content = pack(tree.members)
    key = hashlib.sha256(content).hexdigest()[:16]
    target = cache_dir() / "lab" / f"initramfs-{key}.cpio.gz"
    if not target.is_file():
        write_bytes(target, gzip.compress(content, 6, mtime=0))
    return target


def _userland(tree: Tree, arch: Arch) -> None:
    for path in ("/proc", "/sys", "/config", "/dev/pts", "/run/lab", "/mnt", "/var/chkpt"):
        tree.add(path, directory())
    tree.add("/tmp", directory(0o1777))  # noqa: S108 - a name inside the image
    tree.add("/root", directory(0o700))
    for name, (major, minor, mode) in DEVICES.items():
        tree.add(f"/dev/{name}", character(major, minor, mode))
    made = busybox(arch)
    tree.add("/bin/busybox", regular(made.program.read_bytes(), 0o755))
    for name in made.links:
        tree.add(name, link("/bin/busybox"))
    # Kerrighed's scheduler script names Debian's place.
    tree.add("/usr/bin/stat", link("/bin/busybox"))
    for path, name in (
        ("/init", "init"),
        ("/sbin/lab-agent", "agent"),
        ("/usr/local/bin/counter", "counter"),
    ):
        tree.add(path, regular(program(name, arch).read_bytes(), 0o755))
    start = (data_dir("lab") / "start.sh").read_bytes()
    tree.add("/etc/lab/start", regular(start, 0o755))
    tree.add("/etc/passwd", regular(b"root::0:0:root:/root:/bin/sh\n"))
    tree.add("/etc/group", regular(b"root:x:0:\n"))


def _tools(tree: Tree, artifacts: Artifacts) -> None:
    for name in TOOLS:
        if f"tools/bin/{name}" not in artifacts.files:
            raise InputError(
                f"{artifacts.directory}: the build has no tools/bin/{name}",
                hint="nodes without disks run Kerrighed; other builds: lab up --bootloader grub2",
            )
    for name, entry in artifacts.files.items():
        if name.startswith(("tools/bin/", "tools/sbin/")):
            path = "/usr/local/" + name.removeprefix("tools/")
            if entry.target is not None:
                tree.add(path, link(entry.target))
            else:
                tree.add(path, regular(artifacts.path(name).read_bytes(), 0o755))


def _modules(tree: Tree, artifacts: Artifacts) -> None:
    root = f"lib/modules/{artifacts.kernel_release}"
    index = f"{root}/modules.dep"
    if f"{root}/extra/kerrighed.ko" not in artifacts.files or index not in artifacts.files:
        raise InputError(
            f"{artifacts.directory}: the build has no {root}/extra/kerrighed.ko with modules.dep",
            hint="make it again: krg-provision build-kernel",
        )
    needs = dependencies(artifacts.path(index).read_text("utf-8"))
    wanted = {n for n in needs if n.startswith("extra/") or n.rsplit("/", 1)[-1] in DRIVERS}
    wanted |= {need for name in wanted for need in needs[name]}
    lines = [f"{name}: {' '.join(needs[name])}".rstrip() + "\n" for name in sorted(wanted)]
    tree.add(f"/{index}", regular("".join(lines).encode()))
    for name in wanted:
        tree.add(f"/{root}/{name}", regular(artifacts.path(f"{root}/{name}").read_bytes()))
    alias = f"{root}/modules.alias"
    if alias in artifacts.files:
        tree.add(f"/{alias}", regular(artifacts.path(alias).read_bytes()))


def dependencies(text: str) -> dict[str, tuple[str, ...]]:
    """Read a modules.dep: module to all modules it needs, names relative to the release."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: tuple(needs.split()) for name, needs in pairs}
