# SPDX-License-Identifier: GPL-2.0-or-later
"""sudo with and without a password, and jump hosts: real sudo, PAM and sshd."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .hosts import RELEASE, Host, Hosts
from .test_deploy import FORCE

pytestmark = pytest.mark.fleet

PASSWORD = 'it\'s "$(reboot)" \\ % \u00e9'
KERNEL = f"/boot/vmlinuz-{RELEASE}"


def give_sudo(host: Host, rule: str) -> None:
    """Let the host's user run commands by sudo, its password being PASSWORD."""
    if shutil.which("sudo") is None or shutil.which("openssl") is None:
        pytest.skip("no sudo or openssl here: apt-get install sudo openssl")
    made = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"],
        input=PASSWORD + "\n", capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    host.path("/etc/shadow").write_text(f"root:*:19000::::::\nuser:{made}:19000::::::\n")
    host.path("/etc/shadow").chmod(0o600)
    sudoers = host.path("/etc/sudoers")
    sudoers.write_text(f"Defaults passwd_tries=2,!fqdn\nDefaults passwd_timeout=1\n{rule}\n")
    sudoers.chmod(0o440)
    host.path("/etc/pam.d").mkdir()
    host.path("/etc/pam.d/sudo").write_text(
        "auth required pam_unix.so\naccount required pam_unix.so\nsession required pam_permit.so\n"
    )


def deploy(
    hosts: Hosts, build: Path, *arguments: str, password: str | None = None
) -> tuple[int, str, str]:
    environment = hosts.environment()
    environment.pop("KRG_SUDO_PASSWORD", None)
    if password is not None:
        environment["KRG_SUDO_PASSWORD"] = password
    done = subprocess.run(
        hosts.argv(
            "deploy", "--nodes", str(hosts.cluster), "--artifacts", str(build), *FORCE, *arguments
        ),
        env=environment, cwd=hosts.directory, capture_output=True, text=True, timeout=120,
        start_new_session=True,  # no terminal to ask on
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert "Traceback" not in said and PASSWORD not in said and "wrong" not in said, said
    return done.returncode, done.stdout, done.stderr


# What the node's user sees of the processes there while the script runs.
LOOK = f"""
import os, sys
from pathlib import Path
from provision.cluster import Node
from provision.ssh import Shell
os.environ["KRG_SUDO_PASSWORD"] = {PASSWORD!r}
node = Node("krg1", 1, sys.argv[1], user="user", sudo="ask", key=Path(sys.argv[2]),
            known_hosts=Path(sys.argv[3]))
with Shell(node) as shell:
    for _ in range(2):
        done = shell.run("id -u; cat; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ",
                         label="look", send=lambda pipe: pipe.write(b"the input\\n"))
        assert done.status == 0, done
        assert done.out.startswith(b"0\\nthe input\\n"), done
        assert b"sudo" in done.out
        # Not on the command line: what it says would come before sudo was done with.
        assert b"dd bs=" in done.out
        assert {PASSWORD!r}.encode() not in done.out + done.err
        assert b"KRG_SUDO" not in done.out
assert "KRG_SUDO_PASSWORD" not in os.environ
"""


@pytest.mark.parametrize(
    "rule", ["user ALL=(ALL) ALL", "user ALL=(ALL) NOPASSWD: ALL"], ids=["asks", "does not ask"]
)
def test_sudo_with_a_password(host: Hosts, build: Path, rule: str) -> None:
    node = host.hosts[0]
    give_sudo(node, rule)
    host.write(node_extra='user = "user"\nsudo = "ask"\n')
    code, out, err = deploy(host, build, password=PASSWORD)
    assert code == 0, out + err
    assert node.path(KERNEL).read_bytes() == (build / "vmlinuz").read_bytes()
    assert deploy(host, build, "--check", password=PASSWORD)[0] == 0
    subprocess.run(
        host.client.command(
            sys.executable, "-c", LOOK, node.address, str(host.key),
            str(host.known_hosts),
        ),
        env=host.environment(), check=True,
    )  # fmt: skip


def test_the_password_is_asked_for_once_and_not_shown(hosts: Hosts, build: Path) -> None:
    for node in hosts.hosts[:2]:
        give_sudo(node, "user ALL=(ALL) ALL")
    hosts.hosts[2:] = []
    hosts.write(node_extra='user = "user"\nsudo = "ask"\n')
    argv = hosts.argv("status", "--nodes", "cluster.toml", "--artifacts", str(build))
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(hosts.directory)
        os.execvpe(argv[0], argv, {**hosts.environment(), "TERM": "dumb"})
    said = b""
    with contextlib.suppress(OSError):  # what Linux says at the end of a terminal
        while data := os.read(terminal, 1 << 16):
            said += data
            if said.endswith(b"on the nodes: "):
                os.write(terminal, PASSWORD.encode() + b"\n")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    assert status == 0, said.decode()
    assert said.count(b"Password") == 1 and PASSWORD.encode() not in said
    assert said.count(b"not installed") == 2


def test_sudo_that_refuses(hosts: Hosts, build: Path) -> None:
    for node in hosts.hosts[:2]:
        give_sudo(node, "user ALL=(ALL) ALL")
    give_sudo(hosts.hosts[2], "root ALL=(ALL) ALL")
    hosts.hosts[2:] = []
    hosts.write(node_extra='user = "user"\nsudo = "ask"\n')
    code, out, err = deploy(hosts, build, password="wrong")
    assert code == 1, out + err
    # One node only has seen the wrong password.
    assert out.count(": sudo on krg") == 1 or out.count("sudo on krg") == 2, out
    assert "not tried: sudo on krg" in out
    assert "refuses the password" in out
    code, out, err = deploy(hosts, build)
    assert (code, out) == (2, "")
    assert "there is no terminal to ask" in err and "KRG_SUDO_PASSWORD" in err
    # Without being told to ask.
    hosts.write(node_extra='user = "user"\n')
    code, out, err = deploy(hosts, build)
    assert code == 1 and "a password is required" in out and 'sudo = "ask"' in out
    assert not hosts.hosts[0].path(KERNEL).exists()


def test_a_user_who_may_not(host: Hosts, build: Path) -> None:
    give_sudo(host.hosts[0], "root ALL=(ALL) ALL")
    host.write(node_extra='user = "user"\nsudo = "ask"\n')
    code, out, err = deploy(host, build, password=PASSWORD)
    assert code == 1, out + err
    assert "user cannot become root: user is not in the sudoers file" in out


def test_jump_hosts_in_the_cluster_file(hosts: Hosts, build: Path) -> None:
    """The nodes are reached through two others only, of which one has another user."""
    first, second, node = hosts.hosts
    hosts.write(node_extra=f'jump = "user@{first.address},root@{second.address}"\n')
    text = hosts.cluster.read_text()
    parts = text.split("\n[[node]]\n")
    hosts.cluster.write_text("\n[[node]]\n".join([parts[0].replace("= 2", "= 1"), parts[3]]))
    # Straight ahead there is no way.
    node.space.run("ip", "route", "add", "blackhole", "10.99.255.254/32")
    code, out, err = deploy(hosts, build)
    assert code == 0, out + err
    assert node.path(KERNEL).read_bytes() == (build / "vmlinuz").read_bytes()
    assert not first.path(KERNEL).exists() and not second.path(KERNEL).exists()


def test_a_node_set_changes_those_nodes_alone(hosts: Hosts, build: Path) -> None:
    done = hosts.run(
        "deploy", "--nodes", "krg[1-3]", "--exclude", "krg2", "--artifacts", str(build), *FORCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nkrg[1,3]:\n" in done.stdout and "2 nodes: 2 changed" in done.stdout
    assert not hosts.hosts[1].path(KERNEL).exists()
    for number in (0, 2):
        text = hosts.hosts[number].path("/etc/kerrighed_nodes").read_text()
        assert text.endswith("krg1:1:eth0\nkrg2:2:eth0\nkrg3:3:eth0\n")
    done = hosts.run("status", "--nodes", "krg2", "--artifacts", str(build))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 2 and "not installed" in done.stdout
