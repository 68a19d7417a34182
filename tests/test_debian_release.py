# SPDX-License-Identifier: GPL-2.0-or-later
"""Another kernel, another module: built, packaged, checked, like Kerrighed's.

It is debian-6.1, on Debian 13 debian-6.12. The build stays in the user's own place, and is what
tests/lab/test_debian_release.py boots.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import headers_package
import lintian
import pytest
from conftest import ROOT

from provision import artifacts, elf, local_sources, release
from provision.artifacts import Artifacts
from provision.errors import KrgError

pytestmark = pytest.mark.sources
# The first whose source is here.
VERSION = next(
    (v for v in ("6.1", "6.12") if Path(f"/usr/src/linux-source-{v}.tar.xz").exists()), "6.1"
)
NAME = f"debian-{VERSION}"
# The user's own places, noted before any test gets a home of its own.
REAL = {name: os.environ[name] for name in os.environ if name.startswith(("XDG_", "HOME"))}


def krg(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "provision", *map(str, words)],
        env={**os.environ, **REAL, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def build() -> Artifacts:
    """The finished build, made when it is not there."""
    try:
        local_sources.debian(release.load(NAME).archives["linux"])
    except KrgError as error:
        pytest.skip(f"{error.message}; enable with: {error.hint}")
    done = krg("build-kernel", "--release", NAME, "-q", "--format", "json")
    if done.returncode == 3:
        pytest.skip(f"this machine cannot build: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return artifacts.load(Path(json.loads(done.stdout)["directory"]))


def test_the_build(build: Artifacts) -> None:
    assert re.fullmatch(rf"{re.escape(VERSION)}\.\d+-{build.build_id}", build.kernel_release)
    assert build.manifest["kernel_version"] == build.kernel_release.partition("-")[0]
    assert build.manifest["sources"]["linux"]["identity"].startswith(
        f"debian:linux-source-{VERSION}="
    )
    # Ours and the watchdogs at least, compared with the kernel symbol by symbol.
    assert build.manifest["modules_proven"] >= 3
    module = elf.read_module(build.path(f"lib/modules/{build.kernel_release}/extra/nodeids.ko"))
    kernel = elf.read_kernel(build.path("vmlinux"))
    assert module.versions["kobject_put"] == kernel.exports["kobject_put"] != 0
    assert not any(name.startswith("tools/") for name in build.files)


def test_its_configuration_is_the_policys(build: Artifacts) -> None:
    lint = krg("config", "lint", "--policy", "virtual-machine", build.path("config"))
    assert lint.returncode == 0, lint.stdout + lint.stderr
    # What the machine boots from and is reached through is built in: there is no initrd.
    text = build.path("config").read_text()
    for name in ("ATA_PIIX", "VIRTIO_BLK", "EXT4_FS", "E1000", "VIRTIO_NET", "MODVERSIONS"):
        assert f"CONFIG_{name}=y\n" in text
    assert text.count("=m\n") < 10


@pytest.fixture(scope="module")
def debs(build: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The build's packages, by name."""
    out = tmp_path_factory.mktemp("packages") / "debs"
    done = krg("package", "-q", build.directory, "-o", out, "--format", "json")
    assert done.returncode == 0, done.stderr
    return {e["package"]: out / e["file"] for e in json.loads(done.stdout)["packages"]}


def test_its_packages(build: Artifacts, debs: dict[str, Path], tmp_path: Path) -> None:
    kernel = build.kernel_release
    assert set(debs) == {
        f"linux-image-{kernel}", f"linux-image-{kernel}-dbg", f"linux-headers-{kernel}",
        f"nodeids-modules-{kernel}", "nodeids-service",
    }  # fmt: skip
    assert debs["nodeids-service"].name.startswith(f"nodeids-service_{VERSION}-1+{build.build_id}_")
    root = tmp_path / "root"
    for name in ("nodeids-service", f"nodeids-modules-{kernel}"):
        subprocess.run(["dpkg-deb", "-x", debs[name], root], check=True)
    assert (root / f"lib/modules/{kernel}/extra/nodeids.ko").is_file()
    script = root / "etc/init.d/nodeids"
    said = subprocess.run(["sh", script, "status"], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (3, "nodeids: not loaded\n")
    unit = (root / "lib/systemd/system/nodeids.service").read_text()
    assert "ExecStart=/etc/init.d/nodeids start" in unit
    if shutil.which("lintian"):
        assert lintian.complaints(debs.values()) == ""


def test_a_module_built_against_the_headers_fits(
    build: Artifacts, debs: dict[str, Path], tmp_path: Path
) -> None:
    """The example as its author would build it, where there is nothing of the tree but headers."""
    kernel = build.kernel_release
    sources = {path.name: path.read_text() for path in (ROOT / "examples/nodeids").iterdir()}
    headers = debs[f"linux-headers-{kernel}"]
    modules = headers_package.build_module(headers, kernel, tmp_path, sources)
    assert elf.prove(build.path("vmlinux"), modules, kernel) == 1
    again = elf.read_module(modules / kernel / "extra/nodeids.ko")
    first = elf.read_module(build.path(f"lib/modules/{kernel}/extra/nodeids.ko"))
    assert (again.vermagic, again.versions) == (first.vermagic, first.versions)


def test_the_headers_say_nothing_of_the_build_machine(
    build: Artifacts, debs: dict[str, Path], tmp_path: Path
) -> None:
    headers = debs[f"linux-headers-{build.kernel_release}"]
    place = headers_package.unpacked(headers, build.kernel_release, tmp_path)
    # Where the tree was, as the log has it; make notes it in many places.
    where = re.findall(r"^\$ cd (/\S+)/linux &&", build.path("build.log").read_text(), re.M)
    assert len(set(where)) == 1
    names = {str(path.relative_to(place)) for path in place.rglob("*")}
    assert {"Makefile", ".config", "Module.symvers", "scripts/mod/modpost"} <= names
    assert not [name for name in names if name.endswith((".o", ".cmd", ".gitignore"))]
    assert not [path for path in place.rglob("*") if not path.exists()], "links that lead nowhere"
    assert where[0].encode() not in build.path("headers.tar").read_bytes()
    for name in ("scripts/mod/modpost", "tools/objtool/objtool"):
        argv = ["readelf", "--wide", "--section-headers", place / name]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        # An id would be made of debug information, and so of the path of the build.
        assert ".text" in said and ".note.gnu.build-id" not in said, name
    # What else they need where they are installed: the config has modules go through objtool.
    assert "CONFIG_OBJTOOL=y\n" in (place / ".config").read_text()
    depends = subprocess.run(
        ["dpkg-deb", "-f", headers, "Depends"], capture_output=True, text=True, check=True
    ).stdout
    assert re.fullmatch(r"libc6 \(>= 2\.\d+\), libelf1\n", depends)
