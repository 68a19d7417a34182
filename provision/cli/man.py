# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual page krg-provision(1): what people wrote, and what click knows.

usage: python -m provision.cli.man docs/man/krg-provision.1.in > krg-provision.1

Commands and options come from the program itself when the page is made, so that the page
cannot say anything else. The language is mdoc(7).
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from provision import __version__
from provision.cli import cli

_HERE = "@COMMANDS@"
# What roff would show as something else, as groff_char(7) tells: people copy from the page.
_ESCAPES = str.maketrans(
    {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "~": "\\(ti", "^": "\\(ha", '"': "\\(dq"}
)


def page(frame: str) -> str:
    """Return the manual page: ``frame`` with the line @COMMANDS@ replaced by all commands.

    :raises ValueError: the frame has no such line.
    """
    before, found, after = frame.replace("@VERSION@", __version__).partition(f"{_HERE}\n")
    if not found:
        raise ValueError(f"no line {_HERE}")
    return before + "".join(f"{line}\n" for line in _commands(cli, "krg-provision")) + after


def _commands(group: click.Group, path: str) -> Iterator[str]:
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        # The group's own commands follow it, as if they stood beside it.
        yield from _command(command, click.Context(command, info_name=f"{path} {name}"))
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    words = (context.info_name or "").split()[1:]
    yield f".Ss {' '.join(map(_word, words))}"
    usage = " ".join(command.collect_usage_pieces(context))
    yield ".Nm"
    yield f".Cm {' '.join(map(_word, words))}"
    yield f".Ar {' '.join(map(_word, usage.split()))}"
    for paragraph in re.split(r"\n\s*\n", (command.help or "").strip()):
        yield from _paragraph(paragraph)
    records = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        and "--help" not in parameter.opts
        and (record := parameter.get_help_record(context))
    ]
    if records:
        yield ".Bl -tag -width Ds"
        for head, said in records:
            yield f".It {_head(head)}"
            yield from _prose(said)
        yield ".El"


def _paragraph(text: str) -> Iterator[str]:
    """Return a paragraph of click's help; after a line \\b each line stands as it is."""
    lines = text.strip("\n").split("\n")
    if lines[0].strip() != "\b":
        yield ".Pp"
        yield from _prose(text)
        return
    title, *rest = lines[1:]
    yield ".Pp"
    yield _text(title.strip())
    yield ".Bd -literal -offset indent -compact"
    yield from (_text(line.strip()) for line in rest)
    yield ".Ed"


def _prose(text: str) -> Iterator[str]:
    """Return text as source lines: a new line for each sentence, none too long."""
    for sentence in re.split(r"(?<=[.!?]) +(?=[A-Z[])", " ".join(text.split())):
        for line in textwrap.wrap(sentence, 72, break_long_words=False, break_on_hyphens=False):
            yield _text(line)


def _head(head: str) -> str:
    """Return click's head of an option, ``-j, --jobs N``, as the words of an .It line."""
    found: list[str] = []
    for word in head.split():
        name = word.removesuffix(",")
        if name == "/":
            found.append("No /")
        elif name.startswith("-"):
            found.append(f"Fl {_word(name[1:])}")
        else:
            found.append(
                _word(name) if found[-1].startswith(("Ar", "\\&")) else f"Ar {_word(name)}"
            )
        if name != word:
            found.append(",")
    return " ".join(found)


def _text(text: str) -> str:
    """Return a line of text for roff: as it is typed, nothing taken for a request."""
    escaped = text.translate(_ESCAPES)
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


def _word(word: str) -> str:
    """Return a word that no macro takes for a macro or a delimiter."""
    return f"\\&{_text(word)}"


if __name__ == "__main__":
    sys.stdout.write(page(Path(sys.argv[1]).read_text("utf-8")))
