# SPDX-License-Identifier: GPL-2.0-or-later
"""The way back from a trial, started by a systemd that boots: Debian in QEMU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import systemd_boot
from debian_root import Root, root
from test_deadman_init import armed, install

from provision import deadman
from provision.data import render

pytestmark = [pytest.mark.debian, pytest.mark.slow]

UNIT = """\
[Unit]
Description=What the test wants to know
[Service]
Type=oneshot
ExecStart=/bin/sh /check
StandardOutput=tty
TTYPath=/dev/console
[Install]
WantedBy=multi-user.target
"""
# Once confirmed, what waits ends, and the unit stays what it is.
CHECK = """\
cd /var/lib/krg-provision
say() { echo "check: $*"; }
say before: $(ls) $(systemctl is-active krg-provision-trial)
say after $(systemctl show -p ActiveEnterTimestampMonotonic --value sysinit.target)
say settle: $(sh /settle)
while grep -q . /sys/fs/cgroup/system.slice/krg-provision-trial.service/cgroup.procs; do
    sleep 1
done
say later: $(ls) $(systemctl is-active krg-provision-trial)
say failed: $(systemctl --failed --no-legend --plain | grep krg)
systemctl poweroff
"""


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Root]:
    with root(tmp_path, include=("systemd-sysv",)) as made:
        yield made


def test_a_node_without_one_of_its_file_systems_comes_back(system: Root, tmp_path: Path) -> None:
    """It stays in its emergency mode, where nothing but the script is left to restart it."""
    kernel = systemd_boot.kernel()
    install(armed("systemd 252", release=kernel.release, seconds=5), system.path)
    system.file("/etc/fstab").write_text(
        "/dev/nothing /srv ext4 defaults,x-systemd.device-timeout=1s 0 2\n"
    )
    systemd_boot.pack(system.path, tmp_path / "image")
    said = systemd_boot.boot(kernel, tmp_path / "image")
    assert f"{kernel.release} is on trial: back in 5 s unless it is confirmed" in said, said
    assert "emergency" in said.lower() and "reboot: Restarting system" in said, said
    # In order: systemd ended all units, ours among them.
    assert re.search(r"Stopped .*krg-provision-trial|Reached target .*[Rr]eboot", said), said


def test_a_confirmed_trial_stays(system: Root, tmp_path: Path) -> None:
    kernel = systemd_boot.kernel()
    install(armed("systemd 252", release=kernel.release), system.path)
    settle = render("trial_settle.sh.j2", state=deadman.STATE, clear=False)
    for name, text in (("settle", settle), ("check", CHECK)):
        system.file(f"/{name}").write_text(text)
    place = system.file("/etc/systemd/system/check.service")
    place.write_text(UNIT)
    wants = system.file("/etc/systemd/system/multi-user.target.wants")
    wants.mkdir(exist_ok=True)
    (wants / "check.service").symlink_to("/etc/systemd/system/check.service")
    systemd_boot.pack(system.path, tmp_path / "image")
    said = systemd_boot.boot(kernel, tmp_path / "image")
    heard = [line.partition("check: ")[2] for line in said.splitlines() if "check: " in line]
    assert "before: trial-log trial-running active" in heard, said
    assert "settle: confirmed" in heard and "later: trial-log active" in heard, heard
    assert "failed:" in [line.strip() for line in heard], heard
    assert "reboot: Power down" in said, said
