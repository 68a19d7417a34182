# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies: which values symbols must have, each with its reason and its source.

A policy is policies/NAME.toml or the user's own file; docs/lint.md describes the format.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kconfig.condition import SYMBOL, Term, Want, parse_terms, parse_want
from kconfig.errors import KconfigError
from kconfig.finding import SEVERITIES

__all__ = ["SEVERITIES", "SYMBOL", "Policy", "Rule", "check_together", "load", "names", "parse"]

Version = tuple[int, int, int]

_POLICIES = Path(__file__).resolve().parent / "policies"
_MOST_BYTES = 256 << 10
# Policies that extend one another; real ones are two or three.
_DEEPEST = 10
# The parser takes hours for a key of thousands of parts.
_WORD = r"""(?:(?<![\w-])[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"{_WORD}(?:[ \t]*\.[ \t]*{_WORD}){{40}}")
_VERSION = re.compile(r"(\d{1,5})\.(\d{1,5})(?:\.(\d{1,5}))?")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RULE_LINE = re.compile(r"^[ \t]*\[\[[ \t]*rule[ \t]*\]\]", re.MULTILINE)
_KERNEL_LINE = re.compile(r'^kernel = "([^"]*)"$', re.MULTILINE)
_KEYS = frozenset(
    ("id", "symbols", "want", "need", "severity", "why", "source", "since", "until", "arch", "when")
)
_OVERRIDE_KEYS = _KEYS | {"override", "drop", "without"}
_POLICY_KEYS = frozenset(("name", "title", "kernel", "extends", "rule"))
_END = 99999


class Rule(NamedTuple):
    """``symbols`` may have the values in ``want``: all of them, or with ``any`` at least one.

    ``since`` and ``until`` (inclusive) are kernel versions, ``arch`` is one architecture,
    ``when`` further conditions; ``place`` is the policy file and line, for messages.
    """

    id: str
    symbols: tuple[str, ...]
    want: Want
    severity: str
    why: str
    source: str
    arch: str | None = None
    since: Version | None = None
    until: Version | None = None
    when: tuple[Term, ...] = ()
    any: bool = False
    policy: str = ""
    place: str = ""

    @property
    def name(self) -> str:
        """Return what reports call it: POLICY/ID."""
        return f"{self.policy}/{self.id}"

    def covers(self, version: Version | None, arch: str) -> bool | None:
        """Tell whether it is for this kernel; None when that depends on an unknown version."""
        if self.arch is not None and arch and self.arch != arch:
            return False
        if version is None:
            return None if self.since or self.until else True
        return (self.since or version) <= version <= (self.until or version)

    def meets(self, other: Rule) -> bool:
        """Tell whether there can be a kernel that both are for, under the same conditions."""
        if self.arch is not None and other.arch is not None and self.arch != other.arch:
            return False
        latest = max(self.since or (0, 0, 0), other.since or (0, 0, 0))
        earliest = min(self.until or (_END, 0, 0), other.until or (_END, 0, 0))
        return latest <= earliest and (self.when == other.when or not (self.when and other.when))


class Policy(NamedTuple):
    """A named list of rules, those of the policies it extends included."""

    name: str
    title: str
    rules: tuple[Rule, ...]
    kernel: Version | None = None

    def identity(self) -> object:
        """Return what decides a configuration: not the reasons."""
        return [
            (
                r.symbols, str(r.want), r.arch, r.severity, r.since, r.until,
                [str(term) for term in r.when], r.any,
            )
            for r in self.rules
        ]  # fmt: skip

    def for_arch(self, arch: str) -> tuple[Rule, ...]:
        """Return the rules that hold on ``arch`` in any case: those without other conditions."""
        return tuple(
            rule
            for rule in self.rules
            if rule.arch in (None, arch) and not (rule.when or rule.any or rule.since or rule.until)
        )


def names() -> list[str]:
    """Return the names of the policies shipped, those of a release first."""
    stems = (path.stem for path in _POLICIES.glob("*.toml"))
    return sorted(stems, key=lambda stem: (not stem[-1].isdigit(), stem))


def load(name: str) -> Policy:
    """Read a shipped policy by name, or a file when ``name`` ends in .toml.

    :raises KconfigError: no such policy, or the file is wrong; says where.
    """
    return _load(name, _Loading())


class _Loading:
    """The policies that are being read, each extended by the one before, and those read."""

    def __init__(self) -> None:
        self.chain: list[str] = []
        self.done: dict[str, Policy] = {}


def _load(name: str, loading: _Loading, near: Path | None = None) -> Policy:
    if name.endswith(".toml"):
        path = Path(name) if near is None else near / name
    elif re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        path = _POLICIES / f"{name}.toml"
    else:
        raise KconfigError(f"no policy {name[:60]!r} (there are: {', '.join(names())})")
    real = str(path.resolve())
    if real in loading.done:
        return loading.done[real]
    if real in loading.chain:
        raise KconfigError(f"{path}: extends itself, by way of {Path(loading.chain[-1]).name}")
    if len(loading.chain) > _DEEPEST:
        raise KconfigError(f"{path}: more than {_DEEPEST} policies that extend each other")
    text = _text(path, name)
    loading.chain.append(real)
    loading.done[real] = parse(text, str(path), _loading=loading)
    loading.chain.pop()
    return loading.done[real]


def _text(path: Path, name: str) -> str:
    try:
        # A named pipe would be waited for without end, a device read without end.
        if not path.is_file() and path.exists():
            raise KconfigError(f"{path}: not a regular file")
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise KconfigError(f"{path}: more than {_MOST_BYTES >> 10} KiB: not a policy")
        return data.decode("utf-8-sig")
    except UnicodeError as error:
        raise KconfigError(f"{path}: cannot be read as text ({error})") from error
    except OSError as error:
        if path.parent == _POLICIES and not path.exists():
            raise KconfigError(f"no policy {name} (there are: {', '.join(names())})") from error
        raise KconfigError(f"{path}: {error.strerror}") from error


def parse(text: str, where: str, *, _loading: _Loading | None = None) -> Policy:
    """Return the Policy a TOML text describes; ``where`` names it in errors.

    :raises KconfigError: no TOML, a key that is missing, unknown or of the wrong type,
        two rules that contradict each other; all with their place.
    """
    raw = _parsed(text, where)
    for key in ("name", "title", "rule"):
        if key not in raw:
            raise KconfigError(f"{where}: {key!r} is missing")
    _known(raw, _POLICY_KEYS, where)
    if not isinstance(raw["rule"], list) or not all(isinstance(r, dict) for r in raw["rule"]):
        raise KconfigError(f"{where}: 'rule' is of the wrong type: each rule begins with [[rule]]")
    name, title = _word(raw, "name", where), _word(raw, "title", where)
    kernel = _version(raw, "kernel", where)
    inherited: dict[str, Rule] = {}
    for other in _texts(raw.get("extends", []), "extends", where):
        try:
            extended = _load(other, _loading or _Loading(), Path(where).parent)
        except KconfigError as error:
            raise KconfigError(f"{where}: extends {other[:60]}: {error}") from error
        kernel = kernel or extended.kernel
        for rule in extended.rules:
            if rule.id in inherited and inherited[rule.id] != rule:
                first = inherited[rule.id].place
                raise KconfigError(f"{where}: rule {rule.id} is in {first} and in {rule.place}")
            inherited[rule.id] = rule
    lines = [text.count("\n", 0, m.start()) + 1 for m in _RULE_LINE.finditer(text)]
    numbered = len(lines) == len(raw["rule"])
    own: dict[str, Rule] = {}
    for number, entry in enumerate(raw["rule"]):
        place = f"{where}:{lines[number]}" if numbered else where
        new = _rule_or_override(entry, place, name, inherited)
        if new is None:
            continue
        if new.id in own:
            raise KconfigError(f"{place}: rule {new.id} is already in {own[new.id].place}")
        own[new.id] = new
    rules = (*inherited.values(), *own.values())
    check_together(rules)
    return Policy(name, title, rules, kernel)


def _parsed(text: str, where: str) -> dict[str, Any]:
    odd = _LONG_KEY.search(text)
    if odd:
        line = text.count("\n", 0, odd.start()) + 1
        raise KconfigError(f"{where}:{line}: a name of more than 40 parts: not a policy")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise KconfigError(f"{where}: {error}") from error
    except RecursionError as error:
        raise KconfigError(f"{where}: too deeply nested: not a policy") from error
    except ValueError as error:
        what = str(error).partition(";")[0]
        raise KconfigError(f"{where}: a number or date that is none ({what})") from error


def check_together(rules: Iterable[Rule]) -> None:
    """Accept rules that can all be followed.

    :raises KconfigError: two of them want of one symbol what cannot both be; names both.
    """
    by_symbol: dict[str, dict[Want, list[Rule]]] = {}
    # Rules that want the same are not compared; wants are compared once.
    opposed: dict[tuple[Want, Want], bool] = {}
    for rule in rules:
        if rule.any and len(rule.symbols) > 1:
            continue
        for symbol in rule.symbols:
            wants = by_symbol.setdefault(symbol, {})
            for want, others in wants.items():
                pair = (rule.want, want)
                if pair not in opposed:
                    opposed[pair] = rule.want.excludes(want)
                other = next(filter(rule.meets, others), None) if opposed[pair] else None
                if other is not None:
                    raise KconfigError(
                        f"{rule.place}: rule {rule.id} wants {symbol} to be {rule.want}, but rule "
                        f"{other.id} in {other.place} wants {other.want}"
                    )
            wants.setdefault(rule.want, []).append(rule)


def _rule_or_override(
    raw: Mapping[str, Any], place: str, policy: str, inherited: dict[str, Rule]
) -> Rule | None:
    """Return a new rule; an override changes ``inherited`` in place and gives None."""
    if not raw.get("override"):
        rule = _rule(raw, place, policy)
        if rule.id in inherited:
            raise KconfigError(
                f"{place}: rule {rule.id} is already in {inherited[rule.id].place}; "
                "to change it, say override = true"
            )
        return rule
    for key in ("override", "drop"):
        if not isinstance(raw.get(key, True), bool):
            raise KconfigError(f"{place}: {key!r} is of the wrong type: true or false")
    _known(raw, _OVERRIDE_KEYS, place)
    name = _word(raw, "id", place)
    if name not in inherited:
        raise KconfigError(f"{place}: rule {name} overrides nothing: no extended policy has it")
    old = inherited[name]
    without = _texts(raw.get("without", []), "without", f"{place}: rule {name}")
    odd = [symbol for symbol in without if symbol not in old.symbols]
    if odd:
        raise KconfigError(f"{place}: rule {name}: {odd[0]} is not among its symbols")
    symbols = tuple(s for s in old.symbols if s not in without)
    if raw.get("drop", False) or not symbols:
        del inherited[name]
        return None
    changes = _fields({**_defaults(old), **raw}, place, _OVERRIDE_KEYS)
    if "symbols" not in raw:
        changes["symbols"] = symbols
    for key in ("want", "when", "since", "until"):
        if key not in raw:
            del changes[key]
    inherited[name] = old._replace(**changes, policy=policy, place=place)
    return None


def _defaults(rule: Rule) -> dict[str, Any]:
    """Return a rule as the file would have it, as far as an override may leave it out."""
    raw: dict[str, Any] = {
        "id": rule.id, "symbols": list(rule.symbols), "severity": rule.severity, "why": rule.why,
        "source": rule.source, "want": "y", "need": "any" if rule.any else "all",
    }  # fmt: skip
    return raw | ({"arch": rule.arch} if rule.arch else {})


def _rule(raw: Mapping[str, Any], place: str, policy: str) -> Rule:
    return Rule(**_fields(raw, place, _KEYS), policy=policy, place=place)


def _fields(raw: Mapping[str, Any], place: str, keys: frozenset[str]) -> dict[str, Any]:
    name = _word(raw, "id", place)
    if not _ID.fullmatch(name):
        raise KconfigError(f"{place}: {name[:60]!r} is not a rule's name")
    where = f"{place}: rule {name}"
    _known(raw, keys, where)
    symbols = _texts(_value(raw, "symbols", where), "symbols", where)
    for symbol in symbols:
        if not SYMBOL.fullmatch(symbol):
            raise KconfigError(f"{where}: {symbol[:60]!r} is not a symbol's name")
        if symbol.startswith("CONFIG_"):
            raise KconfigError(f"{where}: {symbol[:60]!r}: say it without CONFIG_")
    seen: set[str] = set()
    for symbol in symbols:
        if symbol in seen:
            raise KconfigError(f"{where}: {symbol[:60]} is twice among its symbols")
        seen.add(symbol)
    if not symbols or raw.get("want") == []:
        raise KconfigError(f"{where}: symbols and want must not be empty")
    severity = raw.get("severity", "required")
    if severity not in SEVERITIES:
        raise KconfigError(f"{where}: severity {severity!r}? It is {', '.join(SEVERITIES)}")
    need = raw.get("need", "all")
    if need not in ("all", "any"):
        raise KconfigError(f"{where}: need {need!r}? It is all or any")
    try:
        want = parse_want(_value(raw, "want", where))
        when = parse_terms(raw.get("when", []))
    except ValueError as error:
        raise KconfigError(f"{where}: {error}") from error
    since, until = _version(raw, "since", where), _version(raw, "until", where, end=True)
    if since and until and since > until:
        raise KconfigError(
            f"{where}: no kernel is {raw['since']} or later and at most {raw['until']}"
        )
    return {
        "id": name, "symbols": symbols, "want": want, "severity": severity,
        "why": _word(raw, "why", where), "source": _word(raw, "source", where),
        "arch": _word(raw, "arch", where) if "arch" in raw else None,
        "since": since, "until": until, "when": when, "any": need == "any",
    }  # fmt: skip


def _known(raw: Mapping[str, Any], keys: frozenset[str], where: str) -> None:
    for key in raw:
        if key not in keys:
            raise KconfigError(
                f"{where}: unknown key {key[:60]!r} (known: {', '.join(sorted(keys))})"
            )


def _value(raw: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in raw:
        raise KconfigError(f"{where}: {key!r} is missing")
    return raw[key]


def _word(raw: Mapping[str, Any], key: str, where: str) -> str:
    value = _value(raw, key, where)
    if not isinstance(value, str) or not value.strip():
        raise KconfigError(f"{where}: {key!r} is of the wrong type: it must be a text")
    return value


def _texts(value: Any, key: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise KconfigError(f"{where}: {key!r} is of the wrong type: it must be a list of texts")
    return tuple(value)


def _version(raw: Mapping[str, Any], key: str, where: str, *, end: bool = False) -> Version | None:
    """Return a kernel version; with ``end``, 6.1 means the last of all 6.1.x."""
    if key not in raw:
        return None
    match = _VERSION.fullmatch(raw[key]) if isinstance(raw[key], str) else None
    if not match:
        raise KconfigError(f"{where}: {key} {str(raw[key])[:60]!r} is not a version such as 2.6.20")
    return int(match[1]), int(match[2]), int(match[3] or (_END if end else 0))


def applicable(
    rules: Sequence[Rule], version: Version | None, arch: str
) -> tuple[list[Rule], list[Rule]]:
    """Split rules into those for this kernel, and those of which that is not known."""
    sure, unsure = [], []
    for rule in rules:
        covers = rule.covers(version, arch)
        if covers:
            sure.append(rule)
        elif covers is None:
            unsure.append(rule)
    return sure, unsure


def for_kernel(version: Version | None) -> list[Policy]:
    """Return the shipped policies made for a kernel, else what any kernel needs to boot.

    A file that does not say its kernel is taken for one of the default release.
    """
    if version is None:
        return [load("kerrighed-2.4.4")]
    return [load(name) for name in names() if _made_for(name) == version] or [load("boot")]


def _made_for(name: str) -> Version | None:
    """Return the kernel of a shipped policy; to parse all of them takes longer than a lint."""
    text = (_POLICIES / f"{name}.toml").read_text("utf-8")
    match = _KERNEL_LINE.search(text, 0, text.find("\n[["))
    return _version({"kernel": match[1]}, "kernel", name) if match else None
