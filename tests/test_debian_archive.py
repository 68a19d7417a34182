# SPDX-License-Identifier: GPL-2.0-or-later
"""The door to Debian's packages: reading source lists, and the machine's real archive."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from provision.debian_archive import DebianArchive, debian_entries, parse_list, parse_sources
from provision.errors import InputError, MissingError

LIST = """\
# deb http://mirror.example/debian old main
deb http://mirror.example/debian bookworm main contrib # all of it
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/etc/keys/d.gpg] http://mirror.example/debian-security/ stable main
deb https://other.example/linux/debian bookworm stable
deb https://packages.example/apt bookworm main
"""

SOURCES = """\
Types: deb
# a comment inside a stanza
URIs: http://mirror.example/debian http://archive.example/archive/debian/20250520T000000Z
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
Enabled: no
URIs: http://mirror.example/debian
Suites: trixie
Components: main

Types: deb
URIs: https://deb.vendor.example/node
Suites: nodistro
Components: main
"""


def test_one_line_style() -> None:
    entries = list(parse_list(LIST))
    assert [e.is_debian for e in entries] == [True, True, True, False, False]
    assert entries[2].options == (("Signed-By", "/etc/keys/d.gpg"),)
    assert entries[0].components == ("main", "contrib")


def test_deb822_style() -> None:
    entries = list(parse_sources(SOURCES))
    assert [e.is_debian for e in entries] == [True, True, False]
    assert entries[1].suites == ("bookworm", "bookworm-updates")
    assert "\n .\n abc" in entries[0].stanza("i386")


def test_entries_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(LIST)
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "more.sources").write_text(SOURCES)
    (tmp_path / "sources.list.d" / "old.save").write_text("deb http://x.example/debian a main\n")
    entries = debian_entries(tmp_path)
    # A suite named in several places is one entry.
    assert [(e.uri, e.suites[0]) for e in entries] == [
        ("http://mirror.example/debian", "bookworm"),
        ("http://mirror.example/debian-security/", "stable"),
        ("http://mirror.example/debian", "bookworm-updates"),
        ("http://archive.example/archive/debian/20250520T000000Z", "bookworm"),
        ("http://archive.example/archive/debian/20250520T000000Z", "bookworm-updates"),
    ]


def test_no_debian_at_all(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb https://packages.example/apt x main\n")
    with pytest.raises(MissingError, match="no Debian archive is configured"):
        debian_entries(tmp_path)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> DebianArchive:
    made = DebianArchive(tmp_path_factory.mktemp("archive"))
    try:
        made.version("musl-dev")
    except MissingError as error:
        pytest.skip(f"Debian's archive is out of reach ({error}); needs a network and Debian")
    return made


def test_unpack(archive: DebianArchive, tmp_path: Path) -> None:
    version = archive.unpack("musl-dev", tmp_path)
    assert version == archive.version("musl-dev")
    assert (tmp_path / "usr/lib/x86_64-linux-musl/libc.a").is_file()


def test_a_damaged_download_is_fetched_again(archive: DebianArchive, tmp_path: Path) -> None:
    archive.unpack("musl-dev", tmp_path / "a")
    (deb,) = archive._files.glob("musl-dev_*.deb")
    deb.write_bytes(deb.read_bytes()[:1000])
    archive.unpack("musl-dev", tmp_path / "b")
    assert subprocess.run(["dpkg-deb", "--info", deb], capture_output=True).returncode == 0


def test_source_has_debians_patches(archive: DebianArchive, tmp_path: Path) -> None:
    tree = archive.source("busybox", tmp_path / "busybox")
    assert (tree / "debian/control").is_file()
    assert (tree / ".pc/applied-patches").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["busybox"]
    with pytest.raises(InputError, match="exists already"):
        archive.source("busybox", tree)


def test_unknown_and_hostile_names(archive: DebianArchive, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no package krg-no-such-thing for amd64"):
        archive.unpack("krg-no-such-thing", tmp_path / "x")
    with pytest.raises(MissingError, match="no source package krg-no-such-thing"):
        archive.source("krg-no-such-thing", tmp_path / "x")
    for name in ("--help", "a b", "../x", ""):
        with pytest.raises(InputError, match="not the name"):
            archive.unpack(name, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    # Nothing listens on loopback's discard port: apt is refused at once.
    (etc / "sources.list").write_text("deb http://127.0.0.1:9/debian bookworm main\n")
    monkeypatch.setattr("provision.debian_archive.debian_entries", lambda: debian_entries(etc))
    with pytest.raises(MissingError, match="did not answer as it should") as caught:
        DebianArchive(tmp_path / "cache").version("musl-dev")
    assert "network" in (caught.value.hint or "")
