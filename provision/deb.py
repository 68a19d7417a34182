# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes one Debian package: a staged tree becomes a .deb, the same bytes every time.

What could differ from run to run is fixed: owners (root), modes, times, the order of
files (dpkg-deb sorts them), the compression and its level. The archive format is 2.0 with
the same compression for both members, which every dpkg since 2001 reads (deb(5)).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import stat
import tarfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from provision.errors import FailedError, InputError
from provision.runner import LocalRunner

# Policy, sections 5.6.1 and 5.6.12.
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
VERSION = re.compile(r"[0-9][A-Za-z0-9.+~-]*")
COMPRESSIONS = ("gzip", "xz", "zstd")
_SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
_TIME = 600.0
_ELF = b"\x7fELF"
_AR = b"!<arch>\n"
# What strip is told, by the word in packages.toml (policy, section 10.1).
_STRIP = {
    "all": ("--remove-section=.comment", "--remove-section=.note", "--strip-unneeded"),
    "debug": ("--strip-debug",),
}


@dataclass
class Stage:
    """The tree of one package on its way, below ``root``; ``when`` is the time of all files."""

    root: Path
    when: int
    runner: LocalRunner = field(default_factory=LocalRunner)

    def put(
        self, name: str, source: Path, mode: int, *, strip: str = "", compress: bool = False
    ) -> None:
        """Copy a file to ``name``; programs and libraries lose what ``strip`` says."""
        target = self._place(name + (".gz" if compress else ""))
        if compress:
            target.write_bytes(compressed(source.read_bytes()))
        else:
            shutil.copyfile(source, target)
        target.chmod(mode)
        if strip and not compress:
            with target.open("rb") as stream:
                magic = stream.read(8)
            if magic.startswith(_ELF) or magic == _AR:
                how = "debug" if magic == _AR else strip
                argv = ["strip", "--enable-deterministic-archives", *_STRIP[how], str(target)]
                self.runner.run(argv, timeout=_TIME)

    def write(self, name: str, text: str | bytes, mode: int = 0o644) -> None:
        """Write a file of ours."""
        target = self._place(name)
        target.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        target.chmod(mode)

    def link(self, name: str, target: str) -> None:
        """Make a symbolic link."""
        self._place(name).symlink_to(target)

    def unpack(self, archive: Path, name: str, *, strip: str = "") -> None:
        """Unpack a tar archive of ours below ``name``."""
        target = self._place(name.rstrip("/"))
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
        programs = [str(path) for path in self.programs()]
        if strip and programs:
            self.runner.run(["strip", *_STRIP[strip], *programs], timeout=_TIME)

    def _place(self, name: str) -> Path:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise InputError(f"{name!r}: not a path inside a package")
        target = self.root / pure
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def files(self) -> list[Path]:
        """Return every file and link to be installed, sorted."""
        control = self.root / "DEBIAN"
        return sorted(
            path
            for path in self.root.rglob("*")
            if (path.is_symlink() or path.is_file()) and control not in path.parents
        )

    def programs(self) -> list[Path]:
        """Return the ELF files that can be run."""
        found = []
        for path in self.files():
            if not path.is_symlink() and path.stat().st_mode & stat.S_IXUSR:
                with path.open("rb") as stream:
                    if stream.read(4) == _ELF:
                        found.append(path)
        return found

    def size(self) -> int:
        """Return Installed-Size in KiB as policy 5.6.20 wants it: each file rounded up."""
        paths = [p for p in self.root.rglob("*") if p.name != "DEBIAN"]
        return sum(
            -(-path.lstat().st_size // 1024) if path.is_file() or path.is_symlink() else 1
            for path in paths
        )

    def md5sums(self) -> str:
        """Return the control file md5sums, which debsums and dpkg --verify read."""
        return "".join(
            f"{_md5(path)}  {path.relative_to(self.root)}\n"
            for path in self.files()
            if not path.is_symlink()
        )

    def finish(self) -> None:
        """Give everything its final mode and time, whatever the umask and the clock were."""
        for path in [*self.root.rglob("*"), self.root]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        control = self.root / "DEBIAN"
        for path in control.iterdir():
            path.chmod(0o755 if path.name in _SCRIPTS else 0o644)
        for path in [*self.root.rglob("*"), self.root]:
            os.utime(path, (self.when, self.when), follow_symlinks=False)

    def build(self, target: Path, compression: str) -> None:
        """Write the package.

        :raises FailedError: dpkg-deb refuses it; says why.
        """
        self.finish()
        argv = [
            "dpkg-deb", "--root-owner-group", "--uniform-compression", f"-Z{compression}",
            # With more threads xz cuts its input into other pieces.
            "--threads-max=1",
            "--build", str(self.root), str(target),
        ]  # fmt: skip
        env = {"SOURCE_DATE_EPOCH": str(self.when), "LC_ALL": "C"}
        done = self.runner.run(argv, env=env, timeout=_TIME, check=False)
        if not done.ok:
            said = done.output.strip().splitlines() or ["no output"]
            raise FailedError(f"dpkg-deb: {target.name}: {said[-1]}")


def compressed(data: bytes) -> bytes:
    """Return ``data`` as gzip -9n would write it: no name, no time."""
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=out, mtime=0) as stream:
        stream.write(data)
    return out.getvalue()


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def mode_of(path: Path) -> int:
    """Return 0755 for what can be run, else 0644."""
    return 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
