# SPDX-License-Identifier: GPL-2.0-or-later
"""A build's Debian packages on nodes that have dpkg: which are missing, and what dpkg is told.

The .deb files travel like any other file, to CACHE; dpkg is then run once. Our own maintainer
scripts leave the boot loader alone when KRG_PROVISION_BOOT=no (templates/packages/shared): the
boot menu is what the plan printed, whatever update-grub would make of one kernel more.

Sources: dpkg(1) for --force-confold and --dry-run, Debian policy 6.5 for the states of packages,
the kernel handbook, chapter 4.2, for INITRD=No (our entry boots without an initrd).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from provision import module as modules
from provision.artifacts import Artifacts, digest
from provision.errors import InputError
from provision.facts import Facts
from provision.plan import Change, Wanted, is_safe_path

CACHE = "/var/cache/krg-provision"
# Never a question, no initramfs, no update-grub.
_DPKG = "env DEBIAN_FRONTEND=noninteractive KRG_PROVISION_BOOT=no INITRD=No dpkg"
# What linux-image depends on (templates/packages/linux-image/control.j2).
_TOOLS = ("kmod", "module-init-tools")
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{1,100}")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+~-]{0,100}")
_ARCH = re.compile(r"[a-z0-9-]{1,20}")


@dataclass(frozen=True)
class Package:
    """One package of a build, and its file as it shall lie in CACHE."""

    name: str
    version: str
    architecture: str
    file: Wanted

    @property
    def is_kernel(self) -> bool:
        """Tell whether it brings the kernel."""
        return self.name.startswith("linux-image-")


@dataclass(frozen=True)
class Installed:
    """What dpkg on a node said: (version, state) by package, files in CACHE, what is half done."""

    packages: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    cached: frozenset[str] = frozenset()
    broken: tuple[str, ...] = ()

    def version(self, name: str) -> str:
        """Return the version that is fully installed, "-" if none is."""
        version, state = self.packages.get(name, ("-", ""))
        return version if state == "installed" else "-"


@dataclass(frozen=True)
class Part:
    """What installing packages adds to a plan; commands run in the order of their names here."""

    files: tuple[Wanted, ...] = ()
    checks: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    about: tuple[tuple[str, str], ...] = ()


def load(directory: Path, build: Artifacts) -> tuple[Package, ...]:
    """Return those packages in a directory that nodes need, of this build.

    :raises InputError: there are none, they are of another build, or a file was changed.
    """
    from provision import package

    made = package.load(directory)
    if made is None:
        raise InputError(
            f"{directory}: holds no packages of ours",
            hint=f"make them: krg-provision package {build.directory}",
        )
    release = build.kernel_release
    wanted = [f"linux-image-{release}"]
    module = modules.of(build.manifest)
    if module is not None:
        name = module.name
        wanted += [f"{name}-modules-{release}", f"{name}-tools", f"{name}-service"]
    found = []
    for entry in made.entries:
        if str(entry["package"]) not in wanted:
            continue
        name, version, arch, file = (
            str(entry[key]) for key in ("package", "version", "architecture", "file")
        )
        path = directory / file
        good = (
            _NAME.fullmatch(name)
            and _VERSION.fullmatch(version)
            and _ARCH.fullmatch(arch)
            and file == f"{name}_{version}_{arch}.deb"
            and is_safe_path(f"{CACHE}/{file}")
        )
        if not good:
            raise InputError(f"{directory}: cannot deploy a package named {file!r}")
        if not path.is_file() or digest(path) != entry["sha256"]:
            raise InputError(
                f"{path}: is not the package that packages.json names",
                hint=f"make it again: krg-provision package {build.directory}",
            )
        wanted_file = Wanted(
            f"{CACHE}/{file}", str(entry["sha256"]), path.stat().st_size, 0o644, source=path
        )
        found.append(Package(name, version, arch, wanted_file))
    if wanted[0] not in [one.name for one in found]:
        raise InputError(
            f"{directory}: its packages are of another build than {release}",
            hint=f"make them: krg-provision package {build.directory}",
        )
    return tuple(sorted(found, key=lambda one: wanted.index(one.name)))


def read(facts: Facts) -> Installed:
    """Return what a node's dpkg said of packages like ours."""
    packages: dict[str, tuple[str, str]] = {}
    cached, broken = set(), []
    for line in facts.blobs.get("packages", b"").decode("utf-8", "replace").split("\n"):
        kind, _, rest = line.partition(" ")
        words = rest.split(" ")
        if kind == "cached" and is_safe_path(f"{CACHE}/{rest}"):
            cached.add(rest)
        elif kind == "broken" and _NAME.fullmatch(words[0]):
            broken.append(words[0])
        # Name, version, and three words: wanted, error, state.
        elif kind == "package" and len(words) == 5 and _NAME.fullmatch(words[0]):
            packages[words[0]] = (words[1], words[4])
    return Installed(packages, frozenset(cached), tuple(broken))


def missing(packages: Sequence[Package], have: Installed) -> tuple[Package, ...]:
    """Return the packages that are not installed, or in another version."""
    return tuple(one for one in packages if have.version(one.name) != one.version)


def part(packages: Sequence[Package], kernel_release: str, facts: Facts) -> Part:
    """Return what has to be done so that a node has the packages."""
    have = read(facts)
    absent = missing(packages, have)
    repair = (f"{_DPKG} --force-confold --configure -a </dev/null",) if have.broken else ()
    notes = (
        (f"dpkg was interrupted; {', '.join(have.broken)} will be set up first",)
        if have.broken
        else ()
    )
    if not absent:
        return Part(first=repair, notes=notes)
    problems = []
    said = facts.word("dpkg_architecture")
    other = [one for one in absent if one.architecture not in ("all", said)]
    if other:
        problems.append(
            f"its dpkg is for {said}, {other[0].name} for {other[0].architecture}: "
            "leave --packages out"
        )
    if not any(have.version(name) != "-" for name in _TOOLS):
        # dpkg would unpack the kernel and then refuse to set it up.
        problems.append(f"the kernel's package depends on {' or '.join(_TOOLS)}: install one there")
    image = f"linux-image-{kernel_release}"
    if f"/boot/vmlinuz-{kernel_release}" in facts.files and image not in have.packages:
        problems.append(
            "the build lies there as files, not as packages: roll that back first, or leave "
            "--packages out"
        )
    staged = [
        # Sent now, or there already.
        one.file.path.replace("/var/cache/", "/var/cache/{stage}/", 1)
        if _differs(one, facts)
        else one.file.path
        for one in absent
    ]
    files = " ".join(one.file.path for one in absent)
    return Part(
        tuple(one.file for one in absent),
        (f"dpkg --dry-run -i {' '.join(staged)}",),
        (*repair, f"{_DPKG} --force-confold -i {files} </dev/null"),
        tuple(problems),
        (
            *notes,
            f"update-grub is not run now; when it runs next, it adds vmlinuz-{kernel_release} to "
            "its own list of kernels, with no node_id",
        ),
        tuple(
            ("package", f"{one.name} {have.version(one.name)} {one.version} {one.architecture}")
            for one in absent
        ),
    )


def _differs(one: Package, facts: Facts) -> bool:
    there = facts.files.get(one.file.path)
    return there is None or there.sha256 != one.file.sha256


@dataclass(frozen=True)
class Undo:
    """What takes packages back: commands, what stands in the way, names of what is purged."""

    first: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    purged: tuple[str, ...] = ()


def undo(lines: Sequence[str], facts: Facts, *, leaves: bool = False) -> Undo:
    """Return what undoes the installations that journals noted, the oldest first.

    Packages that were not there before are purged; others come back in their former version,
    if its file is still in CACHE.

    :param lines: the values of the word ``package``: name, version before, version, architecture.
    :param leaves: the node is restarted into another kernel before.
    """
    have = read(facts)
    leave, back, problems = [], [], []
    for name, (version, arch, since) in noted(lines).items():
        now, state = have.packages.get(name, ("-", "not-installed"))
        is_there = state == "installed"
        if (now == version) if is_there else (version == "-" and state == "not-installed"):
            continue
        if is_there and now not in since:
            problems.append(f"{name} {now} was installed since by somebody else")
        elif version == "-":
            leave.append(name)
        elif f"{name}_{version}_{arch}.deb" not in have.cached:
            problems.append(f"{CACHE}/{name}_{version}_{arch}.deb is no longer there")
        else:
            back.append(f"{CACHE}/{name}_{version}_{arch}.deb")
    running = f"linux-image-{facts.word('kernel')}"
    if running in leave and not leaves:
        problems.append(f"{running} is the kernel that runs: boot another entry first")
    first = []
    if have.broken:
        first.append(f"{_DPKG} --force-confold --configure -a </dev/null")
    if leave:
        first.append(purge(leave))
    if back:
        first.append(f"{_DPKG} --force-confold -i {' '.join(back)} </dev/null")
    return Undo(tuple(first), tuple(problems), tuple(leave))


def purge(names: Sequence[str]) -> str:
    """Return the command that purges packages; those installed last go first."""
    return f"{_DPKG} -P {' '.join(reversed(names))} </dev/null"


def purges(command: str) -> frozenset[str]:
    """Return the kernel releases that a command of :func:`undo` purges."""
    if not command.startswith(f"{_DPKG} -P "):
        return frozenset()
    start = "linux-image-"
    return frozenset(w.removeprefix(start) for w in command.split() if w.startswith(start))


def noted(lines: Sequence[str]) -> dict[str, tuple[str, str, frozenset[str]]]:
    """Return by package: the version before, its architecture, and all versions noted."""
    found: dict[str, tuple[str, str, frozenset[str]]] = {}
    for line in lines:
        words = line.split(" ")
        if len(words) != 4 or not (_NAME.fullmatch(words[0]) and _ARCH.fullmatch(words[3])):
            continue
        name, before, after, arch = words
        if all(version == "-" or _VERSION.fullmatch(version) for version in (before, after)):
            first, its, known = found.get(name, (before, arch, frozenset()))
            found[name] = (first, its, known | {before, after})
    return found


def brings_back(lines: Sequence[str]) -> set[tuple[str, str]]:
    """Return name and version of the packages that undoing one journal's ``lines`` installs."""
    return {(name, version) for name, (version, _, _) in noted(lines).items() if version != "-"}


def with_theirs(planned: Sequence[Change]) -> tuple[Change, ...]:
    """Mark the changes of settings that a package may have too: dpkg keeps ours."""
    return tuple(
        replace(change, theirs=True)
        if change.place == change.wanted.path and change.place.startswith("/etc/")
        else change
        for change in planned
    )
