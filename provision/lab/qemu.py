# SPDX-License-Identifier: GPL-2.0-or-later
"""Start and stop one QEMU per node.

QEMU puts itself into the background once its devices are set up, so what is wrong with
them is this program's to report. It is asked to quit through its own control socket
(QMP) first, then ended by signals.
"""

from __future__ import annotations

import contextlib
import errno
import json
import secrets
import shutil
import signal
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provision.errors import FailedError, MissingError
from provision.lab import agent, state
from provision.lab.state import Lab, LabNode, process
from provision.runner import LocalRunner

# Nothing of the guest is faster than its emulation: one processor each. The IO-APIC's
# timer check fails once in some dozen emulated boots, hence noapic. A panic ends QEMU.
KERNEL_LINE = "console=ttyS0,115200 panic=10 noapic"
# Without HPET: x86-64 of 2.6.20 takes its comparator for one that goes on by itself, and where QEMU
# has not moved it yet, waits for the 32-bit counter to come round: 43 s at 100 MHz, in one of some
# ten boots (setup_APIC_timer in arch/x86_64/kernel/apic.c).
MACHINE = "pc,hpet=off"
# Nodes with a disk boot Debian's 64-bit kernel first, whatever the build is for.
CPU: dict[bool, dict[str, str]] = {False: {"x86_64": "qemu64", "i386": "pentium3"}, True: {}}
CONSOLE_LOG = "console.log"
DISK = "disk.qcow2"


def program(arch: str) -> str:
    """Return the path of a QEMU that runs kernels of ``arch``; MissingError if there is none."""
    names = ["qemu-system-x86_64"]
    if arch == "i386":
        names.append("qemu-system-i386")
    for name in names:
        if found := shutil.which(name):
            return found
    raise MissingError(
        f"{names[0]}: not found on this machine", hint="apt-get install qemu-system-x86"
    )


def arguments(lab: Lab, node: LabNode, boot: Sequence[str]) -> list[str]:
    """Return QEMU's arguments for a node; the working directory is the node's own.

    Sockets have relative names, because a socket's name is limited to 108 bytes.

    :param boot: what it boots from: ``kernel_boot``, ``disk_boot`` or ``NETWORK_BOOT``.
    """
    return [
        *("-name", f"krg-lab-{lab.name}-{node.number}", "-uuid", node.uuid),
        *("-M", MACHINE, "-accel", lab.accel, "-cpu", CPU[lab.has_disks].get(lab.arch, "qemu64")),
        *("-m", str(lab.memory), "-smp", "1", "-display", "none"),
        *boot,
        *(
            "-chardev",
            f"socket,id=console,path=console.sock,server=on,wait=off,"
            f"logfile={CONSOLE_LOG},logappend=off",
        ),
        *("-serial", "chardev:console"),
        *("-chardev", "socket,id=agent,path=agent.sock,server=on,wait=off"),
        *("-serial", "chardev:agent"),
        *("-qmp", "unix:qmp.sock,server=on,wait=off", "-monitor", "none"),
        *_cluster_card(lab, node),
        *("-daemonize", "-pidfile", "qemu.pid"),
    ]


def _cluster_card(lab: Lab, node: LabNode) -> list[str]:
    """Return the card of the cluster's network; a node that boots over it needs the card's ROM."""
    device = f"e1000,netdev=cluster,mac={lab.mac(node)},addr=0x4"
    if lab.is_diskless:
        return ["-netdev", _tap(lab.network, str(node.number)), "-device", device]
    return ["-netdev", _multicast(lab.network), "-device", f"{device},romfile="]


def _multicast(network: tuple[str, int]) -> str:
    group, port = network
    return f"socket,id=cluster,mcast={group}:{port},localaddr=127.0.0.1"


def _tap(network: tuple[str, int], number: str) -> str:
    return f"tap,id=cluster,script=no,downscript=no,ifname={state.taps_of(network)}{number}"


def strays(network: tuple[str, int]) -> list[int]:
    """Return the ids of all processes on a network that one lab alone uses.

    Where no state file knows of them, they are what is left of a lab whose directory was
    removed: they would be taken for nodes of the new one.
    """
    exact = {_multicast(network).encode(), state.taps_of(network).encode()}
    tap = _tap(network, "").encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if any(word in exact or word.startswith(tap) for word in words):
                found.append(int(path.parent.name))
    return sorted(found)


def kernel_boot(lab: Lab, node: LabNode, kernel: Path, initrd: Path) -> list[str]:
    """Return the arguments of a node that QEMU gives its kernel; a panic ends it."""
    line = f"{KERNEL_LINE} session_id={lab.session} node_id={node.number}"
    return ["-no-reboot", "-kernel", str(kernel), "-initrd", str(initrd), "-append", line]


def disk_boot(lab: Lab, node: LabNode) -> list[str]:
    """Return the arguments of a node with a disk, and a card for its SSH server.

    The card's network ends here: nothing leads out, and only one port in. It is the first,
    so eth0; the cluster's is eth1.
    """
    mac = lab.mac(node).replace(":00:", ":01:", 1)
    forward = f"hostfwd=tcp:127.0.0.1:{node.port}-:22"
    return [
        *("-drive", f"file={DISK},format=qcow2,if=ide,index=0", "-boot", "c"),
        *("-netdev", f"user,id=management,restrict=on,{forward}"),
        *("-device", f"e1000,netdev=management,mac={mac},romfile=,addr=0x3"),
        # It does nothing until a driver for it is loaded and its device is opened.
        *("-device", "i6300esb,addr=0x5", "-watchdog-action", "reset"),
    ]


# The BIOS asks the card's ROM, which asks the head node; a node that restarts does so again.
NETWORK_BOOT = ("-boot", "n")


def start(lab: Lab, node: LabNode, boot: Sequence[str], enter: Sequence[str] = ()) -> None:
    """Start a node's QEMU; it runs on when this program ends.

    :param boot: what it boots from: ``kernel_boot``, ``disk_boot`` or ``NETWORK_BOOT``.
    :param enter: the command that runs it in the network that it belongs to.
    :raises FailedError: QEMU refused.
    """
    argv = [*enter, program(lab.arch), *arguments(lab, node, boot)]
    result = LocalRunner().run(argv, cwd=lab.path(node), timeout=60, check=False)
    if not result.ok:
        said = result.output.strip().splitlines()[-1:] or ["no output"]
        # Between the look for a free port and QEMU's start somebody else can take it.
        taken = "host forwarding" in said[0]
        raise FailedError(
            f"node {node.number}: QEMU did not start: {said[0]}",
            hint="its port was taken meanwhile: lab up looks for a free one" if taken else None,
        )


def stop(lab: Lab, node: LabNode) -> bool:
    """End a node's QEMU if it runs; tell whether it did."""
    with process(lab, node) as running:
        if running is None:
            return False
        asked = False
        with contextlib.suppress(FailedError, OSError, ValueError):
            _quit(lab.path(node))
            asked = True
        polite = 5.0 if asked else 0.0
        for number, patience in ((None, polite), (signal.SIGTERM, 5.0), (signal.SIGKILL, 10.0)):
            if number is not None:
                running.signal(number)
            if running.ended(patience):
                break
        else:
            raise FailedError(f"node {node.number}: process {running.pid} cannot be ended")
    for name in ("qemu.pid", "console.sock", "agent.sock", "qmp.sock"):
        (lab.path(node) / name).unlink(missing_ok=True)
    return True


def _quit(directory: Path) -> None:
    command(directory, ("quit", {}))


def command(directory: Path, *commands: tuple[str, Mapping[str, object]]) -> None:
    """Give a node's QEMU commands through its control socket (QMP), each with its arguments.

    :raises FailedError: it does not run, does not answer, or refuses one.
    """
    with agent.connect(directory, "qmp.sock", 3.0) as link, link.makefile("rw") as stream:
        stream.readline()  # the greeting
        for name, values in (("qmp_capabilities", {}), *commands):
            stream.write(json.dumps({"execute": name, "arguments": dict(values)}) + "\n")
            stream.flush()
            answer: dict[str, Any] = {"event": ""}
            while "event" in answer:
                answer = json.loads(stream.readline() or "{}")
            if "error" in answer:
                raise FailedError(f"{directory.name}: QEMU: {answer['error'].get('desc')}")


def check_network(network: tuple[str, int]) -> None:
    """Send one multicast packet over loopback and receive it, as the nodes will.

    :raises MissingError: it does not arrive, or another program has the port.
    """
    group, port = network
    where = socket.inet_aton("127.0.0.1")
    token = secrets.token_bytes(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        try:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            link.bind((group, port))
            member = struct.pack("4s4s", socket.inet_aton(group), where)
            link.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            link.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, where)
            link.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            link.sendto(token, (group, port))
            deadline = time.monotonic() + 3
            while (left := deadline - time.monotonic()) > 0:
                link.settimeout(left)
                if link.recv(2048) == token:
                    return
            said = "nothing arrived"
        except OSError as error:
            # QEMU shares its port with others of its network; who does not is no node.
            if error.errno == errno.EADDRINUSE:
                raise MissingError(
                    f"UDP port {port}, the network of this lab, is in use by another program",
                    hint="take another --name: each has a port of its own",
                ) from error
            said = str(error)
    raise MissingError(
        f"multicast over loopback does not work here ({said}), and the nodes' network is that",
        hint="ip link set lo up; look for a packet filter that drops multicast on lo",
    )


def panicked(lab: Lab, node: LabNode) -> bool:
    """Tell whether the last of a node's console is a kernel's panic."""
    return any("Kernel panic" in line for line in console_tail(lab, node, 60))


def console_tail(lab: Lab, node: LabNode, lines: int = 5) -> list[str]:
    """Return the last lines of a node's console."""
    try:
        raw = (lab.path(node) / CONSOLE_LOG).read_bytes()[-8192:]
    except OSError:
        return []
    text = raw.decode("utf-8", "replace").replace("\r", "")
    return [line for line in text.splitlines() if line.strip()][-lines:]
