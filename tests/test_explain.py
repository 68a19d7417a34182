# SPDX-License-Identifier: GPL-2.0-or-later
"""What config explain says of a symbol, and config generate for a tree of the user's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import kernel_trees
import mini
import pytest
import small_trees
from conftest import Command

from kconfig import describe, oracle, targets, tree

TREE = mini.HERE / "linux"
BASE = TREE / "arch/x86_64/defconfig"

CHAIN = """\
config MODULES
	bool "m"
	option modules
config A
	bool "a"
config B
	tristate "b"
	depends on A
config C
	tristate "c"
	depends on B && (A || D)
config D
	bool
	default y if A
config E
	tristate "e"
	select F
	depends on !A
config F
	tristate
	depends on G
config G
	bool "g"
config N
	int "n"
	depends on A
	range 1 9
	default 3
"""


def text_of(where: Path, config: str, name: str, kconfig: str = CHAIN) -> str:
    kconf = tree.load(small_trees.make(where, kconfig, (2, 6, 30)), "x86_64")
    given = where / "given"
    given.write_text(config)
    targets.oldconfig(kconf, given)
    return describe.as_text(describe.describe(kconf.syms[name], {"A": 7}))


def test_the_chain_goes_down_to_the_configuration(tmp_path: Path) -> None:
    said = text_of(tmp_path, "# CONFIG_A is not set\n", "C")
    assert said.startswith(
        "C is n (tristate)\n"
        "  needs B, which is n\n"
        "    B is n: needs A, which is n\n"
        "      A is n: line 7 of the configuration says so\n"
        "  needs A || D, which is n\n"
    )
    assert "to make it y (3 changes):\n    --set A=y --set B=y --set C=y\n" in said
    assert "to make it m (4 changes):\n    --set A=y --set B=y --set MODULES=y --set C=m\n" in said
    assert "depends on: B [=n] && (A [=n] || D [=n])" in said


def test_a_selected_symbol_names_who_selects_it(tmp_path: Path) -> None:
    said = text_of(tmp_path, "CONFIG_E=y\n", "F")
    assert said.startswith("F is y (tristate)\n  selected by E\n    E is y: ")
    assert "selected by (* does so now):\n    * E [=y] && !A [=n]" in said
    assert "to make it n (1 change):\n    --set E=n\n" in said


def test_a_way_never_forces_a_symbol_against_its_dependencies(tmp_path: Path) -> None:
    said = text_of(tmp_path, "", "F")
    assert "it has no prompt" not in said and "needs G, which is n" in said
    assert "--set E=y" in said and "--set G=y" in said


def test_a_number_has_a_reason_and_no_way(tmp_path: Path) -> None:
    assert text_of(tmp_path / "a", "", "N").startswith("N is empty (int)\n  needs A, which is n\n")
    said = text_of(tmp_path / "b", "CONFIG_A=y\n", "N")
    assert said.startswith("N is 3 (int)\n  its default is 3 if A\n") and "to make it" not in said


def test_explain_command(krg: Command, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("CONFIG_KEYS=y\nCONFIG_PREEMPT=y\n")
    done = krg("config", "explain", "--tree", TREE, "--config", config, "CONFIG_KERRIGHED")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(
        "KERRIGHED is n (bool)\n"
        "  needs PREEMPT_NONE, which is n because the choice 'Preemption Model' has PREEMPT\n"
        "  needs !KEYS, which is n\n"
        "    KEYS is y: line 1 of the configuration says so\n"
    )
    assert "--set KEYS=n --set PREEMPT_NONE=y --set KERRIGHED=y" in done.stdout
    again = krg("config", "explain", "--tree", TREE, "--config", "-", "--format", "json",
                "KERRIGHED", "NETFILTER", input=config.read_text(), stdin=None)  # fmt: skip
    first, second = json.loads(again.stdout)
    assert first["ways"]["y"]["changes"][-1] == {"symbol": "KERRIGHED", "value": "y"}
    assert first["why"][1]["because"][0]["text"].startswith("KEYS is y")
    assert second["symbol"] == "NETFILTER" and second["ways"]["m"]["shortest"] is True


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["KERIGHED"], 2, "has no such symbol, perhaps KERRIGHED"),
        (["--to", "m", "KEYS"], 2, "KEYS is a bool: it is never m"),
        (["--to", "y", "BUFFERS"], 2, "BUFFERS is a int: it is never y"),
        (["--to", "y", "ARCH_HAS_NOTHING"], 1, ""),
        (["--to", "y", "KEYS"], 0, ""),
        (["--arch", "sparc", "KEYS"], 2, "has no architecture sparc"),
        (["--config", "/nowhere", "KEYS"], 2, "/nowhere"),
    ],
)
def test_explain_says_what_is_wrong(krg: Command, args: list[str], status: int, said: str) -> None:
    done = krg("config", "explain", "--tree", TREE, *args)
    assert done.returncode == status and said in done.stderr
    assert "Traceback" not in done.stderr


def modern(where: Path) -> Path:
    """A tree of today that asks the compiler, with a default configuration where it is now."""
    text = (
        'config MODULES\n\tbool "m"\n\tmodules\nconfig ASKED\n\tbool\n'
        f"\tdefault $(shell,touch {where}/proof && echo y || echo n)\n"
        'config NET\n\tbool "net"\nconfig IPV6\n\tbool "ipv6"\n\tdepends on NET\n'
    )
    small_trees.make(where, text, (6, 1, 0))
    (where / "arch/x86/configs").mkdir()
    (where / "arch/x86/configs/x86_64_defconfig").write_text("CONFIG_NET=y\n")
    return where


def test_generate_for_any_tree(krg: Command, tmp_path: Path) -> None:
    where = modern(tmp_path / "tree")
    options = ["config", "generate", "--tree", where, "--policy", "none"]
    done = krg(*options, "--no-shell", "--set", "IPV6=y")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "CONFIG_NET=y\nCONFIG_IPV6=y\n" in done.stdout and not (where / "proof").exists()
    assert "# Linux 6.1.0 for x86_64, made by krg-provision\n" in done.stdout
    assert "base x86_64_defconfig, policy none" in done.stdout
    done = krg(*options)
    assert "reading the tree ran 1 commands that it names (--no-shell runs none)" in done.stderr
    assert (where / "proof").exists() and "CONFIG_ASKED=y" in done.stdout
    shutil.rmtree(where / "arch/x86/configs")
    done = krg(*options, "--no-shell")
    assert done.returncode == 2 and "has no default configuration for x86_64" in done.stderr


@pytest.mark.sources
@pytest.mark.parametrize("name", ["2.6.20", "2.6.30"])
def test_what_is_generated_stays(krg: Command, tmp_path: Path, name: str) -> None:
    """The tree's own program changes nothing in what generate writes."""
    where = kernel_trees.from_cache(name, kernel_trees.SOURCES, tmp_path / "tree")
    (tmp_path / "judge").mkdir()
    judge = oracle.build(where, "x86_64", tmp_path / "judge")
    target = tmp_path / "config"
    wishes = ["NETFILTER=y", "BRIDGE=m", "PREEMPT_NONE=y", "IKCONFIG=m", "ATA_OVER_ETH=m"]
    options = [word for wish in wishes for word in ("--set", wish)]
    done = krg("config", "generate", "--tree", where, "--policy", "none", "-o", target, *options)
    assert done.returncode == 0, done.stderr
    text = target.read_text()
    assert judge.oldconfig(text) == oracle.below_header(text)
