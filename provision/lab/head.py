# SPDX-License-Identifier: GPL-2.0-or-later
"""The head node of a lab without disks: DHCP, TFTP and NFS for its nodes, and for nobody else.

What it serves is what ``diskless render`` writes. Its servers run in namespaces of their own
(network, mounts, processes; head.sh is the first process there), whose network leads nowhere.
When that first process ends, the kernel ends all others of them, so nothing can be left.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from provision import diskless, doctor, rendered
from provision.artifacts import Artifacts
from provision.atomic import write_text
from provision.cluster import read_cluster
from provision.console import say
from provision.data import data_dir, render
from provision.debian_archive import DebianArchive
from provision.errors import FailedError, MissingError
from provision.lab import disk_node, state
from provision.lab.state import Lab, LabNode
from provision.lab.userland import dropbear
from provision.musl import Arch
from provision.paths import cache_dir
from provision.plan import Wanted, text_wanted
from provision.runner import LocalRunner

DRIVER = "E1000"
SERVED = "served"
LOGS = ("head.log", "dnsmasq.log", "ganesha.log")
READY = "head.ready"
START_SECONDS = 60.0
# Its address is the network's last but one, whatever the number of nodes.
_NUMBER = 254
# The lab's userland, on a root that is none of a ramdisk; then as in qemu.KERNEL_LINE.
_ARGUMENTS = "init=/init console=ttyS0,115200 noapic"
_TOOLS = ("dnsmasq", "ip", "cpio")
# Taken from the packages, unpacked aside: installed, two of them would start servers.
_PACKAGES = ("pxelinux", "syslinux-common", "rpcbind", "nfs-ganesha", "nfs-ganesha-vfs")
_FILES = (*diskless.LOADER, "/usr/bin/ganesha.nfsd", "/usr/bin/rpcinfo")
_PLUGIN = "usr/lib/*/ganesha/libfsalvfs.so"
# What the head node does first. It fails where the rights are missing, in many containers too.
_TRIAL = (
    "mount -t tmpfs none /srv && mknod /srv/null c 1 3 && ip link add br0 type bridge && "
    "ip tuntap add dev t0 mode tap"
)
_NAMESPACES = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child")


def address(lab: Lab, number: int = _NUMBER) -> str:
    """Return an address in the lab's network: of a node by its number, or of the head node."""
    return f"10.77.{lab.session}.{number}"


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


def check() -> None:
    """Check that this machine can run a head node.

    A user namespace would not do: its root can make no device nodes, and those of the nodes'
    root are on the server.

    :raises MissingError: not root, a program or a right is missing.
    """
    if os.geteuid() != 0:
        raise MissingError(
            "lab diskless makes networks, mounts and device nodes, and only root may",
            hint="run it as root, which has builds and labs of its own: "
            "krg-provision lab diskless up --artifacts DIR",
        )
    needs = {need.tool: need for need in doctor.load() if need.command == "lab"}
    lacks = [needs[name] for name in _TOOLS if not doctor.present(needs[name])]
    if lacks:
        raise MissingError(
            f"lab diskless needs {', '.join(need.tool for need in lacks)}, not on this machine",
            hint=f"apt-get install {' '.join(doctor.packages(lacks))}",
        )
    argv = [*_NAMESPACES, "sh", "-c", _TRIAL]
    tried = LocalRunner().run(argv, env={"PATH": _path()}, timeout=60, check=False)
    if not tried.ok:
        said = tried.output.strip().splitlines()[-1:] or [f"status {tried.status}"]
        raise MissingError(
            f"namespaces for a head node cannot be made here: {said[0]}",
            hint="modprobe -a tun bridge; a container must be privileged and have /dev/net/tun",
        )


def tools() -> Path:
    """Return where the servers and pxelinux are: this machine's own, or unpacked from Debian.

    :raises MissingError: they are neither here nor in reach.
    """
    if all(Path(file).exists() for file in _FILES) and any(Path("/").glob(_PLUGIN)):
        return Path("/")
    key = hashlib.sha256(" ".join(_PACKAGES).encode()).hexdigest()[:12]
    target = cache_dir() / "lab" / f"head-{key}"
    if target.is_dir():
        return target
    say(f"fetching {', '.join(_PACKAGES)}: unpacked aside, not installed")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".head-") as scratch:
            made = Path(scratch) / "made"
            _unpack(DebianArchive(cache_dir() / "debian"), made)
            made.chmod(0o755)
            try:
                made.rename(target)
            except OSError:  # another run was faster
                if not target.is_dir():
                    raise
    except MissingError as error:
        raise MissingError(
            f"the head node's servers are not here, and: {error.message}",
            hint=f"{error.hint or ''}; or apt-get install {' '.join(_PACKAGES)}".lstrip("; "),
        ) from error
    return target


def _unpack(archive: DebianArchive, target: Path) -> None:
    """Unpack the packages and the libraries that they need, but for the C library."""
    left, seen = list(_PACKAGES), {"libc6", "libgcc-s1"}
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            archive.unpack(name, target)
            left += [need for need in archive.depends(name) if need.startswith("lib")]


def lay_out(lab: Lab, build: Artifacts) -> None:
    """Write the lab's cluster.toml, and what "diskless render" makes of it, into its directory.

    :raises InputError: this build's kernel cannot mount its root over NFS, or lacks the driver.
    """
    for name in LOGS:  # the servers add to what is there, and what they say is evidence
        (lab.directory / name).unlink(missing_ok=True)
    config = build.path("config").read_text("utf-8", "replace")
    diskless.check_kernel(build, config, [DRIVER])
    nodes = [_row(lab, node) for node in lab.nodes]
    values = {"lab": lab, "release": build.release, "arguments": _ARGUMENTS, "nodes": nodes}
    names = {"key": disk_node.KEY, "known_hosts": disk_node.KNOWN_HOSTS}
    write_text(lab.cluster_file, render("lab_diskless_toml.j2", **values, **names))
    server = diskless.Head(ipaddress.IPv4Interface(f"{address(lab)}/{diskless.PREFIX}"))
    wanted = diskless.files(read_cluster(lab.cluster_file), build, server, config)
    wanted += _ssh_server(lab, cast(Arch, build.arch))
    place = lab.directory / SERVED
    rendered.write(place, "diskless", wanted, rendered.plan(place, "diskless", wanted))


def _ssh_server(lab: Lab, arch: Arch) -> tuple[Wanted, ...]:
    """Return what is added to the nodes' root so that "lab ssh" can log in; make the keys."""
    authorized = disk_node.client_key(lab.directory / disk_node.KEY)
    secret, public = disk_node.host_key()
    hosts = ",".join(address(lab, node.number) for node in lab.nodes)
    write_text(lab.directory / disk_node.KNOWN_HOSTS, f"{hosts} {public}\n")
    return (
        text_wanted("/root/usr/sbin/dropbear", dropbear(arch).read_bytes(), 0o755),
        # Their root is one, so their host key is.
        text_wanted("/root/etc/dropbear/dropbear_ed25519_host_key", secret, 0o600),
        text_wanted("/root/etc/dropbear/authorized_keys", f"{authorized}\n".encode(), 0o600),
        text_wanted("/root/etc/shells", b"/bin/sh\n"),
    )


def ssh_command(lab: Lab, node: LabNode, command: Sequence[str]) -> list[str]:
    """Return the command line that logs in to a node, from inside its network.

    :raises FailedError: the head node does not run.
    """
    words = disk_node.ssh_command(lab, node, command, address(lab, node.number))
    return [*enter(lab), *words]


def _row(lab: Lab, node: LabNode) -> dict[str, object]:
    return {
        # As the node's start script names it.
        "name": f"node{node.number}",
        "id": node.number,
        "address": address(lab, node.number),
        "mac": lab.mac(node),
    }


def start(lab: Lab, image: Path) -> None:
    """Start the head node and wait until it serves; it runs on when this program ends.

    :param image: the initramfs with the lab's userland, which goes into the nodes' root.
    :raises FailedError: a server does not start.
    """
    env = {
        "PATH": _path(),
        "INITRAMFS": str(image),
        "TOOLS": str(tools()),
        "ADDRESS": address(lab),
        "COUNT": str(len(lab.nodes)),
    }
    words = (lab.head, state.taps_of(lab.network))
    argv = [*_NAMESPACES, "sh", str(data_dir("lab") / "head.sh"), *words]
    # Its output is a file's, so that the runner, which waits for its end, need not.
    script = 'exec </dev/null >head.log 2>&1; "$@" &'
    LocalRunner().run(["sh", "-c", script, "sh", *argv], cwd=lab.directory, env=env, timeout=60)
    deadline = time.monotonic() + START_SECONDS
    while not (lab.directory / READY).exists():
        # First the file, then the look: who has written it and does not run has ended.
        begun = _text(lab, state.HEAD_PID).endswith("\n")
        ended = begun and state.head_pid(lab) is None
        if ended or time.monotonic() > deadline:
            raise FailedError(
                f"the head node does not serve: {_last(lab)}",
                hint="its logs: " + " ".join(str(lab.directory / name) for name in LOGS),
            )
        time.sleep(0.1)
    say(f"head node: serves DHCP, TFTP and NFS at {address(lab)}, in a network of its own")


def _last(lab: Lab) -> str:
    # What mount adds to its message in a second line says where to look on.
    lines = [line for line in _text(lab, LOGS[0]).splitlines() if line[:1].strip()]
    return lines[-1] if lines else f"not within {START_SECONDS:.0f} s"


def _text(lab: Lab, name: str) -> str:
    try:
        return (lab.directory / name).read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""


def enter(lab: Lab) -> list[str]:
    """Return the command that runs a program in the head node's network.

    :raises FailedError: the head node does not run.
    """
    pid = state.head_pid(lab)
    if pid is None:
        raise FailedError(f"the head node of lab {lab.name} does not run: {_last(lab)}")
    return ["nsenter", "--target", str(pid), "--net"]


def entry(lab: Lab, node: LabNode) -> str:
    """Return the name of the node's file in pxelinux.cfg."""
    return "01-" + lab.mac(node).replace(":", "-")


def was_served(lab: Lab, node: LabNode) -> str | None:
    """Return which file of pxelinux.cfg the node was given, by dnsmasq's log; None if none."""
    said = _text(lab, "dnsmasq.log")
    place = f"pxelinux.cfg/{entry(lab, node)}"
    return place if f"/{place} to {address(lab, node.number)}\n" in said else None


def stop(lab: Lab) -> None:
    """End the head node if it runs, with all that it started, and remove what it served.

    Also one that was just being started when this program was killed: it has written no id yet.
    """
    with state.head(lab) as running:
        if running is not None:
            _end(running, signal.SIGTERM, signal.SIGKILL)
    with state.head_remains(lab) as remains:
        for process in remains:
            _end(process, signal.SIGKILL)
    clear(lab)


def _end(process: state.Process, *signals: signal.Signals) -> None:
    for number in signals:
        process.signal(number)
        if process.ended(5.0):
            return
    raise FailedError(f"the head node: process {process.pid} cannot be ended")


def clear(lab: Lab) -> None:
    """Remove what a head node that has ended, or was killed, left; its logs stay."""
    for name in (READY, state.HEAD_PID):
        (lab.directory / name).unlink(missing_ok=True)
    place = lab.directory / SERVED
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
