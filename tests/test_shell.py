# SPDX-License-Identifier: GPL-2.0-or-later
"""Every shell script of the project, those made from templates included, under shellcheck."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from provision import musl, release
from provision.data import data_dir, render
from provision.plan import Retired

ROOT = Path(__file__).resolve().parent.parent
# What the templates are given: values that look like what deploy puts there.
VALUES = {
    "also": "/boot/grub/default",
    "areas": ("/boot", "/etc"),
    "boot_id": "0",
    "clear": True,
    "builds": "/var/lib/krg-provision/builds",
    "checks": ["dpkg --dry-run -i /x.deb"],
    "apart": False,
    "boot": {"the boot": ("/proc/sys/kernel/osrelease", "0" * 64), "x": ("/proc/x", "0" * 64)},
    "closes": ["20260101T000000Z-0"],
    "date": "20260101T000000Z",
    "dpkg": True,
    "elsewhere": "/boot/.krg-provision-0",
    "first": ["dpkg -i /x.deb </dev/null"],
    "give": False,
    "has": "/boot/grub/menu.lst /sbin/init",
    "instead": "",
    "journals": "/var/lib/krg-provision/journal",
    "kernel": "6.1",
    "kernel_release": "2.6.20-krg",
    "known": "0" * 64,
    "legacy_sched": True,
    "packed": True,
    "lines": 20,
    "most": 1000,
    "lists": dict.fromkeys(
        ("about", "copies", "crcs", "directories", "early", "emptied", "late", "sent"), "'x y\nz'"
    ),
    "noted": {"20250101T000000Z-0": "x"},
    "me": "ann@host:1:0",
    "module": release.load("debian-6.1").module,
    "packaged": False,
    "paths": "'/boot/vmlinuz-x\n/lib/modules/x'",
    "patience": 120,
    "path": "/sbin:/bin",
    "pattern": "2[.]6[.]20-krg",
    "places": "/boot /etc",
    "prunes": ["20250101T000000Z-0"],
    "drops": ["/var/cache/krg-provision/x_1_all.deb"],
    "retires": [
        Retired("x", "2025", ("/var/lib/krg-provision/builds/x", "/var/lib/y"), "dpkg -P x")
    ],
    "reads": [("/boot/grub/default", "absent"), ("/boot/grub/menu.lst", "0" * 64)],
    "root_number": "2049",
    "runs": ["update-rc.d kerrighed defaults"],
    "running": True,
    "service": "kerrighed",
    "stage": ".krg-provision-0",
    "staged_tree": "/lib/modules/.krg-provision-0/x",
    "stages": "/boot/.krg-provision-* /etc/.krg-provision-*",
    "state": "/var/lib/krg-provision",
    "sysrq": "/proc/sysrq-trigger",
    "texts": "/etc/kerrighed_nodes /boot/grub/menu.lst",
    "token": "0",
    "tops": "/boot /etc",
    "tree": "/lib/modules/x",
    "watchdog": "/dev/watchdog",
    "whole": True,
}


def scripts() -> list[Path]:
    """Return the repository's shell scripts: by their names, or by their first line."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.splitlines()]
    else:  # not a checkout: a release's archive
        hidden = re.compile(r"/\.(?!ci/)")
        paths = [p for p in ROOT.rglob("*") if not hidden.search(str(p.relative_to(ROOT.parent)))]
    found = []
    for path in sorted(set(paths)):
        if not path.is_file() or path.suffix == ".j2":
            continue
        with path.open("rb") as stream:
            first = stream.readline(80)
        if path.suffix == ".sh" or re.match(rb"#!\s*/bin/(?:ba|da)?sh\b", first):
            found.append(path)
    return found


def templates() -> list[str]:
    return sorted(
        path.name
        for pattern in ("*.sh.j2", "*.init.j2")
        for path in data_dir("templates").glob(pattern)
        # Parts of facts.sh, which is checked whole.
        if not path.name.startswith("facts_")
    )


def check(*paths: Path, dialect: str = "sh") -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck: apt-get install shellcheck")
    done = subprocess.run(
        ["shellcheck", "-s", dialect, *paths], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_scripts_are_found() -> None:
    names = {str(path.relative_to(ROOT)) for path in scripts()}
    assert {"dev", ".ci/run", "provision/lab/start.sh"} <= names


@pytest.mark.parametrize("path", scripts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_script(path: Path) -> None:
    check(path)


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("name", templates())
def test_script_made_from_a_template(name: str, running: bool, tmp_path: Path) -> None:
    few = (
        {}
        if running
        else {
            "apart": True,
            "boot": {},
            "reads": [],
            "runs": [],
            "tree": "",
            "closes": [],
            "prunes": [],
            "drops": [],
            "whole": False,
            "checks": [],
            "clear": False,
            "first": [],
            "dpkg": False,
            "known": "",
            "packed": False,
        }
    )
    path = tmp_path / name.removesuffix(".j2")
    path.write_text(render(name, **(VALUES | {"running": running} | few)), "utf-8")
    check(path)


def test_compiler_wrapper(tmp_path: Path) -> None:
    path = tmp_path / "cc"
    path.write_text(musl._WRAPPER.format(option="-m32"), "utf-8")
    check(path)
