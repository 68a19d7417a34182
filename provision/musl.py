# SPDX-License-Identifier: GPL-2.0-or-later
"""A C compiler for programs that run on kernels older than any current C library accepts.

glibc refuses kernels before Linux 3.2; a program linked statically with musl runs on
2.6.20. The toolchain is Debian's musl-dev and linux-libc-dev unpacked aside, and a
wrapper ``cc`` around the machine's own gcc: one directory that may be copied anywhere,
also to a build host that has nothing but gcc.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal, get_args

from provision.console import say
from provision.debian_archive import DebianArchive
from provision.errors import FailedError, InputError, MissingError
from provision.paths import cache_dir
from provision.runner import LocalRunner

Arch = Literal["x86_64", "i386"]

# arch -> Debian's architecture, its name in paths, gcc's option
_TARGETS = {
    "x86_64": ("amd64", "x86_64-linux", "-m64"),
    "i386": ("i386", "i386-linux", "-m32"),
}

# gcc's specs language (GCC manual, "Spec Files"). link_libgcc holds every library
# directory gcc knows, glibc's among them: emptied, only the wrapper's -L remains.
# %s makes gcc look in its own directory of this -m32/-m64. The start files are named in
# full: -B would be tried only after glibc's own when -m32 has a directory to itself.
_SPECS = """\
*startfile:
%:getenv(KRG_MUSL_LIB /crt1.o) %:getenv(KRG_MUSL_LIB /crti.o) crtbeginT.o%s

*endfile:
crtend.o%s %:getenv(KRG_MUSL_LIB /crtn.o)

*link_libgcc:


*libgcc:
libgcc.a%s libgcc_eh.a%s

"""

# ld's -nostdlib ends its built-in search path, where glibc's libraries are.
_WRAPPER = """\
#!/bin/sh
# A C compiler that knows musl and no other C library; its programs are static.
# Made by krg-provision. REALGCC names another gcc.
self=$0
while [ -h "$self" ]; do
	link=$(readlink "$self")
	case $link in
	/*) self=$link ;;
	*) self=${{self%/*}}/$link ;;
	esac
done
case $self in
*/*) home=${{self%/*}} ;;
*) home=. ;;
esac
home=$(cd "$home" && pwd -P) || exit 1
gcc=${{REALGCC:-gcc}}
own=$("$gcc" {option} -print-file-name=include) || exit 1
KRG_MUSL_LIB=$home/lib
export KRG_MUSL_LIB
exec "$gcc" {option} -specs="$home/musl.specs" -no-pie -fno-pie "$@" -static \\
	-nostdinc -isystem "$home/include" -isystem "$own" -Wl,-nostdlib -L"$home/lib"
"""

_HELLO = """\
#include <stdio.h>
#include <linux/types.h>
#include <asm/unistd.h>
int main(void) { printf("%u\\n", (unsigned)sizeof(void *)); return 0; }
"""


def toolchain(arch: Arch, cache: Path | None = None) -> Path:
    """Return the directory with the compiler ``cc`` for ``arch``, making it if there is none.

    It lies in ``cache`` (default: the user's) as musl-ARCH/VERSIONS-RECIPE; one that is
    there is taken as it is, without asking the archive. To renew it, remove it.

    :raises InputError: an unknown architecture.
    :raises MissingError: no gcc, no 32-bit support in it, or Debian's archive is out of reach.
    """
    if arch not in get_args(Arch):
        raise InputError(f"{arch}: no such architecture; there are {', '.join(get_args(Arch))}")
    root = cache or cache_dir()
    parent = root / f"musl-{arch}"
    wrapper = _WRAPPER.format(option=_TARGETS[arch][2])
    recipe = hashlib.sha256((wrapper + _SPECS).encode()).hexdigest()[:8]
    made = sorted(parent.glob(f"*-{recipe}"), key=lambda path: path.stat().st_mtime)
    if made:
        return made[-1]
    say(f"making the musl compiler for {arch}")
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".new-") as scratch:
        home = Path(scratch) / "home"
        versions = _assemble(arch, home, Path(scratch) / "unpacked", root / "debian")
        (home / "musl.specs").write_text(_SPECS, "utf-8")
        (home / "cc").write_text(wrapper, "utf-8")
        (home / "cc").chmod(0o755)
        _prove(home, Path(scratch), _TARGETS[arch][2])
        target = parent / f"{versions}-{recipe}"
        try:
            home.rename(target)
        except OSError:
            # Another run was faster; what it made is the same.
            if not (target / "cc").is_file():
                raise
    return target


def _assemble(arch: Arch, home: Path, unpacked: Path, cache: Path) -> str:
    """Put musl's and the kernel's files into ``home``; return the packages' versions."""
    debian, triplet, _ = _TARGETS[arch]
    archive = DebianArchive(cache, debian)
    musl = archive.unpack("musl-dev", unpacked)
    linux = archive.unpack("linux-libc-dev", unpacked)
    usr = unpacked / "usr"
    shutil.copytree(usr / "include" / f"{triplet}-musl", home / "include")
    for name in ("linux", "asm-generic", "mtd", "rdma", "sound", "video"):
        shutil.copytree(usr / "include" / name, home / "include" / name)
    shutil.copytree(usr / "include" / f"{triplet}-gnu" / "asm", home / "include" / "asm")
    # Static programs only: no shared library, no dynamic linker's path.
    (home / "lib").mkdir()
    for path in (usr / "lib" / f"{triplet}-musl").iterdir():
        if path.suffix in (".a", ".o") and not path.is_symlink():
            shutil.copy2(path, home / "lib")
    return f"{musl}_{linux}".replace(":", ".")


def _prove(home: Path, scratch: Path, option: str) -> None:
    """Build and run a program, so that a compiler that lacks a part is met here."""
    (scratch / "hello.c").write_text(_HELLO, "utf-8")
    gcc = os.environ.get("REALGCC", "gcc")
    runner = LocalRunner()
    try:
        runner.run([gcc, "--version"], timeout=60)
    except MissingError as error:
        raise MissingError(
            f"{gcc}: not found on this machine", hint="apt-get install gcc"
        ) from error
    argv = [str(home / "cc"), "-o", str(scratch / "hello"), str(scratch / "hello.c")]
    result = runner.run(argv, timeout=120, check=False)
    if not result.ok:
        lines = [line for line in result.output.splitlines() if line.strip()] or ["no output"]
        raise MissingError(
            f"{gcc} {option} cannot link with musl: {lines[0]}",
            hint="apt-get install gcc" + ("-multilib" if option == "-m32" else ""),
        )
    said = runner.run([str(scratch / "hello")], timeout=60).output.strip()
    expected = "4" if option == "-m32" else "8"
    if said != expected:
        raise FailedError(f"a program made with {gcc} {option} printed {said!r}, not {expected!r}")
