# SPDX-License-Identifier: GPL-2.0-or-later
"""A release's patched kernel tree, kept in the cache for commands that only read it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from pathlib import Path

from provision import local_sources, sources
from provision.paths import cache_dir, sources_dir
from provision.release import Release


def prepared_tree(release: Release, source_dir: Path | None, progress: sources.Progress) -> Path:
    """Return the directory of the release's patched kernel tree, making it when missing.

    Fix-ups are left out: they change how a tree builds, never what can be configured.

    :raises KrgError: the archives are not to be had, or a patch does not apply.
    """
    what = [release.identity()]
    # What the release itself does not pin: another version of a package is another tree.
    what += [local_sources.identity(a) for a in release.archives.values() if a.pinned is None]
    text = json.dumps(what if len(what) > 1 else what[0])
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    tree = cache_dir() / "trees" / f"{release.name}-{name}"
    if tree.is_dir():
        return tree
    found = sources.sources_of(release, source_dir or sources_dir(), progress=progress)
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix=".new-") as scratch:
        trees = sources.unpack_patched(release, found, Path(scratch), progress)
        # Made meanwhile by another run: theirs is as good.
        with contextlib.suppress(OSError):
            trees["linux"].rename(tree)
    return tree
