# SPDX-License-Identifier: GPL-2.0-or-later
"""The program as a Debian package: Debian's own libraries, and a fresh Debian 12.

Two sets of libraries run the code: those of the environment that runs these tests, and
Debian's. The least versions that setup.cfg asks for are Debian's, not a hope.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import debian_root
import mini as _mini
import pytest
from conftest import LIBRARIES
from debian_root import Root
from test_man import commands

from provision import __version__

ROOT = Path(__file__).resolve().parent.parent
DEBIANS = "/usr/bin/python3"
# What Debian 12 has: https://packages.debian.org/bookworm/python3-NAME
BOOKWORM = {
    "click": "8.1.3",
    "jinja2": "3.1.2",
    "fabric": "2.6.0",
    "paramiko": "2.12.0",
    "pyelftools": "0.29",
    "kconfiglib": "14.1.0",
    "ClusterShell": "1.9.1",
    "rich": "13.3.1",
}


def number(version: str) -> tuple[int, ...]:
    """Return a version as numbers, without zeros at its end: 2.6 is 2.6.0."""
    parts = [int(part) for part in re.findall(r"\d+", version)]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def floors() -> dict[str, str]:
    """Return the least versions that setup.cfg asks for."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split("\n")
    found = [re.match(r"([A-Za-z0-9]+)[>=]=([0-9.]+)", line) for line in lines if line]
    assert all(found)
    return {match[1]: match[2] for match in found if match}


def test_floors_are_what_debian_has() -> None:
    assert set(floors()) == set(BOOKWORM) == set(LIBRARIES)
    assert {n: number(v) for n, v in floors().items()} == {
        n: number(v) for n, v in BOOKWORM.items()
    }


def test_the_package_asks_for_the_same() -> None:
    text = (ROOT / "debian/control").read_text("utf-8")
    source, package = text.split("\nPackage: ")
    for part in (source, package):
        found = dict(re.findall(r"python3-(\w+) \(>= ([0-9.]+)\)", part))
        assert found == {name.lower(): floor for name, floor in floors().items()}


def test_these_libraries_are_not_older() -> None:
    for name, floor in floors().items():
        assert number(metadata.version(name)) >= number(floor), name


def test_version_and_changelog_agree() -> None:
    first = (ROOT / "debian/changelog").read_text("utf-8").split("\n", 1)[0]
    assert first.startswith(f"krg-provision ({__version__})")


def test_smoke_knows_every_command() -> None:
    text = (ROOT / "debian/tests/smoke").read_text("utf-8")
    named = re.search(r"^for command in (.*); do$", text, re.MULTILINE)
    assert named and set(named[1].split()) == {name for name, _ in commands() if " " not in name}


@pytest.fixture(scope="module")
def debians() -> dict[str, str]:
    """Return the versions of the libraries of Debian's own Python."""
    code = (
        "from importlib import metadata\n"
        f"for name in {LIBRARIES!r}: print(name, metadata.version(name))"
    )
    done = subprocess.run([DEBIANS, "-I", "-c", code], capture_output=True, text=True)
    if done.returncode != 0:
        names = " ".join(f"python3-{name.lower()}" for name in LIBRARIES)
        pytest.skip(f"no Debian Python with the libraries: apt-get install {names}")
    return dict(line.split() for line in done.stdout.splitlines())


def test_debians_libraries_are_the_floor(debians: dict[str, str]) -> None:
    release = Path("/etc/debian_version").read_text().strip()
    if not release.startswith("12"):
        pytest.skip(f"this is Debian {release}; Debian 12 has the least versions")
    assert debians == BOOKWORM


def test_runs_with_debians_libraries(debians: dict[str, str], mini: _mini.Mini) -> None:
    """Every module is imported; a build uses the templates, kconfiglib, pyelftools and rich."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("provision", "kconfig", "grub")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__main__.py"
    ]
    code = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([DEBIANS, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, f"{debians}: {done.stderr}"
    built = subprocess.run(
        [DEBIANS, "-m", "provision", "build-kernel", *mini.options],
        capture_output=True, text=True, env=env, cwd="/",
    )  # fmt: skip
    assert built.returncode == 0 and "2 modules fit" in built.stdout, built.stderr


def test_ssh_with_debians_libraries(debians: dict[str, str], home: Path) -> None:
    """The tests of the way to other machines, which fabric and paramiko go."""
    if sys.executable == DEBIANS:
        pytest.skip("test_runner.py runs with them anyway")
    done = subprocess.run(
        [DEBIANS, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "tests/test_runner.py",
         "-k", "there"],
        capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    if "No module named pytest" in done.stderr:
        pytest.skip("no pytest for Debian's Python: apt-get install python3-pytest")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"paramiko {debians['paramiko']}" in done.stdout
    if " passed" not in done.stdout:
        pytest.skip(done.stdout.strip().splitlines()[-1])


# --- a fresh Debian ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Root, Path]]:
    """Build the package as Debian's builders do; give the system and the package's file."""
    with debian_root.root(tmp_path_factory.mktemp("builder")) as system:
        source = system.file("/build/krg-provision")
        hidden = shutil.ignore_patterns("__pycache__", "*.egg-info", "generated", ".git", ".venv",
                                        ".pybuild", ".*_cache", ".hypothesis")  # fmt: skip
        shutil.copytree(ROOT, source, ignore=hidden, symlinks=True)
        system.run(["apt-get", "update"], check=True)
        install = ["apt-get", "install", "-y", "--no-install-recommends"]
        system.run([*install, "build-essential", "lintian"], check=True, timeout=1800)
        # Builders have terminals; these end with the command, as its /proc does.
        terminals = "mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts"
        inside = ["sh", "-c", f'{terminals} && cd /build/krg-provision && exec "$@"', "sh"]
        system.run([*inside, "apt-get", "build-dep", "-y", "--no-install-recommends", "./"],
                   check=True, timeout=1800)  # fmt: skip
        done = system.run(
            [*inside, "dpkg-buildpackage", "-us", "-uc"], timeout=3600,
            env={"DEB_BUILD_OPTIONS": "parallel=2"},
        )  # fmt: skip
        said = done.stdout + done.stderr
        print(said[-20000:])
        assert done.returncode == 0, said[-20000:]
        # The tests ran, and with Debian's libraries.
        assert re.search(r"=+ (?!.*failed)\d{3,} passed", said)
        assert "libraries: " + ", ".join(f"{n} {v}" for n, v in BOOKWORM.items()) in said
        (package,) = system.file("/build").glob("*.deb")
        yield system, package


@pytest.mark.slow
def test_builds_in_a_fresh_debian(built: tuple[Root, Path]) -> None:
    system, package = built
    assert package.name == f"krg-provision_{__version__}_all.deb"
    # Twice: what the first build left must not matter.
    again = system.run(
        ["sh", "-c", "cd /build/krg-provision && dpkg-buildpackage -us -uc -b"],
        env={"DEB_BUILD_OPTIONS": "nocheck"}, timeout=1800,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr
    assert "pytest" not in again.stdout


@pytest.mark.slow
def test_lintian_is_silent(built: tuple[Root, Path]) -> None:
    done = built[0].run(
        ["sh", "-c", "lintian --pedantic --display-info --fail-on none /build/*.changes"]
    )
    said = [
        line for line in (done.stdout + done.stderr).splitlines() if "root privileges" not in line
    ]
    assert done.returncode == 0 and said == []


def files(system: Root) -> set[str]:
    """Return every file outside of what any use of apt or Python changes."""
    done = system.run(
        ["find", "/", "-xdev", "(", "-path", "/proc", "-o", "-path", "/var/cache", "-o", "-path",
         "/var/lib/apt", "-o", "-path", "/var/log", "-o", "-path", "/tmp", ")", "-prune", "-o",
         "-print"], check=True,
    )  # fmt: skip
    return {name for name in done.stdout.splitlines() if not name.startswith("/var/lib/dpkg/")}


@pytest.mark.slow
def test_installed_used_and_purged(
    built: tuple[Root, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with debian_root.root(tmp_path_factory.mktemp("user")) as system:
        install = ["apt-get", "install", "-y", "--no-install-recommends"]
        system.run(["apt-get", "update"], check=True)
        shells = ["man-db", "bash-completion", "zsh", "fish"]
        needs = [f"python3-{name.lower()}" for name in LIBRARIES]
        system.run([*install, *shells, *needs], check=True, timeout=1800)
        before = files(system)

        shutil.copy(built[1], system.file("/tmp"))
        system.run([*install, f"/tmp/{built[1].name}"], check=True)
        shutil.copytree(ROOT / "debian/tests", system.file("/tmp/tests"))
        system.run(["/tmp/tests/smoke"], check=True)
        for page, word in (("krg-provision", "build-kernel"), ("cluster.toml", "legacy_sched")):
            done = system.run(["man", "-P", "cat", page], check=True, env={"MANWIDTH": "80"})
            assert word in done.stdout and done.stderr == ""
        asked = {
            "bash": "source /usr/share/bash-completion/bash_completion\n"
            "_completion_loader krg-provision\nCOMP_WORDS=(krg-provision lab do) COMP_CWORD=2\n"
            "compopt() { :; }\n_krg_provision_completion krg-provision; echo ${COMPREPLY[*]}",
            "fish": "complete -C 'krg-provision lab do'",
            # The completion itself is typed at in test_completion.py; here: that it is found.
            "zsh": "autoload -U compinit; compinit -D; echo ${_comps[krg-provision]}",
        }
        wanted = {"bash": "down", "fish": "down", "zsh": "_krg-provision"}
        for shell, script in asked.items():
            done = system.run([shell, "-c", script], env={"HOME": "/tmp"})
            assert wanted[shell] in done.stdout, f"{shell}: {done.stdout}{done.stderr}"

        system.run(["apt-get", "remove", "-y", "krg-provision"], check=True)
        assert files(system) - before == set()
        system.run(["dpkg", "--purge", "krg-provision"], check=True)
        assert files(system) == before
        assert system.run(["dpkg", "-s", "krg-provision"]).returncode == 1
