# SPDX-License-Identifier: GPL-2.0-or-later
"""Obtains, verifies, unpacks and patches a release's sources.

An archive is looked for in the source directory under any of its names, taken
from a git repository, or downloaded; whatever the way, it is verified before use.
"""

from __future__ import annotations

import bz2
import contextlib
import fcntl
import gzip
import hashlib
import http.client
import json
import lzma
import os
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from provision import __version__, fixup, local_sources, unpack
from provision.artifacts import digest
from provision.atomic import write_text
from provision.errors import FailedError, InputError, MissingError
from provision.paths import cache_dir
from provision.release import Archive, Patches, Release
from provision.runner import LocalRunner

# (what is being done, bytes so far, bytes in all or None)
Progress = Callable[[str, int, int | None], None]
_EXPAND: dict[str, Callable[[bytes], bytes]] = {
    ".bz2": bz2.decompress,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
}
_CHUNK = 1 << 18


def silent(what: str, done: int, total: int | None) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Source:
    """A verified archive on disk, or a directory.

    ``identity`` is "sha256:...", "tree:..." or "debian:PACKAGE=VERSION md5:...".
    """

    archive: Archive
    path: Path
    identity: str
    origin: str


def obtain(
    archive: Archive, directory: Path, *, download: bool = True, progress: Progress = silent
) -> Source:
    """Return an archive of ``directory``, downloaded into it when missing, verified.

    :raises InputError: the file there is not the release's; it is left where it is.
    :raises MissingError: not there and not to be had.
    """
    if archive.directory is not None:
        where = str(archive.directory)
        return Source(archive, archive.directory, local_sources.identity(archive), where)
    if archive.debian is not None:
        progress(f"verify {archive.files[0]}", 0, None)
        path = local_sources.debian(archive)
        return Source(archive, path, local_sources.identity(archive), archive.debian)
    wrong: list[InputError] = []
    for name in archive.files:
        path = directory / name
        if path.is_file():
            try:
                return Source(archive, path, verify(archive, path, progress), "source directory")
            except InputError as error:
                wrong.append(error)
    if wrong:
        raise wrong[0]
    if not download or not archive.urls:
        raise MissingError(
            f"{archive.files[0]} is not in {directory}",
            hint="put it there, name its place with --source-dir, or let fetch download it",
        )
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / archive.files[0]
    url = _download(archive, path, progress)
    return Source(archive, path, verify(archive, path, progress), url)


def verify(archive: Archive, path: Path, progress: Progress = silent) -> str:
    """Check a file against the release and return its identity.

    A tree id needs the whole archive read; the result is remembered beside the
    file, bound to its SHA-256.

    :raises InputError: it is not what the release names.
    """
    have = digest(path)
    if archive.sha256 is not None:
        if have != archive.sha256:
            raise _mismatch(path, "sha256", archive.sha256, have)
        return f"sha256:{have}"
    assert archive.tree is not None
    note = path.with_name(path.name + ".verified")
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(note.read_text("utf-8"))
        if known == {"sha256": have, "tree": archive.tree}:
            return f"tree:{archive.tree}"
    total = 0

    def count(size: int) -> None:
        nonlocal total
        total += size
        progress(f"verify {path.name}", total, None)

    tree = unpack.archive_tree_id(path, on_bytes=count)
    if tree != archive.tree:
        raise _mismatch(path, "git tree id", archive.tree, tree)
    # A read-only source directory only costs the next run its time.
    with contextlib.suppress(OSError):
        write_text(note, json.dumps({"sha256": have, "tree": tree}) + "\n")
    return f"tree:{tree}"


def _mismatch(path: Path, kind: str, want: str, have: str) -> InputError:
    return InputError(
        f"{path}: wrong {kind}: {have}, the release says {want}",
        hint="the file is not the release's, or is damaged: remove it and fetch it again",
    )


def from_git(archive: Archive, directory: Path, git: Path, ref: str) -> Source:
    """Pack ``ref`` of the repository ``git`` as the release's archive into ``directory``.

    :raises InputError: no such repository or ref, or its tree is not the release's.
    """
    if archive.tree is None:
        raise InputError(f"the archive {archive.name} has no git tree id to be checked by")
    if ref.startswith("-"):
        raise InputError(f"{ref!r} is not a git ref")
    runner = LocalRunner()
    # A repository owned by another user is fine here: only objects are read.
    base = ["git", "-c", "safe.directory=*", "-C", str(git)]
    found = runner.run([*base, "rev-parse", "--verify", "--quiet", f"{ref}^{{tree}}"], check=False)
    if not found.ok:
        raise InputError(f"{git}: no such git repository or ref {ref}: {found.output.strip()}")
    tree = found.output.strip()
    if tree != archive.tree:
        raise InputError(f"{git}: {ref} has tree {tree}, the release says {archive.tree}")
    directory.mkdir(parents=True, exist_ok=True)
    name = _tar_gz(archive)
    path = directory / name
    prefix = name.removesuffix(".tar.gz") + "/"
    with tempfile.TemporaryDirectory(dir=directory, prefix=".git-") as scratch:
        packed = Path(scratch) / name
        runner.run(
            # Attributes of a newer checkout must not leave files out.
            [
                *base,
                "archive",
                "--format=tar.gz",
                "-1",
                f"--prefix={prefix}",
                "-o",
                str(packed),
                tree,
            ]
        )
        verify(archive, packed)
        packed.replace(path)
    return Source(archive, path, verify(archive, path), f"git {ref}")


def from_directory(archive: Archive, directory: Path, tree: Path) -> Source:
    """Pack an unpacked source tree as the release's archive into ``directory``.

    :raises InputError: its git tree id is not the release's: a file was changed,
        added, left out, or has another executable bit.
    """
    if archive.tree is None:
        raise InputError(f"the archive {archive.name} has no git tree id to be checked by")
    if not tree.is_dir():
        raise InputError(f"{tree}: no such directory")
    have = unpack.directory_tree_id(tree)
    if have != archive.tree:
        raise _mismatch(tree, "git tree id", archive.tree, have)
    name = _tar_gz(archive)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".tree-") as scratch:
        packed = Path(scratch) / name
        with tarfile.open(packed, "w:gz", compresslevel=1) as tar:
            tar.add(tree, name.removesuffix(".tar.gz"))
        verify(archive, packed)
        packed.replace(directory / name)
    return Source(archive, directory / name, verify(archive, directory / name), str(tree))


def _tar_gz(archive: Archive) -> str:
    name = next((n for n in archive.files if n.endswith(".tar.gz")), None)
    if name is None:
        raise InputError(f"the release knows no .tar.gz name for {archive.name}")
    return name


def _download(archive: Archive, path: Path, progress: Progress) -> str:
    locks = cache_dir() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]).open("w") as lock:
        # Two builds begun together must not both append to the same file.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.is_file():
            return "downloaded by another run"
        return _download_alone(archive, path, progress)


def _download_alone(archive: Archive, path: Path, progress: Progress) -> str:
    part = path.with_name(path.name + ".part")
    reasons = []
    for url in archive.urls:
        try:
            _fetch(url, part, lambda done, total: progress(f"fetch {path.name}", done, total))
        except (
            urllib.error.URLError,
            TimeoutError,
            ConnectionError,
            http.client.HTTPException,
        ) as error:
            reasons.append(f"{url}: {getattr(error, 'reason', None) or error}")
            continue
        try:
            verify(archive, part)
        except InputError as error:
            part.unlink(missing_ok=True)
            reasons.append(f"{url}: {error.message}")
            continue
        part.with_name(part.name + ".verified").unlink(missing_ok=True)
        part.replace(path)
        return url
    raise MissingError(
        f"could not download {path.name}: {'; '.join(reasons)}",
        hint=f"put it into {path.parent} yourself; what has arrived is kept and continued",
    )


def _fetch(url: str, part: Path, progress: Callable[[int, int | None], None]) -> None:
    """Download ``url`` to ``part``, continuing what is there (RFC 9110, section 14)."""
    if not url.startswith(("https://", "http://", "file://")):
        raise InputError(f"{url}: only https, http and file addresses are fetched")
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"krg-provision/{__version__}"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - scheme checked above
    try:
        reply = urllib.request.urlopen(request, timeout=60)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        # All of it is here already, or the file there is another: verify tells.
        return
    with reply:
        continued = reply.status == http.HTTPStatus.PARTIAL_CONTENT
        done = have if continued else 0
        length = reply.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if continued else "wb") as stream:
            while data := reply.read(_CHUNK):
                try:
                    stream.write(data)
                    stream.flush()
                except OSError as error:
                    # A full disk does not say which file it had no room for.
                    error.filename = str(part)
                    raise
                done += len(data)
                progress(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"ended after {done} of {total} bytes")


def unpack_patched(
    release: Release,
    sources: Mapping[str, Source],
    work: Path,
    progress: Progress = silent,
) -> dict[str, Path]:
    """Unpack and patch all trees of a release below ``work``; return the directory of each.

    :raises FailedError: a patch does not fit. ``work`` is then to be thrown away.
    """
    trees = unpack_all(sources, work, progress)
    if release.patches is not None:
        apply_patches(release.patches, trees, progress)
    return trees


def fix(
    release: Release, trees: Mapping[str, Path], facts: Mapping[str, str]
) -> list[fixup.Outcome]:
    """Apply a release's fix-ups to its trees; return what each came to.

    :param facts: tool versions and arch, see fixup.apply.
    :raises FailedError: one does not fit. The trees are then to be thrown away.
    """
    outcomes = []
    for name, tree in trees.items():
        for group in release.archives[name].fixups:
            outcomes += fixup.apply(tree, fixup.load(group), facts)
    return outcomes


def unpack_all(
    sources: Mapping[str, Source], work: Path, progress: Progress = silent
) -> dict[str, Path]:
    """Unpack each archive into a directory of its name below ``work``; return them."""
    trees: dict[str, Path] = {}
    for name, source in sources.items():
        trees[name] = work / name
        if source.archive.directory is not None:
            local_sources.copy(source.archive, trees[name])
            continue
        total = 0

        def count(size: int, what: str = source.path.name) -> None:
            nonlocal total
            total += size
            progress(f"unpack {what}", total, None)

        unpack.unpack(source.path, trees[name], on_bytes=count)
    return trees


def apply_patches(patches: Patches, trees: Mapping[str, Path], progress: Progress = silent) -> None:
    """Apply a release's patches in name order with patch(1).

    :raises FailedError: one is missing or does not apply; names it and the file.
    """
    tree = trees[patches.target]
    files = sorted(trees[patches.archive].glob(patches.glob))
    if len(files) != patches.count:
        raise FailedError(
            f"{trees[patches.archive]}: {len(files)} patches match {patches.glob}, "
            f"the release has {patches.count}",
            hint="the archive is not the release's: fetch it again",
        )
    # Some later patch may delete the backups of an earlier one: only what is
    # left over in the end, and was not in the archive, is ours to remove.
    before = set(tree.rglob("*.orig"))
    for number, path in enumerate(files, 1):
        progress(f"patch {path.name}", number, len(files))
        _apply_patch(path, tree, patches.strip)
    for left in set(tree.rglob("*.orig")) - before:
        left.unlink()


def _apply_patch(path: Path, tree: Path, strip: int) -> None:
    expand = _EXPAND.get(path.suffix, bytes)
    try:
        text = expand(path.read_bytes())
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise FailedError(f"{path}: damaged patch ({error})") from error
    with tempfile.NamedTemporaryFile(prefix="krg-patch-") as plain:
        plain.write(text)
        plain.flush()
        result = LocalRunner().run(
            ["patch", f"-p{strip}", "--silent", "--forward", "--batch", "-i", plain.name],
            cwd=tree,
            env={"LC_ALL": "C"},
            check=False,
        )
    if not result.ok:
        said = " ".join(result.output.split())[:300]
        raise FailedError(f"patch {path.name} does not apply to {tree}: {said}")


def sources_of(
    release: Release,
    directory: Path,
    *,
    download: bool = True,
    progress: Progress = silent,
) -> dict[str, Source]:
    """Obtain every archive of a release, or one MissingError that names all missing ones."""
    found: dict[str, Source] = {}
    missing: list[MissingError] = []
    for name, archive in release.archives.items():
        try:
            found[name] = obtain(archive, directory, download=download, progress=progress)
        except MissingError as error:
            missing.append(error)
    if missing:
        raise MissingError("; ".join(e.message for e in missing), hint=missing[0].hint)
    return found
