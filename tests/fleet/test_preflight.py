# SPDX-License-Identifier: GPL-2.0-or-later
"""What deploy refuses and notes of real hosts: their names, disks and network cards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from elf_images import driver_image

from .hosts import RELEASE, Host, Hosts, make_build
from .test_deploy import deploy

pytestmark = pytest.mark.fleet

PIIX = "pci:v00008086d00007111sv00000000sd00000000bc01sc01i8F"
VIRTIO = "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00"
E1000 = "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"


def machines_with_each_others_addresses(hosts: Hosts) -> None:
    first, second = hosts.hosts[:2]
    first.address, second.address = second.address, first.address
    first.host_key, second.host_key = second.host_key, first.host_key
    hosts.write()


def test_machine_that_is_another_node(hosts: Hosts, build: Path) -> None:
    before = [host.tree() for host in hosts.hosts[:2]]
    machines_with_each_others_addresses(hosts)
    code, out, err = deploy(hosts, build)
    assert code == 1, out + err
    assert "krg1: failed: the machine at 10.99.0.2 calls itself krg2, which is another node" in out
    assert "krg2: failed: the machine at 10.99.0.1 calls itself krg1" in out
    assert "3 nodes: 1 changed, 2 failed" in out
    assert [host.tree() for host in hosts.hosts[:2]] == before
    assert deploy(hosts, build, "--force", "hostname")[0] == 0


def with_device(host: Host, address: str, modalias: str, kind: str) -> Path:
    """Give a host a PCI device in /sys."""
    device = host.path(f"/sys/devices/pci0000:00/{address}")
    device.mkdir(parents=True)
    (device / "modalias").write_text(modalias + "\n")
    (device / "class").write_text(kind + "\n")
    room = host.path("/sys/bus/pci/devices")
    room.mkdir(parents=True, exist_ok=True)
    (room / address).symlink_to(f"../../../devices/pci0000:00/{address}")
    return device


def with_root_disk(hosts: Hosts, host: Host, modalias: str) -> None:
    device = with_device(host, "0000:00:1f.1", modalias, "0x010180")
    (device / "host0").mkdir()
    number = int(hosts.ssh(host, "stat -c %d /").stdout)
    part = host.path("/sys/block/hda/hda1")
    part.mkdir(parents=True)
    (part / "dev").write_text(f"{os.major(number)}:{os.minor(number)}\n")
    (part.parent / "device").symlink_to("../../devices/pci0000:00/0000:00:1f.1/host0")


@pytest.fixture
def drivers(tmp_path: Path) -> Path:
    """A build with PIIX's IDE driver built in, and e1000 as a module."""
    made = make_build(tmp_path / "with drivers", vmlinux=driver_image(64))
    (made / "lib/modules" / RELEASE / "modules.alias").write_text(
        "alias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000\n"
    )
    return made


def test_disk_and_card_without_a_driver(hosts: Hosts, drivers: Path) -> None:
    good, bad, busybox = hosts.hosts
    for host, disk in ((good, PIIX), (bad, VIRTIO), (busybox, PIIX)):
        with_root_disk(hosts, host, disk)
        card = with_device(host, "0000:00:03.0", VIRTIO if host is busybox else E1000, "0x020000")
        interface = host.path("/sys/class/net/eth0")
        interface.mkdir(parents=True)
        (interface / "address").write_text("00:16:3e:00:00:01\n")
        (interface / "device").symlink_to(f"../../../devices/pci0000:00/{card.name}")
    code, out, err = deploy(hosts, drivers)
    assert code == 1, out + err
    assert "krg2: failed: the controller of its root disk, 1af4:1001 at 0000:00:1f.1" in out
    assert "krg3: failed: the network card of eth0, 1af4:1001 at 0000:00:03.0" in out
    assert "3 nodes: 1 changed, 2 failed" in out
    assert deploy(hosts, drivers, "--force", "disk-driver", "--force", "nic-driver")[0] == 0


def test_build_that_does_not_tell_is_a_note(host: Hosts, build: Path) -> None:
    with_root_disk(host, host.hosts[0], VIRTIO)
    code, out, err = deploy(host, build)
    assert code == 0, out + err
    assert "note: the build does not tell which devices its drivers take" in out
