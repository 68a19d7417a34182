# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds a module against a headers package, with nothing of the kernel's tree but that."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path


def unpacked(headers: Path, release: str, root: Path) -> Path:
    """Unpack the package below ``root``; return the directory that modules are built against."""
    subprocess.run(["dpkg-deb", "-x", headers, root], check=True)
    return root / f"usr/src/linux-headers-{release}"


def build_module(headers: Path, release: str, tmp_path: Path, sources: Mapping[str, str]) -> Path:
    """Build a module from its files, by name, with the command that the package itself gives.

    :return: a directory with lib/RELEASE/extra/*.ko, as ``elf.prove`` wants it.
    """
    place = unpacked(headers, release, tmp_path / "root")
    work = tmp_path / "lib" / release / "extra"
    work.mkdir(parents=True)
    for name, text in sources.items():
        (work / name).write_text(text)
    said = subprocess.run(
        ["dpkg-deb", "-f", headers, "Description"], capture_output=True, text=True, check=True
    ).stdout
    command = said[said.index(" make -C ") :].replace("\\\n", " ")
    command = command.replace(f"/lib/modules/{release}/build", shlex.quote(str(place)))
    done = subprocess.run(["sh", "-c", command], cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path / "lib"
