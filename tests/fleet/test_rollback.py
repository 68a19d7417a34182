# SPDX-License-Identifier: GPL-2.0-or-later
"""krg-provision rollback against real sshd servers."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from provision import module

from .hosts import MENU_LST, RELEASE, Host, Hosts, make_build
from .test_deploy import KERNEL, MENU, deploy
from .test_interrupted import on_move

pytestmark = pytest.mark.fleet

JOURNALS = "/var/lib/krg-provision/journal"


def rollback(hosts: Hosts, *arguments: str) -> tuple[int, str, str]:
    done = hosts.run("rollback", "--nodes", str(hosts.cluster), *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def tree(host: Host) -> dict[str, tuple[int, int, int, bytes]]:
    """Return mode, owner and content of everything but our own notes."""
    found = {}
    for name, (mode, content) in host.tree().items():
        if not name.startswith("var/lib"):
            status = (host.root / name).lstat()
            found[name] = (mode, status.st_uid, status.st_gid, content)
    return found


def runs(host: Host) -> list[str]:
    """Return the states of a host's journals, in the order in which they were written."""
    found = {}
    for place in host.path(JOURNALS).iterdir():
        assert not place.name.startswith(".")
        (number,) = re.findall(r"^number (\d+)$", (place / "about").read_text(), re.M)
        found[int(number)] = (place / "state").read_text().strip()
    return [found[number] for number in sorted(found)]


def test_deploy_and_back(hosts: Hosts, build: Path) -> None:
    for host in hosts.hosts:
        settings = host.path("/etc/default/kerrighed")
        settings.write_text("ENABLE=false\n# mine\n")
        settings.chmod(0o640)
        os.chown(settings, 1000, 1000)
        host.path("/usr/local/bin").mkdir()
        host.path("/usr/local/bin/krgadm").write_text("mine\n")
        host.path("/usr/local/bin/migrate").symlink_to("else where")
    before = [tree(host) for host in hosts.hosts]
    assert deploy(hosts, build)[0] == 0
    after = [tree(host) for host in hosts.hosts]

    code, out, err = rollback(hosts, "--check")
    assert code == 1, out + err
    assert f"remove {KERNEL} (20,000 bytes)" in out
    assert "restore /usr/local/bin/krgadm" in out and "+# mine" in out
    assert "takes back the deploy of kerrighed-test x86_64" in out
    assert [tree(host) for host in hosts.hosts] == after

    code, out, err = rollback(hosts)
    assert code == 0, out + err
    assert out.rstrip().endswith("3 nodes: 3 changed")
    assert [tree(host) for host in hosts.hosts] == before
    assert all(host.stages() == [] for host in hosts.hosts)
    assert all(runs(host) == ["rolled-back", "done"] for host in hosts.hosts)
    code, out, err = rollback(hosts)
    assert code == 0, out + err
    assert "krg[1-3]: nothing to take back" in out
    code, out, _ = rollback(hosts, "--list")
    assert code == 0 and "krg[1-3]:\n" in out and "  rolled-back  deploy " in out

    # Forwards again, as if nothing had been.
    assert deploy(hosts, build)[0] == 0
    assert [tree(host) for host in hosts.hosts] == after


def test_settings_of_another_module_come_back_with_a_diff(host: Hosts, tmp_path: Path) -> None:
    node = host.hosts[0]
    script, settings = node.path("/etc/init.d/other"), node.path("/etc/other_nodes")
    script.write_text("#!/bin/sh\n# mine\n")
    before = tree(node)
    kerrighed = module.kerrighed()
    files = (
        module.File("/etc/init.d/other", "module.init.j2", "0755"),
        module.File("/etc/other_nodes", "kerrighed_nodes.j2"),
    )
    other = replace(kerrighed, name="other", title="Other", files=files)
    made = make_build(tmp_path / "other", module=other)
    assert deploy(host, made)[0] == 0
    assert settings.exists() and "# mine" not in script.read_text()
    code, out, err = rollback(host, "--check")
    assert code == 1, out + err
    assert "+# mine" in out and "-PATH=/usr/local/sbin" in out
    assert "remove /etc/other_nodes (" in out
    assert rollback(host)[0] == 0
    assert tree(node) == before


def test_the_last_run_or_all_since_a_date(host: Hosts, build: Path, tmp_path: Path) -> None:
    node = host.hosts[0]
    states = [tree(node)]
    second = make_build(tmp_path / "second")
    for made in (build, second):
        assert deploy(host, made)[0] == 0
        states.append(tree(node))
    first = json.loads(rollback(host, "--list", "--format", "json")[1])["nodes"][0]["runs"][0]
    assert first["state"] == "done" and first["kernel_release"] == RELEASE
    # The kernel that was replaced comes back too.
    assert rollback(host)[0] == 0
    assert tree(node) == states[1]
    assert deploy(host, second)[0] == 0
    code, out, err = rollback(host, "--to", "29991231")
    assert code == 0 and "nothing to take back" in out, out + err
    assert rollback(host, "--to", "tomorrow")[0] == 2
    code, out, err = rollback(host, "--to", first["date"])
    assert code == 0, out + err
    assert tree(node) == states[0]


def test_what_somebody_changed_is_not_overwritten(host: Hosts, build: Path) -> None:
    node = host.hosts[0]
    before = tree(node)
    assert deploy(host, build)[0] == 0
    settings = node.path("/etc/default/kerrighed")
    settings.write_text(settings.read_text() + "# mine\n")
    after = tree(node)
    code, out, err = rollback(host)
    assert code == 1, out + err
    assert "krg1: failed: /etc/default/kerrighed was changed since 2" in out
    assert "--force changed" in out
    assert tree(node) == after
    code, out, err = rollback(host, "--force", "changed")
    assert code == 0, out + err
    assert tree(node) == before
    (kept,) = node.path(JOURNALS).glob("*/files/etc/default/kerrighed")
    assert kept.read_text().endswith("# mine\n")


def test_menu_that_update_grub_wrote_since_keeps_its_kernels(host: Hosts, build: Path) -> None:
    node = host.hosts[0]
    old = node.path(MENU).read_bytes()
    assert deploy(host, build)[0] == 0
    text = node.path(MENU).read_bytes()
    node.path(MENU).write_bytes(text.replace(b"2.6.26-2-686", b"2.6.26-3-686"))
    code, out, err = rollback(host)
    assert code == 0, out + err
    assert "only our entry is taken out" in out
    assert node.path(MENU).read_bytes() == old.replace(b"2.6.26-2-686", b"2.6.26-3-686")
    assert not node.path(KERNEL).exists()


def test_former_entries_come_back_into_a_menu_that_update_grub_wrote_since(
    host: Hosts, build: Path, tmp_path: Path
) -> None:
    node = host.hosts[0]
    assert deploy(host, build)[0] == 0
    first = node.path(MENU).read_bytes()
    other = make_build(tmp_path / "other", release="2.6.20-krg-other")
    assert deploy(host, other)[0] == 0
    second = node.path(MENU).read_bytes()
    assert first != second
    old, new = b"2.6.26-2-686", b"2.6.26-3-686"
    node.path(MENU).write_bytes(second.replace(old, new))
    code, out, err = rollback(host, "--check")
    assert code == 1, out + err
    assert f"+title\t\tKerrighed {RELEASE} " in out and "-title\t\tKerrighed 2.6.20-krg-ot" in out
    assert "becomes the former one" in out and "686" not in re.sub(r"(?m)^ .*", "", out)
    code, out, err = rollback(host)
    assert code == 0, out + err
    assert node.path(MENU).read_bytes() == first.replace(old, new)
    assert node.path(KERNEL).exists()
    # And that one as well, to where nothing of ours was.
    assert rollback(host)[0] == 0
    assert node.path(MENU).read_bytes() == MENU_LST.replace(old, new)
    assert not node.path(KERNEL).exists()


@pytest.mark.parametrize("saved", [False, True])
def test_our_entry_as_the_default_gives_way(host: Hosts, build: Path, saved: bool) -> None:
    """Whoever made it so: a good entry is the default again before ours goes."""
    node = host.hosts[0]
    menu = node.path(MENU)
    if saved:
        menu.write_bytes(menu.read_bytes().replace(b"default\t\t0", b"default saved"))
    before = menu.read_bytes()
    assert deploy(host, build)[0] == 0
    if saved:
        node.path("/boot/grub/default").write_bytes(b"3\0\n#\n")
    else:
        menu.write_bytes(menu.read_bytes().replace(b"default\t\t0", b"default\t\t3"))
    code, out, err = rollback(host)
    assert code == 0, out + err
    assert "only our entry is taken out" in out
    assert menu.read_bytes() == before
    if saved:
        assert node.path("/boot/grub/default").read_bytes().startswith(b"0\n")
    assert not node.path(KERNEL).exists()


def test_no_kernel_that_runs_is_removed(host: Hosts, build: Path) -> None:
    node = host.hosts[0]
    assert deploy(host, build)[0] == 0
    # The build as if it were of the kernel that runs here.
    running = f"/boot/vmlinuz-{os.uname().release}"
    (paths,) = node.path(JOURNALS).glob("*/paths")
    paths.write_text(paths.read_text().replace(KERNEL, running))
    node.path(KERNEL).rename(node.path(running))
    before = tree(node)
    code, out, _ = rollback(host)
    assert code == 1, out
    assert f"{os.uname().release} is the kernel that runs there: boot another entry first" in out
    assert tree(node) == before


def test_interrupted_deploy_is_found_finished_and_taken_back(host: Hosts, build: Path) -> None:
    node = host.hosts[0]
    before = tree(node)
    on_move(node, f'case "$*" in *"/vmlinuz-{RELEASE} /boot/") kill -9 $PPID ;; esac')
    assert deploy(host, build)[0] == 1
    assert runs(node) == ["begun"]
    node.path("/usr/local/sbin/mv").unlink()
    node.path("/usr/local/sbin").rmdir()
    assert "begun" in rollback(host, "--list")[1]
    assert deploy(host, build)[0] == 0
    assert runs(node) == ["begun", "done"] and node.stages() == []
    code, out, err = rollback(host)
    assert code == 0, out + err
    assert "which was interrupted" in out
    assert tree(node) == before
    assert runs(node) == ["rolled-back", "rolled-back", "done"]


def test_file_that_is_only_read_is_looked_at_again(host: Hosts, build: Path) -> None:
    """What the saved default was when the plan was made decides, though it is not written."""
    node = host.hosts[0]
    node.path("/boot/grub/default").write_bytes(b"0\n#\n")
    tar = node.path("/usr/local/sbin/tar")
    tar.parent.mkdir(parents=True)
    tar.write_text('#!/bin/sh\necho 1 >/boot/grub/default\nexec /bin/tar "$@"\n')
    tar.chmod(0o755)
    code, out, err = deploy(host, build)
    assert code == 1, out + err
    assert "krg1: skipped: /boot/grub/default was changed since the plan was made" in out
    assert not node.path(KERNEL).exists() and node.stages() == []
    assert list(node.path(JOURNALS).iterdir()) == []


@pytest.mark.slow
def test_only_the_newest_runs_are_kept(host: Hosts, tmp_path: Path) -> None:
    node = host.hosts[0]
    build = make_build(tmp_path / "build")
    for number in range(7):
        assert deploy(host, build)[0] == 0
        node.path("/etc/default/kerrighed").write_text(f"# {number}\n")
    assert runs(node) == ["done"] * 5
