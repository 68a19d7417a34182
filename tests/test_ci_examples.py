# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples for CI systems: valid for their own checkers, and their commands run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Command

EXAMPLES = ROOT / "docs/ci-examples"


@pytest.mark.parametrize(
    ("name", "schema"),
    [("github.yml", "vendor.github-workflows"), ("gitlab.yml", "vendor.gitlab-ci")],
)
def test_examples_are_what_their_schemas_say(name: str, schema: str, home: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="pip install .[test]")
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, EXAMPLES / name],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml"])
def test_commands_of_the_examples_run(name: str, krg: Command, home: Path) -> None:
    (home / "configs").mkdir()
    (home / "configs/a.config").write_text("CONFIG_KEYS=y\n")
    commands = re.findall(r"krg-provision (config lint [^|\n]*)", (EXAMPLES / name).read_text())
    assert commands
    for command in commands:
        done = krg(*command.split())
        assert done.returncode == 1 and done.stderr == "", done.stderr


def test_the_pre_commit_hook_is_valid(home: Path) -> None:
    pytest.importorskip("pre_commit", reason="needs pre-commit: pip install pre-commit")
    subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-manifest", ROOT / ".pre-commit-hooks.yaml"],
        check=True,
    )


@pytest.mark.parametrize(
    ("path", "taken"),
    [("site.config", True), ("configs/node_defconfig", True), ("boot/config-2.6.20", True),
     (".config", True), ("setup.cfg", False), ("config.py", False), ("busybox.config.bak", False)],
)  # fmt: skip
def test_files_the_hook_takes(path: str, taken: bool) -> None:
    pattern = re.search(r"^  files: (.*)$", (ROOT / ".pre-commit-hooks.yaml").read_text(), re.M)
    assert pattern and bool(re.search(pattern[1], path)) is taken
