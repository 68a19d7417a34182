# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies, generation and explanations on the small tree."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import mini
import pytest
import small_trees
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st

from kconfig import bridge, generate, policy, tree
from kconfig.errors import KconfigError, UnmetError

TREE = mini.HERE / "linux"
BASE = TREE / "arch/x86_64/defconfig"


def made(*lines: str, base: Path = BASE) -> generate.Generated:
    requests = [generate.parse_assignment(line, "--set") for line in lines]
    return generate.generate(tree.load(TREE, "x86_64"), base, requests, version=(2, 6, 20))


def unmet(*lines: str) -> list[str]:
    with pytest.raises(UnmetError) as caught:
        made(*lines)
    return caught.value.reasons


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("NETFILTER=m", "NETFILTER is n, wanted m: needs NET, which is n"),
        ("KERRIGHED=y", "needs PREEMPT_NONE, which is n because the choice 'Preemption Model' "
                        "has PREEMPT_VOLUNTARY and !KEYS, which is n"),
        ("TIPC=y", "TIPC is n, wanted y: it has no prompt: only KERRIGHED"),
        ("ARCH_HAS_NOTHING=y", "it has no prompt"),
        ("BUFFERS=8", "needs NET, which is n"),
        ("MODULES=maybe", "a bool cannot be 'maybe'"),
        ("KEYS=m", "it is y or n, never m"),
        ("KERIGHED=y", "this tree has no such symbol, perhaps KERRIGHED"),
        ("ZZZZ_QQQQ=y", "ZZZZ_QQQQ: this tree has no such symbol (--set)"),
    ],
)  # fmt: skip
def test_obstacles(line: str, reason: str) -> None:
    (said,) = unmet(line)
    assert reason in said and "(--set)" in said


def test_of_two_wishes_for_one_symbol_the_last_counts() -> None:
    assert "CONFIG_BUFFERS=9\n" in made("NET=y", "BUFFERS=8", "BUFFERS=9").text
    assert "# CONFIG_KEYS is not set" in made("KEYS=y", "KEYS=n").text


def test_obstacle_of_the_member_a_choice_has() -> None:
    assert "it is what the choice 'Preemption Model' has" in unmet("PREEMPT_VOLUNTARY=n")[0]


def test_obstacle_of_a_selected_symbol() -> None:
    (said,) = unmet("PREEMPT_NONE=y", "KEYS=n", "KERRIGHED=y", "TIPC=n")
    assert "TIPC is y, wanted n: selected by KERRIGHED" in said


def test_obstacle_of_a_value_out_of_range() -> None:
    (said,) = unmet("NET=y", "BUFFERS=99")
    assert "BUFFERS is 16, wanted 99: '99' is not a value it accepts" in said


def test_every_unmet_wish_is_named() -> None:
    assert len(unmet("NETFILTER=y", "TIPC=y", "BUFFERS=5")) == 3


def test_what_would_help_is_said() -> None:
    (said,) = unmet("KERRIGHED=y")
    assert "to make it y (2 changes):\n        --set KEYS=n --set PREEMPT_NONE=y\n" in said
    assert "also changes: PREEMPT_VOLUNTARY y->n, TIPC n->y" in said
    absent, low = unmet("NETFILTER=y", "NOSUCH=y")
    assert "no such symbol" in absent and low.startswith("NETFILTER is n")


def test_order_of_wishes_does_not_matter_to_dependencies() -> None:
    text = made("BUFFERS=5", "NETFILTER=m", "NET=y", "KERRIGHED=y", "KEYS=n", "PREEMPT_NONE=y").text
    assert {"CONFIG_BUFFERS=5", "CONFIG_NETFILTER=m", "CONFIG_TIPC=y"} <= set(text.splitlines())


def test_an_absent_symbol_is_as_good_as_off() -> None:
    made("# CONFIG_NEVER_HEARD_OF is not set", "OTHER=n")


def test_a_recommendation_may_be_missed() -> None:
    request = generate.Request("NETFILTER", ("y",), "policy", required=False)
    kconf = tree.load(TREE, "x86_64")
    result = generate.generate(kconf, BASE, [request], version=(2, 6, 20))
    assert result.unmet == (
        "NETFILTER is n, wanted y: needs NET, which is n (policy)\n"
        "    NET is n: the configuration says so",
    )


def test_any_of_several_values_will_do(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.write_text("CONFIG_NET=y\nCONFIG_NETFILTER=m\n")
    request = generate.Request("NETFILTER", ("y", "m"), "policy")
    kconf = tree.load(TREE, "x86_64")
    assert (
        "CONFIG_NETFILTER=m" in generate.generate(kconf, base, [request], version=(2, 6, 20)).text
    )


def test_the_first_of_two_assignments_counts_in_old_trees(tmp_path: Path) -> None:
    """As 2.6.20's own tool has it (from 2.6.30 on the last one counts)."""
    base = tmp_path / "base"
    base.write_text(
        "CONFIG_NET=y\nCONFIG_BUFFERS=5\nCONFIG_PREEMPT=y\n"
        "# CONFIG_NET is not set\nCONFIG_BUFFERS=6\nCONFIG_PREEMPT_NONE=y\n"
    )
    kconf = tree.load(TREE, "x86_64")
    old = generate.generate(kconf, base, [], version=(2, 6, 20)).text
    assert {"CONFIG_NET=y", "CONFIG_BUFFERS=5", "CONFIG_PREEMPT=y"} <= set(old.splitlines())
    later = tmp_path / "later"
    shutil.copytree(TREE, later)
    makefile = later / "Makefile"
    makefile.write_text(makefile.read_text().replace("SUBLEVEL = 20", "SUBLEVEL = 30"))
    kconf = tree.load(later, "x86_64")
    new = generate.generate(kconf, base, [], version=(2, 6, 30)).text
    assert {"# CONFIG_NET is not set", "CONFIG_PREEMPT_NONE=y"} <= set(new.splitlines())


@pytest.mark.parametrize(
    "line", ["X", "X Y=1", "=y", "X-Y=y", "X='y'", 'X="y', "# X is not set", ""]
)
def test_lines_that_are_no_assignment(line: str) -> None:
    with pytest.raises(KconfigError, match=r"site:1|here"):
        generate.parse_assignment(line, "here")


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=30))
def test_strings_survive(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    request = generate.parse_assignment(f'CONFIG_LOCALVERSION="{escaped}"', "x")
    assert request.values == (value,)


@given(st.text(max_size=60))
def test_any_line_is_an_assignment_or_an_error_that_says_where(line: str) -> None:
    try:
        for request in generate.parse_fragment(line, "site"):
            assert policy.SYMBOL.fullmatch(request.symbol)
    except KconfigError as error:
        assert str(error).startswith("site:")


def test_fragment_lines_are_numbered() -> None:
    with pytest.raises(KconfigError, match=r"site:3: 'what'"):
        generate.parse_fragment("# a comment\n\nwhat\n", "site")
    wishes = generate.parse_fragment("CONFIG_A=y\n# CONFIG_B is not set\n# not B\nC=3\n", "s")
    assert [(w.symbol, w.values) for w in wishes] == [("A", ("y",)), ("B", ("n",)), ("C", ("3",))]


RULE = '[[rule]]\nid = "r"\nsymbols = ["A"]\nwant = ["y"]\nwhy = "w"\nsource = "s"\n'
HEAD = 'name = "p"\ntitle = "t"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = [", "p.toml"),
        (RULE, "'name' is missing"),
        (HEAD, "'rule' is missing"),
        (HEAD + RULE.replace('why = "w"\n', ""), "'why' is missing"),
        (HEAD + RULE.replace('"A"', '"A-B"'), "'A-B' is not a symbol's name"),
        (HEAD + RULE.replace('["A"]', "[]"), "must not be empty"),
        (HEAD + RULE.replace('["y"]', "[]"), "must not be empty"),
        (HEAD + RULE + 'severity = "strong"', "severity 'strong'"),
    ],
)
def test_wrong_policies_say_where(text: str, said: str) -> None:
    with pytest.raises(KconfigError) as caught:
        policy.parse(text, "p.toml")
    assert said in str(caught.value) and "p.toml" in str(caught.value)


def test_rules_of_an_arch() -> None:
    text = HEAD + RULE + RULE.replace('id = "r"', 'id = "i"\narch = "i386"')
    made_ = policy.parse(text, "p")
    assert [r.id for r in made_.for_arch("x86_64")] == ["r"]
    assert [r.id for r in made_.for_arch("i386")] == ["r", "i"]


@pytest.mark.parametrize("name", policy.names())
def test_shipped_policies_give_reasons_and_do_not_contradict(name: str) -> None:
    made_ = policy.load(name)
    assert made_.name == name
    for arch in ("x86_64", "i386"):
        seen: dict[str, str] = {}
        for rule in made_.for_arch(arch):
            assert rule.why.endswith(".") and rule.source
            for symbol in rule.symbols:
                assert symbol not in seen, f"{symbol}: in {seen.get(symbol)} and {rule.id}"
                seen[symbol] = rule.id
    ids = [rule.id for rule in made_.rules]
    assert len(ids) == len(set(ids))


def test_no_such_policy() -> None:
    with pytest.raises(KconfigError, match=r"there are: kerrighed-2\.4\.4"):
        policy.load("nothing")


def test_no_tree(tmp_path: Path) -> None:
    with pytest.raises(KconfigError, match="not a kernel tree"):
        tree.kernel_version(tmp_path)
    with pytest.raises(KconfigError, match="cannot be configured for sparc"):
        tree.load(TREE, "sparc")
    (tmp_path / "Makefile").write_text("all:\n")
    with pytest.raises(KconfigError, match="no kernel version"):
        tree.kernel_version(tmp_path)


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_bytes((TREE / "Makefile").read_bytes())
    (tmp_path / "arch/x86_64").mkdir(parents=True)
    (tmp_path / "arch/x86_64/Kconfig").write_text("config A\n\tboool\n")
    with pytest.raises(KconfigError, match=r"Kconfig:2"):
        tree.load(tmp_path, "x86_64")


def test_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCH", "mine")
    monkeypatch.delenv("srctree", raising=False)
    tree.load(TREE, "x86_64")
    assert os.environ["ARCH"] == "mine" and "srctree" not in os.environ


def test_bridged_files_keep_their_lines() -> None:
    before = "\\# Title\nconfig A\n"
    after = bridge.bridge("drivers/rtc/Kconfig", before)
    assert after == "# Title\nconfig A\n"
    assert bridge.bridge("other/Kconfig", before) == before


def test_config_generate_command(mini: mini.Mini, krg: Command, tmp_path: Path) -> None:
    options = ["--release", mini.release, "--source-dir", mini.sources]
    done = krg("config", "generate", *options, "-q")
    assert done.returncode == 0 and done.stderr == ""
    assert "CONFIG_KERRIGHED=y\n" in done.stdout and "# CONFIG_KEYS is not set\n" in done.stdout
    target = tmp_path / "config"
    again = krg("config", "generate", *options, "-o", target, "--set", "NETFILTER=m")
    assert again.returncode == 0 and again.stdout == ""
    assert "CONFIG_NETFILTER=m\n" in target.read_text()
    failed = krg("config", "generate", *options, "-o", target, "--set", "KEYS=y")
    assert failed.returncode == 1 and "KEYS=y (--set) goes against policy mini" in failed.stderr
    assert "what follows from that:\n    KERRIGHED is n, wanted y: needs !KEYS" in failed.stderr
    assert "CONFIG_NETFILTER=m\n" in target.read_text(), "the former file must stay"


def test_config_generate_with_a_tree(mini: mini.Mini, krg: Command, tmp_path: Path) -> None:
    done = krg("config", "generate", "--release", mini.release, "--tree", tmp_path)
    assert done.returncode == 2 and "not a kernel tree" in done.stderr
    done = krg("config", "generate", "--release", mini.release, "--tree", TREE,
               "--set", "PREEMPT_NONE=y")  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_in_a_choice_the_later_wish_wins() -> None:
    text = made("PREEMPT_NONE=y", "PREEMPT=y").text
    assert "CONFIG_PREEMPT=y\n" in text and "# CONFIG_PREEMPT_NONE is not set" in text
    text = made("PREEMPT=y", "PREEMPT_NONE=y", "PREEMPT_VOLUNTARY=n").text
    assert "CONFIG_PREEMPT_NONE=y\n" in text


def test_a_wish_in_a_choice_goes_before_a_policy() -> None:
    rules = policy.parse(HEAD + RULE.replace('"A"', '"PREEMPT_NONE"'), "p").rules
    request = generate.Request("PREEMPT_NONE", ("y",), "policy p", rule=rules[0])
    wish = generate.parse_assignment("PREEMPT=y", "--set")
    kconf = tree.load(TREE, "x86_64")
    done = generate.generate(kconf, BASE, [request, wish], version=(2, 6, 20))
    assert "CONFIG_PREEMPT=y\n" in done.text
    assert done.overridden == (
        "PREEMPT=y (--set) goes against policy p, which wants PREEMPT_NONE y: w",
    )


def test_of_several_ways_the_one_that_another_rule_takes(tmp_path: Path) -> None:
    """From an empty configuration: what will do is not chosen before it is known what else is."""
    small = small_trees.make(
        tmp_path / "tree",
        'config OLD\n\tbool "old"\nconfig NEW\n\tbool "new" if !OLD\nconfig BASE\n\tbool "b"\n',
        (6, 1, 0),
    )
    empty = tmp_path / "empty"
    empty.write_text("")
    rules = policy.parse(
        'name = "p"\ntitle = "t"\n'
        '[[rule]]\nid = "some"\nsymbols = ["GONE", "OLD", "NEW"]\nwant = ["y"]\nneed = "any"\n'
        'why = "w"\nsource = "s"\n'
        '[[rule]]\nid = "new"\nsymbols = ["NEW"]\nwant = ["y"]\nwhy = "w"\nsource = "s"\n',
        "p.toml",
    )
    requests = generate.policy_requests(rules, "x86_64", (6, 1, 0))
    made = generate.generate(tree.load(small, "x86_64"), empty, requests, version=(6, 1, 0))
    assert "CONFIG_NEW=y\n" in made.text and "CONFIG_OLD=y" not in made.text
