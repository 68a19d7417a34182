# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes a .config as the tree's own tool would write it.

Old trees (up to 2.6.30) write more ``is not set`` lines than later ones, no end
of menu comments, and the unexpanded list of default configurations. The rules
are those of conf_write and sym_calc_value in the tree's scripts/kconfig.
"""

from __future__ import annotations

from collections.abc import Iterator

import kconfiglib

from kconfig import dialect
from kconfig.values import truth


def config_text(kconf: kconfiglib.Kconfig, version: tuple[int, int, int], header: str) -> str:
    """Return the configuration as text, in the style of kernel ``version``."""
    return header + body(kconf, version)


def body(kconf: kconfiglib.Kconfig, version: tuple[int, int, int]) -> str:
    """Return what a .config holds below its header."""
    if dialect.WRITES_MORE.holds(version):
        return "".join(_old_lines(kconf))
    text: str = kconf._config_contents("")
    return text


def _nodes(node: kconfiglib.MenuNode | None) -> Iterator[kconfiglib.MenuNode]:
    while node is not None:
        yield node
        yield from _nodes(node.list)
        node = node.next


def _old_lines(kconf: kconfiglib.Kconfig) -> Iterator[str]:
    done = set()
    for node in _nodes(kconf.top_node.list):
        item = node.item
        if item in (kconfiglib.MENU, kconfiglib.COMMENT):
            if truth(node.dep):
                yield f"\n#\n# {node.prompt[0]}\n#\n"
        elif isinstance(item, kconfiglib.Symbol) and item not in done:
            done.add(item)
            if _written(item):
                yield _line(item)


def _written(symbol: kconfiglib.Symbol) -> bool:
    if symbol.orig_type == kconfiglib.UNKNOWN or symbol.env_var is not None:
        return False
    symbol.str_value  # noqa: B018 # decides _write_to_conf
    if symbol.choice is not None:
        # A choice that is shown writes all its members; asking shows it.
        symbol.choice.visibility  # noqa: B018
        return bool(symbol._write_to_conf or symbol.choice in symbol.kconfig.shown_choices)
    return bool(symbol._write_to_conf)


def _line(symbol: kconfiglib.Symbol) -> str:
    value = symbol.str_value
    if symbol.orig_type in (kconfiglib.BOOL, kconfiglib.TRISTATE):
        if value == "n":
            return f"# CONFIG_{symbol.name} is not set\n"
        return f"CONFIG_{symbol.name}={value}\n"
    if symbol.orig_type == kconfiglib.STRING:
        return f'CONFIG_{symbol.name}="{kconfiglib.escape(value)}"\n'
    return f"CONFIG_{symbol.name}={value}\n"
