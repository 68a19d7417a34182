# SPDX-License-Identifier: GPL-2.0-or-later
"""What a lab's nodes with disks need besides the common image: keys, disks, and a cluster file.

The cluster file makes the lab a cluster like any other for deploy, status and the rest.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from provision import artifacts
from provision.atomic import write_bytes, write_text
from provision.data import render
from provision.errors import FailedError
from provision.lab import disk_image
from provision.lab.disk_tree import node_files
from provision.lab.qemu import DISK
from provision.lab.state import CLUSTER, Lab, LabNode
from provision.lab.userland import dropbear
from provision.runner import LocalRunner

KEY = "id_ed25519"
KNOWN_HOSTS = "known_hosts"


def node_name(lab: Lab, number: int) -> str:
    """Return a node's host name: krg1, and lab2-1 where the lab's name ends in a digit."""
    dash = "-" if lab.name[-1].isdigit() else ""
    return f"{lab.name}{dash}{number}"


def lay_out(lab: Lab, base: Path) -> None:
    """Make each node's disk, and the lab's key, known_hosts and cluster.toml.

    :raises FailedError: a disk or key cannot be made.
    """
    authorized = client_key(lab.directory / KEY)
    known = []
    for node in lab.nodes:
        secret, public = host_key()
        known.append(f"[127.0.0.1]:{node.port} {public}\n")
        files = node_files(
            name=node_name(lab, node.number),
            number=node.number,
            session=lab.session,
            host_key=secret,
            authorized=authorized,
        )
        disk_image.layer(base, lab.path(node) / DISK, files)
    write_text(lab.directory / KNOWN_HOSTS, "".join(known))
    nodes = [{"name": node_name(lab, n.number), "id": n.number, "port": n.port} for n in lab.nodes]
    build = artifacts.load(Path(lab.build))
    text = render(
        "lab_cluster_toml.j2",
        lab=lab,
        nodes=nodes,
        key=KEY,
        known_hosts=KNOWN_HOSTS,
        release=build.release,
        root=_root(build.path("config").read_text("utf-8", "replace")),
    )
    write_text(lab.cluster_file, text)


def _root(config: str) -> str:
    """Return what a kernel calls the partition of QEMU's IDE disk: libata's disks are SCSI's."""
    return "hda1" if re.search(r"^CONFIG_BLK_DEV_IDEDISK=y$", config, re.MULTILINE) else "sda1"


def ssh_command(
    lab: Lab, node: LabNode, command: Sequence[str], address: str = "127.0.0.1"
) -> list[str]:
    """Return the command line that logs in to a node; the user's own settings stay out of it."""
    options = {
        "UserKnownHostsFile": f'"{lab.directory / KNOWN_HOSTS}"',
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "LogLevel": "ERROR",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    place = ["-i", str(lab.directory / KEY), "-p", str(node.port or 22), f"root@{address}"]
    return ["ssh", "-F", "none", *words, *place, *command]


def remove(lab: Lab) -> None:
    """Remove the disks, the keys and the cluster file of a lab that has ended."""
    for node in lab.nodes:
        (lab.path(node) / DISK).unlink(missing_ok=True)
    for name in (KEY, KNOWN_HOSTS, CLUSTER):
        (lab.directory / name).unlink(missing_ok=True)


def client_key(path: Path) -> str:
    """Make the key that logs in to every node; return its public half in one line."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    write_bytes(path, private, 0o600)
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    return public.decode("ascii")


def host_key() -> tuple[bytes, str]:
    """Return a new host key in dropbear's own format, and its public half as known_hosts has it."""
    with tempfile.TemporaryDirectory(prefix="krg-host-key-") as scratch:
        path = Path(scratch) / "key"
        # The server's own program, as it is on this machine: statically linked, so it runs.
        argv = [str(dropbear("x86_64")), "dropbearkey", "-t", "ed25519", "-f", str(path)]
        said = LocalRunner().run(argv, timeout=60).output
        lines = [line for line in said.splitlines() if line.startswith("ssh-ed25519 ")]
        if not lines:
            raise FailedError("dropbearkey printed no public key")
        return path.read_bytes(), " ".join(lines[0].split()[:2])
