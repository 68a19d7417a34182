# SPDX-License-Identifier: GPL-2.0-or-later
"""Generates a configuration: a base, a policy, fragments, single values, in that order.

The base is always named: the kernel's own tool, left alone, reads
/boot/config-RELEASE of the machine it runs on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import kconfiglib

from kconfig import describe, explain, reading, solve, tree, write
from kconfig.condition import SYMBOL, hold
from kconfig.errors import KconfigError, UnmetError
from kconfig.nearest import Nearest
from kconfig.policy import Policy, Rule

_LINE = re.compile(r"(?:CONFIG_)?([A-Za-z0-9_]+)=(.*)")
_UNSET = re.compile(r"# CONFIG_([A-Za-z0-9_]+) is not set")
# For so many symbols that did not get their value a way to it is looked for.
_MOST_WAYS = 5
# Of the symbols that a tree does not have so many are named: more are another kernel's.
_MOST_ABSENT = 12
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Request:
    """One wanted value: any of ``values`` will do, the first is set; ``by`` says who asks.

    A policy's request has its ``rule``, whose want and conditions count instead.
    """

    symbol: str
    values: tuple[str, ...]
    by: str
    required: bool = True
    rule: Rule | None = None

    def accepts(self, value: str) -> bool:
        """Tell whether the symbol may have ``value``."""
        return self.rule.want.accepts(value) if self.rule else value in self.values

    def nearest(self, value: str) -> str:
        """Return what to set in place of ``value``."""
        return self.rule.want.nearest(value) if self.rule else self.values[0]

    @property
    def wanted(self) -> str:
        """Return the values for a message."""
        return str(self.rule.want) if self.rule else " or ".join(self.values)


@dataclass(frozen=True)
class Generated:
    """A configuration's text and what was asked of it.

    ``unmet`` lists recommendations missed, ``overridden`` the rules of a policy that a
    fragment or a single value goes against, ``ran`` the commands that reading the tree ran.
    """

    text: str
    requests: tuple[Request, ...]
    unmet: tuple[str, ...]
    overridden: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()


def parse_assignment(text: str, by: str) -> Request:
    """Return the request of one ``SYMBOL=value`` or ``# CONFIG_X is not set`` line.

    :raises KconfigError: it is neither; ``by`` names its place.
    """
    text = text.strip()
    unset = _UNSET.fullmatch(text)
    if unset:
        return Request(unset[1], ("n",), by)
    match = _LINE.fullmatch(text)
    if not match or not SYMBOL.fullmatch(match[1]):
        raise KconfigError(f"{by}: {text[:60]!r} is not SYMBOL=value")
    value = match[2].strip()
    quoted = _QUOTED.fullmatch(value)
    if quoted:
        value = re.sub(r"\\(.)", r"\1", quoted[1])
    elif '"' in value or "'" in value:
        raise KconfigError(f"{by}: {text[:60]!r}: quotes must be a pair of double ones")
    return Request(match[1], (value,), by)


def parse_fragment(text: str, where: str) -> list[Request]:
    """Return the requests of a configuration fragment; comments and blank lines are skipped."""
    requests = []
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if bare and (not bare.startswith("#") or _UNSET.fullmatch(bare)):
            requests.append(parse_assignment(bare, f"{where}:{number}"))
    return requests


def policy_requests(
    policy: Policy, arch: str, version: tuple[int, int, int] | None = None
) -> list[Request]:
    """Return what a policy asks for on one architecture and, if given, of one kernel version."""
    return [
        Request(
            symbol,
            rule.want.values,
            f"policy {rule.policy or policy.name}, rule {rule.id}",
            rule.severity == "required",
            rule,
        )
        for rule in policy.rules
        if rule.covers(version, arch) is not False and rule.severity != "info"
        for symbol in rule.symbols
    ]


def generate(
    kconf: kconfiglib.Kconfig,
    base: Path,
    requests: Sequence[Request],
    *,
    version: tuple[int, int, int],
    header: str = "",
) -> Generated:
    """Return the configuration of ``base`` with ``requests`` put on it, later ones winning.

    :param kconf: a tree as kconfig.tree.load returns it; its values are replaced.
    :param version: the tree's, see kconfig.tree.kernel_version; decides the style of the text.
    :param header: comment lines for the top, each beginning with #.
    :raises UnmetError: a required value was not reached; a reason for each.
    """
    try:
        kconf.load_config(str(base), replace=True)
        reading.settle(kconf, version)
    except (OSError, kconfiglib.KconfigError) as error:
        raise KconfigError(f"{base}: cannot be read as a configuration ({error})") from error
    final, overridden = _final(requests, kconf)
    known: list[Request] = []
    unknown: list[Request] = []
    for request in final:
        defined = request.symbol in kconf.syms and kconf.syms[request.symbol].nodes
        (known if defined else unknown).append(request)
    values = _Values(kconf)
    nearest = Nearest(symbol.name for symbol in kconf.unique_defined_syms)
    # Twice: setting a member of a choice, or a symbol that others select, can
    # change what an earlier one may have.
    # Where any of several symbols will do, the other rules are asked first: they may set one.
    order = sorted(known, key=lambda r: r.rule is not None and r.rule.any)
    for _ in range(2):
        for request in order:
            symbol = kconf.syms[request.symbol]
            if not request.accepts(symbol.str_value) and not _settled(request, values):
                solve.assign(symbol, request.nearest(symbol.str_value))
    # What this tree does not have is as good as off.
    absent = [
        f"{r.symbol}: this tree has no such symbol{_hint(nearest, r.symbol)} ({r.by})"
        for r in unknown
        if r.required and not r.accepts("n") and not _settled(r, values)
    ]
    missed = [
        r
        for r in known
        if not r.accepts(kconf.syms[r.symbol].str_value) and not _settled(r, values)
    ]
    failed = [r for r in missed if r.required]
    if absent or failed:
        roots, follow = _consequences(kconf, failed, final)
        reasons = [_reason(kconf, r, way=number < _MOST_WAYS) for number, r in enumerate(roots)]
        if follow:
            cause = [] if roots or absent else overridden
            reasons += [*cause, "what follows from that:"]
            reasons += [f"  {_reason(kconf, r).partition(chr(10))[0]}" for r in follow]
        raise UnmetError(_first(absent) + reasons, len(absent) + len(failed))
    return Generated(
        write.config_text(kconf, version, header),
        tuple(final),
        tuple(_reason(kconf, r) for r in missed),
        tuple(overridden),
        tree.commands_run(kconf),
    )


class _Values(Mapping[str, str]):
    """The values of a tree's symbols, as they are when asked for."""

    def __init__(self, kconf: kconfiglib.Kconfig) -> None:
        self._syms = kconf.syms

    def __getitem__(self, name: str) -> str:
        value: str = self._syms[name].str_value
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._syms)

    def __len__(self) -> int:
        return len(self._syms)


def _final(
    requests: Sequence[Request], kconf: kconfiglib.Kconfig
) -> tuple[list[Request], list[str]]:
    """Return the requests that count, and what became of the others.

    Of single values the last counts, and it counts more than any policy. Members of one
    choice are one question: a member set to y answers it for the others.
    """

    def question(symbol: str) -> object:
        found = kconf.syms.get(symbol)
        return symbol if found is None or found.choice is None else found.choice

    single: dict[object, Request] = {}
    for request in requests:
        if request.rule is None:
            chosen = question(request.symbol)
            if chosen == request.symbol or request.values[0] == "y":
                single[chosen] = request
    final = []
    overridden = []
    for request in requests:
        by = single.get(question(request.symbol))
        beside = by is not None and by.symbol != request.symbol
        if by is None or by is request:
            final.append(request)
        elif beside and "y" not in request.values:
            # n for another member than the chosen one is no contradiction.
            final.append(request)
        elif request.rule is not None and (beside or not request.accepts(by.values[0])):
            overridden.append(
                f"{by.symbol}={by.values[0]} ({by.by}) goes against {request.by}, which wants "
                f"{f'{request.symbol} ' if beside else ''}{request.wanted}: {request.rule.why}"
            )
    return final, overridden


def _consequences(
    kconf: kconfiglib.Kconfig, failed: Sequence[Request], final: Sequence[Request]
) -> tuple[list[Request], list[Request]]:
    """Divide what failed into what to look at, and what only follows from it or from a wish.

    :param final: all requests that count: a single value of the user's can be the cause, too.
    """
    wishes = {r.symbol for r in final if r.rule is None}
    names = {r.symbol for r in failed} | wishes
    roots: list[Request] = []
    follow: list[Request] = []
    for request in failed:
        symbol = kconf.syms[request.symbol]
        why = explain.obstacle(symbol, request.nearest(symbol.str_value))
        causes = set(re.findall(r"\w+", why)) & (names - {request.symbol})
        (follow if causes and request.rule is not None else roots).append(request)
    # Nothing but consequences: each of them is all there is to see.
    return (roots, follow) if roots or wishes else (follow, [])


def _settled(request: Request, values: Mapping[str, str]) -> bool:
    """Tell whether a rule asks nothing: its condition fails, or another symbol satisfies it."""
    rule = request.rule
    if rule is None:
        return False
    if rule.when and not hold(rule.when, values, {}):
        return True
    return rule.any and any(
        rule.want.accepts(values.get(symbol, "n"))
        for symbol in rule.symbols
        if symbol != request.symbol
    )


def _reason(kconf: kconfiglib.Kconfig, request: Request, *, way: bool = False) -> str:
    """Say what became of a request and what stood in the way, link by link.

    :param way: also say what would help, if something does.
    """
    symbol = kconf.syms[request.symbol]
    want = request.nearest(symbol.str_value)
    first, *chain = explain.chain(symbol, want).split("\n")
    lines = [
        f"{request.symbol} is {symbol.str_value or 'empty'}, wanted {request.wanted}: "
        f"{first} ({request.by})",
        *chain,
    ]
    truth = symbol.orig_type in (kconfiglib.BOOL, kconfiglib.TRISTATE)
    if way and truth and want in kconfiglib.STR_TO_TRI:
        solution = solve.solve(kconf, symbol.name, want)
        if solution is not None:
            found = describe.way_lines(symbol.name, want, solution)
            lines += [f"    {line}" for line in found]
    return "\n".join(lines)


def _first(absent: list[str]) -> list[str]:
    if len(absent) <= _MOST_ABSENT:
        return absent
    others = f"and {len(absent) - _MOST_ABSENT} more that this tree does not have"
    return [*absent[:_MOST_ABSENT], others]


def _hint(nearest: Nearest, name: str) -> str:
    near = nearest.to(name)
    return f", perhaps {near}" if near else ""
