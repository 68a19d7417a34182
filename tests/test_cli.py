# SPDX-License-Identifier: GPL-2.0-or-later
"""The command as people and scripts meet it: help, exit codes, errors, plain output."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import mini
import pytest
from conftest import Command

from provision import __version__
from provision.cli import COMMANDS, cli

HEAVY = ("rich", "fabric", "paramiko", "kconfiglib", "jinja2", "invoke", "elftools", "ClusterShell")


def every_command() -> Iterator[tuple[str, ...]]:
    def below(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield path
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from below(found, (*path, name))

    yield from below(cli, ())


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_help_has_examples_and_is_quick(path: tuple[str, ...], home: Path) -> None:
    code = (
        "import sys, provision.cli\n"
        "try: provision.cli.main(sys.argv[1:])\n"
        f"finally: print('HEAVY', *[m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *path, "--help"], capture_output=True, text=True, cwd=home
    )
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout and "krg-provision " in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "HEAVY", done.stdout.splitlines()[-1]
    # Every example names a command and options that exist.
    for line in re.findall(r"^ +(krg-provision .*)$", done.stdout, re.MULTILINE):
        words = line.split()[1:]
        context = click.Context(cli)
        command: click.Command = cli
        for word in words:
            if isinstance(command, click.Group):
                found = command.get_command(context, word)
                assert found is not None, line
                command = found
            elif word.startswith("-") and word != "--":
                known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
                assert word.split("=")[0] in known, f"{line}: {word}"


def test_no_abbreviation_of_the_list(krg: Command) -> None:
    done = krg("--help")
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE), name
    assert krg("--version").stdout.strip().endswith(__version__)
    assert krg("-h").stdout == done.stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["nothing"], 2),
        (["fetch", "--nothing"], 2),
        (["fetch", "--release", "nothing"], 2),
        (["fetch", "--ref", "x"], 2),
        (["build-kernel", "-j", "many"], 2),
        (["doctor", "nothing"], 2),
        (["config", "generate", "--arch", "vax"], 2),
        (["fetch", "--no-download"], 3),
        (["build-kernel", "--no-download", "-q"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_exit_codes_and_one_line(krg: Command, words: list[str], code: int) -> None:
    done = krg(*words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code:
        assert len(re.findall(r"(?im)^(?:krg-provision: )?error:", done.stderr)) == 1, done.stderr
        assert done.stdout == ""


def test_failed_work_is_1(krg: Command, mini: mini.Mini) -> None:
    assert krg("build-kernel", *mini.options, "--set", "BROKEN=y").returncode == 1


def test_debug_shows_the_traceback(krg: Command) -> None:
    done = krg("--debug", "fetch", "--release", "nothing")
    assert "Traceback" in done.stderr and "InputError" in done.stderr


def test_a_place_that_cannot_be_written(krg: Command, mini: mini.Mini, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = krg("config", "generate", "--release", mini.release, "--source-dir", mini.sources,
               "-o", tmp_path / "file/config")  # fmt: skip
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr


@pytest.mark.parametrize("words", [["fetch"], ["build-kernel"], ["doctor"]])
def test_no_escape_codes_in_a_pipe(krg: Command, mini: mini.Mini, words: list[str]) -> None:
    options = [] if words == ["doctor"] else mini.options
    done = krg(*words, *options)
    assert "\x1b" not in done.stdout + done.stderr and "\r" not in done.stdout + done.stderr


def test_results_are_on_stdout_and_progress_on_stderr(krg: Command, mini: mini.Mini) -> None:
    done = krg("build-kernel", *mini.options)
    assert done.stdout.splitlines()[0].startswith("/") and "kernel" not in done.stdout.split()
    assert re.search(r"^kernel: \d+\.\d s$", done.stderr, re.MULTILINE)
    quiet = krg("build-kernel", *mini.options, "-q", "--set", "BUFFERS=7")
    assert quiet.returncode == 0 and quiet.stderr == ""


def on_a_terminal(words: list[str], env: dict[str, str]) -> str:
    """Return what a command writes to a terminal that is its stdout and stderr."""
    parent, child = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "provision", *words],
        stdin=subprocess.DEVNULL, stdout=child, stderr=child,
        env={**os.environ, "TERM": "xterm-256color", **env},
    ) as process:  # fmt: skip
        os.close(child)
        said = b""
        while True:
            try:
                data = os.read(parent, 1 << 16)
            except OSError:  # EIO: the last writer has gone
                break
            if not data:
                break
            said += data
    os.close(parent)
    assert process.returncode == 0, said
    return said.decode()


def test_colour_on_a_terminal_and_none_with_no_color(mini: mini.Mini, home: Path) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*m")
    with_colour = on_a_terminal(["build-kernel", *mini.options], {})
    assert any(code != "\x1b[0m" for code in colour.findall(with_colour))
    plain = on_a_terminal(["build-kernel", *mini.options, "--set", "BUFFERS=7"], {"NO_COLOR": "1"})
    # Colours go; the moving line itself needs the cursor, not colours.
    assert not re.search(r"\x1b\[(?:[0-9;]*;)?(?:3[0-9]|9[0-7])(?:;[0-9;]*)?m", plain)


def test_a_reader_that_goes_away(home: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m provision --help | head -n 1"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith("Usage:") and done.stderr == ""


def test_doctor_says_what_is_missing(krg: Command, tmp_path: Path) -> None:
    """With a PATH of nothing: what is looked for outside /sbin is missing."""
    done = krg(
        "doctor", "build-kernel", "--format", "json", env={**os.environ, "PATH": str(tmp_path)}
    )
    checks = json.loads(done.stdout)
    gcc = next(c for c in checks["checks"] if c["tool"] == "gcc")
    assert done.returncode == 1 and not gcc["present"] and "gcc" in checks["apt"]
    text = krg("doctor", "build-kernel", env={**os.environ, "PATH": str(tmp_path)})
    assert text.returncode == 1 and "lacks gcc" in text.stdout
    assert "apt-get install " in text.stdout


def test_doctor_finds_what_is_there(krg: Command, tmp_path: Path) -> None:
    for tool in ("gcc", "ld", "make", "perl", "patch", "depmod", "apt-get", "dpkg-deb", "ccache",
                 "flex", "bison", "bc"):  # fmt: skip
        (tmp_path / tool).write_text("#!/bin/sh\n")
        (tmp_path / tool).chmod(0o755)
    done = krg(
        "doctor", "build-kernel", "--format", "json", env={**os.environ, "PATH": str(tmp_path)}
    )
    missing = {c["tool"] for c in json.loads(done.stdout)["checks"] if not c["present"]}
    assert {tool for tool in missing if not tool.startswith("/")} == set()
