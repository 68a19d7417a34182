# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision package."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from provision.cli import complete

_PATH = click.Path(path_type=Path)


def maintainer() -> str:
    """Return the maintainer as Debian's own tools find it: DEBFULLNAME and DEBEMAIL."""
    from provision.package_plan import MAINTAINER

    mail = os.environ.get("DEBEMAIL", "")
    if "<" in mail:
        return mail
    name = os.environ.get("DEBFULLNAME", "") or "krg-provision"
    return f"{name} <{mail}>" if mail else MAINTAINER


@click.command()
@click.argument("build", required=False, type=_PATH, metavar="[BUILD]",
                shell_complete=complete.builds)  # fmt: skip
@click.option("--release", metavar="R", help="The newest build of this release.",
              shell_complete=complete.releases)  # fmt: skip
@click.option("--arch", metavar="A", help="The newest build for this architecture.",
              shell_complete=complete.arches)  # fmt: skip
@click.option("-o", "--output", type=_PATH, metavar="DIR",
              help="Where the packages go (default: a directory for the build).")  # fmt: skip
@click.option("--compress", default="gzip", show_default=True,
              type=click.Choice(["gzip", "xz", "zstd"]),
              help="Old dpkg reads gzip only; xz and zstd are smaller.")  # fmt: skip
@click.option("--revision", default="1", show_default=True, metavar="N",
              help="Debian revision: a higher one is an upgrade.")  # fmt: skip
@click.option("--maintainer", "who", metavar="NAME", help="[default: DEBFULLNAME <DEBEMAIL>]")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text",
              help="For people, or for programs.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def package(
    *,
    build: Path | None,
    release: str | None,
    arch: str | None,
    output: Path | None,
    compress: str,
    revision: str,
    who: str | None,
    form: str,
    quiet: bool,
) -> None:
    """Make Debian packages of a build: kernel, headers, module, tools, debug image.

    BUILD is a directory that build-kernel made; the newest one by default. The same build
    gives the same packages, bit for bit; a second run does nothing.

    \b
    Examples:
      krg-provision package
      krg-provision package --arch i386 -o debs
      krg-provision package --compress xz --revision 2
    """
    from provision import artifacts, console, package_plan
    from provision import package as packages
    from provision.progress import Phases

    found = artifacts.load(build) if build else artifacts.find(release, arch)
    wishes = package_plan.Wishes(output, compress, revision, who or maintainer())
    with Phases(quiet=quiet) as phases:
        made, done = packages.make(found, wishes, phases)
    if form == "json":
        summary = {"directory": str(made.directory), "made": done, "packages": list(made.entries)}
        click.echo(json.dumps(summary, indent=1))
        return
    click.echo(f"{'' if done else 'up to date: '}{made.directory}")
    if done:
        width = max(len(entry["file"]) for entry in made.entries)
        for entry in made.entries:
            click.echo(f"  {entry['file']:{width}}  {entry['size'] / (1 << 20):6.1f} MiB")
    if not quiet:
        console.say(f"for apt: krg-provision repo add DIR {made.directory}")
