# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources that no release can pin: a Debian package's, with a real dpkg, and a directory's."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import mini
import pytest

from provision import configure, local_sources, prepared, release, sources, unpack
from provision.errors import FailedError, InputError, MissingError

PACKAGE = "linux-source-mini"


def install(root: Path, archive: Path, version: str) -> None:
    """Make a package of an archive and have dpkg install it below ``root``."""
    tree = root.parent / f"package-{version}"
    (tree / "DEBIAN").mkdir(parents=True)
    tree.chmod(0o755)
    place = tree / "usr/src" / archive.name
    place.parent.mkdir(parents=True)
    shutil.copy(archive, place)
    digest = hashlib.md5(place.read_bytes()).hexdigest()
    (tree / "DEBIAN/md5sums").write_text(f"{digest}  usr/src/{archive.name}\n")
    (tree / "DEBIAN/control").write_text(
        f"Package: {PACKAGE}\nVersion: {version}\nArchitecture: all\n"
        "Maintainer: tests <tests@example.org>\nDescription: a test\n"
    )
    deb = root.parent / f"{version}.deb"
    subprocess.run(
        ["dpkg-deb", "-Zgzip", "--root-owner-group", "-b", tree, deb],
        check=True, capture_output=True,
    )  # fmt: skip
    for name in ("updates", "info"):
        (root / "var/lib/dpkg" / name).mkdir(parents=True, exist_ok=True)
    (root / "var/lib/dpkg/status").touch()
    subprocess.run(
        ["dpkg", f"--root={root}", "--force-not-root", "--log=/dev/null", "-i", deb],
        check=True, capture_output=True,
    )  # fmt: skip


class Local:
    """The release in small, its kernel from a Debian package, the rest from a directory."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = place / "root"
        self.root.mkdir()
        monkeypatch.setattr(local_sources, "ROOT", self.root)
        made = mini.make(place / "mini")
        self.archive = made.sources / "linux-mini.tar.gz"
        self.directory = made.release.parent / "extra"
        unpack.unpack(made.sources / "extra.tar.gz", self.directory)
        text = made.release.read_text()
        kernel, _, rest = text.partition("[archive.extra]")
        kernel = "".join(
            line + "\n"
            for line in kernel.splitlines()
            if not line.startswith(("urls", "tree", "git_ref"))
        )
        rest = rest[rest.index("[patches]") :]
        made.release.write_text(
            f'{kernel}debian = "{PACKAGE}"\n[archive.extra]\ndirectory = "extra"\n{rest}'
        )
        self.file = made.release
        self.linux = self.root / "usr/src" / self.archive.name

    @property
    def release(self) -> release.Release:
        return release.load(str(self.file))

    def identity(self, name: str) -> str:
        return local_sources.identity(self.release.archives[name])


@pytest.fixture
def local(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Local:
    return Local(tmp_path, monkeypatch)


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="needs dpkg")
def test_a_debian_package_is_what_dpkg_says_it_is(local: Local, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="linux-source-mini is not installed") as caught:
        sources.sources_of(local.release, tmp_path)
    assert caught.value.hint == f"apt-get install {PACKAGE}"

    install(local.root, local.archive, "6.1.1-1")
    found = sources.sources_of(local.release, tmp_path)
    assert found["linux"].path == local.linux
    md5 = hashlib.md5(local.archive.read_bytes()).hexdigest()
    assert found["linux"].identity == f"debian:{PACKAGE}=6.1.1-1 md5:{md5}"
    trees = sources.unpack_patched(local.release, found, tmp_path / "work")
    assert "EXTRAVERSION = -mini" in (trees["linux"] / "Makefile").read_text()
    assert configure.version_of(trees["linux"], local.release) == "2.6.20"

    # A security update: another tree, another build.
    tree = prepared.prepared_tree(local.release, tmp_path, sources.silent)
    install(local.root, local.archive, "6.1.2-1")
    assert "=6.1.2-1 " in local.identity("linux")
    assert prepared.prepared_tree(local.release, tmp_path, sources.silent) != tree

    local.linux.write_bytes(local.linux.read_bytes() + b"\0")
    with pytest.raises(InputError, match="is not what linux-source-mini installed") as wrong:
        sources.sources_of(local.release, tmp_path)
    assert "--reinstall" in (wrong.value.hint or "")
    local.linux.unlink()
    with pytest.raises(MissingError, match="is gone"):
        sources.sources_of(local.release, tmp_path)


def test_a_directory_is_what_is_in_it(local: Local, tmp_path: Path) -> None:
    before = local.identity("extra")
    # What a build by hand leaves is no source, and does not come along.
    for name in ("tool.o", ".tool.o.cmd", "modules.order"):
        (local.directory / name).write_text("made")
    (local.directory / ".git").mkdir()
    (local.directory / ".git/HEAD").write_text("ref")
    assert local.identity("extra") == before
    local_sources.copy(local.release.archives["extra"], tmp_path / "copy")
    assert f"tree:{unpack.directory_tree_id(tmp_path / 'copy')}" == before
    (local.directory / "patches/more").write_text("new")
    assert local.identity("extra") != before
    (local.directory / "link").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="neither a file nor a directory"):
        local.identity("extra")
    shutil.rmtree(local.directory)
    with pytest.raises(InputError, match="no such directory"):
        local.identity("extra")


def test_a_kernel_of_another_version_is_refused(tmp_path: Path) -> None:
    wanted = release.load("debian-6.1")
    for numbers, good in (("6 1 192", True), ("6 12 3", False), ("6 10 0", False)):
        version, patch, sub = numbers.split()
        text = f"VERSION = {version}\nPATCHLEVEL = {patch}\nSUBLEVEL = {sub}\n"
        (tmp_path / "Makefile").write_text(text)
        if good:
            assert configure.version_of(tmp_path, wanted) == "6.1.192"
        else:
            with pytest.raises(FailedError, match=r"the release debian-6\.1 says 6\.1"):
                configure.version_of(tmp_path, wanted)
