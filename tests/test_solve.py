# SPDX-License-Identifier: GPL-2.0-or-later
"""The shortest set of changes, against trying every set there is, and the tree's own program."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path

import kconfiglib
import kernel_trees
import pytest
import small_trees
from kconfiglib import BOOL, STR_TO_TRI, TRISTATE

from kconfig import oracle, reading, solve, targets, tree
from kconfig.solve import Change

VERSIONS = [(2, 6, 20), (2, 6, 30), (6, 1, 0), (6, 12, 0)]
# Sets of up to so many changes are all tried.
MOST = 2


def every_change(kconf: kconfiglib.Kconfig) -> list[Change]:
    changes = []
    for symbol in kconf.unique_defined_syms:
        if not any(node.prompt for node in symbol.nodes):
            continue
        values = {
            BOOL: ("y", "n"),
            TRISTATE: ("y", "m", "n"),
            kconfiglib.INT: ("6", "8", "9"),
            kconfiglib.HEX: ("0x10", "0x11"),
            kconfiglib.STRING: ("a", "a-"),
        }[symbol.orig_type]
        changes += [Change(symbol.name, v) for v in values]
    return changes


def reaches(kconf: kconfiglib.Kconfig, name: str, want: str, changes: tuple[Change, ...]) -> bool:
    """Make changes for good, as a user makes them."""
    search = solve._Search(kconf, kconf.syms[name], STR_TO_TRI[want])
    for change in sorted(changes, key=lambda c: (c.value != "n", c)):
        solve.assign(kconf.syms[change.symbol], change.value)
    kconf._invalidate_all()
    return search.met()


def fresh(kconf: kconfiglib.Kconfig) -> kconfiglib.Kconfig:
    reading.forget(kconf)
    return kconf


def shortest(kconf: kconfiglib.Kconfig, name: str, want: str) -> int | None:
    """Return the size of the smallest set that does it, None when none up to MOST does."""
    changes = every_change(kconf)
    for size in range(MOST + 1):
        for chosen in combinations(changes, size):
            if len({c.symbol for c in chosen}) == size and reaches(
                fresh(kconf), name, want, chosen
            ):
                return size
    return None


def goals(kconf: kconfiglib.Kconfig) -> Iterator[tuple[str, str]]:
    for symbol, want in product(kconf.unique_defined_syms, "ynm"):
        if symbol.orig_type is TRISTATE or (symbol.orig_type is BOOL and want != "m"):
            yield symbol.name, want


# Of the goals in these trees, all but these get a shortest answer.
MISSED = {
    (21, (2, 6, 20), "S8", "y"),
    (21, (2, 6, 20), "S9", "y"),
    (21, (2, 6, 30), "S8", "y"),
    (21, (2, 6, 30), "S9", "y"),
    (25, (2, 6, 20), "S1", "n"),
    (25, (2, 6, 30), "S1", "n"),
    (25, (6, 1, 0), "S1", "n"),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("seeds", [range(9), range(9, 18), range(18, 27)])
def test_nothing_is_shorter(tmp_path: Path, version: tuple[int, int, int], seeds: range) -> None:
    for seed in seeds:
        text = small_trees.Dice(f"solve{seed}", version).text()
        kconf = tree.load(small_trees.make(tmp_path / str(seed), text, version), "x86_64")
        for name, want in list(goals(kconf))[:24]:
            fresh(kconf)
            values = {s.name: s.str_value for s in kconf.unique_defined_syms}
            found = solve.solve(kconf, name, want)
            assert values == {s.name: s.str_value for s in kconf.unique_defined_syms}
            if found is not None:
                assert reaches(fresh(kconf), name, want, found.changes), (seed, name, want, text)
            best = shortest(kconf, name, want)
            missed = best is not None and (found is None or len(found.changes) != best)
            case = (seed, version, name, want)
            assert missed is (case in MISSED), (case, found, best, text)


def test_effects_are_what_changes(tmp_path: Path) -> None:
    text = (
        'config MODULES\n\tbool "m"\n\toption modules\n'
        'config A\n\tbool "a"\n\tselect B\nconfig B\n\tbool\n'
        'config C\n\tbool "c"\n\tdepends on A && !D\n'
        'config D\n\tbool "d"\n\tdefault y\nconfig E\n\tint "e" if D\n\tdefault 5 if D\n'
    )
    kconf = tree.load(small_trees.make(tmp_path, text, (2, 6, 30)), "x86_64")
    found = solve.solve(kconf, "C", "y")
    assert found is not None and found.shortest
    assert found.changes == (Change("A", "y"), Change("D", "n"), Change("C", "y"))
    assert found.effects == (solve.Effect("B", "n", "y"), solve.Effect("E", "5", ""))


def test_a_search_given_up_says_so(tmp_path: Path) -> None:
    """Forty selectors have to go, which is more than is searched for the fewest."""
    selectors = "".join(f'config S{n}\n\tbool "s{n}"\n\tdefault y\n\tselect B\n' for n in range(40))
    kconf = tree.load(
        small_trees.make(tmp_path, selectors + 'config B\n\tbool "b"\n', (6, 1, 0)), "x86_64"
    )
    found = solve.solve(kconf, "B", "n", most_states=20)
    assert found is None
    found = solve.solve(kconf, "B", "n", most_states=45)
    assert found is not None and len(found.changes) == 40
    symbols = small_trees.make(tmp_path / "x", "config A\n\tbool\n", (6, 1, 0))
    assert solve.solve(tree.load(symbols, "x86_64"), "A", "y") is None


REAL = ["IP_NF_TARGET_REJECT=y", "NF_NAT=m", "SCSI=n", "ACPI=n", "NET=n", "PREEMPT_NONE=y"]


@pytest.mark.sources
@pytest.mark.parametrize("goal", REAL)
def test_the_trees_own_program_agrees(
    plain: tuple[kconfiglib.Kconfig, oracle.Oracle], tmp_path: Path, goal: str
) -> None:
    """With the changes in the .config, 2.6.20's program writes what was promised."""
    kconf, judge = plain
    name, want = goal.split("=")
    before = targets.defconfig(kconf, tree.default_config(judge.tree, "x86_64"))
    found = solve.solve(kconf, name, want)
    assert found is not None and found.shortest
    given = tmp_path / "changed"
    for change in found.changes:
        member = kconf.syms[change.symbol]
        gone = [s.name for s in member.choice.syms] if member.choice else [change.symbol]
        lines = before.splitlines()
        kept = [x for x in lines if not any(f"CONFIG_{g}=" in x or f"_{g} is" in x for g in gone)]
        before = "\n".join([f"CONFIG_{change.symbol}={change.value}", *kept]) + "\n"
    given.write_text(before)
    after = judge.oldconfig(given.read_text()).splitlines()
    assert f"CONFIG_{name}={want}" in after or (want == "n" and f"CONFIG_{name}=y" not in after)
    for effect in found.effects:
        symbol = kconf.syms[effect.symbol]
        if symbol.orig_type in (BOOL, TRISTATE):
            wanted = {"n": None}.get(effect.after, f"CONFIG_{effect.symbol}={effect.after}")
            present = next((x for x in after if x.startswith(f"CONFIG_{effect.symbol}=")), None)
            assert present == wanted, effect


@pytest.fixture(scope="module")
def plain(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[kconfiglib.Kconfig, oracle.Oracle]:
    """2.6.20 and its own program."""
    work = tmp_path_factory.mktemp("solve")
    where = kernel_trees.from_cache("2.6.20", kernel_trees.SOURCES, work / "tree")
    (work / "judge").mkdir()
    return tree.load(where, "x86_64"), oracle.build(where, "x86_64", work / "judge")
