# SPDX-License-Identifier: GPL-2.0-or-later
"""The list of what an archive holds: what real tar wrote, and what no archive of ours holds."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from provision import archive_list
from provision.archive_list import Member
from provision.artifacts import digest
from provision.errors import InputError


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return an archive that tar wrote of a file, a hard link to it, a program and a link."""
    tree = tmp_path / "tree"
    (tree / "include/deep").mkdir(parents=True)
    (tree / "include/deep/a b.h").write_bytes(b"#define A\n")
    os.link(tree / "include/deep/a b.h", tree / "include/twice.h")
    (tree / "include/link.h").symlink_to("deep/a b.h")
    shutil.copyfile("/bin/true", tree / "program")
    (tree / "program").chmod(0o755)
    (tree / "script").write_text("#!/bin/sh\n")
    (tree / "script").chmod(0o755)
    made = tmp_path / "headers.tar"
    subprocess.run(["tar", "-C", tree, "--format=gnu", "-cf", made, "."], check=True)
    return made


def test_what_tar_wrote(archive: Path) -> None:
    header, program = b"#define A\n", Path("/bin/true").read_bytes()
    want = [
        Member("include/deep/a b.h", 10, md5(header)),
        Member("include/link.h", len("deep/a b.h"), "-"),
        Member("include/twice.h", 10, md5(header)),
        Member("program", len(program), md5(program), is_program=True),
        Member("script", 10, md5(b"#!/bin/sh\n")),
    ]
    assert archive_list.members(archive, digest(archive)) == want
    place = archive_list.write(archive)
    assert place.read_text().splitlines()[0] == digest(archive)
    assert archive_list.members(archive, digest(archive)) == want


def test_only_the_archives_own_list_counts(archive: Path) -> None:
    place = archive_list.write(archive)
    first, *lines = place.read_text().splitlines(keepends=True)
    place.write_text(first + lines[0])
    assert len(archive_list.members(archive, digest(archive))) == 1
    for text in ("0" * 64 + "\n" + lines[0], first + "odd\n", first + "file x - y\n", "", "\xff"):
        place.write_text(text, "latin-1")
        assert len(archive_list.members(archive, digest(archive))) == 5


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../b", "a\nb", "."])
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    path = tmp_path / "headers.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(InputError, match="not a path inside an archive"):
        archive_list.write(path)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE])
def test_what_is_neither_file_nor_link(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "headers.tar"
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo("odd")
        entry.type, entry.linkname = kind, "nowhere"
        tar.addfile(entry)
    with pytest.raises(InputError, match="neither a file nor a link"):
        archive_list.members(path, "")


def test_what_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "headers.tar"
    path.write_bytes(b"no archive" * 100)
    with pytest.raises(InputError, match="headers"):
        archive_list.members(path, "")
