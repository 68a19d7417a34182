# SPDX-License-Identifier: GPL-2.0-or-later
"""The apt repository: what gets in, what is published, and what an interruption leaves.

What apt itself says of it is in test_repo_apt.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Command
from debs import deb, manifest

from provision import repo, repo_publish
from provision.errors import InputError, KrgError
from provision.repo_publish import Wishes

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("dpkg-deb", "apt-ftparchive", "gpg", "gpgv"))),
    reason="needs apt-get install dpkg apt-utils gnupg gpgv",
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "repo"


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


# -- add ------------------------------------------------------------------------


def test_add_and_publish_from_a_manifest(krg: Command, store: Path, tmp_path: Path) -> None:
    made = manifest(tmp_path / "out", [deb(tmp_path / "out", "krg-a"),
                                       deb(tmp_path / "out", "krg-b", arch="i386"),
                                       deb(tmp_path / "out", "krg-c", "1:2.0", "all")])  # fmt: skip
    said = json.loads(krg("repo", "add", store, made.parent, "--format", "json").stdout)
    wanted = {p["sha256"] for p in json.loads(made.read_text())["packages"]}
    assert {p["sha256"] for p in said["added"]} == wanted and said["present"] == []
    # The manifest itself is an argument too; a second time nothing is new.
    again = json.loads(krg("repo", "add", store, made, "--format", "json").stdout)
    assert again["added"] == [] and {p["sha256"] for p in again["present"]} == wanted

    done = krg("repo", "publish", store, "--url", "http://host/krg", "--format", "json")
    value = json.loads(done.stdout)
    assert value["key_made"] and value["key_home"] == str(store / "state/gnupg")
    assert {p["sha256"] for p in value["packages"]} == wanted
    assert set(packages(store).values()) | set(packages(store, "i386").values()) == wanted
    assert "pool/krg-c/krg-c_2.0_all.deb" in packages(store, "i386")
    for path, sha256 in packages(store).items():
        assert hashlib.sha256((store / "www" / path).read_bytes()).hexdigest() == sha256
    listed = json.loads(krg("repo", "list", store, "--format", "json").stdout)
    assert all(p["published"] and p["builds"] == ["1a2b3c4d"] for p in listed["packages"])
    assert "URIs: http://host/krg\n" in (store / "www/krg.sources").read_text()
    assert "deb http://host/krg krg main\n" in (store / "www/krg.list").read_text()


def test_check_touches_nothing(krg: Command, store: Path, tmp_path: Path) -> None:
    file = deb(tmp_path, "krg-a")
    assert krg("repo", "add", store, file, "--check").stdout == "would add krg-a=1.0:amd64\n"
    assert not store.exists()
    krg("repo", "add", store, file)
    before = tree(store)
    done = krg("repo", "publish", store, "--check")
    assert done.stdout.startswith("+ pool/krg-a/krg-a_1.0_amd64.deb\nwould publish 1 packages")
    assert krg("repo", "remove", store, "krg-a", "--check").stdout.startswith("would remove")
    assert tree(store) == before


def test_a_file_that_changed_since_the_manifest(krg: Command, store: Path, tmp_path: Path) -> None:
    good, bad = deb(tmp_path, "krg-a"), deb(tmp_path, "krg-b")
    made = manifest(tmp_path, [good, bad])
    deb(tmp_path, "krg-b", content="another")
    said = one_line(krg("repo", "add", store, made), 2)
    assert "krg-b_1.0_amd64.deb: changed since packages.json was written" in said
    assert not store.exists()
    bad.unlink()
    assert "no such file" in one_line(krg("repo", "add", store, made), 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file": "../krg-a_1.0_amd64.deb"}, "is not the name of a .deb file"),
        ({"file": "/etc/passwd"}, "is not the name of a .deb file"),
        ({"version": "2.0"}, "is krg-a=1.0:amd64, not krg-a=2.0:amd64"),
        ({"package": "other"}, "not other=1.0:amd64"),
        ({"sha256": "0" * 64}, "changed since"),
        ({"sha256": None}, "not a manifest"),
        ({"size": 1}, "changed since"),
    ],
)
def test_hostile_manifests(
    krg: Command, store: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    made = manifest(tmp_path, [deb(tmp_path, "krg-a")])
    value = json.loads(made.read_text())
    value["packages"][0].update(change)
    made.write_text(json.dumps(value))
    assert said in one_line(krg("repo", "add", store, made), 2)
    assert not store.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1}', "\xff"])
def test_manifests_that_are_none(krg: Command, store: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "packages.json").write_text(text, encoding="latin-1")
    assert "packages.json" in one_line(krg("repo", "add", store, tmp_path), 2)


def test_files_that_are_no_packages(krg: Command, store: Path, tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"!<arch>\nnonsense")
    assert "not a Debian package" in one_line(krg("repo", "add", store, tmp_path / "x.deb"), 2)
    assert "no such file" in one_line(krg("repo", "add", store, tmp_path / "y.deb"), 2)
    assert "expected a .deb" in one_line(krg("repo", "add", store, "/etc/passwd"), 2)
    assert "packages.json" in one_line(krg("repo", "add", store, tmp_path), 2)
    hostile = deb(tmp_path, "krg-a", Package="../../evil")
    assert "invalid package name" in one_line(krg("repo", "add", store, hostile), 2)
    # dpkg-deb shows this one as it is.
    strange = deb(tmp_path, "krg-a", Architecture="../../evil")
    assert "'../../evil' is not an architecture" in one_line(krg("repo", "add", store, strange), 2)
    assert not store.exists()


def test_another_content_under_the_same_name(krg: Command, store: Path, tmp_path: Path) -> None:
    krg("repo", "add", store, deb(tmp_path, "krg-a"))
    before = tree(store)
    other = deb(tmp_path / "other", "krg-a", content="another")
    new = deb(tmp_path, "krg-new")
    said = one_line(krg("repo", "add", store, new, other), 2)
    assert "krg-a=1.0:amd64 is in the repository already, with another content" in said
    assert tree(store) == before
    # An epoch is no part of a file's name: two versions would be one file.
    same = deb(tmp_path / "epoch", "krg-a", "1:1.0")
    assert "is in the repository already" in one_line(krg("repo", "add", store, same), 2)
    assert tree(store) == before


def test_a_directory_of_somebody_else(krg: Command, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home/letter").write_text("x")
    file = deb(tmp_path, "krg-a")
    assert "not empty" in one_line(krg("repo", "add", tmp_path / "home", file), 2)
    for words in (["publish"], ["list"], ["prune", "--keep", "1"], ["remove"], ["serve"]):
        more = ["krg-a"] if words == ["remove"] else []
        done = krg("repo", words[0], tmp_path / "home", *words[1:], *more)
        assert "not a package repository" in one_line(done, 2)
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["letter"]


def test_a_file_that_changes_while_it_is_copied(store: Path, tmp_path: Path) -> None:
    (offer,) = repo.offers([deb(tmp_path, "krg-a")])
    deb(tmp_path, "krg-a", content="another")
    with pytest.raises(InputError, match="changed while it was copied"):
        repo.add(store, [offer])
    assert list((store / "pool").rglob("*.deb*")) == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "krg-test", place],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small file system (run as root): {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_no_space(
    krg: Command, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small / "repo"
    krg("repo", "add", store, deb(tmp_path, "krg-a"))
    assert krg("repo", "publish", store).returncode == 0
    before = tree(store)
    large = deb(tmp_path, "krg-large", content=os.urandom(8 << 20).hex())
    assert re.search(r"\d+ MB free, the packages need \d+ MB", one_line(
        krg("repo", "add", store, large, large), 3))  # fmt: skip
    assert tree(store) == before
    # The disk is full when publish comes.
    shutil.copyfile(deb(tmp_path, "krg-b"), small / "b.deb")
    krg("repo", "add", store, small / "b.deb")
    with (small / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
        while True:
            filler.write(b"\0" * 4096)
    public = tree(store / "www")
    assert "0 MB free, publishing needs 4 MB" in one_line(krg("repo", "publish", store), 3)
    assert tree(store / "www") == public
    # It becomes full while publish is at work.
    monkeypatch.setattr(repo_publish, "ROOM", 0)
    with pytest.raises((KrgError, OSError), match="No space left"):
        repo_publish.publish(store, Wishes())
    assert tree(store / "www") == public
    (small / "filler").unlink()
    assert krg("repo", "publish", store).returncode == 0
    assert "pool/krg-b/krg-b_1.0_amd64.deb" in packages(store)


# -- publish --------------------------------------------------------------------


def published(
    store: Path, tmp_path: Path, *names: str, **wishes: object
) -> repo_publish.Publication:
    """Add packages by name and publish."""
    if names:
        repo.add(store, repo.offers([deb(tmp_path / "debs", name) for name in names]))
    return repo_publish.publish(store, Wishes(**wishes))  # type: ignore[arg-type]


def test_release_and_signatures(store: Path, tmp_path: Path) -> None:
    done = published(store, tmp_path, "krg-a")
    dists = store / "www/dists/krg"
    release = (dists / "Release").read_text()
    for line in ("Suite: krg", "Codename: krg", "Components: main", "Acquire-By-Hash: yes",
                 "Architectures: amd64 i386"):  # fmt: skip
        assert f"\n{line}\n" in f"\n{release}"
    assert re.search(r"^Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d UTC$", release, re.M)
    assert re.search(r"^Valid-Until: .* UTC$", release, re.M)
    for title, size in (("MD5Sum", 32), ("SHA1", 40), ("SHA256", 64)):
        found = re.search(rf"^{title}:\n((?: .*\n?)+)", release, re.M)
        assert found and len(re.findall(rf"^ [0-9a-f]{{{size}}} ", found[1], re.M)) == 4
    keyring = store / "www/krg-archive-keyring.gpg"
    for what in ([dists / "InRelease"], [dists / "Release.gpg", dists / "Release"]):
        said = subprocess.run(
            ["gpgv", "--status-fd", "1", "--keyring", keyring, *what],
            capture_output=True,
            text=True,
        )
        assert said.returncode == 0 and done.key.fingerprint in said.stdout
        # RSA (1) and SHA256 (8): what the gpgv of old systems can check.
        assert re.search(r"VALIDSIG \S+ \S+ \d+ \d+ \d+ 0 1 8 ", said.stdout)
    assert b"BEGIN PGP PUBLIC KEY" in (store / "www/krg-archive-keyring.asc").read_bytes()


@pytest.mark.skipif(not shutil.which("gpgv1"), reason="needs apt-get install gpgv1")
def test_the_gpgv_of_old_systems_accepts_it(store: Path, tmp_path: Path) -> None:
    """GnuPG 1.4 is what apt of Debian 5 to 8 calls."""
    published(store, tmp_path, "krg-a")
    dists, keyring = store / "www/dists/krg", store / "www/krg-archive-keyring.gpg"
    for what in ([dists / "InRelease"], [dists / "Release.gpg", dists / "Release"]):
        said = subprocess.run(
            ["gpgv1", "--keyring", keyring, *what], capture_output=True, text=True
        )
        assert said.returncode == 0 and "Good signature" in said.stderr, said.stderr


def test_what_is_private_and_what_is_readable(store: Path, tmp_path: Path) -> None:
    offered = repo.offers([deb(tmp_path, "krg-a")])
    old = os.umask(0o077)
    try:
        repo.add(store, offered)
        published(store, tmp_path)
    finally:
        os.umask(old)
    assert (store / "state").stat().st_mode & 0o777 == 0o700
    assert (store / "state/gnupg").stat().st_mode & 0o777 == 0o700
    for path in [store, store / "published", store / "www", *(store / "www/").rglob("*")]:
        want = 0o755 if path.is_dir() else 0o644
        assert path.stat().st_mode & 0o777 == want, path
    assert not [p for p in (store / "www/").rglob("*") if "gnupg" in p.name or "private" in p.name]


def test_a_client_of_the_former_publication_finds_its_files(store: Path, tmp_path: Path) -> None:
    published(store, tmp_path, "krg-a", "krg-b")
    former = tree(store / "www/dists/krg/main")
    repo.remove(store, repo.matching(repo.load(store), ["krg-b"]))
    published(store, tmp_path, "krg-c")
    now = tree(store / "www/dists/krg/main")
    assert {k: v for k, v in former.items() if "by-hash" in k}.items() <= now.items()
    assert list(packages(store)) == [f"pool/krg-{x}/krg-{x}_1.0_amd64.deb" for x in "ac"]
    removed = "pool/krg-b/krg-b_1.0_amd64.deb"
    assert (store / "www" / removed).is_file() and not (store / removed).exists()
    published(store, tmp_path)
    assert not (store / "www" / removed).exists()
    assert [p.name for p in sorted((store / "published").iterdir())] == ["2", "3"]


def test_former_indexes_do_not_pile_up(store: Path, tmp_path: Path) -> None:
    kept = repo_publish.repo_index.KEPT
    for number in range(kept // 2 + 3):
        published(store, tmp_path, f"krg-{number}")
    places = list((store / "www/dists/krg/main").glob("binary-amd64/by-hash/*"))
    assert {len(list(p.iterdir())) for p in places} == {kept + 2}


def test_each_publication_is_newer_by_whole_seconds(store: Path, tmp_path: Path) -> None:
    times = []
    for _ in range(3):
        published(store, tmp_path, "krg-a")
        times.append(int((store / "www/dists/krg/InRelease").stat().st_mtime))
    assert times == sorted(set(times))


def test_source_date_epoch(krg: Command, store: Path, tmp_path: Path) -> None:
    krg("repo", "add", store, deb(tmp_path, "krg-a"))
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1780000000"}
    assert krg("repo", "publish", store, env=env).returncode == 0
    release = store / "www/dists/krg/Release"
    first = release.read_text()
    assert "\nDate: Thu, 28 May 2026 20:26:40 UTC\n" in first
    assert "\nValid-Until: Fri, 28 May 2027 20:26:40 UTC\n" in first
    assert krg("repo", "publish", store, env=env).returncode == 0
    assert release.read_text() == first
    for epoch, said in (
        ("1779999999", "before the published"),
        ("99999999999999", "in the future"),
        ("yesterday", "not a number"),
    ):
        env = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
        assert said in one_line(krg("repo", "publish", store, env=env), 2)
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1780000000"}
    assert "is past" in one_line(krg("repo", "publish", store, "--valid-days", "1", env=env), 2)
    assert release.read_text() == first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "../x"], "--suite"),
        (["--url", "http://host/a b"], "--url"),
        (["--url", "http://host/\nTrusted: yes"], "--url"),
        (["--key", "me@example.org"], "not a fingerprint"),
        (["--key", "0" * 40], "no such secret key"),
    ],
)
def test_bad_wishes(krg: Command, store: Path, tmp_path: Path, words: list[str], said: str) -> None:
    krg("repo", "add", store, deb(tmp_path, "krg-a"))
    assert said in one_line(krg("repo", "publish", store, *words), 2)
    assert not (store / "www").exists()


def test_the_suite_stays(krg: Command, store: Path, tmp_path: Path) -> None:
    krg("repo", "add", store, deb(tmp_path, "krg-a"))
    assert krg("repo", "publish", store, "--suite", "lab").returncode == 0
    assert (store / "www/lab.sources").is_file()
    assert "as suite lab" in one_line(krg("repo", "publish", store, "--suite", "krg"), 2)
    assert krg("repo", "publish", store).returncode == 0
    assert [p.name for p in (store / "www/dists").iterdir()] == ["lab"]


def test_something_in_the_way(krg: Command, store: Path, tmp_path: Path) -> None:
    krg("repo", "add", store, deb(tmp_path, "krg-a"))
    (store / "www").mkdir()
    assert "in the way" in one_line(krg("repo", "publish", store), 2)
    (store / "www").rmdir()
    (store / "www").symlink_to("/etc")
    assert "leads to /etc" in one_line(krg("repo", "publish", store), 2)


@pytest.mark.parametrize(
    ("tool", "package"), [("apt-ftparchive", "apt-utils"), ("gpg", "gnupg"), ("gpgv", "gpgv")]
)
def test_a_missing_tool(krg: Command, store: Path, tmp_path: Path, tool: str, package: str) -> None:
    krg("repo", "add", store, deb(tmp_path, "krg-a"))
    place = tmp_path / "bin"
    place.mkdir()
    for name in {"apt-ftparchive", "gpg", "gpgconf", "gpgv", "dpkg-deb"} - {tool}:
        (place / name).symlink_to(shutil.which(name) or "")
    before = tree(store)
    done = krg("repo", "publish", store, env={**os.environ, "PATH": str(place)})
    assert f"{tool}: not found" in one_line(done, 3)
    assert done.stderr.splitlines()[1] == f"  apt-get install {package}"
    assert tree(store) == before


def test_files_of_the_pool_that_nobody_added(krg: Command, store: Path, tmp_path: Path) -> None:
    published(store, tmp_path, "krg-a")
    shutil.copy(deb(tmp_path, "krg-stray"), store / "pool")
    published(store, tmp_path)
    assert list(packages(store)) == ["pool/krg-a/krg-a_1.0_amd64.deb"]
    assert "1 files of the pool" in krg("repo", "list", store).stderr
    assert krg("repo", "prune", store, "--keep", "1").stdout == (
        "removed pool/krg-stray_1.0_amd64.deb\n"
    )
    assert [p.name for p in (store / "pool").rglob("*.deb")] == ["krg-a_1.0_amd64.deb"]


def test_a_file_of_the_pool_that_was_changed(krg: Command, store: Path, tmp_path: Path) -> None:
    published(store, tmp_path, "krg-a")
    public = tree(store / "www/dists")
    path = store / "pool/krg-a/krg-a_1.0_amd64.deb"
    good = path.read_bytes()
    path.unlink()
    path.write_bytes(good[:-1] + b"x")
    said = one_line(krg("repo", "publish", store), 2)
    assert f"{path}: no longer what was added" in said
    assert tree(store / "www/dists") == public
    (tmp_path / "elsewhere").write_bytes(good)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert "no longer what was added" in one_line(krg("repo", "publish", store), 2)
    path.unlink()
    # The right content under another time, as a backup brings it back, is right.
    path.write_bytes(good)
    assert krg("repo", "publish", store).returncode == 0


def test_what_apt_ftparchive_remembers_is_not_trusted(store: Path, tmp_path: Path) -> None:
    published(store, tmp_path, "krg-a")
    cache = store / "state/cache/packages-amd64.db"
    cache.write_bytes(b"damaged" + cache.read_bytes()[7:])
    published(store, tmp_path, "krg-b")
    # Another content under the same name, size and time.
    old = repo.matching(repo.load(store), ["krg-a"])[0]
    repo.remove(store, [old])
    file = deb(tmp_path / "other", "krg-a", content="x" * 9)
    again = deb(tmp_path / "third", "krg-a", content="y" * 9)
    assert file.stat().st_size == again.stat().st_size
    for path in (file, again):
        repo.add(store, repo.offers([path]))
        os.utime(store / old.path, ns=(10**18, 10**18))
        published(store, tmp_path)
        have = hashlib.sha256(path.read_bytes()).hexdigest()
        assert packages(store)[old.path] == have
        repo.remove(store, [old])


def test_prune_keeps_the_newest_builds(krg: Command, store: Path, tmp_path: Path) -> None:
    for number in range(4):
        out = tmp_path / f"build{number}"
        names = [deb(out, f"linux-image-{number}"), deb(out, "krg-meta", f"1.{number}", "all")]
        # The same file belongs to all builds.
        names.append(deb(out, "krg-common"))
        repo.add(store, repo.offers([manifest(out, names, build=f"build{number}")]))
        repo.add(store, repo.offers([deb(tmp_path, "loose", f"1.{number}")]))
    published(store, tmp_path)
    krg("repo", "prune", store, "--keep", "2")
    left = sorted(p.title for p in repo.load(store).packages)
    assert left == [
        "krg-common=1.0:amd64",
        "krg-meta=1.2:all", "krg-meta=1.3:all",
        "linux-image-2=1.0:amd64", "linux-image-3=1.0:amd64",
        "loose=1.2:amd64", "loose=1.3:amd64",
    ]  # fmt: skip
    assert sorted(p.name for p in (store / "pool").iterdir()) == sorted(
        {title.split("=")[0] for title in left}
    )
    published(store, tmp_path)
    assert len(packages(store)) == 7


def test_remove(krg: Command, store: Path, tmp_path: Path) -> None:
    for arch in ("amd64", "i386"):
        for version in ("1.0", "2.0"):
            repo.add(store, repo.offers([deb(tmp_path, "krg-a", version, arch)]))
    assert krg("repo", "remove", store, "krg-a=1.0:i386").stdout == "removed krg-a=1.0:i386\n"
    assert len(krg("repo", "remove", store, "krg-a=2.0").stdout.splitlines()) == 2
    assert "no such package" in one_line(krg("repo", "remove", store, "krg-a=2.0"), 2)
    assert krg("repo", "remove", store, "krg-a").stdout == "removed krg-a=1.0:amd64\n"
    assert list((store / "pool").iterdir()) == []


def test_an_emptied_repository_can_be_published(store: Path, tmp_path: Path) -> None:
    published(store, tmp_path, "krg-a")
    repo.remove(store, repo.load(store).packages)
    published(store, tmp_path)
    assert packages(store) == {}


def test_serve(krg: Command, store: Path, tmp_path: Path) -> None:
    published(store, tmp_path, "krg-a")
    with subprocess.Popen(
        [sys.executable, "-m", "provision", "repo", "serve", store, "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        first = urllib.request.urlopen(f"{url}/dists/krg/InRelease").read()
        published(store, tmp_path, "krg-b")
        # The link is followed for each request.
        assert urllib.request.urlopen(f"{url}/dists/krg/InRelease").read() != first
        for path in ("/../state/repository.json", "/%2e%2e/state/repository.json"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(url + path)
        port = url.rsplit(":", 1)[1]
        assert "cannot be served" in one_line(krg("repo", "serve", store, "--port", port), 3)
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 130


# -- keys -----------------------------------------------------------------------


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The user's own keyring, which must have a short path: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="krg-keys-") as name:
        monkeypatch.setenv("GNUPGHOME", name)

        def make(user: str, *more: str, passphrase: str = "") -> str:
            argv = ["gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase", passphrase]
            subprocess.run(
                [*argv, "--quick-gen-key", user, *(more or ("rsa2048", "sign", "never"))],
                check=True, capture_output=True,
            )  # fmt: skip
            listing = subprocess.run(
                ["gpg", "--batch", "--with-colons", "--list-secret-keys", f"={user}"],
                check=True, capture_output=True, text=True,
            ).stdout  # fmt: skip
            return re.findall(r"^fpr:+([0-9A-F]{40}):", listing, re.M)[0]

        yield SimpleNamespace(make=make)
        subprocess.run(["gpgconf", "--kill", "gpg-agent"], check=True)


def test_the_users_own_key(
    krg: Command, store: Path, tmp_path: Path, keys: SimpleNamespace
) -> None:
    mine = keys.make("mine")
    krg("repo", "add", store, deb(tmp_path, "krg-a"))
    spaced = " ".join(mine[i : i + 4] for i in range(0, 40, 4)).lower()
    value = json.loads(krg("repo", "publish", store, "--key", spaced, "--format", "json").stdout)
    assert value["key"] == mine and not value["key_made"] and value["notes"] == []
    # It is remembered, and no key of ours was made.
    assert json.loads(krg("repo", "publish", store, "--format", "json").stdout)["key"] == mine
    assert not (store / "state/gnupg").exists()
    other = keys.make("other", "ed25519", "sign", "never")
    done = krg("repo", "publish", store, "--key", other)
    assert "not RSA" in done.stdout and "nodes need the new keyring" in done.stdout


def test_a_key_with_a_passphrase(
    krg: Command, store: Path, tmp_path: Path, keys: SimpleNamespace
) -> None:
    mine = keys.make("mine", passphrase="secret")
    subprocess.run(["gpgconf", "--kill", "gpg-agent"], check=True)
    krg("repo", "add", store, deb(tmp_path, "krg-a"))
    (tmp_path / "wrong").write_text("nonsense\n")
    (tmp_path / "right").write_text("secret\n")
    words = ["repo", "publish", store, "--key", mine, "--passphrase-file"]
    done = krg(*words, tmp_path / "wrong")
    assert "Bad passphrase" in one_line(done, 1) and "--passphrase-file" in done.stderr
    assert not (store / "www").exists() and list((store / "published").iterdir()) == []
    assert "no such file" in one_line(krg(*words, tmp_path / "none"), 2)
    assert krg(*words, tmp_path / "right").returncode == 0


def test_a_revoked_key(krg: Command, store: Path, tmp_path: Path, keys: SimpleNamespace) -> None:
    mine = keys.make("mine")
    home = Path(os.environ["GNUPGHOME"])
    text = (home / f"openpgp-revocs.d/{mine}.rev").read_text().replace(":-----", "-----")
    subprocess.run(
        ["gpg", "--batch", "--import"], input=text, text=True, check=True, capture_output=True
    )
    krg("repo", "add", store, deb(tmp_path, "krg-a"))
    said = one_line(krg("repo", "publish", store, "--key", mine), 2)
    assert "is revoked" in said


def test_the_key_that_nodes_trust_is_gone(krg: Command, store: Path, tmp_path: Path) -> None:
    published(store, tmp_path, "krg-a")
    shutil.rmtree(store / "state/gnupg")
    public = tree(store / "www")
    assert "the key that nodes trust is gone" in one_line(krg("repo", "publish", store), 2)
    assert tree(store / "www") == public


def test_no_agent_stays(store: Path, tmp_path: Path) -> None:
    published(store, tmp_path, "krg-a")
    agents = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            agents.append((process / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    assert not [a for a in agents if "krg-gpg-" in a and "gpg-agent" in a]


# -- interruptions --------------------------------------------------------------

# Runs a command of ours and kills it, as a power cut would, at the N-th thing that it does to
# the file system or asks of another program; exit status 0 when there were fewer.
KILL = """\
import os, signal, sys
from provision import cli, runner
count = int(sys.argv[1])
def wrapped(function):
    def call(*args, **options):
        global count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return call
for name in ("link", "rename", "replace", "symlink", "unlink"):
    setattr(os, name, wrapped(getattr(os, name)))
runner.LocalRunner.run = wrapped(runner.LocalRunner.run)
cli.main(sys.argv[2:])
"""


def killed_at(count: int, *words: object) -> bool:
    # What a killed run leaves in the place for temporary files goes with this.
    with tempfile.TemporaryDirectory(prefix="krg-kill-") as place:
        done = subprocess.run(
            [sys.executable, "-c", KILL, str(count), *map(str, words)],
            capture_output=True, text=True, env={**os.environ, "TMPDIR": place},
        )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


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


def test_publish_killed_at_every_step(tmp_path: Path, home: Path) -> None:
    made = tmp_path / "made"
    published(made, tmp_path, "krg-a")
    published(made, tmp_path)
    repo.add(made, repo.offers([deb(tmp_path, "krg-b")]))
    seen = []
    while True:
        store = tmp_path / f"repo{len(seen)}"
        shutil.copytree(made, store, symlinks=True)
        if not killed_at(len(seen) + 1, "repo", "publish", store):
            break
        seen.append(whole(store) == {"krg-a", "krg-b"})
        # Now and then, and always near the exchange, let the next run finish the work.
        if seen[-1] or len(seen) % 8 == 0:
            published(store, tmp_path)
            assert whole(store) == {"krg-a", "krg-b"}
            assert len(list((store / "published").iterdir())) == 2
            assert sorted(p.name for p in store.iterdir()) == ["pool", "published", "state", "www"]
            assert not list((store / "state").glob("cache.*"))
        shutil.rmtree(store)
    assert len(seen) > 20 and seen == sorted(seen) and seen[-1]
    assert whole(store) == {"krg-a", "krg-b"}


def test_the_first_publish_killed_at_every_step(tmp_path: Path, home: Path) -> None:
    made = tmp_path / "made"
    repo.add(made, repo.offers([deb(tmp_path, "krg-a")]))
    steps = 1
    while True:
        store = tmp_path / f"repo{steps}"
        shutil.copytree(made, store)
        killed = killed_at(steps, "repo", "publish", store)
        if killed:
            published(store, tmp_path)
        assert whole(store) == {"krg-a"}
        shutil.rmtree(store)
        if not killed:
            break
        # Making a key is slow, and all the same: look at every third step.
        steps += 3
    assert steps > 20


def test_add_killed_at_every_step(tmp_path: Path, home: Path) -> None:
    made = tmp_path / "made"
    published(made, tmp_path, "krg-a")
    files = [deb(tmp_path, "krg-b"), deb(tmp_path, "krg-c")]
    steps = 1
    while True:
        store = tmp_path / f"repo{steps}"
        shutil.copytree(made, store, symlinks=True)
        killed = killed_at(steps, "repo", "add", store, *files)
        names = {p.name for p in repo.load(store).packages}
        assert names in ({"krg-a"}, {"krg-a", "krg-b", "krg-c"})
        repo.add(store, repo.offers(files))
        assert {p.name for p in repo.load(store).packages} == {"krg-a", "krg-b", "krg-c"}
        assert repo.changed(store, repo.load(store)) == []
        assert repo.unlisted(store, repo.load(store)) == []
        if not killed:
            break
        shutil.rmtree(store)
        steps += 1
    assert steps > 5
    published(store, tmp_path)
    assert whole(store) == {"krg-a", "krg-b", "krg-c"}


def test_publishes_at_the_same_time(krg: Command, store: Path, tmp_path: Path) -> None:
    published(store, tmp_path, "krg-a")
    repo.add(store, repo.offers([deb(tmp_path, "krg-b")]))
    results: list[int] = []

    def one() -> None:
        results.append(krg("repo", "publish", store).returncode)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0, 0, 0, 0]
    assert whole(store) == {"krg-a", "krg-b"}
    assert (store / "www").readlink() == Path("published/5")
