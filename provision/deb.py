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
    # What is to be stripped, by how: all at once in the end.
    _strip: dict[str, list[Path]] = field(default_factory=dict)

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
                self._strip.setdefault(how, []).append(target)

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
        target.mkdir()
        # tarfile takes ten times as long for the thousands of headers.
        self.runner.run(
            ["tar", "--extract", f"--file={archive}", "--no-same-owner", "--preserve-permissions"],
            cwd=target, timeout=_TIME,
        )  # fmt: skip
        if strip:
            self._strip.setdefault(strip, []).extend(self.programs())

    def strip(self) -> None:
        """Take out of programs and libraries what ``put`` and ``unpack`` were told."""
        for how, paths in sorted(self._strip.items()):
            argv = ["strip", "--enable-deterministic-archives", *_STRIP[how], *map(str, paths)]
            self.runner.run(argv, timeout=_TIME)

    def _place(self, name: str) -> Path:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise InputError(f"{name!r}: not a path inside a package")
        target = self.root / pure
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def files(self) -> list[str]:
        """Return the names of every file and link to be installed, sorted."""
        found = []
        for folder, folders, names in os.walk(self.root):
            if folder == str(self.root) and "DEBIAN" in folders:
                folders.remove("DEBIAN")
            links = [name for name in folders if Path(folder, name).is_symlink()]
            found += [os.path.relpath(f"{folder}/{name}", self.root) for name in names + links]
        return sorted(found)

    def programs(self) -> list[Path]:
        """Return the ELF files that can be run."""
        found = []
        for name in self.files():
            path = self.root / name
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) and mode & stat.S_IXUSR:
                with path.open("rb") as stream:
                    if stream.read(4) == _ELF:
                        found.append(path)
        return found

    def sums(self) -> tuple[int, str]:
        """Return Installed-Size, in KiB, and the text of the control file md5sums.

        The size is as policy 5.6.20 wants it, each file rounded up and each folder 1; the sums
        are what debsums and dpkg --verify read.
        """
        names = self.files()
        folders = {str(f) for name in names for f in PurePosixPath(name).parents}
        size, lines = len(folders), []
        for name in names:
            path = f"{self.root}/{name}"
            status = os.lstat(path)
            size += -(-status.st_size // 1024)
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as stream:  # noqa: PTH123 # thousands of them
                    digest = hashlib.md5(stream.read(), usedforsecurity=False).hexdigest()
                lines.append(f"{digest}  {name}\n")
        return size, "".join(lines)

    def finish(self) -> None:
        """Give everything its final mode and time, whatever the umask and the clock were."""
        control = self.root / "DEBIAN"
        for path in control.iterdir():
            path.chmod(0o755 if path.name in _SCRIPTS else 0o644)
        times = (self.when, self.when)
        for folder, folders, names in os.walk(self.root, topdown=False):
            for name in names:
                os.utime(f"{folder}/{name}", times, follow_symlinks=False)
            for name in folders:
                if Path(folder, name).is_symlink():
                    os.utime(f"{folder}/{name}", times, follow_symlinks=False)
            os.chmod(folder, 0o755)  # noqa: PTH101, S103
            os.utime(folder, times)

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


def mode_of(path: Path) -> int:
    """Return 0755 for what can be run, else 0644."""
    return 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
