# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision repo: a signed apt repository."""

from __future__ import annotations

import json
from pathlib import Path

import click

_PATH = click.Path(path_type=Path)
_DIR = click.argument("directory", metavar="DIR", type=_PATH)
_FORMAT = click.option("--format", "form", type=click.Choice(["text", "json"]), default="text",
                       help="For people, or for programs.")  # fmt: skip


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


@repo.command("list")
@_DIR
@_FORMAT
def list_packages(*, directory: Path, form: str) -> None:
    """Show what the repository holds, and what of it is published.

    \b
    Examples:
      krg-provision repo list ~/krg-repo
      krg-provision repo list ~/krg-repo --format json
    """
    from provision import repo as repository
    from provision import repo_publish

    state = repository.load(directory)
    suite, public = repo_publish.published(directory)
    rows = [
        {
            **repo_publish.row(p),
            "builds": list(p.builds),
            "published": public.get(p.path) == p.sha256,
        }
        for p in state.packages
    ]
    gone = sorted(public.keys() - {p.path for p in state.packages})
    strays = repository.unlisted(directory, state)
    if form == "json":
        value = {
            "suite": suite or None,
            "key": state.key or None,
            "packages": rows,
            "published_but_removed": gone,
            "unlisted": strays,
        }
        click.echo(json.dumps(value, indent=1))
        return
    for package, row in zip(state.packages, rows, strict=True):
        mark = "published" if row["published"] else "added"
        click.echo(f"{mark:9}  {package.title}  {', '.join(package.builds)}".rstrip())
    for path in gone:
        click.echo(f"removed    {path} (still published)")
    if strays:
        click.echo(
            f"note: {len(strays)} files of the pool are not in the repository, such as "
            f"{strays[0]}; repo prune deletes them",
            err=True,
        )


@repo.command()
@_DIR
@click.argument("packages", nargs=-1, required=True, metavar="NAME[=VERSION][:ARCH]...")
@click.option("--check", is_flag=True, help="Only show what would be removed.")
def remove(*, directory: Path, packages: tuple[str, ...], check: bool) -> None:
    """Take packages out; nodes see it after the next publish.

    \b
    Examples:
      krg-provision repo remove ~/krg-repo linux-image-2.6.20-krg-1a2b3c4d --check
      krg-provision repo remove ~/krg-repo kerrighed-tools=2.4.4-1:i386
    """
    from provision import repo as repository

    found = repository.matching(repository.load(directory), packages)
    if not check:
        repository.remove(directory, found)
    for package in found:
        click.echo(f"{'would remove' if check else 'removed'} {package.title}")


@repo.command()
@_DIR
@click.option("--keep", type=click.IntRange(1), required=True, metavar="N",
              help="How many builds of each release and architecture stay.")  # fmt: skip
@click.option("--check", is_flag=True, help="Only show what would be removed.")
def prune(*, directory: Path, keep: int, check: bool) -> None:
    """Take out all but the newest builds, and files that the repository does not know.

    Of packages that came as single files, the N of each name that were added last stay.

    \b
    Examples:
      krg-provision repo prune ~/krg-repo --keep 3 --check
      krg-provision repo prune ~/krg-repo --keep 3
    """
    from provision import repo as repository

    state = repository.load(directory)
    found = repository.outdated(state, keep)
    strays = repository.unlisted(directory, state)
    if not check:
        repository.remove(directory, found, orphans=True)
    for name in (*(package.title for package in found), *strays):
        click.echo(f"{'would remove' if check else 'removed'} {name}")


@repo.command()
@_DIR
@click.option("--bind", default="127.0.0.1", show_default=True, metavar="ADDRESS",
              help="Where to listen; other machines reach it only if you say so.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True,
              metavar="N", help="0: any that is free.")  # fmt: skip
def serve(*, directory: Path, bind: str, port: int) -> None:
    """Show what is published over http until Ctrl-C; for labs and trials.

    \b
    Examples:
      krg-provision repo serve ~/krg-repo
      krg-provision repo serve ~/krg-repo --bind 10.0.0.1 --port 80
    """
    from provision import repo as repository
    from provision.repo_serve import serving

    repository.load(directory)
    with serving(directory / "www", bind, port) as (url, thread):
        click.echo(url)
        thread.join()
