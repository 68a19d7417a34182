# SPDX-License-Identifier: GPL-2.0-or-later
"""Every ASCII character, and some others, in every value that comes from outside.

Each is refused with file and line, or arrives unchanged: in the cluster's values, in the files
for the node, in GRUB's configuration, and in the words that a shell makes of those.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from test_boot_entry import CORPUS, MENU_LST, RELEASE, Place

from grub import legacy
from provision.cluster import Node, parse_login, parse_set, read_nodes_file, read_toml
from provision.errors import InputError
from provision.new_cluster import read_hosts
from provision.ssh_keys import KnownKeys, UnknownKeyError

# Among the others: blanks and line ends that Python knows, digits that are none here, letters
# that become ASCII ones when folded, characters without a width.
CHARACTERS = [
    *map(chr, range(128)),
    *"\x85\u00a0\u00e9\u00df\u0661\u2028\u200b\u202e\ufb00\u212a\U0001f600",
]
PLACE = Path("/c/cluster.toml")

VALUES = {
    "name": "krg1",
    "address": "host1.example.org",
    "interface": "eth1",
    "user": "admin",
    "jump": "me@gate:22",
    "key": "keys/id",
    "known_hosts": "known",
    "root": "/dev/hda1",
    "append": "noapic",
    "drop": "quiet",
    "boot_loader": "auto",
    "sudo": "ask",
}
# The file, and the line that the value is on.
NODE_FILE = 'session = 1\n[[node]]\nid = 1\nname = "krg1"\n'
DEFAULTS_FILE = 'session = 1\n[defaults]\n{line}\n[[node]]\nid = 1\nname = "krg1"\n'


def toml(value: str) -> str:
    return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'


def spelled(value: str) -> list[str]:
    """Return the values with each of the characters at the start, inside and at the end."""
    half = len(value) // 2
    return [
        made for c in CHARACTERS for made in (c + value, value[:half] + c + value[half:], value + c)
    ]


def read(key: str, value: str, where: str) -> Node | str:
    """Return the node that came of it, or what was said against it."""
    if where == "defaults":
        text, number = DEFAULTS_FILE.format(line=f"{key} = {toml(value)}"), 3
    elif key == "name":
        text, number = NODE_FILE.replace('"krg1"', toml(value)), 4
    else:
        text, number = f"{NODE_FILE}{key} = {toml(value)}\n", 5
    try:
        return read_toml(PLACE, text).nodes[0]
    except InputError as error:
        assert f"{PLACE}:{number}: " in error.message, error.message
        assert all(c.isprintable() or c == "\n" for c in error.message), error.message
        return error.message


def arrived(key: str, node: Node, value: str) -> bool:
    if key in ("append", "drop"):
        # Blanks and tabs are between the words.
        return list(getattr(node, key)) == [word for word in re.split("[ \t]+", value) if word]
    if key == "jump":
        return node.jump is not None and ",".join(map(str, node.jump)) == value.strip(" ,")
    if key in ("key", "known_hosts"):
        return getattr(node, key) == Path("/c") / value  # type: ignore[no-any-return]
    return str(getattr(node, key)) == value


ALLOWED = {
    "name": "A-Za-z0-9.-",
    "address": "A-Za-z0-9.-",
    "interface": "A-Za-z0-9_.-",
    "user": "A-Za-z0-9_.-",
    "jump": "A-Za-z0-9_.,:@ -",
    "root": "A-Za-z0-9/_-",
    "append": "A-Za-z0-9_.,:/=+@% \t-",
    "drop": "A-Za-z0-9_.,:/=+@% \t-",
    "boot_loader": "a",
    "sudo": "a",
}


PLACES = [
    (key, where)
    for key in VALUES
    for where in ("node", "defaults")
    if where == "node" or key not in ("name", "address")
]


@pytest.mark.parametrize(("key", "where"), PLACES)
def test_cluster_toml(key: str, where: str) -> None:
    taken = set()
    for value in spelled(VALUES[key]):
        found = read(key, value, where)
        if isinstance(found, Node):
            assert arrived(key, found, value), (value, found)
            taken |= set(value)
    if key in ALLOWED:
        assert all(c in VALUES[key] or re.fullmatch(f"[{ALLOWED[key]}]", c) for c in taken), taken
    else:
        # A file's name goes to no node. What can be printed can be in it.
        assert taken >= {c for c in CHARACTERS if c.isprintable()}


@pytest.mark.parametrize("key", ["release", "arch"])
def test_names_at_the_top(key: str) -> None:
    for value in spelled("i386"):
        try:
            cluster = read_toml(PLACE, f"{key} = {toml(value)}\n{NODE_FILE}")
        except InputError as error:
            assert f"{PLACE}:1: " in error.message
            continue
        assert getattr(cluster, key) == value and re.fullmatch(r"[A-Za-z0-9._+-]+", value)


def test_characters_outside_of_texts() -> None:
    for text in spelled("session = 1") + spelled("nbmin = 1"):
        try:
            cluster = read_toml(PLACE, f"{text}\n{NODE_FILE.removeprefix('session = 1')}")
        except InputError as error:
            assert error.message.startswith(f"{PLACE}:")
            continue
        assert cluster.nodes_file().count("\n") == 3


def test_kerrighed_nodes() -> None:
    for number, base in enumerate(("session=1", "nbmin=1", "krg1:1:eth1"), 1):
        for line in spelled(base):
            lines = ["session=1", "nbmin=1", "krg1:1:eth1"]
            lines[number - 1] = line
            text = "\n".join(lines) + "\n"
            try:
                written = read_nodes_file(Path("/c/n"), text).nodes_file()
            except InputError as error:
                assert re.search(r"/c/n:[0-9]: |/c/n: (there is no|nbmin)", error.message), line
                assert all(c.isprintable() or c == "\n" for c in error.message)
                continue
            # Blanks, comments and line ends go; nothing else does.
            bare = re.sub(r"(^|[ \t])#.*", r"\1", text, flags=re.MULTILINE)
            stripped = [one.strip(" \t") for one in re.split(r"\r?\n", bare)]
            bare = "".join(f"{one}\n" for one in stripped if one)
            if "nbmin" not in bare:
                bare = bare.replace("\n", "\nnbmin=1\n", 1)
            bare = re.sub(r"[ \t]*([=:])[ \t]*", r"\1", bare)
            bare = re.sub(r"^((?:session|nbmin)=|.*:)0+([0-9])", r"\1\2", bare, flags=re.MULTILINE)
            assert written == bare, line


def test_node_sets() -> None:
    for base in ("krg[1-3]", "krg1,krg2", "192.168.0.[3-5]"):
        for text in spelled(base):
            try:
                names = parse_set(text)
            except InputError as error:
                assert "\n" not in error.message and error.message.isprintable()
                continue
            for name in names:
                assert re.fullmatch(r"[A-Za-z0-9_./-]+", name), (text, name)


def test_lists_of_hosts_and_logins() -> None:
    for text in spelled("root@host1:22"):
        login = parse_login(text)
        if login is not None:
            assert re.fullmatch(r"[A-Za-z0-9_.:@-]+", str(login))
            assert str(login).replace("0", "") == text.replace("0", "")
        try:
            assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", n.name) for n in read_hosts(text))
        except InputError as error:
            assert error.message.isprintable()


# --- what reaches GRUB and a shell --------------------------------------------------------

# All that append may hold, in words that would do harm if they were expanded.
WORDS = (
    "noapic",
    "a=b:c/d+e@f%g,h",
    "%s",
    "@x",
    "+1",
    "-x",
    "x=/bin/..",
    "_",
    "=",
    "c=ttyS0,115200n8",
)


def shells() -> list[list[str]]:
    found = [[shell] for shell in ("dash", "bash") if shutil.which(shell)]
    if shutil.which("busybox"):
        found.append(["busybox", "ash"])
    if not found:
        pytest.skip("no dash, bash or busybox: apt-get install dash busybox-static")
    return found


def words_of(line: str, shell: list[str], tmp_path: Path) -> list[str]:
    """Return the words that a shell makes of a line, run where a pattern would match files."""
    for name in ("noapic", "x", "b"):
        (tmp_path / name).touch()
    script = f'kernel() {{ printf \'%s\\n\' "$@"; }}\nlinux() {{ kernel "$@"; }}\n{line}\n'
    done = subprocess.run(
        [*shell, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


def test_the_words_are_all_that_may_be() -> None:
    taken = {c for c in CHARACTERS if isinstance(read("append", f"a{c}b", "node"), Node)}
    assert {c for c in taken if not c.isalnum()} - set(" \t") == {
        c for c in "".join(WORDS) if not c.isalnum()
    }


def test_kernel_arguments_arrive_in_grub_legacy(tmp_path: Path) -> None:
    node = Node("krg1", 1, "h", append=WORDS, root="/dev/cciss/c0d0p1", drop=("quiet", "vga"))
    place = Place({"/boot/grub/menu.lst": MENU_LST.replace(" ro\n", " ro quiet vga=791 splash\n")})
    place.make(node)
    text = place.texts["/boot/grub/menu.lst"].decode()
    (ours,) = [entry for entry in legacy.entries(text) if entry.ours]
    assert ours.kernel is not None
    (line,) = [one for one in text.split("\n") if f"vmlinuz-{RELEASE}" in one]
    for shell in shells():
        words = words_of(line, shell, tmp_path)
        assert words[1:] == list(ours.kernel.arguments)
        assert set(WORDS) <= set(words) and "root=/dev/cciss/c0d0p1" in words
        assert "splash" in words and not {"quiet", "vga=791"} & set(words)
    if shutil.which("grub-menulst2cfg") is None:
        pytest.skip("no grub-menulst2cfg: apt-get install grub-common")
    (tmp_path / "menu.lst").write_text(text)
    made = subprocess.run(
        ["grub-menulst2cfg", tmp_path / "menu.lst"], capture_output=True, text=True, check=True
    ).stdout
    for word in WORDS:
        assert re.search(rf"[' ]{re.escape(word)}[' \n]", made), word


def test_kernel_arguments_arrive_in_grub_2(tmp_path: Path) -> None:
    node = Node("krg1", 1, "h", append=WORDS, boot_loader="grub2", root="/dev/hda1")
    config = (CORPUS / "debian12.grub.cfg").read_text()
    place = Place({"/boot/grub/grub.cfg": config}, grub2="/boot/grub/grub.cfg")
    place.make(node)
    text = place.texts["/boot/grub/custom.cfg"].decode()
    (line,) = [one for one in text.split("\n") if f"vmlinuz-{RELEASE}" in one]
    for shell in shells():
        assert set(WORDS) <= set(words_of(line.strip(), shell, tmp_path))
    if shutil.which("grub-script-check") is None:
        pytest.skip("no grub-script-check: apt-get install grub-common")
    (tmp_path / "custom.cfg").write_text(text)
    subprocess.run(["grub-script-check", tmp_path / "custom.cfg"], check=True)


def test_settings_are_what_the_init_script_reads(tmp_path: Path) -> None:
    from provision.data import render

    for legacy_sched in (True, False):
        text = render("default_kerrighed.j2", legacy_sched=legacy_sched)
        (tmp_path / "kerrighed").write_text(text)
        for shell in shells():
            done = subprocess.run(
                [*shell, "-c", '. ./kerrighed; echo "$ENABLE|$LEGACY_SCHED|$ARGS"'],
                cwd=tmp_path, capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert done.stdout == f"true|{str(legacy_sched).lower()}|\n"


def test_what_people_are_told_to_run_can_be_run(tmp_path: Path) -> None:
    """Every character that a file's name may have, in the command for an unknown host key."""

    class Key:
        def asbytes(self) -> bytes:
            return b"key"

        def get_name(self) -> str:
            return "ssh-ed25519"

    name = "".join(c for c in CHARACTERS if c.isprintable() and c != "/")
    found = read("known_hosts", name, "node")
    assert isinstance(found, Node) and found.known_hosts is not None
    place = tmp_path / found.known_hosts.name
    with pytest.raises(UnknownKeyError) as caught:
        KnownKeys("[krg1]:2222", [place], shlex.quote(str(place))).check(Key())  # type: ignore[arg-type]
    assert caught.value.hint is not None
    command = caught.value.hint.split("the same: ")[1]
    for shell in shells():
        place.unlink(missing_ok=True)
        # Not all take a dash in a function's name.
        script = "scan() { printf '%s\\n' \"$@\"; }\n" + command.replace("ssh-keyscan", "scan")
        subprocess.run([*shell, "-c", script], check=True, cwd=tmp_path)
        assert place.read_text() == "-t\ned25519\n-p\n2222\nkrg1\n"
    assert [p.name for p in tmp_path.iterdir()] == [place.name]
