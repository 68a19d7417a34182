# SPDX-License-Identifier: GPL-2.0-or-later
"""A home of its own for every test that asks for one, and the release in small."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import fault_points
import mini as _mini
import pytest
import sshd

try:
    from hypothesis import settings
except ImportError:
    # Some of the tests run with Debian's own libraries alone.
    pass
else:
    # How long an example takes is the machine's business.
    settings.register_profile("krg", deadline=None)
    settings.load_profile("krg")

# A shell that is no terminal's starts what it does not wait for deaf to Ctrl-C, and so would be all
# that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., subprocess.CompletedProcess[str]]

# What setup.cfg asks for, as their packages are called.
LIBRARIES = ("click", "jinja2", "fabric", "paramiko", "pyelftools", "kconfiglib", "ClusterShell",
             "rich")  # fmt: skip


def pytest_report_header() -> str:
    """Say with which versions the tests run: Debian's are older than ours."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    return f"libraries: {versions}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many fault points were tried, where any were."""
    passed = terminalreporter.getreports("passed")
    lines = fault_points.table(item for report in passed for item in report.user_properties)
    if lines:
        terminalreporter.section("fault points")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a home directory of its own, so that it cannot touch the user's."""
    place = tmp_path / "home"
    place.mkdir()
    # A compiler cache is a cache of the machine's, not of the user's settings.
    monkeypatch.setenv(
        "CCACHE_DIR", os.environ.get("CCACHE_DIR", str(Path.home() / ".cache/ccache"))
    )
    monkeypatch.setenv("HOME", str(place))
    for name in ("CACHE", "DATA", "STATE", "CONFIG"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)
    for name in ("SSH_AUTH_SOCK", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return place


@pytest.fixture
def mini(tmp_path: Path, home: Path) -> _mini.Mini:
    """Return the release in small."""
    return _mini.make(tmp_path / "mini")


@pytest.fixture
def krg(home: Path) -> Command:
    """Return a function that runs the command as a process of its own."""

    def run(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
        settings: dict[str, object] = {"cwd": home, "timeout": 300, "stdin": subprocess.DEVNULL}
        return subprocess.run(
            [sys.executable, "-m", "provision", *map(str, args)],
            capture_output=True,
            text=True,
            **(settings | options),  # type: ignore[call-overload]
        )

    return run


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Host]:
    """Run a server with an Ed25519 and an RSA key."""
    place = tmp_path_factory.mktemp("server")
    with sshd.running(place / "sshd", place / "there", None, "HostKey PLACE/rsa\n") as made:
        yield made


@pytest.fixture
def server(one_server: sshd.Host, home: Path) -> sshd.Host:
    """Return a server whose Ed25519 key is known."""
    (home / ".ssh").mkdir(mode=0o700)
    line = f"[127.0.0.1]:{one_server.port} {sshd.blob(one_server, 'ed25519')}\n"
    sshd.known(home).write_text(line)
    return one_server
