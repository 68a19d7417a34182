# SPDX-License-Identifier: GPL-2.0-or-later
"""A published repository and Debian's own apt, over http on loopback, in a Debian system."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from debian_root import Root, root
from debs import deb

from provision import repo, repo_publish


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def web(tree: Path) -> Iterator[str]:
    """Serve a directory on loopback and give its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tree))) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    with root(tmp_path_factory.mktemp("node")) as made:
        # Only our repository counts here.
        for path in (
            made.file("etc/apt/sources.list"),
            *made.file("etc/apt/sources.list.d").iterdir(),
        ):
            path.unlink()
        yield made


def trust(node: Root, tree: Path) -> None:
    """Do on the node what publish says."""
    for name, place in (
        ("krg.sources", "etc/apt/sources.list.d"),
        ("krg-archive-keyring.gpg", "etc/apt/keyrings"),
    ):
        node.file(place).mkdir(exist_ok=True)
        node.file(f"{place}/{name}").write_bytes((tree / name).read_bytes())


def test_update_and_install(node: Root, tmp_path: Path) -> None:
    store = tmp_path / "repo"
    with web(store / "www") as url:
        repo.add(
            store,
            repo.offers([deb(tmp_path, "krg-test", "1.0"), deb(tmp_path, "krg-all", arch="all")]),
        )
        repo_publish.publish(store, repo_publish.Wishes(url=url))
        trust(node, store / "www")
        said = node.run(["apt-get", "-o", "APT::Update::Error-Mode=any", "update"], check=True)
        assert "W:" not in said.stderr
        node.run(["apt-get", "install", "-y", "krg-test", "krg-all"], check=True)
        seen = node.run(["dpkg-query", "-W", "krg-test", "krg-all"], check=True).stdout
        assert seen == "krg-all\t1.0\nkrg-test\t1.0\n"
