# SPDX-License-Identifier: GPL-2.0-or-later
"""``config lint`` with files, streams and trees that are not what they should be."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import small_trees
from conftest import Command

from kconfig import config_file, finding, report
from provision import atomic

LINT = ("config", "lint", "--policy", "boot")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "some.config"
    path.write_text("CONFIG_NET=y\nCONFIG_INET=y\n")
    return path


def shell(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run the linter as $KRG in a shell script, which opens and closes streams."""
    env = {**os.environ, "KRG": f"{sys.executable} -m provision config lint --policy boot"}
    return subprocess.run(
        ["sh", "-c", script, "sh", *map(str, args)],
        capture_output=True, text=True, timeout=120, env=env,
    )  # fmt: skip


def test_streams_that_are_closed_or_full(home: Path, config: Path) -> None:
    done = shell('$KRG "$1" >&-', config)
    assert (done.returncode, done.stderr) == (1, "")
    done = shell("$KRG - <&-")
    assert (done.returncode, done.stderr) == (2, "krg-provision: error: standard input: closed\n")
    done = shell('$KRG "$1" >/dev/full', config)
    assert done.returncode == 3
    assert done.stderr == "krg-provision: error: No space left on device\n"
    done = shell('$KRG --format json "$1" | true', config)
    assert (done.returncode, done.stderr) == (0, "")


def test_output_goes_into_what_is_there(krg: Command, config: Path, tmp_path: Path) -> None:
    """As root, a rename once put a file in the place of /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        assert krg(*LINT, config, "-o", pipe).returncode == 1
        assert "1 file: " in reader.communicate(timeout=60)[0]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    link = tmp_path / "link"
    link.symlink_to("target")
    for _ in range(2):
        assert krg(*LINT, config, "-o", link).returncode == 1
        assert link.is_symlink() and (tmp_path / "target").is_file()
    done = krg(*LINT, config, "-o", tmp_path)
    assert done.returncode == 3
    assert done.stderr == f"krg-provision: error: {tmp_path}: Is a directory\n"
    done = krg(*LINT, config, "--write-baseline", tmp_path / "no/such")
    assert (done.returncode, done.stderr) == (
        3, f"krg-provision: error: {tmp_path}/no/such: No such file or directory\n",
    )  # fmt: skip


def test_a_full_device_is_named() -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        atomic.write_output(Path("/dev/full"), "x")


def test_pipes_nobody_writes_to(krg: Command, config: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for option in ("--baseline", "--node"):
        done = krg(*LINT, config, option, pipe, timeout=60)
        assert (done.returncode, "a named pipe, not a file" in done.stderr) == (2, True)
    done = krg(*LINT, pipe, timeout=60)
    assert (done.returncode, "not a regular file" in done.stderr) == (2, True)
    assert shell('exec bash -c \'$KRG "$1" --baseline <(cat "$2")\' x "$1" "$2"', config,
                 baseline(tmp_path)).returncode == 1  # fmt: skip


def baseline(where: Path) -> Path:
    path = where / "baseline"
    path.write_text('{"baseline": 1, "known": []}')
    return path


@pytest.mark.parametrize("name", ["x86-64", "../x", "X86"])
def test_arch_names_are_checked(krg: Command, config: Path, name: str) -> None:
    """A wrong one would leave out the rules of the right one without a word."""
    done = krg(*LINT, "--arch", name, config)
    assert done.returncode == 2 and "is not an architecture such as x86_64" in done.stderr


def test_a_byte_order_mark_is_named() -> None:
    read = config_file.parse("\ufeffCONFIG_A=y\nCONFIG_B=y\n", "x")
    assert [(a.symbol, a.line) for a in read.assignments] == [("A", 1), ("B", 2)]
    (problem,) = read.problems
    assert (problem.line, problem.have, problem.severity) == (1, "a byte order mark", "required")


def test_line_ends_of_another_age() -> None:
    read = config_file.parse("CONFIG_A=y\rCONFIG_B=y\r", "x")
    assert [(a.symbol, a.value, a.line) for a in read.assignments] == [("A", "y", 1), ("B", "y", 2)]
    assert [p.have for p in read.problems] == ["line ends of old Macintoshes"]


def test_a_value_as_long_as_a_book(tmp_path: Path) -> None:
    long = "x" * (1 << 20)
    one = finding.Finding("p/r", "required", "A", long, "y", "why", "s", f'A="{long}"', "f", 1)
    for form, make in report.FORMATS.items():
        text = make(report.Report([one], ["f"]))
        assert ("x" * 2000 in text) == (form == "json"), form


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("config A\n\tbool\n\tfoo bar\n", "Kconfig:3: error: couldn't parse 'foo bar'"),
        ('source "Kconfig"\n', "Kconfig:1: recursive 'source' of 'Kconfig' detected"),
        ('source "pipe"\n', "no regular file"),
        ('source "nothing"\n', "Kconfig:1: 'nothing' not found"),
        ('menu "x"\n', "expected 'endmenu' at end of 'arch/x86/Kconfig'"),
        ("if A\n" * 5000, "nested too deeply"),
        ("config A\n\tdefault y if " + "(" * 9999 + "A" + ")" * 9999, "Kconfig:2: nested too deep"),
    ],
    ids=["syntax", "loop", "pipe", "missing", "open", "deep", "parentheses"],
)  # fmt: skip
def test_trees_with_errors(
    krg: Command, config: Path, tmp_path: Path, text: str, said: str
) -> None:
    where = small_trees.make(tmp_path / "tree", text, (6, 1, 0))
    os.mkfifo(where / "pipe")
    done = krg(*LINT, "--tree", where, config, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("krg-provision: error: ") and done.stderr.count("\n") == 1
    assert said in done.stderr
