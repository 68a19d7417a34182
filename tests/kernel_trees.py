# SPDX-License-Identifier: GPL-2.0-or-later
"""The configurable part of real kernel trees, out of the archives in the source cache.

2.6.20 comes with ``krg-provision fetch``. The others are found when an archive of that
name was put there by hand, such as made by ``git archive --prefix=linux-2.6.30/ v2.6.30``.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

import pytest

from provision.debian_archive import DebianArchive
from provision.errors import KrgError

ARCHIVES = {
    "2.6.20": "linux-2.6.20.tar.xz",
    "2.6.30": "linux-2.6.30.tar.gz",
    "kerrighed-3.0.0": "kerrighed-kernel-3.0.0.tar.gz",
}
_ENABLE = {
    "2.6.20": "krg-provision fetch",
    "2.6.30": "in a clone of Linux, git archive --prefix=linux-2.6.30/ -o FILE v2.6.30",
    "kerrighed-3.0.0": "put the kernel archive of Kerrighed 3.0.0 there",
}
_WANTED = re.compile(
    r"[^/]+/(Makefile|scripts/.*|arch/[^/]+/(defconfig|configs/[^/]*)|(.*/)?Kconfig[^/]*)"
)


def unpack(archive: Path, target: Path) -> Path:
    """Unpack what configuration needs of a kernel archive; return the tree."""
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            name = Path(member.name)
            if member.isreg() and ".." not in name.parts and _WANTED.fullmatch(member.name):
                file = target.joinpath(*name.parts[1:])
                file.parent.mkdir(parents=True, exist_ok=True)
                stream = tar.extractfile(member)
                assert stream is not None
                file.write_bytes(stream.read())
                file.chmod(0o755 if member.mode & 0o100 else 0o644)
    return target


def from_cache(name: str, sources: Path, target: Path) -> Path:
    """Unpack one of ARCHIVES; skip when it is not in ``sources``."""
    archive = sources / ARCHIVES[name]
    if not archive.is_file():
        pytest.skip(f"no {archive.name} in {sources}; enable: {_ENABLE[name]}")
    return unpack(archive, target)


def from_debian(version: str, work: Path) -> Path:
    """Download and unpack Debian's linux-source package; skip when it is not to be had."""
    package = f"linux-source-{version}"
    try:
        DebianArchive(work / "apt").unpack(package, work / "deb")
    except KrgError as error:
        pytest.skip(f"{package}: {error.message}; {error.hint}")
    archive = next((work / "deb/usr/src").glob("*.tar.*"))
    tree = unpack(archive, work / "tree")
    shutil.rmtree(work / "deb")
    shutil.rmtree(work / "apt")
    return tree
