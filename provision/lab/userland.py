# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs of a lab node, made for kernels that no current C library accepts.

busybox from Debian's source package with our own choice of applets (busybox.config),
dropbear the same way, and our own init, agent and counter (``*.c`` here), all static with
musl. Each is made once and kept in the cache under a digest of what went into it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from provision.console import say
from provision.data import data_dir
from provision.debian_archive import DebianArchive
from provision.errors import FailedError
from provision.musl import Arch, toolchain
from provision.paths import cache_dir
from provision.runner import LocalRunner


@dataclass(frozen=True)
class Busybox:
    """The program, and the path of every applet's link to it, such as /bin/ls."""

    program: Path
    links: tuple[str, ...]


def busybox(arch: Arch) -> Busybox:
    """Return busybox for ``arch``, building it if the cache has none.

    :raises MissingError: no compiler, or Debian's archive is out of reach.
    :raises FailedError: it does not build; the message names the log.
    """
    compiler = toolchain(arch)
    fragment = (data_dir("lab") / "busybox.config").read_text("utf-8")
    root = cache_dir() / "lab"
    target = root / f"busybox-{arch}-{_key(fragment, compiler.name)}"
    if not target.is_dir():
        say(f"building busybox for {arch}")
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".busybox-") as scratch:
            made = _build_busybox(Path(scratch), compiler / "cc", fragment, root)
            _settle(made, target)
    links = (target / "links").read_text("utf-8").split()
    return Busybox(target / "busybox", tuple(links))


# No zlib, PAM, login records or syslog on a node; keys only: there is no crypt(3) to check a
# password with. The path is a Debian root's, /usr/local first.
_DROPBEAR_OPTIONS = """\
#define DROPBEAR_SVR_PASSWORD_AUTH 0
#define DROPBEAR_SVR_PAM_AUTH 0
#define DEFAULT_ROOT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""
_DROPBEAR_CONFIGURE = (
    "--enable-static",
    "--enable-bundled-libtom",
    "--disable-harden",
    "--disable-zlib",
    "--disable-pam",
    "--disable-lastlog",
    "--disable-utmp",
    "--disable-utmpx",
    "--disable-wtmp",
    "--disable-wtmpx",
    "--disable-syslog",
)
# It would read /proc/loadavg and others for every connection, besides /dev/urandom. On a node
# whose cluster has lost another node that read never ends, and nobody can log in any more.
_DROPBEAR_SEEDS = r'(?m)^\s*process_file\(&hs, "/proc/.*\);$'


def dropbear(arch: Arch) -> Path:
    """Return an SSH server, ``dropbear``, ``dropbearkey`` and ``scp`` in one program.

    Which of them it is, its name says; the first argument does where the name is another.

    :raises MissingError: no compiler, or Debian's archive is out of reach.
    :raises FailedError: it does not build; the message names the log.
    """
    compiler = toolchain(arch)
    key = _key(_DROPBEAR_OPTIONS, *_DROPBEAR_CONFIGURE, _DROPBEAR_SEEDS, compiler.name)
    root = cache_dir() / "lab"
    target = root / f"dropbear-{arch}-{key}"
    if not target.is_file():
        say(f"building dropbear for {arch}")
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".dropbear-") as scratch:
            tree = DebianArchive(cache_dir() / "debian").source("dropbear", Path(scratch) / "tree")
            (tree / "localoptions.h").write_text(_DROPBEAR_OPTIONS, "ascii")
            _leave_proc_alone(tree / "dbrandom.c")
            host = f"--host={arch.replace('i386', 'i686')}-linux-musl"
            make = ["make", f"-j{os.cpu_count() or 1}", "MULTI=1", "STATIC=1"]
            log = root / "dropbear.log"
            for argv in (
                ["./configure", host, f"CC={compiler / 'cc'}", "CFLAGS=-Os", *_DROPBEAR_CONFIGURE],
                [*make, "PROGRAMS=dropbear dropbearkey scp"],
                ["strip", "dropbearmulti"],
            ):
                result = LocalRunner().run(argv, cwd=tree, timeout=1800, check=False)
                log.write_text(result.output, "utf-8")
                if not result.ok:
                    raise FailedError(f"dropbear: {argv[0]} failed", hint=f"the log is {log}")
            (tree / "dropbearmulti").replace(target)
    return target


def _leave_proc_alone(source: Path) -> None:
    text, count = re.subn(_DROPBEAR_SEEDS, "", source.read_text("utf-8"))
    if not count:
        raise FailedError(f"{source.name}: reads nothing below /proc: another dropbear than known")
    source.write_text(text, "utf-8")


def program(name: str, arch: Arch) -> Path:
    """Return the static program made from this directory's ``name``.c.

    :raises FailedError: it does not compile.
    """
    compiler = toolchain(arch)
    source = data_dir("lab") / f"{name}.c"
    key = _key(source.read_text("utf-8"), compiler.name)
    target = cache_dir() / "lab" / f"{name}-{arch}-{key}"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as scratch:
            made = Path(scratch) / name
            argv = [str(compiler / "cc"), "-O2", "-Wall", "-s", "-o", str(made), str(source)]
            LocalRunner().run(argv, timeout=120)
            made.replace(target)
    return target


def _build_busybox(scratch: Path, compiler: Path, fragment: str, root: Path) -> Path:
    tree = DebianArchive(cache_dir() / "debian").source("busybox", scratch / "source")
    make = ["make", f"CC={compiler}", "HOSTCC=gcc", f"-j{os.cpu_count() or 1}"]
    log = root / "busybox.log"

    def run(target: str) -> None:
        # Empty answers: what is not in the fragment keeps its default.
        argv = ["sh", "-c", f"yes '' | {shlex.join(make)} {target}"]
        result = LocalRunner().run(argv, cwd=tree, timeout=1800, check=False)
        log.write_text(result.output, "utf-8")
        if not result.ok:
            raise FailedError(f"busybox: make {target} failed", hint=f"the log is {log}")

    run("allnoconfig")
    config = tree / ".config"
    wanted = [line for line in fragment.splitlines() if line.startswith("CONFIG_")]
    names = {line.split("=")[0] for line in wanted}
    given = config.read_text("utf-8").splitlines()
    # In this generation of Kconfig the first of two assignments wins.
    rest = [ln for ln in given if ln.removeprefix("# ").split("=")[0].split(" ")[0] not in names]
    config.write_text("\n".join([*rest, *wanted]) + "\n", "utf-8")
    run("oldconfig")
    taken = set(config.read_text("utf-8").splitlines())
    refused = [line for line in wanted if line not in taken]
    if refused:
        raise FailedError(f"busybox.config: not accepted by this busybox: {' '.join(refused)}")
    run("busybox")
    run("busybox.links")
    made = scratch / "made"
    made.mkdir()
    (tree / "busybox").replace(made / "busybox")
    (tree / "busybox.links").replace(made / "links")
    return made


def _settle(made: Path, target: Path) -> None:
    try:
        made.rename(target)
    except OSError:
        # Another run was faster; what it made is the same.
        if not target.is_dir():
            raise


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
