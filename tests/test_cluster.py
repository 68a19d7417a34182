# SPDX-License-Identifier: GPL-2.0-or-later
"""Clusters: both file forms, every rule, all violations at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.cluster import (
    Cluster,
    Node,
    check_against_kernel,
    is_host,
    read_cluster,
    read_nodes_file,
    read_toml,
)
from provision.errors import InputError
from provision.toml_lines import Lines

TUTORIAL = """\
session = 1
nbmin = 3
192.168.0.103:1:eth1
192.168.0.104:2:eth1
192.168.0.101:3:eth1
"""

TOML = """\
session = 12
nbmin = 2
release = "kerrighed-2.4.4"
known_hosts = "hosts"

[defaults]
user = "root"
key = "keys/id"
interface = "eth1"
arch = "i386"

[[node]]
name = "krg1"
id = 1
address = "192.168.0.103"

[[node]]
name = "krg2"
id = 2
address = "127.0.0.1"
port = 2202
root = "/dev/hda1"
append = "noapic console=ttyS0,115200"
old_ssh = true
"""


def toml(text: str) -> Cluster:
    return read_toml(Path("/c/cluster.toml"), text)


def wrong(text: str) -> str:
    with pytest.raises(InputError) as caught:
        toml(text)
    assert caught.value.exit_code == 2
    return caught.value.message


def test_tutorials_spelling_becomes_the_kernels(tmp_path: Path) -> None:
    path = tmp_path / "kerrighed_nodes"
    path.write_text(TUTORIAL)
    cluster = read_cluster(path)
    assert (cluster.session, cluster.nbmin) == (1, 3)
    assert cluster.nodes[0] == Node("192.168.0.103", 1, "192.168.0.103", "eth1")
    written = cluster.nodes_file()
    assert written == TUTORIAL.replace(" ", "")
    path.write_text(written)
    assert read_cluster(path) == cluster


def test_comments_blanks_and_carriage_returns_are_taken_but_not_written() -> None:
    text = "# ours\r\nsession=1\r\n\r\nnbmin = 1 # all\r\n krg1 : 1 : eth0 \r\nkrg2:2\r\n"
    cluster = read_nodes_file(Path("n"), text)
    assert cluster.nodes_file() == "session=1\nnbmin=1\nkrg1:1:eth0\nkrg2:2:eth0\n"


def test_a_mark_of_the_encoding_is_passed_over(tmp_path: Path) -> None:
    for name, text in (("c.toml", TOML), ("kerrighed_nodes", TUTORIAL)):
        (tmp_path / name).write_text("\ufeff" + text, "utf-8")
        assert read_cluster(tmp_path / name).nodes


def test_toml() -> None:
    cluster = toml(TOML)
    assert (cluster.session, cluster.nbmin) == (12, 2)
    assert (cluster.release, cluster.arch) == ("kerrighed-2.4.4", "i386")
    one, two = cluster.nodes
    assert (one.key, one.known_hosts) == (Path("/c/keys/id"), Path("/c/hosts"))
    assert (one.interface, one.port, one.root, one.append) == ("eth1", None, None, ())
    assert (two.port, two.root, two.old_ssh) == (2202, "/dev/hda1", True)
    assert two.append == ("noapic", "console=ttyS0,115200")


def test_user_and_port_are_left_to_ssh_where_they_are_not_given() -> None:
    one, two = toml(TOML.replace('user = "root"\n', "")).nodes
    assert (one.user, one.port, two.user, two.port) == (None, None, None, 2202)


@pytest.mark.parametrize(
    ("one", "two", "port"),
    [
        ("::1", "0:0::1", ""),
        ("::ffff:10.0.0.1", "10.0.0.1", ""),
        ("Host", "host", ""),
        ("::1", "::1", "port = 22"),
    ],
)
def test_two_spellings_of_one_host(one: str, two: str, port: str) -> None:
    message = wrong(
        f'session = 1\n[[node]]\nname = "a"\nid = 1\naddress = "{one}"\n'
        f'[[node]]\nname = "b"\nid = 2\naddress = "{two}"\n{port}\n'
    )
    assert f"node b: address {two} port 22 is already node a's" in message


def test_all_violations_at_once_with_lines() -> None:
    message = wrong(
        'session = 256\nnbmin = 4\n[[node]]\nname = "a;b"\nid = 1\naddress = "h"\n'
        '[[node]]\nname = "b"\nid = 255\naddress = "h"\ninterface = "$(id)"\n'
    )
    for part in (
        "/c/cluster.toml: nbmin 4 is not between 1 and 2",
        "/c/cluster.toml:1: session 256",
        "/c/cluster.toml:4: 'a;b' is not a host name",
        "/c/cluster.toml:7: node b: address h port 22 is already node a;b's",
        "/c/cluster.toml:9: node id 255",
        "/c/cluster.toml:11: '$(id)' is not a network interface's name",
    ):
        assert part in message
    assert "6 things are wrong" in message


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("id = 2", "id = 1", "id 1 is already node krg1's"),
        ("id = 2", "id = 0", "node id 0 is not in 1..254"),
        ("id = 2", "id = true", "id must be a number"),
        ("id = 2", 'id = "2"', "id must be a number"),
        ("id = 2\n", "", "node 2 has no id"),
        ('"krg2"', '"KRG1"', "name KRG1 is already node krg1's"),
        ('"krg2"', '"-krg2"', "'-krg2' is not a host name"),
        ('"krg2"', '"krg2\\n"', "is not a host name"),
        ('"krg2"', f'"{"k" * 65}"', "is not a host name"),
        ('"127.0.0.1"', '"-oProxyCommand=x"', "is not a host name or address"),
        ('"127.0.0.1"', '"192.168.0.300"', "is not a host name or address"),
        ('"eth1"', '"eth1; reboot"', "is not a network interface's name"),
        ('"eth1"', '"averylonginterface"', "is not a network interface's name"),
        ('"root"', '"root -x"', "is not a user name"),
        ("2202", "70000", "port 70000"),
        ("/dev/hda1", "/dev/hda1 init=/bin/sh", "is not a device"),
        ("noapic", "a\\nb`id`", "cannot carry"),
        ("noapic", "node_id=9", "writes itself"),
        ("session = 12", "session = -1", "session -1"),
        ("session = 12\n", "", "there is no session"),
        ("nbmin = 2", "nbmin = 3", "nbmin 3 is not between 1 and 2"),
        ("nbmin = 2", "nbmin = 0", "nbmin 0"),
        ("nbmin", "nbmn", "unknown key 'nbmn' in the file; did you mean nbmin?"),
        ('user = "root"', 'usr = "root"', "did you mean user?"),
        ("port = 2202", "prt = 2202", "did you mean port?"),
        ("[[node]]", "[node", "not TOML"),
    ],
)
def test_rules(old: str, new: str, says: str) -> None:
    assert says in wrong(TOML.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nbmin=1\na:1:eth0\n", "there is no line session=N"),
        ("session=1\n", "there is no node"),
        ("session=1\nsession=2\na:1:eth0\n", "n:2: session is given twice"),
        ("session=x\na:1:eth0\n", "n:1: session 'x' is not a number"),
        ("session=1\na:b:eth0\n", "n:2: node id 'b' is not a number"),
        ("session=1\na 1 eth0\n", "n:2: 'a 1 eth0' is neither"),
        ("session=1\na:1:eth0\na:2:eth0\n", "n:3: node a: name a is already"),
    ],
)
def test_rules_of_the_kernels_file(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read_nodes_file(Path("n"), text)
    assert says in caught.value.message


def test_file_that_the_kernel_would_cut() -> None:
    lines = [f"{'n' * 50}{number}:{number}:eth0" for number in range(1, 81)]
    with pytest.raises(InputError, match="reads fewer than 4096"):
        read_nodes_file(Path("n"), "session=1\n" + "\n".join(lines))


@pytest.mark.parametrize("config", ["", "# CONFIG_KRG_AUTONODEID is not set\n"])
def test_ids_the_kernel_stops_at(config: str) -> None:
    cluster = Cluster(1, 1, (Node("a", 127, "a"), Node("b", 128, "b")))
    check_against_kernel(cluster, "CONFIG_X=y\nCONFIG_KRG_AUTONODEID=y\n")
    with pytest.raises(InputError, match=r"above 127 stop this kernel at boot: b has 128$"):
        check_against_kernel(cluster, config)


@pytest.mark.parametrize("what", ["missing", "directory", "binary"])
def test_file_that_cannot_be_read(tmp_path: Path, what: str) -> None:
    path = tmp_path / "c.toml"
    if what == "directory":
        path.mkdir()
    elif what == "binary":
        path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"c\.toml: (no such file|cannot be read|not UTF-8)"):
        read_cluster(path)


@given(st.text(max_size=40))
def test_a_host_name_never_needs_quoting(name: str) -> None:
    if is_host(name):
        assert not set(name) - set(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:-"
        )
        assert not name.startswith("-")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (read_toml, read_nodes_file):
        try:
            written = read(Path("x"), text).nodes_file()
        except InputError:
            continue
        # What was accepted is what the kernel's reader counts: one line per node.
        assert all(line.count(":") == 2 for line in written.splitlines()[2:])


# --- the keys for logging in and for the boot entry ------------------------------------------

MORE = """\
session = 1
[defaults]
jump = "admin@gate:2222, [fe80::1]"
sudo = "ask"
drop = "quiet vga=791"
boot_loader = "grub2"
watchdog = true
[[node]]
name = "a"
id = 1
[[node]]
name = "b"
id = 2
jump = "none"
sudo = "no password"
drop = ["splash"]
append = ["noapic", "console=ttyS0"]
boot_loader = "none"
watchdog = false
[[node]]
name = "c"
id = 3
watchdog = "iTCO_wdt"
"""


def test_keys_for_logging_in_and_for_the_boot_entry() -> None:
    one, two, three = toml(MORE).nodes
    assert one.jump is not None and [str(hop) for hop in one.jump] == [
        "admin@gate:2222",
        "[fe80::1]",
    ]
    assert (one.sudo, one.drop, one.boot_loader, one.watchdog) == (
        "ask",
        ("quiet", "vga=791"),
        "grub2",
        True,
    )
    assert (two.jump, two.sudo, two.drop, two.append) == (
        (),
        "no password",
        ("splash",),
        ("noapic", "console=ttyS0"),
    )
    assert three.watchdog == "iTCO_wdt"
    assert (two.boot_loader, two.watchdog, two.where) == ("none", False, "/c/cluster.toml:11")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"none"\nsudo', '"a b"\nsudo', "/c/cluster.toml:14: jump 'a b' is not HOST"),
        ('"none"\nsudo', '"root@h:0"\nsudo', "jump 'root@h:0' is not HOST"),
        ('"none"\nsudo', '"-oX@h"\nsudo', "jump '-oX@h' is not HOST"),
        ('"none"\nsudo', '["a", 1]\nsudo', "jump must be text, or an array of texts"),
        ('["splash"]', '["a b"]', "/c/cluster.toml:16: drop 'a b' has characters"),
        ('["splash"]', '"root"', "drop names what krg-provision writes itself"),
        ('["splash"]', "3", "drop must be text"),
        ('"none"\nwatch', '"lilo"\nwatch', "boot_loader 'lilo' is none of auto, legacy, grub2"),
        ("watchdog = false", 'watchdog = "no"', "watchdog must be true or false"),
        ("watchdog = true", 'watchdog = "no"', "/c/cluster.toml:7: watchdog must be true or false"),
        ("watchdog = true", "watchdog = 1", "/c/cluster.toml:7: watchdog must be true or false"),
        ("watchdog = true", 'watchdog = "a b"', "7: watchdog must be true or false, or a kernel"),
        ("quiet", "qu;iet", "/c/cluster.toml:5: drop 'qu;iet vga=791' has characters"),
        ("watchdog", "watchdgo", "/c/cluster.toml:7: unknown key 'watchdgo' in [defaults]"),
    ],
)
def test_rules_of_those_keys(old: str, new: str, says: str) -> None:
    message = wrong(MORE.replace(old, new, 1))
    assert says in message and "\n" not in message


@pytest.mark.parametrize("value", ['"hunter2"', "123456", '["hunter2"]'])
def test_a_password_in_the_file_is_refused_and_not_repeated(value: str) -> None:
    message = wrong(MORE.replace('"ask"', value))
    assert "/c/cluster.toml:4: sudo must be" in message
    assert value.strip('"[]') not in message


def test_two_networks_behind_two_jump_hosts_may_have_the_same_addresses() -> None:
    text = 'session = 1\n[[node]]\nname = "a"\nid = 1\naddress = "10.0.0.1"\njump = "g1"\n'
    text += '[[node]]\nname = "b"\nid = 2\naddress = "10.0.0.1"\njump = "g2"\n'
    assert len(toml(text).nodes) == 2
    assert "already node a's" in wrong(text.replace("g2", "g1"))


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("ip=10.0.0.7::10.0.0.254:255.255.255.0::eth0", "that must be 8"),
        ("nfsaddrs=10.0.0.9", "that must be 8"),
        ("ip=dhcp", "that must be 8"),
        ("ip=10.0.0.8", None),
        ("ip=off", None),
    ],
)
def test_an_address_in_append_that_becomes_the_id(argument: str, says: str | None) -> None:
    cluster = toml(f'session = 1\n[[node]]\nname = "a"\nid = 8\nappend = "x {argument}"\n')
    check_against_kernel(cluster, "CONFIG_KERRIGHED=y\n")
    if says is None:
        check_against_kernel(cluster, "CONFIG_KRG_AUTONODEID=y\n")
        return
    with pytest.raises(InputError) as caught:
        check_against_kernel(cluster, "CONFIG_KRG_AUTONODEID=y\n")
    assert says in caught.value.message and "/c/cluster.toml:2: node a: " in caught.value.message


LINES = '''\
# [[node]]
session = 1
"nbmin" = 1 # [defaults]
defaults.append = """
[[node]] \\
name = "x" """
defaults."user" = "root"
[[ node ]]
name = \'a"b\'
id = 1 # id = 2
address = """
h"""
'''


def test_lines_of_unusual_toml() -> None:
    lines = Lines(LINES, "node")
    assert [lines.top(key) for key in ("session", "nbmin", "defaults", "x")] == [2, 3, 4, None]
    assert [lines.table("defaults", key) for key in ("append", "user")] == [4, 7]
    assert [lines.item(0, key) for key in ("", "name", "id", "address", "x")] == [8, 9, 10, 11, 8]
    inline = Lines('node = [\n {name = "a"},\n {name = "b", key = "{"}]\nsession = 1', "node")
    assert [inline.item(0), inline.item(1), inline.top("session")] == [2, 3, 4]


@pytest.mark.parametrize("text", ["id = 1\x00", "id = " + "1" * 5000, "a = " + "[" * 5000])
def test_toml_beyond_all_bounds(text: str) -> None:
    assert wrong(text).startswith("/c/cluster.toml:")


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """Give a good file with a few pieces cut, doubled, or replaced by what TOML is made of."""
    text = draw(st.sampled_from([TOML, MORE, LINES, TUTORIAL]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        pieces = st.sampled_from(['"', "'", '"""', "[", "]", "[[node]]", "{", "}", "=", "\n", ".",
                                  "#", "\\", "1", "-1", "1.5", "true", "\x1b", "a = {", "\u2028",
                                  text[start:end] * 2])  # fmt: skip
        text = text[:start] + draw(st.one_of(pieces, st.text(max_size=5))) + text[end:]
    return text


@given(damaged())
def test_any_damaged_file_is_read_or_refused(text: str) -> None:
    for read in (read_toml, read_nodes_file):
        try:
            cluster = read(Path("/c/x"), text)
        except InputError as error:
            assert error.message.startswith("/c/x")
            assert all(c.isprintable() or c == "\n" for c in error.message), error.message
            continue
        assert all(line.count(":") == 2 for line in cluster.nodes_file().splitlines()[2:])
        assert all(node.where.startswith("/c/x") for node in cluster.nodes)
