# SPDX-License-Identifier: GPL-2.0-or-later
"""The data files shipped with the program, from a checkout and from a wheel alike."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

_HERE = Path(__file__).resolve().parent
# Threads that want the same template at once would compile it once each; as it is they wait for
# each other anyway, for the interpreter's lock.
_ONE_AT_A_TIME = threading.RLock()


def data_dir(name: str) -> Path:
    """Return the directory of shipped data ``name``: releases, fixups, lab, templates, examples.

    The last two lie beside the package in a checkout and inside it once installed.
    """
    inside = _HERE / name
    return inside if inside.is_dir() else _HERE.parent / name


@functools.cache
def _environment() -> Environment:
    """Return what renders templates; one for all threads."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(str(data_dir("templates"))),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        autoescape=False,  # noqa: S701 - configuration files and shell, never HTML
    )


@functools.cache
def _html_environment() -> Environment:
    """Return what renders HTML: everything that is put into a page is text, never markup."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from kconfig.report import printable

    return Environment(
        loader=FileSystemLoader(str(data_dir("templates"))),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        # Control characters, and those that turn the direction of the text, are shown by their
        # numbers; markup is of another type, and comes from the templates alone.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )


def render_html(template: str, **values: object) -> str:
    """Return the page templates/``template``; no value in it can become markup."""
    with _ONE_AT_A_TIME:
        return _html_environment().get_template(template).render(**values)


def render(template: str, **values: object) -> str:
    """Return the text of templates/``template`` with ``values``; an undefined name is an error."""
    with _ONE_AT_A_TIME:
        return _environment().get_template(template).render(**values)
