# SPDX-License-Identifier: GPL-2.0-or-later
"""pyinfra with the settings that a deploy writes, over the same hosts: for the comparison only.

It is no dependency of the project: it gets an environment of its own below the cache directory.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from fleet.hosts import Hosts

from provision.paths import cache_dir

VERSION = "3.10.0"
FILES = {
    "etc/kerrighed_nodes": "644",
    "etc/default/kerrighed": "644",
    "etc/init.d/kerrighed": "755",
}

_INVENTORY = """
hosts = [(name, {{"ssh_hostname": name, "ssh_user": "root", "ssh_key": {key!r},
                 "ssh_known_hosts_file": {known!r}, "ssh_strict_host_key_checking": "yes"}})
         for name in {names!r}]
"""
_OPERATION = """
files.put(name={path!r}, src={source!r}, dest="/{path}", mode="{mode}")
"""


def install() -> Path | str:
    """Return its program, installed if it was not; or why that cannot be."""
    place = cache_dir() / f"bench/pyinfra-{VERSION}"
    program = place / "bin/pyinfra"
    if program.exists():
        return program
    for argv in (
        [sys.executable, "-m", "venv", str(place)],
        [str(place / "bin/pip"), "install", "-q", "--disable-pip-version-check",
         f"pyinfra=={VERSION}"],
    ):  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(place, ignore_errors=True)
            said = (done.stderr or done.stdout).strip().splitlines()
            return f"pyinfra {VERSION} could not be installed: {said[-1] if said else argv[0]}"
    return program


def prepare(hosts: Hosts, program: Path, forks: int, top: Path) -> list[str]:
    """Write its inventory and operations, for files as they are on the first host now.

    :return: the command line that puts them onto all hosts.
    """
    place = top / "pyinfra"
    place.mkdir()
    names = [host.address for host in hosts.hosts]
    (place / "inventory.py").write_text(
        _INVENTORY.format(key=str(hosts.key), known=str(hosts.known_hosts), names=names)
    )
    text = "from pyinfra.operations import files\n"
    for path, mode in FILES.items():
        source = place / path.replace("/", "_")
        source.write_bytes(hosts.hosts[0].path(path).read_bytes())
        text += _OPERATION.format(path=path, source=str(source), mode=mode)
    (place / "operations.py").write_text(text)
    return hosts.client.command(
        str(program), "-y", "--parallel", str(forks), str(place / "inventory.py"),
        str(place / "operations.py"),
    )  # fmt: skip


def changed_nothing(said: str, count: int) -> bool:
    """Tell from what it printed whether all files were right on so many hosts."""
    return len(re.findall(r"\] +No changes", said)) == count * len(FILES)
