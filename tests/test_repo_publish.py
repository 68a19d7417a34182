# SPDX-License-Identifier: GPL-2.0-or-later
"""What is published of a repository; what apt itself says of it is in test_repo_apt.py."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import Command
from debs import deb
from repos import needs_tools, one_line, packages, published, tree

from provision import repo, repo_publish

pytestmark = needs_tools


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "repo"


# -- publish --------------------------------------------------------------------


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
