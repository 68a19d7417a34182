# SPDX-License-Identifier: GPL-2.0-or-later
"""Every rule of kconfig/dialect.py is one that the kernels' own programs show.

kconfig_rules.toml has small trees with what the programs said; ours must say the same,
and something else when the rule in question is turned round. That needs no kernel. Where
a kernel's archive is at hand its program is built and asked once more.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kernel_trees
import pytest
import small_trees

from kconfig import dialect, oracle, targets, tree
from kconfig.errors import KconfigError
from provision.paths import sources_dir

# Resolved when this file is read, before any test gets a home of its own.
SOURCES = Path(os.environ.get("KRG_TEST_SOURCES") or sources_dir())
RECORDED = tomllib.loads(Path(__file__).with_name("kconfig_rules.toml").read_text())
EXAMPLES, DIFFERENCES = RECORDED["example"], RECORDED["difference"]
NAMES = {rule.name: name for name, rule in vars(dialect).items() if isinstance(rule, dialect.Rule)}
ENDLESS = 2.0  # seconds given to a program of which the record says that it does not end
ANSWERS = {"allnoconfig": "n", "allmodconfig": "m", "allyesconfig": "y"}


def numbers(kernel: str) -> dialect.Version:
    parts = [*map(int, kernel.split(".")), 0]
    return (parts[0], parts[1], parts[2])


def label(case: dict[str, Any]) -> str:
    return case["name"] if "name" in case else f"{case['rule']}: {case['what']}"


def says(example: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for group in example["says"]:
        for kernel in group["kernels"]:
            yield kernel, group["config"]


def place(where: Path, case: dict[str, Any], kernel: str) -> Path:
    return small_trees.make(where / kernel, case["kconfig"], numbers(kernel))


def ours(small: Path, case: dict[str, Any]) -> str:
    kconf = tree.load(small, "x86_64")
    given = small / "given"
    given.write_text(case.get("config", ""), "latin-1")
    if case["target"] == "oldconfig":
        return targets.oldconfig(kconf, given)
    if case["target"] == "defconfig":
        return targets.defconfig(kconf, given)
    return targets.allconfig(kconf, ANSWERS[case["target"]])


def theirs(judge: oracle.Oracle, small: Path, case: dict[str, Any]) -> str:
    asked = dataclasses.replace(judge, tree=small)
    given = small / "given"
    given.write_text(case.get("config", ""), "latin-1")
    if case["target"] == "oldconfig":
        return asked.oldconfig(given.read_text("latin-1"))
    if case["target"] == "defconfig":
        return asked.defconfig(given)
    return asked.allconfig(ANSWERS[case["target"]])


def turned_round(rule: dialect.Rule, version: dialect.Version) -> dialect.Rule:
    if rule.holds(version):
        return dataclasses.replace(rule, until=(0, 0, 0))
    return dataclasses.replace(rule, since=(0, 0, 0), until=(999, 0, 0))


@pytest.mark.parametrize("example", EXAMPLES, ids=label)
def test_ours_is_what_the_programs_said(tmp_path: Path, example: dict[str, Any]) -> None:
    for kernel, config in says(example):
        assert ours(place(tmp_path, example, kernel), example) == config, kernel


@pytest.mark.parametrize("example", EXAMPLES, ids=label)
def test_without_its_rule_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example: dict[str, Any]
) -> None:
    recorded = dict(says(example))
    name = NAMES[example["rule"]]
    rule = getattr(dialect, name)
    assert example["proves"]
    for kernel in example["proves"]:
        monkeypatch.setattr(dialect, name, turned_round(rule, numbers(kernel)))
        try:
            without = ours(place(tmp_path, example, kernel), example)
        except KconfigError as error:
            without = str(error)  # a loop that Kconfiglib refuses
        assert without != recorded[kernel], kernel


def test_every_rule_is_shown_by_a_kernel_that_has_it() -> None:
    shown = {
        example["rule"]
        for example in EXAMPLES
        if any(
            getattr(dialect, NAMES[example["rule"]]).holds(numbers(kernel))
            for kernel in example["proves"]
        )
    }
    assert shown == {rule.name for rule in dialect.RULES}


@pytest.mark.parametrize("case", DIFFERENCES, ids=label)
def test_a_known_difference_is_still_there(tmp_path: Path, case: dict[str, Any]) -> None:
    for kernel in case["kernels"]:
        assert ours(place(tmp_path, case, kernel), case) == case["ours"] != case["program"]


def test_the_page_names_every_difference() -> None:
    page = (Path(__file__).parent.parent / "docs/parity.md").read_text()
    for case in DIFFERENCES:
        assert f"({case['name']})" in page, case["name"]


# And the programs themselves, of the kernels that are at hand.


def ask(judge: oracle.Oracle, kernel: str, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    asked = 0
    for example in EXAMPLES:
        recorded = dict(says(example))
        if kernel in recorded:
            small = place(scratch / "examples", example, kernel)
            assert theirs(judge, small, example) == recorded[kernel], label(example)
            asked += 1
    for case in DIFFERENCES:
        if kernel not in case["kernels"]:
            continue
        small = place(scratch / "differences", case, kernel)
        asked += 1
        if case["program"] == "crashes":
            with pytest.raises(KconfigError, match=r"crashed \(signal \d+\)"):
                theirs(judge, small, case)
        elif case["program"] == "hangs":
            with monkeypatch.context() as patch, pytest.raises(KconfigError, match="for ever"):
                patch.setattr(oracle, "_TIME", ENDLESS)
                theirs(judge, small, case)
        else:
            assert theirs(judge, small, case) == case["program"], label(case)
    return asked


@pytest.mark.sources
@pytest.mark.parametrize("kernel", ["2.6.20", "2.6.30"])
def test_old_programs_still_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    where = kernel_trees.from_cache(kernel, SOURCES, tmp_path / "tree")
    judge = oracle.build(where, "x86_64", tmp_path)
    assert ask(judge, kernel, tmp_path, monkeypatch) > 20
