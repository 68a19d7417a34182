# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings that somebody has accepted: by a comment in the file, or in a baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from kconfig.config_file import ConfigFile
from kconfig.errors import KconfigError
from kconfig.finding import Finding

_FORMAT = 1
_KEY = ("file", "rule", "symbol", "have")
Key = tuple[str, ...]


def ignore(findings: Sequence[Finding], config: ConfigFile) -> tuple[list[Finding], list[Finding]]:
    """Split findings into those left, and those the file's own comments ignore.

    A comment that ignores nothing becomes a finding: it hides the next mistake.
    """
    if not config.ignores:
        return list(findings), []
    used = set()
    left: list[Finding] = []
    ignored: list[Finding] = []
    for finding in findings:
        names = {finding.rule, finding.rule.partition("/")[2]}
        names |= {f"{name}:{finding.symbol}" for name in names}
        by = [number for number, entry in enumerate(config.ignores) if entry.rule in names]
        used.update(by)
        (ignored if by else left).append(finding)
    for number, entry in enumerate(config.ignores):
        if number not in used:
            left.append(
                Finding(
                    "config/ignore", "info", "", f"`{entry.rule}` ignores nothing", "",
                    "a comment without effect would hide the next mistake", "",
                    f"remove line {entry.line}", config.name, entry.line,
                )
            )  # fmt: skip
    return left, ignored


def key(finding: Finding) -> Key:
    """Return what tells a finding from another when lines move: no line number, no reason."""
    return finding.file, finding.rule, finding.symbol, finding.have


def dump(findings: Iterable[Finding]) -> str:
    """Return a baseline's text; the same findings always give the same text."""
    import json

    entries = [dict(zip(_KEY, key(finding), strict=True)) for finding in findings]
    entries.sort(key=lambda entry: tuple(entry.values()))
    return json.dumps({"baseline": _FORMAT, "known": entries}, indent=1) + "\n"


def load(text: str, where: str) -> Counter[Key]:
    """Return what a baseline knows; KconfigError, with its name, when it is none."""
    import json

    try:
        raw = json.loads(text)
        if raw["baseline"] != _FORMAT:
            raise KconfigError(f"{where}: a baseline of format {str(raw['baseline'])[:20]}")
        entries = [tuple(entry[name] for name in _KEY) for entry in raw["known"]]
        if not all(isinstance(part, str) for entry in entries for part in entry):
            raise TypeError
        return Counter(entries)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise KconfigError(f"{where}: not a baseline of this program") from error


def split(findings: Sequence[Finding], known: Counter[Key]) -> tuple[list[Finding], list[Finding]]:
    """Split findings into new ones and known ones; each known entry stands for one finding."""
    rest = known.copy()
    new, old = [], []
    for finding in findings:
        if rest[key(finding)] > 0:
            rest[key(finding)] -= 1
            old.append(finding)
        else:
            new.append(finding)
    return new, old
