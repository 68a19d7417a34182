# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies: which values symbols must have, each with its reason and its source.

A policy is policies/NAME.toml or the user's own file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kconfig.errors import KconfigError

SEVERITIES = ("required", "recommended", "info")
SYMBOL = re.compile(r"[A-Za-z0-9_]+")
_POLICIES = Path(__file__).resolve().parent / "policies"


@dataclass(frozen=True)
class Rule:
    """``symbols`` may have the values in ``want``; the first is the one to set."""

    id: str
    symbols: tuple[str, ...]
    want: tuple[str, ...]
    severity: str
    why: str
    source: str
    arch: str | None


@dataclass(frozen=True)
class Policy:
    """A named list of rules."""

    name: str
    title: str
    rules: tuple[Rule, ...]

    def identity(self) -> object:
        """Return what decides a configuration: not the reasons."""
        return [(r.symbols, r.want, r.arch, r.severity) for r in self.rules]

    def for_arch(self, arch: str) -> tuple[Rule, ...]:
        """Return the rules that hold on ``arch``."""
        return tuple(rule for rule in self.rules if rule.arch in (None, arch))


def names() -> list[str]:
    """Return the names of the policies shipped."""
    return sorted(path.stem for path in _POLICIES.glob("*.toml"))


def load(name: str) -> Policy:
    """Read a shipped policy by name, or a file when ``name`` ends in .toml.

    :raises KconfigError: no such policy, or the file is wrong; says where.
    """
    path = Path(name) if name.endswith(".toml") else _POLICIES / f"{name}.toml"
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise KconfigError(f"no policy {name} (there are: {', '.join(names())})") from error
    return parse(text, str(path))


def parse(text: str, where: str) -> Policy:
    """Return the Policy a TOML text describes; ``where`` names it in errors."""
    try:
        raw = tomllib.loads(text)
        rules = tuple(_rule(r, where) for r in raw["rule"])
        return Policy(raw["name"], raw["title"], rules)
    except tomllib.TOMLDecodeError as error:
        raise KconfigError(f"{where}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise KconfigError(f"{where}: {error} is missing or of the wrong type") from error


def _rule(raw: Mapping[str, Any], where: str) -> Rule:
    rule = Rule(
        raw["id"],
        tuple(raw["symbols"]),
        tuple(raw["want"]),
        raw.get("severity", "required"),
        raw["why"],
        raw["source"],
        raw.get("arch"),
    )
    for name in rule.symbols:
        if not SYMBOL.fullmatch(name):
            raise KconfigError(f"{where}: rule {rule.id}: {name!r} is not a symbol's name")
    if not rule.symbols or not rule.want:
        raise KconfigError(f"{where}: rule {rule.id}: symbols and want must not be empty")
    if rule.severity not in SEVERITIES:
        raise KconfigError(f"{where}: rule {rule.id}: severity {rule.severity!r}?")
    return rule
