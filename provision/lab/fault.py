# SPDX-License-Identifier: GPL-2.0-or-later
"""Do to a lab node what happens to real ones.

From outside, by QEMU: the power, the wire, a machine that stops. From inside, through the
agent: a panic and a full disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from provision.errors import FailedError, InputError
from provision.lab import agent, qemu, state
from provision.lab.state import Lab, LabNode

_FILL = "/var/lab-fill"
_SECONDS = 60.0


def inflict(lab: Lab, node: LabNode, kind: str) -> None:
    """Do ``kind`` (see ``KINDS``) to a running node.

    :raises InputError: no such fault, or one that only a node with a disk can have.
    :raises FailedError: the node does not run or does not answer.
    """
    if kind not in KINDS:
        raise InputError(f"{kind}: no such fault; there are {', '.join(KINDS)}")
    # A node that boots from the network does so again when the power is back.
    lacks = {"diskfull", "freeze"} | (set() if lab.is_diskless else {"powercut"})
    if not lab.has_disks and kind in lacks:
        raise InputError(f"{kind}: the nodes of lab {lab.name} have no disks")
    if state.pid(lab, node) is None:
        raise FailedError(f"node {node.number} of lab {lab.name} does not run")
    KINDS[kind][1](lab, node)


def _panic(lab: Lab, node: LabNode) -> None:
    try:
        agent.run(lab.path(node), "kill -QUIT 1", 5.0)
    except agent.SilentError:
        return  # as it should be


def _hang(lab: Lab, node: LabNode) -> None:
    qemu.command(lab.path(node), ("stop", {}))


def _freeze(lab: Lab, node: LabNode) -> None:
    # Newer kernels do not turn interrupts off for a program, which says so and ends.
    try:
        result = agent.run(lab.path(node), "lab-freeze", 10.0)
    except agent.SilentError:
        return  # as it should be
    raise FailedError(
        f"node {node.number} of lab {lab.name} does not freeze: {result.output.strip() or 'alive'}",
        hint="its kernel is newer than Linux 5.4; take hang",
    )


def _powercut(lab: Lab, node: LabNode) -> None:
    # The order matters: a machine that was stopped must not go on before it starts anew.
    qemu.command(lab.path(node), ("system_reset", {}), ("cont", {}))


def _wire(lab: Lab, node: LabNode, up: bool) -> None:
    names = ["cluster", *(["management"] if lab.has_disks else [])]
    qemu.command(lab.path(node), *(("set_link", {"name": n, "up": up}) for n in names))


def _netcut(lab: Lab, node: LabNode) -> None:
    _wire(lab, node, up=False)


def _diskfull(lab: Lab, node: LabNode) -> None:
    # The last blocks take small writes, and root has the file system's reserve too.
    fill = "dd if=/dev/zero bs=64k; dd if=/dev/zero bs=1k; sync"
    agent.run(lab.path(node), f"({fill}) >>{_FILL} 2>/dev/null", _SECONDS)


def _mend(lab: Lab, node: LabNode) -> None:
    qemu.command(lab.path(node), ("cont", {}))
    _wire(lab, node, up=True)
    if lab.has_disks:
        agent.run(lab.path(node), f"rm -f {_FILL}; sync", _SECONDS)


# name -> what it is, and how it is done
KINDS: Mapping[str, tuple[str, Callable[[Lab, LabNode], None]]] = {
    "panic": ("the kernel panics", _panic),
    "hang": ("the machine stops where it is", _hang),
    "freeze": ("the kernel hangs; its watchdog runs on", _freeze),
    "powercut": ("power off and on, nothing is written first", _powercut),
    "netcut": ("no packet in or out", _netcut),
    "diskfull": ("no space left on /", _diskfull),
    "mend": ("goes on after hang, netcut and diskfull", _mend),
}
