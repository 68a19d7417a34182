# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes a .config as the tree's own tool would write it.

Old trees write the hidden members of a visible choice too, and no comments at the
ends of menus. The rules are those of conf_write in the tree's scripts/kconfig.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
    return "".join(_lines(kconf, dialect.END_COMMENTS.holds(version)))


def _nodes(node: kconfiglib.MenuNode | None) -> Iterator[kconfiglib.MenuNode]:
    while node is not None:
        yield node
        yield from _nodes(node.list)
        node = node.next


def _old_lines(kconf: kconfiglib.Kconfig) -> Iterator[str]:
    done: set[kconfiglib.Symbol] = set()
    for node in _nodes(kconf.top_node.list):
        item = node.item
        if item in (kconfiglib.MENU, kconfiglib.COMMENT):
            if truth(node.dep):
                yield f"\n#\n# {node.prompt[0]}\n#\n"
        elif isinstance(item, kconfiglib.Symbol) and item not in done:
            done.add(item)
            if _written(item):
                yield _line(item)


def _lines(kconf: kconfiglib.Kconfig, ends: bool) -> Iterator[str]:
    """Yield the lines of later kernels; ``ends`` says whether menus end with a comment."""
    done: set[kconfiglib.Symbol] = set()
    node, ended = kconf.top_node.list, False
    while node is not None and node is not kconf.top_node:
        item = node.item
        if item in (kconfiglib.MENU, kconfiglib.COMMENT):
            if _shown(node):
                yield f"\n#\n# {node.prompt[0]}\n#\n"
                ended = False
        elif isinstance(item, kconfiglib.Symbol) and item not in done:
            done.add(item)
            text = item.config_string
            if text:
                yield f"\n{text}" if ended else text
                ended = False
        if node.list is not None:
            node = node.list
            continue
        while node is not None and node is not kconf.top_node:
            if ends and node.item is kconfiglib.MENU and _shown(node):
                yield f"# end of {node.prompt[0]}\n"
                ended = True
            if node.next is not None:
                node = node.next
                break
            node = node.parent


def _shown(node: kconfiglib.MenuNode) -> bool:
    if not kconfiglib.expr_value(node.dep):
        return False
    if node.item is not kconfiglib.MENU or node.visibility is node.kconfig.y:
        return True
    return bool(kconfiglib.expr_value(_plain_m(node.visibility, node.kconfig)))


def _plain_m(expression: Any, kconf: kconfiglib.Kconfig) -> Any:
    """Return an expression with m as it was written; Kconfiglib made it ``m && MODULES``.

    The program does so too, save for the condition of a menu's own ``visible if``.
    """
    if expression.__class__ is not tuple:
        return expression
    if expression[1] is kconf.m and expression[2:] == (kconf.modules,):
        return kconf.m
    return (expression[0], *(_plain_m(part, kconf) for part in expression[1:]))


def _written(symbol: kconfiglib.Symbol) -> bool:
    if symbol.orig_type == kconfiglib.UNKNOWN or symbol.env_var is not None:
        return False
    symbol.str_value  # noqa: B018 # decides _write_to_conf
    if symbol.choice is not None:
        # A choice that is shown writes all its members; asking for their prompts shows it.
        if any(node.prompt for node in symbol.nodes):
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
