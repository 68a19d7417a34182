# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB 2's grub.cfg: its entries, what boots by default, and what it does with its environment.

grub.cfg is made by grub-mkconfig and is only read here. Nothing is run: what stands in an
``if`` may be there or not, and is counted as unsure. Sources: GRUB manual ("Multi-boot manual
config", "The GRUB environment block"), and the files that 1.98 to 2.12 write.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from grub.kernel_line import Kernel
from grub.legacy import MenuError
from grub.script import Choice, Command, Statement, commands, parse

_LINUX = frozenset({"linux", "linux16", "linuxefi", "linux32"})
_ENTRIES = frozenset({"menuentry", "submenu"})
_TAKES_VALUE = frozenset({"--class", "--users", "--hotkey", "--id", "--source"})
# Of an entry's commands, those that lead to its files. Not for ours: what unpacks, or draws.
_NOT_NEEDED = re.compile(r"gzio|xzio|lzopio|all_video|video.*|gfx.*|vbe|vga|efi_.*|.*fb|font|echo")
_BLS = frozenset({"blscfg", "bls_import", "load_configs"})


@dataclass(frozen=True)
class Entry:
    """A menuentry or submenu: ``number`` counts from the top, as in ``1>2``.

    ``sure`` is off where an if decides whether it, or one before it, is there.
    """

    title: str
    id: str | None
    number: str
    sure: bool
    options: tuple[str, ...]
    commands: tuple[Command, ...]
    is_submenu: bool = False

    @property
    def top(self) -> bool:
        """Tell whether it is in the first menu."""
        return ">" not in self.number

    @property
    def linux(self) -> Command | None:
        """Return the command that loads Linux, if there is exactly one."""
        found = [c for c in self.commands if c.name in _LINUX]
        other = any(c.name in ("multiboot", "multiboot2", "chainloader") for c in self.commands)
        return found[0] if len(found) == 1 and not other and not self.is_submenu else None

    @property
    def kernel(self) -> Kernel | None:
        """Return the kernel's path and arguments; arguments that GRUB computes are left out."""
        line = self.linux
        if line is None or len(line.words) < 2:
            return None
        words = line.words[2:]
        return Kernel(line.words[1].text, tuple(w.text for w in words if not w.variable))


@dataclass(frozen=True)
class Config:
    """What a grub.cfg says.

    ``custom`` is the number of entries before custom.cfg is read, None if it is not; ``default``
    is as written. ``timeouts`` are those of a normal boot, ``recordfail`` of one after a failed.
    """

    entries: tuple[Entry, ...]
    custom: int | None
    default: str
    timeouts: tuple[str, ...]
    recordfail: tuple[str, ...]
    loads_env: bool
    has_ids: bool
    has_users: bool
    bls: bool
    late_default: bool


def is_custom(command: Command) -> bool:
    """Tell whether a command reads custom.cfg."""
    return command.name in ("source", ".") and any(
        re.search(r"(?:^|/)custom\.cfg$", word) for word in command.arguments
    )


def _options(command: Command) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Return (title, id, options) of a menuentry."""
    title: str | None = None
    found: str | None = None
    options = []
    words = iter(command.words[1:])
    for word in words:
        text = word.text
        if word.variable and text.strip("${}") == "menuentry_id_option":
            found = next((w.text for w in words), None)
        elif text in _TAKES_VALUE:
            value = next((w.text for w in words), "")
            found = value if text == "--id" else found
            options.append(f"{text}={value}")
        elif text.startswith("--"):
            found = text[5:] if text.startswith("--id=") else found
            options.append(text)
        elif title is None:
            title = text
    return title, found, tuple(options)


class _Count:
    """Counts the entries of one menu."""

    def __init__(self) -> None:
        self.next = 0
        self.sure = True


def _entries(
    statements: Sequence[Statement], above: str, count: _Count, maybe: bool
) -> Iterator[Entry]:
    for statement in statements:
        if isinstance(statement, Choice):
            for part in statement.parts:
                yield from _entries(part, above, count, True)
        elif statement.name in _ENTRIES and statement.body is not None:
            title, found, options = _options(statement)
            if maybe:
                count.sure = False
            number = f"{above}{count.next}"
            sure, is_submenu = count.sure, statement.name == "submenu"
            count.next += 1
            yield Entry(
                title or "", found, number, sure, options,
                tuple(commands(statement.body)), is_submenu,
            )  # fmt: skip
            if is_submenu:
                yield from _entries(statement.body, f"{number}>", _Count(), not sure)


def assignments(statements: Sequence[Statement]) -> Iterator[tuple[Command, str, str]]:
    """Yield (command, name, value) for every variable that is set outside of blocks."""
    for command in commands(tuple(statements)):
        words = command.arguments if command.name == "set" else (command.name,)
        for word in words:
            name, equals, value = word.partition("=")
            if equals and re.fullmatch(r"[A-Za-z_]\w*", name) and command.body is None:
                yield command, name, value


def _timeouts(statements: Sequence[Statement], failed: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield (timeout, whether it is for a boot after a failed one)."""
    for statement in statements:
        if isinstance(statement, Choice):
            marked = any(
                "recordfail" in " ".join(c.arguments) for c in commands(statement.parts[0])
            )
            for number, part in enumerate(statement.parts):
                yield from _timeouts(part, failed or (marked and number == 1))
        else:
            for _, name, value in assignments([statement]):
                if name == "timeout":
                    yield value, failed


def read(text: str) -> Config:
    """Return what a configuration file says.

    :raises MenuError: it cannot be understood.
    """
    statements = parse(text)
    plain = [c for c in commands(statements) if c.body is None]
    entries = tuple(_entries(statements, "", _Count(), False))
    source = next((c.offset for c in reversed(plain) if is_custom(c)), None)
    sets = [(c, n, v) for c, n, v in assignments(statements) if n in ("default", "superusers")]
    defaults = [v for _, name, v in sets if name == "default" and "next_entry" not in v]
    waits = list(_timeouts(statements))
    return Config(
        entries=entries,
        custom=None if source is None else _before(statements, source),
        default=defaults[-1] if defaults else "",
        timeouts=tuple(value for value, failed in waits if not failed),
        recordfail=tuple(value for value, failed in waits if failed),
        loads_env=any(c.name == "load_env" for c in plain),
        has_ids="menuentry_id_option" in text,
        has_users=any(name == "superusers" for _, name, _ in sets),
        bls=any(c.name in _BLS for c in plain),
        late_default=source is not None
        and any(c.offset > source and name == "default" for c, name, _ in sets),
    )


def _before(statements: Sequence[Statement], offset: int) -> int:
    """Return how many entries of the first menu are surely there before ``offset``."""
    return sum(
        1
        for s in statements
        if isinstance(s, Command)
        and s.body is not None
        and s.name in _ENTRIES
        and s.offset < offset
    )


def default_value(config: Config, own: Config | None, env: Mapping[str, str]) -> str:
    """Return what the default is: a number, a title or an id, with ``>`` between levels.

    :param own: what custom.cfg says outside of our lines; it is read last.
    """
    value = (own.default if own is not None else "") or config.default or "0"
    if value.strip("${}") == "saved_entry" and value.startswith("$"):
        value = env.get("saved_entry") or "0"
    return value


def find(entries: Sequence[Entry], value: str) -> Entry | None:
    """Return the entry that a default means, or None."""
    above, found = "", None
    for part in re.split(r"(?<!>)>(?!>)", value):
        name = part.replace(">>", ">")
        level = [
            e for e in entries if e.number.startswith(above) and ">" not in e.number[len(above) :]
        ]
        found = next(
            (e for e in level if name in (e.number[len(above) :], e.title, e.id)),
            None,
        )
        if found is None:
            return None
        above = f"{found.number}>"
    return found


def usable(entry: Entry, config: Config) -> bool:
    """Tell whether an entry starts Linux by itself: with root=, no shell, no password."""
    kernel = entry.kernel
    free = not config.has_users or "--unrestricted" in entry.options
    return kernel is not None and kernel.starts_alone and free


def good_entry(config: Config, value: str, avoid: Collection[str] = ()) -> Entry:
    """Return the entry to take root= and the arguments from: the default, or the first usable.

    :param avoid: names of kernels' files; our own, which update-grub lists as well.
    :raises MenuError: there is none.
    """
    default = find(config.entries, value)
    wanted: list[Entry] = [default] if default is not None else []
    for entry in (*wanted, *config.entries):
        if usable(entry, config) and not _starts(entry, avoid):
            return entry
    if config.bls:
        raise MenuError("its entries are in /boot/loader/entries (BLS), which are not handled")
    raise MenuError("no entry starts Linux by itself: there would be no way back")


def _starts(entry: Entry, names: Collection[str]) -> bool:
    kernel = entry.kernel
    return kernel is not None and kernel.path.rpartition("/")[2] in names


def fallback(config: Config, value: str, avoid: Collection[str] = ()) -> int:
    """Return the number for GRUB's variable ``fallback``: GRUB takes nothing but a number there.

    :param avoid: as for :func:`good_entry`.
    :raises MenuError: no usable entry is in the first menu.
    """
    good = good_entry(config, value, avoid)
    same = [e for e in config.entries if e.linux == good.linux or e.kernel == good.kernel]
    for entry in (good, *same, *config.entries):
        if entry.top and entry.sure and usable(entry, config) and not _starts(entry, avoid):
            return int(entry.number)
    raise MenuError("no entry of the first menu starts Linux by itself: there would be no way back")


def check(config: Config) -> None:
    """Refuse a configuration that an entry in custom.cfg is no part of, or must not be.

    :raises MenuError: says why.
    """
    if config.bls:
        raise MenuError("its entries are in /boot/loader/entries (BLS), which are not handled")
    if config.custom is None:
        raise MenuError("it does not read custom.cfg (41_custom of grub-mkconfig makes it do so)")


def check_trial(config: Config, env: Mapping[str, str]) -> None:
    """Refuse to change what boots where the menu waits for a key, or decides later.

    :raises MenuError: says why.
    """
    if not config.loads_env:
        raise MenuError("it never reads its environment block (load_env)")
    if config.late_default:
        raise MenuError("it sets the default after it has read custom.cfg")
    if not config.timeouts or "-1" in config.timeouts:
        raise MenuError("it has no timeout: GRUB waits for a key at every boot")
    if env.get("recordfail") == "1" and "-1" in config.recordfail:
        raise MenuError(
            "the last boot is recorded as failed (recordfail=1 in grubenv), and GRUB waits for a "
            "key then: set GRUB_RECORDFAIL_TIMEOUT in /etc/default/grub and run update-grub"
        )


def quote(word: str) -> str:
    """Return a word as it is written in a configuration file."""
    if re.fullmatch(r"[A-Za-z0-9_./:=,+@%-]+", word):
        return word
    return "'" + word.replace("'", "'\\''") + "'"


def way(entry: Entry) -> list[str]:
    """Return the lines by which an entry finds its files: modules, root, search."""
    lines = []
    searches = [c for c in entry.commands if c.name == "search" or c.name.startswith("search.")]
    # With and without a hint there is one of each; without is understood by every version.
    plain = [c for c in searches if not any("--hint" in a for a in c.arguments)] or searches
    for command in entry.commands:
        if command.name == "insmod":
            wanted = not any(_NOT_NEEDED.fullmatch(a) or "$" in a for a in command.arguments)
        elif command.name == "set":
            wanted = command.arguments[:1] != () and command.arguments[0].startswith("root=")
        elif command.name == "cryptomount":
            wanted = True
        else:
            wanted = command in plain[-1:]
        line = " ".join(quote(word.text) for word in command.words)
        if wanted and line not in lines:
            if any(word.variable for word in command.words):
                raise MenuError(f"its entry finds its files by a variable: {line}")
            lines.append(line)
    return lines
