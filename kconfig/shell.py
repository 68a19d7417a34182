# SPDX-License-Identifier: GPL-2.0-or-later
"""What Kconfig files may run while they are read: $(shell,...), in kernels from 4.18 on.

Such a tree asks the compiler, the linker and its own scripts what they can do, so
loading it executes commands that the tree names. With ``NoShell`` nothing is run and
everything asked for counts as missing: the values that hang on the tools are n or 0.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kconfig.dialect import SHELL, Version

if TYPE_CHECKING:
    import tempfile

# What the top Makefile hands to the Kconfig files that look for the tools' abilities.
_TOOLS = {
    "CC": "gcc",
    "HOSTCC": "gcc",
    "HOSTCXX": "g++",
    "LD": "ld",
    "AR": "ar",
    "NM": "nm",
    "OBJCOPY": "objcopy",
    "STRIP": "strip",
    "PAHOLE": "pahole",
    "RUSTC": "rustc",
    "BINDGEN": "bindgen",
    "PYTHON3": "python3",
    "CONFIG_SHELL": "sh",
}
# The command if-success of scripts/Kconfig.include becomes.
_ELSE = re.compile(r'\|\| echo "([^"]*)"$')


def settings(version: Version, shell: bool) -> dict[str, str]:
    """Return the variables that name tools; the environment's own values win."""
    if not SHELL.holds(version):
        return {}
    values = {name: os.environ.get(name, tool) for name, tool in _TOOLS.items()}
    for name, tool in (("CC_VERSION_TEXT", "CC"), ("RUSTC_VERSION_TEXT", "RUSTC")):
        values[name] = _first_line(values[tool]) if shell else ""
    return values


def _first_line(tool: str) -> str:
    import subprocess

    try:
        done = subprocess.run(
            [*tool.split(), "--version"],
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            timeout=60,
            check=False,
        )
    except OSError:
        return ""
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return lines[0].replace("#", "") if lines else ""


class Shell:
    """Runs the commands of one tree, each once, in a directory where they may make files."""

    runs = True

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**os.environ, **environment}
        self._known: dict[str, str] = {}
        self._place: tempfile.TemporaryDirectory[str] | None = None

    def __call__(self, command: str) -> str:
        """Return what ``command`` prints, in one line, as the preprocessor takes it."""
        if command not in self._known:
            # Not imported for the many trees that run nothing.
            import subprocess
            import tempfile

            if self._place is None:
                self._place = tempfile.TemporaryDirectory(prefix="krg-kconfig-")
            done = subprocess.run(  # noqa: S602 # what the tree asks to be run
                command,
                shell=True,
                cwd=self._place.name,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            text = done.stdout.decode("latin-1")
            self._known[command] = text.rstrip("\n").replace("\n", " ")
        return self._known[command]

    def close(self) -> None:
        """Remove the directory."""
        if self._place is not None:
            self._place.cleanup()

    @property
    def commands(self) -> list[str]:
        """The different commands run so far."""
        return list(self._known)


class NoShell(Shell):
    """Runs nothing: success is answered with the alternative, all else with 0."""

    runs = False

    def __init__(self) -> None:
        self._known = {}

    def __call__(self, command: str) -> str:
        """Return what stands for the result of ``command``."""
        match = _ELSE.search(command)
        self._known[command] = match[1] if match else "0"
        return self._known[command]

    def close(self) -> None:
        """Do nothing."""
