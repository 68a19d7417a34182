# SPDX-License-Identifier: GPL-2.0-or-later
"""Fix-ups: the shipped ones as data, and the engine on trees of its own."""

from __future__ import annotations

import operator
import re
import tomllib
from pathlib import Path

import mini
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision import fixup, release, unpack
from provision.data import data_dir
from provision.errors import FailedError, InputError

FACTS = {
    "gcc": "12.2.0", "binutils": "2.40", "make": "4.3", "kernel": "2.6.20", "arch": "x86_64"
}  # fmt: skip
GROUPS = sorted(path.stem for path in data_dir("fixups").glob("*.toml"))
SHIPPED = [pytest.param(f, id=f.id) for group in GROUPS for f in fixup.load(group)]


def write(path: Path, edit: str, when: str = "") -> str:
    path.write_text(
        f'[[fixup]]\nid = "one"\nwhy = "a test"\n{when}\n[[fixup.edit]]\n{edit}\n', "utf-8"
    )
    return str(path)


@pytest.mark.parametrize("fix", SHIPPED)
def test_shipped_say_why_and_where_from(fix: fixup.Fixup) -> None:
    assert fix.why.endswith((".", "`."))
    assert fix.upstream is None or re.fullmatch(r"[0-9a-f]{40}", fix.upstream)
    assert fix.edits
    for edit in fix.edits:
        assert not edit.file.startswith("/") and ".." not in Path(edit.file).parts
        # What is put must be what `applied` looks for, or a second run would fail.
        assert edit.count > 0 and edit.find.pattern != edit.applied.pattern
    for condition in fix.when.values():
        fixup._holds(condition, "1.0")


def test_ids_are_unique_and_every_group_is_used() -> None:
    ids = [f.id for group in GROUPS for f in fixup.load(group)]
    assert len(ids) == len(set(ids))
    used = {
        group
        for name in release.names()
        for archive in release.load(name).archives.values()
        for group in archive.fixups
    }
    assert used == set(GROUPS)


def test_applied_then_already_there_then_not_needed(tmp_path: Path) -> None:
    made = mini.make(tmp_path / "mini")
    tree = tmp_path / "tree"
    unpack.unpack(made.linux, tree)
    fixes = fixup.load(str(mini.HERE / "fixups.toml"))
    first = fixup.apply(tree, fixes, FACTS)
    assert [(o.id, o.state) for o in first] == [
        ("mini-old-name", "applied"),
        ("mini-never", "not needed"),
    ]
    text = (tree / "kernel/main.c").read_text()
    assert "number * 2 /* old compilers */" in text
    identity = unpack.directory_tree_id(tree)
    second = fixup.apply(tree, fixes, FACTS)
    assert [o.state for o in second] == ["already there", "not needed"]
    assert unpack.directory_tree_id(tree) == identity


@pytest.mark.parametrize(
    ("content", "count", "found"),
    [
        ("nothing of the kind\n", 1, "0 to change and 0 changed"),
        ("old old\n", 1, "2 to change and 0 changed"),
        ("old new\n", 1, "1 to change and 1 changed"),
        ("old\n", 3, "1 to change and 0 changed"),
        (None, 1, "no such file"),
    ],
)
def test_one_that_does_not_fit_names_itself(
    tmp_path: Path, content: str | None, count: int, found: str
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    if content is not None:
        (tree / "a.c").write_text(content)
    edit = f"file = 'a.c'\nfind = 'old'\nput = 'new'\napplied = 'new'\ncount = {count}"
    fixes = fixup.load(write(tmp_path / "f.toml", edit))
    with pytest.raises(FailedError) as caught:
        fixup.apply(tree, fixes, FACTS)
    assert "fix-up one does not fit" in caught.value.message
    assert "a.c" in caught.value.message and found in caught.value.message
    if content is not None:
        assert (tree / "a.c").read_text() == content


def test_some_done_and_some_to_do_is_completed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old\n")
    (tmp_path / "b").write_text("new\n")
    edit = "file = '[ab]'\nfind = 'old'\nput = 'new'\napplied = 'new'\ncount = 2"
    fixes = fixup.load(write(tmp_path / "f.toml", edit))
    assert fixup.apply(tmp_path, fixes, FACTS)[0].state == "applied"
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "new\n"


def test_other_bytes_and_the_mode_stay(tmp_path: Path) -> None:
    file = tmp_path / "s.sh"
    file.write_bytes(b"\xe9\xff old\r\n\x00")
    file.chmod(0o755)
    edit = "file = 's.sh'\nfind = 'old'\nput = 'new'\napplied = 'new'"
    fixup.apply(tmp_path, fixup.load(write(tmp_path / "f.toml", edit)), FACTS)
    assert file.read_bytes() == b"\xe9\xff new\r\n\x00"
    assert file.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[fixup]]\nid = 'x'", "'edit' is missing"),
        ("[[fixup]]\nid = 'x'\nedit = [{file='a', put='', applied='b'}]", "'find' is missing"),
        ("[[fixup]]\nid='x'\nwhy=''\nedit=[{file='a',find='(',put='',applied='b'}]", "missing )"),
        ("[[fixup]]\nid = 'x'\nwhy=''\nedit = []\nwhen = {perl = '>5'}", "unknown key 'perl'"),
        ("not toml", "x.toml"),
    ],
)  # fmt: skip
def test_wrong_files_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        fixup.load(str(path))
    assert said in caught.value.message and "x.toml" in caught.value.message


def test_unknown_group() -> None:
    with pytest.raises(InputError, match="no fix-ups called nothing"):
        fixup.load("nothing")


VERSIONS = st.lists(st.integers(0, 40), min_size=1, max_size=4).map(tuple)
OPERATORS = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


def dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


@given(have=VERSIONS, want=VERSIONS, sign=st.sampled_from(sorted(OPERATORS)))
def test_conditions_compare_numbers_not_texts(
    have: tuple[int, ...], want: tuple[int, ...], sign: str
) -> None:
    size = max(len(have), len(want))
    padded = [v + (0,) * (size - len(v)) for v in (have, want)]
    expected = OPERATORS[sign](*padded)
    assert fixup._holds(f"{sign}{dotted(want)}", dotted(have) + "-krg") is expected


@given(have=VERSIONS, low=VERSIONS, high=VERSIONS)
def test_parts_of_a_condition_all_hold(
    have: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...]
) -> None:
    both = fixup._holds(f">={dotted(low)}, <{dotted(high)}", dotted(have))
    assert both is (
        fixup._holds(f">={dotted(low)}", dotted(have))
        and fixup._holds(f"<{dotted(high)}", dotted(have))
    )


def test_an_arch_is_compared_as_a_word(tmp_path: Path) -> None:
    edit = "file = 'a'\nfind = 'old'\nput = 'new'\napplied = 'new'"
    path = write(tmp_path / "f.toml", edit, 'when = { arch = "i386" }')
    fixes = fixup.load(path)
    assert fixup.apply(tmp_path, fixes, FACTS)[0].state == "not needed"
    with pytest.raises(FailedError):
        fixup.apply(tmp_path, fixes, FACTS | {"arch": "i386"})


def test_shipped_files_are_plain_toml() -> None:
    for group in GROUPS:
        raw = tomllib.loads((data_dir("fixups") / f"{group}.toml").read_text("utf-8"))
        assert set(raw) == {"fixup"}
        for entry in raw["fixup"]:
            assert set(entry) <= {"id", "why", "upstream", "when", "edit"}, entry["id"]
            for edit in entry["edit"]:
                assert set(edit) <= {"file", "find", "put", "applied", "count"}, entry["id"]


@pytest.mark.parametrize("file", ["../outside", "/etc/passwd", "a/../../b"])
def test_no_edit_leads_out(tmp_path: Path, file: str) -> None:
    path = tmp_path / "x.toml"
    edit = f"{{file = '{file}', find = 'a', put = 'b', applied = 'b'}}"
    path.write_text(f"[[fixup]]\nid = 'x'\nwhy = ''\nedit = [{edit}]\n")
    with pytest.raises(InputError, match="leads out"):
        fixup.load(str(path))


def test_no_link_leads_out(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("a")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").symlink_to(tmp_path / "outside")
    edit = fixup.Edit("file", re.compile("a"), "b", re.compile("b"))
    with pytest.raises(FailedError, match="leads out"):
        fixup.apply(tree, [fixup.Fixup("x", "", (edit,))], {})
    assert (tmp_path / "outside").read_text() == "a"
