# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy language: wants, conditions, versions, extending, contradictions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kconfig import condition, policy
from kconfig.condition import Want, parse_terms, parse_want
from kconfig.errors import KconfigError

# A busy machine is no failure.
CALM = settings(deadline=None)
HEAD = 'name = "p"\ntitle = "t"\n'
RULE = '[[rule]]\nid = "{}"\nsymbols = {}\nwant = "{}"\nwhy = "w"\nsource = "s"\n'
ROOT = Path(policy.__file__).parent


def rule(name: str = "r", symbols: str = '["A"]', want: str = '"y"', more: str = "") -> str:
    return (
        f'[[rule]]\nid = "{name}"\nsymbols = {symbols}\nwant = {want}\nwhy = "w."\n'
        f'source = "s"\n{more}\n'
    )


@pytest.mark.parametrize(
    ("raw", "good", "bad", "text"),
    [
        ("y", ["y"], ["n", "m", ""], "y"),
        (["y", "m"], ["y", "m"], ["n"], "y or m"),
        (8, ["8", "0x8", "08"], ["9", "y", ""], "8"),
        ({"not": "y"}, ["n", "m"], ["y"], "not y"),
        ({"not": ["y", "m"]}, ["n"], ["y", "m"], "not y or m"),
        ({"string": "-krg"}, ["-krg"], ["krg", ""], "-krg"),
        ({"string": ""}, [""], ["x"], '""'),
        ({"like": "-krg*"}, ["-krg", "-krg-1"], ["x-krg", ""], "like -krg*"),
        ({"min": 4, "max": 64}, ["4", "0x40", "33"], ["3", "65", "y", ""], "4 to 64"),
        ({"min": 4}, ["4", "999"], ["3", "-5"], "at least 4"),
        ({"max": 4}, ["4", "-999"], ["5"], "at most 4"),
    ],
)
def test_wants(raw: object, good: list[str], bad: list[str], text: str) -> None:
    want = parse_want(raw)
    assert str(want) == text
    for value in good:
        assert want.accepts(value) and want.nearest(value) == value
    for value in bad:
        assert not want.accepts(value)
        assert want.accepts(want.nearest(value))


@pytest.mark.parametrize(
    "raw", [{}, {"not": "y", "min": 3}, {"nott": "y"}, {"not": ["y", "m", "n"]}, {"min": "3"},
            {"min": 9, "max": 3}, {"min": True}, {"like": 3.5}, [True], [1.5], [["y"]], None, []],
)  # fmt: skip
def test_wants_that_are_none(raw: object) -> None:
    with pytest.raises(ValueError, match="want"):
        parse_want(raw)


WANTS = st.one_of(
    st.lists(st.sampled_from(["y", "m", "n", "1", "64"]), min_size=1, max_size=3),
    st.fixed_dictionaries({"not": st.sampled_from(["y", "m", "n"])}),
    st.fixed_dictionaries({"min": st.integers(-3, 5), "max": st.integers(5, 70)}),
    st.fixed_dictionaries({"like": st.sampled_from(["*", "1*", "y"])}),
).map(parse_want)


@CALM
@given(WANTS, WANTS, st.sampled_from(["y", "m", "n", "1", "5", "64", "-2", "", "x"]))
def test_wants_that_exclude_each_other_share_no_value(a: Want, b: Want, value: str) -> None:
    assert a.excludes(b) == b.excludes(a)
    if a.excludes(b):
        assert not (a.accepts(value) and b.accepts(value))


@pytest.mark.parametrize(
    ("when", "answer"),
    [
        ("A", True), ("B", True), ("C", False), ("!C", True), ("A=y", True), ("A=m", False),
        ("B=y|m", True), ("A!=y", False), ("C!=y", True), ("root.type=ext3", True),
        ("root.type=ext4", False), ("boot.initrd", None), ("!boot.initrd", None),
        (["A", "boot.initrd"], None), (["C", "boot.initrd"], False), ([], True),
        ("cmdline.ip", True), ("cmdline.nfsroot", False), ("cmdline.nfsroot!=x", True),
    ],
)  # fmt: skip
def test_conditions(when: object, answer: bool | None) -> None:
    facts = {"root.type": "ext3", "cmdline.ip": "10.0.0.1", condition.CMDLINE: "yes"}
    assert condition.hold(parse_terms(when), {"A": "y", "B": "m"}, facts) is answer


@pytest.mark.parametrize("when", ["", "A B", "!A=y", "A=", ["A", 3], 7, "A-B", "=y", "root."])
def test_conditions_that_are_none(when: object) -> None:
    if when == "A=":
        assert parse_terms(when)[0].values == ("",)
        return
    with pytest.raises(ValueError, match="when"):
        parse_terms(when)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD, "'rule' is missing"),
        (HEAD + "rule = 3", "'rule' is of the wrong type"),
        (HEAD + "rule = [3]", "'rule' is of the wrong type"),
        (HEAD + "extra = 1\n" + rule(), "unknown key 'extra'"),
        (HEAD + rule(more='sevrity = "info"'), "p.toml:3: rule r: unknown key 'sevrity'"),
        (HEAD + rule(symbols='"A"'), "'symbols' is of the wrong type"),
        (HEAD + rule(want="{nott = 3}"), "p.toml:3: rule r: want may be one of"),
        (HEAD + rule(more='when = "A B"'), "p.toml:3: rule r: when: 'A B'"),
        (HEAD + rule(more='since = "six"'), "since 'six' is not a version"),
        (HEAD + rule(more="since = 6.1"), "since '6.1' is not a version"),
        (HEAD + rule(more='since = "6.1"\nuntil = "2.6.20"'), "no kernel is 6.1 or later"),
        (HEAD + rule(more='need = "most"'), "need 'most'? It is all or any"),
        (HEAD + rule(more="severity = []"), "severity []?"),
        (HEAD + rule("a b"), "'a b' is not a rule's name"),
        (HEAD + rule() + rule(), "p.toml:10: rule r is already in p.toml:3"),
        (HEAD + rule(more="override = true"), "rule r overrides nothing"),
        (HEAD + rule("one") + rule("two", want='"n"'),
         "p.toml:10: rule two wants A to be n, but rule one in p.toml:3 wants y"),
        (HEAD + 'extends = ["none-such"]\n' + rule(), "no policy none-such"),
        (HEAD + 'extends = ["../../etc/passwd"]\n' + rule(), "no policy '../../etc/passwd'"),
        (HEAD + "x = " + "[" * 5000, "p.toml: "),
        ("a = 1979-13-99", "p.toml: "),
    ],
)  # fmt: skip
def test_wrong_policies_say_where(text: str, said: str) -> None:
    with pytest.raises(KconfigError) as caught:
        policy.parse(text, "p.toml")
    assert said in str(caught.value) and str(caught.value).startswith("p.toml")


@pytest.mark.parametrize(
    "more", ['until = "2.6.20"', 'arch = "i386"', 'when = "B"'],
)  # fmt: skip
def test_rules_for_different_kernels_do_not_contradict(more: str) -> None:
    other = {"until": 'since = "2.6.21"', "arch": 'arch = "x86_64"', "when": 'when = "!B"'}
    policy.parse(
        HEAD + rule("one", more=more) + rule("two", want='"n"', more=other[more.partition(" ")[0]]),
        "p",
    )


def test_versions() -> None:
    (one,) = policy.parse(HEAD + rule(more='since = "2.6.20"\nuntil = "6.1"'), "p").rules
    assert one.covers((2, 6, 20), "") and one.covers((6, 1, 99), "x86_64")
    assert one.covers((2, 6, 19), "") is False and one.covers((6, 2, 0), "") is False
    assert one.covers(None, "") is None


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_extending_and_overriding(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", HEAD.replace('"p"', '"base"')
          + rule("one", '["A", "B"]') + rule("two", '["C"]') + rule("three", '["D"]'))  # fmt: skip
    own = write(tmp_path / "own.toml", HEAD + 'extends = ["base.toml"]\n'
                + '[[rule]]\nid = "one"\noverride = true\nwithout = ["B"]\nseverity = "info"\n'
                + '[[rule]]\nid = "two"\noverride = true\ndrop = true\n'
                + '[[rule]]\nid = "three"\noverride = true\nwant = ["n"]\nwhy = "Mine."\n'
                + rule("four", '["E"]'))  # fmt: skip
    made = policy.load(own)
    assert [r.name for r in made.rules] == ["p/one", "p/three", "p/four"]
    one, three, _ = made.rules
    assert (one.symbols, one.severity, one.why, str(one.want)) == (("A",), "info", "w.", "y")
    assert (str(three.want), three.why, three.severity) == ("n", "Mine.", "required")
    assert three.place == f"{own}:13"


def test_what_extends_itself(tmp_path: Path) -> None:
    one = write(tmp_path / "one.toml", HEAD + 'extends = ["two.toml"]\n' + rule())
    write(tmp_path / "two.toml", HEAD + 'extends = ["one.toml"]\n' + rule())
    with pytest.raises(KconfigError, match=r"one\.toml: extends itself"):
        policy.load(one)


def test_a_rule_again_without_override(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", HEAD + rule())
    own = write(tmp_path / "own.toml", HEAD + 'extends = ["base.toml"]\n' + rule())
    with pytest.raises(KconfigError, match="to change it, say override = true"):
        policy.load(own)


def test_contradictions_between_policies(tmp_path: Path) -> None:
    own = policy.load(write(tmp_path / "own.toml", HEAD + rule("keys-on", '["KEYS"]')))
    shipped = policy.load("kerrighed-2.4.4")
    with pytest.raises(KconfigError) as caught:
        policy.check_together([*shipped.rules, *own.rules])
    said = str(caught.value)
    assert "own.toml:3: rule keys-on wants KEYS to be y, but rule kerrighed-keys in " in said
    assert said.endswith("wants n") and "kerrighed-2.4.4.toml:" in said


def test_shipped_policies_go_together() -> None:
    for release in ("kerrighed-2.4.4", "kerrighed-3.0.0"):
        rules = [r for name in (release, "boot", "diskless") for r in policy.load(name).rules]
        policy.check_together(rules)


@pytest.mark.parametrize("name", policy.names())
def test_shipped_rules_say_why(name: str) -> None:
    made = policy.load(name)
    assert made.name == name and made.rules
    for one in made.rules:
        assert one.why.endswith(".") and one.source and one.place.count(":") == 1


def test_files_that_are_no_policy(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KconfigError, match="cannot be read as text"):
        policy.load(str(tmp_path / "a.toml"))
    (tmp_path / "b.toml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(KconfigError, match="more than 256 KiB"):
        policy.load(str(tmp_path / "b.toml"))
    (tmp_path / "c.toml").mkdir()
    with pytest.raises(KconfigError, match=r"c\.toml"):
        policy.load(str(tmp_path / "c.toml"))


def one_rule(number: int, want: str = "y") -> str:
    return RULE.format(f"r{number}", '["A"]', want)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (".".join(["a"] * 20000) + " = 1\n", "p.toml:1: a name of more than 40 parts"),
        (HEAD + "[" + ".".join(['"a b"'] * 50) + "]\n", "p.toml:3: a name of more than 40 parts"),
        (HEAD + "x = " + "[" * 5000 + "]" * 5000, "p.toml: too deeply nested"),
        (HEAD + RULE.format("a", '["A"]', "y").replace('"y"', "9" * 5000), "a number or date"),
        (HEAD + RULE.format("a", '["A", "B", "A"]', "y"), "p.toml:3: rule a: A is twice"),
        (HEAD + "".join(map(one_rule, range(2000))) + one_rule(2000, "n"),
         "p.toml:12003: rule r2000 wants A to be n, but rule r0 in "),
    ],
    ids=["dots", "header", "deep", "digits", "twice", "many"],
)  # fmt: skip
def test_a_policy_that_would_take_for_ever(tmp_path: Path, text: str, said: str) -> None:
    """Each of these took minutes, or ended in a message about Python's insides."""
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(KconfigError) as caught:
        policy.load(str(path))
    assert said in str(caught.value) and "sys.set" not in str(caught.value)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.toml")
    (tmp_path / "q.toml").symlink_to("/dev/zero")
    for name in ("p.toml", "q.toml"):
        with pytest.raises(KconfigError, match=f"{name}: not a regular file"):
            policy.load(str(tmp_path / name))
    with pytest.raises(KconfigError, match=r"r\.toml: No such file or directory"):
        policy.load(str(tmp_path / "r.toml"))


def test_policies_that_extend_each_other_many_times(tmp_path: Path) -> None:
    """Each is read once, by whatever way it is reached, and not without end."""
    (tmp_path / "0.toml").write_text(HEAD + one_rule(0))
    for number in range(1, 20):
        ways = ", ".join(f'"{"./" * n}{number - 1}.toml"' for n in range(50))
        (tmp_path / f"{number}.toml").write_text(HEAD + f"extends = [{ways}]\nrule = []\n")
    assert [one.id for one in policy.load(str(tmp_path / "9.toml")).rules] == ["r0"]
    with pytest.raises(KconfigError, match="more than 10 policies that extend each other"):
        policy.load(str(tmp_path / "19.toml"))


def test_a_byte_order_mark_is_no_harm(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_bytes(b"\xef\xbb\xbf" + (HEAD + one_rule(0)).encode())
    assert policy.load(str(tmp_path / "p.toml")).rules


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 99), st.text(max_size=8),
    st.lists(st.one_of(st.text(max_size=5), st.integers()), max_size=3),
    st.dictionaries(st.sampled_from(["not", "min", "max", "like", "x"]), st.integers(), max_size=2),
)  # fmt: skip


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'
    return str(value) if value is not None else '""'


@CALM
@given(
    st.dictionaries(
        st.sampled_from(["id", "symbols", "want", "need", "severity", "why", "source", "since",
                         "until", "arch", "when", "override", "without", "drop", "odd"]),
        PLAIN,
    ),
    st.dictionaries(st.sampled_from(["name", "title", "kernel", "extends"]), PLAIN),
)  # fmt: skip
def test_any_policy_is_read_or_refused_in_words(rule_: dict, head: dict) -> None:  # type: ignore[type-arg]
    good = {"id": "r", "symbols": ["A"], "want": ["y"], "why": "w", "source": "s"}
    for raw, top in ((rule_, head), (good | rule_, {"name": "p", "title": "t"}),
                     (good, {"name": "p", "title": "t"} | head)):  # fmt: skip
        lines = [f"{k} = {toml(v)}" for k, v in top.items()] + ["[[rule]]"]
        text = "\n".join(lines + [f"{k} = {toml(v)}" for k, v in raw.items()]) + "\n"
        try:
            policy.parse(text, "here.toml")
        except KconfigError as error:
            assert str(error).startswith("here.toml")


@CALM
@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_refused_in_words(text: str) -> None:
    with pytest.raises(KconfigError, match=r"^here\.toml"):
        policy.parse(text, "here.toml")


def test_a_shipped_policy_is_found_by_the_kernel_in_it() -> None:
    """What for_kernel looks at, without parsing, is what a parser finds."""
    every = [policy.load(name) for name in policy.names()]
    for version in {one.kernel for one in every if one.kernel}:
        assert policy.for_kernel(version) == [one for one in every if one.kernel == version]
    assert [one.name for one in policy.for_kernel((6, 1, 0))] == ["boot"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (rule(symbols='["CONFIG_A"]'), "rule r: 'CONFIG_A': say it without CONFIG_"),
        (rule(more='when = "CONFIG_A=y"'), "rule r: when: 'CONFIG_A': say it without CONFIG_"),
        (rule(more='when = "A==y"'), "rule r: when: 'A==y': one = is enough"),
        (rule(more='when = "rot.type=ext3"'), "rule r: when: no fact 'rot.type' (there are: "),
        (rule(more='since = "3.0"\nuntil = "2.6"'), "no kernel is 3.0 or later and at most 2.6"),
    ],
)
def test_what_would_never_hold_is_refused(text: str, said: str) -> None:
    with pytest.raises(KconfigError) as caught:
        policy.parse(HEAD + text, "x.toml")
    assert said in str(caught.value) and str(caught.value).startswith("x.toml:3: ")


@pytest.mark.parametrize("key", ["override", "drop"])
def test_drop_and_override_are_true_or_false(tmp_path: Path, key: str) -> None:
    write(tmp_path / "base.toml", HEAD + rule())
    keys = {"override": "true", "drop": "false"} | {key: '"true"'}
    own = HEAD + 'extends = ["base.toml"]\n[[rule]]\nid = "r"\n'
    own += "".join(f"{name} = {value}\n" for name, value in keys.items())
    with pytest.raises(KconfigError, match=f"'{key}' is of the wrong type: true or false"):
        policy.load(write(tmp_path / "own.toml", own))


def test_the_facts_a_rule_may_ask_for_are_those_documented() -> None:
    docs = (Path(policy.__file__).parents[1] / "docs/lint.md").read_text("utf-8")
    for fact in condition.FACTS:
        assert f"| `{fact}` |" in docs
