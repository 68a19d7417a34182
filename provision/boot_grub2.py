# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB 2 on a node: custom.cfg and grubenv with our entry; values in, texts out.

How grub.cfg is read is in grub.grub2, what is written in grub.custom_cfg and grub.grubenv.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from grub import custom_cfg, grub2, grubenv
from grub.legacy import Kernel, MenuError, kernel_path
from provision import boot_line
from provision.boot_line import Entry, File, Switch
from provision.cluster import Node
from provision.data import render
from provision.errors import FailedError
from provision.facts import Facts

# Red Hat's GRUB 2 has a directory of its own.
DIRECTORIES = ("/boot/grub", "/boot/grub2")
_FILES = ("grub.cfg", "custom.cfg", "grubenv")
TEXTS = tuple(f"{directory}/{name}" for directory in DIRECTORIES for name in _FILES)

# What may go from one kernel line to another as it is, without quotes.
_PLAIN = re.compile(r"[A-Za-z0-9_./:=,+@%-]+")


def config(facts: Facts) -> str | None:
    """Return the path of the node's grub.cfg, or None."""
    for directory in DIRECTORIES:
        path = f"{directory}/grub.cfg"
        if path in facts.texts or path in facts.odd or facts.word("grub2") == path:
            return path
    return None


def there(facts: Facts) -> bool:
    """Tell whether the node has a grub.cfg."""
    return config(facts) is not None


@dataclass(frozen=True)
class _Menu:
    """The three files as they are, and what they say."""

    directory: str
    config: grub2.Config
    custom: str
    env_text: str | None
    env: Mapping[str, str]
    ours: custom_cfg.Ours | None
    default: str

    @property
    def fallback(self) -> int:
        """Return the number of the entry to boot when ours cannot be loaded."""
        avoid = self.ours.path.rpartition("/")[2] if self.ours is not None else ""
        return self.fallback_beside(avoid)

    def fallback_beside(self, kernel: str) -> int:
        """Return the same, if ``kernel`` is the file that our entry starts."""
        return grub2.fallback(self.config, self.default, kernel)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except (MenuError, grubenv.EnvError) as error:
        where = path
        if isinstance(error, grubenv.EnvError):
            where = path.replace("grub.cfg", "grubenv")
        raise FailedError(f"{where}: {error}", hint="mend it on the node, then deploy") from error


def _decoded(facts: Facts, path: str) -> str | None:
    there = facts.texts.get(path)
    return None if there is None else there.content.decode("latin-1")


def _read(facts: Facts, path: str) -> _Menu:
    text = _decoded(facts, path)
    if text is None:
        raise FailedError(
            f"{path} could not be read: it is no plain file, or too large",
            hint="--no-bootloader installs all but the entry",
        )
    directory = path.rpartition("/")[0]
    custom_path = f"{directory}/custom.cfg"
    if custom_path in facts.odd:
        raise FailedError(f"{custom_path} is not a plain file")
    custom = _decoded(facts, custom_path) or ""
    env_text = _decoded(facts, f"{directory}/grubenv") or None
    with _explained(path):
        found = grub2.read(text)
        env = grubenv.read(env_text) if env_text is not None else {}
        other = grub2.read(custom_cfg.others(custom))
        default = grub2.default_value(found, other, env)
        return _Menu(directory, found, custom, env_text, env, custom_cfg.ours(custom), default)


def _menu(facts: Facts) -> tuple[str, _Menu]:
    path = config(facts)
    if path is None:
        raise FailedError("there is no grub.cfg", hint="--no-bootloader installs all but the entry")
    return path, _read(facts, path)


def _others(menu: _Menu) -> int:
    """Return how many entries are surely there before ours."""
    other = grub2.read(custom_cfg.others(menu.custom))
    return (menu.config.custom or 0) + sum(1 for e in other.entries if e.top and e.sure)


def _check_number(menu: _Menu) -> None:
    """Refuse a default number that could come to mean our entry.

    GRUB boots the first entry for a number that is out of range.
    """
    number, count = menu.default.partition(">")[0], _others(menu)
    if re.fullmatch(r"[0-9]+", number) and int(number) >= count:
        raise MenuError(
            f"the default is {number}, but before custom.cfg the entries are 0 to {count - 1}: "
            "that number could come to mean the new entry"
        )


def _path(model: Kernel, name: str, facts: Facts) -> str:
    """Return GRUB's path of a file in /boot, as the model spells it; a btrfs subvolume stays."""
    match = re.fullmatch(r"(\([^)]*\)|\$root)?(/.*)?/boot/[^/]+", model.path)
    if match is not None and match.group(2):
        return f"{match.group(1) or ''}{match.group(2)}/boot/{name}"
    return kernel_path(model, name, boot_is_separate=facts.boot_is_separate)


def make(
    node: Node,
    facts: Facts,
    *,
    session: int,
    kernel_release: str,
    autonodeid: bool,
    title: str = "Kerrighed",
) -> Entry:
    """Return custom.cfg with our entry in it.

    :raises FailedError: grub.cfg does not read it, or starts no Linux, or cannot be understood.
    """
    where, menu = _menu(facts)
    with _explained(where):
        grub2.check(menu.config)
        _check_number(menu)
        good = grub2.good_entry(menu.config, menu.default)
        kernel, linux = good.kernel, good.linux
        assert kernel is not None and linux is not None
        if linux.name == "linuxefi":
            raise MenuError("UEFI boots this node (linuxefi), which this kernel cannot follow")
        words = [word for word in kernel.arguments if _PLAIN.fullmatch(word)]
        line = boot_line.make(
            node, facts, words, where=where, session=session, autonodeid=autonodeid
        )
        options = " $menuentry_id_option 'krg-provision'" if menu.config.has_ids else ""
        unrestricted = " --unrestricted" if "--unrestricted" in good.options else ""
        body = render(
            "custom_cfg.j2",
            title=title,
            kernel_release=kernel_release,
            node_id=node.id,
            session=session,
            options=unrestricted + options,
            way=grub2.way(good),
            linux="linux16" if linux.name == "linux16" else "linux",
            kernel=_path(kernel, f"vmlinuz-{kernel_release}", facts),
            arguments=" ".join(line.arguments),
        )
        made = custom_cfg.put(menu.custom, body, menu.fallback_beside(f"vmlinuz-{kernel_release}"))
        refusals = list(line.refusals)
        if made != menu.custom and _state(menu) == "default":
            refusals.append(boot_line.own_default())
        left = [
            f"{word.text!r} is not taken over from the default entry: it has a variable or quotes"
            for word in linux.words[2:]
            if word.variable or not _PLAIN.fullmatch(word.text)
        ]
        text = File(f"{menu.directory}/custom.cfg", made.encode("latin-1"), 0o600)
        return Entry((text,), tuple(refusals), (*left, *line.notes))


def _is_ours(menu: _Menu, value: str | None) -> bool:
    return menu.ours is not None and value in (menu.ours.name, menu.ours.title)


def _state(menu: _Menu) -> str:
    if menu.ours is None or menu.config.custom is None:
        return "none"
    if menu.ours.committed or _is_ours(menu, menu.default):
        return "default"
    armed = menu.env.get(custom_cfg.TRIAL) == "1" or _is_ours(menu, menu.env.get("next_entry"))
    return "armed" if armed else "installed"


def state(facts: Facts, kernel_release: str) -> str:
    """Say what the next boot does, as boot_entry.state does."""
    _, menu = _menu(facts)
    if menu.ours is None or not menu.ours.path.endswith(f"/vmlinuz-{kernel_release}"):
        return "none"
    return _state(menu)


def _with_env(menu: _Menu, changes: Mapping[str, str | None]) -> list[File]:
    text = menu.env_text if menu.env_text is not None else grubenv.empty()
    for name, value in changes.items():
        if menu.env.get(name) != value:
            text = grubenv.write(text, name, value)
    if text == menu.env_text or (menu.env_text is None and text == grubenv.empty()):
        return []
    return [File(f"{menu.directory}/grubenv", text.encode("latin-1"), 0o600)]


def _cleared(menu: _Menu) -> dict[str, str | None]:
    """Return what of ours has to go from the environment block."""
    changes: dict[str, str | None] = {custom_cfg.TRIAL: None}
    if _is_ours(menu, menu.env.get("next_entry")):
        changes["next_entry"] = None
    if _is_ours(menu, menu.env.get("saved_entry")):
        changes["saved_entry"] = str(menu.fallback)
    return changes


def _with_custom(menu: _Menu, committed: bool) -> list[File]:
    assert menu.ours is not None
    made = custom_cfg.put(menu.custom, menu.ours.entry, menu.fallback, committed=committed)
    if made == menu.custom:
        return []
    return [File(f"{menu.directory}/custom.cfg", made.encode("latin-1"), 0o600)]


def _ready(facts: Facts, kernel_release: str) -> tuple[str, _Menu]:
    path, menu = _menu(facts)
    if state(facts, kernel_release) == "none":
        raise FailedError(
            f"{menu.directory}/custom.cfg has no entry of ours for {kernel_release}",
            hint="deploy first",
        )
    with _explained(path):
        grub2.check(menu.config)
        grub2.check_trial(menu.config, menu.env)
    return path, menu


def arm(facts: Facts, kernel_release: str) -> Switch:
    """Return what makes the next boot, and only that one, boot our entry."""
    path, menu = _ready(facts, kernel_release)
    with _explained(path):
        # The menu first: what is armed must be what stands in it.
        texts = _with_custom(menu, False) + _with_env(menu, {custom_cfg.TRIAL: "1"})
    bad = ("unknown", "raid", "lvm", "btrfs", "zfs")
    return Switch(tuple(texts), refusals=tuple(boot_line.storage(facts, bad)))


def commit(facts: Facts, kernel_release: str) -> Switch:
    """Return what makes every boot from now on boot our entry."""
    path, menu = _ready(facts, kernel_release)
    with _explained(path):
        return Switch(tuple(_with_custom(menu, True) + _with_env(menu, _cleared(menu))))


def disarm(facts: Facts) -> Switch:
    """Return what makes the default of grub.cfg the default again."""
    path, menu = _menu(facts)
    if menu.ours is None:
        return Switch()
    with _explained(path):
        changes = _cleared(menu)
        texts = _with_env(menu, changes) + _with_custom(menu, False)
        now = "" if "saved_entry" in changes else menu.default
        if _is_ours(menu, now):
            raise MenuError("our entry is the default in grub.cfg itself (GRUB_DEFAULT)")
        return Switch(tuple(texts))


def remove(facts: Facts) -> Switch:
    """Return what takes our entry out, and leaves the files as they were before it."""
    path, menu = _menu(facts)
    off = disarm(facts)
    if menu.ours is None:
        return off
    with _explained(path):
        rest = custom_cfg.others(menu.custom).encode("latin-1")
    texts = [text for text in off.texts if not text.path.endswith("/custom.cfg")]
    return Switch((*texts, File(f"{menu.directory}/custom.cfg", rest, 0o600)))
