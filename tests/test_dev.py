# SPDX-License-Identifier: GPL-2.0-or-later
"""./dev: what it installs is what the commands need, and it explains itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import tiers

from provision import doctor

ROOT = Path(__file__).resolve().parent.parent


def listed() -> dict[str, str]:
    """Return the packages that ./dev installs, each with the file it looks for."""
    text = (ROOT / "dev").read_text("utf-8")
    body = text.split("packages() {\n\tcat <<'END'\n", 1)[1].split("\nEND\n", 1)[0]
    return dict(line.split(" ", 1) for line in body.splitlines())


# Every Debian has these: a system without them could not run apt.
ESSENTIAL = {"apt", "dpkg"}


def test_the_demo_brings_no_server() -> None:
    text = (ROOT / "dev").read_text("utf-8")
    assert "\nopenssh-server sshd\n" in text
    assert "openssh-server" not in listed()


def test_every_need_of_the_commands_is_installed() -> None:
    wanted = {need.package for need in doctor.load()} - ESSENTIAL
    assert wanted <= set(listed())


def test_doctor_and_dev_look_for_the_same_files() -> None:
    places = listed()
    for need in doctor.load():
        if need.package in places and need.tool.startswith("/"):
            assert places[need.package] == need.tool


def test_needs_name_commands_that_exist() -> None:
    from provision.cli import COMMANDS

    assert {need.command for need in doctor.load()} <= set(COMMANDS)
    for need in doctor.load():
        assert need.why and not need.why.endswith(".")


def test_it_says_how_it_is_used() -> None:
    done = subprocess.run([ROOT / "dev"], capture_output=True, text=True)
    assert done.returncode == 2
    for word in ("demo", "test", "lint", "bench"):
        assert f"\n  {word} " in done.stdout
    wrong = subprocess.run([ROOT / "dev", "nothing"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "usage: ./dev" in wrong.stderr
    assert subprocess.run([ROOT / "dev", "--help"], capture_output=True).returncode == 0


def test_it_can_be_called_from_anywhere(tmp_path: Path) -> None:
    done = subprocess.run([ROOT / "dev", "help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "usage:" in done.stdout


# The demo's commands: fetch is the real one unless the test says what it would say; the others,
# which take minutes, note that they were called. So does apt-get; ls hides Debian's sources.
STAND_INS = {
    "krg-provision": """#!/bin/sh
printf 'krg-provision %s\\n' "$*" >>"$NOTES"
case $1 in
fetch)
\t[ -z "$FETCHED" ] || { echo 'fetch linux.tar ...' >&2; exit 0; }
\texec "$PYTHON" -m provision "$@" ;;
build-kernel)
\t[ -z "$BROKEN" ] || { echo 'krg-provision: error: make failed' >&2; exit 1; }
\tprintf '{\\n "directory": "/builds/one",\\n "arch": "x86_64"\\n}\\n' ;;
verify | 'lab test') echo 'ok  kernel booted' ;;
esac
""",
    "apt-get": """#!/bin/sh
printf 'apt-get %s\\n' "$*" >>"$NOTES"
case $*:$LACKS in *install*linux-source*:yes) exit 100 ;; esac
""",
    "sudo": """#!/bin/sh
exec "$@"
""",
    "ls": """#!/bin/sh
case $1 in /usr/src/linux-source-*) exit ${HIDDEN:-0} ;; esac
PATH=${PATH#*:} exec ls "$@"
""",
}
Demo = Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]


@pytest.fixture
def demo(tmp_path: Path, home: Path) -> Demo:
    """Run ./dev demo in an environment that is made already, offline, without sources.

    Returns what it printed, and the commands it called in their order; those for packages
    that every release needs are left out.
    """
    made = tmp_path / "venv"
    (made / "bin").mkdir(parents=True)
    stamp = "cat setup.cfg pyproject.toml | cksum"
    (made / ".stamp").write_bytes(subprocess.check_output(["sh", "-c", stamp], cwd=ROOT))
    for name, text in STAND_INS.items():
        (made / "bin" / name).write_text(text)
        (made / "bin" / name).chmod(0o755)
    notes = tmp_path / "notes"

    def run(**variables: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        notes.write_text("")
        nobody = "http://127.0.0.1:9"  # discard: nobody listens there
        env = {"FETCHED": "", "BROKEN": "", "LACKS": "", "https_proxy": nobody, "no_proxy": ""}
        env |= {"NOTES": str(notes), "PYTHON": sys.executable, "KRG_VENV": str(made)}
        # install_packages runs before the environment is on PATH.
        env["PATH"] = f"{made}/bin:{os.environ['PATH']}"
        done = subprocess.run(
            [ROOT / "dev", "demo"], env=os.environ | env | variables, capture_output=True, text=True
        )
        called = notes.read_text().splitlines()
        return done, [c for c in called if c.startswith("krg-") or "linux-source" in c]

    return run


def test_the_demo_takes_kerrighed_where_its_sources_are(demo: Demo) -> None:
    done, called = demo(FETCHED="yes", HIDDEN="2")
    assert done.returncode == 0, done.stderr
    assert called == [
        "krg-provision fetch",
        "krg-provision build-kernel --release kerrighed-2.4.4 --format json",
        "krg-provision lab down --name demo",
        "krg-provision lab up --nodes 3 --name demo --artifacts /builds/one",
        "krg-provision lab test --name demo",
    ]
    # The progress of fetch is seen, and three commands come last.
    assert "fetch linux.tar ...\n" in done.stderr
    tail = [line.partition("lab ")[2] for line in done.stderr.splitlines()[-3:]]
    assert tail == ["status --name demo", "console 1 --name demo", "down --name demo"]


VERSION = Path("/etc/debian_version")
# Debian 12's own kernel, or else that of 13.
LATER = re.compile("1[3-9]|trixie|forky")
KERNEL = "6.12" if VERSION.exists() and LATER.match(VERSION.read_text()) else "6.1"


@pytest.mark.parametrize("hidden", ["0", "2"])
def test_without_sources_it_says_so_and_takes_debian_s_kernel(demo: Demo, hidden: str) -> None:
    done, called = demo(HIDDEN=hidden)
    assert done.returncode == 0, done.stderr
    install = [call for call in called if call.startswith("apt-get")]
    assert len(install) == (hidden != "0" and VERSION.exists())
    nodes = "--nodes lab:demo --artifacts /builds/one"
    assert [call for call in called if call not in install] == [
        "krg-provision fetch",
        f"krg-provision build-kernel --release debian-{KERNEL} --format json",
        "krg-provision lab down --name demo",
        "krg-provision lab up --nodes 3 --name demo --artifacts /builds/one --bootloader grub2",
        f"krg-provision deploy --reboot --no-diff --wave 2 {nodes}",
        f"krg-provision verify {nodes}",
    ]
    why = [line for line in done.stderr.splitlines() if "Kerrighed's sources are" in line]
    assert len(why) == 1 and "Connection refused" in why[0] and "taking Debian's kernel" in why[0]
    # The line is all that is said of it: no error of fetch's beside it.
    assert "error" not in done.stderr
    assert done.stdout == "ok  kernel booted\n"
    tail = [line.partition("lab ")[2] for line in done.stderr.splitlines()[-3:]]
    assert tail == ["status --name demo", "ssh 1 --name demo", "down --name demo"]


@pytest.mark.skipif(not VERSION.exists(), reason="needs Debian")
def test_a_debian_with_another_kernel_says_so(demo: Demo) -> None:
    done, called = demo(HIDDEN="2", LACKS="yes")
    assert done.returncode == 3 and len(called) == 2, done.stderr
    # A name that is not there is no pattern: linux-source-6.12 is not linux-source-6.1.
    assert " -o APT::Cmd::Pattern-Only=true " in called[1]
    assert done.stderr.splitlines()[-1].startswith(f"linux-source-{KERNEL} could not be installed")


def test_a_damaged_archive_is_not_passed_over(demo: Demo, home: Path) -> None:
    sources = home / ".cache/krg-provision/sources"
    sources.mkdir(parents=True)
    (sources / "kerrighed-2.4.4.tar.gz").write_bytes(b"not it")
    done, called = demo()
    assert done.returncode == 2 and called == ["krg-provision fetch"]
    assert "kerrighed-2.4.4.tar.gz: wrong sha256" in done.stderr
    assert "Debian's kernel" not in done.stderr


def test_a_build_that_fails_ends_the_demo(demo: Demo) -> None:
    done, called = demo(FETCHED="yes", BROKEN="yes")
    assert done.returncode == 1 and done.stderr.endswith("krg-provision: error: make failed\n")
    assert called[-1].startswith("krg-provision build-kernel")


def test_ci_runs_what_people_run() -> None:
    text = (ROOT / ".ci/run").read_text("utf-8")
    assert "./dev lint\n" in text and "./dev test\n" in text


def test_all_tests_are_in_a_tier() -> None:
    """The expressions of the tiers divide all tests: none in two, none in none."""
    from itertools import product

    marks = ("sources", "fleet", "lab", "debian")
    for values in product((True, False), repeat=len(marks)):
        have = dict(zip(marks, values, strict=True))
        expressions = [t.select for t in tiers.TIERS]
        chosen = [e for e in expressions if eval(e, {}, have)]
        assert len(chosen) == 1, (have, chosen)


def test_marks_of_the_tiers_are_known() -> None:
    config = (ROOT / "setup.cfg").read_text("utf-8")
    for mark in ("sources", "fleet", "lab", "slow"):
        assert f"\n    {mark}: " in config


@pytest.mark.parametrize("name", ["pyproject.toml"])
def test_toml_files_parse(name: str) -> None:
    assert tomllib.loads((ROOT / name).read_text("utf-8"))
