# SPDX-License-Identifier: GPL-2.0-or-later
"""The tree's own configuration program, built aside and run as the judge of ours.

The tree is only read: scripts/kconfig is copied, its generated parsers are made from
the copies that old trees ship, or with flex and bison.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from kconfig import tree as trees
from kconfig.errors import KconfigError

_COMMON = ("confdata", "expr", "menu", "preprocess", "symbol", "util")
_TIME = 300
# The top Makefile's words for what conf is asked to do, by its two sets of options.
_SHORT = {"oldconfig": "-o", "allnoconfig": "-n", "allyesconfig": "-y", "allmodconfig": "-m"}


@dataclass(frozen=True)
class Oracle:
    """A built program for one tree and architecture; ``scratch`` is its working directory."""

    tree: Path
    arch: str
    program: Path
    scratch: Path

    @property
    def long_options(self) -> bool:
        """Whether it knows --olddefconfig and the like."""
        return trees.kernel_version(self.tree).numbers >= (3, 7, 0)

    def defconfig(self, path: Path) -> str:
        """Return what .config holds below its header after reading a default configuration."""
        if self.long_options:
            return self._run([f"--defconfig={path}"], None)
        return self._run(["-D", str(path)], None)

    def oldconfig(self, config: str) -> str:
        """Return the .config that a given one becomes, everything new at its default."""
        return self._run(["--olddefconfig" if self.long_options else "-o"], config)

    def allconfig(self, answer: str) -> str:
        """Return the .config of allnoconfig, allmodconfig or allyesconfig."""
        target = {"n": "allnoconfig", "m": "allmodconfig", "y": "allyesconfig"}[answer]
        return self._run([f"--{target}" if self.long_options else _SHORT[target]], None)

    def savedefconfig(self, config: str) -> str:
        """Return the smallest configuration that becomes ``config``."""
        self._write(config)
        out = self.scratch / "defconfig"
        self._call([f"--savedefconfig={out}"])
        return out.read_text("latin-1")

    def _write(self, config: str | None) -> None:
        target = self.scratch / ".config"
        target.unlink(missing_ok=True)
        if config is not None:
            target.write_text(config, "latin-1")

    def _run(self, options: list[str], config: str | None) -> str:
        self._write(config)
        self._call(options)
        return below_header((self.scratch / ".config").read_text("latin-1"))

    def _call(self, options: list[str]) -> None:
        environment = {
            **os.environ,
            **trees.settings(self.tree, self.arch),
            "KCONFIG_NOTIMESTAMP": "1",
            "LC_ALL": "C",
            "KRG_ANSWERS": str(self.scratch.parent / "answers"),
        }
        try:
            done = subprocess.run(
                [str(self.program), *options, trees.start(self.tree, self.arch)],
                cwd=self.scratch,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=_TIME,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise KconfigError(
                f"{self.tree}: conf {options[0]} did not end within {_TIME} s; it may ask for ever"
            ) from error
        if done.returncode < 0:
            crash = f"crashed (signal {-done.returncode})"
            raise KconfigError(f"{self.tree}: conf {options[0]} {crash}")
        if done.returncode:
            last = done.stderr.decode("latin-1").strip().splitlines()[-3:]
            raise KconfigError(f"{self.tree}: conf {options[0]} failed: {' '.join(last)}")


def below_header(text: str) -> str:
    """Return a .config without the comment lines at its top."""
    lines = text.splitlines(keepends=True)
    end = 1
    while end < len(lines) and lines[end] != "#\n":
        end += 1
    return "".join(lines[end + 1 :])


def build(tree: Path, arch: str, scratch: Path) -> Oracle:
    """Build the program of ``tree`` below ``scratch``, which must exist.

    :raises KconfigError: a tool is missing or the program does not compile; says which.
    """
    tree = tree.resolve()
    if not (tree / "scripts/kconfig").is_dir():
        raise KconfigError(f"{tree}: there is no scripts/kconfig to build")
    work = scratch / "program"
    shutil.copytree(tree / "scripts/kconfig", work)
    (work / "home").mkdir()
    (work / "answers").mkdir()
    for shipped in work.glob("*_shipped"):
        shutil.copyfile(shipped, str(shipped).removesuffix("_shipped"))
    include = [f"-I{tree / 'scripts/include'}"] if (tree / "scripts/include").is_dir() else []
    if (work / "zconf.tab.c").exists():
        sources = ["-fgnu89-inline", "conf.c", "zconf.tab.c"]
    else:
        _tool(work, "flex", "-olexer.lex.c", "-L", "lexer.l")
        _tool(work, "bison", "-o", "parser.tab.c", "--defines=parser.tab.h", "-t", "-l", "parser.y")
        names = [f"{name}.c" for name in _COMMON if (work / f"{name}.c").exists()]
        sources = ["conf.c", "lexer.lex.c", "parser.tab.c", *names]
        if "preprocess.c" in names:
            once = Path(__file__).with_name("popen_once.c")
            sources += ["-Dpopen=popen_once", "-Dpclose=pclose_once", str(once)]
    options = ["-w", "-O1", "-D_GNU_SOURCE", "-I.", *include]
    _tool(work, "gcc", *options, "-o", "conf", *sources)
    return Oracle(tree, arch, work / "conf", work / "home")


def _tool(work: Path, *command: str) -> None:
    if shutil.which(command[0]) is None:
        raise KconfigError(f"{command[0]} is missing (Debian: apt-get install {command[0]})")
    done = subprocess.run(command, cwd=work, capture_output=True, timeout=_TIME, check=False)
    if done.returncode:
        error = done.stderr.decode("latin-1").strip().splitlines()
        raise KconfigError(f"{command[0]} failed: {error[-1] if error else done.returncode}")
