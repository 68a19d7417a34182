# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages of the real build: clean to lintian, headers that a module is built against."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import headers_package
import lintian
import pytest
from conftest import ROOT
from kernel_trees import SOURCES

from provision import artifacts, elf
from provision.artifacts import Artifacts

pytestmark = pytest.mark.sources
ARCHES = ("x86_64", "i386")
# The user's own places: what the other tests and the lab use comes from there.
REAL = {name: os.environ[name] for name in os.environ if name.startswith(("XDG_", "HOME"))}
MODULE = """
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/fs.h>
static int __init answer_init(void) { printk("answer %p\\n", dev_get_by_name); return 0; }
static void __exit answer_exit(void) { }
module_init(answer_init);
module_exit(answer_exit);
MODULE_LICENSE("GPL");
"""


def krg(*words: object, umask: int = 0o022, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "provision", *map(str, words)],
        env={**os.environ, **REAL, "PYTHONPATH": str(ROOT), **env},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, umask=umask,
    )  # fmt: skip


def built(arch: str, *more: object, **env: str) -> Artifacts:
    options = ["--arch", arch, "--no-download", "--source-dir", SOURCES, "--format", "json", "-q"]
    done = krg("build-kernel", *options, *more, **env)
    if done.returncode == 3 or "archive" in done.stderr:
        pytest.skip(f"this machine cannot build: {done.stderr.strip()}; krg-provision doctor")
    assert done.returncode == 0, done.stderr
    return artifacts.load(Path(json.loads(done.stdout)["directory"]))


def packaged(build: Artifacts, out: Path, **env: str) -> dict[str, Path]:
    done = krg("package", "-q", build.directory, "-o", out, "--format", "json", **env)
    assert done.returncode == 0, done.stderr
    return {e["package"]: out / e["file"] for e in json.loads(done.stdout)["packages"]}


@pytest.mark.parametrize("arch", ARCHES)
def test_packages_of_the_real_build(arch: str, tmp_path: Path) -> None:
    build = built(arch)
    debs = packaged(build, tmp_path / "debs")
    release = build.kernel_release
    assert set(debs) == {
        f"linux-image-{release}", f"linux-headers-{release}", f"linux-image-{release}-dbg",
        f"kerrighed-modules-{release}", "kerrighed-tools",
    }  # fmt: skip
    target = {"x86_64": "amd64", "i386": "i386"}[arch]
    assert debs["kerrighed-tools"].name == f"kerrighed-tools_2.4.4-1+{build.build_id}_{target}.deb"
    if shutil.which("lintian"):
        assert lintian.complaints(debs.values()) == ""


@pytest.mark.parametrize("arch", ARCHES)
def test_a_module_built_against_the_headers_fits(arch: str, tmp_path: Path) -> None:
    build = built(arch)
    release = build.kernel_release
    headers = packaged(build, tmp_path / "debs")[f"linux-headers-{release}"]
    sources = {"answer.c": MODULE, "Makefile": "obj-m := answer.o\n"}
    modules = headers_package.build_module(headers, release, tmp_path, sources)
    assert elf.prove(build.path("vmlinux"), modules, release) == 1


@pytest.mark.slow
def test_two_builds_are_the_same_packages(tmp_path: Path) -> None:
    """Another directory, umask, locale, time zone, -j and moment; without the compiler's cache."""
    first = packaged(built("x86_64"), tmp_path / "first")
    work = tmp_path / "work" / "somewhere-else"
    odd = {"LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Tokyo", "USER": "somebody", "LOGNAME": "somebody"}
    options = ["--arch", "x86_64", "--no-download", "--source-dir", SOURCES, "-q", "--no-ccache",
               "-j", "1", "--work-dir", work, "-o", tmp_path / "build"]  # fmt: skip
    done = krg("build-kernel", *options, umask=0o077, **odd)
    assert done.returncode == 0, done.stderr
    again = packaged(artifacts.load(tmp_path / "build"), tmp_path / "second", **odd)
    assert set(first) == set(again)
    for name, deb in first.items():
        assert deb.read_bytes() == again[name].read_bytes(), name
