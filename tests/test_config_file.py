# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading configurations: values with lines, wrong spellings."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kconfig import config_file
from kconfig.config_file import parse
from kconfig.errors import KconfigError

# A busy machine is no failure.
CALM = settings(deadline=None)
TEXT = "CONFIG_NET=y\n# CONFIG_KEYS is not set\n"


def problem(line: str) -> config_file.Problem:
    (found,) = parse(f"CONFIG_OTHER=y\n{line}\n", "x").problems
    assert found.line == 2
    return found


@pytest.mark.parametrize(
    ("line", "symbol", "why", "fix"),
    [
        ("CONFIG_A=Y", "A", "small letters", "CONFIG_A=y"),
        ("CONFIG_A=yes", "A", "y, m and n", "CONFIG_A=y"),
        ("CONFIG_A=off", "A", "y, m and n", "CONFIG_A=n"),
        ("CONFIG_A=y ", "A", "blanks around the value", "CONFIG_A=y"),
        ("CONFIG_A= y", "A", "blanks around the value", "CONFIG_A=y"),
        ("CONFIG_A = y", "A", "no blanks may stand around the =", "CONFIG_A=y"),
        (" CONFIG_A=y", "A", "blanks in front", "CONFIG_A=y"),
        ("config_A=y", "A", "capital letters", "CONFIG_A=y"),
        ("A=m", "A", "lacks CONFIG_", "CONFIG_A=m"),
        ("export CONFIG_A=y", "A", "a line of the shell", "CONFIG_A=y"),
        ("CONFIG_A='x'", "A", "double quotes", 'CONFIG_A="x"'),
        ('CONFIG_A="x', "A", "does not end", 'CONFIG_A="x"'),
        ("CONFIG_A=-krg", "A", "neither y, m, n", 'CONFIG_A="-krg"'),
        ("CONFIG_A=", "A", "no value", 'CONFIG_A="" or remove the line'),
        ('CONFIG_A="y"', "A", "in quotes it is a string", "CONFIG_A=y"),
        ("# CONFIG_A not set", "A", "a comment", "# CONFIG_A is not set"),
        ("#CONFIG_A is not set", "A", "a comment", "# CONFIG_A is not set"),
        ("# CONFIG_A is not set.", "A", "a comment", "# CONFIG_A is not set"),
        ("CONFIG_A is not set", "A", "# in front is missing", "# CONFIG_A is not set"),
        ("# CONFIG_A=y", "A", "a comment: the symbol gets its default", "# CONFIG_A is not set"),
        ("what is this", "", "neither a value nor a comment", "remove it"),
        ("# krg-lint: ignore rule", "", "ignore RULE reason", "# krg-lint: ignore RULE reason"),
        ("# krg-lint: skip rule why", "", "ignore RULE reason", "# krg-lint: ignore RULE reason"),
    ],
)
def test_wrong_spellings(line: str, symbol: str, why: str, fix: str) -> None:
    found = problem(line)
    assert found.symbol == symbol and why in found.why and found.fix.startswith(fix)


def test_a_misspelt_line_gives_no_value() -> None:
    assert set(parse("CONFIG_B=y\nCONFIG_A=Y\n A=y\n# CONFIG_A=y\n", "x").values()) == {"B"}


@pytest.mark.parametrize(
    "line",
    ["CONFIG_A=y", "CONFIG_A=m", "CONFIG_A=n", "CONFIG_A=-12", "CONFIG_A=0x1F", 'CONFIG_A=""',
     r'CONFIG_A="a\"b\\c"', "# CONFIG_A is not set", "", "#", "# words", "#### CONFIG", "\t"],
)  # fmt: skip
def test_right_spellings(line: str) -> None:
    assert parse(f"{line}\nCONFIG_LAST=y\n", "x").problems == ()


def test_lines_are_counted_as_editors_do() -> None:
    text = '# a\x0b\x0c\x1c\x85\u2028b\n\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="\x0b"\n'
    assert [(a.symbol, a.value, a.line) for a in parse(text, "x").assignments] == [
        ("A", "y", 3), ("B", "n", 4), ("C", "\x0b", 5),
    ]  # fmt: skip


def test_strings_are_unescaped() -> None:
    (entry,) = parse(r'CONFIG_A="a \"b\" \\ c"', "x").assignments
    assert entry.value == r'a "b" \ c' and entry.quoted


def test_which_of_two_assignments_counts() -> None:
    config = parse("CONFIG_A=y\nCONFIG_B=1\nCONFIG_A=m\n", "x")
    assert config.values((2, 6, 20))["A"].value == "y"
    assert config.values((2, 6, 30))["A"].value == config.values()["A"].value == "m"
    ((void, kept),) = config.duplicates((2, 6, 20))
    assert (void.line, kept.line) == (3, 1)
    ((void, kept),) = config.duplicates((6, 1, 0))
    assert (void.line, kept.line) == (1, 3)


@pytest.mark.parametrize(
    ("head", "version", "arch"),
    [
        ("# Linux kernel version: 2.6.20-krg\n", (2, 6, 20), ""),
        ("# Linux/x86_64 3.2.0 Kernel Configuration\n", (3, 2, 0), "x86_64"),
        ("# Linux/x86 6.12.1-rc3+ Kernel Configuration\n", (6, 12, 1), "x86"),
        ("# Linux/x86 6.12.1 Kernel Configuration\nCONFIG_X86_64=y\n", (6, 12, 1), "x86_64"),
        ("# Linux 2.6.20-krg for i386, made by krg-provision\n", (2, 6, 20), "i386"),
        ("CONFIG_X86_32=y\n", None, "i386"),
        ("# Linux kernel version: 99999999999999.1.1\n", None, ""),
    ],
)
def test_what_a_file_says_about_itself(
    head: str, version: tuple[int, int, int] | None, arch: str
) -> None:
    config = parse(f"#\n{head}CONFIG_A=y\n", "x")
    assert (config.version, config.arch) == (version, arch)


def test_line_ends_of_dos() -> None:
    config = parse(TEXT.replace("\n", "\r\n"), "x")
    assert {s: a.value for s, a in config.values().items()} == {"NET": "y", "KEYS": "n"}
    assert [p.have for p in config.problems] == ["line ends of DOS"]


@pytest.mark.parametrize("text", ["", "\n\n", "hello\nworld\n", "# only a comment\n", "a=b\n"])
def test_no_configuration(text: str) -> None:
    with pytest.raises(KconfigError, match=r"^here: .*not a kernel configuration"):
        parse(text, "here")


def test_a_file_of_rubbish_is_counted_not_listed() -> None:
    config = parse("CONFIG_A=y\n" + "rubbish\n" * 5000, "x")
    assert len(config.problems) == config_file.MOST_PROBLEMS + 1
    assert config.problems[-1].have == f"{5000 - config_file.MOST_PROBLEMS} more such lines"


@pytest.mark.parametrize(
    "line",
    ["A" * 3_000_000, "CONFIG_A=" + "y" * 3_000_000, " " * 3_000_000 + "CONFIG_A=y",
     'CONFIG_A="' + '\\"' * 1_500_000, "# CONFIG_" + "A" * 3_000_000,
     "#" * 3_000_000 + "CONFIG_A=y",
     "CONFIG_A" + " not" * 700_000, "CONFIG_A=" + "1" * 3_000_000 + "g"],
    ids=range(8),
)  # fmt: skip
def test_megabyte_lines_take_no_time(line: str) -> None:
    started = time.process_time()
    for config in (parse(f"CONFIG_B=y\n{line}\n", "x"),):
        assert all(
            len(p.have) < 100 and len(p.fix) < 200 for p in config.problems if p.symbol != ""
        )
    assert time.process_time() - started < 3


LINES = st.one_of(
    st.text(max_size=40),
    st.builds(
        "{}{}CONFIG_{}{}{}".format,
        st.sampled_from(["", " ", "# ", "#", "export "]),
        st.sampled_from(["", " "]),
        st.sampled_from(["A", "NET", "A-B", "", "a_1"]),
        st.sampled_from(["=", " = ", " is not set", " not set", ""]),
        st.sampled_from(["y", "Y", "m", '"y"', '"', "'", "12", "0x", "-", " ", "\\", '"\\"']),
    ),
)


@CALM
@given(st.lists(LINES, max_size=12))
def test_any_text_is_read_or_refused_in_words(lines: list[str]) -> None:
    text = "\n".join(lines)
    number = text.count("\n") + 1
    try:
        config = parse(text, "here")
    except KconfigError as error:
        assert str(error).startswith("here: ")
        return
    for entry in config.assignments:
        assert 1 <= entry.line <= number
        assert config_file.re.fullmatch(r"[A-Za-z0-9_]+", entry.symbol)
    assert all(1 <= problem.line <= number for problem in config.problems)
    for symbol, entry in config.values((2, 6, 20)).items():
        assert entry == next(a for a in config.assignments if a.symbol == symbol)


@CALM
@given(
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\n\r"), max_size=40)
)
def test_strings_survive(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    (entry,) = parse(f'CONFIG_A="{escaped}"', "x").assignments
    assert (entry.value, entry.quoted) == (value, True)


def test_the_reader_and_the_tree_agree_on_which_assignment_counts() -> None:
    from kconfig import dialect

    assert dialect.FIRST_WINS.until == config_file.LAST_WINS
