# SPDX-License-Identifier: GPL-2.0-or-later
"""Which .deb files of ours on a node nothing needs any more; values only.

Needed are those of what is installed, of what is being installed, and those that a rollback of
any run that is still kept would bring back. Only files named like packages of ours are looked
at: whatever else somebody put there stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from provision import journal, node_packages
from provision.facts import Facts
from provision.node_packages import CACHE, Package

_FILE = re.compile(
    r"(linux-image-[a-z0-9+.-]+|[a-z][a-z0-9-]*-modules-[a-z0-9+.-]+|kerrighed-tools"
    r"|[a-z][a-z0-9-]*-service)_([A-Za-z0-9.+~-]+)_[a-z0-9-]+\.deb"
)


def unneeded(packages: Sequence[Package], facts: Facts) -> tuple[str, ...]:
    """Return the paths of files in CACHE that can go when one more run is written down.

    :param packages: those that the node is going to have; none: nothing is known of its dpkg.
    """
    if not packages:
        return ()
    have = node_packages.read(facts)
    coming = {one.file.path.rpartition("/")[2] for one in packages}
    # In whatever state: what is there may have to be brought back.
    needed = {(name, version) for name, (version, _) in have.packages.items()}
    runs = journal.read(facts)
    gone = journal.expendable(runs)
    for run in journal.standing(runs):
        if run.name not in gone:
            needed |= node_packages.brings_back(run.about.get("package", ()))
    found = []
    for name in sorted(have.cached - coming):
        match = _FILE.fullmatch(name)
        if match is not None and (match[1], match[2]) not in needed:
            found.append(f"{CACHE}/{name}")
    return tuple(found)
