# SPDX-License-Identifier: GPL-2.0-or-later
"""The head node of a lab without disks: what it serves and refuses, what is its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Command
from test_diskless import CONFIG, make

from provision import artifacts, doctor
from provision.artifacts import Artifacts
from provision.errors import FailedError, InputError, MissingError
from provision.lab import evidence, fault, head, lifecycle, qemu, state
from provision.lab.state import Lab, LabNode

UUIDS = ("6c1e7f0e-8a35-4d6f-9a4b-0f4f3f3f9e55", "0b0f8f0c-57a4-4f61-8f4e-6a1d1d2f0a11")
HEAD = "2f0a77a1-6f53-4c58-9a55-b1c3a2f7d911"
KERNEL = "2.6.20-krg-b"
Standing = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def lab(home: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    # An SSH server takes minutes to build; that one logs in is seen in test_diskless.py.
    monkeypatch.setattr(head, "_ssh_server", lambda *_: ())
    nodes = tuple(LabNode(number, uuid) for number, uuid in enumerate(UUIDS, 1))
    made = Lab("krg", 9, "/b", "x86_64", KERNEL, 256, "tcg", 1.0, nodes, "pxelinux", HEAD)
    for node in nodes:
        made.path(node).mkdir(parents=True)
    return made


@pytest.fixture
def standing() -> Iterator[Standing]:
    """Return what starts processes that run until they are ended, with words of ours."""
    with ExitStack() as stack:

        def start(*words: str) -> subprocess.Popen[bytes]:
            argv = [sys.executable, "-c", "print(1, flush=True); input()", *words]
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None and process.stdout.readline() == b"1\n"
            return process

        yield start


def build(place: Path, config: str = CONFIG) -> Artifacts:
    make(place, "", config)
    return artifacts.load(place / "build")


# --- what it serves ------------------------------------------------------------------------


def test_it_serves_what_render_writes(lab: Lab, tmp_path: Path) -> None:
    head.lay_out(lab, build(tmp_path))
    served = lab.directory / head.SERVED
    for node in lab.nodes:
        entry = (served / "tftp/pxelinux.cfg" / head.entry(lab, node)).read_text()
        line = next(word for word in entry.splitlines() if "APPEND" in word).split()
        assert {f"node_id={node.number}", "session_id=9", "nb_nodes_min=2", "init=/init"} <= set(
            line
        )
        assert (
            f"ip=10.77.9.{node.number}:10.77.9.254::255.255.255.0:node{node.number}:eth0:off"
            in line
        )
        assert line.count("panic=10") == 1
    assert f"dhcp-host={lab.mac(lab.nodes[0])},10.77.9.1" in (served / "dnsmasq.conf").read_text()
    assert "Bind_addr = 10.77.9.254;" in (served / "ganesha.conf").read_text()
    assert (served / f"root/lib/modules/{KERNEL}/extra/kerrighed.ko").read_text() == "ko"


def test_a_kernel_without_the_driver_of_the_lab_s_cards(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs .*CONFIG_E1000=y") as caught:
        head.lay_out(lab, build(tmp_path, CONFIG.replace("E1000=y", "E1000=m")))
    assert "--set E1000=y" in str(caught.value.hint)


def test_what_an_earlier_run_left_is_no_evidence(lab: Lab, tmp_path: Path) -> None:
    log = lab.directory / "dnsmasq.log"
    node = lab.nodes[0]
    sent = f"dnsmasq-tftp[9]: sent /srv/krg-diskless/tftp/pxelinux.cfg/{head.entry(lab, node)} to "
    log.write_text(f"{sent}10.77.9.11\n{sent}10.77.9.2\n")
    assert head.was_served(lab, node) is None
    log.write_text(f"{sent}10.77.9.1\n")
    assert head.was_served(lab, node) == f"pxelinux.cfg/{head.entry(lab, node)}"
    head.lay_out(lab, build(tmp_path))
    assert head.was_served(lab, node) is None


def test_something_is_in_the_way(lab: Lab, tmp_path: Path) -> None:
    place = lab.directory / head.SERVED
    place.symlink_to(tmp_path)
    with pytest.raises(InputError, match=f"{place}: not a directory of a lab's"):
        lifecycle._lay_out(lab)
    assert place.is_symlink()


# --- which processes are its own -----------------------------------------------------------


def test_only_what_has_its_uuid_is_ended(lab: Lab, standing: Standing) -> None:
    """A pid file can name a stranger; who has the UUID is ended, pid file or not."""
    state.save(lab)
    stranger, started = standing("dnsmasq"), standing("unshare", HEAD)
    (lab.directory / state.HEAD_PID).write_text(f"{stranger.pid}\n")
    assert state.head_pid(lab) is None
    assert lifecycle.down("krg") == (0, lab.directory)
    assert started.wait(10) < 0 and stranger.poll() is None
    assert not (lab.directory / state.HEAD_PID).exists()


def test_a_lab_without_a_head_node_ends_nobody(lab: Lab, standing: Standing) -> None:
    """An empty word is on many command lines."""
    stranger = standing("")
    other = Lab("krg", 9, "/b", "x86_64", KERNEL, 256, "tcg", 1.0, lab.nodes, "pxelinux", "")
    (lab.directory / state.HEAD_PID).write_text(f"{stranger.pid}\n")
    head.stop(other)
    assert stranger.poll() is None


def test_processes_whose_directory_is_gone(lab: Lab, standing: Standing) -> None:
    taps = state.taps_of(lab.network)
    assert len(f"{taps}32") < 16
    found = [standing("head.sh", HEAD, taps), standing(*qemu.arguments(lab, lab.nodes[1], []))]
    standing(*qemu.arguments(Lab("other", *list(vars(lab).values())[1:]), lab.nodes[1], []))
    assert qemu.strays(lab.network) == sorted(process.pid for process in found)


def test_status_names_a_head_node_that_ended(lab: Lab, krg: Command) -> None:
    state.save(lab)
    done = krg("lab", "status")
    assert done.returncode == 1 and done.stdout.splitlines()[1].split()[:2] == ["head", "ended"]
    assert '"head": {\n  "state": "ended"' in krg("lab", "status", "--format", "json").stdout
    with pytest.raises(FailedError, match="head node of lab krg does not run: a server ended"):
        (lab.directory / "head.log").write_text("starting\na server ended\n")
        head.enter(lab)


def test_a_node_whose_kernel_panics_is_named_at_once(lab: Lab, standing: Standing) -> None:
    """It would try again until the time is up."""
    state.save(lab)
    for node in lab.nodes:
        process = standing(node.uuid)
        (lab.path(node) / "qemu.pid").write_text(f"{process.pid}\n")
    (lab.path(lab.nodes[0]) / qemu.CONSOLE_LOG).write_text(
        "VFS: Unable to mount root fs via NFS\r\nKernel panic - not syncing: VFS\r\n"
    )
    with pytest.raises(FailedError, match="node 1: its kernel panicked: Kernel panic - not sync"):
        lifecycle._wait_for_all(lab)


# --- what it refuses, and what it needs ----------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lab", "fault", "1", "diskfull"], "have no disks"),
        (["status", "--nodes", "lab:krg"], "in a network of their own"),
    ],
)
def test_what_makes_no_sense_here(lab: Lab, krg: Command, words: list[str], said: str) -> None:
    state.save(lab)
    done = krg(*words)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) <= 2


def test_ssh_goes_into_the_head_node_s_network(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "head_pid", lambda _: 77)
    argv = head.ssh_command(lab, lab.nodes[1], ["true"])
    assert argv[:5] == ["nsenter", "--target", "77", "--net", "ssh"]
    assert argv[-4:] == ["-p", "22", "root@10.77.9.2", "true"]


def test_the_power_can_be_cut(lab: Lab) -> None:
    with pytest.raises(FailedError, match="does not run"):
        fault.inflict(lab, lab.nodes[0], "powercut")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nodes", "0"], "--nodes 0: must be between 1 and 32"),
        (["--session", "256"], "--session 256"),
        (["--name", "../x"], "cannot name a lab"),
        (["--release", "kerrighed-9"], "no finished build of kerrighed-9"),
        (["--release", "x", "--artifacts", "."], "--release has nothing to choose"),
    ],
)
def test_bad_input(krg: Command, tmp_path: Path, words: list[str], said: str) -> None:
    choice = [] if "--release" in words else ["--artifacts", str(build(tmp_path).directory)]
    done = krg("lab", "diskless", "up", *choice, *words)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) <= 2


def test_only_root_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingError, match="only root may") as caught:
        head.check()
    assert "run it as root" in str(caught.value.hint)


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(doctor, "present", lambda need: need.tool not in ("dnsmasq", "ip"))
    with pytest.raises(MissingError, match="needs dnsmasq, ip, not on this machine") as caught:
        head.check()
    assert caught.value.hint == "apt-get install dnsmasq-base iproute2"


def test_servers_that_cannot_be_had(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise MissingError("Debian's archive did not answer", hint="check the network")

    monkeypatch.setattr(head, "_FILES", ("/no/such/file",))
    monkeypatch.setattr(head.DebianArchive, "unpack", refuse)
    with pytest.raises(
        MissingError, match=r"servers are not here, and: Debian's archive"
    ) as caught:
        head.tools()
    assert "apt-get install pxelinux syslinux-common rpcbind nfs-ganesha" in str(caught.value.hint)


def test_a_server_that_does_not_start_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script that stands for head.sh ends as that one does."""
    data = lab.directory / "data"
    data.mkdir()
    more = "       dmesg(1) may have more information"  # as mount says after its message
    script = f'echo $$ >head.pid; echo "mount: /srv: busy"; echo "{more}"; exit 1\n'
    (data / "head.sh").write_text(script)
    monkeypatch.setattr(head, "data_dir", lambda _: data)
    monkeypatch.setattr(head, "tools", lambda: Path("/"))
    monkeypatch.setattr(head, "_NAMESPACES", ())
    with pytest.raises(FailedError, match="does not serve: mount: /srv: busy") as caught:
        head.start(lab, Path("/dev/null"))
    assert str(lab.directory / "ganesha.log") in str(caught.value.hint)


def test_evidence_of_a_root_that_is_no_nfs(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "root=/dev/nfs\nrootfs / rootfs rw 0 0\n"
    monkeypatch.setattr(evidence, "_each", lambda *_: [(node, said) for node in lab.nodes])
    found = evidence._network_root(lab)
    assert [item.ok for item in found] == [False] * 4
    assert found[1].have == "no NFS" and found[0].have == "no entry, no BOOT_IMAGE="
