# SPDX-License-Identifier: GPL-2.0-or-later
"""Speed, as ratios within one run: ./dev bench [WHAT], all by default."""

from __future__ import annotations

import argparse
import compileall
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
# For kernel_trees, which the tests use too.
sys.path.append(str(TOP / "tests"))


def main() -> None:
    """Run the benchmarks asked for, all by default, and print tables."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument(
        "what",
        nargs="?",
        choices=["kernel", "kconfig", "packages", "repo", "nodes", "lab"],
        help="only this one",
    )
    kernel = parser.add_argument_group("kernel: build-kernel against make by hand")
    kernel.add_argument("--arch", default="x86_64")
    kernel.add_argument("--rounds", type=int, default=1, help="by hand and by program, in turns")
    kernel.add_argument("--make-only", action="store_true", help="leave ccache out")
    kconfig = parser.add_argument_group("kconfig: config lint against a bare Kconfiglib")
    kconfig.add_argument("--starts", type=int, default=11, help="processes of each kind")
    kconfig.add_argument("--modern-tree", type=Path, metavar="DIR", help="6.12, unpacked")
    fleet = parser.add_argument_group("nodes: deploy against bare Fabric, scp, pyinfra")
    fleet.add_argument("--hosts", type=int, default=64)
    options = parser.parse_args()
    # As an installed package has it, whatever PYTHONDONTWRITEBYTECODE says.
    for name in ("grub", "kconfig", "provision", "templates"):
        compileall.compile_dir(TOP / name, quiet=1)
    if options.what in (None, "kconfig"):
        import configurations

        configurations.main(options.starts, options.modern_tree)
    if options.what in (None, "kernel"):
        import kernel_build

        kernel_build.main(options.arch, options.rounds, make_only=options.make_only)
    if options.what in (None, "packages"):
        import packages

        packages.main()
    if options.what in (None, "repo"):
        import repository

        repository.main()
    if options.what in (None, "nodes"):
        import nodes

        nodes.main(options.hosts, 3)
    if options.what in (None, "lab"):
        import lab

        lab.main(2)


if __name__ == "__main__":
    main()
