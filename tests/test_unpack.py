# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives from strangers: what lands, what is refused, and what git would call it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from provision import unpack
from provision.errors import InputError

# Not to be compressed: cuts shall fall into content, whatever the format.
CONTENT = random.Random(1).randbytes(30_000)
EXPAND: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o644
    return info


def pack(path: Path, *entries: tuple[tarfile.TarInfo, bytes] | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for entry in entries:
            info, data = entry if isinstance(entry, tuple) else (entry, b"")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def everything(directory: Path) -> dict[str, object]:
    return {
        str(p.relative_to(directory)): str(p.readlink()) if p.is_symlink() else p.read_bytes()
        for p in sorted(directory.rglob("*"))
        if p.is_symlink() or p.is_file()
    }


@pytest.fixture
def good(tmp_path: Path) -> Path:
    script = member("top/run.sh")
    script.mode = 0o4775
    return pack(
        tmp_path / "good.tar",
        member("top", tarfile.DIRTYPE),
        (member("top/a/file"), CONTENT),
        (script, b"#!/bin/sh\n"),
        member("top/link", tarfile.SYMTYPE, "a/file"),
        member("top/hard", tarfile.LNKTYPE, "top/a/file"),
        member("top/empty", tarfile.DIRTYPE),
    )


@pytest.mark.parametrize("suffix", EXPAND)
def test_every_compression_gives_the_same(good: Path, suffix: str, tmp_path: Path) -> None:
    packed = tmp_path / f"x.tar{suffix}"
    packed.write_bytes(EXPAND[suffix](good.read_bytes()))
    target = tmp_path / "out"
    unpack.unpack(packed, target)
    assert everything(target) == {
        "a/file": CONTENT,
        "hard": CONTENT,
        "link": "a/file",
        "run.sh": b"#!/bin/sh\n",
    }
    assert (target / "empty").is_dir()
    # Neither setuid nor the archive's own idea of who may write.
    assert (target / "run.sh").stat().st_mode & 0o7777 == 0o755
    assert (target / "a/file").stat().st_mode & 0o7777 == 0o644
    assert unpack.archive_tree_id(packed) == unpack.directory_tree_id(target)


ESCAPES = {
    "dots": [(member("top/../../evil"), b"x")],
    "absolute": [(member("/tmp/evil"), b"x")],
    "dots inside": [(member("top/a/../../../evil"), b"x")],
    "absolute symlink": [member("top/l", tarfile.SYMTYPE, "/etc")],
    "symlink out": [member("top/l", tarfile.SYMTYPE, "../../evil")],
    "symlink to its parent's parent": [member("top/d/l", tarfile.SYMTYPE, "../../..")],
    "write through symlink": [
        member("top/l", tarfile.SYMTYPE, ".."),
        (member("top/l/evil"), b"x"),
    ],
    "symlink and file of one name": [
        member("top/l", tarfile.SYMTYPE, "a"),
        (member("top/l/evil"), b"x"),
    ],
    "two symlinks that lead out together": [
        member("top/d/one", tarfile.SYMTYPE, "."),
        member("top/d/two", tarfile.SYMTYPE, "one/../.."),
    ],
    "hard link out": [member("top/h", tarfile.LNKTYPE, "top/../../evil")],
    "absolute hard link": [member("top/h", tarfile.LNKTYPE, "/etc/passwd")],
    "hard link to nothing": [member("top/h", tarfile.LNKTYPE, "top/nothing")],
    "hard link to the top": [member("top/h", tarfile.LNKTYPE, "top")],
    "hard link through a symlink": [
        member("top/l", tarfile.SYMTYPE, "a"),
        member("top/h", tarfile.LNKTYPE, "top/l"),
    ],
    "character device": [member("top/d", tarfile.CHRTYPE)],
    "block device": [member("top/d", tarfile.BLKTYPE)],
    "fifo": [member("top/d", tarfile.FIFOTYPE)],
    "file, then directory": [(member("top/a"), b"x"), (member("top/a/b"), b"x")],
    "directory, then file": [(member("top/a/b"), b"x"), (member("top/a"), b"x")],
}


@pytest.mark.parametrize("name", ESCAPES)
def test_refused(name: str, tmp_path: Path) -> None:
    cell = tmp_path / "cell"
    cell.mkdir()
    packed = pack(cell / "bad.tar", *ESCAPES[name])
    with pytest.raises(InputError, match=r"refuses to unpack"):
        unpack.unpack(packed, cell / "out")
    # Nothing beside the target, and nothing in it that points away.
    assert sorted(p.name for p in cell.iterdir()) == ["bad.tar", "out"]
    for path in (cell / "out").rglob("*"):
        assert Path(os.path.realpath(path)).is_relative_to(os.path.realpath(cell / "out"))
    if name != "two symlinks that lead out together":
        with pytest.raises(InputError, match=r"refuses to unpack"):
            unpack.archive_tree_id(packed)


@pytest.mark.parametrize("suffix", EXPAND)
def test_truncated_anywhere(good: Path, suffix: str, tmp_path: Path) -> None:
    whole = EXPAND[suffix](good.read_bytes())
    # The content ends before the end mark and tar's padding; a cut there harms nothing.
    content = good.read_bytes().rstrip(b"\0")
    last = len(content) if suffix == "" else len(whole) - 1
    cut = tmp_path / f"cut.tar{suffix}"
    for size in {0, 1, 100, 511, 512, 513, 1024, 1536, *range(0, last, max(1, last // 40))}:
        if size >= last:
            continue
        cut.write_bytes(whole[:size])
        try:
            tree = unpack.archive_tree_id(cut)
        except InputError as error:
            assert "cut.tar" in error.message
        else:
            # The compressor's own trailer may be gone while all content is there.
            assert tree == unpack.archive_tree_id(good)
            assert size > len(whole) * 0.98


def test_cut_between_two_members_is_not_the_end(good: Path, tmp_path: Path) -> None:
    raw = good.read_bytes()
    with tarfile.open(good) as tar:
        starts = [m.offset for m in tar.getmembers()][1:]
    cut = tmp_path / "cut.tar"
    for start in starts:
        cut.write_bytes(raw[:start])
        with pytest.raises(InputError, match="truncated or not a tar archive"):
            unpack.unpack(cut, tmp_path / f"out{start}")


def test_garbage_in_the_middle(good: Path, tmp_path: Path) -> None:
    raw = bytearray(good.read_bytes())
    with tarfile.open(good) as tar:
        start = tar.getmembers()[2].offset
    raw[start : start + 512] = os.urandom(512)
    broken = tmp_path / "broken.tar"
    broken.write_bytes(raw)
    with pytest.raises(InputError, match="truncated or not a tar archive"):
        unpack.archive_tree_id(broken)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=2000))
@example(data=b"\x1f\x8b\x08")
@example(data=b"\x1f\x8b\x08\x04\0\0\0\0\0\0\1")
@example(data=b"\x1f\x8b\x08\x08\0\0\0\0\0\0name")
def test_noise_is_never_a_traceback(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with pytest.raises(InputError):
            unpack.archive_tree_id(Path(file.name))


def test_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        unpack.unpack(tmp_path / "gone.tar", tmp_path / "out")
    assert "gone.tar" in str(caught.value)


# Names around the slash, which is where git's order of entries is not that of names.
NAMES = st.sampled_from(["a", "a.b", "a-", "a0", "a b", "b", "ä", "A", "a.", "Z.c"])
LEAVES = st.one_of(
    st.tuples(st.just("file"), st.binary(max_size=20)),
    st.tuples(st.just("exec"), st.binary(max_size=20)),
    st.tuples(st.just("link"), st.sampled_from([b"a", b"b/a", b"nowhere"])),
)
TREES = st.recursive(
    LEAVES, lambda below: st.dictionaries(NAMES, below, min_size=1, max_size=5), max_leaves=12
).filter(lambda tree: isinstance(tree, dict))


def _make(tree: object, place: Path) -> None:
    if isinstance(tree, dict):
        place.mkdir()
        for name, below in tree.items():
            _make(below, place / name)
        return
    assert isinstance(tree, tuple)
    kind, data = tree
    if kind == "link":
        place.symlink_to(os.fsdecode(data))
    else:
        place.write_bytes(data)
        place.chmod(0o755 if kind == "exec" else 0o644)


@settings(max_examples=40, deadline=None)
@given(tree=TREES)
def test_tree_id_is_gits(tree: object) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch) / "tree"
        _make(tree, top)
        mine = unpack.directory_tree_id(top)
        git = ["git", f"--git-dir={scratch}/git", f"--work-tree={top}", "-c", "core.fileMode=true"]
        quiet = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
        for words in (["init", "-q"], ["-c", "core.autocrlf=false", "add", "-A", "-f"]):
            subprocess.run([*git, *words], check=True, env=quiet, capture_output=True)
        said = subprocess.run(
            [*git, "write-tree"], check=True, env=quiet, capture_output=True, text=True
        )
        assert mine == said.stdout.strip()
        packed = Path(scratch) / "x.tar"
        with tarfile.open(packed, "w") as tar:
            tar.add(top, arcname="top")
        assert unpack.archive_tree_id(packed) == mine
