# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of states: whatever happens in whatever order, every node is in it once."""

from __future__ import annotations

import io
import re

import pytest
from ClusterShell.NodeSet import NodeSet
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from provision import deploy, steps
from provision.cli.live import elapsed, table
from provision.steps import Board, Event, Note, Planned, Sent, Step, Wave

NAMES = [f"krg{number}" for number in range(1, 9)]
WORDS = [*steps._STATE_OF, "sending", "done", "committed", "what is new to it"]

_names = st.sampled_from([*NAMES, "a stranger"])
_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Step, _names, st.sampled_from(WORDS), st.text(max_size=5)),
    st.builds(Planned, _names, st.integers(0, 5000), st.booleans()),
    st.builds(Sent, _names, st.integers(0, 5000)),
    st.builds(Wave, st.integers(1, 9), st.integers(1, 9)),
    st.builds(Note, st.text(max_size=5)),
)


def shape(board: Board) -> dict[str, str]:
    return {row.state: row.nodes for row in board.rows() if row.count}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_events, st.floats(0, 100)), max_size=40))
def test_every_node_is_in_one_state_whatever_happens(events: list[tuple[Event, float]]) -> None:
    board = Board(NAMES)
    now = 0.0
    for event, seconds in events:
        now += seconds
        board.take(event, now)
        rows = board.rows()
        assert sum(row.count for row in rows) == len(NAMES)
        assert board.speed(now) >= 0 and board.speed(now + 3) >= 0
    rows = board.rows()
    assert sorted(name for row in rows for name in NodeSet(row.nodes)) == NAMES
    assert all(len(NodeSet(row.nodes)) == row.count for row in rows)
    states = [row.state for row in rows]
    assert states == [state for state in steps.STATES if state in states]


def test_a_deploy_with_restarts() -> None:
    board = Board(["krg1", "krg2", "krg3", "krg4"])
    for name in ("krg1", "krg2", "krg3"):
        board.take(Step(name, "asked"), 0)
    assert shape(board) == {"waiting": "krg4", "reading facts": "krg[1-3]"}
    board.take(Planned("krg1", 1000, restarts=True), 1)
    board.take(Planned("krg2", 1000, restarts=True), 1)
    board.take(Step("krg3", "unchanged"), 1)
    board.take(Step("krg4", "failed", "no answer"), 1)
    assert shape(board) == {"waiting": "krg[1-2]", "done": "krg3", "failed": "krg4"}
    board.take(Wave(1, 2), 2)
    for name in ("krg1", "krg2"):
        board.take(Step(name, "sending", "1000 bytes"), 2)
    board.take(Sent("krg1", 600), 2)
    board.take(Sent("krg1", 400), 4)
    # All of it has gone: what takes time now is the node.
    assert shape(board) == {"sending": "krg2", "installing": "krg1", "done": "krg3",
                            "failed": "krg4"}  # fmt: skip
    assert (board.sent, board.total, board.speed(4)) == (1000, 2000, 500.0)
    assert board.speed(60) == 0.0
    board.take(Step("krg1", "done", "in 2.0 s"), 5)
    assert shape(board)["installed"] == "krg1"
    for word, state in (("restarting", "restarting"), ("up", "proving"), ("committed", "proving"),
                        ("booted", "done")):  # fmt: skip
        board.take(Step("krg1", word), 6)
        assert "krg1" in NodeSet(shape(board)[state]), word
    board.take(Step("krg2", "unproven", "came up with another module"), 7)
    # What nobody is in any more stays where it was, so that the table does not jump.
    assert [(row.state, row.count) for row in board.rows()] == [
        ("waiting", 0), ("reading facts", 0), ("sending", 0), ("installing", 0), ("installed", 0),
        ("restarting", 0), ("proving", 0), ("done", 2), ("failed", 2),
    ]  # fmt: skip
    assert board.wave == Wave(1, 2)


def test_without_a_restart_done_is_done_and_nothing_to_send_is_not_sending() -> None:
    board = Board(["krg1"])
    board.take(Planned("krg1", 0), 0)
    board.take(Step("krg1", "sending", "0 bytes"), 0)
    assert shape(board) == {"installing": "krg1"}
    board.take(Step("krg1", "done", "in 0.1 s"), 0)
    assert shape(board) == {"done": "krg1"}


@pytest.mark.parametrize("state", deploy.STATES)
def test_every_outcome_of_a_deploy_is_known(state: str) -> None:
    """So that none stays in the row of what is under way."""
    board = Board(["krg1"])
    board.take(Step("krg1", "up"), 0)
    if state == "would change":
        return
    board.take(Step("krg1", state), 0)
    bad = state in deploy._BAD
    assert shape(board) == {"failed" if bad else "done": "krg1"}
    assert Step("krg1", state).bad is bad


def test_lines_of_a_log() -> None:
    assert str(Step("krg1", "done", "in 4.7 s")) == "krg1: done in 4.7 s"
    assert str(Step("krg1", "up")) == "krg1: up"
    assert str(Step("krg1", "failed", "a\x1b[31mb\nc")) == "krg1: failed: a\\x1b[31mb\\x0ac"
    assert Step("krg1", "not begun").quiet and not Step("krg1", "booted").quiet


def drawn(board: Board, width: int, now: float = 4000.0) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(table(board, now, 0.0))
    return out.getvalue().splitlines()


def test_a_thousand_nodes_are_one_screen_at_any_width() -> None:
    names = [f"krg{number:04}" for number in range(1, 1001)]
    board = Board(names)
    words = ["sending", "installing", *steps._STATE_OF]
    for number, name in enumerate(names):
        board.take(Planned(name, 5 << 20, restarts=True), 0)
        # No two neighbours in the same state: nothing folds.
        board.take(Step(name, words[number % len(words)]), 0)
    board.take(Sent("krg0001", 1 << 20), 3999)
    for width in (200, 80, 40, 20):
        lines = drawn(board, width)
        assert len(lines) <= 1 + len(steps.STATES) < 24
        assert max(map(len, lines)) <= width
        if width >= 40:
            assert lines[0] == "1:06:40"
            assert re.search(r"(?m)^failed +\d+  krg\[", "\n".join(lines))
            assert re.search(r"(?m)^sending +\d+  1.0 MiB of 4.9 GiB", "\n".join(lines))


def test_elapsed() -> None:
    assert [elapsed(s) for s in (-1, 7.9, 754, 3723)] == ["0:00", "0:07", "12:34", "1:02:03"]
