# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual pages: they name what the program has, and roff has nothing to complain about."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from provision import __version__, cluster, cluster_rules, cluster_toml
from provision.cli import cli, man

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs/man"
FRAME = PAGES / "krg-provision.1.in"
# Two complaints of mandoc that are about where it runs: a rule for NetBSD's own pages, and
# pages of other packages.
ELSEWHERE = re.compile(r"\(NetBSD\)|referenced manual not found|outdated mandoc\.db")


@pytest.fixture(scope="module")
def manuals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return both pages as they are installed."""
    place = tmp_path_factory.mktemp("man")
    paths = {name: place / name for name in ("krg-provision.1", "cluster.toml.5")}
    paths["krg-provision.1"].write_text(man.page(FRAME.read_text("utf-8")), "utf-8")
    shutil.copy(PAGES / "cluster.toml.5", paths["cluster.toml.5"])
    return paths


def shown(path: Path) -> str:
    """Return the page as man shows it, wide, without bold and underline."""
    if shutil.which("man") is None:
        pytest.skip("no man: apt-get install man-db")
    env = {**os.environ, "MANWIDTH": "300", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}
    done = subprocess.run(
        ["man", "-P", "cat", "-l", path], capture_output=True, text=True, env=env, check=True
    )
    text = re.sub(r".\x08|\x1b\[[0-9;]*m", "", done.stdout)
    # groff 1.23 begins a line two blanks further in than 1.22.
    if "\nNAME\n       " in text:
        text = re.sub(r"^  (?=     )", "", text, flags=re.MULTILINE)
    return text


def commands(group: click.Group = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


def sections(page: str) -> dict[str, str]:
    """Return the page's part about each command: three blanks, and its name, begin one."""
    text = page.split("\nCOMMANDS\n", 1)[1].split("\nENVIRONMENT\n", 1)[0]
    parts = re.split(r"^   (\S.*)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_and_option_is_on_the_page(manuals: dict[str, Path]) -> None:
    found = sections(shown(manuals["krg-provision.1"]))
    known = dict(commands())
    assert list(found) == list(known)
    for name, command in known.items():
        heads = re.findall(r"^     (-.*)", found[name], re.MULTILINE)
        names = {word for head in heads for word in re.findall(r"(?<![\w|-])--?[a-z][\w-]*", head)}
        options = [p for p in command.params if isinstance(p, click.Option)]
        assert names == {o for p in options for o in (*p.opts, *p.secondary_opts)}, name
        # The first line of the command's own help, and its examples.
        assert command.help is not None
        assert command.help.strip().split("\n")[0] in found[name], name
        for example in re.findall(r"^ *(krg-provision .*)$", command.help, re.MULTILINE):
            assert example in found[name], example


def test_every_option_says_what_it_does() -> None:
    lacks = [
        f"{name} {option.opts[0]}"
        for name, command in commands()
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert lacks == []


def test_options_of_the_program_itself(manuals: dict[str, Path]) -> None:
    text = shown(manuals["krg-provision.1"])
    for option in cli.get_params(click.Context(cli)):
        for name in option.opts:
            assert re.search(rf"^     (-h, )?{name}\b", text, re.MULTILINE), name
    assert __version__ in text


def test_paths_and_exit_codes_are_those_of_the_program(
    manuals: dict[str, Path], home: Path
) -> None:
    from provision import errors, paths

    text = shown(manuals["krg-provision.1"])
    for path in (paths.sources_dir(), paths.builds_dir(), paths.labs_dir()):
        assert f"~/{path.relative_to(home)}" in text
    codes = {getattr(errors, n).exit_code for n in ("FailedError", "InputError", "MissingError")}
    for code in codes | {0, 130}:
        assert re.search(rf"^     {code}  ", text, re.MULTILINE), code


def test_every_key_of_cluster_toml_is_on_its_page(manuals: dict[str, Path]) -> None:
    text = shown(manuals["cluster.toml.5"])
    body = text.split("Keys at the top\n", 1)[1].split("The kernel's own form", 1)[0]
    heads = re.findall(r"^     ([a-z[][\w, \]\[]*?)(?:  .*)?$", body, re.MULTILINE)
    keys = {key.strip("[]") for head in heads for key in re.split(r", ", head)}
    assert keys == cluster_toml._TOP | cluster_toml._NODE | cluster_toml._DEFAULTS
    for limit in (
        cluster_rules.MAX_SESSION,
        cluster_rules.MAX_NODE_ID,
        cluster_rules.MAX_PLAIN_NODE_ID,
    ):
        assert re.search(rf"\b{limit}\b", text), limit


def test_the_files_on_the_page_are_good(manuals: dict[str, Path], tmp_path: Path) -> None:
    source = manuals["cluster.toml.5"].read_text("utf-8")
    kernels, toml = re.findall(r"^\.Bd -literal.*\n((?:.*\n)*?)\.Ed$", source, re.MULTILINE)
    for name, text in (("cluster.toml", toml), ("kerrighed_nodes", kernels)):
        (tmp_path / name).write_text(text)
        assert len(cluster.read_cluster(tmp_path / name).nodes) == 3


@pytest.mark.parametrize("name", ["krg-provision.1", "cluster.toml.5"])
def test_man_has_no_warnings(manuals: dict[str, Path], name: str) -> None:
    if shutil.which("man") is None:
        pytest.skip("no man: apt-get install man-db")
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", manuals[name]],
        capture_output=True, text=True,
        env={**os.environ, "MANROFFSEQ": "", "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize("name", ["krg-provision.1", "cluster.toml.5"])
def test_mandoc_has_no_complaints(manuals: dict[str, Path], name: str) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("no mandoc: apt-get install mandoc")
    done = subprocess.run(["mandoc", "-T", "lint", manuals[name]], capture_output=True, text=True)
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if not ELSEWHERE.search(line)] == []


def test_text_that_looks_like_roff_stays_text(tmp_path: Path) -> None:
    """What a help text may hold: requests, backslashes, macros' names."""

    @click.group()
    def group() -> None:
        """Do nothing."""

    @group.command("At")
    @click.option("--No", metavar="Ar", help=".config, 'C:\\new' and -x. At the end.")
    def at(**_: object) -> None:
        """.Nm is no macro here; \\fBnot bold\\fP -- that is all.

        \b
        Examples:
          .Dd krg-provision
          'a' \\e
        """

    path = tmp_path / "page.1"
    path.write_text(
        ".Dd November 1, 2026\n.Dt PAGE 1\n.Os\n.Sh NAME\n.Nm page\n.Nd x\n.Sh COMMANDS\n"
        + "\n".join(man._commands(group, "page")) + "\n"
    )  # fmt: skip
    text = shown(path)
    for wanted in (
        ".config, 'C:\\new' and -x.",
        "At the end.",
        "--No Ar",
        ".Dd krg-provision",
        ".Nm is no macro here; \\fBnot bold\\fP -- that is all.",
        "'a' \\e",
        "   At\n",
    ):
        assert wanted in text, (wanted, text)


def test_a_frame_without_the_mark() -> None:
    with pytest.raises(ValueError, match="no line @COMMANDS@"):
        man.page(".Dd today\n")
