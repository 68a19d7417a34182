# SPDX-License-Identifier: GPL-2.0-or-later
"""config diff: what differs, where in the menus, and what a policy says of it."""

from __future__ import annotations

import json
from pathlib import Path

import mini
from conftest import Command
from hypothesis import given, settings
from hypothesis import strategies as st

from kconfig import diff, policy
from kconfig.config_file import ConfigFile, parse

# A busy machine is no failure.
CALM = settings(deadline=None)
TREE = mini.HERE / "linux"
A = "CONFIG_NET=y\nCONFIG_KEYS=y\nCONFIG_BUFFERS=16\nCONFIG_TIPC=y\n"
B = 'CONFIG_NET=y\n# CONFIG_KEYS is not set\nCONFIG_BUFFERS=8\nCONFIG_LOCALVERSION="-x"\n'


def config(text: str) -> ConfigFile:
    return parse(text, "x")


def test_changes_by_menu() -> None:
    menus = diff.menus_of(TREE, "x86_64")
    changes = diff.diff(config(A), config(B), menus=menus)
    assert [(c.symbol, c.before, c.after, c.menu) for c in changes] == [
        ("LOCALVERSION", None, '"-x"', diff.NO_MENU),
        ("KEYS", "y", "n", diff.NO_MENU),
        ("TIPC", "y", None, diff.NO_MENU),
        ("BUFFERS", "16", "8", "Networking"),
    ]


def test_what_matters_to_a_policy() -> None:
    rules = policy.load(str(mini.HERE / "policy.toml"))
    changes = diff.diff(config(A), config(B), [rules])
    says = {c.symbol: [(v.rule, v.says) for v in c.verdicts] for c in changes}
    assert says == {"BUFFERS": [], "LOCALVERSION": [], "KEYS": [("mini/keys", "meets")],
                    "TIPC": [("mini/ssi", "breaks")]}  # fmt: skip
    text = diff.as_text(changes)
    assert "! TIPC" in text and text.endswith("4 differ, 1 against the policy\n")


def test_absent_is_unset() -> None:
    unset = "# CONFIG_A is not set\nCONFIG_B=y\n"
    assert diff.diff(config(unset), config("CONFIG_B=y\n")) == []


VALUES = st.dictionaries(
    st.sampled_from("ABCDEF"), st.sampled_from(["y", "m", "n", "1"]), min_size=1
)


@CALM
@given(VALUES, VALUES)
def test_there_and_back(a: dict[str, str], b: dict[str, str]) -> None:
    one, two = (config("".join(f"CONFIG_{k}={v}\n" for k, v in d.items())) for d in (a, b))
    there, back = diff.diff(one, two), diff.diff(two, one)
    assert [(c.symbol, c.after, c.before) for c in there] == [
        (c.symbol, c.before, c.after) for c in back
    ]
    assert {c.symbol for c in there} == {s for s in "ABCDEF" if a.get(s, "n") != b.get(s, "n")}


def test_the_command(krg: Command, tmp_path: Path) -> None:
    for name, text in (("a", A), ("b", B)):
        (tmp_path / name).write_text(text)
    options = ("config", "diff", "--policy", "none")
    done = krg(*options, "--tree", TREE, tmp_path / "a", tmp_path / "b")
    assert done.returncode == 1 and "Networking\n  BUFFERS      16 -> 8\n" in done.stdout
    done = krg(*options, tmp_path / "a", tmp_path / "a")
    assert (done.returncode, done.stdout) == (0, "no differences\n")
    done = krg(*options, "--format", "json", tmp_path / "a", tmp_path / "b")
    assert len(json.loads(done.stdout)["changes"]) == 4
    done = krg(*options, tmp_path / "a", tmp_path / "c")
    assert done.returncode == 2 and "No such file" in done.stderr


def test_a_menu_is_shown_once() -> None:
    """What follows a menu inside another belongs to the outer one, shown already."""
    menus = {"A": "Outer", "B": "Outer > Inner", "C": "Outer"}
    changes = diff.diff(config("CONFIG_X=y\n"), config("CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\n"),
                        menus=menus)  # fmt: skip
    assert [c.symbol for c in changes] == ["A", "C", "B", "X"]
    assert (
        diff.as_text(changes).count("\nOuter\n") + diff.as_text(changes).startswith("Outer\n") == 1
    )
