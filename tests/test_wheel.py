# SPDX-License-Identifier: GPL-2.0-or-later
"""The wheel: what is in it, and that the command works from it, from any directory."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import mini as _mini
import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = (".toml", ".j2", ".c", ".sh", ".config")
PACKAGES = ("provision", "kconfig", "grub", "templates", "examples")


def run(*words: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, env=clean | env, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that nothing is left in the source."""
    pytest.importorskip("setuptools", reason="no setuptools in this environment")
    source = tmp_path_factory.mktemp("wheel") / "source"
    hidden = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=hidden, symlinks=True)
    target = source.parent / "dist"
    # No network: the build tools are those of this environment.
    done = run(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
        "--no-index", "-w", target, source, cwd=source.parent,
    )  # fmt: skip
    if done.returncode != 0 and "bdist_wheel" in done.stderr:
        pytest.skip("this environment cannot build wheels: pip install wheel")
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = target.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone into a new environment that sees this one's libraries."""
    place = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(place, with_pip=False, symlinks=True)
    inside = Path(sysconfig.get_path("purelib", "venv", {"base": str(place)}))
    # pip of this environment, as its own has none without a network; run by the new one,
    # for Debian's own Python installs elsewhere below a prefix.
    done = run(
        sys.executable, "-m", "pip", "--python", place / "bin/python", "install", "-q",
        "--no-deps", "--no-index", wheel, cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (inside / "provision").is_dir()
    libraries = [p for p in site.getsitepackages() if Path(p).is_dir()]
    # Only third-party libraries: a checkout installed with -e must not be seen.
    (inside / "libraries.pth").write_text(
        "\n".join(f"import sys; sys.path.append({p!r})" for p in libraries) + "\n"
    )
    return place


def test_every_data_file_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix in DATA or path.name in ("py.typed", "Makefile"):
                name = str(path.relative_to(ROOT))
                inside = f"provision/{name}" if package in ("templates", "examples") else name
                assert inside in names, inside


def test_every_module_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for package in PACKAGES[:-2]:
        for path in (ROOT / package).rglob("*.py"):
            assert str(path.relative_to(ROOT)) in names


def test_nothing_generic_at_the_top(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "provision", "kconfig", "grub"
    }  # fmt: skip


def test_the_license_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith("LICENSE") for name in archive.namelist())


def test_it_runs_from_anywhere(installed: Path, home: Path) -> None:
    done = run(installed / "bin/krg-provision", "--help", cwd=Path("/"))
    assert done.returncode == 0 and "build-kernel" in done.stdout, done.stderr
    where = run(
        installed / "bin/python", "-c", "import provision; print(provision.__file__)",
        cwd=Path("/"),
    )  # fmt: skip
    assert where.stdout.startswith(str(installed)), where.stdout + where.stderr


def test_templates_and_data_are_found(installed: Path) -> None:
    code = (
        "from provision.data import render, data_dir\n"
        "from provision import fixup, release, doctor\n"
        "from kconfig import policy\n"
        "render('kerrighed.init.j2', packaged=False)\n"
        "made = release.load(release.DEFAULT)\n"
        "[fixup.load(g) for a in made.archives.values() for g in a.fixups]\n"
        "policy.load(made.policy); doctor.load()\n"
        "print(data_dir('templates'))\n"
        "import importlib.util; print(importlib.util.find_spec('templates'))\n"
    )
    done = run(installed / "bin/python", "-c", code, cwd=Path("/"))
    assert done.returncode == 0, done.stderr
    place, spec = done.stdout.splitlines()
    assert place.startswith(str(installed)) and spec == "None"


def test_it_configures_and_builds(installed: Path, mini: _mini.Mini) -> None:
    command = installed / "bin/krg-provision"
    done = run(
        command, "config", "generate", "--release", mini.release, "--tree", _mini.HERE / "linux",
        cwd=Path("/"),
    )  # fmt: skip
    assert done.returncode == 0 and "CONFIG_KERRIGHED=y\n" in done.stdout, done.stderr
    built = run(command, "build-kernel", *mini.options, cwd=Path("/"))
    assert built.returncode == 0 and "2 modules fit" in built.stdout, built.stderr
