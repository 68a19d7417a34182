# SPDX-License-Identifier: GPL-2.0-or-later
"""What a lint is measured against: Kconfiglib as it is, loading one tree, nothing else.

    python bare_load.py FIRST_FILE

Neither the rules nor the bridge of kconfig/ are in it, only the two lines without which
Kconfiglib refuses the trees measured (2.6.20 and those from 5.14 on), done as cheaply
as can be. The environment comes from the caller.
"""

import io
import sys

import kconfiglib

# ruff: noqa: PTH123 # the library opens files so

MODULES = "\tmodules\n"


class Bare(kconfiglib.Kconfig):
    def _open(self, filename, mode):
        if mode != "r":
            return super()._open(filename, mode)
        if filename.endswith("drivers/rtc/Kconfig"):
            with open(filename, encoding="latin-1") as stream:
                return io.StringIO(stream.read().removeprefix("\\"))
        if filename.endswith(("init/Kconfig", "kernel/module/Kconfig")):
            with open(filename, encoding="latin-1") as stream:
                return io.StringIO(stream.read().replace(MODULES, "\toption modules\n", 1))
        return open(filename, encoding="latin-1")


Bare(sys.argv[1], warn=False)
