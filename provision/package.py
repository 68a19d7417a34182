# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes Debian packages of a build; templates/packages/packages.toml says which and of what.

The flow is ``make``: what goes where (``plan``), a staged tree and a .deb for each package,
all at once on all processors, and a directory with packages.json that gets its name last.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from provision import __version__, archive_list
from provision import module as modules
from provision.artifacts import Artifacts, describe_or_none, digest
from provision.atomic import write_text
from provision.data import data_dir, render
from provision.deb import COMPRESSIONS, Stage, compressed, mode_of
from provision.errors import FailedError, InputError, MissingError
from provision.package_plan import DEBIAN_ARCH, MAINTAINER, Recipe, Wishes, libraries, plan
from provision.paths import packages_dir
from provision.progress import Phases
from provision.space import need_space

FORMAT = 1
MANIFEST = "packages.json"
_MAINTAINER = re.compile(r"[^<>\n]*[^<>\s][^<>\n]* <[^<>\s@]+@[^<>\s@]+>")
_REVISION = re.compile(r"[1-9][0-9]{0,5}")
_CONTROL = ("preinst", "postinst", "prerm", "postrm", "conffiles")


@dataclass(frozen=True)
class Made:
    """The packages of a build on disk; ``entries`` as in packages.json."""

    directory: Path
    entries: tuple[Mapping[str, Any], ...]


def make(build: Artifacts, wishes: Wishes, phases: Phases) -> tuple[Made, bool]:
    """Make the packages of a build; return them, and whether anything had to be done.

    :raises InputError: the build was changed since, or has a name dpkg would refuse.
    :raises MissingError: dpkg-deb or strip is missing, or there is no space.
    :raises FailedError: dpkg-deb refuses a package.
    """
    _check(build, wishes)
    recipes = plan(build, wishes)
    final = (wishes.output or packages_dir() / build.directory.name).absolute()
    key = _key(build, wishes)
    done = _finished(final, key)
    if done is not None:
        return done, False
    used = sorted({name for recipe in recipes for name in recipe.sources})
    final.parent.mkdir(parents=True, exist_ok=True)
    need_space(final.parent, 3 * sum(build.files[n].size for n in used), "packages")
    with _scratch(final.parent, f".{final.name}.") as scratch:
        place = scratch / "packages"
        place.mkdir(mode=0o755)
        place.chmod(0o755)
        with _staging(scratch, sum(build.files[n].size for n in used)) as stages:
            entries = _all(build, recipes, wishes, stages, place, phases)
        manifest = {
            "format": FORMAT,
            "release": build.kernel_release,
            "build_id": build.build_id,
            "made_by": f"krg-provision {__version__}",
            "key": key,
            "packages": entries,
        }
        write_text(place / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        _replace(place, final)
    return Made(final, tuple(entries)), True


def _check(build: Artifacts, wishes: Wishes) -> None:
    for value, pattern, what in (
        (wishes.maintainer, _MAINTAINER, 'a maintainer such as "Ann Else <ann@example.org>"'),
        (wishes.revision, _REVISION, "a revision such as 1 or 2"),
        (wishes.compression, re.compile("|".join(COMPRESSIONS)), "a compression"),
    ):
        if not pattern.fullmatch(value):
            raise InputError(f"{value!r} is not {what}")
    if build.arch not in DEBIAN_ARCH:
        raise InputError(f"{build.directory}: there is no Debian architecture for {build.arch}")
    lacks = [key for key in ("title", "kernel_version", "epoch") if key not in build.manifest]
    if lacks:
        raise InputError(
            f"{build.directory}: its manifest.json does not say {lacks[0]}",
            hint="it was made by an older version: build again with krg-provision build-kernel",
        )
    for tool, package in (("dpkg-deb", "dpkg"), ("strip", "binutils")):
        if shutil.which(tool) is None:
            raise MissingError(f"{tool}: not found on this machine", hint=f"package {package}")


def _key(build: Artifacts, wishes: Wishes) -> str:
    """Return a digest of everything that decides the packages."""
    texts = {
        str(path.relative_to(data_dir("templates"))): digest(path)
        for path in sorted(data_dir("templates").rglob("*"))
        if path.suffix in (".j2", ".toml")
    }
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    files = {name: (entry.sha256, entry.mode) for name, entry in build.files.items()}
    what = [
        files, build.manifest["inputs"], texts, wishes.compression, wishes.revision,
        wishes.maintainer, epoch,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def load(directory: Path) -> Made | None:
    """Return the packages in a directory; None when it has no packages.json of ours."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text("utf-8"))
        if manifest["format"] != FORMAT:
            return None
        return Made(directory, tuple(manifest["packages"]))
    except (OSError, KeyError, ValueError, TypeError):
        return None


def _finished(final: Path, key: str) -> Made | None:
    made = load(final)
    if made is None:
        if final.exists() and (not final.is_dir() or any(final.iterdir())):
            raise InputError(
                f"{final}: exists and holds no packages of ours",
                hint="name another directory with --output",
            )
        return None
    foreign = {path.name for path in final.iterdir()} - {
        MANIFEST,
        *(e["file"] for e in made.entries),
    }
    if foreign:
        raise InputError(
            f"{final / min(foreign)}: is none of our packages",
            hint="move it away, or name another directory with --output",
        )
    text = json.loads((final / MANIFEST).read_text("utf-8"))
    whole = all(_intact(final / e["file"], e["sha256"]) for e in made.entries)
    return made if text.get("key") == key and whole else None


def _intact(path: Path, sha256: str) -> bool:
    return path.is_file() and digest(path) == sha256


def _replace(place: Path, final: Path) -> None:
    """Give finished packages their name; the former ones go away with the scratch directory."""
    if final.exists():
        final.rename(place.with_name("former"))
    place.rename(final)


# From recipes to packages.


@contextmanager
def _staging(scratch: Path, size: int) -> Iterator[Path]:
    """Give a directory for trees of ``size`` bytes, in memory where there is room.

    Thousands of headers are made and removed there; on ext4 that costs more than packing them.
    """
    memory = Path("/dev/shm")  # noqa: S108 # the directory made in it has a name of its own
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 * size
    if not (roomy and os.access(memory, os.W_OK)):
        yield scratch
        return
    with _scratch(memory, "krg-package.") as place:
        yield place


@contextmanager
def _scratch(where: Path, prefix: str) -> Iterator[Path]:
    """Give a directory of our own; one that a killed run left is removed first."""
    for left in where.glob(f"{prefix}*-*"):
        owner = left.name.removeprefix(prefix).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-", dir=where) as place:
        yield Path(place)


def _all(
    build: Artifacts,
    recipes: Sequence[Recipe],
    wishes: Wishes,
    scratch: Path,
    place: Path,
    phases: Phases,
) -> list[dict[str, object]]:
    """Make every package, and look meanwhile whether the build is still what it was.

    :return: the lines of packages.json, in the order of ``recipes``.
    """
    phases.update("packages", 0, len(recipes))
    # What takes longest goes first: thousands of files, then the largest.
    sizes = {r.id: sum(build.files[name].size for name in r.sources) for r in recipes}
    order = sorted(recipes, key=lambda r: (not r.archives, -sizes[r.id]))
    workers = os.cpu_count() or 1
    names = {name for recipe in recipes for name in recipe.sources}
    names |= {f"{name}.list" for name in names} & build.files.keys()
    with ThreadPoolExecutor(workers) as stagers, ThreadPoolExecutor(workers) as packers:
        try:
            staged = {stagers.submit(_staged, build, r, wishes, scratch / r.id): r for r in order}
            check = stagers.submit(_unchanged, build, names)
            # The largest decide how long it takes: they neither wait for the others, whichever is
            # staged first, nor share their processors with them.
            largest = list(staged)[:workers]
            packed = {}
            for tree in chain(as_completed(largest), list(staged)[workers:]):
                recipe = staged[tree]
                file = place / recipe.file
                packed[packers.submit(_packed, tree.result(), wishes, file, recipe)] = recipe.id
            made = {}
            for count, future in enumerate(as_completed(packed), 1):
                made[packed[future]] = future.result()
                phases.update("packages", count, len(recipes))
            check.result()
            return [made[recipe.id] for recipe in recipes]
        except BaseException:
            for pool in (stagers, packers):
                pool.shutdown(wait=False, cancel_futures=True)
            raise


def _unchanged(build: Artifacts, names: Iterable[str]) -> None:
    """Look at every file of the build that is packed.

    :raises InputError: one is not what the build made.
    """
    damaged = sorted(n for n in names if describe_or_none(build.path(n)) != build.files[n])
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise InputError(
            f"{build.path(damaged[0])}{more}: changed since it was built",
            hint="build it again: krg-provision build-kernel does nothing but that",
        )


def _staged(build: Artifacts, recipe: Recipe, wishes: Wishes, root: Path) -> Stage:
    """Make the tree of one package, all of it but what packing itself does."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    when = int(epoch) if epoch.isascii() and epoch.isdigit() else int(build.manifest["epoch"])
    stage = Stage(root, when)
    root.mkdir()
    values = _values(build, recipe, wishes, when)
    for move in recipe.moves:
        source = build.path(move.source)
        entry = build.files[move.source]
        if entry.target is not None:
            stage.link(move.target, entry.target)
            continue
        mode = mode_of(source) if move.mode is None else move.mode
        if move.append:
            more = render(move.append, **values).encode()
            stage.write(move.target, source.read_bytes() + more, mode)
        else:
            stage.put(move.target, source, mode, strip=move.strip, compress=move.compress)
    for source_name, target, strip in recipe.archives:
        source = build.path(source_name)
        held = archive_list.members(source, build.files[source_name].sha256)
        stage.unpack(source, target, held, strip=strip)
    for path, target in recipe.links:
        stage.link(path, target)
    for template, target, mode in recipe.texts:
        stage.write(target, render(template, **values), mode)
    _documentation(stage, recipe, values)
    stage.strip()
    if recipe.archives:
        values["shlibs"] = _shared_libraries(stage, str(build.directory))
    values["installed_size"], sums = stage.sums()
    folder = data_dir("templates") / "packages" / recipe.id
    for control in ("control", *_CONTROL):
        if control == "control" or (folder / f"{control}.j2").is_file():
            text = render(f"packages/{recipe.id}/{control}.j2", **values)
            stage.write(f"DEBIAN/{control}", text)
            if control == "control":
                _check_control(text, recipe)
    stage.write("DEBIAN/md5sums", sums)
    return stage


def _packed(stage: Stage, wishes: Wishes, file: Path, recipe: Recipe) -> dict[str, object]:
    """Write a package, and return its line in packages.json."""
    stage.build(file, wishes.compression)
    file.chmod(0o644)
    stage.discard()
    return _entry(file, recipe)


def _values(build: Artifacts, recipe: Recipe, wishes: Wishes, when: int) -> dict[str, object]:
    manifest = build.manifest
    module = modules.of(manifest)
    config = _values_of(build.path("config")) if "config" in build.files else {}
    flags = " ".join(manifest.get("gcc_flags", ()))
    return {
        "name": recipe.name,
        "source": re.sub(r"[^a-z0-9+.-]", "-", build.release.lower()),
        "version": recipe.version,
        "architecture": recipe.architecture,
        "maintainer": wishes.maintainer,
        "release": build.kernel_release,
        "kernel_version": manifest["kernel_version"],
        "kernel_numbers": [int(n) for n in re.findall(r"\d+", manifest["kernel_version"])[:3]],
        "title": manifest["title"],
        "arch": build.arch,
        "build_id": build.build_id,
        "module": module,
        # Which package loads the module at boot, see packages.toml.
        "companion": f"{module.name}-{'tools' if 'tools/bin/krgadm' in build.files else 'service'}"
        if module
        else "",
        "kerrighed": f"lib/modules/{build.kernel_release}/extra/kerrighed.ko" in build.files,
        "make_options": f'ARCH={build.arch} CC="gcc {flags}"' if flags else "",
        "short": build.release.replace("-", " ").capitalize(),
        "nobody": wishes.maintainer == MAINTAINER,
        "inputs": [(n, s["identity"]) for n, s in manifest["sources"].items()],
        "origins": manifest.get("origins") or ["unknown"],
        # As RFC 5322 has it; no locale is set, so the names are English.
        "date": datetime.fromtimestamp(when, UTC).strftime("%a, %d %b %Y %H:%M:%S +0000"),
        "packaged": True,
        "config": config,
    }


def _values_of(config: Path) -> dict[str, str]:
    """Return what is set in a .config that make wrote, by symbol."""
    lines = config.read_text("utf-8", "replace").splitlines()
    return dict(
        line.removeprefix("CONFIG_").split("=", 1) for line in lines if line.startswith("CONFIG_")
    )


def _documentation(stage: Stage, recipe: Recipe, values: Mapping[str, object]) -> None:
    place = f"usr/share/doc/{recipe.name}"
    stage.write(f"{place}/copyright", render("packages/shared/copyright.j2", **values))
    changelog = render("packages/shared/changelog.j2", **values).encode()
    stage.write(f"{place}/changelog.Debian.gz", compressed(changelog))
    if (data_dir("templates") / f"packages/{recipe.id}/lintian-overrides.j2").is_file():
        text = render(f"packages/{recipe.id}/lintian-overrides.j2", **values)
        stage.write(f"usr/share/lintian/overrides/{recipe.name}", text)


def _shared_libraries(stage: Stage, where: str) -> str:
    """Return the dependencies of the programs in a tree, as dpkg-shlibdeps finds them.

    Of the C library it is the version in which the newest of the symbols they use came.

    :raises InputError: a program uses a library that packages.toml does not know.
    """
    known = libraries()
    newest: dict[str, tuple[int, ...]] = {}
    for name, versions in stage.libraries().items():
        if name not in known:
            raise InputError(
                f"{where}: a program uses {name}, and no package is known for that",
                hint="name it in templates/packages/packages.toml",
            )
        package, prefix = known[name]
        newest.setdefault(package, ())
        for version in versions if prefix else ():
            numbers = version.removeprefix(prefix).split(".")
            if all(n.isdigit() for n in numbers):
                newest[package] = max(newest[package], tuple(map(int, numbers))[:2])
    # Programs that use none are as static ones are; the C library is there in any Debian.
    newest = newest or {"libc6": ()}
    return ", ".join(
        f"{package} (>= {'.'.join(map(str, version))})" if version else package
        for package, version in sorted(newest.items())
    )


def _check_control(text: str, recipe: Recipe) -> None:
    """Compare what a package will say of itself with what the plan calls it."""
    said = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    have = (said.get("Package"), said.get("Version"), said.get("Architecture"))
    if have != (recipe.name, recipe.version, recipe.architecture):
        raise FailedError(f"{recipe.file}: says of itself {have}")


def _entry(path: Path, recipe: Recipe) -> dict[str, object]:
    """Return a package's line in packages.json."""
    return {
        "file": path.name,
        "package": recipe.name,
        "version": recipe.version,
        "architecture": recipe.architecture,
        "sha256": digest(path),
        "size": path.stat().st_size,
    }
