# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision config."""

from __future__ import annotations

from pathlib import Path

import click

from provision import __version__
from provision.cli import complete

_PATH = click.Path(path_type=Path)


def read_fragments(paths: tuple[Path, ...]) -> tuple[tuple[str, str], ...]:
    """Return (name, text) of each file; InputError when one is not what ``lint`` takes, or -."""
    from provision.configure import text_of

    return tuple((str(path), text_of(path)) for path in paths)


def read_base(path: Path | None) -> tuple[str, str] | None:
    """Return (name, text) of the configuration to start from; InputError when it is none."""
    from provision.configure import base_of

    return None if path is None else base_of(path)


@click.group()
def config() -> None:
    """Generate, check, compare and explain kernel configurations.

    \b
    Examples:
      krg-provision config generate -o config
      krg-provision config lint .config
      krg-provision config explain --config .config KERRIGHED
    """


_NO_SHELL = "Trees from 4.18 on run commands while they are read: run none."
_TREE = "A kernel tree of any age (default: the release's, made from its archives)."


def say_commands(ran: tuple[str, ...]) -> None:
    """Tell that the tree ran commands of its own."""
    if ran:
        click.echo(
            f"note: reading the tree ran {len(ran)} commands that it names (--no-shell runs none)",
            err=True,
        )


@config.command()
@click.option("--release", "name", metavar="R",
              help="[default: kerrighed-2.4.4, or none with --tree]",
              shell_complete=complete.releases)  # fmt: skip
@click.option("--arch", default="x86_64", show_default=True, metavar="A",
              help="Of the release, or of the tree.", shell_complete=complete.arches)  # fmt: skip
@click.option("--tree", type=_PATH, metavar="DIR", help=_TREE)
@click.option("--no-shell", is_flag=True, help=_NO_SHELL)
@click.option("--policy", "policies", multiple=True, metavar="P",
              help="A shipped policy, a .toml file, or none.  [default: the release's, or the "
              "one for the tree's kernel]", shell_complete=complete.policies)  # fmt: skip
@click.option("--fragment", "fragments", multiple=True, metavar="FILE", type=_PATH,
              help="Configuration lines to put on top of the policy.")  # fmt: skip
@click.option("--set", "sets", multiple=True, metavar="SYMBOL=VALUE",
              help="One line of the same.")  # fmt: skip
@click.option("--config", "base", metavar="FILE", type=_PATH, help="Base, instead of defconfig.")
@click.option("--source-dir", type=_PATH, metavar="DIR", help="Where the archives are.")
@click.option("-o", "--output", type=_PATH, metavar="FILE", help="Default: standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no notes.")
def generate(
    *,
    name: str | None,
    arch: str,
    tree: Path | None,
    no_shell: bool,
    policies: tuple[str, ...],
    fragments: tuple[Path, ...],
    sets: tuple[str, ...],
    base: Path | None,
    source_dir: Path | None,
    output: Path | None,
    quiet: bool,
) -> None:
    """Write a safe configuration, or say what stands in the way.

    Order, later wins: base (the tree's defconfig), policies, fragments in the order given,
    --set in the order given. Policies that contradict each other are an error. A fragment or
    --set that goes against a policy wins, and is reported. Each symbol that did not get its
    value is an error that says what stood in the way.

    \b
    Examples:
      krg-provision config generate -o config
      krg-provision config generate --arch i386 --set SMP=n
      krg-provision config generate --tree ~/linux-2.6.20 --fragment site.config
      krg-provision config generate --tree ~/linux-6.1 --policy boot --set BTRFS_FS=y
    """
    from provision import release as releases
    from provision.atomic import write_output
    from provision.configure import Wishes, generated
    from provision.prepared import prepared_tree
    from provision.progress import Phases

    wishes = Wishes(policies, read_fragments(fragments), sets, read_base(base))
    release = releases.load(name or releases.DEFAULT) if name or tree is None else None
    if release is not None:
        release.arch(arch)
    if tree is None:
        assert release is not None
        with Phases(quiet=quiet) as phases:
            tree = prepared_tree(release, source_dir, phases.update)
    made = generated(tree, release, arch, wishes, "", shell=not no_shell)
    if not quiet:
        say_commands(made.ran)
        for note in (*made.overridden, *made.unmet):
            click.echo(f"note: {note}", err=True)
    if output is None:
        click.echo(made.text, nl=False)
    else:
        write_output(output, made.text)


_FORMATS = ["table", "json", "sarif", "junit", "github", "markdown"]
_SEVERITIES = ["required", "recommended", "info"]


@config.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", shell_complete=complete.files)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="P",
    help="A shipped policy, a .toml file, or none.  [default: the one for the file's kernel]",
    shell_complete=complete.policies,
)
@click.option("--tree", type=_PATH, metavar="DIR", help="The kernel tree the file is for.")
@click.option("--other-tree", type=_PATH, metavar="DIR",
              help="Another version of the tree: says what was added and removed.")  # fmt: skip
@click.option("--no-shell", is_flag=True, help=_NO_SHELL)
@click.option("--arch", default="", metavar="A", help="[default: what the file says]",
              shell_complete=complete.arches)  # fmt: skip
@click.option("--kernel-version", metavar="V", help="[default: what tree, file or policy say]")
@click.option("--cmdline", metavar="TEXT", help="A kernel command line to check against.")
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="FILE",
    type=_PATH,
    help="What a node says about itself: /proc/cmdline, /proc/mounts, lspci -n, modaliases.",
)
@click.option(
    "--modules",
    type=_PATH,
    metavar="DIR",
    help="What was built, /lib/modules/RELEASE or a build: for the devices of --node.",
)
@click.option("--initrd/--no-initrd", default=None, help="Whether the node boots with one.")
@click.option("--format", "form", type=click.Choice(_FORMATS), default="table", show_default=True,
              help="For people, programs, or what shows findings in CI.")  # fmt: skip
@click.option("--fail-on", type=click.Choice(_SEVERITIES), default="required", show_default=True,
              help="Exit with 1 for findings this bad, or worse.")  # fmt: skip
@click.option("--baseline", type=_PATH, metavar="FILE", help="Findings that are known already.")
@click.option("--write-baseline", type=_PATH, metavar="FILE", help="Make all found known.")
@click.option("-o", "--output", type=_PATH, metavar="FILE", help="Default: standard output.")
def lint(
    *,
    files: tuple[str, ...],
    policies: tuple[str, ...],
    tree: Path | None,
    other_tree: Path | None,
    no_shell: bool,
    arch: str,
    kernel_version: str | None,
    cmdline: str | None,
    nodes: tuple[Path, ...],
    modules: Path | None,
    initrd: bool | None,
    form: str,
    fail_on: str,
    baseline: Path | None,
    write_baseline: Path | None,
    output: Path | None,
) -> None:
    """Check configurations against policies, a tree, and what a node has.

    FILE is a .config or a fragment, plain or compressed, a pattern, - for standard
    input, or a vmlinux, bzImage or module with the configuration inside (IKCONFIG).
    Exit code: 0 nothing found, 1 findings as bad as --fail-on, 2 bad input.

    \b
    Examples:
      krg-provision config lint .config
      krg-provision config lint --tree ~/linux-2.6.20 'configs/*.config'
      krg-provision config lint --format sarif -o lint.sarif .config
      zcat /proc/config.gz | krg-provision config lint --policy boot -
    """
    from provision import lint as steps

    options = steps.options(
        policies=policies, tree=tree, other_tree=other_tree, arch=arch, version=kernel_version,
        cmdline=cmdline, nodes=nodes, initrd=initrd, shell=not no_shell, modules=modules,
    )  # fmt: skip
    outcome = steps.run(files, options)
    if write_baseline is not None:
        steps.write_baseline(write_baseline, outcome.findings)
    report = steps.report(outcome, baseline or write_baseline, fail_on, __version__)
    text = steps.render(report, form, to_terminal=output is None)
    if output is None:
        click.echo(text, nl=False)
    else:
        steps.write(output, text)
    for error in outcome.errors:
        click.echo(f"krg-provision: error: {error}", err=True)
    if outcome.errors:
        raise click.exceptions.Exit(2)
    if report.failed:
        raise click.exceptions.Exit(1)


@config.command()
@click.argument("before", metavar="A", shell_complete=complete.files)
@click.argument("after", metavar="B", shell_complete=complete.files)
@click.option("--tree", type=_PATH, metavar="DIR", help="A kernel tree: groups by its menus.")
@click.option("--no-shell", is_flag=True, help=_NO_SHELL)
@click.option("--arch", default="", metavar="A", help="[default: what B says]",
              shell_complete=complete.arches)  # fmt: skip
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="P",
    help="Whose rules to mark.  [default: the one for B's kernel; none for none]",
    shell_complete=complete.policies,
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text",
              help="For people or for programs.")  # fmt: skip
def diff(
    *,
    before: str,
    after: str,
    tree: Path | None,
    no_shell: bool,
    arch: str,
    policies: tuple[str, ...],
    form: str,
) -> None:
    """Show what differs between two configurations, and what matters to a policy.

    A and B are what lint takes: files, compressed or not, -, kernels with IKCONFIG.
    Exit code: 0 they are the same, 1 they differ, 2 bad input.

    \b
    Examples:
      krg-provision config diff /boot/config-2.6.20 .config
      krg-provision config diff --tree ~/linux-2.6.20 old.config bzImage
    """
    from kconfig import diff as differ
    from provision import lint as steps

    changes = steps.differences(before, after, tree, arch, policies, shell=not no_shell)
    click.echo(differ.as_json(changes) if form == "json" else differ.as_text(changes), nl=False)
    if changes:
        raise click.exceptions.Exit(1)


@config.command()
@click.argument("symbols", nargs=-1, required=True, metavar="SYMBOL...")
@click.option("--config", "config_file", metavar="FILE",
              help="What lint takes.  [default: the tree's default configuration]",
              shell_complete=complete.files)  # fmt: skip
@click.option("--tree", type=_PATH, metavar="DIR", help=_TREE)
@click.option("--release", "name", metavar="R", help="[default: kerrighed-2.4.4]",
              shell_complete=complete.releases)  # fmt: skip
@click.option("--arch", default="", metavar="A", help="[default: what FILE says, else x86_64]",
              shell_complete=complete.arches)  # fmt: skip
@click.option("--no-shell", is_flag=True, help=_NO_SHELL)
@click.option("--to", "want", type=click.Choice(["y", "m", "n"]),
              help="Look only for a way to this value; exit with 1 if there is none.")  # fmt: skip
@click.option("--source-dir", type=_PATH, metavar="DIR", help="Where the archives are.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text",
              help="For people or for programs.")  # fmt: skip
def explain(
    *,
    symbols: tuple[str, ...],
    config_file: str | None,
    tree: Path | None,
    name: str | None,
    arch: str,
    no_shell: bool,
    want: str | None,
    source_dir: Path | None,
    form: str,
) -> None:
    """Say why a symbol has its value, and the fewest changes that would give it another.

    Shows where it is defined, its prompt, help, dependencies with their present values,
    what selects it, the chain that decided its value, and for each other value the
    shortest set of changes, with what else those would change.

    \b
    Examples:
      krg-provision config explain --config .config KERRIGHED
      krg-provision config explain --tree ~/linux-6.1 --to y BPF_LSM
    """
    from kconfig import describe
    from provision import explain as steps
    from provision import release as releases
    from provision.prepared import prepared_tree
    from provision.progress import Phases

    if tree is None:
        with Phases(quiet=False) as phases:
            release = releases.load(name or releases.DEFAULT)
            tree = prepared_tree(release, source_dir, phases.update)
    found, ran = steps.explain(symbols, tree, config_file, arch, want, shell=not no_shell)
    say_commands(ran)
    if form == "json":
        click.echo(describe.as_json(found), nl=False)
    else:
        click.echo("\n".join(map(describe.as_text, found)), nl=False)
    if want is not None and any(one.value != want and not one.ways[want] for one in found):
        raise click.exceptions.Exit(1)
