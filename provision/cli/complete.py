# SPDX-License-Identifier: GPL-2.0-or-later
"""What the shell may offer as an option's value: click's ``shell_complete`` callbacks.

Each is called while somebody waits for the Tab key: nothing heavy is imported, nothing is
fetched, and what cannot be read is offered as nothing. Where a value may also be a file, the
shell's own file names are offered once no name fits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from provision.cluster import Cluster

    Callback = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _names(find: Callable[[click.Context], Iterable[str]], otherwise: str = "") -> Callback:
    """Return a callback that offers what ``find`` gives, else files or dirs (``otherwise``)."""

    def callback(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from provision.errors import KrgError

        try:
            fitting = [name for name in find(ctx) if name.startswith(incomplete)]
        except (KrgError, OSError):
            fitting = []
        if not fitting and otherwise:
            return [CompletionItem(incomplete, type=otherwise)]
        return [CompletionItem(name) for name in fitting]

    return callback


def _releases(_: click.Context) -> list[str]:
    from provision import release

    return release.names()


def _policies(_: click.Context) -> list[str]:
    from kconfig import policy

    return [*policy.names(), "none"]


def _arches(ctx: click.Context) -> list[str]:
    from provision import release

    # The release may stand before it on the same line.
    return list(release.load(ctx.params.get("name") or release.DEFAULT).arches)


def _labs(_: click.Context) -> list[str]:
    from provision.lab import state

    return state.names()


def _checked(_: click.Context) -> list[str]:
    from provision import doctor

    return list(dict.fromkeys(need.command for need in doctor.load()))


def builds(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the user's finished builds, and directories once another place is being typed."""
    from provision.paths import builds_dir

    if not incomplete or incomplete.startswith(str(builds_dir())):
        # A name that begins with a dot is a build under way.
        done = sorted(str(path.parent) for path in builds_dir().glob("[!.]*/manifest.json"))
        found = [CompletionItem(path) for path in done if path.startswith(incomplete)]
        if found:
            return found
    return [CompletionItem(incomplete, type="dir")]


def _cluster(ctx: click.Context) -> Cluster:
    from provision.cluster import in_use, read_cluster

    return read_cluster(in_use(ctx.params.get("cluster_file")))


def _node_names(ctx: click.Context) -> list[str]:
    return [node.name for node in _cluster(ctx).nodes]


def nodes(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer what --nodes takes: nodes of the cluster file in use, labs and files."""
    from provision.errors import KrgError
    from provision.lab import state

    found = [f"lab:{name}" for name in state.names()]
    with contextlib.suppress(KrgError, OSError):
        found += _node_names(ctx)
    fitting = [CompletionItem(name) for name in found if name.startswith(incomplete)]
    return fitting or [CompletionItem(incomplete, type="file")]


def files(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer file names, for values that are not of click's type Path."""
    return [CompletionItem(incomplete, type="file")]


releases = _names(_releases, "file")
policies = _names(_policies, "file")
arches = _names(_arches)
labs = _names(_labs)
checked = _names(_checked)
node_names = _names(_node_names)
