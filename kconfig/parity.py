# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares this package with the configuration program of kernel trees, byte for byte.

``python -m kconfig.parity TREE...`` builds each tree's scripts/kconfig/conf aside and
asks both for the same configurations: defconfigs, all*config, and random ones as
they are, with lines dropped and with lines flipped. The program is right by definition.
"""

from __future__ import annotations

import argparse
import difflib
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import kconfiglib
from kconfiglib import BOOL, HEX, INT, STRING, TRISTATE

from kconfig import oracle, targets, tree
from kconfig.errors import KconfigError

_SHOWN = 12
_PART = 0.1


@dataclass(frozen=True)
class Case:
    """One comparison: a name for the table's row and for messages, and both results."""

    row: str
    name: str
    given: str
    theirs: str
    ours: str

    @property
    def equal(self) -> bool:
        """Whether both wrote the same bytes."""
        return self.theirs == self.ours

    def difference(self) -> list[str]:
        """Return the differing lines, - theirs and + ours, with the values around left out."""
        lines = difflib.unified_diff(
            self.theirs.splitlines(), self.ours.splitlines(), "conf", "kconfig", lineterm="", n=0
        )
        return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


@dataclass
class Tally:
    """Counts for one row of the table."""

    equal: int = 0
    different: list[Case] = field(default_factory=list)


def cases(
    judge: oracle.Oracle, kconf: kconfiglib.Kconfig, scratch: Path, count: int, seed: int
) -> Iterator[Case]:
    """Yield every comparison for one tree and architecture; ``count`` random ones of each kind."""
    given = scratch / "given"
    saves = kconf.version >= (2, 6, 36)

    def old(row: str, name: str, text: str, theirs: str) -> Iterator[Case]:
        given.write_text(text, "latin-1")
        yield Case(row, name, text, theirs, targets.oldconfig(kconf, given))
        if saves:
            given.write_text(theirs, "latin-1")
            ours = targets.savedefconfig(kconf, given)
            yield Case("savedefconfig", name, text, judge.savedefconfig(theirs), ours)

    for path in defconfigs(judge.tree, judge.arch):
        text = path.read_text("latin-1")
        ours = targets.defconfig(kconf, path)
        yield Case("defconfig", path.name, text, judge.defconfig(path), ours)
        yield from old("oldconfig", path.name, text, judge.oldconfig(text))
    for answer, row in (("n", "allnoconfig"), ("m", "allmodconfig"), ("y", "allyesconfig")):
        theirs = judge.allconfig(answer)
        yield Case(row, row, "", theirs, targets.allconfig(kconf, answer))
        yield from old("oldconfig", row, theirs, judge.oldconfig(theirs))
    for number in range(count):
        name = f"random {number}"
        dice = random.Random(f"{seed}/{number}")  # noqa: S311 # repeatable, no secret
        text = random_config(kconf, dice)
        whole = judge.oldconfig(text)
        yield from old("random", name, text, whole)
        for row, changed in (
            ("random again", whole),
            ("a tenth dropped", dropped(whole, dice)),
            ("a tenth flipped", flipped(whole, dice)),
            ("odd lines", odd_lines(whole, dice)),
        ):
            yield from old(row, f"{name}, {row}", changed, judge.oldconfig(changed))


def defconfigs(where: Path, arch: str) -> list[Path]:
    """Return the default configurations a tree has for ``arch``."""
    source = tree.settings(where, arch)["SRCARCH"]
    paths = [where / f"arch/{arch}/defconfig"]
    folder = where / f"arch/{source}/configs"
    if source == arch:
        paths += sorted(folder.glob("*_defconfig"))
    else:
        paths.append(folder / f"{arch}_defconfig")
    return [path for path in paths if path.is_file()]


def random_config(kconf: kconfiglib.Kconfig, dice: random.Random) -> str:
    """Return a .config that gives most symbols a random value, whether they may have it or not."""
    lean = dice.random()
    lines = []
    for symbol in kconf.unique_defined_syms:
        if dice.random() < 0.1:
            continue
        kind = symbol.orig_type
        if kind in (BOOL, TRISTATE):
            level = dice.choice("ym" if kind == TRISTATE else "y") if dice.random() < lean else "n"
            if symbol is kconf.modules and dice.random() < 0.8:
                level = "y"
            lines.append(
                f"# CONFIG_{symbol.name} is not set"
                if level == "n"
                else f"CONFIG_{symbol.name}={level}"
            )
        elif kind == STRING and dice.random() < 0.3:
            text = dice.choice(["", "a", 'with "quotes"', "back\\slash", "two words"])
            lines.append(f'CONFIG_{symbol.name}="{kconfiglib.escape(text)}"')
        elif kind == INT and dice.random() < 0.3:
            lines.append(f"CONFIG_{symbol.name}={dice.choice([0, 1, 2, 8, 12, 14, 100, 65536])}")
        elif kind == HEX and dice.random() < 0.3:
            text = dice.choice(["0x0", "0x1000", "0xC0000000", "100000", "ff"])
            lines.append(f"CONFIG_{symbol.name}={text}")
    return "".join(f"{line}\n" for line in lines)


def dropped(config: str, dice: random.Random) -> str:
    """Return ``config`` without a tenth of its lines."""
    return "".join(x for x in config.splitlines(keepends=True) if dice.random() >= _PART)


def flipped(config: str, dice: random.Random) -> str:
    """Return ``config`` with a tenth of its yes and no turned round."""
    return "".join(
        _flip(x, dice) if dice.random() < _PART else x for x in config.splitlines(keepends=True)
    )


# How people and editors spoil a line; {} is the symbol with its CONFIG_.
_ODD = (
    "{}=Y", "{}=yes", "{}=no", "{}=m", "{}=y", "{}=n", "{}=", " {}=y", "{} =y", "{}= y",
    "{}=y # so", "{}=y\r", "{}", "#{} is not set", "# {} is not set!", "# {} is not set\r",
    "#\t{} is not set", "#  {} is not set", "# {} is set", '{}="y"', "{}='y'",
    '{}="a', '{}="a\\"b" c', '{}=""',
    "{}=07", "{}=-0", "{}=-5", "{}=+5", "{}=5 ", "{}=1_0", "{}=0x", "{}=0XfF", "{}=0x10g",
    "{}=99999", "{}_NONE=y",
)  # fmt: skip


def odd_lines(config: str, dice: random.Random) -> str:
    """Return ``config`` with lines doubled in another form, before or after the original."""
    lines = []
    for line in config.splitlines(keepends=True):
        name = _named(line)
        if not name or dice.random() >= _PART:
            lines.append(line)
            continue
        other = dice.choice(_ODD).replace("{}", name) + "\n"
        lines += dice.choice(([line, other], [other, line], [other]))
    return "".join(lines)


def _named(line: str) -> str:
    if line.startswith("# CONFIG_") and line.endswith(" is not set\n"):
        return line[2:-12]
    return line.partition("=")[0] if line.startswith("CONFIG_") else ""


def _flip(line: str, dice: random.Random) -> str:
    if line.startswith("# CONFIG_") and line.endswith(" is not set\n"):
        return f"{line[2:-12]}={dice.choice('ym')}\n"
    name, equals, value = line.partition("=")
    if equals and value in ("y\n", "m\n"):
        return f"# {name} is not set\n" if dice.random() < 0.7 else f"{name}=m\n"
    return line


def compare(
    where: Path, arch: str, count: int, seed: int, *, verbose: bool = False
) -> dict[str, Tally]:
    """Return the tally of every row for one tree and architecture.

    :raises KconfigError: the tree cannot be read, or its program not be built or run.
    """
    kconf = tree.load(where, arch)
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory(prefix="krg-parity-") as scratch:
        judge = oracle.build(where, arch, Path(scratch))
        for case in cases(judge, kconf, Path(scratch), count, seed):
            tally = tallies.setdefault(case.row, Tally())
            if case.equal:
                tally.equal += 1
                continue
            tally.different.append(case)
            if verbose:
                lines = case.difference()
                print(f"{case.name} ({case.row}): {len(lines)} lines differ", file=sys.stderr)
                print("".join(f"    {line}\n" for line in lines[:_SHOWN]), end="", file=sys.stderr)
    return tallies


def _table(title: str, tallies: dict[str, Tally]) -> str:
    lines = [title]
    for row, tally in tallies.items():
        total = tally.equal + len(tally.different)
        lines.append(f"  {row:<18}{tally.equal:>6} of {total:<6}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="kconfig.parity", description=__doc__)
    parser.add_argument("tree", type=Path, nargs="+", help="a kernel source tree")
    parser.add_argument("--arch", action="append", help="i386, x86_64 (default: both)")
    parser.add_argument("--random", type=int, default=20, metavar="N", help="how many of each kind")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    differs = False
    for where in options.tree:
        for arch in options.arch or ("i386", "x86_64"):
            try:
                tallies = compare(where, arch, options.random, options.seed, verbose=True)
                title = f"{where.name}: Linux {tree.kernel_version(where)}, {arch}"
            except KconfigError as error:
                print(f"kconfig.parity: {error}", file=sys.stderr)
                return 2
            print(_table(title, tallies))
            differs = differs or any(tally.different for tally in tallies.values())
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
