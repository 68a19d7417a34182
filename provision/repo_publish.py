# SPDX-License-Identifier: GPL-2.0-or-later
"""Publishing a repository: indexes, signatures, proof, and one rename that makes all of it new.

A published tree is made in ``published/.new-*``, checked as a node will check it, gets
its number, and then the link ``www`` is exchanged. A client that read the former
InRelease still finds what it names: the former indexes stay under by-hash, and the
former tree's packages are linked into the new one. The tree before stays on disk until
the next publish, for requests that are under way.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from provision import repo_index, repo_keys
from provision.atomic import write_text
from provision.data import render
from provision.errors import InputError, MissingError
from provision.repo import (
    Package,
    changed,
    load,
    locked,
    make_directory,
    save,
)
from provision.repo_index import Order
from provision.runner import LocalRunner, Runner

ARCHITECTURES = ("amd64", "i386")  # always there, so that a node of either finds an index
# Bytes that a publication takes, and each package in it: its lines in all indexes.
ROOM, ROOM_EACH = 4 << 20, 16 << 10
_SUITE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_URL = re.compile(r"(?:https?|file|ftp):[A-Za-z0-9._~:/@%+\[\]=-]+")


@dataclass(frozen=True)
class Wishes:
    """What the user wants of a publication; empty means: as it was, or the default."""

    suite: str = ""
    key: str = ""
    passphrase_file: Path | None = None
    valid_days: int = 365
    url: str = ""


@dataclass(frozen=True)
class Publication:
    """A publication that is out."""

    order: Order
    number: int
    key: repo_keys.Key
    key_made: bool
    notes: tuple[str, ...]

    @property
    def tree(self) -> Path:
        """Return the directory a web server shows."""
        return self.order.directory / "www"


# -- what is published now ------------------------------------------------------


def current(directory: Path) -> int:
    """Return the number of the tree that is public, 0 when there is none.

    :raises InputError: ``www`` is something that we did not make.
    """
    link = directory / "www"
    if not link.is_symlink():
        if link.exists():
            raise InputError(f"{link}: in the way: it is not a link made by repo publish")
        return 0
    target = os.fspath(link.readlink())
    match = re.fullmatch(r"published/(\d+)", target)
    if match is None:
        raise InputError(f"{link}: leads to {target}: not a link made by repo publish")
    return int(match[1])


def published(directory: Path) -> tuple[str, dict[str, str]]:
    """Return the suite that is public and its packages: path to SHA-256."""
    number = current(directory)
    tree = directory / "published" / str(number)
    suites = [p.name for p in sorted(tree.glob("dists/*"))] if number else []
    if not suites:
        return "", {}
    found: dict[str, str] = {}
    for index in tree.glob(f"dists/{suites[0]}/main/binary-*/Packages"):
        found.update({path: sha256 for path, _, sha256 in repo_index.stanzas(index)})
    return suites[0], found


# -- before touching ------------------------------------------------------------


def order(directory: Path, wishes: Wishes) -> Order:
    """Check everything that can be checked before anything is written.

    :raises InputError: no repository, nothing in it, another suite than before, bad dates,
        or a file of the pool that is not what was added.
    :raises MissingError: a program is not there, or no space.
    """
    state = load(directory)
    suite, before = published(directory)
    if suite and wishes.suite not in ("", suite):
        raise InputError(
            f"{directory}: published as suite {suite}; nodes know it by that name",
            hint="another suite is another repository, in a directory of its own",
        )
    suite = suite or wishes.suite or "krg"
    if not _SUITE.fullmatch(suite):
        raise InputError(f"--suite {suite!r}: small letters, digits, dots and dashes")
    url = wishes.url or state.url or "file:" + quote(str(directory.absolute() / "www"))
    if wishes.url and not _URL.fullmatch(wishes.url):
        raise InputError(f"--url {wishes.url!r}: expected http://HOST/PATH")
    if not state.packages and not before:
        raise InputError(
            f"{directory}: holds no packages",
            hint=f"krg-provision repo add {directory} PACKAGES...",
        )
    repo_keys.need("apt-ftparchive", "gpg", "gpgconf", "gpgv")
    bad = changed(directory, state)
    if bad:
        raise InputError(
            f"{directory / bad[0]}: no longer what was added ({len(bad)} such files)",
            hint="restore it, or take it out with repo remove and add it again",
        )
    need = (ROOM + len(state.packages) * ROOM_EACH) >> 20
    free = shutil.disk_usage(directory).free >> 20
    if free < need:
        raise MissingError(f"{directory}: {free} MB free, publishing needs {need} MB")
    date = _date(directory, suite)
    valid_until = datetime.fromtimestamp(date.timestamp() + wishes.valid_days * 86400, UTC)
    if valid_until.timestamp() <= time.time():
        raise InputError(
            f"valid until {valid_until:%Y-%m-%d}, which is past: see SOURCE_DATE_EPOCH"
        )
    now = {package.path: package.sha256 for package in state.packages}
    return Order(
        directory,
        state,
        suite,
        tuple(sorted({*ARCHITECTURES, *(p.arch for p in state.packages)} - {"all"})),
        date,
        valid_until,
        url,
        tuple(sorted(path for path in now if before.get(path) != now[path])),
        tuple(sorted(before.keys() - now.keys())),
    )


def _date(directory: Path, suite: str) -> datetime:
    """Return SOURCE_DATE_EPOCH or the time, if a client that has the former one takes it."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given and not given.isdecimal():
        raise InputError(f"SOURCE_DATE_EPOCH={given!r}: not a number of seconds")
    seconds = int(given or time.time())
    if seconds > time.time() + 1:
        raise InputError(f"SOURCE_DATE_EPOCH={given} is in the future: apt would refuse it")
    date = datetime.fromtimestamp(seconds, UTC)
    release = directory / "www/dists" / suite / "Release"
    former = re.search(r"^Date: (.*)$", release.read_text(), re.M) if release.is_file() else None
    if former is not None:
        before = email.utils.parsedate_to_datetime(former[1].replace("UTC", "+0000"))
        if date < before:
            raise InputError(
                f"Date {repo_index.rfc(date)} is before the published {former[1]}: "
                "apt would keep that one",
                hint="set the clock, or a later SOURCE_DATE_EPOCH",
            )
    return date


# -- publish --------------------------------------------------------------------


def publish(directory: Path, wishes: Wishes, runner: Runner | None = None) -> Publication:
    """Publish what the repository holds; clients see the former tree or the new one.

    :raises InputError, MissingError: see ``order``; a key that is not there.
    :raises FailedError: a program failed, or the result is not what it should be.
    """
    runner = runner or LocalRunner()
    load(directory)
    with locked(directory):
        job = order(directory, wishes)
        number = _clean(directory)
        key, key_made = _key(job, wishes, runner)
        with _scratch(directory) as tree:
            _fill(job, tree, number, key, runner)
            notes = _checked(job, tree, key, runner)
            _settle(job, tree, number)
            state = replace(
                job.state,
                key=key.fingerprint,
                own_key=key.home is not None,
                url=wishes.url or job.state.url,
            )
            save(directory, state)
            tree.rename(directory / f"published/{number + 1}")
            _swap(directory, number + 1)
        _clean(directory)
    return Publication(job, number + 1, key, key_made, notes)


def _fill(job: Order, tree: Path, number: int, key: repo_keys.Key, runner: Runner) -> None:
    """Make all of the tree: packages, indexes, signatures, and what nodes copy."""
    repo_index.link_packages(job, tree, number)
    repo_index.make(job, tree, runner)
    release = repo_index.release(job, tree, runner)
    binary, armored = (f"{job.suite}-archive-keyring.{kind}" for kind in ("gpg", "asc"))
    with repo_keys.gpg(runner, key) as run:
        repo_keys.export(run, key, tree / binary, tree / armored)
        repo_keys.sign(run, key, release)
    for kind, keyring in (("sources", binary), ("list", armored)):
        text = render(f"repo/node.{kind}.j2", url=job.url, suite=job.suite, keyring=keyring)
        write_text(tree / f"{job.suite}.{kind}", text, 0o644)
    repo_index.by_hash(job, tree, number)


def _checked(job: Order, tree: Path, key: repo_keys.Key, runner: Runner) -> tuple[str, ...]:
    """Check the tree as a node will, and return what the user should know of it."""
    release = tree / "dists" / job.suite / "Release"
    signature = repo_keys.verify(runner, tree / f"{job.suite}-archive-keyring.gpg", key, release)
    repo_index.prove(job, release)
    notes = []
    if not signature.rsa:
        notes.append("the key is not RSA: apt before Debian 9 cannot check its signatures")
    if job.state.key not in ("", key.fingerprint):
        notes.append(f"the key is not the one before ({job.state.key}): nodes need the new keyring")
    return tuple(notes)


@contextlib.contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """Give a new directory for a tree; what is left of it when it has not got its number goes.

    Its name is its own: a program that outlived a killed run must not write into ours.
    """
    tree = Path(tempfile.mkdtemp(prefix=".new-", dir=directory / "published"))
    tree.chmod(0o755)
    try:
        yield tree
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def _clean(directory: Path) -> int:
    """Remove trees that were never public, and those before the last; return the current one."""
    top = directory / "published"
    make_directory(top)
    number = current(directory)
    found = sorted((p for p in top.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))
    keep = [p for p in found if int(p.name) <= number][-2:]
    for path in top.iterdir():
        if path not in keep:
            shutil.rmtree(path)
    for path in (directory / "state").glob("cache.*"):
        shutil.rmtree(path)
    (directory / ".www.new").unlink(missing_ok=True)
    return number


def _key(job: Order, wishes: Wishes, runner: Runner) -> tuple[repo_keys.Key, bool]:
    """Return the key to sign with, and whether it is one of ours that nobody trusts yet."""
    home = job.directory / "state/gnupg"
    if wishes.key:
        return repo_keys.own(runner, wishes.key, wishes.passphrase_file), False
    if job.state.key and not job.state.own_key:
        return repo_keys.own(runner, job.state.key, wishes.passphrase_file), False
    if home.is_dir():
        return repo_keys.made(runner, home), not job.state.key
    if job.state.own_key:
        raise InputError(
            f"{home}: the key that nodes trust is gone",
            hint="restore that directory, or name another key with --key",
        )
    return repo_keys.make(runner, home), True


def _settle(job: Order, tree: Path, number: int) -> None:
    """Make the tree readable and lasting, and newer than the one before by whole seconds.

    Web servers tell changes by seconds: a client must not take the new InRelease for its old.
    """
    former = job.directory / f"published/{number}/dists" / job.suite / "InRelease"
    dists = tree / "dists" / job.suite
    for name in ("InRelease", "Release", "Release.gpg"):
        path = dists / name
        path.chmod(0o644)
        if number and former.is_file():
            least = int(former.stat().st_mtime) + 1
            if path.stat().st_mtime < least:
                os.utime(path, (least, least))
    for path in tree.glob(f"{job.suite}-archive-keyring.*"):
        path.chmod(0o644)
    _flush([*(p for p in tree.rglob("*") if not p.is_relative_to(tree / "pool")), tree])


def _flush(paths: Iterable[Path]) -> None:
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _swap(directory: Path, number: int) -> None:
    """Exchange the link www: the moment in which all of it becomes public."""
    _flush([directory / "published"])
    link = directory / ".www.new"
    link.symlink_to(f"published/{number}")
    link.replace(directory / "www")
    _flush([directory])


def as_json(publication: Publication) -> str:
    """Return what programs want to know of a publication."""
    job = publication.order
    value = {
        "directory": str(publication.tree),
        "number": publication.number,
        "suite": job.suite,
        "architectures": list(job.architectures),
        "url": job.url,
        "date": job.date.isoformat(),
        "valid_until": job.valid_until.isoformat(),
        "key": publication.key.fingerprint,
        "key_home": str(publication.key.home) if publication.key.home else None,
        "key_made": publication.key_made,
        "added": list(job.added),
        "removed": list(job.removed),
        "packages": [row(package) for package in job.state.packages],
        "notes": list(publication.notes),
    }
    return json.dumps(value, indent=1)


def row(package: Package) -> dict[str, object]:
    """Return a package as programs see it, with the names that packages.json has."""
    return {
        "package": package.name,
        "version": package.version,
        "architecture": package.arch,
        "file": package.path,
        "sha256": package.sha256,
        "size": package.size,
    }
