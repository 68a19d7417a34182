# SPDX-License-Identifier: GPL-2.0-or-later
"""What a rule wants of a symbol, and when it wants it. Texts in, values out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SYMBOL = re.compile(r"[A-Za-z0-9_]+")
_TERM = re.compile(r"(!?)([A-Za-z0-9_]+|[a-z]+\.[A-Za-z0-9_.-]+)(?:(!?=)(.*))?", re.DOTALL)
_TRISTATE = ("y", "m", "n")
# This fact says that the command line is known: a parameter not there is not given.
CMDLINE = "cmdline.known"
# Facts of a node that a rule may ask for, see kconfig/crosscheck.py; and cmdline.ANYTHING.
FACTS = ("boot.initrd", "console.serial", "root.disk", "root.type")
_FORMS = ("not", "string", "like", "min", "max")


# Named tuples: a linter starts often, and dataclasses take milliseconds to make.
class Want(NamedTuple):
    """The values a rule accepts: some listed, all but some, a range, or a shell pattern."""

    values: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    low: int | None = None
    high: int | None = None
    like: str | None = None

    def accepts(self, value: str) -> bool:
        """Tell whether a symbol may have ``value`` (n for one that is not set)."""
        if self.values:
            return any(_same(value, wanted) for wanted in self.values)
        if self.forbidden:
            return not any(_same(value, wrong) for wrong in self.forbidden)
        if self.like is not None:
            import fnmatch

            return fnmatch.fnmatchcase(value, self.like)
        number = _number(value)
        if number is None:
            return False
        return (self.low is None or number >= self.low) and (
            self.high is None or number <= self.high
        )

    def nearest(self, value: str) -> str:
        """Return the accepted value to set in place of ``value``."""
        if self.accepts(value):
            return value
        if self.values:
            return self.values[0]
        if self.forbidden:
            return next((v for v in ("n", "m", "y") if self.accepts(v)), "")
        if self.like is not None:
            return self.like.replace("*", "").replace("?", "x")
        number = _number(value)
        if number is None or (self.low is not None and number < self.low):
            return str(self.low if self.low is not None else self.high)
        return str(self.high if self.high is not None else self.low)

    def excludes(self, other: Want) -> bool:
        """Tell whether no value can satisfy both."""
        if self.values:
            return not any(other.accepts(value) for value in self.values)
        if other.values:
            return other.excludes(self)
        if self.forbidden and other.forbidden:
            both = {*self.forbidden, *other.forbidden}
            return both >= set(_TRISTATE)
        bounds = (self.low, self.high, other.low, other.high)
        if self.like is not None or other.like is not None or bounds == (None,) * 4:
            return False
        low = max((b for b in (self.low, other.low) if b is not None), default=None)
        high = min((b for b in (self.high, other.high) if b is not None), default=None)
        return low is not None and high is not None and low > high

    def __str__(self) -> str:
        if self.values:
            return " or ".join(value or '""' for value in self.values)
        if self.forbidden:
            return "not " + " or ".join(self.forbidden)
        if self.like is not None:
            return f"like {self.like}"
        if self.low is None:
            return f"at most {self.high}"
        if self.high is None:
            return f"at least {self.low}"
        return f"{self.low} to {self.high}"


def _number(text: str) -> int | None:
    if len(text) > 20:  # no integer of the kernel's is longer
        return None
    try:
        return int(text, 16) if text.lower().startswith(("0x", "-0x")) else int(text)
    except ValueError:
        return None


def _same(value: str, wanted: str) -> bool:
    return value == wanted or (
        wanted not in _TRISTATE and (number := _number(value)) is not None
        and number == _number(wanted)
    )  # fmt: skip


def parse_want(raw: Any) -> Want:
    """Return the Want of a rule's ``want``, as TOML gives it.

    ``"y"``, ``8``, ``["y", "m"]``, ``{not = "y"}``, ``{string = "x"}``, ``{like = "-krg*"}``,
    ``{min = 4, max = 64}``.

    :raises ValueError: it is none of these; the text says what is wrong.
    """
    if isinstance(raw, dict):
        return _want_of_table(raw)
    values = tuple(map(_text, raw if isinstance(raw, list) else [raw]))
    if not values:
        raise ValueError("want must not be empty")
    return Want(values)


def _want_of_table(raw: Mapping[str, Any]) -> Want:
    odd = sorted(set(raw) - set(_FORMS))
    if odd or not raw or (len(raw) > 1 and set(raw) != {"min", "max"}):
        raise ValueError(f"want may be one of {', '.join(_FORMS)} (min with max)")
    if "not" in raw:
        wrong = raw["not"]
        forbidden = tuple(map(_text, wrong if isinstance(wrong, list) else [wrong]))
        if not forbidden or set(forbidden) >= set(_TRISTATE):
            raise ValueError("want: not must leave a value")
        return Want(forbidden=forbidden)
    if "string" in raw:
        return Want((_text(raw["string"]),))
    if "like" in raw:
        return Want(like=_text(raw["like"]))
    low, high = raw.get("min"), raw.get("max")
    for bound in (low, high):
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int)):
            raise ValueError("want: min and max are whole numbers")
    if low is not None and high is not None and low > high:
        raise ValueError(f"want: no number is at least {low} and at most {high}")
    return Want(low=low, high=high)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"want: {value!r} is neither a string nor a whole number")
    return str(value)


class Term(NamedTuple):
    """One condition: a symbol, or a fact (with a dot in its name), compared with values."""

    name: str
    negated: bool
    values: tuple[str, ...]

    def holds(self, symbols: Mapping[str, str], facts: Mapping[str, str]) -> bool | None:
        """Tell whether it holds; None when it is about a fact that is not known."""
        if "." in self.name:
            known = facts.get(self.name)
            if known is None and self.name.startswith("cmdline.") and CMDLINE in facts:
                known = "n"
            if known is None:
                return None
        else:
            known = symbols.get(self.name, "n")
        met = known in self.values if self.values else known not in ("", "n", "no")
        return met is not self.negated

    def __str__(self) -> str:
        if not self.values:
            return f"{'!' if self.negated else ''}{self.name}"
        return f"{self.name}{'!=' if self.negated else '='}{'|'.join(self.values)}"


def parse_terms(raw: Any) -> tuple[Term, ...]:
    """Return the terms of a rule's ``when``: a text or a list of them; all must hold.

    ``NET`` (y or m), ``!NET``, ``NET=y``, ``NET!=n|m``, ``root.type=ext3``, ``!boot.initrd``.

    :raises ValueError: one is malformed.
    """
    terms = []
    for text in raw if isinstance(raw, list) else [raw]:
        match = _TERM.fullmatch(text.strip()) if isinstance(text, str) else None
        if not match or (match[1] and match[3]):
            raise ValueError(f"when: {str(text)[:60]!r} is not SYMBOL, !SYMBOL, SYMBOL=value")
        _check_name(match[2])
        if match[3] and match[4].startswith("="):
            raise ValueError(f"when: {text[:60]!r}: one = is enough")
        values = tuple(match[4].split("|")) if match[3] else ()
        terms.append(Term(match[2], bool(match[1]) or match[3] == "!=", values))
    return tuple(terms)


def _check_name(name: str) -> None:
    """Refuse what would never hold, and so make a rule that says nothing."""
    if name.startswith("CONFIG_"):
        raise ValueError(f"when: {name[:60]!r}: say it without CONFIG_")
    if "." in name and name not in FACTS and not name.startswith("cmdline."):
        known = ", ".join(FACTS)
        raise ValueError(f"when: no fact {name[:60]!r} (there are: {known}, cmdline.NAME)")


def hold(
    terms: Sequence[Term], symbols: Mapping[str, str], facts: Mapping[str, str]
) -> bool | None:
    """Tell whether all terms hold; None when none fails and a fact is not known."""
    answers = [term.holds(symbols, facts) for term in terms]
    if False in answers:
        return False
    return None if None in answers else True
