# SPDX-License-Identifier: GPL-2.0-or-later
"""Small Debian packages, made with dpkg-deb."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
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
        # gzip at its fastest; not checked, so that tests can have hostile names.
        argv = ["dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "--nocheck", "--build", tree]
        # The same content is the same file, whenever it is made.
        env = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
        subprocess.run([*argv, path], check=True, capture_output=True, env=env)
    return path


def manifest(place: Path, files: Sequence[Path], build: str = "1a2b3c4d") -> Path:
    """Write the packages.json that krg-provision package leaves beside its files."""
    packages = []
    for path in files:
        fields = subprocess.run(
            ["dpkg-deb", "-f", path, "Package", "Version", "Architecture"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        said = dict(line.split(": ", 1) for line in fields.splitlines())
        packages.append({
            "file": path.name,
            "package": said["Package"],
            "version": said["Version"],
            "architecture": said["Architecture"],
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
        })  # fmt: skip
    value = {"format": 1, "build_id": build, "release": "mini", "packages": packages}
    (place / "packages.json").write_text(json.dumps(value))
    return place / "packages.json"
