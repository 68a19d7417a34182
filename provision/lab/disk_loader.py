# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB Legacy and GRUB 2 in a node's disk image: their files, and what lies before the partition.

Both come from Debian's packages, unpacked aside. GRUB Legacy is installed by its own shell,
which takes an image for a disk where a device map says so. GRUB 2's own installers refuse an
image, so its two parts are put where the BIOS and the first of them look: 440 bytes of
boot.img into the master boot record, core.img from sector 1 on (GRUB manual, "BIOS
installation"; boot.img has 1 as core.img's place from the start).
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from provision.console import say
from provision.data import render
from provision.debian_archive import DebianArchive
from provision.errors import FailedError, MissingError
from provision.lab.cpio import Tree, directory, regular
from provision.paths import cache_dir
from provision.runner import LocalRunner

Loader = Literal["legacy", "grub2"]
SECTOR = 512
# The partition table follows.
_BOOT_CODE = 440
# GRUB Legacy keeps the number's file at this size, so that it never has to move a block.
_SAVED_SIZE = 190
# Where Debian's package of GRUB Legacy has what is put on the disk.
_STAGES = "usr/lib/grub/x86_64-pc"


def parts(loader: Loader, recipe: dict[str, Any]) -> Path:
    """Return the directory with a boot loader's unpacked packages, fetched once.

    :param recipe: disk.toml.
    :raises MissingError: Debian's archive is out of reach, or has no such loader any more.
    """
    packages = [recipe[loader]["package"], *filter(None, [recipe[loader].get("library")])]
    key = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    target = cache_dir() / "lab" / f"{loader}-{key}"
    if not target.is_dir():
        say(f"fetching {' and '.join(packages)}")
        target.parent.mkdir(parents=True, exist_ok=True)
        archive = DebianArchive(cache_dir() / "debian")
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".loader-") as scratch:
            made = Path(scratch) / "made"
            for package in packages:
                archive.unpack(package, made)
            if loader == "legacy" and not (made / _STAGES / "stage1").is_file():
                raise MissingError(
                    f"the package {packages[0]} of this Debian has no GRUB Legacy in it",
                    hint="Debian 12 is the last that has; --bootloader grub2 works everywhere",
                )
            try:
                made.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
    return target


def add_files(tree: Tree, loader: Loader, recipe: dict[str, Any], release: str) -> None:
    """Put the boot loader's files into a node's root, and its menu for the kernel ``release``."""
    where = parts(loader, recipe)
    arguments = recipe["stock"]["arguments"]
    root = next(word for word in arguments.split() if word.startswith("root="))
    options = " ".join(w for w in arguments.split() if w not in (root, "ro"))
    tree.add("/boot/grub", directory())
    if loader == "legacy":
        for name in recipe["legacy"]["stages"]:
            content = (where / _STAGES / name).read_bytes()
            tree.add(f"/boot/grub/{name}", regular(content))
        menu = render(
            "lab_menu_lst.j2",
            release=release,
            arguments=arguments,
            root=root.removeprefix("root="),
            options=options,
        )
        tree.add("/boot/grub/menu.lst", regular(menu.encode()))
        tree.add("/boot/grub/default", regular(saved_number(0)))
        tree.add("/boot/grub/device.map", regular(b"(hd0)\t/dev/sda\n"))
    else:
        config = render("lab_grub_cfg.j2", release=release, arguments=arguments)
        tree.add("/boot/grub/grub.cfg", regular(config.encode(), 0o444))
        tree.add("/boot/grub/grubenv", regular(environment_block({})))
        settings = f'GRUB_DEFAULT=saved\nGRUB_TIMEOUT=2\nGRUB_CMDLINE_LINUX="{options}"\n'
        tree.add("/etc/default/grub", regular(settings.encode()))


def saved_number(number: int) -> bytes:
    """Return GRUB Legacy's file ``default`` as grub-set-default leaves it."""
    head = f"{number}\n" + "#\n" * 10
    note = "# The size of this file must not change. Use grub-set-default, no editor."
    return (head + note).encode().ljust(_SAVED_SIZE - 1, b" ") + b"\n"


def environment_block(values: dict[str, str]) -> bytes:
    """Return a grubenv: a comment, NAME=VALUE lines, padded with # to 1,024 bytes."""
    text = "# GRUB Environment Block\n" + "".join(f"{k}={v}\n" for k, v in values.items())
    return text.encode().ljust(1024, b"#")


def install(image: Path, loader: Loader, recipe: dict[str, Any], scratch: Path) -> None:
    """Make a partitioned image boot through ``loader``; its files are in the partition already.

    :raises MissingError: no grub-mkimage here.
    :raises FailedError: the boot loader's own program refuses.
    """
    where = parts(loader, recipe)
    if loader == "legacy":
        _install_legacy(image, where, scratch)
    else:
        _install_grub2(image, where, recipe, scratch)


def _install_legacy(image: Path, where: Path, scratch: Path) -> None:
    (scratch / "device.map").write_text(f"(hd0) {image}\n", "utf-8")
    (scratch / "commands").write_text("root (hd0,0)\nsetup (hd0)\nquit\n", "utf-8")
    linker = next(iter(sorted(where.glob("**/ld-linux.so.2"))), None)
    libc = next(iter(sorted(where.glob("**/libc.so.6"))), None)
    if linker is None or libc is None:
        raise FailedError(f"{where}: has no 32-bit C library", hint="remove that directory")
    shell = [str(linker), "--library-path", str(libc.parent), str(where / "usr/sbin/grub")]
    # The shell reads its commands from standard input.
    script = 'exec "$@" <commands'
    argv = ["sh", "-c", script, "sh", *shell, "--batch", "--device-map=device.map"]
    result = LocalRunner().run(argv, cwd=scratch, timeout=120, check=False)
    said = result.output
    if "succeeded" not in said.rpartition("setup (hd0)")[2] or "Error" in said:
        found = [line for line in said.splitlines() if "Error" in line or "failed" in line]
        raise FailedError(f"GRUB Legacy's shell could not install: {(found or ['no output'])[0]}")


def _install_grub2(image: Path, where: Path, recipe: dict[str, Any], scratch: Path) -> None:
    maker = shutil.which("grub-mkimage")
    if maker is None:
        raise MissingError(
            "grub-mkimage: not found on this machine", hint="apt-get install grub-common"
        )
    modules = where / "usr/lib/grub/i386-pc"
    core = scratch / "core.img"
    argv = [maker, "-O", "i386-pc", "-d", str(modules), "-o", str(core)]
    argv += ["-p", "(hd0,msdos1)/boot/grub", *recipe["grub2"]["modules"]]
    LocalRunner().run(argv, timeout=120)
    content = core.read_bytes()
    room = (recipe["disk"]["first_sector"] - 1) * SECTOR
    if len(content) > room:
        raise FailedError(f"GRUB 2's core.img has {len(content)} bytes, there is room for {room}")
    with image.open("r+b") as disk:
        disk.write((modules / "boot.img").read_bytes()[:_BOOT_CODE])
        disk.seek(SECTOR)
        disk.write(content)
