# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision repo: a signed apt repository."""

from __future__ import annotations

import json
from pathlib import Path

import click

_PATH = click.Path(path_type=Path)
_DIR = click.argument("directory", metavar="DIR", type=_PATH)
_FORMAT = click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def repo() -> None:
    """Let a fleet of any size pull packages with apt: a signed repository in a directory.

    \b
    Examples:
      krg-provision repo add ~/krg-repo ~/packages
      krg-provision repo publish ~/krg-repo --url http://server/krg
      krg-provision repo list ~/krg-repo
    """


@repo.command()
@_DIR
@click.argument("packages", nargs=-1, required=True, type=_PATH, metavar="PACKAGES...")
@click.option("--check", is_flag=True, help="Only show what would be added.")
@_FORMAT
def add(*, directory: Path, packages: tuple[Path, ...], check: bool, form: str) -> None:
    """Put packages into the repository, all or none; publish makes them visible.

    PACKAGES are directories with a packages.json (what krg-provision package leaves), such
    files themselves, or .deb files. Files that changed since the manifest was written, and
    another content under a name and version that is there, are refused.

    \b
    Examples:
      krg-provision repo add ~/krg-repo ~/packages
      krg-provision repo add ~/krg-repo extra_1.0_all.deb --check
    """
    from provision import repo as repository
    from provision.repo_keys import need

    need("dpkg-deb")
    offered = repository.offers(packages)
    if check:
        addition = repository.plan(repository.load_or_empty(directory), offered)
    else:
        addition = repository.add(directory, offered)
    new = [offer.package for offer in addition.new]
    if form == "json":
        value = {
            "added": [{"file": p.path, "sha256": p.sha256} for p in new],
            "present": [{"file": p.path, "sha256": p.sha256} for p in addition.present],
        }
        click.echo(json.dumps(value, indent=1))
        return
    for package in new:
        click.echo(f"{'would add' if check else 'added'} {package.title}")
    for package in addition.present:
        click.echo(f"there already: {package.title}")
    if new and not check:
        click.echo(f"to make them visible: krg-provision repo publish {directory}", err=True)


@repo.command()
@_DIR
@click.option("--key", default="", metavar="FPR",
              help="Your own GPG key by fingerprint.  [default: the one used before, or a new one]",
              )  # fmt: skip
@click.option("--passphrase-file", type=_PATH, metavar="FILE", help="For --key, if it has one.")
@click.option("--valid-days", type=click.IntRange(1, 3650), default=365, show_default=True,
              metavar="N", help="Clients refuse it later: publish again before.")  # fmt: skip
@click.option("--suite", default="", metavar="NAME", help="[default: as before, or krg]")
@click.option(
    "--url", default="", metavar="URL", help="Where nodes find it, for the .sources file."
)
@click.option("--check", is_flag=True, help="Only show what would be published.")
@_FORMAT
def publish(
    *,
    directory: Path,
    key: str,
    passphrase_file: Path | None,
    valid_days: int,
    suite: str,
    url: str,
    check: bool,
    form: str,
) -> None:
    """Make and sign the indexes, check them as a node would, and make them visible at once.

    A web server shows DIR/www. Clients see the former publication or the new one, never
    a part; an interrupted publish changes nothing.

    \b
    Examples:
      krg-provision repo publish ~/krg-repo --url http://server/krg
      krg-provision repo publish ~/krg-repo --check
    """
    from provision import repo_publish

    wishes = repo_publish.Wishes(suite, key, passphrase_file, valid_days, url)
    if check:
        job = repo_publish.order(directory, wishes)
        if form == "json":
            value = {"added": list(job.added), "removed": list(job.removed), "suite": job.suite}
            click.echo(json.dumps(value, indent=1))
            return
        for mark, paths in (("+", job.added), ("-", job.removed)):
            for path in paths:
                click.echo(f"{mark} {path}")
        click.echo(
            f"would publish {len(job.state.packages)} packages as suite {job.suite} "
            f"({', '.join(job.architectures)}), valid until {job.valid_until:%Y-%m-%d}"
        )
        return
    done = repo_publish.publish(directory, wishes)
    if form == "json":
        click.echo(repo_publish.as_json(done))
        return
    job = done.order
    click.echo(f"{done.tree}")
    click.echo(
        f"  suite {job.suite} ({', '.join(job.architectures)}): "
        f"{len(job.state.packages)} packages, {len(job.added)} new, {len(job.removed)} gone"
    )
    click.echo(f"  signed by {done.key.fingerprint}")
    if done.key_made:
        click.echo(f"  this key was made now, in {done.key.home}: nodes trust it, keep a copy safe")
    click.echo(f"  valid until {job.valid_until:%Y-%m-%d}: publish again before that")
    for note in done.notes:
        click.echo(f"  note: {note}")
    click.echo("on each node:")
    keyring = f"{job.suite}-archive-keyring.gpg"
    click.echo(f"  {done.tree / keyring} -> /etc/apt/keyrings/{keyring}")
    click.echo(f"  {done.tree / job.suite}.sources -> /etc/apt/sources.list.d/{job.suite}.sources")
    click.echo(f"  Debian 8 and older: see {done.tree / job.suite}.list instead")
