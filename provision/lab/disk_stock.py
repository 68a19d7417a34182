# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock kernel of nodes with a disk: Debian's own, with a small initramfs of ours.

It is what a node runs before anything is deployed to it, and what it must come back to.
Kept in the cache under its recipe's digest; one that is there is taken as it is, without
asking Debian's archive. To renew it, remove it.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.console import say
from provision.data import data_dir
from provision.debian_archive import DebianArchive
from provision.errors import FailedError
from provision.lab.cpio import Tree, character, directory, link, pack, regular
from provision.lab.userland import Busybox, busybox
from provision.musl import Arch
from provision.paths import cache_dir


@dataclass(frozen=True)
class Stock:
    """A kernel with its initramfs, as files, and its modules by path below /lib/modules/RELEASE."""

    release: str
    directory: Path

    @property
    def kernel(self) -> Path:
        """Return the kernel's image."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """Return the initramfs."""
        return self.directory / "initrd.img"

    def modules(self) -> dict[str, Path]:
        """Return the modules that shall lie on the node, by path below its root."""
        place = self.directory / "modules"
        return {
            f"/lib/modules/{self.release}/kernel/{path.name}": path
            for path in sorted(place.glob("*.ko"))
        }


def stock(arch: Arch, recipe: dict[str, Any]) -> Stock:
    """Return the stock kernel for a userland of ``arch``; the kernel itself is 64-bit.

    :param recipe: the table [stock] of disk.toml.
    :raises MissingError: Debian's archive is out of reach.
    :raises FailedError: the package has not what the recipe names.
    """
    script = (data_dir("lab") / "disk-initrd.sh").read_text("utf-8")
    tools = busybox(arch)
    parts = (script, repr(sorted(recipe.items())), tools.program.parent.name)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    parent = cache_dir() / "lab"
    target = parent / f"stock-{arch}-{key}"
    if not target.is_dir():
        say(f"fetching Debian's kernel ({recipe['package']}) for the nodes' disks")
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".stock-") as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            _make(made, Path(scratch) / "package", recipe, script, tools)
            try:
                made.rename(target)
            except OSError:
                # Another run was faster; what it made is the same.
                if not target.is_dir():
                    raise
    return Stock((target / "release").read_text("utf-8").strip(), target)


def _make(made: Path, unpacked: Path, recipe: dict[str, Any], script: str, tools: Busybox) -> None:
    archive = DebianArchive(cache_dir() / "debian")
    needs = archive.depends(recipe["package"])
    found = [name for name in needs if re.fullmatch(r"linux-image-[0-9].*", name)]
    if len(found) != 1:
        raise FailedError(f"{recipe['package']}: depends on no one kernel: {' '.join(needs)}")
    archive.unpack(found[0], unpacked)
    release = found[0].removeprefix("linux-image-")
    files = {path.stem: path for path in (unpacked / "lib/modules").rglob("*.ko")}
    missing = [n for n in (*recipe["modules"], *recipe["spare"]) if n not in files]
    if missing or not (unpacked / f"boot/vmlinuz-{release}").is_file():
        raise FailedError(f"{found[0]}: has no {' '.join(missing) or 'vmlinuz'}")
    shutil.copyfile(unpacked / f"boot/vmlinuz-{release}", made / "vmlinuz")
    (made / "modules").mkdir()
    for name in (*recipe["modules"], *recipe["spare"]):
        shutil.copyfile(files[name], made / "modules" / f"{name}.ko")
    (made / "initrd.img").write_bytes(
        gzip.compress(_initramfs(made / "modules", recipe, script, tools), 6, mtime=0)
    )
    (made / "release").write_text(release + "\n", "utf-8")


def _initramfs(modules: Path, recipe: dict[str, Any], script: str, tools: Busybox) -> bytes:
    tree = Tree()
    for path in ("/proc", "/sys", "/mnt"):
        tree.add(path, directory())
    tree.add("/dev/console", character(5, 1))
    tree.add("/dev/null", character(1, 3, 0o666))
    tree.add("/bin/busybox", regular(tools.program.read_bytes(), 0o755))
    for name in tools.links:
        tree.add(name, link("/bin/busybox"))
    tree.add("/init", regular(script.encode(), 0o755))
    tree.add("/modules/order", regular("".join(f"{n}\n" for n in recipe["modules"]).encode()))
    for name in recipe["modules"]:
        tree.add(f"/modules/{name}.ko", regular((modules / f"{name}.ko").read_bytes()))
    return pack(tree.members)
