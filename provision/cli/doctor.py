# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision doctor."""

from __future__ import annotations

import json

import click

from provision.cli import complete


@click.command()
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text",
              help="For people or for programs.")  # fmt: skip
@click.argument("commands", nargs=-1, shell_complete=complete.checked)
def doctor(form: str, commands: tuple[str, ...]) -> None:
    """Say which tools this machine lacks, for which command, and how to get them.

    Exit code 1 when something is missing.

    \b
    Examples:
      krg-provision doctor
      krg-provision doctor build-kernel lab
    """
    from provision import doctor as checks
    from provision.errors import InputError

    needs = checks.load()
    unknown = sorted(set(commands) - {need.command for need in needs})
    if unknown:
        known = ", ".join(sorted({need.command for need in needs}))
        raise InputError(f"doctor knows nothing about {unknown[0]!r}; it knows {known}")
    findings = [
        (need, checks.present(need)) for need in needs if not commands or need.command in commands
    ]
    missing = [need for need, there in findings if not there]
    packages = checks.packages(missing)
    if form == "json":
        rows = [
            {
                "command": n.command,
                "tool": n.tool,
                "package": n.package,
                "present": there,
                "optional": n.optional,
            }
            for n, there in findings
        ]
        click.echo(json.dumps({"checks": rows, "apt": packages}, indent=1))
    else:
        for command in dict.fromkeys(need.command for need, _ in findings):
            lacks = [n for n in missing if n.command == command]
            hard = [f"{n.tool} ({n.why})" for n in lacks if not n.optional]
            soft = [f"{n.tool} ({n.why})" for n in lacks if n.optional]
            words = f"lacks {', '.join(hard)}" if hard else "ready"
            if soft:
                words += f"; would like {', '.join(soft)}"
            click.echo(f"{command:13} {words}")
        if packages:
            click.echo(f"\napt-get install {' '.join(packages)}")
    if any(not need.optional for need in missing):
        raise click.exceptions.Exit(1)
