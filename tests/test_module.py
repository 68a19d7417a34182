# SPDX-License-Identifier: GPL-2.0-or-later
"""A release's module: what the file may say, and what a build's manifest keeps of it."""

from __future__ import annotations

import json

import pytest

from provision import module, release
from provision.data import data_dir
from provision.errors import InputError

DEBIAN = (data_dir("releases") / "debian-6.1.toml").read_text("utf-8")


def test_a_manifest_keeps_it() -> None:
    for name in release.names():
        made = release.load(name).module
        manifest = json.loads(json.dumps({"module": module.as_json(made)}))
        assert module.of(manifest) == made


def test_which_module_a_build_has() -> None:
    # Builds from before a manifest said it are Kerrighed's, if their kernel has it.
    assert module.of({}, "CONFIG_KERRIGHED=y\n") == module.kerrighed()
    assert module.of({}, "# CONFIG_KERRIGHED is not set\n") is None
    assert module.of({"module": None}, "CONFIG_KERRIGHED=y\n") is None
    other = release.load("debian-6.1").module
    assert module.of({"module": module.as_json(other)}, "") == other
    for wrong in ({"name": "x"}, [], {"files": 3}, {**(module.as_json(other) or {}), "ids": "/"}):
        with pytest.raises(InputError, match=r"manifest\.json: module"):
            module.of({"module": wrong})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "nodeids"\ntitle', 'name = "node ids"\ntitle', "name cannot be 'node ids'"),
        ('ids = "/sys/kernel/nodeids"', 'ids = "/etc/../sys"', "ids cannot be"),
        ('title = "Node ids"', 'title = "it\'s"', "title cannot be"),
        ('"session_id", "node_id"', '"$(reboot)"', "arguments cannot be"),
        ('path = "/etc/init.d/nodeids"', 'path = "/etc/passwd/x"', "path cannot be"),
        ('path = "/etc/init.d/nodeids"', 'path = "/etc/init.d/other"', "one file must be"),
        ("module.init.j2", "../x.j2", "template cannot be"),
        ("module.init.j2", "nothing.j2", "there is no template"),
        ('mode = "0755"', 'mode = "4755"', "mode is"),
        ('description = "An', 'description = "\\nDepends: x\\n', "description cannot be"),
        ('ids = "/sys', 'idz = "/sys', "unknown key 'idz'"),
        ('base = "allnoconfig"', 'base = "randconfig"', "base is"),
        ('debian = "linux-source-6.1"', 'debian = "-x"', "no Debian package's name"),
        ('debian = "linux-source-6.1"', f'debian = "l"\nsha256 = "{"0" * 64}"', "needs either"),
        ('debian = "linux-source-6.1"', 'debian = "li"\nurls = ["https://a/"]', "urls need"),
        ('directory = "nodeids"', 'directory = "../nodeids"', "leads out"),
        ('directory = "nodeids"', "", "'files' is missing"),
    ],
)
def test_wrong_ones_say_where(old: str, new: str, said: str) -> None:
    assert DEBIAN.count(old) == 1
    with pytest.raises(InputError) as caught:
        release.parse(DEBIAN.replace(old, new), "mine.toml")
    assert said in caught.value.message and "mine.toml" in caught.value.message
