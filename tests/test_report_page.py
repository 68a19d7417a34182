# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of ``report``: what is on it, that nothing a node says becomes markup, its pictures."""

from __future__ import annotations

import itertools
import math
import re
from html.parser import HTMLParser

import pytest
import report_values as values
from hypothesis import given, settings
from hypothesis import strategies as st

from provision import drawing, report, timeline
from provision.errors import FailedError
from provision.events import Moment

# Elements without an end.
VOID = {"meta", "line", "rect", "circle", "path"}
EVIL = "\"'><script>alert(1)</script><img src=//x onerror=y>\x1b[31m\u202e"


class Page(HTMLParser):
    """The elements of a page; fails where they are not well nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data


@pytest.mark.parametrize("count", [1, 3, 64, 100])
def test_the_page_of_a_cluster(count: int) -> None:
    made = values.make(count)
    page = Page(report.html(made))
    heads = [a["id"] for tag, a in page.tags if tag == "h2"]
    assert heads == ["wrong", "cluster", "nodes", "boots", "config", "runs"]
    names = [tag for tag, _ in page.tags]
    # Nothing that could ask for anything, or run.
    assert not {"script", "img", "link", "iframe", "object", "image", "a", "use"} & set(names)
    assert not any(
        name in ("src", "href") or name.startswith("on") for _, a in page.tags for name in a
    )
    policy = [a["content"] for tag, a in page.tags if a.get("http-equiv")]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    # Each node is drawn, named, and has its row in the two tables.
    for node in made.nodes:
        assert f"{node.node.name}, node {node.node.id}: online" in page.text
    assert sum(tag == "th" and a.get("scope") == "row" for tag, a in page.tags) >= 2 * count
    assert made.links == (count * (count - 1) // 2, 0)
    assert f"{count} node{'s' * (count > 1)}: {count} online; 1 problem" in page.text
    # Everything that is placed is placed at a number.
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if tag in ("rect", "circle", "text", "line") and name in (
                "x",
                "y",
                "x1",
                "cx",
                "width",
            ):
                assert value is not None and math.isfinite(float(value.rstrip("%")))
    assert "url(" not in re.sub(r"url\(#hatch\)", "", report.html(made))


def test_every_state_has_its_own_shape_and_word() -> None:
    made = values.mixed()
    assert [node.state.id for node in made.nodes] == [
        "online", "present", "no-module", "other-kernel", "unreachable", "wrong-ids", "online",
        "online",
    ]  # fmt: skip
    text = Page(report.html(made)).text
    for wrong in (
        "krg5: 10.0.0.5 cannot be reached: timed out",
        "krg3: Kerrighed is not loaded",
        f"krg4: runs the kernel 6.1.0-56-amd64, not {values.RELEASE}",
        "krg6: runs as node 9, the cluster file says 6",
        'give the node append = "time"',
        "the beginning of its kernel's log is gone",
        "its kernel's log was not read",
        "18 links up, 4 lost",
    ):
        assert wrong in text
    assert [p.where for p in made.problems] == [
        "krg2", "krg3", "krg4", "krg5", "krg6", "configuration",
    ]  # fmt: skip


def test_what_nodes_say_stays_text() -> None:
    said = dict.fromkeys(("kernel", "nrnodes", "cmdline", "boot_id"), EVIL)
    blobs = dict([values.journal(1, command=EVIL), values.journal(2, state=EVIL)])
    made = values.make(
        3,
        {1: said, 2: FailedError(EVIL, hint=EVIL), 3: {"node_id": EVIL, "session_id": EVIL}},
        config=values.CONFIG + f'CONFIG_CMDLINE="{EVIL}"\nCONFIG_X={EVIL}\n{EVIL}=y\n',
        logs={1: EVIL, 3: f"[ 1.0] Linux version {EVIL}\n" + EVIL * 3000},
        blobs=blobs,
    )
    html = report.html(made)
    page = Page(html)
    assert "<script>alert(1)" in page.text
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert "\x1b" not in html and "\u202e" not in html


def test_the_time_line() -> None:
    one = timeline.boot(timeline.read_log(values.log(1, [2])), values.moments(), values.MADE)
    assert one.answered == 40 and one.committed == 43
    # The processor's counter had run for 419.5 s when this kernel began.
    assert one.marks == {
        "kernel": 0.0, "root": 11.0, "init": pytest.approx(11.1), "network": 12.5,
        "module": 13.75, "cluster": 40.5,
    }  # fmt: skip
    assert one.rest == 26.25
    kinds = [part.kind for part in timeline.parts(one)]
    assert kinds == ["rest", "root", "init", "network", "module"]
    assert sum(part.seconds for part in timeline.parts(one)) == 40
    # Sent back: the boot that counts is the second one.
    start = values.MADE - 900
    back = (*values.moments(), Moment(start + 60, "going back"), Moment(start + 90, "ended"))
    assert timeline.boot(None, back, values.MADE).answered is None
    # A kernel that has been up for longer than since the restart is another boot's.
    old = timeline.read_log("Linux version 1\n[ 0.1] x\n[ 5000.0] y\n")
    assert timeline.boot(old, values.moments(), values.MADE).rest is None


number = st.floats(0, 1e9, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 254), st.lists(st.tuples(st.integers(-3, 300), st.integers(-3, 300))))
def test_pictures_have_room_for_every_node(count: int, pairs: list[tuple[int, int]]) -> None:
    made = drawing.picture(count, pairs)
    assert len(made.spots) == count
    for spot in made.spots:
        assert spot.radius <= spot.x <= made.width - spot.radius
        assert spot.radius <= spot.y <= made.height - spot.radius
    for n, a in enumerate(made.spots):
        for b in made.spots[n + 1 :]:
            assert math.dist((a.x, a.y), (b.x, b.y)) > a.radius + b.radius
    assert re.fullmatch(r"(M[\d. ]+L[\d. ]+)*", made.links)


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=300), st.lists(st.tuples(number, st.sampled_from(["restarting", "up", "x"])))
)
def test_any_log_and_journal_give_finite_numbers(text: str, steps: list[tuple[float, str]]) -> None:
    log = timeline.read_log(f"[ 1.5] Linux version\n[99999999.9] VFS: Mounted root (\n{text}")
    moments = sorted((Moment(at, step) for at, step in steps), key=lambda m: m.time)
    one = timeline.boot(log, moments, 1e9)
    found = timeline.parts(one)
    assert all(part.seconds >= 0 and math.isfinite(part.end) for part in found)
    assert all(a.end == b.start for a, b in itertools.pairwise(found))
    ticks = timeline.ticks(one.length)
    assert ticks[-1] >= one.length and len(ticks) <= 10
