# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources that are on this machine already: those of Debian packages, and directories.

No release can name their digest: a package changes with every security update, and who has a
module of his own edits it. dpkg knows the MD5 digest of each file of a package (the control
file md5sums, deb-md5sums(5)); apt checked the package's signature when it came. A directory is
named by the git tree id of what is in it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from provision import unpack
from provision.errors import InputError, MissingError
from provision.release import Archive
from provision.runner import LocalRunner

ROOT = Path("/")
_SUM = re.compile(r"([0-9a-f]{32})  (\S.*)")
# What make leaves in the directory of a module is no source.
_MADE = (".o", ".ko", ".mod", ".mod.c", ".cmd", ".symvers", ".order", "~")


def identity(archive: Archive) -> str:
    """Return what identifies an archive's content, quickly: nothing large is read.

    :raises MissingError: the package is not installed; says how to get it.
    :raises InputError: there is no such directory.
    """
    if archive.pinned is not None:
        return archive.pinned
    if archive.directory is not None:
        return f"tree:{unpack.directory_tree_id(_there(archive), leave_out=_made)}"
    version, md5, _ = _known(archive)
    return f"debian:{archive.debian}={version} md5:{md5}"


def debian(archive: Archive) -> Path:
    """Return a package's archive, after looking whether it is still as dpkg installed it.

    :raises MissingError: the package is not installed.
    :raises InputError: the file was changed since.
    """
    package = archive.debian
    _, md5, path = _known(archive)
    again = f"apt-get install --reinstall {package}"
    try:
        with path.open("rb") as stream:
            # MD5 says that nobody changed it by accident; more than dpkg knows it cannot.
            have = hashlib.file_digest(
                stream, lambda: hashlib.md5(usedforsecurity=False)
            ).hexdigest()
    except FileNotFoundError as error:
        raise MissingError(f"{path}: is gone, and {package} installed", hint=again) from error
    if have != md5:
        raise InputError(f"{path}: is not what {package} installed", hint=again)
    return path


def _known(archive: Archive) -> tuple[str, str, Path]:
    """Return a package's version, and the digest and place of its archive, as dpkg knows them."""
    package = archive.debian
    assert package is not None
    runner, admin = LocalRunner(), f"--admindir={ROOT / 'var/lib/dpkg'}"
    form = "${Version} ${db:Status-Status}"
    try:
        said = runner.run(["dpkg-query", admin, "-W", "-f", form, package], check=False, timeout=60)
        version, _, state = said.output.strip().partition(" ")
        if not said.ok or state != "installed":
            raise MissingError(
                f"the Debian package {package} is not installed here",
                hint=f"apt-get install {package}",
            )
        sums = runner.run(
            ["dpkg-query", admin, "--control-show", package, "md5sums"], timeout=60
        ).output
    except FileNotFoundError as error:
        raise MissingError(
            f"{package} is a Debian package, and there is no dpkg here",
            hint="build on a Debian machine",
        ) from error
    found = {m[2]: m[1] for line in sums.splitlines() if (m := _SUM.fullmatch(line))}
    for name in archive.files:
        if f"usr/src/{name}" in found:
            return version, found[f"usr/src/{name}"], ROOT / "usr/src" / name
    raise InputError(f"{package} {version} brings no /usr/src/{archive.files[0]}")


def _there(archive: Archive) -> Path:
    assert archive.directory is not None
    if not archive.directory.is_dir():
        raise InputError(
            f"{archive.directory}: no such directory, of which {archive.name} is to be made"
        )
    for path in archive.directory.rglob("*"):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise InputError(f"{path}: is neither a file nor a directory")
    return archive.directory


def _made(path: Path) -> bool:
    return path.name.startswith(".") or path.name.endswith(_MADE)


def copy(archive: Archive, target: Path) -> None:
    """Copy a directory's sources to ``target``, without what make or git left among them."""
    place = _there(archive)

    def left_out(directory: str, names: list[str]) -> list[str]:
        return [name for name in names if _made(Path(directory) / name)]

    shutil.copytree(place, target, ignore=left_out)
