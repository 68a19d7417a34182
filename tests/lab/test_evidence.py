# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading what nodes say; modules.dep; the counter itself, run here."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from provision.errors import MissingError
from provision.lab.evidence import Sample, parse_sample, processor
from provision.lab.image import dependencies
from provision.lab.userland import program


def test_processor_of_a_process() -> None:
    mine = Path("/proc/self/stat").read_text()
    fields = mine.rpartition(")")[2].split()
    assert processor(mine) == int(fields[36])
    tail = " ".join(["S", *(["0"] * 35), "64", "0"])
    assert processor(f"7 (a) {tail[:60]}") is None
    assert processor(f"7 (a ) b) {tail}") == 64
    assert processor("") is None


@pytest.mark.parametrize("text", ["", "7 8", "7 8 9", "x 8 9 intact", "7 8 9 intact more"])
def test_half_a_sample(text: str) -> None:
    assert parse_sample(text) is None


def test_modules_dep() -> None:
    text = "extra/a.ko: extra/k.ko kernel/b.ko\nextra/k.ko:\n\n"
    assert dependencies(text) == {"extra/a.ko": ("extra/k.ko", "kernel/b.ko"), "extra/k.ko": ()}


def test_the_counter_counts(tmp_path: Path) -> None:
    try:
        binary = program("counter", "x86_64")
    except MissingError as error:
        pytest.skip(f"{error}; {error.hint}")
    file = tmp_path / "count"
    with subprocess.Popen([binary, file]) as process:
        try:
            deadline = time.monotonic() + 20
            seen: list[Sample] = []
            while len(seen) < 3:
                assert time.monotonic() < deadline
                sample = parse_sample(file.read_text()) if file.exists() else None
                if sample and (not seen or sample.count > seen[-1].count):
                    seen.append(sample)
        finally:
            process.kill()
    # No Kerrighed here, so it is on no node.
    assert {(s.pid, s.node, s.memory) for s in seen} == {(process.pid, -1, "intact")}
    assert len(file.read_text().splitlines()) == 1
