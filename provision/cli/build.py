# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision build-kernel."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import click

from provision import release as releases
from provision.cli import complete

_PATH = click.Path(path_type=Path)


@click.command("build-kernel")
@click.option("--release", "name", default=releases.DEFAULT, show_default=True, metavar="R",
              help="A release's name, or a .toml file.",
              shell_complete=complete.releases)  # fmt: skip
@click.option("--arch", default="x86_64", show_default=True, metavar="A", help="x86_64 or i386.",
              shell_complete=complete.arches)  # fmt: skip
@click.option("--host", metavar="USER@HOST", help="Build on this machine over SSH.")
@click.option("--identity", type=_PATH, metavar="FILE", help="SSH private key for --host.")
@click.option("-j", "--jobs", type=click.IntRange(1), help="Parallel jobs (default: processors).")
@click.option("--source-dir", type=_PATH, metavar="DIR", help="Where the archives are.")
@click.option("--no-download", is_flag=True, help="Use only archives that are there.")
@click.option("--policy", "policies", multiple=True, metavar="P", help="Instead of the release's.",
              shell_complete=complete.policies)  # fmt: skip
@click.option(
    "--fragment",
    "fragments",
    multiple=True,
    metavar="FILE",
    type=_PATH,
    help="Configuration lines to put on top of the policy.",
)
@click.option("--set", "sets", multiple=True, metavar="SYMBOL=VALUE", help="One line of the same.")
@click.option(
    "--config",
    "base",
    metavar="FILE",
    type=_PATH,
    help="Begin with this configuration instead of the tree's defconfig.",
)
@click.option("-o", "--output", type=_PATH, metavar="DIR", help="Result (default: one per build).")
@click.option("--work-dir", type=_PATH, metavar="DIR", help="Where trees are unpacked and built.")
@click.option("--ccache/--no-ccache", default=None, help="Default: when it is installed.")
@click.option("--keep-work", is_flag=True, help="Do not delete the built trees.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text",
              help="For people or for programs.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress (for CI).")
def build_kernel(
    *,
    name: str,
    arch: str,
    host: str | None,
    identity: Path | None,
    jobs: int | None,
    source_dir: Path | None,
    no_download: bool,
    policies: tuple[str, ...],
    fragments: tuple[Path, ...],
    sets: tuple[str, ...],
    base: Path | None,
    output: Path | None,
    work_dir: Path | None,
    ccache: bool | None,
    keep_work: bool,
    form: str,
    quiet: bool,
) -> None:
    """Build kernel, module and tools, and prove that they fit together.

    Fetches, patches, configures and builds; the result is a directory with
    manifest.json. The same inputs give the same directory: a second run does nothing.

    \b
    Examples:
      krg-provision build-kernel
      krg-provision build-kernel --arch i386 -j 4
      krg-provision build-kernel --host me@builder --set MAGIC_SYSRQ=n
    """
    from provision.build import Order, build
    from provision.cli.config import read_base, read_fragments
    from provision.configure import Wishes
    from provision.hosts import runner_for
    from provision.progress import Phases

    order = Order(
        release=releases.load(name),
        arch=arch,
        config=Wishes(policies, read_fragments(fragments), sets, read_base(base)),
        source_dir=source_dir,
        download=not no_download,
        output=output.resolve() if output else None,
        work=work_dir.resolve() if work_dir else None,
        jobs=jobs or 0,
        ccache=ccache,
        keep_work=keep_work,
        command=shlex.join(["krg-provision", *sys.argv[1:]]),
    )
    with runner_for(host, identity) as runner, Phases(quiet=quiet) as phases:
        result, built = build(order, runner, phases)
    if form == "json":
        click.echo(
            json.dumps(
                {
                    "directory": str(result.directory),
                    "built": built,
                    **{k: v for k, v in result.manifest.items() if k != "files"},
                },
                indent=1,
            )
        )
        return
    if not built:
        click.echo(f"up to date: {result.directory}")
        return
    total = sum(result.manifest["seconds"].values())
    click.echo(f"{result.directory}")
    click.echo(
        f"  {result.kernel_release} ({result.arch}): {len(result.files)} files, "
        f"{result.manifest['modules_proven']} modules fit the kernel, {total:.0f} s"
    )
