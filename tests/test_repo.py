# SPDX-License-Identifier: GPL-2.0-or-later
"""The apt repository: what gets in, and out again, and who signs it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Command
from debs import deb, manifest
from repos import needs_tools, one_line, packages, published, tree

from provision import repo, repo_keys, repo_publish
from provision.errors import InputError, KrgError
from provision.repo_publish import Wishes
from provision.runner import LocalRunner

pytestmark = needs_tools


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "repo"


# -- add ------------------------------------------------------------------------


def test_add_and_publish_from_a_manifest(krg: Command, store: Path, tmp_path: Path) -> None:
    made = manifest(tmp_path / "out", [deb(tmp_path / "out", "krg-a"),
                                       deb(tmp_path / "out", "krg-b", arch="i386"),
                                       deb(tmp_path / "out", "krg-c", "1:2.0", "all")])  # fmt: skip
    said = json.loads(krg("repo", "add", store, made.parent, "--format", "json").stdout)
    wanted = {p["sha256"] for p in json.loads(made.read_text())["packages"]}
    assert {p["sha256"] for p in said["added"]} == wanted and said["present"] == []
    # The manifest itself is an argument too; a second time nothing is new.
    again = json.loads(krg("repo", "add", store, made, "--format", "json").stdout)
    assert again["added"] == [] and {p["sha256"] for p in again["present"]} == wanted

    done = krg("repo", "publish", store, "--url", "http://host/krg", "--format", "json")
    value = json.loads(done.stdout)
    assert value["key_made"] and value["key_home"] == str(store / "state/gnupg")
    assert {p["sha256"] for p in value["packages"]} == wanted
    assert set(packages(store).values()) | set(packages(store, "i386").values()) == wanted
    assert "pool/krg-c/krg-c_2.0_all.deb" in packages(store, "i386")
    for path, sha256 in packages(store).items():
        assert hashlib.sha256((store / "www" / path).read_bytes()).hexdigest() == sha256
    listed = json.loads(krg("repo", "list", store, "--format", "json").stdout)
    assert all(p["published"] and p["builds"] == ["1a2b3c4d"] for p in listed["packages"])
    assert "URIs: http://host/krg\n" in (store / "www/krg.sources").read_text()
    assert "deb http://host/krg krg main\n" in (store / "www/krg.list").read_text()


def test_check_touches_nothing(krg: Command, store: Path, tmp_path: Path) -> None:
    file = deb(tmp_path, "krg-a")
    assert krg("repo", "add", store, file, "--check").stdout == "would add krg-a=1.0:amd64\n"
    assert not store.exists()
    krg("repo", "add", store, file)
    before = tree(store)
    done = krg("repo", "publish", store, "--check")
    assert done.stdout.startswith("+ pool/krg-a/krg-a_1.0_amd64.deb\nwould publish 1 packages")
    assert krg("repo", "remove", store, "krg-a", "--check").stdout.startswith("would remove")
    assert tree(store) == before


def test_a_file_that_changed_since_the_manifest(krg: Command, store: Path, tmp_path: Path) -> None:
    good, bad = deb(tmp_path, "krg-a"), deb(tmp_path, "krg-b")
    made = manifest(tmp_path, [good, bad])
    deb(tmp_path, "krg-b", content="another")
    said = one_line(krg("repo", "add", store, made), 2)
    assert "krg-b_1.0_amd64.deb: changed since packages.json was written" in said
    assert not store.exists()
    bad.unlink()
    assert "no such file" in one_line(krg("repo", "add", store, made), 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file": "../krg-a_1.0_amd64.deb"}, "is not the name of a .deb file"),
        ({"file": "/etc/passwd"}, "is not the name of a .deb file"),
        ({"version": "2.0"}, "is krg-a=1.0:amd64, not krg-a=2.0:amd64"),
        ({"package": "other"}, "not other=1.0:amd64"),
        ({"sha256": "0" * 64}, "changed since"),
        ({"sha256": None}, "not a manifest"),
        ({"size": 1}, "changed since"),
    ],
)
def test_hostile_manifests(
    krg: Command, store: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    made = manifest(tmp_path, [deb(tmp_path, "krg-a")])
    value = json.loads(made.read_text())
    value["packages"][0].update(change)
    made.write_text(json.dumps(value))
    assert said in one_line(krg("repo", "add", store, made), 2)
    assert not store.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1}', "\xff"])
def test_manifests_that_are_none(krg: Command, store: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "packages.json").write_text(text, encoding="latin-1")
    assert "packages.json" in one_line(krg("repo", "add", store, tmp_path), 2)


def test_files_that_are_no_packages(krg: Command, store: Path, tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"!<arch>\nnonsense")
    assert "not a Debian package" in one_line(krg("repo", "add", store, tmp_path / "x.deb"), 2)
    assert "no such file" in one_line(krg("repo", "add", store, tmp_path / "y.deb"), 2)
    assert "expected a .deb" in one_line(krg("repo", "add", store, "/etc/passwd"), 2)
    assert "packages.json" in one_line(krg("repo", "add", store, tmp_path), 2)
    hostile = deb(tmp_path, "krg-a", Package="../../evil")
    assert "invalid package name" in one_line(krg("repo", "add", store, hostile), 2)
    # dpkg-deb shows this one as it is.
    strange = deb(tmp_path, "krg-a", Architecture="../../evil")
    assert "'../../evil' is not an architecture" in one_line(krg("repo", "add", store, strange), 2)
    assert not store.exists()


def test_another_content_under_the_same_name(krg: Command, store: Path, tmp_path: Path) -> None:
    krg("repo", "add", store, deb(tmp_path, "krg-a"))
    before = tree(store)
    other = deb(tmp_path / "other", "krg-a", content="another")
    new = deb(tmp_path, "krg-new")
    said = one_line(krg("repo", "add", store, new, other), 2)
    assert "krg-a=1.0:amd64 is in the repository already, with another content" in said
    assert tree(store) == before
    # An epoch is no part of a file's name: two versions would be one file.
    same = deb(tmp_path / "epoch", "krg-a", "1:1.0")
    assert "is in the repository already" in one_line(krg("repo", "add", store, same), 2)
    assert tree(store) == before


def test_a_directory_of_somebody_else(krg: Command, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home/letter").write_text("x")
    file = deb(tmp_path, "krg-a")
    assert "not empty" in one_line(krg("repo", "add", tmp_path / "home", file), 2)
    for words in (["publish"], ["list"], ["prune", "--keep", "1"], ["remove"], ["serve"]):
        more = ["krg-a"] if words == ["remove"] else []
        done = krg("repo", words[0], tmp_path / "home", *words[1:], *more)
        assert "not a package repository" in one_line(done, 2)
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["letter"]


def test_a_file_that_changes_while_it_is_copied(store: Path, tmp_path: Path) -> None:
    (offer,) = repo.offers([deb(tmp_path, "krg-a")])
    deb(tmp_path, "krg-a", content="another")
    with pytest.raises(InputError, match="changed while it was copied"):
        repo.add(store, [offer])
    assert list((store / "pool").rglob("*.deb*")) == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "krg-test", place],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small file system (run as root): {done.stderr.strip()}")
    yield place
    # A gpg-agent of ours may still be ending there.
    subprocess.run(["umount", "--lazy", place], check=True)


def test_no_space(
    krg: Command, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small / "repo"
    krg("repo", "add", store, deb(tmp_path, "krg-a"))
    assert krg("repo", "publish", store).returncode == 0
    before = tree(store)
    large = deb(tmp_path, "krg-large", content=os.urandom(8 << 20).hex())
    assert re.search(r"\d+ MB free, the packages need \d+ MB", one_line(
        krg("repo", "add", store, large, large), 3))  # fmt: skip
    assert tree(store) == before
    # The disk is full when publish comes.
    shutil.copyfile(deb(tmp_path, "krg-b"), small / "b.deb")
    krg("repo", "add", store, small / "b.deb")
    with (small / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
        while True:
            filler.write(b"\0" * 4096)
    public = tree(store / "www")
    assert "0 MB free, publishing needs 4 MB" in one_line(krg("repo", "publish", store), 3)
    assert tree(store / "www") == public
    # It becomes full while publish is at work.
    monkeypatch.setattr(repo_publish, "ROOM", 0)
    with pytest.raises((KrgError, OSError), match="No space left"):
        repo_publish.publish(store, Wishes())
    assert tree(store / "www") == public
    (small / "filler").unlink()
    assert krg("repo", "publish", store).returncode == 0
    assert "pool/krg-b/krg-b_1.0_amd64.deb" in packages(store)


def test_prune_keeps_the_newest_builds(krg: Command, store: Path, tmp_path: Path) -> None:
    for number in range(4):
        out = tmp_path / f"build{number}"
        names = [deb(out, f"linux-image-{number}"), deb(out, "krg-meta", f"1.{number}", "all")]
        # The same file belongs to all builds.
        names.append(deb(out, "krg-common"))
        repo.add(store, repo.offers([manifest(out, names, build=f"build{number}")]))
        repo.add(store, repo.offers([deb(tmp_path, "loose", f"1.{number}")]))
    published(store, tmp_path)
    krg("repo", "prune", store, "--keep", "2")
    left = sorted(p.title for p in repo.load(store).packages)
    assert left == [
        "krg-common=1.0:amd64",
        "krg-meta=1.2:all", "krg-meta=1.3:all",
        "linux-image-2=1.0:amd64", "linux-image-3=1.0:amd64",
        "loose=1.2:amd64", "loose=1.3:amd64",
    ]  # fmt: skip
    assert sorted(p.name for p in (store / "pool").iterdir()) == sorted(
        {title.split("=")[0] for title in left}
    )
    published(store, tmp_path)
    assert len(packages(store)) == 7


def test_remove(krg: Command, store: Path, tmp_path: Path) -> None:
    for arch in ("amd64", "i386"):
        for version in ("1.0", "2.0"):
            repo.add(store, repo.offers([deb(tmp_path, "krg-a", version, arch)]))
    assert krg("repo", "remove", store, "krg-a=1.0:i386").stdout == "removed krg-a=1.0:i386\n"
    assert len(krg("repo", "remove", store, "krg-a=2.0").stdout.splitlines()) == 2
    assert "no such package" in one_line(krg("repo", "remove", store, "krg-a=2.0"), 2)
    assert krg("repo", "remove", store, "krg-a").stdout == "removed krg-a=1.0:amd64\n"
    assert list((store / "pool").iterdir()) == []


def test_an_emptied_repository_can_be_published(store: Path, tmp_path: Path) -> None:
    published(store, tmp_path, "krg-a")
    repo.remove(store, repo.load(store).packages)
    published(store, tmp_path)
    assert packages(store) == {}


# -- keys -----------------------------------------------------------------------


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The user's own keyring, which must have a short path: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="krg-keys-") as name:
        monkeypatch.setenv("GNUPGHOME", name)

        def make(user: str, *more: str, passphrase: str = "") -> str:
            argv = ["gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase", passphrase]
            subprocess.run(
                [*argv, "--quick-gen-key", user, *(more or ("rsa2048", "sign", "never"))],
                check=True, capture_output=True,
            )  # fmt: skip
            listing = subprocess.run(
                ["gpg", "--batch", "--with-colons", "--list-secret-keys", f"={user}"],
                check=True, capture_output=True, text=True,
            ).stdout  # fmt: skip
            return re.findall(r"^fpr:+([0-9A-F]{40}):", listing, re.M)[0]

        yield SimpleNamespace(make=make)
        subprocess.run(["gpgconf", "--kill", "gpg-agent"], check=True)


def test_the_users_own_key(
    krg: Command, store: Path, tmp_path: Path, keys: SimpleNamespace
) -> None:
    mine = keys.make("mine")
    krg("repo", "add", store, deb(tmp_path, "krg-a"))
    spaced = " ".join(mine[i : i + 4] for i in range(0, 40, 4)).lower()
    value = json.loads(krg("repo", "publish", store, "--key", spaced, "--format", "json").stdout)
    assert value["key"] == mine and not value["key_made"] and value["notes"] == []
    # It is remembered, and no key of ours was made.
    assert json.loads(krg("repo", "publish", store, "--format", "json").stdout)["key"] == mine
    assert not (store / "state/gnupg").exists()
    other = keys.make("other", "ed25519", "sign", "never")
    done = krg("repo", "publish", store, "--key", other)
    assert "not RSA" in done.stdout and "nodes need the new keyring" in done.stdout


def test_a_key_with_a_passphrase(
    krg: Command, store: Path, tmp_path: Path, keys: SimpleNamespace
) -> None:
    mine = keys.make("mine", passphrase="secret")
    subprocess.run(["gpgconf", "--kill", "gpg-agent"], check=True)
    krg("repo", "add", store, deb(tmp_path, "krg-a"))
    (tmp_path / "wrong").write_text("nonsense\n")
    (tmp_path / "right").write_text("secret\n")
    words = ["repo", "publish", store, "--key", mine, "--passphrase-file"]
    done = krg(*words, tmp_path / "wrong")
    assert "Bad passphrase" in one_line(done, 1) and "--passphrase-file" in done.stderr
    assert not (store / "www").exists() and list((store / "published").iterdir()) == []
    assert "no such file" in one_line(krg(*words, tmp_path / "none"), 2)
    assert krg(*words, tmp_path / "right").returncode == 0


def test_a_revoked_key(krg: Command, store: Path, tmp_path: Path, keys: SimpleNamespace) -> None:
    mine = keys.make("mine")
    home = Path(os.environ["GNUPGHOME"])
    text = (home / f"openpgp-revocs.d/{mine}.rev").read_text().replace(":-----", "-----")
    subprocess.run(
        ["gpg", "--batch", "--import"], input=text, text=True, check=True, capture_output=True
    )
    krg("repo", "add", store, deb(tmp_path, "krg-a"))
    said = one_line(krg("repo", "publish", store, "--key", mine), 2)
    assert "is revoked" in said


def test_the_key_that_nodes_trust_is_gone(krg: Command, store: Path, tmp_path: Path) -> None:
    published(store, tmp_path, "krg-a")
    shutil.rmtree(store / "state/gnupg")
    public = tree(store / "www")
    assert "the key that nodes trust is gone" in one_line(krg("repo", "publish", store), 2)
    assert tree(store / "www") == public


@pytest.mark.parametrize("length", [86, 87, 88])
def test_a_key_where_the_agents_sockets_hardly_fit(length: int) -> None:
    """Without a directory below /run/user they lie beside the key."""
    with tempfile.TemporaryDirectory(prefix="krg-", dir="/tmp") as place:
        home = Path(place) / ("x" * (length - len(place) - 1))
        assert len(str(home)) == length
        key = repo_keys.make(LocalRunner(), home)
        assert repo_keys.made(LocalRunner(), home) == key


def test_no_agent_stays(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Agents of tests that run at the same time have links elsewhere.
    with tempfile.TemporaryDirectory(prefix="krg-t-") as links:
        monkeypatch.setattr(tempfile, "tempdir", links)
        published(store, tmp_path, "krg-a")
        monkeypatch.setattr(tempfile, "tempdir", None)
        agents = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                agents.append((process / "cmdline").read_bytes().decode(errors="replace"))
            except OSError:
                continue
        assert not [a for a in agents if "gpg-agent" in a and (links in a or str(store) in a)]
