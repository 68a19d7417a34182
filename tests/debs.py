# SPDX-License-Identifier: GPL-2.0-or-later
"""Small Debian packages, made with dpkg-deb."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path


def deb(
    place: Path,
    name: str,
    version: str = "1.0",
    arch: str = "amd64",
    *,
    content: str = "",
    **fields: str,
) -> Path:
    """Make a package that holds one file with ``content``; return its path in ``place``."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        tree.chmod(0o755)
        (tree / "DEBIAN").mkdir()
        control = {
            "Package": name,
            "Version": version,
            "Architecture": arch,
            "Maintainer": "tests <tests@example.org>",
            "Description": "a test",
            **fields,
        }
        (tree / "DEBIAN/control").write_text("".join(f"{k}: {v}\n" for k, v in control.items()))
        data = tree / "usr/share" / name
        data.mkdir(parents=True)
        (data / "content").write_text(content)
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{name}_{version.rpartition(':')[2]}_{arch}.deb"
        # gzip at its fastest: also what dpkg of old nodes reads.
        argv = ["dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "--build", tree, path]
        subprocess.run(argv, check=True, capture_output=True)
    return path
