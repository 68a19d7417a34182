# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever a Kconfig file holds: it is read, or refused in one line that says where."""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import small_trees
from hypothesis import given, settings
from hypothesis import strategies as st

from kconfig import targets, tree
from kconfig.bridge import REWRITES, bridge
from kconfig.errors import KconfigError

OLD, LATE = (2, 6, 30), (6, 1, 0)
VERSIONS = ((2, 6, 20), OLD, LATE, (6, 12, 0))
# Where an error is: file and line, or the end of a file.
PLACE = re.compile(r"Kconfig:\d+\b|at end of '[^']*Kconfig'")

WORDS = (
    "config", "menuconfig", "choice", "endchoice", "menu", "endmenu", "if", "endif", "source",
    "bool", "tristate", "int", "hex", "string", "default", "depends on", "select", "imply",
    "range", "prompt", "help", "option", "modules", "optional", "visible if", "mainmenu",
    "comment", "def_bool", "A", "S1", "y", "m", "n", '"', "'", '"S1"', "(", ")", "&&", "||", "!",
    "=", "!=", "<", "\t", "\n", "\n\t", "$(", "$(shell,true)", "$(A)", "\\\n", "\x00", "é", ":=",
    "+=", "0x", "-1", 'env="ARCH"', "if n", 'source "Kconfig"', 'source "arch/x86/Kconfig"',
    'source "none"', 'osource "none"', 'rsource "*"', "\nmenu", "\nif y\n", "\nendif\n",
    "\nendmenu\n", "\nendchoice\n",
)  # fmt: skip


@contextmanager
def an_end(seconds: int = 60) -> Iterator[None]:
    """Let a test fail that would go on for ever."""

    def fail(*_: object) -> None:
        raise AssertionError(f"no end within {seconds} s")

    former = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


PATHS = st.sampled_from([rewrite.path for rewrite in REWRITES]) | st.text()
PIECES = st.sampled_from(
    ["\\#", '"', " ;", "config MODULES\n", "\tmodules\n", "\n", "\t", "x", "menu", "\r\n"]
)


@given(PATHS, st.text() | st.lists(PIECES, max_size=40).map("".join))
def test_the_bridge_keeps_lines(path: str, text: str) -> None:
    assert bridge(path, text).count("\n") == text.count("\n")


@st.composite
def mutated(draw: st.DrawFn) -> tuple[tuple[int, int, int], str]:
    """A small tree that made sense before words were put in, cut out or moved."""
    version = draw(st.sampled_from(VERSIONS))
    text = small_trees.Dice(draw(st.integers(0, 400)), version).text()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        match draw(st.integers(0, 3)):
            case 0:
                text = f"{text[:at]} {draw(st.sampled_from(WORDS))} {text[at:]}"
            case 1:
                text = text[:at] + draw(st.sampled_from(WORDS)) + text[at:]
            case 2:
                text = text[:at] + text[at + draw(st.integers(1, 12)) :]
            case _:
                source = draw(st.integers(0, len(text)))
                text = text[:at] + text[source : source + 40] + text[at:]
    return version, text


@settings(deadline=None, max_examples=300)
@given(mutated())
def test_a_spoiled_tree_is_read_or_refused(case: tuple[tuple[int, int, int], str]) -> None:
    version, text = case
    with tempfile.TemporaryDirectory() as scratch, an_end():
        where = small_trees.make(Path(scratch) / "tree", text, version)
        try:
            kconf = tree.load(where, "x86_64", shell=False)
        except KconfigError as error:
            assert PLACE.search(str(error)) and "\n" not in str(error), str(error)
            return
        for answer in "nmy":
            assert targets.allconfig(kconf, answer) == targets.allconfig(kconf, answer)


BOMB = "".join(f"x{n} = $(x{n + 1})$(x{n + 1})\n" for n in range(40)) + 'config A\n\tbool "$(x0)"\n'
REFUSED = {
    "a file that reads itself": ('source "arch/x86/Kconfig"\n', "Kconfig:1: recursive"),
    "two that read each other": ('source "other/Kconfig"\n', "other/Kconfig:1: recursive"),
    "a file that is not there": ('\nsource "none"\n', "Kconfig:2: 'none' not found"),
    "a directory": ('source "arch"\n', "Kconfig:1: .*directory"),
    "a file outside": ('source "/etc/passwd"\n', "Kconfig:1: .*leads out of the tree"),
    "a path that climbs": ('source "../out/Kconfig"\n', "Kconfig:1: .*leads out of the tree"),
    "a pipe": ('source "pipe"\n', "Kconfig:1: .*no regular file"),
    "a file too large": ('source "large"\n', "Kconfig:1: .*larger than"),
    "conditions in conditions": ("if A\n" * 3000 + "endif\n" * 3000, r"Kconfig:\d+: nested"),
    "menus in menus": ('menu "m"\n' * 3000 + "endmenu\n" * 3000, r"Kconfig:\d+: nested"),
    "brackets": (f"config A\n\tbool\n\tdefault {'(' * 5000}y{')' * 5000}\n", "Kconfig:3: nested"),
    "a long condition": (
        f"config A\n\tbool\n\tdefault {' && '.join('B' * 1 for _ in range(20000))}\n",
        "Kconfig:3: nested",
    ),
    "submenus": (
        "".join(f'config A{n}\n\tbool "a"\n\tdepends on A{n - 1}\n' for n in range(1, 3000)),
        r"Kconfig:\d+: nested",
    ),
    "a long wrong line": (f"config A\n\t{'x' * 1_000_000} y\n", r"Kconfig:2: .* \.\.\. "),
    "a string without end": ('config A\n\tbool "abc\n', "Kconfig:2: .*unterminated"),
    "a menu without end": ('menu "m"\n', "expected 'endmenu' at end of 'arch/x86/Kconfig'"),
    "a zero byte": ("config A\n\tbool\n\0\n", "Kconfig:3: "),
    "a choice at its end": ("config A\n\tbool\nvisible if A\n", "Kconfig:3: "),
    "visible outside of a menu": ('config A\n\tbool "a"\n\tvisible if y\n', "Kconfig:3: "),
}
REFUSED_LATE = {
    "a loop": (
        "config A\n\tbool\n\tdepends on B\nconfig B\n\tbool\n\tdepends on A\n",
        "Kconfig:1: depends on itself: A -> B -> A",
    ),
    "a macro of itself": ('X = $(X)\nconfig A\n\tbool "$(X)"\n', "Kconfig:3: .*itself"),
    "a function of itself": ('f = $(f,$(1))\nconfig A\n\tbool "$(f,a)"\n', "Kconfig:3: "),
    "macros in macros": (f'config A\n\tbool "{"$(" * 3000}\n', "Kconfig:2: nested"),
    "macros that double": (BOMB, "Kconfig:42: .*macros without end"),
}


@pytest.mark.parametrize(
    ("version", "text", "message"),
    [pytest.param(OLD, *case, id=f"{name}, old") for name, case in REFUSED.items()]
    + [pytest.param(LATE, *case, id=name) for name, case in (REFUSED | REFUSED_LATE).items()],
)
def test_refused(tmp_path: Path, version: tuple[int, int, int], text: str, message: str) -> None:
    where = small_trees.make(tmp_path / "tree", text, version)
    (where / "other").mkdir()
    (where / "other/Kconfig").write_text('source "arch/x86/Kconfig"\n')
    (tmp_path / "out").mkdir()
    (tmp_path / "out/Kconfig").write_text("config OUT\n\tbool\n")
    os.mkfifo(where / "pipe")
    with (where / "large").open("wb") as stream:
        stream.truncate(17 << 20)
    with an_end(), pytest.raises(KconfigError, match=message) as refusal:
        tree.load(where, "x86_64", shell=False)
    said = str(refusal.value)
    assert "\n" not in said and len(said) < 1000
    assert said.startswith(f"{where}: ")


ODD = {
    "nothing": "",
    "no newline at the end": 'config A\n\tbool "a"',
    "lines of Windows": 'config A\r\n\tbool "a"\r\n',
    "a line of megabytes": f'config A\n\tbool "{"x" * 3_000_000}"\n',
    "a name of megabytes": f'config {"A" * 1_000_000}\n\tbool "a"\n',
    "lines continued for ever": 'config A\n\tbool "a" \\\n' + "\\\n" * 50_000,
    "bytes of Latin-1": 'config A\n\tbool "\xe9"\n',
}


@pytest.mark.parametrize("version", [OLD, LATE])
@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_and_read(tmp_path: Path, version: tuple[int, int, int], text: str) -> None:
    where = small_trees.make(tmp_path, text, version)
    with an_end():
        kconf = tree.load(where, "x86_64", shell=False)
        assert targets.allconfig(kconf, "y").count("CONFIG_A") == ("A" in text)


@pytest.mark.parametrize("default", ["NOWHERE", "n", "B"])
def test_a_choice_takes_only_what_is_defined(tmp_path: Path, default: str) -> None:
    members = 'config A\n\tbool "a"\nconfig B\n\tbool "b"\nendchoice\n'
    text = f'choice\n\tbool "c"\n\tdefault {default}\n{members}'
    kconf = tree.load(small_trees.make(tmp_path / "tree", text, (2, 6, 20)), "x86_64", shell=False)
    taken = [name for name in "AB" if kconf.syms[name].str_value == "y"]
    assert taken == (["B"] if default == "B" else ["A"])
