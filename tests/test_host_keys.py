# SPDX-License-Identifier: GPL-2.0-or-later
"""Host keys, verified as ssh does: against a real sshd on loopback, and against ssh-keygen."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import sshd
from hypothesis import given, settings
from hypothesis import strategies as st
from sshd import blob, known, node, refused, says_hello

from provision.errors import InputError
from provision.ssh_keys import KnownKeys, Line, read_known_hosts


def test_known_hosts_of_all_kinds(server: sshd.Host, home: Path) -> None:
    says_hello(node(server))
    name, key = f"[127.0.0.1]:{server.port}", blob(server, "ed25519")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known(home)], check=True, capture_output=True)
    assert known(home).read_text().startswith("|1|")
    says_hello(node(server))
    other = server.key.with_suffix(".pub").read_text()
    for text in (
        # Several keys of one kind, as during a change of keys; another kind first.
        f"{name} {other}{name} {key}\n",
        f"{name} ssh-dss AAAAB3NzaC1kc3M=\n{name} {key}\n",
        # The only one that is known is not the one that the server would give first.
        f"{name} {blob(server, 'rsa')}\n",
        f"[127.0.0.*]:{server.port} {key}\n",
        f"somewhere,[127.0.0.?]:* {key}\n# comment\n\nodd line\n",
    ):
        known(home).write_text(text)
        says_hello(node(server))


def test_a_revoked_key_is_refused_though_it_is_known(server: sshd.Host, home: Path) -> None:
    with known(home).open("a") as file:
        file.write(f"@revoked * {blob(server, 'ed25519')}\n")
    error = refused(node(server))
    assert "the host key of [127.0.0.1]:" in error.message
    assert " is revoked: SHA256:" in error.message


def test_what_a_certificate_authority_signed_is_unknown(server: sshd.Host, home: Path) -> None:
    known(home).write_text(f"@cert-authority * {blob(server, 'ed25519')}\n")
    error = refused(node(server))
    assert "unknown host key SHA256:" in error.message
    assert "@cert-authority" in (error.hint or "")


@pytest.mark.parametrize("names", ["!127.0.0.1,*", "![127.0.0.1]:PORT,*", "localhost", "127.0.0.1"])
def test_a_line_about_others(server: sshd.Host, home: Path, names: str) -> None:
    text = f"{names.replace('PORT', str(server.port))} {blob(server, 'ed25519')}\n"
    known(home).write_text(text)
    if names == "!127.0.0.1,*":  # that is the name with port 22
        says_hello(node(server))
    else:
        assert "unknown host key" in refused(node(server)).message


def test_changed_keys(server: sshd.Host, home: Path, tmp_path: Path) -> None:
    name = f"[127.0.0.1]:{server.port}"
    known(home).unlink()
    mine = tmp_path / "known hosts"
    mine.write_text(f"{name} {server.key.with_suffix('.pub').read_text()}")
    error = refused(replace(node(server), known_hosts=mine))
    assert f"the host key of {name} has changed: it is SHA256:" in error.message
    assert error.hint is not None
    # What it says to run, run.
    subprocess.run(error.hint.split(": ", 1)[1], shell=True, check=True, capture_output=True)
    error = refused(replace(node(server), known_hosts=mine))
    assert error.message.startswith("unknown host key") and error.hint is not None
    subprocess.run(error.hint.split("same: ")[1], shell=True, check=True, capture_output=True)
    says_hello(replace(node(server), known_hosts=mine))
    mine.write_text(f"{name} ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTY=\n")
    assert (
        "it has none of the known kinds" in refused(replace(node(server), known_hosts=mine)).message
    )


def test_the_same_lines_match_as_for_ssh_keygen(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen: apt-get install openssh-client")
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO5t1kXQ6mGZ0k3CMJ1m5tTu5H5NdX0rXr7sWbJ4nJ0Z"
    file = tmp_path / "known"
    names = ["krg1", "krg12", "krg1.example.org", "[krg1]:2222", "10.0.0.1", "KRG1"]
    for hosts in ("krg1", "krg*", "krg?,!krg12", "*", "!krg1,*", "[krg1]:*", "krg1.*,10.0.0.?"):
        file.write_text(f"{hosts} {key}\n")
        (line,) = read_known_hosts(file)
        for name in names:
            found = subprocess.run(["ssh-keygen", "-F", name, "-f", file], capture_output=True)
            assert line.is_about(name.lower()) == bool(found.stdout), (hosts, name)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_known_hosts_file_is_read_or_refused(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "known"
        for content in (data, b"krg1 ssh-ed25519 " + data, b"@revoked |1|" + data):
            file.write_bytes(content)
            try:
                KnownKeys("krg1", [file], "x")
            except InputError as error:
                assert "known:" in error.message


def test_damaged_hashes_match_nothing() -> None:
    for hosts in ("|1|", "|1|a|b", "|1|AAAA|AAAA"):
        assert not Line("", hosts, "ssh-rsa", b"").is_about("krg1")
