# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes with a disk, as far as it needs no node: state, ports, cluster file, bad input."""

from __future__ import annotations

import dataclasses
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from conftest import Command

from provision.cluster import read_cluster
from provision.data import render
from provision.errors import FailedError, InputError, MissingError
from provision.lab import disk_image, disk_loader, disk_node, fault, lifecycle, qemu, state
from provision.lab.state import Lab, LabNode

UUID = "6c1e7f0e-8a35-4d6f-9a4b-0f4f3f3f9e55"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def lab_of(name: str, bootloader: str = "legacy") -> Lab:
    nodes = (LabNode(1, UUID, 22001), LabNode(2, UUID, 22002))
    made = Lab(name, 7, "/b", "x86_64", "2.6.20-krg", 256, "tcg", 1.0, nodes, bootloader)
    made.directory.mkdir(parents=True)
    return made


def test_written_and_read() -> None:
    lab = lab_of("one")
    state.save(lab)
    assert state.load("one") == lab
    assert state.cluster_file("one") == lab.directory / "cluster.toml"


def test_a_lab_without_disks_has_no_cluster_file() -> None:
    state.save(lab_of("one", "none"))
    with pytest.raises(InputError, match="no boot loader and no SSH"):
        state.cluster_file("one")
    with pytest.raises(InputError, match="no lab two is up"):
        state.cluster_file("two")


def test_the_state_of_an_older_program_is_read() -> None:
    lab = lab_of("one", "none")
    state.save(lab)
    path = lab.directory / "lab.json"
    text = path.read_text().replace(',\n "bootloader": "none"', "")
    path.write_text(text.replace(',\n   "port": 22001', "").replace(',\n   "port": 22002', ""))
    assert "port" not in path.read_text() and "bootloader" not in path.read_text()
    found = state.load("one")
    assert found is not None and not found.has_disks and found.nodes[0].port == 0


@pytest.mark.parametrize("name", ["krg", "lab2", "1", "a-", "x" * 31])
def test_the_cluster_file_is_one(name: str) -> None:
    lab = lab_of(name)
    nodes = [
        {"name": disk_node.node_name(lab, node.number), "id": node.number, "port": node.port}
        for node in lab.nodes
    ]
    values = {"root": disk_node._root("CONFIG_BLK_DEV_IDEDISK=y\n"), "release": "kerrighed-2.4.4"}
    text = render("lab_cluster_toml.j2", lab=lab, nodes=nodes, key="k", known_hosts="h", **values)
    lab.cluster_file.write_text(text)
    found = read_cluster(lab.cluster_file)
    assert (found.session, found.nbmin, found.arch) == (7, 2, "x86_64")
    assert [(n.id, n.port, n.root, n.interface) for n in found.nodes] == [
        (1, 22001, "/dev/hda1", "eth1"),
        (2, 22002, "/dev/hda1", "eth1"),
    ]
    assert found.nodes[0].key == lab.directory / "k"
    assert found.release == "kerrighed-2.4.4"
    # Of a kernel without the old IDE drivers the same disk is SCSI's.
    assert disk_node._root("CONFIG_ATA_PIIX=y\n") == "sda1"


def test_ports_that_are_taken_are_left_alone() -> None:
    first = lifecycle._ports("one", 3)
    assert len(set(first)) == 3 and all(22000 <= port < 30000 for port in first)
    assert lifecycle._ports("one", 3) == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first[1]))
        taken.listen()
        assert first[1] not in lifecycle._ports("one", 3)


def test_qemu_gets_two_cards_and_no_way_out() -> None:
    lab = lab_of("one")
    words = qemu.arguments(lab, lab.nodes[0], qemu.disk_boot(lab, lab.nodes[0]))
    cards = [word for word in words if word.startswith("e1000,")]
    macs = [part for card in cards for part in card.split(",") if part.startswith("mac=")]
    assert len(set(macs)) == 2
    assert "user,id=management,restrict=on,hostfwd=tcp:127.0.0.1:22001-:22" in words
    assert "-kernel" not in words and "-no-reboot" not in words


def test_faults_that_cannot_be() -> None:
    lab = lab_of("one", "none")
    lab.path(lab.nodes[0]).mkdir()
    with pytest.raises(InputError, match="no such fault; there are panic, hang"):
        fault.inflict(lab, lab.nodes[0], "flood")
    with pytest.raises(InputError, match="have no disks"):
        fault.inflict(lab, lab.nodes[0], "powercut")
    with pytest.raises(FailedError, match="does not run"):
        fault.inflict(lab, lab.nodes[0], "netcut")


def test_bad_input_is_one_line(krg: Command) -> None:
    for words, status, said in (
        (["ssh", "1"], 2, "no lab krg is up"),
        (["fault", "1", "panic"], 2, "no lab krg is up"),
        (["fault", "1", "flood"], 2, "'flood' is not one of"),
        (["up", "--bootloader", "lilo"], 2, "'lilo' is not one of"),
    ):
        done = krg("lab", *words)
        assert (done.returncode, said in done.stderr) == (status, True), done.stderr
        assert "Traceback" not in done.stderr


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, **_: None if name == "qemu-img" else name)
    with pytest.raises(MissingError, match="qemu-img") as caught:
        disk_image.check_tools()
    assert "apt-get install qemu-utils" in str(caught.value.hint)


def test_files_of_a_boot_loader_have_their_sizes() -> None:
    assert len(disk_loader.saved_number(0)) == len(disk_loader.saved_number(12)) == 190
    assert disk_loader.saved_number(12).startswith(b"12\n#\n")
    assert len(disk_loader.environment_block({"next_entry": "x"})) == 1024


@pytest.mark.skipif(shutil.which("grub-editenv") is None, reason="apt-get install grub-common")
def test_the_environment_block_is_grub_s(tmp_path: Path) -> None:
    path = tmp_path / "grubenv"
    path.write_bytes(disk_loader.environment_block({"next_entry": "Kerrighed (node 1)"}))
    listed = subprocess.run(["grub-editenv", path, "list"], capture_output=True, text=True)
    assert listed.stdout == "next_entry=Kerrighed (node 1)\n"


@pytest.mark.skipif(shutil.which("grub-script-check") is None, reason="apt-get install grub-common")
def test_grub_cfg_is_a_script(tmp_path: Path) -> None:
    path = tmp_path / "grub.cfg"
    path.write_text(render("lab_grub_cfg.j2", release="6.1.0-9-amd64", arguments="root=/dev/sda1"))
    subprocess.run(["grub-script-check", path], check=True)


def test_disks_go_with_the_lab() -> None:
    lab = lab_of("one")
    state.save(lab)
    for node in lab.nodes:
        lab.path(node).mkdir()
        (lab.path(node) / "disk.qcow2").touch()
        (lab.path(node) / "console.log").touch()
    for name in ("id_ed25519", "known_hosts", "cluster.toml"):
        (lab.directory / name).touch()
    assert dataclasses.asdict(lab)["bootloader"] == "legacy"
    lifecycle.down("one")
    left = {str(path.relative_to(lab.directory)) for path in lab.directory.rglob("*")}
    assert left == {"node1", "node2", "node1/console.log", "node2/console.log"}
