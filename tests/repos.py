# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the apt repository share: making one, and looking at it as a client does."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from debs import deb

from provision import repo, repo_publish
from provision.repo_publish import Wishes

needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, ("dpkg-deb", "apt-ftparchive", "gpg", "gpgv"))),
    reason="needs apt-get install dpkg apt-utils gnupg gpgv",
)


def tree(path: Path) -> dict[str, str]:
    """Return every file below ``path`` with its digest."""
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(path.rglob("*"))
        if p.is_file()
    }


def packages(store: Path, arch: str = "amd64") -> dict[str, str]:
    """Return path and SHA-256 of what the published index lists."""
    text = (store / f"www/dists/krg/main/binary-{arch}/Packages").read_text()
    return dict(re.findall(r"^Filename: (\S+)$.*?^SHA256: (\S+)$", text, re.M | re.S))


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Check that a command failed with one clear line; return it."""
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert len([s for s in lines if s.startswith("krg-provision: error: ")]) == 1, done.stderr
    assert len(lines) <= 2 and "Traceback" not in done.stderr
    return lines[0]


def published(
    store: Path, tmp_path: Path, *names: str, **wishes: object
) -> repo_publish.Publication:
    """Add packages by name and publish."""
    if names:
        repo.add(store, repo.offers([deb(tmp_path / "debs", name) for name in names]))
    return repo_publish.publish(store, Wishes(**wishes))  # type: ignore[arg-type]


def whole(store: Path) -> set[str]:
    """Check that the publication is complete, as a client sees it; return its packages."""
    www = store / "www"
    subprocess.run(
        ["gpgv", "--keyring", www / "krg-archive-keyring.gpg", www / "dists/krg/InRelease"],
        check=True, capture_output=True,
    )  # fmt: skip
    release = (www / "dists/krg/InRelease").read_text()
    lines = re.findall(r"^ ([0-9a-f]{64}) +\d+ (\S+)$", release, re.M)
    assert len(lines) == 4
    for sha256, name in lines:
        index = www / "dists/krg" / name
        assert hashlib.sha256(index.read_bytes()).hexdigest() == sha256
        assert (index.parent / "by-hash/SHA256" / sha256).is_file()
    for path, sha256 in packages(store).items():
        assert hashlib.sha256((www / path).read_bytes()).hexdigest() == sha256
    return {path.split("/")[1] for path in packages(store)}
