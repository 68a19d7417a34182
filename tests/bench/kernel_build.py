# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel step against make by hand, as ratios within one run.

Everything is built from the real sources in private directories, so that no cache
of the user's is used or touched. By hand means: the same prepared tree, the same
make, its output in a file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from provision import configure, release, sources, tools
from provision.artifacts import load
from provision.paths import sources_dir
from provision.runner import LocalRunner

KRG = [sys.executable, "-m", "provision"]


def timed(argv: list[str], env: dict[str, str], log: Path, cwd: Path | None = None) -> float:
    """Run a command with its output in ``log``; return seconds; end when it fails."""
    started = time.monotonic()
    with log.open("ab") as stream:
        done = subprocess.run(argv, env=env, stdout=stream, stderr=subprocess.STDOUT, cwd=cwd)
    if done.returncode:
        sys.exit(f"{' '.join(argv)} failed: see {log}")
    return time.monotonic() - started


def by_hand(where: Path, arch: str, jobs: int, log: Path, source_dir: Path) -> float:
    """Prepare the release's tree, then time make and make modules_install as typed by hand."""
    chosen = release.load(release.DEFAULT)
    found = sources.sources_of(chosen, source_dir, download=False)
    versions = tools.survey(LocalRunner(), chosen.arch(arch).gcc_flags).versions
    facts = {**versions, "kernel": chosen.kernel_version, "arch": arch}
    trees = sources.unpack_patched(chosen, found, where)
    sources.fix(chosen, trees, facts)
    linux = trees["linux"]
    text = configure.text(linux, chosen, arch, configure.Wishes(), "bench000")
    (linux / ".config").write_text(text)
    env = {**os.environ, "LC_ALL": "C"}
    subprocess.run(
        ["sh", "-c", f"yes '' | make ARCH={arch} oldconfig >/dev/null 2>&1"], cwd=linux, check=True
    )
    cc = "CC=" + " ".join(["gcc", *chosen.arch(arch).gcc_flags])
    make = ["make", f"ARCH={arch}", cc]
    seconds = timed([*make, f"-j{jobs}", "bzImage", "modules"], env, log, linux)
    install = [*make, "DEPMOD=/bin/true", f"INSTALL_MOD_PATH={where}/stage", "modules_install"]
    return seconds + timed(install, env, log, linux)


def main(arch: str, rounds: int, *, make_only: bool) -> None:
    """Run the benchmark and print a table."""
    real = sources_dir()
    jobs = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="krg-bench-") as name:
        top = Path(name)
        log = top / "log"
        env = {
            **os.environ,
            "XDG_CACHE_HOME": str(top / "cache"),
            "XDG_DATA_HOME": str(top / "data"),
            "CCACHE_DIR": str(top / "ccache"),
        }
        # musl comes from the network once: no part of what is measured.
        for made in (real.parent).glob("musl-*"):
            shutil.copytree(made, top / "cache/krg-provision" / made.name, symlinks=True)
        build = [*KRG, "build-kernel", "-q", "--arch", arch, "--source-dir", str(real)]
        hand, ours = [], []
        for number in range(rounds):
            hand.append(by_hand(top / f"hand{number}", arch, jobs, log, real))
            shutil.rmtree(top / f"hand{number}")
            out = top / f"plain{number}"
            timed([*build, "--no-ccache", "-o", str(out)], env, log)
            ours.append(load(out).manifest["seconds"]["kernel"])
        again = timed([*build, "--no-ccache", "-o", str(top / "plain0")], env, log)
        if not make_only:
            cold = timed([*build, "--ccache", "-o", str(top / "cold")], env, log)
            warm = timed([*build, "--ccache", "-o", str(top / "warm")], env, log)
    best, mine = min(hand), min(ours)
    print(f"kernel step, {arch}, -j{jobs}, {rounds} round(s), best of each:")
    print(f"  by hand {best:.1f} s, build-kernel {mine:.1f} s: {mine / best:.3f} (goal 1.03)")
    print(f"up-to-date second run: {again:.2f} s (goal 2)")
    if not make_only:
        print(
            f"ccache: first {cold:.1f} s, clean rebuild {warm:.1f} s: {warm / cold:.2f} (goal 0.40)"
        )
