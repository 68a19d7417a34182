# SPDX-License-Identifier: GPL-2.0-or-later
"""Publishing a repository: indexes, signatures, proof, and one rename that makes all of it new.

A published tree is made in ``published/.new``, checked as a node will check it, gets
its number, and then the link ``www`` is exchanged. A client that read the former
InRelease still finds what it names: the former indexes stay under by-hash (RFC of apt's
Acquire-By-Hash: the file's name is its digest), and the former tree's packages are
linked into the new one. The tree before stays on disk until the next publish, for
requests that are under way.
"""

from __future__ import annotations

import email.utils
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from provision import repo_keys
from provision.atomic import write_text
from provision.data import render
from provision.errors import FailedError, InputError
from provision.repo import (
    Package,
    State,
    changed,
    load,
    locked,
    make_directory,
    save,
)
from provision.runner import LocalRunner, Runner

ARCHITECTURES = ("amd64", "i386")  # always there, so that a node of either finds an index
KEPT = 20  # former index files kept for each kind of digest
_SUITE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_URL = re.compile(r"(?:https?|file|ftp):[A-Za-z0-9._~:/@%+\[\]=-]+")
_LINE = re.compile(r" ([0-9a-f]+) +(\d+) (\S+)")
_HASHES = {"MD5Sum": "md5", "SHA1": "sha1", "SHA256": "sha256"}
_TIMEOUT = 3600.0


@dataclass(frozen=True)
class Wishes:
    """What the user wants of a publication; empty means: as it was, or the default."""

    suite: str = ""
    key: str = ""
    passphrase_file: Path | None = None
    valid_days: int = 365
    url: str = ""


@dataclass(frozen=True)
class Order:
    """What will be published: checked, nothing touched yet."""

    directory: Path
    state: State
    suite: str
    architectures: tuple[str, ...]
    date: datetime
    valid_until: datetime
    url: str
    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True)
class Publication:
    """A publication that is out."""

    order: Order
    number: int
    key: repo_keys.Key
    key_made: bool
    key_changed: bool
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
        found.update({path: sha256 for path, _, sha256 in _stanzas(index)})
    return suites[0], found


def _stanzas(index: Path) -> Iterator[tuple[str, int, str]]:
    """Yield path, size and SHA-256 of each package of a Packages file."""
    for stanza in index.read_text("utf-8", "surrogateescape").split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in stanza.splitlines()
            if line.startswith(("Filename: ", "Size: ", "SHA256: "))
        )
        if stanza.strip():
            yield fields.get("Filename", ""), int(fields.get("Size", 0)), fields.get("SHA256", "")


# -- before touching ------------------------------------------------------------


def order(directory: Path, wishes: Wishes) -> Order:
    """Check everything that can be checked before anything is written.

    :raises InputError: no repository, nothing in it, another suite than before, bad dates,
        or a file of the pool that is not what was added.
    :raises MissingError: a program is not there.
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
    url = wishes.url or state.url or f"file:{directory.absolute() / 'www'}"
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
    date = datetime.fromtimestamp(int(given or time.time()), UTC)
    if date.timestamp() > time.time() + 1:
        raise InputError(f"SOURCE_DATE_EPOCH={given} is in the future: apt would refuse it")
    release = directory / "www/dists" / suite / "Release"
    former = re.search(r"^Date: (.*)$", release.read_text(), re.M) if release.is_file() else None
    if former is not None:
        before = email.utils.parsedate_to_datetime(former[1].replace("UTC", "+0000"))
        if date < before:
            raise InputError(
                f"Date {_rfc(date)} is before the published {former[1]}: apt would keep that one",
                hint="set the clock, or a later SOURCE_DATE_EPOCH",
            )
    return date


def _rfc(date: datetime) -> str:
    """Return a date as Release files have it, whatever the locale is."""
    return email.utils.format_datetime(date).replace("+0000", "UTC")


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
        tree = directory / "published/.new"
        make_directory(tree)
        _link_packages(job, tree, number)
        _index(job, tree, runner)
        release = _release(job, tree, runner)
        names = [f"{job.suite}-archive-keyring.{kind}" for kind in ("gpg", "asc")]
        with repo_keys.gpg(runner, key) as run:
            repo_keys.export(run, key, tree / names[0], tree / names[1])
            repo_keys.sign(run, key, release)
        for kind in ("sources", "list"):
            text = render(
                f"repo/node.{kind}.j2",
                url=job.url,
                suite=job.suite,
                keyring=names[0] if kind == "sources" else names[1],
            )
            write_text(tree / f"{job.suite}.{kind}", text, 0o644)
        _by_hash(job, tree, number)
        signature = repo_keys.verify(runner, tree / names[0], key, release)
        _prove(job, release)
        _settle(job, tree, number)
        changed_key = bool(job.state.key) and job.state.key != key.fingerprint
        save(
            directory,
            replace(
                job.state,
                key=key.fingerprint,
                own_key=key.home is not None,
                url=wishes.url or job.state.url,
            ),
        )
        new = number + 1
        tree.rename(directory / f"published/{new}")
        _swap(directory, new)
        _clean(directory)
    notes = []
    if not signature.rsa:
        notes.append("the key is not RSA: apt before Debian 9 cannot check its signatures")
    if changed_key:
        notes.append(f"the key is not the one before ({job.state.key}): nodes need the new keyring")
    return Publication(job, new, key, key_made, changed_key, tuple(notes))


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


def _link(source: Path, target: Path) -> None:
    make_directory(target.parent)
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        # A file system without hard links, or a file of somebody else's.
        shutil.copy2(source, target)


def _link_packages(job: Order, tree: Path, number: int) -> None:
    """Link the pool's packages, and those of the tree that is public now."""
    make_directory(tree / "pool")
    for package in job.state.packages:
        _link(job.directory / package.path, tree / package.path)
    for path in job.removed:
        former = job.directory / f"published/{number}" / path
        if former.is_file():
            _link(former, tree / path)


def _index(job: Order, tree: Path, runner: Runner) -> None:
    """Let apt-ftparchive write the Packages files, from what it remembers or anew."""
    state = job.directory / "state"
    for arch in job.architectures:
        make_directory(tree / f"dists/{job.suite}/main/binary-{arch}")
    for path in (tree / "dists", *(tree / "dists").rglob("*")):
        path.chmod(0o755)
    write_text(state / "files", "".join(f"{p.path}\n" for p in job.state.packages))
    cache, work = state / "cache", state / "cache.new"
    config = render(
        "repo/ftparchive.conf.j2",
        cache="state/cache.new",
        files="state/files",
        tree=tree.relative_to(job.directory),
        suite=job.suite,
        architectures=" ".join(job.architectures),
    )
    write_text(state / "ftparchive.conf", config)
    for remembered in (True, False):
        shutil.rmtree(work, ignore_errors=True)
        if remembered and cache.is_dir():
            shutil.copytree(cache, work)
        else:
            work.mkdir()
        result = runner.run(
            ["apt-ftparchive", "-q", "generate", "state/ftparchive.conf"],
            cwd=job.directory,
            env={"LC_ALL": "C"},
            timeout=_TIMEOUT,
            check=False,
        )
        wrong = _wrong_index(job, tree)
        if result.ok and not wrong:
            break
        # A memory that was damaged, or is of another file of the same time and size.
        if not remembered:
            last = [s for s in result.output.splitlines() if s.startswith("E:")][-1:]
            raise FailedError(f"apt-ftparchive: {(last or [wrong])[0]}")
    shutil.rmtree(cache, ignore_errors=True)
    work.rename(cache)


def _wrong_index(job: Order, tree: Path) -> str:
    """Say in what the Packages files are not what was added; empty when they are."""
    for arch in job.architectures:
        index = tree / f"dists/{job.suite}/main/binary-{arch}/Packages"
        want = {(p.path, p.size, p.sha256) for p in job.state.packages if p.arch in (arch, "all")}
        have = set(_stanzas(index)) if index.is_file() else set()
        if have != want:
            names = sorted(one[0] for one in want ^ have) or [str(index)]
            return f"the index for {arch} is not what was added: {names[0]}"
    return ""


def _release(job: Order, tree: Path, runner: Runner) -> Path:
    """Let apt-ftparchive write the Release file."""
    config = job.directory / "state/release.conf"
    text = render(
        "repo/release.conf.j2",
        suite=job.suite,
        date=_rfc(job.date),
        architectures=" ".join(job.architectures),
    )
    write_text(config, text)
    dists = tree / "dists" / job.suite
    argv = ["apt-ftparchive", "-q", "-c", str(config.absolute()), "release", "."]
    result = runner.run(argv, cwd=dists, env={"LC_ALL": "C"}, timeout=_TIMEOUT, check=False)
    if not result.ok:
        raise FailedError(f"apt-ftparchive release: {result.output.strip().splitlines()[-1:]}")
    # apt-ftparchive knows a time from now only, not from the Date that it is given.
    head, lists, rest = result.output.partition("MD5Sum:\n")
    text = f"{head}Valid-Until: {_rfc(job.valid_until)}\n{lists}{rest}"
    write_text(dists / "Release", text, 0o644)
    return dists / "Release"


def _index_files(dists: Path) -> list[Path]:
    return sorted(p for p in dists.glob("main/binary-*/Packages*") if p.is_file())


def _by_hash(job: Order, tree: Path, number: int) -> None:
    """Link each index under its digests, and the newest of those before it."""
    dists = tree / "dists" / job.suite
    for index in _index_files(dists):
        index.chmod(0o644)
        data = index.read_bytes()
        for title, algorithm in _HASHES.items():
            place = index.parent / "by-hash" / title
            make_directory(index.parent / "by-hash")
            _link(index, place / hashlib.new(algorithm, data).hexdigest())
    former = job.directory / f"published/{number}/dists" / job.suite
    for place in former.glob("main/binary-*/by-hash/*") if number else ():
        newest = sorted(place.iterdir(), key=lambda p: p.stat().st_mtime_ns, reverse=True)
        for path in newest[:KEPT]:
            _link(path, dists / path.relative_to(former))


def _prove(job: Order, release: Path) -> None:
    """Check that Release says what was ordered and what is there.

    :raises FailedError: it does not.
    """
    fields: dict[str, str] = {}
    listed: dict[str, set[str]] = {}
    title = ""
    for line in release.read_text("utf-8").splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            title, colon, value = line.partition(":")
            if not colon or not re.fullmatch(r"[A-Z][A-Za-z0-9-]*", title):
                raise FailedError(f"{release}: apt-ftparchive wrote a strange line: {line!r}")
            fields[title] = value.strip()
            continue
        digest, size, name = match.groups()
        path = release.parent / name
        data = path.read_bytes()
        if (len(data), hashlib.new(_HASHES[title], data).hexdigest()) != (int(size), digest):
            raise FailedError(f"{path}: is not what Release says")
        if (path.parent / "by-hash" / title / digest).read_bytes() != data:
            raise FailedError(f"{path}: is missing under by-hash")
        listed.setdefault(title, set()).add(name)
    want = {str(path.relative_to(release.parent)) for path in _index_files(release.parent)}
    if listed != dict.fromkeys(_HASHES, want):
        raise FailedError(f"{release}: does not list every index")
    for name, value in (
        ("Suite", job.suite),
        ("Codename", job.suite),
        ("Date", _rfc(job.date)),
        ("Valid-Until", _rfc(job.valid_until)),
        ("Acquire-By-Hash", "yes"),
    ):
        if fields.get(name) != value:
            raise FailedError(f"{release}: {name} is {fields.get(name)!r}, not {value!r}")


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
        "packages": [_row(package) for package in job.state.packages],
        "notes": list(publication.notes),
    }
    return json.dumps(value, indent=1)


def _row(package: Package) -> dict[str, object]:
    return {
        "package": package.name,
        "version": package.version,
        "architecture": package.arch,
        "file": package.path,
        "sha256": package.sha256,
        "size": package.size,
    }
