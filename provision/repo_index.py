# SPDX-License-Identifier: GPL-2.0-or-later
"""The indexes of a published tree: made by apt-ftparchive, and proven to be what was ordered.

Formats: https://wiki.debian.org/DebianRepository/Format, which also describes by-hash.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from provision.atomic import write_text
from provision.data import render
from provision.errors import FailedError
from provision.repo import State, make_directory
from provision.runner import Runner

KEPT = 20  # former index files kept for each kind of digest
_LINE = re.compile(r" ([0-9a-f]+) +(\d+) (\S+)")
_HASHES = {"MD5Sum": "md5", "SHA1": "sha1", "SHA256": "sha256"}
_TIMEOUT = 3600.0


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


def rfc(date: datetime) -> str:
    """Return a date as Release files have it, whatever the locale is."""
    return email.utils.format_datetime(date).replace("+0000", "UTC")


def stanzas(index: Path) -> Iterator[tuple[str, int, str]]:
    """Yield path, size and SHA-256 of each package of a Packages file."""
    for stanza in index.read_text("utf-8", "surrogateescape").split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in stanza.splitlines()
            if line.startswith(("Filename: ", "Size: ", "SHA256: "))
        )
        if stanza.strip():
            yield fields.get("Filename", ""), int(fields.get("Size", 0)), fields.get("SHA256", "")


def link_packages(job: Order, tree: Path, number: int) -> None:
    """Link the pool's packages, and those of the tree that is public now."""
    make_directory(tree / "pool")
    for package in job.state.packages:
        _link(job.directory / package.path, tree / package.path)
    for path in job.removed:
        former = job.directory / f"published/{number}" / path
        if former.is_file():
            _link(former, tree / path)


def _link(source: Path, target: Path) -> None:
    make_directory(target.parent)
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        # A file system without hard links, or a file of somebody else's.
        shutil.copy2(source, target)


def make(job: Order, tree: Path, runner: Runner) -> None:
    """Let apt-ftparchive write the Packages files, from what it remembers or anew."""
    state = job.directory / "state"
    for arch in job.architectures:
        make_directory(tree / f"dists/{job.suite}/main/binary-{arch}")
    for path in (tree / "dists", *(tree / "dists").rglob("*")):
        path.chmod(0o755)
    write_text(state / "files", "".join(f"{p.path}\n" for p in job.state.packages))
    cache, work = state / "cache", state / f"cache{tree.name}"
    config = render(
        "repo/ftparchive.conf.j2",
        cache=work.relative_to(job.directory),
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
        have = set(stanzas(index)) if index.is_file() else set()
        if have != want:
            names = sorted(one[0] for one in want ^ have) or [str(index)]
            return f"the index for {arch} is not what was added: {names[0]}"
    return ""


def release(job: Order, tree: Path, runner: Runner) -> Path:
    """Let apt-ftparchive write the Release file."""
    config = job.directory / "state/release.conf"
    text = render(
        "repo/release.conf.j2",
        suite=job.suite,
        date=rfc(job.date),
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
    text = f"{head}Valid-Until: {rfc(job.valid_until)}\n{lists}{rest}"
    write_text(dists / "Release", text, 0o644)
    return dists / "Release"


def _index_files(dists: Path) -> list[Path]:
    return sorted(p for p in dists.glob("main/binary-*/Packages*") if p.is_file())


def by_hash(job: Order, tree: Path, number: int) -> None:
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


def prove(job: Order, release: Path) -> None:
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
        ("Date", rfc(job.date)),
        ("Valid-Until", rfc(job.valid_until)),
        ("Acquire-By-Hash", "yes"),
    ):
        if fields.get(name) != value:
            raise FailedError(f"{release}: {name} is {fields.get(name)!r}, not {value!r}")
