# SPDX-License-Identifier: GPL-2.0-or-later
"""A build in small that has all that packages are made of: headers, module, tools, pages."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import mini
from conftest import Command

from provision import artifacts
from provision.artifacts import Artifacts

_PAGE = '.TH KRGADM 1 "" "" ""\n.SH NAME\nkrgadm \\- a page in small\n'
_HEADERS_MAKEFILE = "modules:\n\tscripts/answer\n"


def make(krg: Command, release: mini.Mini, where: Path, *sets: str) -> Artifacts:
    """Build the small release and put into the build what the real one has besides."""
    options = [word for one in sets for word in ("--set", one)]
    done = krg("build-kernel", "-q", *release.options, "-o", where, *options)
    assert done.returncode == 0, done.stderr
    build = artifacts.load(where)
    extra = where / "lib/modules" / build.kernel_release / "extra"
    extra.mkdir()
    user = next(where.glob("lib/modules/*/kernel/drivers/user.ko"))
    (extra / "kerrighed.ko").write_bytes(user.read_bytes())
    with (where / "config").open("a") as config:
        config.write("CONFIG_BLK_DEV_INITRD=y\n")
    tools = where / "tools"
    for name, data in (
        ("bin/krgadm", (tools / "bin/hello").read_bytes()),
        ("bin/krg_legacy_scheduler", b"#!/bin/sh\nexit 0\n"),
        ("include/kerrighed/types.h", b"/* types */\n"),
        ("share/man/man1/krgadm.1", _PAGE.encode()),
    ):
        path = tools / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o755 if "bin/" in name else 0o644)
    (tools / "bin/hello").unlink()
    (tools / "lib").mkdir()
    source = mini.HERE / "extra/tools/hello.c"
    thing = where / "hello.o"
    subprocess.run(["gcc", "-g", "-c", "-o", thing, source], check=True)
    subprocess.run(["ar", "rc", tools / "lib/libkerrighed.a", thing], check=True)
    thing.unlink()
    answer = where / "answer"
    subprocess.run(["gcc", "-g", "-o", answer, source], check=True)
    with tarfile.open(where / "headers.tar", "w") as tar:
        for name, path in (
            ("scripts/answer", answer),
            ("include/module.h", mini.HERE / "linux/include/module.h"),
        ):
            tar.add(path, name)
        makefile = where / "Makefile"
        makefile.write_text(_HEADERS_MAKEFILE)
        tar.add(makefile, "Makefile")
    answer.unlink()
    makefile.unlink()
    manifest = json.loads((where / artifacts.MANIFEST).read_text())
    del manifest["files"], manifest["format"]
    (where / artifacts.MANIFEST).unlink()
    artifacts.write_manifest(where, manifest)
    return artifacts.load(where)
