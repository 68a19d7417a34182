# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision deploy and status against real sshd servers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .hosts import MENU_LST, RELEASE, Host, Hosts, make_build

pytestmark = pytest.mark.fleet

KERNEL = f"/boot/vmlinuz-{RELEASE}"
MENU = "/boot/grub/menu.lst"


# The hosts have this machine's C library and init, which are newer than the build's kernel.
FORCE = ("--force", "glibc", "--force", "init")


def deploy(
    hosts: Hosts, build: Path, *arguments: str, force: tuple[str, ...] = FORCE
) -> tuple[int, str, str]:
    done = hosts.run(
        "deploy", "--nodes", str(hosts.cluster), "--artifacts", str(build), *force, *arguments
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_check_then_deploy_then_nothing(hosts: Hosts, build: Path) -> None:
    before = [host.tree() for host in hosts.hosts]
    code, out, err = deploy(hosts, build, "--check")
    assert code == 1, out + err
    assert "krg[1-3]:" in out
    assert "+session=7" in out
    assert f"add {KERNEL} (20,000 bytes)" in out
    assert out.rstrip().endswith("3 nodes: 3 would change")
    assert [host.tree() for host in hosts.hosts] == before

    code, out, err = deploy(hosts, build)
    assert code == 0, out + err
    assert out.rstrip().endswith("3 nodes: 3 changed")
    for host in hosts.hosts:
        is_deployed(host, build)

    after = [host.tree() for host in hosts.hosts]
    code, out, err = deploy(hosts, build)
    assert (code, out.rstrip().splitlines()[-1]) == (0, "3 nodes: 3 unchanged"), out + err
    assert "krg[1-3]: nothing to change" in out
    assert [host.tree() for host in hosts.hosts] == after
    code, out, _ = deploy(hosts, build, "--check", "--format", "json")
    assert code == 0
    assert {node["state"] for node in json.loads(out)["nodes"]} == {"unchanged"}


def is_deployed(host: Host, build: Path) -> None:
    assert host.path(KERNEL).read_bytes() == (build / "vmlinuz").read_bytes()
    tree = host.path(f"/lib/modules/{RELEASE}")
    assert len(list(tree.rglob("*.ko"))) == 31
    assert not (tree / "build").is_symlink()
    assert host.path("/usr/local/bin/krgadm").stat().st_mode & 0o7777 == 0o755
    assert str(host.path("/usr/local/bin/migrate").readlink()) == "krgadm"
    assert (
        host.path("/etc/kerrighed_nodes").read_text()
        == "session=7\nnbmin=2\nkrg1:1:eth0\nkrg2:2:eth0\nkrg3:3:eth0\n"
    )
    assert "\nENABLE=true\n" in host.path("/etc/default/kerrighed").read_text()
    assert host.path("/etc/init.d/kerrighed").stat().st_mode & 0o111 == 0o111
    menu = host.path(MENU)
    assert menu.read_bytes().startswith(MENU_LST)
    assert menu.stat().st_mode & 0o7777 == 0o600
    line = f"kernel\t\t{KERNEL} root=/dev/hda1 session_id=7 node_id={host.number} panic=10 ro quiet"
    assert line.encode() + b"\n" in menu.read_bytes()
    copies = list(host.path("/var/lib/krg-provision/journal").rglob("menu.lst"))
    assert [copy.read_bytes() for copy in copies] == [MENU_LST]
    assert host.stages() == []


def test_only_what_differs_is_sent_and_files_keep_their_owner(host: Hosts, build: Path) -> None:
    assert deploy(host, build)[0] == 0
    node = host.hosts[0]
    node.path(f"/lib/modules/{RELEASE}/extra/kerrighed.ko").write_bytes(b"bit rot")
    settings = node.path("/etc/default/kerrighed")
    settings.write_text(settings.read_text().replace("ENABLE=true", "ENABLE=false"))
    settings.chmod(0o640)
    os.chown(settings, 1000, 1000)
    code, out, err = deploy(host, build, "--format", "json")
    assert code == 0, out + err
    changes = json.loads(out)["nodes"][0]["plan"]["changes"]
    assert [(c["path"], c["action"]) for c in changes] == [
        (f"/lib/modules/{RELEASE}/extra/kerrighed.ko", "replace"),
        ("/etc/default/kerrighed", "replace"),
    ]
    assert "-ENABLE=false\n+ENABLE=true" in changes[1]["diff"]
    status = settings.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o640, 1000, 1000)


def test_unknown_host_key_is_named_and_only_that_node_fails(hosts: Hosts, build: Path) -> None:
    stranger = hosts.hosts[1]
    hosts.known_hosts.write_text(
        "".join(f"{h.address} {h.host_key}\n" for h in hosts.hosts if h is not stranger)
    )
    public = hosts.directory / "stranger.pub"
    public.write_text(stranger.host_key + "\n")
    shown = subprocess.run(
        ["ssh-keygen", "-lf", str(public)], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    code, out, err = deploy(hosts, build)
    assert code == 1, out + err
    assert f"krg2: failed: unknown host key {shown} (ssh-ed25519) of 10.99.0.2" in out
    assert "ssh-keyscan -t ed25519 -p 22 10.99.0.2" in out
    assert "3 nodes: 2 changed, 1 failed" in out
    assert not stranger.path(KERNEL).exists()


def test_changed_host_key(host: Hosts, build: Path) -> None:
    host.known_hosts.write_text(
        f"{host.hosts[0].address} {host.key.with_suffix('.pub').read_text()}"
    )
    code, out, _ = deploy(host, build, "--check")
    assert code == 1
    assert "has changed: it is SHA256:" in out


def test_host_that_is_down_is_counted(hosts: Hosts, build: Path) -> None:
    hosts.hosts[0].stop_network()
    code, out, err = deploy(hosts, build)
    assert code == 1, out + err
    assert "krg1: failed: 10.99.0.1 port 22" in out
    assert "3 nodes: 2 changed, 1 failed" in out


@pytest.mark.parametrize("content", [None, "no key\n"])
def test_unusable_key_ends_before_any_node_is_asked(
    host: Hosts, build: Path, content: str | None
) -> None:
    host.key.unlink()
    if content is not None:
        host.key.write_text(content)
    code, out, err = deploy(host, build)
    assert (code, out) == (2, "")
    assert f"error: key {host.key}: " in err


def test_key_that_the_node_does_not_accept(host: Hosts, build: Path) -> None:
    other = host.directory / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(other)], check=True)
    host.cluster.write_text(host.cluster.read_text().replace(str(host.key), str(other)))
    code, out, _ = deploy(host, build)
    assert code == 1
    assert "krg1: failed: 10.99.0.1 port 22 does not let root in" in out


def test_user_who_cannot_become_root(host: Hosts, build: Path) -> None:
    host.write(node_extra='user = "user"\n')
    code, out, _ = deploy(host, build)
    assert code == 1
    assert "krg1: failed: " in out and "sudo" in out
    assert not host.hosts[0].path(KERNEL).exists()


def test_no_menu_lst(host: Hosts, build: Path) -> None:
    host.hosts[0].path(MENU).unlink()
    code, out, _ = deploy(host, build)
    assert code == 1
    assert f"krg1: failed: there is no {MENU}" in out
    assert not host.hosts[0].path(KERNEL).exists()
    assert deploy(host, build, "--no-bootloader")[0] == 0
    assert host.hosts[0].path(KERNEL).exists()
    assert not host.hosts[0].path(MENU).exists()


def test_menu_lst_that_is_a_link_is_edited_where_it_is(host: Hosts, build: Path) -> None:
    menu = host.hosts[0].path(MENU)
    menu.rename(menu.with_name("grub.conf"))
    menu.symlink_to("grub.conf")
    assert deploy(host, build)[0] == 0
    assert str(menu.readlink()) == "grub.conf"
    assert b"node_id=1" in menu.with_name("grub.conf").read_bytes()
    assert deploy(host, build, "--check")[0] == 0


def test_directory_in_the_way(host: Hosts, build: Path) -> None:
    host.hosts[0].path(KERNEL).mkdir()
    before = host.hosts[0].tree()
    code, out, _ = deploy(host, build)
    assert code == 1
    assert f"{KERNEL} is a directory" in out
    assert host.hosts[0].tree() == before


def test_too_little_space_is_seen_before_anything_is_sent(hosts: Hosts, tmp_path: Path) -> None:
    build = make_build(tmp_path / "large", bulk=4)
    node = hosts.hosts[1]
    node.mount("/lib/modules", "size=2m")
    before = node.tree()
    code, out, err = deploy(hosts, build)
    assert code == 1, out + err
    assert "krg2: failed: not enough space on /lib/modules: 4." in out
    assert "3 nodes: 2 changed, 1 failed" in out
    assert node.tree() == before


def test_node_that_could_not_run_the_build_is_refused(host: Hosts, build: Path) -> None:
    before = host.hosts[0].tree()
    code, out, err = deploy(host, build, force=())
    assert code == 1, out + err
    assert "krg1: failed: its C library /lib" in out and "--force glibc)" in out
    assert host.hosts[0].tree() == before
    code, out, err = deploy(host, build, "--no-bootloader", force=())
    assert code == 0, out + err
    assert "note: its C library" in out


def test_root_disk_and_its_drivers_are_found(host: Hosts, build: Path) -> None:
    node = host.hosts[0]
    number = int(host.ssh(node, "stat -c %d /").stdout)
    part = node.path("/sys/block/sda/sda3")
    part.mkdir(parents=True)
    (part / "dev").write_text(f"{os.major(number)}:{os.minor(number)}\n")
    disk = node.path("/sys/devices/pci0000:00/0000:00:1f.1/host0/target0:0:0/0:0:0:0")
    disk.mkdir(parents=True)
    (disk / "driver").symlink_to("/sys/bus/scsi/drivers/sd")
    (disk.parents[2] / "driver").symlink_to("/sys/bus/pci/drivers/pata_via")
    node.path("/sys/block/sda/device").symlink_to(
        "../../devices/pci0000:00/0000:00:1f.1/host0/target0:0:0/0:0:0:0"
    )
    menu = node.path(MENU)
    menu.write_bytes(MENU_LST.replace(b"root=/dev/hda1", b"root=UUID=12-34"))
    code, out, err = deploy(host, build)
    assert code == 1, out + err
    assert "its root disk /dev/sda3 is driven by pata_via" in out
    host.write(node_extra='root = "/dev/hda3"\n')
    assert deploy(host, build)[0] == 0
    assert b" root=/dev/hda3 session_id=7" in menu.read_bytes()


def test_stale_menu_beside_grub_2(host: Hosts, build: Path) -> None:
    host.hosts[0].path("/boot/grub/grub.cfg").write_text("menuentry x {}\n")
    code, out, _ = deploy(host, build)
    assert code == 1
    assert "it is not known which boots the node" in out
    assert deploy(host, build, "--no-bootloader")[0] == 0


def test_saved_default_out_of_range(host: Hosts, build: Path) -> None:
    node = host.hosts[0]
    node.path(MENU).write_bytes(MENU_LST.replace(b"default\t\t0", b"default saved"))
    node.path("/boot/grub/default").write_bytes(b"3\0\n#\n#\n")
    code, out, _ = deploy(host, build)
    assert code == 1
    assert "the saved default is 3, but the entries are 0 to 2" in out
    node.path("/boot/grub/default").write_bytes(b"2\0\n#\n#\n")
    assert deploy(host, build)[0] == 0


def test_what_was_in_usr_local_is_kept(host: Hosts, build: Path) -> None:
    node = host.hosts[0]
    node.path("/usr/local/bin").mkdir(parents=True, exist_ok=True)
    node.path("/usr/local/bin/krgadm").write_text("mine\n")
    node.path("/usr/local/bin/migrate").symlink_to("elsewhere")
    code, out, err = deploy(host, build)
    assert code == 0, out + err
    assert "replace /usr/local/bin/krgadm (" in out and "the old one is kept" in out
    (kept,) = node.path("/var/lib/krg-provision/journal").glob("*/files/usr/local/bin")
    assert (kept / "krgadm").read_text() == "mine\n"
    assert str((kept / "migrate").readlink()) == "elsewhere"
    assert node.stages() == []


def test_user_and_port_of_the_ssh_configuration_apply(
    host: Hosts, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where nothing is said it is root, not the person at this machine.
    monkeypatch.setenv("LOGNAME", "nobody")
    assert deploy(host, build, "--no-bootloader")[0] == 0
    settings = Path(host.environment()["HOME"]) / ".ssh"
    settings.mkdir()
    node = host.hosts[0]
    (settings / "config").write_text(f"Host {node.address}\n  User user\n  Port 2222\n")
    code, out, _ = deploy(host, build)
    assert code == 1
    assert f"{node.address} port 2222 " in out
    (settings / "config").write_text(f"Host {node.address}\n  User user\n")
    (settings / "known_hosts").write_text("# mine\n10.0.0.1 ssh-rsa AAAAB3NzaC1yc!\n")
    assert "/.ssh/known_hosts:2: not a host key" in deploy(host, build)[1]
    (settings / "known_hosts").unlink()
    assert "sudo" in deploy(host, build)[1]
    host.write(node_extra='user = "root"\nport = 22\n')
    assert deploy(host, build)[0] == 0


def test_init_script_starts_nothing_under_another_kernel(hosts: Hosts, build: Path) -> None:
    assert deploy(hosts, build)[0] == 0
    for host in hosts.hosts:
        started = hosts.ssh(host, "/etc/init.d/kerrighed start")
        assert (started.returncode, started.stderr) == (0, "")
        assert "not started" in started.stdout
        assert hosts.ssh(host, "/etc/init.d/kerrighed status").returncode == 3
        host.path("/etc/default/kerrighed").write_text("ENABLE=TRUE\n")
        refused = hosts.ssh(host, "/etc/init.d/kerrighed start")
        assert refused.returncode == 1
        assert "true or false, not 'TRUE'" in refused.stderr


def test_status(hosts: Hosts, build: Path) -> None:
    assert deploy(hosts, build)[0] == 0
    # What a loaded module shows; there is no such kernel under these hosts.
    for host, session in zip(hosts.hosts[:2], (7, 9), strict=True):
        host.path("/sys/kerrighed").mkdir()
        host.path("/sys/kerrighed/node_id").write_text(f"{host.number}\n")
        host.path("/sys/kerrighed/session_id").write_text(f"{session}\n")
    (hosts.hosts[1].path(KERNEL)).write_bytes(b"another")
    hosts.hosts[2].stop_network()
    arguments = ("status", "--nodes", str(hosts.cluster), "--artifacts", str(build))
    done = hosts.run(*arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    kernel = os.uname().release
    assert lines[0][:3] == ["NODE", "REACHED", "KERNEL"]
    assert lines[1] == ["krg1", "yes", kernel, "1", "7", "-", "-", "installed"]
    assert lines[2] == ["krg2", "yes", kernel, "2", "9", "-", "-", "1", "file", "differs"]
    assert lines[3][:2] == ["krg3", "no"]
    assert "krg2: runs in session 9, the cluster file says 7" in done.stdout
    nodes = json.loads(hosts.run(*arguments, "--format", "json").stdout)["nodes"]
    assert [node["reached"] for node in nodes] == [True, True, False]
    assert [node["node_id"] for node in nodes] == [1, 2, None]


def test_status_of_a_node_that_hangs_keeps_what_it_said(host: Hosts, build: Path) -> None:
    # A file that never answers, as on a node whose cluster has lost a member.
    host.hosts[0].path("/sys/kerrighed").mkdir()
    os.mkfifo(host.hosts[0].path("/sys/kerrighed/node_id"))
    done = host.run(
        "status", "--nodes", str(host.cluster), "--artifacts", str(build), "--timeout", "2"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.splitlines()[1].split()[:3] == ["krg1", "yes", os.uname().release]
    assert "krg1: stopped answering" in done.stdout


def test_jump_hosts_keys_are_verified_too(hosts: Hosts, build: Path) -> None:
    jump, node = hosts.hosts[0], hosts.hosts[1]
    hosts.hosts[:], everyone = [node], list(hosts.hosts)
    hosts.write()
    settings = Path(hosts.environment()["HOME"]) / ".ssh"
    settings.mkdir()
    (settings / "config").write_text(
        f"Host {node.address}\n  ProxyJump root@{jump.address}\n"
        f"Host *\n  IdentityFile {hosts.key}\n"
    )
    code, out, _ = deploy(hosts, build)
    known, cluster = hosts.known_hosts.read_text(), hosts.cluster.read_text()
    hosts.hosts[:] = everyone
    assert code == 1
    assert f"(ssh-ed25519) of {jump.address}" in out
    assert f"ssh-keyscan -t ed25519 -p 22 {jump.address} >>" in out
    hosts.cluster.write_text(cluster)
    hosts.known_hosts.write_text(known + f"{jump.address} {jump.host_key}\n")
    code, out, err = deploy(hosts, build)
    assert code == 0, out + err
    assert "1 node: 1 changed" in out


def test_a_node_known_to_be_as_wanted_is_asked_again_when_anything_changed(
    host: Hosts, build: Path
) -> None:
    """The short look, by seal, takes the same things for changes as the long one."""
    node = host.hosts[0]

    def state() -> str:
        code, out, err = deploy(host, build, "--check", "--format", "json")
        (found,) = json.loads(out)["nodes"]
        assert (code, found["state"]) in ((0, "unchanged"), (1, "would change")), out + err
        return str(found["state"])

    assert deploy(host, build)[0] == 0
    assert state() == "unchanged"
    (kept,) = (host.directory / "home").rglob("unchanged.json")
    seals = json.loads(kept.read_text())["nodes"]
    assert list(seals) == ["krg1"]
    # From here on every look that is not short is seen.
    shim, looks = node.path("/usr/local/sbin/id"), node.path("/run/looks")
    shim.parent.mkdir(exist_ok=True)
    shim.write_text('#!/bin/sh\necho >>/run/looks\nexec /usr/bin/id "$@"\n')
    shim.chmod(0o755)
    assert state() == "unchanged" and not looks.exists()
    module = node.path(f"/lib/modules/{RELEASE}/extra/kerrighed.ko")
    link, settings = node.path("/usr/local/bin/migrate"), node.path("/etc/default/kerrighed")
    started = node.path("/etc/rc2.d")

    def flip(path: Path) -> Callable[[], None]:
        def change() -> None:
            there = path.stat()
            content = path.read_bytes()
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
            # Not by its time, either.
            os.utime(path, ns=(there.st_atime_ns, there.st_mtime_ns))

        return change

    def relink() -> None:
        target = "krgadm" if str(link.readlink()) != "krgadm" else "krgbdm"
        link.unlink()
        link.symlink_to(target)

    def stop() -> None:
        for entry in started.glob("S??kerrighed"):
            entry.rename(started / f"K80{entry.name}")
            return
        for entry in started.glob("K80S??kerrighed"):
            entry.rename(started / entry.name.removeprefix("K80"))

    cases: list[tuple[Callable[[], None], Callable[[], None]]] = [
        (flip(module), flip(module)),
        (flip(settings), flip(settings)),
        (lambda: module.chmod(0o600), lambda: module.chmod(0o644)),
        (lambda: settings.chmod(0o600), lambda: settings.chmod(0o644)),
        (relink, relink),
        (flip(node.path("/boot/grub/menu.lst")), flip(node.path("/boot/grub/menu.lst"))),
        (lambda: module.rename(module.with_suffix(".x")),
         lambda: module.with_suffix(".x").rename(module)),
        (stop, stop),
    ]  # fmt: skip
    found = []
    for change, back in cases:
        change()
        looks.unlink(missing_ok=True)
        found.append((state(), json.loads(kept.read_text())["nodes"]))
        assert looks.exists()
        back()
        # Looked at whole once more; the same state has the same seal.
        assert state() == "unchanged" and json.loads(kept.read_text())["nodes"] == seals
    # A text's mode is its owner's business, but for who may run it; a menu that another entry
    # was changed in keeps ours; an init script started in other runlevels is started.
    assert [word for word, _ in found] == [
        "would change", "would change", "would change", "unchanged", "would change",
        "unchanged", "would change", "unchanged",
    ]  # fmt: skip
    # None of them was taken for the state that is remembered.
    assert all(nodes != seals for _, nodes in found)
    # What else a plan is made from is no node's, and under the key.
    host.cluster.write_text(host.cluster.read_text().replace("session = 7", "session = 8"))
    assert state() == "would change"
