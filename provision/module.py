# SPDX-License-Identifier: GPL-2.0-or-later
"""A release's module on nodes: how it is called, where it shows its ids, which files load it.

Part of the release's data and of a build's manifest, so that nothing after the build asks
which release it was.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from provision.data import data_dir
from provision.errors import InputError
from provision.tables import Table

# It becomes a file's and a package's name, and a word in scripts on nodes.
_NAME = re.compile(r"[a-z][a-z0-9-]{1,30}")
# facts.sh looks in these places: it is asked before it is known what a node runs.
_IDS = re.compile(r"/sys/(?:kernel/)?[a-z0-9_]{1,40}")
_ARGUMENT = re.compile(r"[a-z_][a-z0-9_]{0,30}")
_PATH = re.compile(r"/etc/(?:init\.d/|default/)?[a-z0-9_-]{1,40}")
_TEMPLATE = re.compile(r"[a-z_]+(?:\.init)?\.j2")
_TITLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}")
# In a package's control file a line is a line.
_LINE = re.compile(r"[!-~][ -~]{0,299}")
_SYMBOL = re.compile(r"[A-Z0-9_]{1,60}")
_MODES = {"0644": 0o644, "0755": 0o755}
_KEYS = {"name", "title", "description", "ids", "symbol", "arguments", "cluster", "file"}


@dataclass(frozen=True)
class File:
    """A file that deploy writes on nodes: its path, the template it is made of, its mode."""

    path: str
    template: str
    mode: str = "0644"

    @property
    def bits(self) -> int:
        """Return the mode as a number."""
        return _MODES[self.mode]


@dataclass(frozen=True)
class Module:
    """The module that makes a kernel a node.

    :ivar title: what boot menus call it.
    :ivar ids: the directory in which the running module has node_id and session_id.
    :ivar symbol: without this symbol in its .config a kernel has no such module.
    :ivar arguments: words of the kernel's command line that modprobe is given.
    :ivar cluster: its nodes form one machine, which does not survive the loss of a node.
    """

    name: str
    title: str
    description: str
    ids: str
    symbol: str | None = None
    arguments: tuple[str, ...] = ()
    cluster: bool = False
    files: tuple[File, ...] = ()

    @property
    def script(self) -> str:
        """Return the path of the script that loads it at boot."""
        return f"/etc/init.d/{self.name}"

    @property
    def service(self) -> str | None:
        """Return the name of the script that loads it, None where nothing does."""
        return self.name if self.files else None

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the paths of its files on nodes."""
        return tuple(file.path for file in self.files)


def parse(raw: Table) -> Module:
    """Read the table [module] of a release.

    :raises InputError: says where and what is wrong.
    """
    return _checked(
        Module(
            raw.text("name"),
            raw.text("title"),
            raw.text("description"),
            raw.text("ids"),
            raw.maybe("symbol"),
            raw.texts("arguments", ()),
            raw.flag("cluster"),
            tuple(
                File(one.text("path"), one.text("template"), one.text("mode", "0644"))
                for one in (
                    raw.tables("file", {"path", "template", "mode"}) if "file" in raw else ()
                )
            ),
        ),
        raw.where,
    )


def table(release: Table) -> Module | None:
    """Return what a release says of its module; None when it has none."""
    return parse(release.table("module", _KEYS)) if "module" in release else None


def _checked(module: Module, where: str) -> Module:
    for what, value, pattern in (
        ("name", module.name, _NAME),
        ("title", module.title, _TITLE),
        ("description", module.description, _LINE),
        ("ids", module.ids, _IDS),
        ("symbol", module.symbol or "NONE", _SYMBOL),
        *(("arguments", word, _ARGUMENT) for word in module.arguments),
        *(("path", file.path, _PATH) for file in module.files),
        *(("template", file.template, _TEMPLATE) for file in module.files),
    ):
        if not pattern.fullmatch(value):
            raise InputError(f"{where}: {what} cannot be {value!r}")
    for file in module.files:
        if not (data_dir("templates") / file.template).is_file():
            raise InputError(f"{where}: there is no template {file.template}")
        if file.mode not in _MODES:
            raise InputError(f"{where}: mode is {' or '.join(_MODES)}, not {file.mode!r}")
    if module.files and module.script not in module.texts:
        raise InputError(f"{where}: one file must be {module.script}, which loads the module")
    return module


def as_json(module: Module | None) -> dict[str, Any] | None:
    """Return what a build's manifest says of its module."""
    if module is None:
        return None
    found: dict[str, Any] = json.loads(json.dumps(asdict(module)))
    return found


def of(manifest: Mapping[str, Any], config: str | None = None) -> Module | None:
    """Return the module of a build; None when it has none.

    :param config: its .config, in which the module's symbol must be; None: do not look.
    :raises InputError: the manifest is not ours.
    """
    # Older builds do not say: there was nothing else than Kerrighed.
    module = _read(manifest["module"]) if "module" in manifest else kerrighed()
    if module is None or module.symbol is None or config is None:
        return module
    found = re.search(rf"^CONFIG_{module.symbol}=[ym]$", config, re.MULTILINE)
    return module if found else None


def _read(raw: Any) -> Module | None:
    if raw is None:
        return None
    try:
        known = {**raw, "file": raw["files"]}
        del known["files"]
        if known["symbol"] is None:
            del known["symbol"]
        return parse(Table(known, "manifest.json: module", _KEYS))
    except (KeyError, TypeError) as error:
        raise InputError(f"manifest.json: module: {error}", hint="build it again") from error


@functools.cache
def kerrighed() -> Module:
    """Return Kerrighed's module: that of the default release."""
    from provision import release

    found = release.load(release.DEFAULT).module
    assert found is not None
    return found
