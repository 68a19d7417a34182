# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources: found, downloaded, taken from git, verified, patched; and every way to fail."""

from __future__ import annotations

import bz2
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import mini
import pytest
import web
from conftest import Command

from provision import release, sources, unpack
from provision.errors import FailedError, InputError, MissingError

FACTS = {
    "gcc": "12.2.0", "binutils": "2.40", "make": "4.3", "kernel": "2.6.20", "arch": "x86_64"
}  # fmt: skip


@pytest.fixture
def server() -> Iterator[web.Server]:
    with web.serving() as made:
        yield made


@pytest.fixture
def far(tmp_path: Path, home: Path, server: web.Server) -> mini.Mini:
    """The release in small, its kernel archive not here but on a web server."""
    urls = [f"{server.url}/gone", f"{server.url}/first", f"{server.url}/second"]
    made = mini.make(tmp_path / "mini", urls=urls)
    server.files["/first"] = server.files["/second"] = made.linux.read_bytes()
    made.linux.unlink()
    return made


def linux(made: mini.Mini) -> release.Archive:
    return release.load(str(made.release)).archives["linux"]


def test_download_tries_each_address_and_verifies(far: mini.Mini, server: web.Server) -> None:
    seen = []
    source = sources.obtain(
        linux(far), far.sources, progress=lambda what, done, total: seen.append((done, total))
    )
    assert source.identity == f"tree:{far.tree}" and source.origin.endswith("/first")
    assert source.path.read_bytes() == server.files["/first"]
    assert [path for path, _ in server.asked] == ["/gone", "/first"]
    size = len(server.files["/first"])
    assert (size, size) in seen
    left = sorted(p.name for p in far.sources.iterdir() if p.suffix != ".lock")
    assert left == ["extra.tar.gz", "linux-mini.tar.gz", "linux-mini.tar.gz.verified"]
    # What is there is not asked for again.
    sources.obtain(linux(far), far.sources)
    assert len(server.asked) == 2


def test_a_cut_download_is_continued_where_it_ended(far: mini.Mini, server: web.Server) -> None:
    server.cuts = [100]
    source = sources.obtain(linux(far), far.sources)
    assert [(p, r) for p, r in server.asked if p != "/gone"] == [
        ("/first", None),
        ("/second", "bytes=100-"),
    ]
    assert source.path.read_bytes() == server.files["/first"]


def test_a_later_run_continues(far: mini.Mini, server: web.Server) -> None:
    server.cuts = [100, 50]
    with pytest.raises(MissingError) as caught:
        sources.obtain(linux(far), far.sources)
    assert "ended after 100 of" in caught.value.message and "Not Found" in caught.value.message
    part = far.sources / "linux-mini.tar.gz.part"
    assert part.stat().st_size == 150 and not far.linux.exists()
    server.asked.clear()
    sources.obtain(linux(far), far.sources)
    assert ("/first", "bytes=150-") in server.asked and not part.exists()


def test_a_server_without_ranges_starts_again(far: mini.Mini, server: web.Server) -> None:
    (far.sources / "linux-mini.tar.gz.part").write_bytes(b"old rubbish")
    server.ranges = False
    source = sources.obtain(linux(far), far.sources)
    assert source.path.read_bytes() == server.files["/first"]


def test_rubbish_that_was_continued_is_thrown_away(far: mini.Mini, server: web.Server) -> None:
    (far.sources / "linux-mini.tar.gz.part").write_bytes(b"old rubbish")
    source = sources.obtain(linux(far), far.sources)
    assert source.origin.endswith("/second")
    assert source.path.read_bytes() == server.files["/second"]


def test_a_whole_part_needs_no_byte_more(far: mini.Mini, server: web.Server) -> None:
    (far.sources / "linux-mini.tar.gz.part").write_bytes(server.files["/first"])
    assert sources.obtain(linux(far), far.sources).identity == f"tree:{far.tree}"


def test_only_wrong_content_to_be_had(far: mini.Mini, server: web.Server) -> None:
    server.files["/first"] = b"<html>this domain is for sale</html>"
    server.files["/second"] = far.extra.read_bytes()
    with pytest.raises(MissingError) as caught:
        sources.obtain(linux(far), far.sources)
    assert "wrong git tree id" in caught.value.message
    left = sorted(p.name for p in far.sources.iterdir() if p.suffix != ".lock")
    assert left == ["extra.tar.gz"]


def test_nobody_answers(tmp_path: Path, home: Path) -> None:
    made = mini.make(tmp_path / "mini", urls=["http://127.0.0.1:9/x"])
    made.linux.unlink()
    with pytest.raises(MissingError, match=r"could not download linux-mini\.tar\.gz"):
        sources.obtain(linux(made), made.sources)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "data:,x", "/etc/passwd"])
def test_other_kinds_of_address(tmp_path: Path, home: Path, url: str) -> None:
    made = mini.make(tmp_path / "mini", urls=[url])
    made.linux.unlink()
    with pytest.raises(InputError, match="only https, http and file"):
        sources.obtain(linux(made), made.sources)


def test_any_of_the_names_will_do(mini: mini.Mini) -> None:
    raw = subprocess.run(["gzip", "-dc", mini.linux], capture_output=True, check=True).stdout
    (mini.sources / "linux-mini.tar.bz2").write_bytes(bz2.compress(raw))
    mini.linux.unlink()
    source = sources.obtain(linux(mini), mini.sources)
    assert source.path.name == "linux-mini.tar.bz2" and source.identity == f"tree:{mini.tree}"


def test_the_note_is_bound_to_the_file(mini: mini.Mini) -> None:
    archive = linux(mini)
    sources.verify(archive, mini.linux)
    note = mini.sources / "linux-mini.tar.gz.verified"
    assert json.loads(note.read_text())["tree"] == mini.tree
    mini.linux.write_bytes(mini.extra.read_bytes())
    with pytest.raises(InputError, match="wrong git tree id"):
        sources.verify(archive, mini.linux)


@pytest.mark.parametrize("which", ["linux", "extra"])
def test_a_changed_archive_is_refused_and_kept(mini: mini.Mini, krg: Command, which: str) -> None:
    path = getattr(mini, which)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = krg("fetch", *mini.options)
    assert done.returncode == 2, done.stderr
    assert path.name in done.stderr and "Traceback" not in done.stderr
    assert path.read_bytes() == data


def test_a_truncated_archive_is_refused(mini: mini.Mini, krg: Command) -> None:
    data = mini.linux.read_bytes()
    mini.linux.write_bytes(data[: len(data) // 2])
    done = krg("build-kernel", *mini.options)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1 and "truncated or not a tar archive" in errors[0]


def test_missing_archives_are_all_named(mini: mini.Mini, krg: Command) -> None:
    mini.linux.unlink()
    mini.extra.unlink()
    done = krg("fetch", *mini.options, "--no-download")
    assert done.returncode == 3
    assert "linux-mini.tar.gz" in done.stderr and "extra.tar.gz" in done.stderr


def test_fetch_says_what_it_has(mini: mini.Mini, krg: Command) -> None:
    done = krg("fetch", *mini.options, "--format", "json")
    assert done.returncode == 0
    rows = {row["archive"]: row for row in json.loads(done.stdout)["sources"]}
    assert rows["linux"]["identity"] == f"tree:{mini.tree}"
    assert rows["extra"]["path"] == str(mini.extra)


@pytest.fixture
def repository(mini: mini.Mini, tmp_path: Path) -> Path:
    """A git repository that has the small kernel under the tag v-mini, and more after it."""
    tree = tmp_path / "git"
    unpack.unpack(mini.linux, tree)
    for words in (
        ["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "one"], ["tag", "v-mini"],
        ["commit", "-q", "--allow-empty", "-m", "two"],
    ):  # fmt: skip
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *words],
            cwd=tree, check=True,
        )  # fmt: skip
    # An attribute that would leave a file out of `git archive`.
    (tree / ".git/info/attributes").write_text("Makefile export-ignore\n")
    return tree


def test_from_git(mini: mini.Mini, repository: Path, krg: Command) -> None:
    mini.linux.unlink()
    (repository / ".git/info/attributes").unlink()
    done = krg("fetch", *mini.options, "--git", repository)
    assert done.returncode == 0, done.stderr
    assert unpack.archive_tree_id(mini.linux) == mini.tree


def test_from_git_with_files_left_out_is_noticed(
    mini: mini.Mini, repository: Path, krg: Command
) -> None:
    mini.linux.unlink()
    done = krg("fetch", *mini.options, "--git", repository)
    assert done.returncode == 2 and "wrong git tree id" in done.stderr
    assert not mini.linux.exists()


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("v-none", "no such git repository or ref"),
        ("--help", "not a git ref"),
        ("HEAD", "has tree"),
    ],
)
def test_from_git_refuses(
    mini: mini.Mini, repository: Path, krg: Command, ref: str, said: str
) -> None:
    (repository / "more").write_text("x")
    subprocess.run(["git", "add", "-A"], cwd=repository, check=True)
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "three"],
        cwd=repository, check=True,
    )  # fmt: skip
    done = krg("fetch", *mini.options, "--git", repository, f"--ref={ref}")
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_no_repository(mini: mini.Mini, tmp_path: Path, krg: Command) -> None:
    done = krg("fetch", *mini.options, "--git", tmp_path / "nowhere")
    assert done.returncode == 2 and "no such git repository" in done.stderr


def prepare(made: mini.Mini, work: Path) -> dict[str, Path]:
    wanted = release.load(str(made.release))
    found = sources.sources_of(wanted, made.sources, download=False)
    trees = sources.unpack_patched(wanted, found, work)
    sources.fix(wanted, trees, FACTS)
    return trees


def test_patches_and_fixups_are_applied(mini: mini.Mini, tmp_path: Path) -> None:
    trees = prepare(mini, tmp_path / "work")
    assert "EXTRAVERSION = -mini" in (trees["linux"] / "Makefile").read_text()
    assert "PREEMPT_NONE=y" in (trees["linux"] / "arch/x86_64/defconfig").read_text()
    assert "OLD_COMPILERS" not in (trees["linux"] / "kernel/main.c").read_text()
    assert not list(trees["linux"].rglob("*.orig"))


GOOD = (mini.HERE / "extra/patches/01-name.patch").read_bytes()


@pytest.mark.parametrize(
    ("patches", "said"),
    [
        ({"01.patch": GOOD}, "1 patches match"),
        ({"01.patch": GOOD, "02.patch": GOOD}, "patch 02.patch.bz2 does not apply"),
        ({"01.patch": GOOD, "02.patch": b"no patch at all\n"}, "patch 02.patch.bz2 does not"),
        ({"01.patch": GOOD, "02.patch": GOOD.replace(b"Makefile", b"../../x")}, "02.patch.bz2"),
    ],
    ids=["missing", "does not apply", "no patch", "leads out"],
)
def test_patches_that_do_not_fit(
    tmp_path: Path, home: Path, patches: dict[str, bytes], said: str
) -> None:
    made = mini.make(tmp_path / "mini", patches=patches)
    with pytest.raises(FailedError) as caught:
        prepare(made, tmp_path / "work")
    assert said in caught.value.message


def test_a_damaged_patch(mini: mini.Mini, tmp_path: Path) -> None:
    wanted = release.load(str(mini.release))
    found = sources.sources_of(wanted, mini.sources, download=False)
    trees = sources.unpack_all(found, tmp_path / "work")
    (trees["extra"] / "patches/02-defconfig.patch.bz2").write_bytes(b"BZh9 not bzip2")
    assert wanted.patches
    with pytest.raises(FailedError, match=r"02-defconfig\.patch\.bz2: damaged patch"):
        sources.apply_patches(wanted.patches, trees)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "krg-test", place], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system (run as root): {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_full_disk_while_downloading(
    small_disk: Path, tmp_path: Path, krg: Command, server: web.Server
) -> None:
    noise = {"noise": os.urandom(3 << 20)}
    made = mini.make(tmp_path / "mini", change=noise, urls=[f"{server.url}/linux"])
    server.files["/linux"] = made.linux.read_bytes()
    done = krg("fetch", "--release", made.release, "--source-dir", small_disk)
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert done.returncode == 3, done.stderr
    assert len(errors) == 1 and "No space left" in errors[0] and str(small_disk) in errors[0]
    assert not (small_disk / "linux-mini.tar.gz").exists()


def test_no_room_for_a_build(small_disk: Path, mini: mini.Mini, krg: Command, home: Path) -> None:
    done = krg("build-kernel", *mini.options, "--work-dir", small_disk)
    assert done.returncode == 3 and "MiB free" in done.stderr
    assert list(small_disk.iterdir()) == []


def test_full_disk_where_the_result_goes(small_disk: Path, tmp_path: Path, krg: Command) -> None:
    # The modules are what fills it: a megabyte that does not compress away.
    data = b'asm(".section .data\\n.incbin \\"noise\\"");\n'
    helper = (mini.HERE / "linux/drivers/helper.c").read_bytes() + data
    change = {"noise": os.urandom(3 << 20), "drivers/helper.c": helper}
    made = mini.make(tmp_path / "mini", change=change)
    target = small_disk / "out"
    done = krg("build-kernel", *made.options, "-o", target)
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert done.returncode == 3, done.stderr
    assert len(errors) == 1 and "no space left" in errors[0]
    assert list(small_disk.iterdir()) == []


def test_full_disk_while_unpacking(small_disk: Path, tmp_path: Path) -> None:
    made = mini.make(tmp_path / "mini", change={"noise": os.urandom(3 << 20)})
    with pytest.raises(OSError, match="No space left") as caught:
        unpack.unpack(made.linux, small_disk / "out")
    assert str(caught.value.filename).startswith(str(small_disk))
