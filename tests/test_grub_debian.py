# SPDX-License-Identifier: GPL-2.0-or-later
"""What Debian's own update-grub makes of our entries, and we of what it writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import debian_root
import pytest
from debian_root import Root
from test_boot_entry import RELEASE, Place

from grub import grub2, legacy
from provision import boot_entry, boot_grub2
from provision.errors import FailedError

pytestmark = pytest.mark.debian
INCLUDE = ("initramfs-tools", "kmod", "zstd")
OLDER, OLD, NEW = "2.6.18-6-686", "6.1.0-1-amd64", "6.1.0-2-amd64"


def started(tmp_path: Path, loader: str) -> Iterator[Root]:
    """A Debian on a disk, with two kernels: its own, and ours, which update-grub lists too."""
    with debian_root.root(tmp_path, include=(*INCLUDE, loader), disk=True) as root:
        for release in (OLD, RELEASE):
            root.file(f"/boot/vmlinuz-{release}").write_text("a kernel")
        root.file("/boot/grub").mkdir(exist_ok=True)
        yield root


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Root]:
    for root in started(tmp_path, "grub-legacy"):
        root.file("/boot/grub/menu.lst").write_text("default 0\ntimeout 5\n")
        root.file("/boot/grub/device.map").write_text(f"(hd0) {root.devices[0]}\n")
        root.run(["update-grub"], check=True)
        yield root


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Root]:
    for root in started(tmp_path, "grub2-common"):
        root.run(["update-grub"], check=True)
        yield root


def look(root: Root, **words: str) -> Place:
    """Return the node as its files are now."""
    node = Place({}, **words)
    for path in boot_entry.TEXTS:
        if root.file(path).exists():
            node.texts[path] = root.file(path).read_bytes()
    return node


def write(root: Root, node: Place) -> None:
    for path, content in node.texts.items():
        root.file(path).write_bytes(content)


def ours(node: Place) -> str:
    text = node.texts["/boot/grub/menu.lst"].decode("latin-1")
    found = legacy.region(text)
    assert found is not None
    return text[found.start : found.end]


def test_legacy(old: Root) -> None:
    first = look(old)
    titles = [e.title for e in legacy.entries(first.texts["/boot/grub/menu.lst"].decode())]
    assert [t.split("kernel ")[1] for t in titles] == [
        OLD, f"{OLD} (single-user mode)", RELEASE, f"{RELEASE} (single-user mode)",
    ]  # fmt: skip
    node = look(old)
    node.make()
    node.do(boot_entry.arm)
    assert node.texts["/boot/grub/menu.lst"].startswith(b"default saved\nfallback 0\n")
    write(old, node)
    # Nothing new for it: everything stays, the default too.
    old.run(["update-grub"], check=True)
    assert look(old).texts == node.texts and look(old).state == "armed"
    # A new kernel: our part stays, its number does not. It is found and armed again.
    old.file(f"/boot/vmlinuz-{NEW}").write_text("a kernel")
    old.run(["update-grub"], check=True)
    after = look(old)
    assert ours(after) == ours(node)
    assert after.texts["/boot/grub/menu.lst"].startswith(b"default saved\nfallback 0\n")
    assert after.state == "installed"
    after.do(boot_entry.arm)
    assert after.state == "armed"
    after.write(boot_entry.remove(after.facts).texts)
    write(old, after)
    old.run(["update-grub"], check=True)
    done = look(old).texts["/boot/grub/menu.lst"]
    assert done == after.texts["/boot/grub/menu.lst"]
    assert done.startswith(b"default 0\ntimeout 5\n") and b"KRG-PROVISION" not in done


def test_legacy_that_keeps_the_default_up_to_date(old: Root) -> None:
    """With updatedefaultentry=true it follows the title, also that of ours."""
    menu = old.file("/boot/grub/menu.lst")
    menu.write_text(
        menu.read_text().replace("# updatedefaultentry=false", "# updatedefaultentry=true")
    )
    node = look(old)
    node.make()
    node.do(boot_entry.commit)
    write(old, node)
    old.file(f"/boot/vmlinuz-{NEW}").write_text("a kernel")
    old.run(["update-grub"], check=True)
    assert look(old).state == "default"
    assert ours(look(old)) == ours(node)


def test_grub2(new: Root) -> None:
    node = look(new, grub2="/boot/grub/grub.cfg")
    config = grub2.read(node.texts["/boot/grub/grub.cfg"].decode())
    real = new.run(["grep", "-cE", r"^\s*(menuentry|submenu) ", "/boot/grub/grub.cfg"], check=True)
    assert len(config.entries) == int(real.stdout)
    assert config.entries[0].kernel is not None
    assert config.entries[0].kernel.path == f"/boot/vmlinuz-{OLD}"
    assert config.custom == 2 and config.loads_env and config.has_ids and not config.late_default
    node.make()
    node.do(boot_entry.arm)
    assert node.state == "armed"
    write(new, node)
    new.run(["grub-script-check", "/boot/grub/custom.cfg"], check=True)
    said = new.run(["grub-editenv", "/boot/grub/grubenv", "list"], check=True)
    assert said.stdout == "krg_trial=1\n"
    node.do(boot_entry.commit)
    write(new, node)
    new.file(f"/boot/vmlinuz-{NEW}").write_text("a kernel")
    new.run(["update-grub"], check=True)
    assert look(new, grub2="/boot/grub/grub.cfg").state == "default"
    # GRUB's own tool for its own variable gets along with ours.
    new.run(["grub-reboot", "0"], check=True)
    after = look(new, grub2="/boot/grub/grub.cfg")
    after.do(boot_entry.disarm)
    assert after.state == "installed"
    # Beside an older kernel ours is listed first, without ids, and 0 means it: the plan had
    # said so. As the default, ours stays; without it, that kernel is not taken away.
    after.do(boot_entry.commit)
    write(new, after)
    for release in (OLD, NEW):
        new.file(f"/boot/vmlinuz-{release}").unlink()
    new.file(f"/boot/vmlinuz-{OLDER}").write_text("a kernel")
    new.run(["update-grub"], check=True)
    # The older one is in the submenu only, which a fallback cannot name.
    with pytest.raises(FailedError, match="no entry of the first menu"):
        look(new, grub2="/boot/grub/grub.cfg").make()
    with new.file("/etc/default/grub").open("a") as settings:
        settings.write("GRUB_DISABLE_SUBMENU=y\n")
    new.run(["update-grub"], check=True)
    after = look(new, grub2="/boot/grub/grub.cfg")
    assert after.state == "default"
    assert any(f"lists {RELEASE} first" in note for note in after.make().notes)
    after.do(boot_entry.disarm)
    gone = frozenset({f"vmlinuz-{RELEASE}"})
    assert any("would be removed" in line for line in boot_grub2.unbootable(after.facts, gone))
