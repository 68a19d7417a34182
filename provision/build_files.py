# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a build as they shall lie on a node: a damaged or hostile build is refused."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

from provision.artifacts import Artifacts, describe_or_none
from provision.errors import InputError
from provision.plan import Wanted, is_safe_path


def build_files(build: Artifacts) -> tuple[Wanted, ...]:
    """Return the files of a build as they shall lie on a node: modules, tools, then /boot.

    :raises InputError: the build is damaged, incomplete, or has names that cannot be handled.
    """
    release = build.kernel_release
    if not isinstance(release, str) or not re.fullmatch(
        r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", release
    ):
        raise InputError(f"{build.directory}: {release!r} is not a kernel release")
    modules = f"lib/modules/{release}/"
    # They lead to the tree the kernel was built in, which no node has.
    skipped = {modules + "build", modules + "source"}
    named = [
        (f"/{name}", name)
        for name in build.files
        if name.startswith(modules) and name not in skipped
    ]
    named += [
        (f"/usr/local/{name.removeprefix('tools/')}", name)
        for name in build.files
        if name.startswith("tools/")
    ]
    named += [(f"/boot/{n}-{release}", n) for n in ("System.map", "config", "vmlinuz")]
    for path, name in named:
        if name not in build.files:
            raise InputError(f"{build.directory}: the build has no {name}")
        if not is_safe_path(path):
            raise InputError(f"{build.directory}: cannot deploy a file named {name!r}")
    _check_links(build, named, f"/{modules}")
    damaged = [n for _, n in named if describe_or_none(build.path(n)) != build.files[n]]
    if damaged:
        raise InputError(
            f"{build.path(damaged[0])} is not what the build made ({len(damaged)} files differ)",
            hint="build again: krg-provision build-kernel",
        )
    return tuple(_from_build(build, path, name) for path, name in named)


def _check_links(build: Artifacts, named: Sequence[tuple[str, str]], modules: str) -> None:
    """Refuse links that lead out of the build's own directories, and files below a link.

    A node's root would write through them wherever they point.
    """
    links = {path for path, name in named if build.files[name].target is not None}
    for path, name in named:
        target = build.files[name].target
        if target is not None:
            text = str(target)
            place = posixpath.normpath(posixpath.join(posixpath.dirname(path), text))
            area = next((a for a in (modules, "/usr/local/") if path.startswith(a)), None)
            inside = area is not None and f"{place}/".startswith(area)
            if not text or text.startswith("/") or not text.isprintable() or not inside:
                raise InputError(
                    f"{build.directory}: the link {name} leads to {target!r}, out of its place",
                    hint="build again: krg-provision build-kernel",
                )
        parts = path.split("/")
        above = {"/".join(parts[:count]) for count in range(2, len(parts))}
        if above & links:
            raise InputError(
                f"{build.directory}: {name} is below {(above & links).pop()}, which is a link",
                hint="build again: krg-provision build-kernel",
            )


def _from_build(build: Artifacts, path: str, name: str) -> Wanted:
    entry = build.files[name]
    # The builder's umask is no business of the nodes.
    mode = 0o755 if entry.mode & 0o111 else 0o644
    if entry.target is not None:
        return Wanted(path, entry.sha256, entry.size, 0o777, target=entry.target)
    return Wanted(path, entry.sha256, entry.size, mode, source=build.path(name))
