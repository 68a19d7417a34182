# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB 2 on a node: custom.cfg and grubenv with our entry; values in, texts out.

How grub.cfg is read is in grub.grub2, what is written in grub.custom_cfg and grub.grubenv.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from grub import custom_cfg, grub2, grubenv, kernel_line
from grub.kernel_line import Kernel
from grub.legacy import MenuError
from provision import boot_line
from provision.abi_note import kernel_version
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
    def proven(self) -> str | None:
        """Return the kernel of ours that is booted by default, if one is."""
        if self.ours is None:
            return None
        return self.ours.committed or self.ours.named(self.default)

    @property
    def armed(self) -> str | None:
        """Return the kernel of ours that is booted once, if one is."""
        if self.ours is None:
            return None
        if self.env.get(custom_cfg.TRIAL) == "1":
            return self.ours.newest
        return self.ours.named(self.env.get("next_entry"))

    @property
    def first(self) -> int | None:
        """Return the number that our first entry has; None where an if decides about one above."""
        other = grub2.read(custom_cfg.before(self.custom))
        if not all(e.sure for e in (*self.config.entries, *other.entries) if e.top):
            return None
        return (self.config.custom or 0) + sum(1 for e in other.entries if e.top)

    def fallback(self, *more: str) -> int:
        """Return the number of an entry to boot when ours cannot be: none of our kernels.

        :param more: files of kernels that will be ours.
        """
        mine = self.ours.kernels if self.ours is not None else []
        return grub2.fallback(self.config, self.default, (*mine, *more))

    def write(self, made: custom_cfg.Ours) -> list[File]:
        """Return custom.cfg with our part as it shall be, if that changes it."""
        text = custom_cfg.write(self.custom, made, self.fallback(*made.kernels), self.first)
        if text == self.custom:
            return []
        return [File(f"{self.directory}/custom.cfg", text.encode("latin-1"), 0o600)]


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


def kernels(facts: Facts) -> frozenset[str] | None:
    """Return the files of our entries' kernels; None where they cannot be read."""
    try:
        menu = _menu(facts)[1]
    except FailedError:
        return None
    return frozenset() if menu.ours is None else frozenset(menu.ours.kernels)


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
    return kernel_line.path(model, name, boot_is_separate=facts.boot_is_separate)


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
        name = custom_cfg.free_id(menu.ours, _file(kernel_release), menu.proven)
        options = f" $menuentry_id_option '{name}'" if menu.config.has_ids else ""
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
            kernel=_path(kernel, _file(kernel_release), facts),
            arguments=" ".join(line.arguments),
        )
        made = custom_cfg.with_entry(menu.ours, custom_cfg.entry(body), menu.proven)
        text = custom_cfg.write(menu.custom, made, menu.fallback(*made.kernels), menu.first)
        refusals = list(line.refusals)
        before = menu.ours.entries if menu.ours is not None else ()
        if any(one.kernel == menu.proven and one not in made.entries for one in before):
            refusals.append(boot_line.own_default())
        left = [
            f"{word.text!r} is not taken over from the default entry: it has a variable or quotes"
            for word in linux.words[2:]
            if word.variable or not _PLAIN.fullmatch(word.text)
        ]
        beside = boot_line.beside([one.kernel for one in before], made.kernels, menu.proven)
        file = File(f"{menu.directory}/custom.cfg", text.encode("latin-1"), 0o600)
        return Entry(
            (file,),
            tuple(refusals),
            (
                *left,
                *line.notes,
                *beside,
                *_no_number(menu, made, _file(kernel_release)),
                *_listed_first(menu, kernel_release),
            ),
        )


def _no_number(menu: _Menu, made: custom_cfg.Ours, kernel: str) -> Iterator[str]:
    """Say what is booted in place of our former entry where GRUB cannot be told its number.

    The variable ``fallback`` takes numbers only (grub-core/normal/menu.c), and an entry inside an
    if, such as that of 30_uefi-firmware, may be there or not.
    """
    base = made.base(kernel, menu.proven)
    if base is None or menu.first is not None:
        return
    number = menu.fallback(*made.kernels)
    title = next(e.title for e in menu.config.entries if e.number == str(number))
    yield (
        "an if in grub.cfg decides how many entries there are, so that our entry for "
        f"{base} has no number that is known: if {kernel} cannot be loaded, GRUB boots {title!r} "
        f"in its place; after a panic it is {base}"
    )


def _listed_first(menu: _Menu, kernel_release: str) -> Iterator[str]:
    """Warn where update-grub will put its own entry for our kernel above all others.

    10_linux of grub-mkconfig lists every vmlinuz in /boot, the highest version first.
    """
    names = (e.kernel.path.rpartition("/")[2] for e in menu.config.entries if e.kernel is not None)
    found = (re.fullmatch(r"(?:vmlinu[xz]|kernel)-(\d.*)", name) for name in names)
    others = {match[1] for match in found if match is not None} - {kernel_release}
    if others and max(map(kernel_version, others)) < kernel_version(kernel_release):
        yield (
            f"update-grub, whenever it is run, lists {kernel_release} first, without its ids and "
            "panic=: a default that is the first entry then means that, and others may be left in "
            "a submenu only, where no fallback finds them (GRUB_DISABLE_SUBMENU=y). Our own entry, "
            "once it is the default, is named in custom.cfg and stays it"
        )


def unbootable(facts: Facts, gone: frozenset[str]) -> Iterator[str]:
    """Refuse to remove a kernel that the default entry of grub.cfg starts.

    That is so when update-grub was run since the kernel came, and listed it first.

    :param gone: the names of files that are to be removed from /boot.
    """
    path = config(facts)
    try:
        menu = None if path is None else _read(facts, path)
    except FailedError:
        # Deploy refuses such a node; whoever wrote that since has to know what it boots.
        return
    entry = None if menu is None else grub2.find(menu.config.entries, menu.default)
    kernel = None if entry is None else entry.kernel
    name = "" if kernel is None else kernel.path.rpartition("/")[2]
    if name in gone:
        yield (
            f"{path}: the default entry starts {name}, which would be removed: make another entry "
            f"the default, or remove /boot/{name} there and run update-grub, then roll back"
        )


def _file(kernel_release: str) -> str:
    return f"vmlinuz-{kernel_release}"


def state(facts: Facts, kernel_release: str) -> str:
    """Say what the next boot does, as boot_entry.state does."""
    _, menu = _menu(facts)
    kernel, armed = _file(kernel_release), menu.armed
    if menu.ours is None or kernel not in menu.ours.kernels or menu.config.custom is None:
        return "none"
    if menu.proven == kernel and armed in (None, kernel):
        return "default"
    return "armed" if armed == kernel else "installed"


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
    if menu.ours is not None and menu.ours.named(menu.env.get("next_entry")) is not None:
        changes["next_entry"] = None
    if menu.ours is not None and menu.ours.named(menu.env.get("saved_entry")) is not None:
        changes["saved_entry"] = str(menu.fallback())
    return changes


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


def _with_default(
    menu: _Menu, kernel: str, committed: str | None, former: str | None
) -> list[File]:
    assert menu.ours is not None
    return menu.write(replace(menu.ours, newest=kernel, committed=committed, former=former))


def arm(facts: Facts, kernel_release: str) -> Switch:
    """Return what makes the next boot, and only that one, boot our entry."""
    path, menu = _ready(facts, kernel_release)
    assert menu.ours is not None
    kernel = _file(kernel_release)
    with _explained(path):
        base = menu.ours.base(kernel, menu.proven)
        # The menu first: what is armed must be what stands in it.
        texts = _with_default(menu, kernel, base, base)
        texts += _with_env(menu, {custom_cfg.TRIAL: "1"})
    bad = ("unknown", "raid", "lvm", "btrfs", "zfs")
    return Switch(tuple(texts), refusals=tuple(boot_line.storage(facts, bad)))


def commit(facts: Facts, kernel_release: str) -> Switch:
    """Return what makes every boot from now on boot our entry."""
    path, menu = _ready(facts, kernel_release)
    assert menu.ours is not None
    kernel = _file(kernel_release)
    with _explained(path):
        base = menu.ours.base(kernel, menu.proven)
        texts = _with_default(menu, kernel, kernel, base)
        return Switch((*texts, *_with_env(menu, _cleared(menu))))


def disarm(facts: Facts, kernel_release: str, leaving: Collection[str]) -> Switch:
    """Return what makes the default before ours the default again: grub.cfg's, or one of ours."""
    path, menu = _menu(facts)
    if menu.ours is None:
        return Switch()
    kernel = _file(kernel_release)
    if kernel not in menu.ours.kernels:
        kernel = menu.ours.newest
    with _explained(path):
        base = menu.ours.base(kernel, menu.proven)
        if menu.proven is None or base in [None, *map(_file, leaving)]:
            return _plain(menu)
        texts = _with_env(menu, _cleared(menu))
        return Switch((*texts, *menu.write(replace(menu.ours, committed=base))))


def _plain(menu: _Menu) -> Switch:
    """Return what makes the default of grub.cfg the default again."""
    assert menu.ours is not None
    changes = _cleared(menu)
    texts = _with_env(menu, changes) + menu.write(replace(menu.ours, committed=None))
    now = "" if "saved_entry" in changes else menu.default
    if menu.ours.named(now) is not None:
        raise MenuError("our entry is the default in grub.cfg itself (GRUB_DEFAULT)")
    return Switch(tuple(texts))


def remove(facts: Facts) -> Switch:
    """Return what takes our entries out, and leaves the files as they were before them."""
    path, menu = _menu(facts)
    if menu.ours is None:
        return Switch()
    with _explained(path):
        off = _plain(menu)
        rest = custom_cfg.others(menu.custom).encode("latin-1")
    texts = [text for text in off.texts if not text.path.endswith("/custom.cfg")]
    return Switch((*texts, File(f"{menu.directory}/custom.cfg", rest, 0o600)))


def bring_back(facts: Facts, former: Mapping[str, bytes]) -> Switch:
    """Return what makes our entries those of a former custom.cfg, in the one of now."""
    path, menu = _menu(facts)
    custom = f"{menu.directory}/custom.cfg"
    with _explained(path):
        made = custom_cfg.ours(former.get(custom, b"").decode("latin-1"))
    if made is None:
        return remove(facts)
    with _explained(path):
        cleared = _with_env(menu, _cleared(menu))
        return Switch((*cleared, *menu.write(made)))
