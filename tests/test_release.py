# SPDX-License-Identifier: GPL-2.0-or-later
"""Release files: what is accepted, what is refused, what decides a build."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import mini
import pytest

from kconfig import policy
from provision import fixup, release
from provision.errors import InputError


@pytest.fixture
def text(tmp_path: Path) -> str:
    return mini.make(tmp_path / "mini").release.read_text("utf-8")


@pytest.mark.parametrize("name", release.names())
def test_shipped_ones_are_complete(name: str) -> None:
    made = release.load(name)
    assert made.name == name
    policy.load(made.policy)
    for archive in made.archives.values():
        assert archive.files or (archive.directory and archive.directory.is_dir())
        assert all(url.startswith("https://") for url in archive.urls)
        for group in archive.fixups:
            assert fixup.load(group)
    known = {"arch", "epoch", "jobs", "gcc", "musl_cc", "stage", "kernel_release", *made.archives}
    for arch in made.arches.values():
        for step in made.steps:
            assert step.tree in made.archives or step.copy_of in made.archives
            for argv in step.run:
                for word in argv:
                    for name_ in release.re.findall(r"\{(\w+)\}", word):
                        assert name_ in known | set(arch.values), f"{step.name}: {word}"


def test_default_is_shipped() -> None:
    assert release.DEFAULT in release.names()


MORE = """
name = "more"
extends = "{base}"
epoch = 5

[archive.extra]
files = ["extra.tar.gz"]
sha256 = "{digest}"

[arch.i386]
image = "arch/i386/boot/bzImage"
"""


def test_one_that_extends_another(tmp_path: Path) -> None:
    mini.make(tmp_path / "mini").release.rename(tmp_path / "base.toml")
    (tmp_path / "more.toml").write_text(MORE.format(base="base.toml", digest="0" * 64))
    base, more = (release.load(str(tmp_path / name)) for name in ("base.toml", "more.toml"))
    assert (more.name, more.epoch) == ("more", 5)
    assert (more.title, more.steps, more.patches) == (base.title, base.steps, base.patches)
    # By name: what is there is taken over, what is the same replaced as a whole.
    assert more.archives.keys() == base.archives.keys() | {"extra"}
    assert more.archives["linux"] == base.archives["linux"]
    assert more.arches == {
        **base.arches, "i386": release.Arch("i386", "arch/i386/boot/bzImage", 0, (), {})
    }  # fmt: skip
    assert more.identity() != base.identity()


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("more.toml", "extends itself, by way of more.toml"),
        ("round.toml", "extends itself, by way of more.toml"),
        ("none.toml", "no release none.toml"),
        ("none", "no release none"),
        ("../none", "extends '../none', which is not beside it"),
        ("None", "'None' is not a release name"),
        ("a\\u0000.toml", "is not a release name"),
        ("loop.toml", "loop.toml: Too many levels of symbolic links"),
        ("more0.toml", "more7.toml: extends one that extends more than 8 others"),
        ("bad.toml", "'name' is missing; that of more.toml is taken"),
    ],
)
def test_what_cannot_be_extended(tmp_path: Path, base: str, said: str) -> None:
    (tmp_path / "round.toml").write_text('name = "round"\nextends = "more.toml"\n')
    (tmp_path / "bad.toml").write_text('extends = "more.toml"\n')
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    for number in range(20):
        text = f'name = "more"\nextends = "more{number + 1}.toml"\n'
        (tmp_path / f"more{number}.toml").write_text(text)
    (tmp_path / "more.toml").write_text(MORE.format(base=base, digest="0" * 64))
    with pytest.raises(InputError, match=release.re.escape(said)):
        release.load(str(tmp_path / "more.toml"))


def test_debians_kernels_differ_in_nothing_but_the_source() -> None:
    old, new = release.load("debian-6.1"), release.load("debian-6.12")
    same = {f.name for f in dataclasses.fields(old) if getattr(old, f.name) == getattr(new, f.name)}
    assert {f.name for f in dataclasses.fields(old)} - same == {
        "name", "title", "kernel_version", "epoch", "archives"
    }  # fmt: skip
    assert old.archives["nodeids"] == new.archives["nodeids"]


def test_small_release(text: str) -> None:
    made = release.parse(text, "mini.toml")
    assert made.archives["linux"].files[0] == "linux-mini.tar.gz"
    assert made.patches is not None and made.patches.count == 2
    assert [step.name for step in made.steps] == ["kernel", "tools"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "mini"', 'name = "Mini/.."', "not a plain name"),
        ('title = "A kernel in small"\n', "", "'title' is missing"),
        ("[archive.linux]", "[archive.lunix]", "[archive.linux]"),
        ("tree = ", "sha256 = ", "not a digest"),
        ('"linux-mini.tar.gz"', '"../linux.tar.gz"', "not a plain name"),
        ('"linux-mini.tar.gz"', '"-x"', "not a plain name"),
        ('archive = "extra"', 'archive = "nothing"', "no archive nothing"),
        ("strip = 1", "strip = 1\nfuzz = 2", "fuzz"),
        ("[[step]]", "[[step", "mini.toml"),
        ('name = "tools"\n', "", "'name' is missing"),
    ],
)
def test_wrong_ones_say_where(text: str, old: str, new: str, said: str) -> None:
    assert old in text
    with pytest.raises(InputError) as caught:
        release.parse(text.replace(old, new), "mini.toml")
    assert said in caught.value.message and "mini.toml" in caught.value.message


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        release.load("kerrighed-9")
    assert "kerrighed-2.4.4" in (caught.value.hint or "")
    with pytest.raises(InputError):
        release.load("../etc/passwd")
    with pytest.raises(InputError):
        release.load(str(tmp_path / "gone.toml"))
    with pytest.raises(InputError) as caught:
        release.load(release.DEFAULT).arch("sparc")
    assert "x86_64" in caught.value.message and "i386" in caught.value.message


def test_only_what_decides_the_result_is_in_the_identity(text: str) -> None:
    made = release.parse(text, "mini.toml")
    other = text.replace("A kernel in small", "Another title").replace("objects = 3", "objects = 9")
    assert release.parse(other, "x").identity() == made.identity()
    for old, new in (
        ('"modules_install"', '"install"'),
        ("strip = 1", "strip = 0"),
        ("boot/bzImage", "boot/zImage"),
        ('kernel_version = "2.6.20"', 'kernel_version = "2.6.21"'),
    ):
        changed = release.parse(text.replace(old, new), "x")
        assert changed.identity() != made.identity(), new


def test_values_are_frozen(text: str) -> None:
    made = release.parse(text, "mini.toml")
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[archive.linux]", '[archive."../linux"]'),
        ("[arch.x86_64]", '[arch."../../x"]'),
        ('tree = "linux"', 'tree = "../linux"'),
        ('glob = "', 'glob = "../'),
        ('image = "', 'image = "/'),
    ],
)
def test_no_name_leads_out(text: str, old: str, new: str) -> None:
    assert old in text
    with pytest.raises(InputError, match=r"mini\.toml"):
        release.parse(text.replace(old, new), "mini.toml")


def test_types_and_unknown_keys(text: str) -> None:
    for old, new, said in (
        ('title = "', "title = 3 # ", "title must be a text"),
        ("count = ", 'count = "x" # ', "count must be a whole number"),
        ('title = "', 'titel = "', "unknown key 'titel'"),
    ):
        assert old in text
        with pytest.raises(InputError, match=said):
            release.parse(text.replace(old, new), "mini.toml")
