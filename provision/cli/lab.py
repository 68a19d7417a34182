# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision lab: a virtual cluster on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli import complete

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provision.artifacts import Artifacts
    from provision.evidence import Evidence
    from provision.lab.lifecycle import Bootloader

_NAME = click.option("--name", default="krg", show_default=True, help="Which lab.",
                     shell_complete=complete.labs)  # fmt: skip
_FORMAT = click.option(
    "--format",
    "style",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people or for programs.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def lab() -> None:
    """Run a virtual cluster on this machine: QEMU nodes that boot a build.

    \b
    Examples:
      krg-provision lab up --nodes 3
      krg-provision lab test
      krg-provision lab console 2
      krg-provision lab down
      krg-provision lab diskless up --nodes 2
    """


_ARTIFACTS = click.option(
    "--artifacts",
    type=click.Path(path_type=Path, file_okay=False),
    help="A finished build's directory; default: the newest build.",
    shell_complete=complete.builds,
)
_RELEASE = click.option(
    "--release",
    metavar="NAME",
    help="Take the newest build of this release.",
    shell_complete=complete.releases,
)
_MEMORY = click.option(
    "--memory", default=256, show_default=True, metavar="MB", help="Memory of a node."
)
_SESSION = click.option("--session", default=1, show_default=True, help="Kerrighed's session_id.")
_ACCEL = click.option(
    "--accel",
    type=click.Choice(["auto", "tcg", "kvm"]),
    default="auto",
    show_default=True,
    help="Emulation (tcg) or KVM; auto takes KVM only if this kernel is seen to boot in it.",
)


def _build(artifacts: Path | None, release: str | None) -> Artifacts:
    from provision import artifacts as builds
    from provision.errors import InputError

    if artifacts and release:
        raise InputError("--artifacts names a build, so --release has nothing to choose")
    return builds.load(artifacts.resolve()) if artifacts else builds.find(release)


@lab.command()
@click.option("--nodes", default=3, show_default=True, help="How many nodes.")
@_RELEASE
@_ARTIFACTS
@_MEMORY
@_SESSION
@_ACCEL
@click.option(
    "--bootloader",
    type=click.Choice(["none", "legacy", "grub2"]),
    default="none",
    show_default=True,
    help="none: QEMU boots the build. Else nodes have a disk with Debian's kernel, GRUB and SSH.",
)
@_NAME
def up(
    *,
    nodes: int,
    release: str | None,
    artifacts: Path | None,
    memory: int,
    session: int,
    accel: str,
    bootloader: Bootloader,
    name: str,
) -> None:
    """Start a lab's nodes and wait until each is up.

    Without a boot loader they run the build, with Kerrighed loaded. With one they are
    machines to deploy to: the lab's cluster.toml is for that.

    \b
    Examples:
      krg-provision lab up --nodes 3
      krg-provision lab up --nodes 2 --release debian-6.1 --bootloader legacy
      krg-provision deploy --reboot --nodes lab:krg
      krg-provision lab up --name other --session 2 --artifacts ~/build --accel tcg
    """
    from provision.console import say
    from provision.lab import lifecycle

    made = lifecycle.up(
        _build(artifacts, release),
        name=name,
        nodes=nodes,
        memory=memory,
        session=session,
        accel=accel,
        bootloader=bootloader,
    )
    say(f"lab {name} is up: {nodes} nodes, session {session}; consoles in {made.directory}")
    if made.has_disks:
        say(f"next: krg-provision deploy --reboot --nodes lab:{name}")


@lab.group(context_settings={"help_option_names": ["-h", "--help"]})
def diskless() -> None:
    """Run nodes without a disk: they boot by PXE, with their root on NFS.

    \b
    Examples:
      krg-provision lab diskless up --nodes 2
    """


@diskless.command("up")
@click.option("--nodes", default=2, show_default=True, help="How many nodes.")
@_RELEASE
@_ARTIFACTS
@_MEMORY
@_SESSION
@_ACCEL
@_NAME
@_FORMAT
def diskless_up(
    *,
    nodes: int,
    release: str | None,
    artifacts: Path | None,
    memory: int,
    session: int,
    accel: str,
    name: str,
    style: str,
) -> None:
    """Start a head node and nodes that boot from it, and prove that they are a cluster.

    The head node serves DHCP, TFTP (pxelinux) and NFS, as "diskless render" writes it, in a
    network of its own that leads nowhere. Only root may make one. The nodes share one root, and
    start the cluster by themselves once all of them are there. Without --release or --artifacts
    the newest build of Kerrighed's release is taken. The other lab commands work on such a lab
    too: status, console, fault, test, down.

    \b
    Examples:
      krg-provision lab diskless up --nodes 2
      krg-provision lab diskless up --nodes 3 --release kerrighed-2.4.4 --name pxe
      krg-provision lab test --name pxe
      krg-provision lab down --name pxe
    """
    from provision.console import say
    from provision.lab import evidence, head, lifecycle, state
    from provision.release import DEFAULT

    made = lifecycle.up(
        _build(artifacts, release if artifacts else release or DEFAULT),
        name=name,
        nodes=nodes,
        memory=memory,
        session=session,
        accel=accel,
        bootloader=state.PXELINUX,
    )
    say(
        f"lab {name} is up: {nodes} nodes, session {session}, root on {head.address(made)}; "
        f"consoles and the servers' logs in {made.directory}"
    )
    _evidence(evidence.prove_boot(made), style)


@lab.command()
@_NAME
@_FORMAT
def status(name: str, style: str) -> None:
    """Show what each node of a lab is, the head node too; exit status 1 if one is not up.

    \b
    Examples:
      krg-provision lab status
      krg-provision lab status --format json
    """
    import dataclasses

    from provision.lab import lifecycle, state

    found = state.load_up(name)
    seen = lifecycle.status(found)
    head = state.head_pid(found)
    serves = {"state": "up" if head else "ended", "pid": head} if found.is_diskless else None
    if style == "json":
        nodes = [dataclasses.asdict(s) for s in seen]
        click.echo(
            json.dumps({**dataclasses.asdict(found), "head": serves, "nodes": nodes}, indent=1)
        )
    else:
        rows: list[Sequence[object]] = [
            (s.number, s.state, s.pid, s.kernel_release, s.node_id, s.session_id, s.online)
            for s in seen
        ]
        if serves:
            rows.insert(0, ("head", serves["state"], head, None, None, None, None))
        _table(("node", "state", "pid", "kernel", "node id", "session", "online"), rows)
    up = all(s.state == "up" for s in seen) and (head is not None or serves is None)
    sys.exit(0 if up else 1)


@lab.command()
@click.argument("node", type=int)
@_NAME
def console(node: int, name: str) -> None:
    """Speak with a node's serial console; Ctrl-] leaves it.

    \b
    Examples:
      krg-provision lab console 2
      echo 'cat /proc/nodes/nrnodes' | krg-provision lab console 1
    """
    from provision.lab import state
    from provision.lab.terminal import attach

    found = state.load_up(name)
    attach(found, found.node(node))


@lab.command(context_settings={"ignore_unknown_options": True})
@_NAME
@click.argument("node", type=int)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(node: int, command: tuple[str, ...], name: str) -> None:
    """Log in to a node with a disk, or one without; or run a command there, whose status is ours.

    \b
    Examples:
      krg-provision lab ssh 1
      krg-provision lab ssh 2 cat /boot/grub/menu.lst
    """
    import os
    import shutil

    from provision.errors import MissingError
    from provision.lab import disk_node, head, state

    found = state.load_up(name)
    if not found.is_diskless:
        state.cluster_file(name)
    state.require_running(found, found.node(node))
    way = head if found.is_diskless else disk_node
    argv = way.ssh_command(found, found.node(node), command)
    if shutil.which("ssh") is None:
        raise MissingError("ssh: not found on this machine", hint="apt-get install openssh-client")
    os.execvp(argv[0], argv)  # noqa: S606 - the terminal is ssh's from here on


@lab.command(epilog="mend ends hang, netcut and diskfull.")
@click.argument("node", type=int)
@click.argument(
    "kind", type=click.Choice(["panic", "hang", "freeze", "powercut", "netcut", "diskfull", "mend"])
)
@_NAME
def fault(node: int, kind: str, name: str) -> None:
    """Do to a node what happens to real ones: a panic, a power cut, a full disk.

    \b
    Examples:
      krg-provision lab fault 2 powercut
      krg-provision lab fault 1 netcut
      krg-provision lab fault 1 mend
    """
    from provision.console import say
    from provision.lab import fault as faults
    from provision.lab import state

    found = state.load_up(name)
    faults.inflict(found, found.node(node), kind)
    say(f"node {node} of lab {name}: {kind}: {faults.KINDS[kind][0]}")


@lab.command()
@_NAME
@_FORMAT
def test(name: str, style: str) -> None:
    """Start the cluster if need be and prove that it is one; exit status 1 if it is not.

    Module loaded, cluster running on all nodes, processors and memory summed, one
    process migrated to another node and going on there.

    \b
    Examples:
      krg-provision lab test
      krg-provision lab test --format json
    """
    from provision.lab import evidence, state

    _evidence(evidence.prove(state.load_up(name)), style)


def _evidence(items: Sequence[Evidence], style: str) -> None:
    """Show evidence, name what is missing, and exit: 1 if something is."""
    import dataclasses

    missing = [item for item in items if not item.ok]
    if style == "json":
        value = {"ok": not missing, "evidence": [dataclasses.asdict(item) for item in items]}
        click.echo(json.dumps(value, indent=1))
    else:
        _table(
            ("", "what", "where", "wanted", "seen"),
            [("ok" if i.ok else "MISSING", i.what, i.where, i.want, i.have) for i in items],
        )
    for item in missing:
        click.echo(
            f"krg-provision: {item.what} ({item.where}): wanted {item.want}; {item.have}", err=True
        )
    sys.exit(1 if missing else 0)


@lab.command()
@_NAME
def down(name: str) -> None:
    """End a lab's nodes, and nothing else; the consoles' logs stay.

    \b
    Examples:
      krg-provision lab down
      krg-provision lab down --name other
    """
    from provision.console import say
    from provision.lab import lifecycle

    count, directory = lifecycle.down(name)
    say(f"lab {name} is down: {count} nodes ended; their consoles' logs stay in {directory}")


@lab.command("list")
@_FORMAT
def list_labs(style: str) -> None:
    """List this user's labs.

    \b
    Examples:
      krg-provision lab list
    """
    from provision.lab import lifecycle, state

    labs = lifecycle.overview()
    if style == "json":
        rows = [
            {
                "name": one.name,
                "nodes": len(one.nodes),
                "running": running,
                "session": one.session,
                "bootloader": one.bootloader,
                "kernel_release": one.kernel_release,
                "build": one.build,
            }
            for one, running in labs
        ]
        click.echo(json.dumps(rows, indent=1))
        return
    _table(
        ("lab", "running", "for", "session", "boot loader", "kernel", "build"),
        [
            (
                one.name,
                f"{running} of {len(one.nodes)}",
                f"{state.age(one) / 60:.0f} min",
                one.session,
                one.bootloader,
                one.kernel_release,
                one.build,
            )
            for one, running in labs
        ],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: ruled on a terminal, in a pipe plain columns, one line a row."""
    text = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(head, *text, strict=True)]
        for row in [list(head), *text]:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            click.echo("  ".join(cells).rstrip())
        return
    from rich.table import Table
    from rich.text import Text

    from provision.console import out

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in head:
        table.add_column(name, overflow="fold")
    bad = ("MISSING", "ended", "failed", "silent")
    for row in text:
        table.add_row(*(Text(c, style="red" if c in bad else "") for c in row))
    out().print(table)
