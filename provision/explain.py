# SPDX-License-Identifier: GPL-2.0-or-later
"""The steps of ``config explain``: load a tree, read a configuration into it, ask. No output."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import kconfiglib

from kconfig import config_source, describe, lint_tree, targets, tree
from kconfig.errors import KconfigError
from kconfig.nearest import Nearest
from provision.errors import InputError


def explain(
    symbols: Sequence[str],
    directory: Path,
    config: str | None,
    arch: str,
    want: str | None,
    *,
    shell: bool = True,
) -> tuple[list[describe.Explanation], tuple[str, ...]]:
    """Return what there is to know about symbols, and the commands that loading the tree ran.

    :param symbols: their names, with or without CONFIG_.
    :param config: a file as ``config lint`` takes it; None for the tree's default.
    :param want: the only value to find a way to; None for all.
    :raises InputError: no such symbol, tree or file, or a value that a symbol cannot have.
    """
    try:
        lines = {}
        if config is not None:
            read = config_source.read(config)
            arch = arch or read.arch
            text = lint_tree.as_text(read)
            version = tree.kernel_version(directory).numbers
            given = read.values(version)
            lines = {name: (entry.line, entry.value) for name, entry in given.items()}
        arch = lint_tree.arch_of(directory, arch)
        kconf = tree.load(directory, arch, shell=shell)
        chosen = [_symbol(kconf, name, directory) for name in symbols]
        if config is None:
            targets.defconfig(kconf, tree.default_config(directory, arch))
        else:
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="krg-") as file:
                file.write(text)
                file.flush()
                targets.oldconfig(kconf, Path(file.name))
    except KconfigError as error:
        raise InputError(str(error)) from error
    for symbol in chosen:
        values = {kconfiglib.BOOL: "yn", kconfiglib.TRISTATE: "ymn"}.get(symbol.orig_type, "")
        if want is not None and want not in values:
            kind = kconfiglib.TYPE_TO_STR[symbol.orig_type]
            raise InputError(f"{symbol.name} is a {kind}: it is never {want}; leave --to out")
    wants = None if want is None else [want]
    return [describe.describe(symbol, lines, wants) for symbol in chosen], tree.commands_run(kconf)


def _symbol(kconf: kconfiglib.Kconfig, name: str, directory: Path) -> kconfiglib.Symbol:
    symbol = kconf.syms.get(name.removeprefix("CONFIG_"))
    if symbol is None or not symbol.nodes:
        near = Nearest(s.name for s in kconf.unique_defined_syms).to(name.removeprefix("CONFIG_"))
        hint = f", perhaps {near}" if near else ""
        raise InputError(f"{name[:60]}: {directory} has no such symbol{hint}")
    return symbol
