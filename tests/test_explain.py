# SPDX-License-Identifier: GPL-2.0-or-later
"""What config explain says of a symbol, and config generate for a tree of the user's."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
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
    return describe.as_text(describe.describe(kconf.syms[name], {"A": (7, "n")}))


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


def test_a_line_that_says_something_else(tmp_path: Path) -> None:
    kconf = tree.load(small_trees.make(tmp_path, CHAIN, (2, 6, 30)), "x86_64")
    (tmp_path / "given").write_text("CONFIG_A=y\nCONFIG_B=m\n# CONFIG_MODULES is not set\n")
    targets.oldconfig(kconf, tmp_path / "given")
    found = describe.describe(kconf.syms["B"], {"B": (2, "m")}, [])
    assert found.value == "y" and found.why[0].text == "line 2 of the configuration says m"


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


def test_what_a_number_may_be_is_said(tmp_path: Path) -> None:
    assert "  range: 1 to 9 if A [=y]\n" in text_of(tmp_path, "CONFIG_A=y\n", "N")


def test_a_symbol_and_its_value_stay_on_a_line(tmp_path: Path) -> None:
    names = [f"A_RATHER_LONG_NAME_{number}" for number in range(30)]
    kconfig = 'config A\n\tbool "a"\nconfig N\n\tbool "n"\n\tdepends on ' + " && ".join(names)
    kconfig += "".join(f"\nconfig {n}\n\tbool\n\tdefault A" for n in names) + "\n"
    for config, name in (("", "N"), ("CONFIG_A=y\n", "A")):
        lines = text_of(tmp_path, config, name, kconfig).splitlines()
        assert len([line for line in lines if "A_RATHER" in line]) > 3
        assert not [line for line in lines if line.strip().startswith(("[=", "y->", "n->"))]


def test_small_letters_are_understood_in_the_hint(krg: Command) -> None:
    done = krg("config", "explain", "--tree", TREE, "keys")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.endswith("perhaps KEYS\n")


@pytest.mark.parametrize("option", ["--config", "--fragment"])
@pytest.mark.parametrize("what", ["pipe", "/dev/zero", "directory", "binary", "program", "missing"])
def test_generate_refuses_what_is_no_configuration(
    krg: Command, tmp_path: Path, option: str, what: str
) -> None:
    file = Path(what) if what.startswith("/") else tmp_path / what
    if what == "pipe":
        os.mkfifo(file)
    elif what == "directory":
        file.mkdir()
    elif what == "binary":
        file.write_bytes(bytes(range(256)) * 8)
    elif what == "program":
        shutil.copy(sys.executable, file)
    done = krg("config", "generate", "--tree", TREE, "--policy", "none", option, file)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"krg-provision: error: {file}: ")


def test_generate_takes_what_lint_takes(krg: Command, tmp_path: Path) -> None:
    options = ["config", "generate", "--tree", TREE, "--policy", "none"]
    plain = krg(*options, "--config", BASE).stdout.partition("\n#\n")[2]
    assert "CONFIG_KEYS=y" in plain
    packed, marked, text = tmp_path / "base.gz", tmp_path / "marked", BASE.read_text()
    packed.write_bytes(gzip.compress(text.encode()))
    marked.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    for file in (packed, marked):
        done = krg(*options, "--config", file)
        assert done.stdout.partition("\n#\n")[2] == plain, done.stderr
    assert krg(*options, "--fragment", marked).returncode == 0


def test_very_many_unknown_symbols_are_one_line_more(krg: Command, tmp_path: Path) -> None:
    (tmp_path / "many").write_text("".join(f"CONFIG_BOGUS{n}=y\n" for n in range(10_000)))
    options = ["--tree", TREE, "--policy", "none", "--fragment", tmp_path / "many"]
    done = krg("config", "generate", *options)
    first, *_, last = done.stderr.splitlines()
    assert done.returncode == 1 and "10000 symbol(s)" in first
    assert (last, done.stderr.count("\n")) == ("  and 9988 more that this tree does not have", 14)


def test_generate_for_a_plain_tree_names_the_policy_to_take(krg: Command, tmp_path: Path) -> None:
    plain = small_trees.make(tmp_path, CHAIN, (2, 6, 20))
    (tmp_path / "base").touch()
    done = krg("config", "generate", "--tree", plain, "--config", tmp_path / "base")
    assert done.returncode == 1 and "say --policy boot" in done.stderr.splitlines()[-1]
    options = ["--config", tmp_path / "base", "--policy", "kerrighed-2.4.4"]
    named = krg("config", "generate", "--tree", plain, *options)
    assert named.returncode == 1 and "say --policy boot" not in named.stderr


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("N=12", "'12' is not a value it accepts: that is 1 to 9"),
        ("H=7", "its prompt needs G, which is n"),
        ("S=x", "its prompt needs G, which is n"),
    ],
)
def test_why_a_number_or_a_text_is_not_taken(
    krg: Command, tmp_path: Path, asked: str, said: str
) -> None:
    hidden = 'config H\n\tint "h" if G\n\tdefault 3\nconfig S\n\tstring "s" if G\n\tdefault "d"\n'
    where = small_trees.make(tmp_path, CHAIN + hidden, (2, 6, 30))
    (tmp_path / "base").write_text("CONFIG_A=y\n")
    options = ["--tree", where, "--policy", "none", "--config", tmp_path / "base"]
    done = krg("config", "generate", *options, "--set", asked)
    assert done.returncode == 1 and f": {said} (--set)" in done.stderr, done.stderr


def test_why_a_default_leaves_a_symbol_off(tmp_path: Path) -> None:
    kconfig = CHAIN + "config D1\n\tbool\n\tdefault y if G\nconfig D2\n\tdef_bool n\n"
    text = text_of(tmp_path / "1", "CONFIG_A=y\n", "D1", kconfig)
    assert "\n  it has no prompt, and its default is y if G\n    G is n: " in text
    text = text_of(tmp_path / "2", "CONFIG_A=y\n", "D2", kconfig)
    assert "\n  it has no prompt, and its default is n\n" in text
