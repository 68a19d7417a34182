# SPDX-License-Identifier: GPL-2.0-or-later
"""Our archives against the real cpio."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision.lab.cpio import Tree, character, directory, link, pack, regular

needs_cpio = pytest.mark.skipif(
    shutil.which("cpio") is None, reason="the oracle: apt-get install cpio"
)
WORD = st.text("abcXYZ01.-_ é", min_size=1, max_size=9)
# Directories and files differ in their first letter, so no file stands in another's way.
PATH = st.tuples(st.lists(WORD.map("d".__add__), max_size=3), WORD.map("f".__add__)).map(
    lambda parts: "/" + "/".join([*parts[0], parts[1]])
)


def listing(archive: bytes) -> str:
    done = subprocess.run(
        ["cpio", "-tv", "--quiet", "--numeric-uid-gid"],
        input=archive,
        capture_output=True,
        check=True,
        env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
    )
    assert done.stderr == b""
    return done.stdout.decode()


@needs_cpio
def test_every_kind_of_member() -> None:
    tree = Tree()
    tree.add("/dev/console", character(5, 1))
    tree.add("/bin/busybox", regular(b"abc", 0o755))
    tree.add("/bin/sh", link("/bin/busybox"))
    tree.add("/tmp", directory(0o1777))
    lines = [line.split() for line in listing(pack(tree.members)).splitlines()]
    # mode, links, user, group, then size or device, date, name
    assert [(line[0], " ".join(line[2:5]), line[-1]) for line in lines] == [
        ("drwxr-xr-x", "0 0 0", "bin"),
        ("-rwxr-xr-x", "0 0 3", "bin/busybox"),
        ("lrwxrwxrwx", "0 0 12", "/bin/busybox"),
        ("drwxr-xr-x", "0 0 0", "dev"),
        ("crw-------", "0 0 5,", "dev/console"),
        ("drwxrwxrwt", "0 0 0", "tmp"),
    ]
    assert lines[4][4:6] == ["5,", "1"]


@needs_cpio
@settings(max_examples=30, deadline=None)
@given(st.dictionaries(PATH, st.binary(max_size=40), max_size=8))
def test_files_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    tree = Tree()
    for path, data in files.items():
        tree.add(path, regular(data, 0o640))
    target = tmp_path_factory.mktemp("out")
    argv = ["cpio", "-id", "--quiet", "--no-absolute-filenames"]
    subprocess.run(argv, input=pack(tree.members), cwd=target, check=True)
    found = {"/" + str(p.relative_to(target)): p for p in target.rglob("*") if p.is_file()}
    assert {name: p.read_bytes() for name, p in found.items()} == files
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o640 for p in found.values())


def test_same_input_same_bytes_whatever_the_order() -> None:
    one, other = Tree(), Tree()
    for tree, names in ((one, ("/a/b", "/a-b", "/c")), (other, ("/c", "/a-b", "/a/b"))):
        for name in names:
            tree.add(name, regular(name.encode()))
    assert pack(one.members) == pack(other.members)
    assert len(pack(one.members)) % 512 == 0


def test_parents_come_first() -> None:
    tree = Tree()
    tree.add("/a/b/c", regular(b""))
    tree.add("/a-b", regular(b""))
    raw = pack(tree.members)
    assert raw.index(b"a\0") < raw.index(b"a/b\0") < raw.index(b"a/b/c\0") < raw.index(b"a-b\0")


@pytest.mark.parametrize("path", ["a", "/", "/a/../b", "", "/a\0b"])
def test_paths_that_are_not_plain(path: str) -> None:
    with pytest.raises(ValueError, match="not an absolute path"):
        Tree().add(path, directory())


def test_nothing_below_a_file() -> None:
    tree = Tree()
    tree.add("/a", regular(b""))
    with pytest.raises(ValueError, match="is not a directory"):
        tree.add("/a/b", regular(b""))
