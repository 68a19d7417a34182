# SPDX-License-Identifier: GPL-2.0-or-later
"""The musl compiler: real programs, built from a copy in another place, and run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from provision.errors import InputError, MissingError
from provision.musl import Arch, toolchain

PROGRAM = """\
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <linux/if.h>
static void *id(void *p) { return p; }
int main(int argc, char **argv)
{
	pthread_t t;
	void *back;
	if (pthread_create(&t, 0, id, argv) || pthread_join(t, &back) || back != argv)
		return 1;
	printf("%d %lld %.3f\\n", (int)sizeof(long), 1000000000007LL / argc, sqrt(argc + 1));
	return 0;
}
"""


def made_or_skipped(arch: Arch, *cache: Path) -> Path:
    try:
        return toolchain(arch, *cache)
    except MissingError as error:
        pytest.skip(f"{error}; {error.hint}")


@pytest.fixture(scope="module", params=["x86_64", "i386"])
def made(request: pytest.FixtureRequest) -> tuple[Arch, Path]:
    return request.param, made_or_skipped(request.param)


def test_a_copy_elsewhere_builds_programs_that_run(made: tuple[Arch, Path], tmp_path: Path) -> None:
    arch, home = made
    # A blank in the path and a link to the compiler: both must be harmless.
    copy = tmp_path / "another place"
    shutil.copytree(home, copy)
    link = tmp_path / "bin" / "cc"
    link.parent.mkdir()
    link.symlink_to("../another place/cc")
    (tmp_path / "p.c").write_text(PROGRAM)
    flags = ["-O2", "-Wall", "-Werror"]
    subprocess.run([link, *flags, "-c", "p.c", "-o", "p.o"], cwd=tmp_path, check=True)
    subprocess.run([link, "p.o", "-o", "p", "-lm", "-lpthread"], cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "p"], capture_output=True, text=True, check=True).stdout
    assert said == f"{8 if arch == 'x86_64' else 4} 1000000000007 1.414\n"
    with (tmp_path / "p").open("rb") as stream:
        elf = ELFFile(stream)
        assert elf["e_machine"] == ("EM_X86_64" if arch == "x86_64" else "EM_386")
        assert elf["e_type"] == "ET_EXEC"
        names = {segment["p_type"] for segment in elf.iter_segments()}
        assert not names & {"PT_INTERP", "PT_DYNAMIC"}
        # glibc's start files would leave their minimum kernel in the program.
        assert not any(s.name == ".note.ABI-tag" for s in elf.iter_sections())


@pytest.mark.parametrize("option", ["-E", "-S", "-M"])
def test_stops_where_it_is_told(made: tuple[Arch, Path], tmp_path: Path, option: str) -> None:
    (tmp_path / "p.c").write_text(PROGRAM)
    argv = [made[1] / "cc", option, "p.c", "-o", "out"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out").read_text()


def test_sees_no_other_c_library(made: tuple[Arch, Path], tmp_path: Path) -> None:
    cc = made[1] / "cc"
    (tmp_path / "g.c").write_text("#include <gnu/libc-version.h>\n")
    assert subprocess.run([cc, "-E", tmp_path / "g.c"], capture_output=True).returncode == 1
    (tmp_path / "m.c").write_text("int main(void) { return 0; }\n")
    base = [cc, tmp_path / "m.c", "-o", tmp_path / "m"]
    assert subprocess.run(base).returncode == 0
    # libnsl.a and its kind exist for glibc only, and only outside our directory.
    done = subprocess.run([*base, "-lmvec"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot find -lmvec" in done.stderr


def test_made_once(made: tuple[Arch, Path]) -> None:
    arch, home = made
    before = (home / "cc").stat().st_mtime_ns
    assert toolchain(arch) == home
    assert (home / "cc").stat().st_mtime_ns == before


def test_made_anew_and_whole(tmp_path: Path, made: tuple[Arch, Path]) -> None:
    home = made_or_skipped(made[0], tmp_path)
    assert [p.name for p in (tmp_path / f"musl-{made[0]}").iterdir()] == [home.name]


def test_a_gcc_that_cannot_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALGCC", str(tmp_path / "gcc"))
    with pytest.raises(MissingError) as caught:
        toolchain("x86_64", tmp_path / "cache")
    if "did not answer" in caught.value.message:
        pytest.skip(f"{caught.value}; {caught.value.hint}")
    assert "gcc: not found" in caught.value.message
    assert list((tmp_path / "cache/musl-x86_64").iterdir()) == []


def test_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sparc"):
        toolchain("sparc", tmp_path)  # type: ignore[arg-type]
