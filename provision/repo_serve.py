# SPDX-License-Identifier: GPL-2.0-or-later
"""A small web server for what is published: for labs, trials and tests, not for a fleet."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from provision.errors import MissingError


class _Handler(SimpleHTTPRequestHandler):
    # apt asks for many files: keep its connection open.
    protocol_version = "HTTP/1.1"
    timeout = 60


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


@contextlib.contextmanager
def serving(
    tree: Path, bind: str = "127.0.0.1", port: int = 0
) -> Iterator[tuple[str, threading.Thread]]:
    """Show ``tree`` over http; give the address and the thread that does it, until the end.

    ``tree`` may be a link: it is followed anew for each request.

    :raises MissingError: the address cannot be used.
    """
    kind = _Server6 if ":" in bind else _Server
    try:
        server = kind((bind, port), partial(_Handler, directory=str(tree.absolute())))
    except OSError as error:
        raise MissingError(
            f"{bind} port {port}: cannot be served ({error.strerror or error})",
            hint="another --port or --bind",
        ) from error
    host = f"[{bind}]" if ":" in bind else bind
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{server.server_address[1]}", thread
        finally:
            server.shutdown()
            thread.join()
