# SPDX-License-Identifier: GPL-2.0-or-later
"""A published repository and Debian's own apt, over http on loopback, in a Debian system."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from debian_root import Root, root
from debs import deb, manifest
from repos import needs_tools

from provision import repo, repo_publish
from provision.repo_serve import serving

pytestmark = [pytest.mark.debian, needs_tools]


@pytest.fixture(scope="module", params=["bookworm", pytest.param("trixie", marks=pytest.mark.slow)])
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Root]:
    with root(tmp_path_factory.mktemp("node"), suite=request.param) as made:
        # Only our repository counts here.
        parts = made.file("etc/apt/sources.list.d")
        for path in (made.file("etc/apt/sources.list"), *parts.iterdir()):
            path.unlink(missing_ok=True)
        yield made


def trust(node: Root, tree: Path, url: str = "") -> None:
    """Do on the node what publish says; ``url`` when it is served from elsewhere."""
    for name, place in (
        ("krg.sources", "etc/apt/sources.list.d"),
        ("krg-archive-keyring.gpg", "etc/apt/keyrings"),
    ):
        text = (tree / name).read_bytes()
        if url and name == "krg.sources":
            text = re.sub(rb"(?m)^URIs: .*$", b"URIs: " + url.encode(), text)
        node.file(place).mkdir(exist_ok=True)
        node.file(f"{place}/{name}").write_bytes(text)


def test_update_and_install(fresh: Root, tmp_path: Path) -> None:
    place = tmp_path / "repo"
    files = [deb(tmp_path, "krg-test", Depends="krg-all"), deb(tmp_path, "krg-all", arch="all")]
    repo.add(place, repo.offers([manifest(tmp_path, files)]))
    with serving(place / "www") as (url, _):
        repo_publish.publish(place, repo_publish.Wishes(url=url))
        trust(fresh, place / "www")
        done = update(fresh)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        shown = fresh.run(["apt-cache", "show", "krg-test"], check=True).stdout
        sha256 = repo.offers([files[0]])[0].package.sha256
        assert f"SHA256: {sha256}" in shown
        fresh.run(["apt-get", "install", "-y", "krg-test"], check=True)
        seen = fresh.run(["dpkg-query", "-W", "krg-test", "krg-all"], check=True).stdout
        assert seen == "krg-all\t1.0\nkrg-test\t1.0\n"


def test_as_an_old_apt_asks(fresh: Root, store: Path, tmp_path: Path) -> None:
    """Release and Release.gpg, no by-hash, a line in place of a stanza, the key for all."""
    tree = copied(store, tmp_path / "copy")
    (tree / "dists/krg/InRelease").unlink()
    for path in tree.glob("dists/krg/main/*/by-hash"):
        shutil.rmtree(path)
    with serving(tree) as (url, _):
        line = (tree / "krg.list").read_text().splitlines()[-1]
        line = re.sub(r"^deb \S+", f"deb {url}", line)
        fresh.file("etc/apt/sources.list.d/krg.list").write_text(line + "\n")
        key = (tree / "krg-archive-keyring.asc").read_bytes()
        fresh.file("etc/apt/trusted.gpg.d/krg.asc").write_bytes(key)
        done = fresh.run(["apt-get", "-o", "APT::Update::Error-Mode=any", "-o",
                          "Acquire::By-Hash=no", "update"])  # fmt: skip
        fresh.file("etc/apt/trusted.gpg.d/krg.asc").unlink()
        assert done.returncode == 0, done.stderr
        fresh.run(["apt-get", "install", "-y", "krg-test"], check=True)


# -- what apt refuses -----------------------------------------------------------


@pytest.fixture
def fresh(node: Root) -> Root:
    """The system without what earlier tests left in it."""
    script = """
    rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
    rm -f /etc/apt/sources.list.d/* /etc/apt/keyrings/*
    dpkg --purge krg-test krg-all
    """
    node.run(["sh", "-c", script])
    return node


def copied(store: Path, place: Path) -> Path:
    """Return a copy of what is published, to be damaged."""
    return Path(shutil.copytree(store / "www/", place))


def update(node: Root) -> subprocess.CompletedProcess[str]:
    return node.run(["apt-get", "-o", "APT::Update::Error-Mode=any", "update"])


def refused(node: Root, tree: Path, said: str) -> None:
    """Check that apt gets nothing from ``tree``, and says why."""
    with serving(tree) as (url, _):
        trust(node, tree, url)
        done = update(node)
        assert done.returncode != 0
        assert re.search(said, done.stdout + done.stderr), done.stdout + done.stderr
        assert node.run(["apt-get", "install", "-y", "krg-test"]).returncode != 0
        assert node.run(["dpkg-query", "-W", "krg-test"]).returncode != 0


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A published repository."""
    place = tmp_path / "repo"
    repo.add(place, repo.offers([deb(tmp_path, "krg-test")]))
    repo_publish.publish(place, repo_publish.Wishes())
    return place


def test_changed_indexes_are_refused(fresh: Root, store: Path, tmp_path: Path) -> None:
    tree = copied(store, tmp_path / "copy")
    for path in tree.glob("dists/krg/main/binary-amd64/**/*"):
        if path.is_file():
            # The same size: only the digest tells.
            data = bytearray(path.read_bytes())
            data[-2] ^= 1
            path.unlink()
            path.write_bytes(data)
    refused(fresh, tree, "Hash Sum mismatch|unexpected size")


def test_a_changed_package_is_refused(fresh: Root, store: Path, tmp_path: Path) -> None:
    tree = copied(store, tmp_path / "copy")
    (path,) = tree.glob("pool/*/*.deb")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    with serving(tree) as (url, _):
        trust(fresh, tree, url)
        assert update(fresh).returncode == 0
        done = fresh.run(["apt-get", "install", "-y", "krg-test"])
        assert done.returncode != 0 and "Hash Sum mismatch" in done.stderr
        assert fresh.run(["dpkg-query", "-W", "krg-test"]).returncode != 0


def test_no_signature_is_refused(fresh: Root, store: Path, tmp_path: Path) -> None:
    tree = copied(store, tmp_path / "copy")
    for name in ("InRelease", "Release.gpg"):
        (tree / "dists/krg" / name).unlink()
    refused(fresh, tree, "is not signed")


def test_another_key_is_refused(fresh: Root, store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    repo.add(other, repo.offers([deb(tmp_path, "krg-test")]))
    repo_publish.publish(other, repo_publish.Wishes())
    tree = copied(store, tmp_path / "copy")
    for name in ("InRelease", "Release", "Release.gpg"):
        shutil.copy(other / "www/dists/krg" / name, tree / "dists/krg" / name)
    refused(fresh, tree, "NO_PUBKEY|Missing key")


def test_too_old_is_refused(fresh: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    past = time.time() - 3 * 86400
    monkeypatch.setattr(repo_publish, "time", SimpleNamespace(time=lambda: past))
    place = tmp_path / "repo"
    repo.add(place, repo.offers([deb(tmp_path, "krg-test")]))
    repo_publish.publish(place, repo_publish.Wishes(valid_days=2))
    refused(fresh, place / "www", "is expired|no longer valid|is not valid anymore")


# -- while it is published ------------------------------------------------------


def test_updates_while_it_is_published(fresh: Root, store: Path, tmp_path: Path) -> None:
    """Every update and install of a client succeeds while the repository changes under it."""
    rounds = 12
    done = threading.Event()
    failed: list[BaseException] = []

    def publish() -> None:
        try:
            for number in range(rounds):
                repo.add(store, repo.offers([deb(tmp_path, "krg-test", f"2.{number}")]))
                # The version before goes: a client may be about to fetch it.
                before = "1.0" if number == 0 else f"2.{number - 1}"
                repo.remove(store, repo.matching(repo.load(store), [f"krg-test={before}"]))
                repo_publish.publish(store, repo_publish.Wishes())
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    with serving(store / "www") as (url, _):
        trust(fresh, store / "www", url)
        writer = threading.Thread(target=publish)
        writer.start()
        updates = 0
        while not done.is_set() or updates < 3:
            said = update(fresh)
            assert said.returncode == 0, said.stdout + said.stderr
            updates += 1
        writer.join()
        assert not failed
        assert update(fresh).returncode == 0
        fresh.run(["apt-get", "install", "-y", "krg-test"], check=True)
        seen = fresh.run(["dpkg-query", "-W", "krg-test"], check=True).stdout
        assert seen == f"krg-test\t2.{rounds - 1}\n"


def test_a_publish_between_two_requests(fresh: Root, store: Path, tmp_path: Path) -> None:
    """The client has the former InRelease when it asks for the index that it names."""
    versions = iter(range(2, 9))

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            super().do_GET()
            if self.path.endswith("/InRelease"):
                self.wfile.flush()
                repo.add(store, repo.offers([deb(tmp_path, "krg-test", f"{next(versions)}.0")]))
                repo_publish.publish(store, repo_publish.Wishes())

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=store / "www"))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        trust(fresh, store / "www", f"http://127.0.0.1:{server.server_address[1]}")
        for _ in range(3):
            done = update(fresh)
            assert done.returncode == 0, done.stdout + done.stderr
        # What the last InRelease named, not what was published after it.
        assert "Candidate: 3.0" in fresh.run(["apt-cache", "policy", "krg-test"]).stdout
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_client_of_the_former_publication(fresh: Root, store: Path, tmp_path: Path) -> None:
    """What apt knows from before the last publish can still be installed."""
    with serving(store / "www") as (url, _):
        trust(fresh, store / "www", url)
        assert update(fresh).returncode == 0
        repo.remove(store, repo.load(store).packages)
        repo.add(store, repo.offers([deb(tmp_path, "krg-test", "2.0")]))
        repo_publish.publish(store, repo_publish.Wishes())
        fresh.run(["apt-get", "install", "-y", "krg-test"], check=True)
        assert fresh.run(["dpkg-query", "-W", "krg-test"]).stdout == "krg-test\t1.0\n"
        assert update(fresh).returncode == 0
        fresh.run(["apt-get", "upgrade", "-y"], check=True)
        assert fresh.run(["dpkg-query", "-W", "krg-test"]).stdout == "krg-test\t2.0\n"
