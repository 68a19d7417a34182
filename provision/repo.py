# SPDX-License-Identifier: GPL-2.0-or-later
"""An apt repository in a directory: which packages it holds, and how they get in and out.

Layout below the directory::

    pool/NAME/NAME_VERSION_ARCH.deb   the packages; a file there never changes
    state/repository.json             what is in the repository; 0700, private
    state/gnupg/                      the signing key, if it is one we made
    published/N/                      complete published trees, N counting up
    www -> published/N                what a web server shows; see repo_publish.py

repository.json says which files of the pool are in the repository; it is written
last and at once, so that an ``add`` that was interrupted has added nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from provision.artifacts import digest
from provision.atomic import write_text
from provision.console import say
from provision.errors import InputError, MissingError
from provision.runner import LocalRunner, Runner

FORMAT = 1
MANIFEST = "packages.json"  # what krg-provision package leaves beside its packages
_STATE = "state/repository.json"
_ROOM = 16 << 20  # bytes to leave free for indexes

# Debian policy 5.6.1, 5.6.12 and 5.6.8; all three become part of file names.
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_VERSION = re.compile(r"(?:\d+:)?[0-9][A-Za-z0-9.+~-]*")
_ARCH = re.compile(r"[a-z0-9][a-z0-9-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Package:
    """A package of a repository.

    ``added`` is when it was taken (nanoseconds since 1970), ``builds`` are the builds it came
    from and ``release`` what they are of; empty for a file that came without a manifest.
    """

    name: str
    version: str
    arch: str
    sha256: str
    size: int
    added: int = 0
    mtime_ns: int = 0
    builds: tuple[str, ...] = ()
    release: str = ""

    @property
    def path(self) -> str:
        """Return its file's path in the repository; an epoch is no part of it, as in Debian."""
        version = self.version.split(":", 1)[-1]
        return f"pool/{self.name}/{self.name}_{version}_{self.arch}.deb"

    @property
    def title(self) -> str:
        """Return how people name it: name=version:arch."""
        return f"{self.name}={self.version}:{self.arch}"


@dataclass(frozen=True)
class State:
    """What a repository holds, and how it was published last."""

    packages: tuple[Package, ...] = ()
    key: str = ""  # the signing key's fingerprint; empty before the first publish
    own_key: bool = False  # whether the key is in state/gnupg, not the user's
    url: str = ""


@dataclass(frozen=True)
class Offer:
    """A file that ``add`` was given, and the package it is."""

    file: Path
    package: Package


@dataclass(frozen=True)
class Addition:
    """What an ``add`` does: files to take, and packages that are there already."""

    new: tuple[Offer, ...]
    present: tuple[Package, ...]


# -- the state file -------------------------------------------------------------


def load(directory: Path) -> State:
    """Read a repository's state.

    :raises InputError: no repository, or its state is damaged.
    """
    path = directory / _STATE
    try:
        raw = json.loads(path.read_text("utf-8"))
        if raw["format"] != FORMAT:
            raise InputError(f"{path}: format {raw['format']}, this program reads {FORMAT}")
        packages = tuple(
            _checked(Package(**{**one, "builds": tuple(one["builds"])}), str(path))
            for one in raw["packages"]
        )
        return State(packages, raw["key"], raw["own_key"], raw["url"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{directory}: not a package repository (no {_STATE})",
            hint=f"make one: krg-provision repo add {directory} PACKAGES...",
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error})") from error


def load_or_empty(directory: Path) -> State:
    """Read a repository's state; an empty one when nothing has been added yet."""
    return load(directory) if (directory / _STATE).is_file() else State()


def save(directory: Path, state: State) -> None:
    """Write a repository's state, whole or not at all."""
    packages = sorted(state.packages, key=lambda p: (p.name, p.added, p.version, p.arch))
    value = {"format": FORMAT, **asdict(replace(state, packages=tuple(packages)))}
    write_text(directory / _STATE, json.dumps(value, indent=1) + "\n", 0o600)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other commands out of the repository; waits for one that is at work."""
    with (directory / "state/lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting: another krg-provision repo works on {directory}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_directory(path: Path, mode: int = 0o755) -> None:
    """Make a directory and its parents; it gets ``mode`` whatever the umask is."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True)
        path.chmod(mode)


def _create(directory: Path) -> None:
    """Make an empty repository unless it is one; refuse a directory that is something else."""
    if (directory / _STATE).is_file():
        return
    # A first add that was interrupted leaves a state without its file.
    found = sorted(p.name for p in directory.iterdir()) if directory.is_dir() else []
    if set(found) - {"state", "pool"}:
        raise InputError(f"{directory}: not empty, and not a package repository ({found[0]})")
    make_directory(directory)
    make_directory(directory / "state", 0o700)
    make_directory(directory / "pool")


# -- what is offered ------------------------------------------------------------


def offers(arguments: Sequence[Path], runner: Runner | None = None) -> tuple[Offer, ...]:
    """Read packages: .deb files, packages.json files, or directories that hold one.

    Every file is read whole: its digest is compared with the manifest's, its name,
    version and architecture are what its control file says.

    :raises InputError: a file is missing, is no package, or is not what the manifest says.
    """
    runner = runner or LocalRunner()
    found: dict[Path, Offer] = {}
    for argument in arguments:
        path = argument / MANIFEST if argument.is_dir() else argument
        if path.suffix == ".json":
            some = _of_manifest(path, runner)
        elif path.suffix == ".deb":
            some = [_of_file(path, runner)]
        else:
            raise InputError(f"{path}: expected a .deb file, a {MANIFEST}, or a directory with one")
        for offer in some:
            found.setdefault(offer.file.resolve(), offer)
    return tuple(found.values())


def _of_manifest(path: Path, runner: Runner) -> list[Offer]:
    try:
        raw = json.loads(path.read_text("utf-8"))
        if raw["format"] != 1:
            raise InputError(f"{path}: format {raw['format']}, this program reads 1")
        build, release = _text(raw, "build_id"), _text(raw, "release")
        entries = [
            (
                _text(one, "file"),
                Package(
                    _text(one, "package"),
                    _text(one, "version"),
                    _text(one, "architecture"),
                    _text(one, "sha256"),
                    int(one["size"]),
                    builds=(build,),
                    release=release,
                ),
            )
            for one in raw["packages"]
        ]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{path}: no such file", hint="krg-provision package makes it from a build"
        ) from error
    except (KeyError, TypeError, ValueError, UnicodeError) as error:
        raise InputError(f"{path}: not a manifest of packages ({error!r})") from error
    for name, _ in entries:
        if Path(name).name != name or not name.endswith(".deb"):
            raise InputError(f"{path}: {name!r} is not the name of a .deb file beside it")
    made = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = list(pool.map(lambda e: _of_file(path.with_name(e[0]), runner), entries))
    for offer, (name, said) in zip(read, entries, strict=True):
        package = replace(offer.package, builds=said.builds, release=said.release)
        if (package.sha256, package.size) != (said.sha256, said.size):
            raise InputError(
                f"{offer.file}: changed since {path.name} was written (SHA-256 "
                f"{package.sha256[:12]}..., the manifest says {said.sha256[:12]}...)",
                hint="make the packages again: krg-provision package",
            )
        if package != said:
            raise InputError(f"{path}: {name} is {package.title}, not {said.title}")
        made.append(Offer(offer.file, package))
    return made


def _text(raw: Any, key: str) -> str:
    value = raw[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is no text")
    return value


def _of_file(path: Path, runner: Runner) -> Offer:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    argv = ["dpkg-deb", "-f", str(path.absolute()), "Package", "Version", "Architecture"]
    result = runner.run(argv, env={"LC_ALL": "C"}, timeout=60, check=False)
    fields = dict(line.split(": ", 1) for line in result.output.splitlines() if ": " in line)
    if not result.ok or not {"Package", "Version", "Architecture"} <= fields.keys():
        last = result.output.strip().splitlines()[-1:] or ["no control file"]
        raise InputError(f"{path}: not a Debian package ({last[0].strip()})")
    package = Package(
        fields["Package"],
        fields["Version"],
        fields["Architecture"],
        digest(path),
        path.stat().st_size,
    )
    return Offer(path, _checked(package, str(path)))


def _checked(package: Package, where: str) -> Package:
    """Return ``package`` if its fields are what may become part of a path."""
    for what, pattern, value in (
        ("a package name", _NAME, package.name),
        ("a version", _VERSION, package.version),
        ("an architecture", _ARCH, package.arch),
        ("a SHA-256", _SHA256, package.sha256),
    ):
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise InputError(f"{where}: {value!r} is not {what}")
    return package


# -- in and out -----------------------------------------------------------------


def plan(state: State, offered: Iterable[Offer]) -> Addition:
    """Compare what is offered with what is there.

    :raises InputError: another content under the same name, version and architecture.
    """
    there = {package.path: package for package in state.packages}
    new: list[Offer] = []
    present: list[Package] = []
    for offer in offered:
        package = offer.package
        known = there.get(package.path)
        if known is None:
            new.append(offer)
            there[package.path] = package
        elif (known.sha256, known.title) != (package.sha256, package.title):
            raise InputError(
                f"{offer.file}: {known.title} is in the repository already, with another content "
                f"(SHA-256 {known.sha256[:12]}..., this file {package.sha256[:12]}...)",
                hint="nodes may have that one: give the new package another version",
            )
        else:
            builds = tuple(dict.fromkeys((*known.builds, *package.builds)))
            there[package.path] = replace(known, builds=builds)
            present.append(there[package.path])
    return Addition(tuple(new), tuple(present))


def add(directory: Path, offered: Sequence[Offer]) -> Addition:
    """Take packages into the repository, all or none; it is made when it is not there.

    :raises InputError: see ``plan``; a file changed while it was copied.
    :raises MissingError: not enough space.
    """
    _create(directory)
    with locked(directory):
        _sweep(directory)
        state = load_or_empty(directory)
        addition = plan(state, offered)
        need = sum(offer.package.size for offer in addition.new)
        free = shutil.disk_usage(directory).free
        if free < need + _ROOM:
            raise MissingError(
                f"{directory}: {free >> 20} MB free, the packages need {(need + _ROOM) >> 20} MB"
            )
        now = time.time_ns()
        parts = [(offer, _copy(directory, offer)) for offer in addition.new]
        taken = [replace(_settle(directory, *one), added=now) for one in parts]
        merged = {p.path: p for p in (*state.packages, *addition.present, *taken)}
        save(directory, replace(state, packages=tuple(merged.values())))
    return addition


def _copy(directory: Path, offer: Offer) -> Path:
    """Copy a file to where it will be, under a name of its own; it is what was checked."""
    target = directory / offer.package.path
    make_directory(target.parent)
    part = target.with_name(f".{target.name}.part")
    seen = hashlib.sha256()
    with offer.file.open("rb") as source, part.open("wb") as copy:
        while data := source.read(1 << 20):
            seen.update(data)
            copy.write(data)
    if seen.hexdigest() != offer.package.sha256:
        part.unlink()
        raise InputError(f"{offer.file}: changed while it was copied; nothing was added")
    part.chmod(0o644)
    return part


def _settle(directory: Path, offer: Offer, part: Path) -> Package:
    """Make a copy last and give it its name; all are written before the first is waited for."""
    with part.open("rb") as copy:
        os.fsync(copy.fileno())
    target = directory / offer.package.path
    part.replace(target)
    return replace(offer.package, mtime_ns=target.stat().st_mtime_ns)


def _sweep(directory: Path) -> None:
    """Remove what copies that were interrupted left."""
    for path in (directory / "pool").glob("*/.*.part"):
        path.unlink()


# -- out again ------------------------------------------------------------------


def matching(state: State, words: Sequence[str]) -> tuple[Package, ...]:
    """Return the packages that NAME, NAME=VERSION, NAME:ARCH or NAME=VERSION:ARCH mean.

    :raises InputError: one means none.
    """
    found: dict[str, Package] = {}
    for word in words:
        match = re.fullmatch(r"([^=:]+)(?:=([^=]+?))?(?::([a-z][a-z0-9-]*))?", word)
        name, version, arch = match.groups() if match else (word, None, None)
        some = [
            package
            for package in state.packages
            if package.name == name
            and version in (None, package.version)
            and arch in (None, package.arch)
        ]
        if not some:
            raise InputError(
                f"{word}: no such package in the repository",
                hint="krg-provision repo list shows what there is",
            )
        found.update({package.path: package for package in some})
    return tuple(found.values())


def outdated(state: State, keep: int) -> tuple[Package, ...]:
    """Return the packages that ``prune`` takes out: all but those of the newest builds.

    The newest ``keep`` builds of each release and architecture stay; of files that
    came without a build, the ``keep`` added last of each name and architecture.
    """
    groups: dict[tuple[str, str, str], dict[str, int]] = {}
    for package in state.packages:
        builds = groups.setdefault(_group(package), {})
        for build in _builds(package):
            builds[build] = max(builds.get(build, 0), package.added)
    kept = {
        group: set(sorted(builds, key=lambda b: builds[b], reverse=True)[:keep])
        for group, builds in groups.items()
    }
    return tuple(p for p in state.packages if not kept[_group(p)] & set(_builds(p)))


def _group(package: Package) -> tuple[str, str, str]:
    return (package.release, package.arch, "" if package.builds else package.name)


def _builds(package: Package) -> tuple[str, ...]:
    return package.builds or (package.version,)


def remove(directory: Path, packages: Iterable[Package], orphans: bool = False) -> None:
    """Take packages out of the repository and its pool; nodes see it after a publish.

    :param orphans: delete files of the pool that are not in the repository, too.
    """
    gone = {package.path for package in packages}
    with locked(directory):
        _sweep(directory)
        state = load(directory)
        left = replace(state, packages=tuple(p for p in state.packages if p.path not in gone))
        save(directory, left)
        for name in sorted(gone | set(unlisted(directory, left) if orphans else ())):
            path = directory / name
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others of its name are still there
                path.parent.rmdir()


def changed(directory: Path, state: State) -> list[str]:
    """Return which files of the pool are gone or are no longer what was added.

    A file whose size and time are those of the copy made by ``add`` is not read again.
    """
    bad = []
    for package in state.packages:
        path = directory / package.path
        try:
            status = path.lstat()
            same = (status.st_size, status.st_mtime_ns) == (package.size, package.mtime_ns)
            # A link could be published, and lead anywhere later.
            if not stat.S_ISREG(status.st_mode) or (not same and digest(path) != package.sha256):
                bad.append(package.path)
        except OSError:
            bad.append(package.path)
    return bad


def unlisted(directory: Path, state: State) -> list[str]:
    """Return the pool's files that are not in the repository, by path."""
    listed = {package.path for package in state.packages}
    files = (p for p in (directory / "pool").rglob("*") if not p.is_dir())
    return sorted({str(p.relative_to(directory)) for p in files} - listed)
