# SPDX-License-Identifier: GPL-2.0-or-later
"""GRUB Legacy on a node: menu.lst and /boot/grub/default with our entry; values in, texts out.

What is edited, and why it is safe, is in grub.legacy and grub.legacy_trial.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from grub import kernel_line, legacy, legacy_back, legacy_trial
from grub.legacy_trial import Switched
from provision import boot_line
from provision.abi_note import kernel_version
from provision.boot_line import Entry, File, Switch
from provision.cluster import Node
from provision.data import render
from provision.errors import FailedError
from provision.facts import Facts

MENU = "/boot/grub/menu.lst"
SAVED = "/boot/grub/default"


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except legacy.MenuError as error:
        raise FailedError(f"{MENU}: {error}", hint="edit it on the node, then deploy") from error


def _menu(facts: Facts) -> str:
    there = facts.texts.get(MENU)
    if there is None:
        what = f"{MENU} is not a plain file" if MENU in facts.odd else f"there is no {MENU}"
        raise FailedError(
            what,
            hint="if GRUB Legacy is not in use there, --no-bootloader installs all but the entry",
        )
    return there.content.decode("latin-1")


def _saved(facts: Facts) -> int | None:
    there = facts.texts.get(SAVED)
    if there is not None:
        return legacy.saved_index(there.content.decode("latin-1"))
    return legacy.saved_index(facts.word("saved") or "")


def make(
    node: Node,
    facts: Facts,
    *,
    session: int,
    kernel_release: str,
    autonodeid: bool,
    title: str = "Kerrighed",
) -> Entry:
    """Return menu.lst with our entry in it.

    :raises FailedError: there is none, or it cannot be edited safely.
    """
    text, saved = _menu(facts), _saved(facts)
    with _explained():
        good = legacy.known_good(text, saved)
        assert good.kernel is not None
        line = boot_line.make(
            node,
            facts,
            good.kernel.arguments,
            where=MENU,
            session=session,
            autonodeid=autonodeid,
        )
        path = kernel_line.path(
            good.kernel, _file(kernel_release), boot_is_separate=facts.boot_is_separate
        )
        body = render(
            "menu_lst.j2",
            title=title,
            kernel_release=kernel_release,
            node_id=node.id,
            session=session,
            root=f"{good.root.name}\t\t{good.root.argument.strip()}" if good.root else "",
            kernel=path,
            arguments=" ".join(line.arguments),
        )
        made = legacy_trial.put(text, body, saved)
        refusals = list(line.refusals)
        stays = legacy.proven(text, saved)
        if stays is not None and stays not in legacy.own(made):
            refusals.append(boot_line.own_default())
        notes = (
            *line.notes,
            *_notes(text, saved),
            *_listed_first(text, kernel_release),
            *boot_line.beside(
                [one.kernel for one in legacy.own(text)],
                [one.kernel for one in legacy.own(made)],
                None if stays is None else stays.kernel,
            ),
        )
        return Entry((File(MENU, made.encode("latin-1"), 0o600),), tuple(refusals), notes)


def _notes(text: str, saved: int | None) -> Iterator[str]:
    used = legacy.numbers(text, saved)
    others = [n for n, entry in enumerate(legacy.entries(text)) if not entry.ours]
    if not used.is_saved and used.default == max(others) and used.default > 0:
        yield (
            f"default is {used.default}, the last entry before the new one: if an entry above "
            "it goes away (update-grub removes those of removed kernels), that number means "
            "the new one; name a lower one, or use default saved"
        )


def _listed_first(text: str, kernel_release: str) -> Iterator[str]:
    """Warn where update-grub will put its own entry for our kernel above all others."""
    paths = [e.kernel.path for e in legacy.entries(text) if e.kernel is not None and not e.ours]
    found = (re.search(r"/vmlinu[xz]-(\d.*)", path) for path in paths)
    releases = [match.group(1) for match in found if match is not None]
    others = [kernel_version(r) for r in releases if r != kernel_release]
    listed = "### BEGIN AUTOMAGIC KERNELS LIST" in text
    if listed and others and max(others) < kernel_version(kernel_release):
        yield (
            f"update-grub, whenever it is run, lists {kernel_release} first, without its ids and "
            "panic=: a default of 0 then means that; updatedefaultentry=true in menu.lst keeps the "
            "default where it is"
        )


def state(facts: Facts, kernel_release: str) -> str:
    """Say what the next boot does, as boot_entry.state does."""
    text = _menu(facts)
    with _explained():
        return legacy_trial.state(text, _saved(facts), _file(kernel_release))


def kernels(facts: Facts) -> frozenset[str] | None:
    """Return the files of our entries' kernels; None where the menu cannot be read."""
    try:
        return frozenset(one.kernel for one in legacy.own(_menu(facts)))
    except (FailedError, legacy.MenuError):
        return None


def _file(kernel_release: str) -> str:
    return f"vmlinuz-{kernel_release}"


def _switch(
    facts: Facts, change: Callable[[str, int | None], Switched], notes: tuple[str, ...] = ()
) -> Switch:
    text, saved = _menu(facts), _saved(facts)
    with _explained():
        made = change(text, saved)
    texts = []
    if made.text != text:
        texts.append(File(MENU, made.text.encode("latin-1"), 0o600))
    if made.saved is not None:
        content = legacy_trial.default_file(made.saved).encode()
        texts.insert(len(texts) if made.menu_first else 0, File(SAVED, content, 0o600))
    # The saved default is written by GRUB at boot; of the file systems that 0.97 reads, only
    # those on one plain disk can be.
    refusals = boot_line.storage(facts, ("raid", "lvm", "btrfs", "zfs"))
    return Switch(tuple(texts), (), notes, tuple(refusals))


def _must_be_there(facts: Facts, kernel_release: str) -> None:
    if state(facts, kernel_release) == "none":
        raise FailedError(f"{MENU} has no entry of ours for {kernel_release}", hint="deploy first")


def arm(facts: Facts, kernel_release: str) -> Switch:
    """Return what makes the next boot, and only that one, boot our entry."""
    _must_be_there(facts, kernel_release)
    kernel = _file(kernel_release)
    return _switch(facts, lambda text, saved: legacy_trial.arm(text, saved, kernel))


def commit(facts: Facts, kernel_release: str) -> Switch:
    """Return what makes every boot from now on boot our entry."""
    _must_be_there(facts, kernel_release)
    note = (
        "GRUB Legacy knows entries by number: when update-grub adds or removes kernels, the "
        "default may mean another entry (never none); status shows it, and deploy puts it right"
    )
    kernel = _file(kernel_release)
    return _switch(facts, lambda text, saved: legacy_trial.commit(text, saved, kernel), (note,))


def disarm(facts: Facts, kernel_release: str, leaving: Collection[str]) -> Switch:
    """Return what makes the entry before ours the default again, with its lines as they were."""
    one, gone = _file(kernel_release), [_file(release) for release in leaving]
    if state(facts, kernel_release) == "none":
        return Switch(texts=_switch(facts, legacy_trial.disarm).texts)
    made = _switch(facts, lambda text, saved: legacy_trial.disarm(text, saved, one, gone))
    return Switch(texts=made.texts)


def remove(facts: Facts) -> Switch:
    """Return what takes our entries out, and puts all lines back as they were."""
    return Switch(texts=_switch(facts, legacy_trial.take_out).texts)


def bring_back(facts: Facts, former: Mapping[str, bytes]) -> Switch:
    """Return what makes our entries those of former files, in the files as they are now."""
    text = former.get(MENU, b"").decode("latin-1")
    saved = _saved(facts)
    if SAVED in former:
        saved = legacy.saved_index(former[SAVED].decode("latin-1"))

    def change(now: str, number: int | None) -> Switched:
        return legacy_back.as_before(now, number, text, saved)

    return Switch(texts=_switch(facts, change).texts)
