# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a build: a directory and its manifest.json, written atomically.

A directory with a manifest.json is whole: the manifest is written last, and the
directory gets its final name only after that. Layout::

    manifest.json  build.log
    vmlinuz  vmlinux  System.map  config  Module.symvers
    headers.tar            what modules are built against; headers.tar.list says what is in it
    lib/modules/RELEASE/   as make modules_install and depmod leave it
    tools/                 a prefix: bin/krgadm, bin/migrate, lib/, include/
"""

from __future__ import annotations

import functools
import hashlib
import json
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision import module as modules
from provision.atomic import write_text
from provision.console import say
from provision.errors import InputError
from provision.module import Module
from provision.paths import builds_dir

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Entry:
    """One file of a build: its SHA-256 in hex, size in bytes and permission bits.

    A symbolic link has ``target`` set, and the digest and size of that text.
    """

    sha256: str
    size: int
    mode: int
    target: str | None = None


@dataclass(frozen=True)
class Artifacts:
    """A finished build on disk."""

    directory: Path
    release: str
    arch: str
    kernel_release: str
    build_id: str
    files: Mapping[str, Entry]
    manifest: Mapping[str, Any]

    @functools.cached_property
    def module(self) -> Module | None:
        """Return the module that makes a node of its kernel; None when it has none."""
        config = self.directory / "config"
        return modules.of(
            self.manifest, config.read_text("utf-8", "replace") if config.is_file() else ""
        )

    def path(self, name: str) -> Path:
        """Return the path of the build's file ``name``, as in ``files``."""
        return self.directory / name

    def changed(self) -> list[str]:
        """Return the names of files that are gone or differ from the manifest."""
        return [
            name
            for name, entry in self.files.items()
            if describe_or_none(self.directory / name) != entry
        ]


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe(path: Path) -> Entry:
    """Return the Entry of a file or symbolic link."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        target = str(path.readlink())
        raw = target.encode()
        return Entry(hashlib.sha256(raw).hexdigest(), len(raw), 0o777, target)
    return Entry(digest(path), status.st_size, stat.S_IMODE(status.st_mode))


def describe_or_none(path: Path) -> Entry | None:
    """Return the Entry of a file, or None if there is none."""
    try:
        return describe(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def list_files(directory: Path) -> dict[str, Entry]:
    """Return every file and link below ``directory`` but the manifest, by relative name."""
    return {name: describe(directory / name) for name in list_names(directory)}


def list_names(directory: Path) -> list[str]:
    """Return the relative names of every file and link below ``directory`` but the manifest."""
    return [
        str(path.relative_to(directory))
        for path in sorted(directory.rglob("*"))
        if (path.is_symlink() or path.is_file()) and path != directory / MANIFEST
    ]


def load(directory: Path) -> Artifacts:
    """Read a finished build; InputError if there is none or its manifest is not ours."""
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
        if manifest["format"] != FORMAT:
            raise InputError(
                f"{path}: format {manifest['format']}, this program reads {FORMAT}",
                hint="build it again: krg-provision build-kernel",
            )
        files = {
            name: Entry(e["sha256"], e["size"], int(e["mode"], 8), e.get("target"))
            for name, e in manifest["files"].items()
        }
        return Artifacts(
            directory,
            manifest["release"],
            manifest["arch"],
            manifest["kernel_release"],
            manifest["build_id"],
            files,
            manifest,
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{directory}: not a finished build (no {MANIFEST})",
            hint="make one: krg-provision build-kernel",
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a build manifest ({error})") from error


def write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Complete a build directory: list its files and write manifest.json last, atomically."""
    files = {
        name: {
            "sha256": e.sha256,
            "size": e.size,
            "mode": f"{e.mode:04o}",
            **({"target": e.target} if e.target is not None else {}),
        }
        for name, e in list_files(directory).items()
    }
    text = json.dumps({"format": FORMAT, **manifest, "files": files}, indent=1) + "\n"
    write_text(directory / MANIFEST, text)


def find(release: str | None = None, arch: str | None = None) -> Artifacts:
    """Return the newest finished build in the user's builds directory that fits.

    :raises InputError: there is none.
    """
    fitting = [
        found
        for found in _finished(builds_dir())
        if (release is None or found.release == release) and (arch is None or found.arch == arch)
    ]
    if not fitting:
        what = " ".join(word for word in (release, arch) if word) or "any release"
        raise InputError(
            f"no finished build of {what} in {builds_dir()}",
            hint="make one: krg-provision build-kernel",
        )
    return max(fitting, key=lambda a: (a.directory / MANIFEST).stat().st_mtime)


def _finished(directory: Path) -> Iterable[Artifacts]:
    for path in sorted(directory.glob(f"*/{MANIFEST}")):
        # A name that begins with a dot is a build under way, or one being replaced.
        if path.parent.name.startswith("."):
            continue
        try:
            yield load(path.parent)
        except InputError as error:
            say(f"left out: {error.message}")
