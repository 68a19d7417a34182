# SPDX-License-Identifier: GPL-2.0-or-later
"""Generates a configuration: a base, a policy, fragments, single values, in that order.

The base is always named: the kernel's own tool, left alone, reads
/boot/config-RELEASE of the machine it runs on.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import kconfiglib

from kconfig import explain, write
from kconfig.errors import KconfigError, UnmetError
from kconfig.policy import SYMBOL, Policy

_LINE = re.compile(r"(?:CONFIG_)?([A-Za-z0-9_]+)=(.*)")
_UNSET = re.compile(r"# CONFIG_([A-Za-z0-9_]+) is not set")
_ASSIGNED = re.compile(r"CONFIG_([A-Za-z0-9_]+)=")
# The first kernel known to read a configuration so; the last known not to is 2.6.20.
_LAST_WINS = (2, 6, 30)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Request:
    """One wanted value: any of ``values`` will do, the first is set; ``by`` says who asks."""

    symbol: str
    values: tuple[str, ...]
    by: str
    required: bool = True


@dataclass(frozen=True)
class Generated:
    """A configuration's text and what was asked of it; ``unmet`` lists recommendations missed."""

    text: str
    requests: tuple[Request, ...]
    unmet: tuple[str, ...]


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


def policy_requests(policy: Policy, arch: str) -> list[Request]:
    """Return what a policy asks for on one architecture."""
    return [
        Request(
            symbol, rule.want, f"policy {policy.name}, rule {rule.id}", rule.severity == "required"
        )
        for rule in policy.for_arch(arch)
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
        with _readable(kconf, base, version) as path:
            kconf.load_config(str(path), replace=True)
    except (OSError, kconfiglib.KconfigError) as error:
        raise KconfigError(f"{base}: cannot be read as a configuration ({error})") from error
    final = {request.symbol: request for request in requests}
    known: list[Request] = []
    unknown: list[Request] = []
    for request in final.values():
        defined = request.symbol in kconf.syms and kconf.syms[request.symbol].nodes
        (known if defined else unknown).append(request)
    # What this tree does not have is as good as off.
    absent = [
        f"{r.symbol}: this tree has no such symbol{_nearest(kconf, r.symbol)} ({r.by})"
        for r in unknown
        if r.required and r.values[0] != "n"
    ]
    if absent:
        raise UnmetError(absent)
    # Twice: setting a member of a choice, or a symbol that others select, can
    # change what an earlier one may have.
    for _ in range(2):
        for request in known:
            symbol = kconf.syms[request.symbol]
            if symbol.str_value not in request.values:
                symbol.set_value(request.values[0])
    missed = [r for r in known if kconf.syms[r.symbol].str_value not in r.values]
    failed = [_reason(kconf, r) for r in missed if r.required]
    if failed:
        raise UnmetError(failed)
    return Generated(
        write.config_text(kconf, version, header),
        tuple(final.values()),
        tuple(_reason(kconf, r) for r in missed),
    )


@contextmanager
def _readable(
    kconf: kconfiglib.Kconfig, base: Path, version: tuple[int, int, int]
) -> Iterator[Path]:
    """Give a file that Kconfiglib reads as the tree's own tool reads ``base``.

    Of two assignments to one symbol, or two members of a choice set to y, the first
    counts in 2.6.20 (conf_read_simple skips a symbol that has a value), the last in
    2.6.30 and in Kconfiglib.
    """
    text = base.read_text("latin-1")
    lines: list[str] = []
    seen: set[object] = set()
    for line in text.splitlines():
        match = _UNSET.fullmatch(line) or _ASSIGNED.match(line)
        if match:
            symbol = kconf.syms.get(match[1])
            chosen = symbol is not None and symbol.choice is not None and line.endswith("=y")
            keys = {match[1], symbol.choice} if chosen else {match[1]}
            if keys & seen:
                continue
            seen |= keys
        lines.append(line)
    if version >= _LAST_WINS or len(lines) == len(text.splitlines()):
        yield base
        return
    with tempfile.NamedTemporaryFile("w", encoding="latin-1", prefix="krg-config-") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        yield Path(file.name)


def _reason(kconf: kconfiglib.Kconfig, request: Request) -> str:
    symbol = kconf.syms[request.symbol]
    return (
        f"{request.symbol} is {symbol.str_value or 'empty'}, wanted {' or '.join(request.values)}: "
        f"{explain.obstacle(symbol, request.values[0])} ({request.by})"
    )


def _nearest(kconf: kconfiglib.Kconfig, name: str) -> str:
    import difflib

    known = [symbol.name for symbol in kconf.unique_defined_syms]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f", perhaps {near[0]}" if near else ""
