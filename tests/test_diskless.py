# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes without a disk: what is written for a head node, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from provision import artifacts, cluster_rules, diskless, rendered
from provision.cli import cli
from provision.cluster import read_toml
from provision.errors import FailedError, InputError, KrgError
from provision.plan import text_wanted

RELEASE = "2.6.20-krg-b"
CONFIG = """\
CONFIG_NET=y
CONFIG_INET=y
CONFIG_IP_PNP=y
CONFIG_NFS_FS=y
CONFIG_NFS_V3=y
CONFIG_ROOT_NFS=y
CONFIG_E1000=y
CONFIG_BLK_DEV_FD=m
"""
TOML = """\
session = 7
nbmin = 2
[defaults]
interface = "eth1"
[[node]]
name = "krg1.example.org"
id = 1
address = "10.0.0.1"
mac = "02-AA-BB-00-00-01"
[[node]]
name = "krg2"
id = 2
address = "10.0.0.2"
mac = "02:aa:bb:00:00:02"
append = "noapic"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory with cluster.toml and a build in small."""
    make(tmp_path, TOML, CONFIG)
    return tmp_path


def make(place: Path, toml: str, config: str) -> None:
    (place / "cluster.toml").write_text(toml)
    build = place / "build"
    shutil.rmtree(build, ignore_errors=True)
    texts = {"config": config, "System.map": "map", "vmlinuz": "kernel"}
    texts |= {f"lib/modules/{RELEASE}/extra/kerrighed.ko": "ko", "tools/bin/krgadm": "tool"}
    for name, text in texts.items():
        (build / name).parent.mkdir(parents=True, exist_ok=True)
        (build / name).write_text(text)
    values = {"release": "kerrighed-2.4.4", "arch": "x86_64", "build_id": "b"}
    artifacts.write_manifest(build, {**values, "kernel_release": RELEASE})


def render(place: Path, *more: str, head: str = "10.0.0.254") -> Result:
    argv = ["diskless", "render", "--nodes", f"{place}/cluster.toml", "--artifacts",
            f"{place}/build", "--head", head, "--output", f"{place}/head"]  # fmt: skip
    return CliRunner().invoke(cli, [*argv, *more])


def said(done: Result) -> str:
    assert isinstance(done.exception, KrgError), done.output
    return done.exception.message


def snapshot(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p.relative_to(directory)): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in directory.rglob("*")
        if p.is_file()
    }


def test_the_kernel_line_of_each_node(place: Path) -> None:
    assert render(place).exit_code == 0
    folder = place / "head/tftp/pxelinux.cfg"
    assert sorted(p.name for p in folder.iterdir()) == [
        "01-02-aa-bb-00-00-01", "01-02-aa-bb-00-00-02",
    ]  # fmt: skip
    for number, name in ((1, "krg1"), (2, "krg2")):
        text = (folder / f"01-02-aa-bb-00-00-0{number}").read_text()
        lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
        assert [line[0] for line in lines] == ["DEFAULT", "PROMPT", "LABEL", "LINUX", "APPEND"]
        assert lines[0][1] == lines[2][1]
        assert (place / "head/tftp" / lines[3][1]).read_text() == "kernel"
        values = dict(word.partition("=")[::2] for word in lines[4][1:])
        assert values["root"] == "/dev/nfs"
        assert values["nfsroot"] == "10.0.0.254:/srv/krg-diskless/root,v3,tcp"
        # As net/ipv4/ipconfig.c reads it: client, server, router, mask, name, card, protocol.
        assert values["ip"].split(":") == [
            f"10.0.0.{number}", "10.0.0.254", "", "255.255.255.0", name, "eth1", "off",
        ]  # fmt: skip
        assert (values["session_id"], values["node_id"]) == ("7", str(number))
        assert values["nb_nodes_min"] == "2" and int(values["panic"]) > 0
        assert ("noapic" in values) == (number == 2)


def test_what_goes_into_the_root(place: Path) -> None:
    assert render(place).exit_code == 0
    root = place / "head/root"
    assert (root / f"lib/modules/{RELEASE}/extra/kerrighed.ko").read_text() == "ko"
    assert (root / f"boot/System.map-{RELEASE}").read_text() == "map"
    nodes = (root / "etc/kerrighed_nodes").read_text()
    assert nodes == "session=7\nnbmin=2\nkrg1.example.org:1:eth1\nkrg2:2:eth1\n"
    assert os.access(root / "etc/init.d/kerrighed", os.X_OK)
    assert subprocess.run(["sh", "-n", root / "etc/init.d/kerrighed"]).returncode == 0


@pytest.mark.parametrize("more", [(), ("--interface", "eth3")], ids=["address", "interface"])
def test_dnsmasq_accepts_its_file(place: Path, more: tuple[str, ...]) -> None:
    assert render(place, *more).exit_code == 0
    text = (place / "head/dnsmasq.conf").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert "port=0" in lines and "bind-interfaces" in lines and "dhcp-ignore=tag:!known" in lines
    assert "dhcp-host=02:aa:bb:00:00:01,10.0.0.1,krg1,infinite" in lines
    assert "dhcp-range=10.0.0.0,static,255.255.255.0" in lines
    assert ("interface=eth3" if more else "listen-address=10.0.0.254") in lines
    assert not any(line.startswith("dhcp-authoritative") for line in lines)
    program = shutil.which("dnsmasq", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        pytest.skip("no dnsmasq: apt-get install dnsmasq-base")
    done = subprocess.run([program, "--test", "-C", place / "head/dnsmasq.conf"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and "syntax check OK" in done.stderr, done.stderr


def exported(path: Path) -> dict[str, dict[str, list[str]]]:
    """Read a file as exports(5) describes it: path -> client -> options."""
    text = path.read_text().replace("\\\n", " ")
    found: dict[str, dict[str, list[str]]] = {}
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        root, *clients = line.split()
        parts = [re.fullmatch(r"([0-9.]+)\(([^()\s]+)\)", client) for client in clients]
        assert all(parts), line
        found[root] = {part[1]: part[2].split(",") for part in parts if part}
    return found


def test_exports_to_the_nodes_only(place: Path) -> None:
    assert render(place).exit_code == 0
    found = exported(place / "head/krg-diskless.exports")
    assert list(found) == ["/srv/krg-diskless/root"]
    clients = found["/srv/krg-diskless/root"]
    assert sorted(clients) == ["10.0.0.1", "10.0.0.2"]
    assert all({"rw", "no_root_squash"} <= set(options) for options in clients.values())
    assert len({option for o in clients.values() for option in o if "fsid" in option}) == 1


def test_a_root_for_each_node(place: Path) -> None:
    assert render(place, "--root", "/srv/%s/root").exit_code == 0
    found = exported(place / "head/krg-diskless.exports")
    assert {root: list(clients) for root, clients in found.items()} == {
        "/srv/krg1.example.org/root": ["10.0.0.1"], "/srv/krg2/root": ["10.0.0.2"],
    }  # fmt: skip
    ids = [option for c in found.values() for o in c.values() for option in o if "fsid" in option]
    assert len(set(ids)) == 2
    line = (place / "head/tftp/pxelinux.cfg/01-02-aa-bb-00-00-02").read_text()
    assert "nfsroot=10.0.0.254:/srv/krg2/root,v3,tcp " in line


def test_check_writes_nothing_and_a_second_run_neither(place: Path) -> None:
    before = snapshot(place)
    done = render(place, "--check")
    assert done.exit_code == 1 and "add     dnsmasq.conf" in done.output
    assert snapshot(place) == before and not (place / "head").exists()
    assert render(place).exit_code == 0
    before = snapshot(place)
    for more in ((), ("--check",)):
        done = render(place, *more)
        assert done.exit_code == 0 and "up to date" in done.output
    assert snapshot(place) == before


def test_what_differs_is_replaced_and_what_is_gone_removed(place: Path) -> None:
    assert render(place).exit_code == 0
    head = place / "head"
    (head / "tftp/pxelinux.0").write_text("the user's")
    (head / "dnsmasq.conf").write_text("by hand")
    make(place, TOML[: TOML.rindex("[[node]]")].replace("nbmin = 2", "nbmin = 1"), CONFIG)
    done = render(place, "--format", "json")
    changes = {row["path"]: row for row in json.loads(done.output)["changes"]}
    gone = "tftp/pxelinux.cfg/01-02-aa-bb-00-00-02"
    assert changes[gone]["change"] == "remove" and not (head / gone).exists()
    assert changes["dnsmasq.conf"]["by_hand"] and not changes["ganesha.conf"]["by_hand"]
    assert "port=0" in (head / "dnsmasq.conf").read_text()
    assert (head / "tftp/pxelinux.0").read_text() == "the user's"
    assert render(place, "--check").exit_code == 0


def test_another_directory_is_refused(place: Path) -> None:
    head = place / "head"
    head.mkdir()
    (head / "dhcpd.conf").write_text("the site's")
    before = snapshot(place)
    assert "did not write (dhcpd.conf)" in said(render(place))
    (head / rendered.MARK).write_text('{"format": 1, "kind": "repo", "files": {}}')
    assert "it is for repo" in said(render(place))
    (head / rendered.MARK).write_text('{"format": 1, "kind": "diskless", "files": {"/../x": ""}}')
    assert "none of ours" in said(render(place))
    (head / rendered.MARK).unlink()
    assert snapshot(place) == before
    (head / "dhcpd.conf").unlink()
    assert render(place).exit_code == 0


def test_nothing_is_written_through_links_or_over_strangers(place: Path) -> None:
    (place / "site").mkdir()
    assert render(place).exit_code == 0
    head = place / "head"
    shutil.rmtree(head / "tftp")
    (head / "tftp").symlink_to(place / "site")
    assert "nothing is written through it" in said(render(place))
    assert list((place / "site").iterdir()) == []
    (head / "tftp").unlink()
    (head / "tftp").mkdir()
    mark = json.loads((head / rendered.MARK).read_text())
    del mark["files"]["/dnsmasq.conf"]
    (head / rendered.MARK).write_text(json.dumps(mark))
    assert "krg-provision did not write it" in said(render(place))


def test_an_interrupted_run_is_gone_on_with(tmp_path: Path) -> None:
    source = tmp_path / "source"
    files = [text_wanted(f"/a/{name}", b"text") for name in "xyz"]
    # The second file cannot be read when its turn has come.
    files[1] = replace(files[1], content=None, source=source)
    place = tmp_path / "new"
    with pytest.raises(OSError, match="source"):
        rendered.write(place, "k", files, rendered.plan(place, "k", files))
    source.write_bytes(b"txet")
    with pytest.raises(FailedError, match="changed while it was copied"):
        rendered.write(place, "k", files, rendered.plan(place, "k", files))
    assert (place / "a/x").read_bytes() == b"text" and not (place / "a/z").exists()
    source.write_bytes(b"text")
    left = rendered.plan(place, "k", files)
    assert [(step.verb, step.path) for step in left] == [("add", "/a/y"), ("add", "/a/z")]
    rendered.write(place, "k", files, left)
    assert rendered.plan(place, "k", files) == []


def test_the_last_byte_is_the_id_unless_the_kernel_is_told_otherwise(place: Path) -> None:
    toml = TOML.replace('address = "10.0.0.2"', 'address = "10.0.0.9"')
    make(place, toml, CONFIG + "CONFIG_KRG_AUTONODEID=y\n")
    message = said(render(place))
    assert "cluster.toml:10" in message and "last byte of 10.0.0.9" in message
    make(place, toml, CONFIG + "# CONFIG_KRG_AUTONODEID is not set\n")
    assert render(place).exit_code == 0


@pytest.mark.parametrize("symbol", ["ROOT_NFS", "IP_PNP", "NFS_V3", "NFS_FS", "INET"])
@pytest.mark.parametrize("value", ["m", ""])
def test_a_kernel_that_cannot_is_refused(place: Path, symbol: str, value: str) -> None:
    line = f"CONFIG_{symbol}=y\n"
    make(place, TOML, CONFIG.replace(line, line.replace("=y", f"={value}") if value else ""))
    done = render(place)
    message = said(done)
    assert "\n" not in message and f"CONFIG_{symbol}=y" in message, message
    assert isinstance(done.exception, InputError)
    assert "--policy kerrighed-2.4.4 --policy diskless" in str(done.exception.hint)


def test_drivers_must_be_built_in(place: Path) -> None:
    assert render(place, "--driver", "E1000", "--check").exit_code == 1
    assert "CONFIG_SKGE=y" in said(render(place, "--driver", "SKGE"))
    assert "not a driver's symbol" in said(render(place, "--driver", "e1000;x"))
    make(place, TOML, CONFIG.replace("E1000=y", "E1000=m"))
    assert "CONFIG_E1000=y" in said(render(place))
    make(place, TOML, CONFIG.replace("FD=m", "FD=y"))
    assert "BLK_DEV_FD" in said(render(place))


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ('mac = "02:aa:bb:00:00:02"', "", "krg2 has no mac"),
        ('address = "10.0.0.2"', 'address = "krg2"', "'krg2' is a name"),
        ('address = "10.0.0.2"', 'address = "10.0.1.2"', "no machine of the network 10.0.0.0/24"),
        ('address = "10.0.0.2"', 'address = "10.0.0.255"', "no machine of the network"),
        ('address = "10.0.0.2"', 'address = "10.0.0.254"', "the head node's own address"),
        ('"10.0.0.2"', '"10.0.0.1"\nport = 2222', "10.0.0.1 is krg1.example.org's too"),
        ('"noapic"', '"ip=dhcp"', "append has ip=dhcp"),
        ('"noapic"', '"nfsroot=10.0.0.9:/x"', "append has nfsroot=10.0.0.9:/x"),
        ('"noapic"', '"' + "quiet " * 20 + '"', "it reads 255 and cuts the rest"),
    ],
)  # fmt: skip
def test_clusters_that_cannot(place: Path, old: str, new: str, wanted: str) -> None:
    assert old in TOML
    make(place, TOML.replace(old, new), CONFIG)
    done = render(place)
    assert wanted in said(done) and isinstance(done.exception, InputError)
    assert not (place / "head").exists()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--head", "10.0.0.0"], "--head '10.0.0.0' is not"),
        (["--head", "fd00::1"], "--head"),
        (["--head", "127.0.0.1"], "--head"),
        (["--head", "10.0.0.254\nport=53"], "--head"),
        (["--root", "relative"], "--root"),
        (["--root", "/srv/%s/%s"], "--root"),
        (["--root", "/srv/a,rw"], "--root"),
        (["--root", "/srv/a b"], "--root"),
        (["--root", "/srv/../etc"], "--root"),
        (["--interface", "eth0\nport=53"], "--interface"),
    ],
)
def test_options_from_outside(place: Path, options: list[str], wanted: str) -> None:
    done = render(place, *options)
    assert wanted in said(done) and "\n" not in said(done)
    assert isinstance(done.exception, InputError) and not (place / "head").exists()


@pytest.mark.parametrize("text", ["02:aa:bb:00:00", "03:aa:bb:00:00:01", "00:00:00:00:00:00", "x",
                                  "02:aa:bb:00:00:01\\nport=53", "02aabb000001"])  # fmt: skip
def test_macs_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"c\.toml:9: mac .* is not a card's address"):
        read_toml(Path("c.toml"), TOML.replace("02-AA-BB-00-00-01", text))


def test_macs_are_told_apart_however_spelled() -> None:
    cluster = read_toml(Path("c.toml"), TOML)
    assert [node.mac for node in cluster.nodes] == ["02:aa:bb:00:00:01", "02:aa:bb:00:00:02"]
    with pytest.raises(InputError, match="mac 02:aa:bb:00:00:02 is already node krg1"):
        read_toml(Path("c.toml"), TOML.replace("02-AA-BB-00-00-01", "02-AA-BB-00-00-02"))
    assert cluster_rules.read_mac("nonsense") == "nonsense"


def test_the_network_of_the_head_node() -> None:
    assert str(diskless.read_address("10.1.2.3").network) == "10.1.2.0/24"
    assert str(diskless.read_address("10.1.2.3/16").network) == "10.1.0.0/16"
