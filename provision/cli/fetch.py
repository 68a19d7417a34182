# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision fetch."""

from __future__ import annotations

import json
from pathlib import Path

import click

from provision import release as releases
from provision.cli import complete
from provision.paths import sources_dir


@click.command()
@click.option(
    "--release",
    "name",
    default=releases.DEFAULT,
    show_default=True,
    metavar="R",
    help="A release's name, or a .toml file.",
    shell_complete=complete.releases,
)
@click.option(
    "--source-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where archives are looked for and kept (default: the user's cache).",
)
@click.option(
    "--git",
    "git",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Make the kernel's archive from this git repository.",
)
@click.option(
    "--tree",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Make the kernel's archive from this unpacked tree.",
)
@click.option("--ref", metavar="REF", help="The ref for --git (default: the release's tag).")
@click.option("--no-download", is_flag=True, help="Only look; download nothing.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text",
              help="For people or for programs.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def fetch(
    name: str,
    source_dir: Path | None,
    git: Path | None,
    tree: Path | None,
    ref: str | None,
    no_download: bool,
    form: str,
    quiet: bool,
) -> None:
    """Obtain and verify a release's source archives.

    \b
    Examples:
      krg-provision fetch
      krg-provision fetch --source-dir ~/Downloads --no-download
      krg-provision fetch --git ~/src/linux --ref v2.6.20
      krg-provision fetch --tree ~/linux-2.6.20
    """
    from provision import sources
    from provision.errors import InputError
    from provision.progress import Phases

    release = releases.load(name)
    directory = source_dir or sources_dir()
    if ref and not git:
        raise InputError("--ref needs --git DIR")
    with Phases(quiet=quiet) as phases:
        if git:
            linux = release.archives["linux"]
            wanted = ref or linux.git_ref
            if wanted is None:
                raise InputError(f"{release.name} names no tag: say which with --ref")
            sources.from_git(linux, directory, git, wanted)
        if tree:
            sources.from_directory(release.archives["linux"], directory, tree)
        found = sources.sources_of(
            release, directory, download=not no_download, progress=phases.update
        )
    if form == "json":
        rows = [
            {"archive": s.archive.name, "path": str(s.path), "identity": s.identity}
            for s in found.values()
        ]
        click.echo(json.dumps({"release": release.name, "sources": rows}, indent=1))
        return
    for source in found.values():
        click.echo(f"{source.archive.name}: {source.path}  {source.identity}  verified")
