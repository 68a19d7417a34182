# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node says about itself, read: the addresses of its interfaces, and what df says."""

from __future__ import annotations

import pytest

from provision import facts, machine_facts
from provision.facts import Nic, Space

MARK = "krg-mark"


def blob(name: str, content: bytes) -> bytes:
    return f"blob {name}\n".encode() + content + f"\n{MARK}\n".encode()


def test_addresses_of_interfaces() -> None:
    raw = (
        blob(
            "sys",
            b"/sys/class/net/eth0/address:00:16:3E:00:00:01\n/sys/class/net/br0/address:-\n"
            b"/sys/class/net/lo/address:00:00:00:00:00:00\n/sys/class/net/a/b/address:1\n",
        )
        + blob("addresses", b"2: eth0@if2    inet 10.0.0.1/8 x\n3: eth0:1 inet 10.0.0.2/8\n")
        + blob("links", b"lrw 1 0 0 /sys/class/net/eth0/device -> ../0000:00:1e.0/0000:02:03.0\n")
    )
    assert facts.parse(raw, MARK).nics == {
        "eth0": Nic("eth0", "00:16:3e:00:00:01", "0000:02:03.0", ("10.0.0.1/8", "10.0.0.2/8")),
        "br0": Nic("br0", None, None),
    }


@pytest.mark.parametrize(
    "text",
    [
        "1: lo    inet 127.0.0.1/8 scope host lo\n2: eth0    inet 10.0.0.1/24 brd 10.0.0.255\n"
        "2: eth0    inet6 fe80::1/64 scope link\n",
        "eth0      Link encap:Ethernet  HWaddr 00:16:3E:00:00:01\n"
        "          inet addr:10.0.0.1  Bcast:10.0.0.255  Mask:255.255.255.0\n"
        "          inet6 addr: fe80::1/64 Scope:Link\n\n",
        "eth0: flags=4163<UP,BROADCAST>  mtu 1500\n"
        "        inet 10.0.0.1  netmask 255.255.255.0  broadcast 10.0.0.255\n"
        "        inet6 fe80::1  prefixlen 64  scopeid 0x20<link>\n",
    ],
)
def test_ip_and_two_ages_of_ifconfig(text: str) -> None:
    found = machine_facts.addresses(text.encode())["eth0"]
    assert [address.partition("/")[0] for address in found] == ["10.0.0.1", "fe80::1"]


def test_file_systems_of_places() -> None:
    head = b"Filesystem 1024-blocks Used Available Capacity Mounted on\n"
    root, boot = b"/dev/hda2 9 8 100 1% /\n", b"/dev/hda1 9 8 -7 1% /boot\n"
    places = ["/boot /boot", "/var /var", "bad"]
    found = machine_facts.spaces(places, head + boot + root)
    assert found == {"/boot": Space("/boot", 0), "/var": Space("/", 102_400)}
    # One line too many or too few: by the names.
    assert machine_facts.spaces(places, head + root + boot + root) == found
    assert machine_facts.spaces(places, head + boot) == {"/boot": Space("/boot", 0)}
    assert machine_facts.spaces(places, b"") == {}
    assert machine_facts.inodes(head + root + b"none - - - - /x y\n") == {"/": 100, "/x y": 0}
