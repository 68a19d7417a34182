# SPDX-License-Identifier: GPL-2.0-or-later
"""Which programs a build uses, and in which version: fix-ups and build ids depend on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provision.errors import MissingError
from provision.runner import Runner

_PROBES = {
    "gcc": ("gcc", "--version"),
    "binutils": ("ld", "--version"),
    "make": ("make", "--version"),
}
_NUMBER = re.compile(r"\b(\d+\.\d+(?:\.\d+)*)\b")
# What the steps of a build call besides the compiler.
_NEEDED = ("perl", "depmod", "cp", "ln", "sh", "yes")


@dataclass(frozen=True)
class Toolchain:
    """The builder's tools: first lines of their --version, version numbers, processors.

    ``machine`` is what programs run on that gcc makes when it is told nothing, such as
    x86_64-linux-gnu.
    """

    lines: dict[str, str]
    versions: dict[str, str]
    ccache: bool
    processors: int
    home: Path
    machine: str


def _look(tool: str) -> str:
    """Return a command of the shell that succeeds where the builder has a program or header."""
    if tool.endswith(".h"):
        return f"echo '#include <{tool}>' | gcc -E -xc -"
    return f"command -v {tool}"


def survey(runner: Runner, gcc_flags: Sequence[str], more: Sequence[str] = ()) -> Toolchain:
    """Ask the machine behind ``runner`` what it builds with, in one round trip.

    :param more: programs besides those of every build, and headers: names that end in .h.
    :param gcc_flags: options the compiler must be able to link with, such as -m32.
    :raises MissingError: something is not there, or gcc cannot link with the flags.
    """
    # /sbin is not on everybody's PATH; a failing probe prints nothing.
    script = (
        "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin; LC_ALL=C; export LC_ALL\n"
        + "".join(
            f"echo {name}: $({' '.join(argv)} 2>/dev/null | head -n 1)\n"
            for name, argv in _PROBES.items()
        )
        + "".join(
            f"{_look(tool)} >/dev/null 2>&1 || echo lacks: {tool}\n" for tool in (*_NEEDED, *more)
        )
        + "command -v ccache >/dev/null && echo ccache: yes\n"
        + "echo machine: $(gcc -dumpmachine 2>/dev/null)\n"
        + 'echo processors: $(nproc)\necho home: "$HOME"\n'
        + "echo 'int main(void){return 0;}' | "
        + f"gcc {' '.join(gcc_flags)} -xc - -o /dev/null 2>/dev/null && echo links: yes\n"
    )
    said: dict[str, str] = {}
    lacks = []
    for line in runner.run(["sh", "-c", script], check=False, timeout=60).output.splitlines():
        key, _, value = line.partition(": ")
        if key == "lacks":
            lacks.append(value)
        else:
            said[key] = value.strip()
    lacks += [argv[0] for name, argv in _PROBES.items() if not said.get(name)]
    if lacks:
        raise MissingError(
            f"{runner.name} lacks {', '.join(sorted(lacks))}",
            hint="krg-provision doctor prints the apt line that brings them",
        )
    if "links" not in said:
        flags = " ".join(gcc_flags)
        raise MissingError(
            f"gcc {flags} on {runner.name} cannot link a program",
            hint="apt-get install " + ("gcc-multilib" if "-m32" in gcc_flags else "gcc libc6-dev"),
        )
    lines = {name: said[name] for name in _PROBES}
    versions = {}
    for name, line in lines.items():
        # The last number: Debian puts its own package version in parentheses before.
        numbers = _NUMBER.findall(line)
        if not numbers:
            raise MissingError(f"{name} on {runner.name} says no version: {line!r}")
        versions[name] = numbers[-1]
    return Toolchain(
        lines,
        versions,
        "ccache" in said,
        int(said.get("processors") or 1),
        Path(said["home"]),
        said.get("machine", ""),
    )
