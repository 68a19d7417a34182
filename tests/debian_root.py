# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian system in a directory, for tests of what nodes do with our packages.

``root(place)`` unpacks a fresh one; commands run in it with chroot. The first use makes it
with debootstrap from the machine's own Debian mirror (about a minute) and keeps it as
a tar archive in the cache; later uses take a second or two. It shares the network,
loopback too, with the machine::

    with root(tmp_path) as node:
        done = node.run(["apt-get", "update"])

Or in a fixture: ``yield node`` inside the ``with``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from provision.debian_archive import Entry, debian_entries
from provision.errors import MissingError
from provision.paths import cache_dir

# Read when this is imported: a test may have a home of its own later.
CACHE = cache_dir() / "test-roots"
# Part of the archive's name: count up when the making of a root changes.
_FORMAT = 1
_DAY = 24 * 3600.0
_SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"
_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C",
    "DEBIAN_FRONTEND": "noninteractive",
}
# Namespaces of the command's own: the mounts and all its processes end with it.
_UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
_ENTER = 'mount -t proc proc "$1/proc" && exec chroot "$@"'


@dataclass(frozen=True)
class Root:
    """A Debian system in the directory ``path``; nothing is mounted in it between commands."""

    path: Path

    def run(
        self,
        argv: Sequence[object],
        *,
        check: bool = False,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the system as root, in /, with /proc; stdout and stderr apart.

        The environment is PATH, HOME, LC_ALL=C and DEBIAN_FRONTEND, and ``env``. With ``check``
        a failure is an AssertionError that shows what the command said.
        """
        stdin = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        done = subprocess.run(
            [*_UNSHARE, "sh", "-c", _ENTER, "sh", str(self.path), *map(str, argv)],
            capture_output=True, text=True, cwd="/", timeout=timeout,
            env={**_ENV, **(env or {})}, **stdin,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, f"{argv}: {done.stdout}\n{done.stderr}"
        return done

    def file(self, name: str) -> Path:
        """Return where the system's file ``name`` (such as /etc/fstab) is out here.

        Absolute symbolic links inside lead out of the root: do not follow them.
        """
        return self.path / name.lstrip("/")

    def remove(self) -> None:
        """Delete the system; a root takes about 200 MB."""
        shutil.rmtree(self.path)

    def __enter__(self) -> Root:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def root(place: Path, *, suite: str = "bookworm", include: Sequence[str] = ()) -> Root:
    """Make a minimal amd64 system (debootstrap's minbase) in the new directory ``place``/root.

    Skips the test, with the reason, when this machine cannot.

    :param include: packages it has besides; each set of them is an archive of its own.
    """
    archive = _archive(suite, tuple(sorted(include)))
    path = place / "root"
    path.mkdir()
    subprocess.run(["tar", "-C", path, "--numeric-owner", "-xpf", archive], check=True)
    # What the machine resolves names with may have changed since.
    if Path("/etc/resolv.conf").exists():
        shutil.copyfile("/etc/resolv.conf", path / "etc/resolv.conf")
    return Root(path)


def _archive(suite: str, include: tuple[str, ...]) -> Path:
    """Return the archive of the wanted system, made if need be."""
    if os.geteuid() != 0:
        pytest.skip("chroot needs root: run the tests as root")
    debootstrap = shutil.which("debootstrap", path=os.environ.get("PATH", "") + _SBIN)
    if debootstrap is None:
        pytest.skip("no debootstrap: apt-get install debootstrap")
    probe = [*_UNSHARE, "sh", "-c", 'mount -t proc proc "$1"', "sh", "/proc"]
    done = subprocess.run(probe, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no mount namespaces here (run as root): {done.stderr.strip()}")
    entry = _entry(suite)
    key = hashlib.sha256(repr((_FORMAT, entry, include)).encode()).hexdigest()[:8]
    archive = CACHE / f"{suite}-{key}.tar"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{archive.name}.lock").open("w") as lock:
        # Another test run may be making it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists() or time.time() - archive.stat().st_mtime > 90 * _DAY:
            _make(debootstrap, archive, suite, entry, include)
    return archive


def _entry(suite: str) -> Entry:
    try:
        entries = debian_entries()
    except MissingError as error:
        pytest.skip(f"{error.message}; {error.hint}")
    # The main archive, not security or updates; any suite of it is on the same mirror.
    main = [e for e in entries if urlsplit(e.uri).path.rstrip("/").endswith("debian")]
    fitting = [e for e in main if suite in e.suites] or main or entries
    return fitting[0]


def _make(
    debootstrap: str, archive: Path, suite: str, entry: Entry, include: tuple[str, ...]
) -> None:
    scratch = CACHE / f".{archive.name}.{os.getpid()}"
    argv = [debootstrap, "--variant=minbase", "--arch=amd64"]
    if include:
        argv.append(f"--include={','.join(include)}")
    signed_by = dict(entry.options).get("Signed-By", "")
    if signed_by.startswith("/") and signed_by.endswith(".gpg"):
        argv.append(f"--keyring={signed_by}")
    try:
        # In a namespace too: debootstrap mounts proc and sys.
        made = subprocess.run(
            [*_UNSHARE, "--mount-proc", *argv, suite, scratch, entry.uri],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=1800,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        if made.returncode != 0:
            log = scratch / "debootstrap/debootstrap.log"
            said = (made.stdout + made.stderr).strip().splitlines()
            said += log.read_text(errors="replace").splitlines() if log.is_file() else []
            pytest.skip(
                f"debootstrap {suite} from {entry.uri} failed (it needs the network): "
                + " | ".join(said[-3:])
            )
        for name in ("var/cache/apt/archives", "var/cache/apt"):
            for path in (scratch / name).glob("*.*"):
                path.unlink()
        # A package's service must not start in a chroot.
        policy = scratch / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        part = archive.with_suffix(".part")
        subprocess.run(["tar", "-C", scratch, "--numeric-owner", "-cf", part, "."], check=True)
        part.replace(archive)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
