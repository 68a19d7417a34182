# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision config."""

from __future__ import annotations

from pathlib import Path

import click

from provision import release as releases

_PATH = click.Path(path_type=Path)


def read_fragments(paths: tuple[Path, ...]) -> tuple[tuple[str, str], ...]:
    """Return (name, text) of each file; InputError when one cannot be read as text."""
    from provision.errors import InputError

    read = []
    for path in paths:
        try:
            read.append((str(path), path.read_text("utf-8")))
        except (OSError, UnicodeError) as error:
            raise InputError(f"{path}: cannot be read as text ({error})") from error
    return tuple(read)


@click.group()
def config() -> None:
    """Generate kernel configurations.

    \b
    Examples:
      krg-provision config generate -o config
    """


@config.command()
@click.option("--release", "name", default=releases.DEFAULT, show_default=True, metavar="R")
@click.option("--arch", default="x86_64", show_default=True, metavar="A")
@click.option(
    "--tree",
    type=_PATH,
    metavar="DIR",
    help="A patched kernel tree (default: prepared from the release's archives).",
)
@click.option("--policy", "policies", multiple=True, metavar="P", help="Instead of the release's.")
@click.option("--fragment", "fragments", multiple=True, metavar="FILE", type=_PATH)
@click.option("--set", "sets", multiple=True, metavar="SYMBOL=VALUE")
@click.option("--config", "base", metavar="FILE", type=_PATH, help="Base, instead of defconfig.")
@click.option("--source-dir", type=_PATH, metavar="DIR")
@click.option("-o", "--output", type=_PATH, metavar="FILE", help="Default: standard output.")
@click.option("-q", "--quiet", is_flag=True)
def generate(
    *,
    name: str,
    arch: str,
    tree: Path | None,
    policies: tuple[str, ...],
    fragments: tuple[Path, ...],
    sets: tuple[str, ...],
    base: Path | None,
    source_dir: Path | None,
    output: Path | None,
    quiet: bool,
) -> None:
    """Write a safe configuration, or say what stands in the way.

    Order, later wins: base (the tree's defconfig), policy, fragments, --set.

    \b
    Examples:
      krg-provision config generate -o config
      krg-provision config generate --arch i386 --set SMP=n
      krg-provision config generate --tree ~/linux-2.6.20 --fragment site.config
    """
    from provision.atomic import write_text
    from provision.configure import Wishes, text
    from provision.prepared import prepared_tree
    from provision.progress import Phases

    release = releases.load(name)
    release.arch(arch)
    wishes = Wishes(policies, read_fragments(fragments), sets, base)
    with Phases(quiet=quiet) as phases:
        linux = tree or prepared_tree(release, source_dir, phases.update)
    made = text(linux, release, arch, wishes, "")
    if output is None:
        click.echo(made, nl=False)
    else:
        write_text(output, made)
