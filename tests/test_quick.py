# SPDX-License-Identifier: GPL-2.0-or-later
"""What is passed over while a tree is read changes nothing but the help texts."""

from __future__ import annotations

from pathlib import Path

import kconfiglib
import kernel_trees
import pytest
import small_trees
from hypothesis import given, settings
from hypothesis import strategies as st

from kconfig import tree
from kconfig.quick import Quick
from provision.paths import sources_dir

BLANK = st.sampled_from(["", " ", "\t", "  \t", "\f"])
HELP = st.sampled_from(["text", "config FAKE", "help", "# no comment", 'bool "x"', "\\", "end\\"])
INDENT = st.sampled_from(["", " ", "  ", "\t", "\t  ", "        ", " \t"])
HELP_LINES = st.lists(st.one_of(BLANK, st.builds(str.__add__, INDENT, HELP)), max_size=6)
ENTRIES = st.lists(st.tuples(HELP_LINES, st.lists(BLANK, max_size=2)), min_size=1, max_size=4)


def outline(kconf: kconfiglib.Kconfig) -> list[tuple[object, ...]]:
    """Return all of a tree but its help texts: each node with its place and properties."""
    found: list[tuple[object, ...]] = []
    for node in kconf.node_iter():
        item = node.item
        place = (
            node.filename,
            node.linenr,
            node.prompt and node.prompt[0],
            getattr(node, "help", None) is None,
        )
        what: tuple[object, ...] = (item,) if item in (kconfiglib.MENU, kconfiglib.COMMENT) else ()
        if not what:
            what = (item.name, item.orig_type, kconfiglib.expr_str(item.direct_dep))
        properties = (*node.defaults, *node.selects, *node.implies)
        texts = tuple(tuple(map(kconfiglib.expr_str, pair)) for pair in properties)
        found.append((*what, *place, kconfiglib.expr_str(node.dep), texts))
    return found


def result(kind: type[kconfiglib.Kconfig], path: Path) -> object:
    try:
        return outline(kind(str(path), warn=False))
    except kconfiglib.KconfigError as error:
        return str(error)


def text(entries: list[tuple[list[str], list[str]]], end: str) -> str:
    lines = []
    for number, (described, after) in enumerate(entries):
        lines += [f"config S{number}", f'\tbool "Symbol {number}"', *after, "\thelp", *described]
    return "\n".join(lines) + end


@pytest.mark.sources
def test_a_real_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = kernel_trees.from_cache("2.6.30", sources_dir(), tmp_path)
    stray = where / "drivers/hwmon/Kconfig"
    stray.write_bytes(stray.read_bytes().replace(b'";\n', b'"\n'))
    for name, value in {"srctree": str(where), "ARCH": "x86_64", "KERNELVERSION": ""}.items():
        monkeypatch.setenv(name, value)
    trees = [
        kind("arch/x86/Kconfig", warn=False, encoding="latin-1")
        for kind in (Quick, kconfiglib.Kconfig)
    ]
    assert len(outline(trees[0])) > 5000
    assert outline(trees[0]) == outline(trees[1])


@settings(deadline=None, max_examples=200)
@given(
    entries=ENTRIES, end=st.sampled_from(["", "\n", "\n\n", "\nif S0\nconfig LAST\n\tint\nendif"])
)
def test_help_ends_where_the_library_ends_it(
    entries: list[tuple[list[str], list[str]]], end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "Kconfig.quick"
    path.write_text(text(entries, end))
    assert result(Quick, path) == result(kconfiglib.Kconfig, path)


def test_it_can_fail(tmp_path: Path) -> None:
    path = tmp_path / "Kconfig"
    path.write_text("config A\n\tbool\n\thelp\n\t  B\n\nconfig B\n\tint\n")
    quick, plain = Quick(str(path)), kconfiglib.Kconfig(str(path))
    assert plain.syms["A"].nodes[0].help == "B" and not quick.syms["A"].nodes[0].help
    assert outline(quick) == outline(plain)
    made = small_trees.make(tmp_path / "tree", path.read_text(), (2, 6, 20))
    for keeps, text in ((True, "B"), (False, "")):
        kconf = tree.load(made, "x86_64", help_texts=keeps)
        assert kconf.syms["A"].nodes[0].help == text
    assert tree.load(made, "x86_64").syms["A"].nodes[0].help == "B"
    assert [entry[0] for entry in outline(quick)] == ["A", "B"]
