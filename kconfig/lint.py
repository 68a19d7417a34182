# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks a configuration against policies. No tree is needed, and nothing heavy is imported.

What only a tree can tell is in kconfig/lint_tree.py, what only a machine in crosscheck.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from kconfig.condition import hold
from kconfig.config_file import Assignment, ConfigFile
from kconfig.finding import Finding
from kconfig.policy import Policy, Rule, Version, applicable

CONFDATA = "the kernel's scripts/kconfig/confdata.c"


class Subject(NamedTuple):
    """A configuration and what is known about it: kernel version, architecture, facts.

    ``final`` has the values that the tree gives all symbols in the end, when there is a tree.
    """

    config: ConfigFile
    version: Version | None
    arch: str
    facts: Mapping[str, str] = MappingProxyType({})
    final: Mapping[str, str] | None = None

    @property
    def assigned(self) -> Mapping[str, Assignment]:
        """Return the assignments that count."""
        return self.config.values(self.version)


def lint(subject: Subject, policies: Sequence[Policy]) -> list[Finding]:
    """Return what is wrong with the text itself, and what the policies say about it."""
    return [
        *spelling(subject),
        *duplicates(subject),
        *mismatch(subject),
        *(finding for policy in policies for finding in check(subject, policy)),
    ]


def spelling(subject: Subject) -> list[Finding]:
    """Return a finding for each line that is not what it seems to be."""
    return [
        Finding(
            "config/spelling", p.severity, p.symbol, f"`{p.have}`", "", p.why,
            # The kernel knows no comments of ours.
            "" if "krg-lint" in p.have else CONFDATA,
            p.fix, subject.config.name, p.line,
        )
        for p in subject.config.problems
    ]  # fmt: skip


def duplicates(subject: Subject) -> list[Finding]:
    """Return a finding for each line that another line of the same symbol makes void."""
    findings = []
    for void, kept in subject.config.duplicates(subject.version):
        same = void.value == kept.value
        which = "first" if kept.line < void.line else "last"
        findings.append(
            Finding(
                "config/duplicate", "info" if same else "required", void.symbol,
                f"`{void.value}` here, `{kept.value}` in line {kept.line}", "",
                f"of two assignments this kernel takes the {which}; this line has no effect",
                CONFDATA, f"remove line {void.line}", subject.config.name, void.line,
            )
        )  # fmt: skip
    return findings


def mismatch(subject: Subject) -> list[Finding]:
    """Return a finding when the file says it is for another kernel or another machine."""
    config = subject.config
    findings = []
    if config.version is not None and _series(config.version) != _series(
        subject.version or config.version
    ):
        findings.append(
            Finding(
                "config/version", "recommended", "", f"made for Linux {_dots(config.version)}",
                _dots(subject.version), "symbols come, go and change their meaning", "",
                "make olddefconfig (oldconfig in old trees), and look at what changed",
                config.name, 1,
            )
        )  # fmt: skip
    same = {config.arch, subject.arch} <= {"x86", "i386", "x86_64"} and "x86" in (
        config.arch, subject.arch,
    )  # fmt: skip
    if config.arch and subject.arch and config.arch != subject.arch and not same:
        findings.append(
            Finding(
                "config/arch", "required", "", f"made for {config.arch}", subject.arch,
                "the processor, its buses and most drivers are others", "",
                f"start from the defconfig of {subject.arch}", config.name, 1,
            )
        )  # fmt: skip
    return findings


def _series(version: Version) -> tuple[int, ...]:
    """Return what tells kernels apart: since 3.0 the third number counts corrections only."""
    return version if version < (3, 0, 0) else version[:2]


def _dots(version: Version | None) -> str:
    return ".".join(map(str, version or ()))


def check(subject: Subject, policy: Policy) -> list[Finding]:
    """Return what a policy finds."""
    assigned = subject.assigned
    values = subject.final
    if values is None:
        values = {name: a.value for name, a in assigned.items()}
    rules, unsure = applicable(policy.rules, subject.version, subject.arch)
    findings = []
    for rule in rules:
        if rule.when and not hold(rule.when, values, subject.facts):
            continue
        findings += _rule(rule, assigned, values, subject.config.name)
    if unsure:
        findings.append(
            Finding(
                "config/version", "info", "", f"{len(unsure)} rules of {policy.name} not applied",
                "", "they are for certain kernel versions, and the file does not say its own",
                "", "say --kernel-version", subject.config.name, 0,
            )
        )  # fmt: skip
    return findings


def _rule(
    rule: Rule, assigned: Mapping[str, Assignment], values: Mapping[str, str], name: str
) -> list[Finding]:
    wrong = [s for s in rule.symbols if not rule.want.accepts(values.get(s, "n"))]
    if not wrong or (rule.any and len(wrong) < len(rule.symbols)):
        return []
    if rule.any:
        symbols = ", ".join(rule.symbols)
        fix = f"set one of them, for example {setting(wrong[0], rule.want.nearest('n'))}"
        return [
            Finding(
                rule.name, rule.severity, "", f"none of {symbols}", str(rule.want), rule.why,
                rule.source, fix, name, 0,
            )
        ]  # fmt: skip
    findings = []
    for symbol in wrong:
        have = assigned.get(symbol)
        value = values.get(symbol, "n")
        shown = "not set" if have is None and value == "n" else value
        if have and have.quoted:
            shown = f'"{value}"'
        findings.append(
            Finding(
                rule.name, rule.severity, symbol, shown, str(rule.want), rule.why, rule.source,
                setting(symbol, rule.want.nearest(value)), name, have.line if have else 0,
            )
        )  # fmt: skip
    return findings


def setting(symbol: str, value: str) -> str:
    """Return the line of a .config that gives ``symbol`` a value."""
    if value == "n":
        return f"# CONFIG_{symbol} is not set"
    if value in ("y", "m") or value.lstrip("-").isdigit() or value.startswith("0x"):
        return f"CONFIG_{symbol}={value}"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'CONFIG_{symbol}="{escaped}"'
