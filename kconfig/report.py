# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings as text: a table for people, and what CI systems and editors read.

Values in, text out. Each format imports what it needs when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kconfig.finding import SEVERITIES, Finding, at_or_above

# Symbols listed under one rule of the table; json has them all.
SHOWN = 20
# Characters shown of one text; the longest list of symbols in a shipped policy is shorter.
_LONGEST = 1000
_LEVELS = {"required": "error", "recommended": "warning", "info": "note"}
_COLOURS = {"required": "31", "recommended": "33", "info": "36"}
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


class Report(NamedTuple):
    """The outcome of a run: ``files`` were checked, ``known`` and ``ignored`` only counted."""

    findings: Sequence[Finding]
    files: Sequence[str]
    fail_on: str = "required"
    known: int = 0
    ignored: int = 0
    tool_version: str = "0"

    @property
    def failed(self) -> bool:
        """Tell whether there is a finding as bad as ``fail_on``, or worse."""
        return any(at_or_above(f.severity, self.fail_on) for f in self.findings)


def printable(text: str) -> str:
    """Return ``text`` in one line without control characters, which a terminal would obey.

    Of a value as long as a book only the beginning is shown; json has all of it.
    """
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def table(report: Report, *, colour: bool = False) -> str:
    """Return what people read: by file and rule, each with its reason and who says so."""

    def paint(code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if colour else text

    lines: list[str] = []
    for name in report.files:
        groups: dict[tuple[int, str, str, str], list[Finding]] = {}
        for finding in report.findings:
            if finding.file == name:
                rank = SEVERITIES.index(finding.severity)
                group = (rank, finding.rule, finding.why, finding.source)
                groups.setdefault(group, []).append(finding)
        if not groups:
            continue
        lines += [paint("1", printable(name)), ""]
        for (rank, rule, why, source), found in sorted(groups.items(), key=lambda item: item[0]):
            severity = SEVERITIES[rank]
            lines.append(f"  {paint(_COLOURS[severity], severity)} {paint('1', printable(rule))}")
            lines += [f"    {line}" for line in _wrap(printable(why))]
            if source:
                lines.append(f"    says: {printable(source)}")
            lines += _rows(found)
            lines.append("")
    lines.append(summary(report))
    return "\n".join(lines) + "\n"


def _wrap(text: str, width: int = 92) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def _rows(found: Sequence[Finding]) -> list[str]:
    rows = [
        (f"{f.line or '-'}:", f.symbol, f"{f.have}{', wanted ' + f.want if f.want else ''}", f.fix)
        for f in found[:SHOWN]
    ]
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [min(max(len(row[n]) for row in cells), 44) for n in range(3)]
    lines = []
    for number, symbol, have, fix in cells:
        start = f"    {number:>6} {symbol:<{widths[1]}} " if widths[1] else f"    {number:>6} "
        lines.append(f"{start}{have:<{widths[2]}}  -> {fix}" if fix else f"{start}{have}")
    if len(found) > SHOWN:
        lines.append(f"           ... and {len(found) - SHOWN} more (--format json has them all)")
    return lines


def summary(report: Report) -> str:
    """Return the last line of the table: what was checked and what was found."""
    files = len(report.files)
    counts = [
        f"{number} {severity}"
        for severity in SEVERITIES
        if (number := sum(f.severity == severity for f in report.findings))
    ]
    text = f"{files} file{'' if files == 1 else 's'}: {', '.join(counts) or 'no findings'}"
    for number, word in ((report.known, "known"), (report.ignored, "ignored")):
        if number:
            text += f", {number} {word}"
    return text


def as_json(report: Report) -> str:
    """Return everything, one object per finding."""
    import json

    return (
        json.dumps(
            {
                "format": 1,
                "files": list(report.files),
                "failed": report.failed,
                "fail_on": report.fail_on,
                "known": report.known,
                "ignored": report.ignored,
                "findings": [f._asdict() for f in report.findings],
            },
            indent=1,
        )
        + "\n"
    )


def sarif(report: Report) -> str:
    """Return SARIF 2.1.0, which code hosts show beside the lines."""
    import json
    import os
    import urllib.parse

    rules: dict[str, dict[str, object]] = {}
    numbers: dict[str, int] = {}
    for f in report.findings:
        if f.rule not in rules:
            numbers[f.rule] = len(rules)
            rules[f.rule] = {
                "id": f.rule,
                "shortDescription": {"text": printable(f.why)},
                "help": {"text": printable(f"{f.why} Source: {f.source or 'krg-provision'}.")},
                "defaultConfiguration": {"level": _LEVELS[f.severity]},
            }
    results = []
    for f in report.findings:
        uri = urllib.parse.quote(os.fsencode(f.file))
        place: dict[str, object] = {"artifactLocation": {"uri": uri}}
        if f.line:
            place["region"] = {"startLine": f.line}
        results.append(
            {
                "ruleId": f.rule,
                "ruleIndex": numbers[f.rule],
                "level": _LEVELS[f.severity],
                "message": {"text": printable(_sentence(f))},
                "locations": [{"physicalLocation": place}],
                "partialFingerprints": {"krg/v1": _digest(f)},
            }
        )
    driver = {
        "name": "krg-provision",
        "semanticVersion": report.tool_version,
        "rules": list(rules.values()),
    }
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _digest(finding: Finding) -> str:
    import hashlib

    parts = (finding.rule, finding.symbol, finding.have)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _sentence(f: Finding) -> str:
    fix = f" Fix: {f.fix}." if f.fix else ""
    return f"{f.message}. {f.why}{fix}" if f.message != f.why else f"{f.why}{fix}"


def junit(report: Report) -> str:
    """Return JUnit's XML: a suite per file, a case per finding, one passed case when clean."""
    from xml.sax.saxutils import escape, quoteattr

    def attribute(text: str) -> str:
        return quoteattr(printable(text))

    suites = []
    failures = 0
    for name in report.files:
        found = [f for f in report.findings if f.file == name]
        failing = sum(at_or_above(f.severity, report.fail_on) for f in found)
        failures += failing
        cases = []
        for f in found:
            case = f"{f.rule}: {f.symbol or f.have}{f' (line {f.line})' if f.line else ''}"
            body = escape(printable(_sentence(f)))
            if at_or_above(f.severity, report.fail_on):
                inside = (
                    f"<failure message={attribute(f.message)} type={attribute(f.severity)}>"
                    f"{body}</failure>"
                )
            else:
                inside = f"<system-out>{escape(f.severity)}: {body}</system-out>"
            cases.append(
                f'<testcase classname={attribute(name)} name={attribute(case)} time="0">'
                f"{inside}</testcase>"
            )
        if not found:
            cases.append(f'<testcase classname={attribute(name)} name="config lint" time="0"/>')
        suites.append(
            f'<testsuite name={attribute(name)} tests="{len(cases)}" failures="{failing}" '
            f'errors="0" skipped="0" time="0">\n' + "\n".join(cases) + "\n</testsuite>"
        )
    total = sum(max(1, sum(f.file == name for f in report.findings)) for name in report.files)
    head = f'<testsuites name="krg-provision" tests="{total}" failures="{failures}" errors="0">'
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + "\n".join(
        [head, *suites, "</testsuites>\n"]
    )


def github(report: Report) -> str:
    """Return workflow commands, which GitHub shows beside the lines of a change."""

    def data(text: str) -> str:
        return printable(text).replace("%", "%25")

    lines = []
    for f in report.findings:
        kind = {"required": "error", "recommended": "warning", "info": "notice"}[f.severity]
        where = f"file={_property(data(f.file))}" + (f",line={f.line}" if f.line else "")
        lines.append(f"::{kind} {where},title={_property(data(f.rule))}::{data(_sentence(f))}")
    return "".join(f"{line}\n" for line in [*lines, summary(report)])


def _property(text: str) -> str:
    return text.replace(":", "%3A").replace(",", "%2C")


def markdown(report: Report) -> str:
    """Return tables for a comment on a change, or a job's summary."""

    def cell(text: str) -> str:
        text = printable(text)
        for special in ("\\", "|", "<", ">", "*", "_", "[", "]", "`"):
            text = text.replace(special, f"\\{special}")
        return text

    lines = []
    for name in report.files:
        found = [f for f in report.findings if f.file == name]
        if not found:
            continue
        lines += [f"### {cell(name)}", "", "| | line | symbol | is | wanted | why | fix |",
                  "|---|---|---|---|---|---|---|"]  # fmt: skip
        for f in sorted(found, key=lambda f: SEVERITIES.index(f.severity)):
            why = f"{f.why} ({f.source})" if f.source else f.why
            row = (f.severity, str(f.line or ""), f.symbol, f.have, f.want, why, f.fix)
            lines.append("| " + " | ".join(map(cell, row)) + " |")
        lines.append("")
    return "\n".join([*lines, summary(report)]) + "\n"


FORMATS: dict[str, Callable[[Report], str]] = {
    "table": table,
    "json": as_json,
    "sarif": sarif,
    "junit": junit,
    "github": github,
    "markdown": markdown,
}
