# SPDX-License-Identifier: GPL-2.0-or-later
"""What is remembered of nodes that had nothing to change, and the seal it hangs on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_facts import MARK, SHELLS, script

from provision import artifacts, facts, unchanged
from provision.cluster import Cluster, Node
from provision.deploy import Target
from provision.unchanged import Memory

SEAL = "0123456789abcdef" * 4


def target(directory: Path) -> Target:
    build = artifacts.Artifacts(directory, "r", "i386", "2.6.20-krg", "id1", {}, {})
    return Target(Cluster(1, 1, (Node("krg1", 1, "10.0.0.1"),)), build, (), "CONFIG_X=y\n")


def test_what_was_kept_is_there_the_next_time(tmp_path: Path) -> None:
    made = target(tmp_path)
    path = tmp_path / "state" / "unchanged.json"
    memory = Memory(path, made)
    assert memory.seal("krg1") == ""
    memory.keep("krg1", SEAL, ["a note"])
    memory.keep("krg2", SEAL)
    memory.write()
    memory = Memory(path, made)
    assert (memory.seal("krg1"), memory.notes("krg1")) == (SEAL, ("a note",))
    memory.keep("krg1", None)
    memory.write()
    memory = Memory(path, made)
    assert (memory.seal("krg1"), memory.seal("krg2")) == ("", SEAL)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_another_target_knows_nothing(tmp_path: Path) -> None:
    made = target(tmp_path)
    memory = Memory(tmp_path / "unchanged.json", made)
    memory.keep("krg1", SEAL)
    memory.write()
    node = made.cluster.nodes[0]
    others = [
        replace(made, config="CONFIG_X=n\n"),
        replace(made, bootloader=False),
        replace(made, force=frozenset({"glibc"})),
        replace(made, reboot=True),
        replace(made, build=replace(made.build, build_id="id2")),
        replace(made, cluster=replace(made.cluster, session=2)),
        replace(made, cluster=replace(made.cluster, nodes=(replace(node, append=("x",)),))),
    ]
    for other in others:
        assert Memory(tmp_path / "unchanged.json", other).seal("krg1") == ""
    # Which nodes are worked on this time, and where the file lies, is no matter.
    chosen = replace(made.cluster, only=frozenset({"krg1"}), path=tmp_path)
    assert Memory(tmp_path / "unchanged.json", replace(made, cluster=chosen)).seal("krg1") == SEAL


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=40),
        st.recursive(
            st.one_of(st.none(), st.integers(), st.text(max_size=70)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(st.sampled_from(["nodes", "krg1"]), inner, max_size=2),
            ),
            max_leaves=6,
        ),
    )
)
def test_any_file_is_read_without_an_exception(
    tmp_path_factory: pytest.TempPathFactory, said: object
) -> None:
    path = tmp_path_factory.mktemp("memory") / "unchanged.json"
    made = target(path.parent)
    if isinstance(said, dict):
        said["key"] = unchanged.key(made)
    path.write_bytes(said if isinstance(said, bytes) else json.dumps(said).encode())
    assert Memory(path, made).seal("krg1") == ""


def test_a_place_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = Memory(tmp_path / "file" / "unchanged.json", target(tmp_path))
    memory.keep("krg1", SEAL)
    memory.write()


def _there(shell: tuple[str, ...]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"needs {shell[0]}: apt-get install dash bash busybox-static")


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_node_whose_seal_holds_says_no_more(shell: tuple[str, ...]) -> None:
    _there(shell)

    def ask(known: str) -> bytes:
        return subprocess.run(
            [*shell, "-c", script(known)], stdin=subprocess.DEVNULL, capture_output=True, check=True
        ).stdout

    whole = facts.parse(ask(""), MARK)
    assert whole.complete and whole.seal is not None and whole.word("same") is None
    assert ask(whole.seal) == b"same yes\nend\n"
    other = facts.parse(ask(SEAL), MARK)
    assert other.complete and other.seal == whole.seal and other.files == whole.files


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_seal_covers_what_starts_scripts(shell: tuple[str, ...], tmp_path: Path) -> None:
    """A node with nothing to change gets update-rc.d: its script can be started at boot now."""
    _there(shell)

    def ask(known: str) -> facts.Facts:
        there = re.sub(r"(?m)^PATH=[^;]*", f"PATH={tmp_path}:/usr/bin:/bin", script(known), count=1)
        done = subprocess.run(
            [*shell, "-c", there], stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
        return facts.parse(done.stdout, MARK)

    without = ask("")
    assert without.seal is not None and without.word("tool") is None
    assert ask(without.seal).word("same") == "yes"
    (tmp_path / "update-rc.d").write_text("#!/bin/sh\n")
    (tmp_path / "update-rc.d").chmod(0o755)
    answer = ask(without.seal)
    assert (answer.word("same"), answer.word("tool")) == (None, "update-rc.d")


def test_no_seal_where_a_text_was_not_what_was_sealed() -> None:
    digest = "98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4"  # "hi\n"
    head = f"kernel k\nreads /t\nstat 81a4 3 0 0 /t\n{digest}  /t\nsealed\n"
    good = facts.parse(f"{head}text /t /t\nhi\n\n{MARK}\nend\n".encode(), MARK)
    assert good.texts["/t"].content == b"hi\n" and good.seal is not None
    assert good.reads == {"/t": digest}
    edited = facts.parse(f"{head}text /t /t\nho\n\n{MARK}\nend\n".encode(), MARK)
    assert edited.complete and edited.seal is None
    # The plan is made from what was looked at.
    assert edited.reads == {"/t": edited.texts["/t"].sha256} != good.reads
    cut = facts.parse(f"{head}text /t /t\nhi\n\n{MARK}\n".encode(), MARK)
    assert cut.seal is None
