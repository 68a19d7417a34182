# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes a .config as the tree's own tool would write it.

Old trees (up to 2.6.30) write more ``is not set`` lines than later ones, no end
of menu comments, and the unexpanded list of default configurations. The rules
are those of conf_write and sym_calc_value in the tree's scripts/kconfig.
"""

from __future__ import annotations

from collections.abc import Iterator

import kconfiglib

OLD_STYLE_UNTIL = (2, 6, 30)


def config_text(kconf: kconfiglib.Kconfig, version: tuple[int, int, int], header: str) -> str:
    """Return the configuration as text, in the style of kernel ``version``."""
    if version > OLD_STYLE_UNTIL:
        text: str = kconf._config_contents(header)
        return text
    return header + "".join(_old_lines(kconf))


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
            if kconfiglib.expr_value(node.dep):
                yield f"\n#\n# {node.prompt[0]}\n#\n"
        elif isinstance(item, kconfiglib.Symbol) and item not in done:
            done.add(item)
            if _written(item):
                yield _line(item)


def _written(symbol: kconfiglib.Symbol) -> bool:
    if symbol.orig_type == kconfiglib.UNKNOWN:
        return False
    if symbol.visibility:
        return True
    if symbol.orig_type in (kconfiglib.BOOL, kconfiglib.TRISTATE):
        if kconfiglib.expr_value(symbol.rev_dep):
            return True
        if symbol.choice is not None and symbol.choice.visibility:
            return True
    return any(kconfiglib.expr_value(condition) for _, condition in symbol.defaults)


def _line(symbol: kconfiglib.Symbol) -> str:
    value = symbol.str_value
    if symbol.orig_type in (kconfiglib.BOOL, kconfiglib.TRISTATE):
        if value == "n":
            return f"# CONFIG_{symbol.name} is not set\n"
        return f"CONFIG_{symbol.name}={value}\n"
    if symbol.orig_type == kconfiglib.STRING:
        return f'CONFIG_{symbol.name}="{kconfiglib.escape(value)}"\n'
    return f"CONFIG_{symbol.name}={value}\n"
