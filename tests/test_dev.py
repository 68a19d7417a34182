# SPDX-License-Identifier: GPL-2.0-or-later
"""./dev: what it installs is what the commands need, and it explains itself."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
import tiers

from provision import doctor

ROOT = Path(__file__).resolve().parent.parent


def listed() -> dict[str, str]:
    """Return the packages that ./dev installs, each with the file it looks for."""
    text = (ROOT / "dev").read_text("utf-8")
    body = text.split("packages() {\n\tcat <<'END'\n", 1)[1].split("\nEND\n", 1)[0]
    return dict(line.split(" ", 1) for line in body.splitlines())


# Every Debian has these: a system without them could not run apt.
ESSENTIAL = {"apt", "dpkg"}


def test_the_demo_brings_no_server() -> None:
    text = (ROOT / "dev").read_text("utf-8")
    assert "\nopenssh-server sshd\n" in text
    assert "openssh-server" not in listed()


def test_every_need_of_the_commands_is_installed() -> None:
    wanted = {need.package for need in doctor.load()} - ESSENTIAL
    assert wanted <= set(listed())


def test_doctor_and_dev_look_for_the_same_files() -> None:
    places = listed()
    for need in doctor.load():
        if need.package in places and need.tool.startswith("/"):
            assert places[need.package] == need.tool


def test_needs_name_commands_that_exist() -> None:
    from provision.cli import COMMANDS

    assert {need.command for need in doctor.load()} <= set(COMMANDS)
    for need in doctor.load():
        assert need.why and not need.why.endswith(".")


def test_it_says_how_it_is_used() -> None:
    done = subprocess.run([ROOT / "dev"], capture_output=True, text=True)
    assert done.returncode == 2
    for word in ("demo", "test", "lint", "bench"):
        assert f"\n  {word} " in done.stdout
    wrong = subprocess.run([ROOT / "dev", "nothing"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "usage: ./dev" in wrong.stderr
    assert subprocess.run([ROOT / "dev", "--help"], capture_output=True).returncode == 0


def test_it_can_be_called_from_anywhere(tmp_path: Path) -> None:
    done = subprocess.run([ROOT / "dev", "help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "usage:" in done.stdout


def test_ci_runs_what_people_run() -> None:
    text = (ROOT / ".ci/run").read_text("utf-8")
    assert "./dev lint\n" in text and "./dev test\n" in text


def test_all_tests_are_in_a_tier() -> None:
    """The expressions of the tiers divide all tests: none in two, none in none."""
    from itertools import product

    marks = ("sources", "fleet", "lab", "debian")
    for values in product((True, False), repeat=len(marks)):
        have = dict(zip(marks, values, strict=True))
        expressions = [t.select for t in tiers.TIERS]
        chosen = [e for e in expressions if eval(e, {}, have)]
        assert len(chosen) == 1, (have, chosen)


def test_marks_of_the_tiers_are_known() -> None:
    config = (ROOT / "setup.cfg").read_text("utf-8")
    for mark in ("sources", "fleet", "lab", "slow"):
        assert f"\n    {mark}: " in config


@pytest.mark.parametrize("name", ["pyproject.toml"])
def test_toml_files_parse(name: str) -> None:
    assert tomllib.loads((ROOT / name).read_text("utf-8"))
