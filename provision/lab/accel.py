# SPDX-License-Identifier: GPL-2.0-or-later
"""Decide whether KVM may run a lab's nodes: only if this very kernel is seen to boot in it.

Under nested virtualisation 2.6.20 was seen to hang right after the BIOS, and nothing but
a try tells. The answer is kept for this kernel on this host kernel and processor.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import re
import tempfile
import time
import uuid
from pathlib import Path

from provision.artifacts import Artifacts
from provision.atomic import write_text
from provision.console import say
from provision.errors import FailedError, MissingError
from provision.lab import qemu, state
from provision.lab.state import Lab, LabNode
from provision.paths import cache_dir

DEVICE = Path("/dev/kvm")
TRIAL_SECONDS = 60.0
# A kernel that runs at all has said much by then: one that hangs has said nothing.
SILENCE_SECONDS = 8.0


def choose(wish: str, artifacts: Artifacts, image: Path | None) -> str:
    """Return "tcg" or "kvm" for the wish "auto", "tcg" or "kvm".

    :param image: the initramfs to try it with; None when there is none for this build.
    :raises MissingError: KVM is wished for and cannot be opened.
    """
    usable = os.access(DEVICE, os.R_OK | os.W_OK)
    if wish == "kvm" and not usable:
        raise MissingError(
            f"{DEVICE} is missing or not accessible",
            hint="enable virtualisation, join the group kvm, or use --accel tcg",
        )
    if wish != "auto":
        return wish
    return "kvm" if usable and image is not None and _proven(artifacts, image) else "tcg"


def _proven(artifacts: Artifacts, image: Path) -> bool:
    digest = hashlib.sha256()
    for part in (
        artifacts.files["vmlinuz"].sha256 if "vmlinuz" in artifacts.files else "",
        platform.release(),
        _processor(),
    ):
        digest.update(part.encode() + b"\0")
    memo = cache_dir() / "lab" / f"kvm-{digest.hexdigest()[:16]}"
    if not memo.is_file():
        say("trying whether this kernel boots with KVM")
        answer = _boots(artifacts, image)
        say("KVM boots it" if answer else "KVM does not boot it: going on with emulation")
        write_text(memo, "yes\n" if answer else "no\n")
    return memo.read_text("ascii") == "yes\n"


def _processor() -> str:
    found = re.search(r"^model name\s*:.*$", Path("/proc/cpuinfo").read_text("utf-8"), re.M)
    return found[0] if found else platform.machine()


def _boots(artifacts: Artifacts, image: Path) -> bool:
    """Boot one node with KVM in a place of its own; true once its start script has run."""
    with tempfile.TemporaryDirectory(prefix="krg-kvm-") as scratch:
        node = LabNode(1, str(uuid.uuid4()))
        trial = _Trial(
            name="kvm-trial",
            session=0,
            build=str(artifacts.directory),
            arch=artifacts.arch,
            kernel_release=artifacts.kernel_release,
            memory=128,
            accel="kvm",
            created=time.time(),
            nodes=(node,),
            place=scratch,
        )
        trial.path(node).mkdir()
        try:
            boot = qemu.kernel_boot(trial, node, artifacts.path("vmlinuz"), image)
            qemu.start(trial, node, boot)
            started = time.monotonic()
            while (waited := time.monotonic() - started) < TRIAL_SECONDS:
                said = qemu.console_tail(trial, node, 100)
                if any("lab: Kerrighed is loaded" in line for line in said):
                    return True
                if not state.pid(trial, node) or (not said and waited > SILENCE_SECONDS):
                    return False
                time.sleep(0.2)
        except FailedError:
            return False
        finally:
            qemu.stop(trial, node)
    return False


@dataclasses.dataclass(frozen=True)
class _Trial(Lab):
    """A lab outside the labs' directory, so that nobody sees it."""

    place: str = ""

    @property
    def directory(self) -> Path:
        return Path(self.place)
