# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node removes of a build of ours, by the script in a small root."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from provision import facts, journal
from provision.data import render
from provision.node import apply_script
from provision.plan import JOURNALS, Plan, Retired
from provision.upload import write_tar

RUN = "20250101T000000Z-0000000000000001"
TREE = "lib/modules/1a"
OURS = {"boot/vmlinuz-1a": b"kernel", "boot/config-1a": b"config", f"{TREE}/kernel/a.ko": b"a"}


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A root with busybox, a build of ours, and the list of what is ours."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox: apt-get install busybox-static")
    if os.geteuid() != 0:
        pytest.skip("chroot needs root: run the tests as root")
    for name in ("bin", "etc", "proc", "dev", JOURNALS.lstrip("/")):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(busybox, tmp_path / "bin/busybox")
    subprocess.run(["chroot", tmp_path, "/bin/busybox", "--install", "-s", "/bin"], check=True)
    (tmp_path / "dev/null").touch()
    for name, content in OURS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    run = tmp_path / JOURNALS.lstrip("/") / RUN
    run.mkdir()
    lines = (
        f"absent - - - file:{hashlib.sha256(content).hexdigest()} no /{name}\n"
        for name, content in OURS.items()
    )
    (run / "paths").write_text("".join(lines))
    (run / "added").write_text(f"/{TREE}/kernel\n/{TREE}\n")
    (run / "about").write_text("command deploy\nkernel_release 1a\nnumber 1\n")
    (run / "state").write_text("done\n")
    (tmp_path / TREE / "modules.dep").write_text("made by depmod")
    return tmp_path


def inside(node: Path, script: str, send: bytes = b"") -> bytes:
    done = subprocess.run(
        ["chroot", node, "/bin/sh", "-c", script, "krg"], input=send, capture_output=True
    )
    assert done.returncode == 0, done
    return done.stdout


def retire(node: Path) -> set[str]:
    """Remove the build; return which files are left of its own and in its tree."""
    plan = Plan("krg1", retires=(Retired("1a", "2025", (f"{JOURNALS}/{RUN}",)),))
    token, pipe = "0" * 16, io.BytesIO()
    write_tar(pipe, plan, f".krg-provision-{token}", lambda _: None, packed=False)
    script = apply_script(plan, "", "20260101T000000Z", token, packed=False)
    assert inside(node, script, pipe.getvalue()).endswith(b"finished\n")
    tree = {str(path.relative_to(node)) for path in (node / TREE).rglob("*") if path.is_file()}
    return tree | {name for name in OURS if (node / name).exists()}


def test_all_of_it_goes_and_what_depmod_made(node: Path) -> None:
    assert not retire(node) and not (node / TREE).exists()


@pytest.mark.parametrize("linked", [False, True])
def test_modules_of_somebody_keep_what_finds_them(node: Path, linked: bool) -> None:
    if linked:
        (node / TREE).rename(node / "lib/modules/mine")
        (node / TREE).symlink_to("mine")
    (node / TREE / "theirs.ko").write_bytes(b"theirs")
    left = retire(node)
    assert {name for name in left if not linked or name.startswith("boot")} <= {
        f"{TREE}/theirs.ko", f"{TREE}/modules.dep"
    }  # fmt: skip
    assert (node / TREE / "modules.dep").exists() and (node / TREE / "theirs.ko").exists()


def test_a_node_says_by_which_other_names_a_kernel_may_boot(node: Path) -> None:
    (node / "boot/my kernel").symlink_to("vmlinuz-1a")
    (node / "vmlinuz.safe").write_bytes(b"KERNEL")
    for number, name in enumerate(("grub/mine.cfg", "loader/entries/my own.conf", "extlinux.conf")):
        (node / "boot" / name).parent.mkdir(parents=True, exist_ok=True)
        (node / "boot" / name).write_text(f"timeout 5\nlinux /vmlinuz-{number} ro\n")
    script = render(
        "facts_journal.sh.j2", journals=JOURNALS, builds="/no/such", whole=False, dpkg=False,
        token="mark",
    )  # fmt: skip
    said = 'said_by() {\n echo "blob $1"\n shift\n "$@" 2>/dev/null\n echo\n echo mark\n}\n'
    found = facts.parse(inside(node, said + script), "mark")
    lines = found.blobs["boot"].decode().splitlines()
    assert {"6 /boot/vmlinuz-1a", "6 /boot/my kernel", "6 /vmlinuz.safe"} <= set(lines)
    names = {f"linux /vmlinuz-{number} ro" for number in range(3)}
    assert set(found.blobs["boot_names"].decode().splitlines()) == names
    assert [run.name for run in journal.read(found)] == [RUN]
