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
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from provision.archive_list import Member
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
    # What archives brought, by the name of the directory they are in. Nobody looks at all of it
    # again.
    _unpacked: dict[str, Sequence[Member]] = field(default_factory=dict)

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

    def unpack(
        self, archive: Path, name: str, members: Sequence[Member], *, strip: str = ""
    ) -> None:
        """Unpack a tar archive of ours, which holds ``members``, below ``name``."""
        name = name.rstrip("/")
        target = self._place(name)
        target.mkdir()
        # tarfile takes ten times as long for the thousands of headers.
        self.runner.run(
            ["tar", "--extract", f"--file={archive}", "--no-same-owner", "--preserve-permissions",
             "--touch"],
            cwd=target, timeout=_TIME,
        )  # fmt: skip
        self._unpacked[name] = members
        programs = [target / one.name for one in members if one.is_program]
        if strip and programs:
            self._strip.setdefault(strip, []).extend(programs)

    def libraries(self) -> dict[str, set[str]]:
        """Return the libraries that the unpacked programs need, with the versions of symbols.

        As dpkg-shlibdeps has them, by objdump.
        """
        found: dict[str, set[str]] = {}
        programs = [
            str(self.root / name / one.name)
            for name, members in self._unpacked.items()
            for one in members
            if one.is_program
        ]
        if not programs:
            return found
        argv = ["objdump", "-w", "-p", *programs]
        said = self.runner.run(argv, env={"LC_ALL": "C"}, timeout=_TIME).output
        library = ""
        for line in said.splitlines():
            if match := re.match(r"  NEEDED +(\S+)", line):
                found.setdefault(match[1], set())
            elif match := re.match(r"  required from (\S+):", line):
                library = match[1]
            elif match := re.match(r"    0x[0-9a-f]+ 0x[0-9a-f]+ [0-9]+ (\S+)", line):
                found.setdefault(library, set()).add(match[1])
        return found

    def discard(self) -> None:
        """Remove the tree; rm takes a fifth of the time that Python does."""
        self.runner.run(["rm", "-rf", "--", str(self.root)], timeout=_TIME)

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

    def sums(self) -> tuple[int, str]:
        """Return Installed-Size, in KiB, and the text of the control file md5sums.

        The size is as policy 5.6.20 wants it, each file rounded up and each folder 1; the sums
        are what debsums and dpkg --verify read.
        """
        size, sums = 1, {}
        for name, entry in _walk(str(self.root), leave=self._unpacked):
            if name == "DEBIAN" or name.startswith("DEBIAN/"):
                continue
            if entry.is_dir(follow_symlinks=False):
                size += 1
                continue
            status = entry.stat(follow_symlinks=False)
            size += _blocks(status.st_size)
            if stat.S_ISREG(status.st_mode):
                sums[name] = _md5(self.root / name)
        for top, members in self._unpacked.items():
            size += len(_directories(members))
            for one in members:
                name = f"{top}/{one.name}"
                # It may have been stripped.
                path = self.root / name if one.is_program else None
                size += _blocks(path.stat().st_size if path else one.size)
                if path or one.md5 != "-":
                    sums[name] = _md5(path) if path else one.md5
        return size, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))

    def finish(self) -> None:
        """Give everything its final mode and time, whatever the umask and the clock were."""
        control = self.root / "DEBIAN"
        for path in control.iterdir():
            path.chmod(0o755 if path.name in _SCRIPTS else 0o644)
        self.root.chmod(0o755)
        # What is newer, as all of this is, gets SOURCE_DATE_EPOCH from dpkg-deb (1.18.8 on).
        late = self.when > time.time() - 10
        times = (self.when, self.when)
        for _, entry in _walk(str(self.root), leave=() if late else self._unpacked):
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o755)  # noqa: PTH101, S103
            if late:
                os.utime(entry.path, times, follow_symlinks=False)
        for name, members in self._unpacked.items():
            top = self.root / name
            for directory in _directories(members):
                os.chmod(f"{top}/{directory}", 0o755)  # noqa: PTH101, S103
        if late:
            os.utime(self.root, times)

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


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _blocks(size: int) -> int:
    return -(-size // 1024)


def _directories(members: Sequence[Member]) -> set[str]:
    """Return the directories that the members are in."""
    found: set[str] = set()
    for directory in {one.name.rpartition("/")[0] for one in members}:
        part = directory
        while part and part not in found:
            found.add(part)
            part = part.rpartition("/")[0]
    return found


def _walk(
    top: str, under: str = "", *, leave: Container[str] = ()
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield what is below ``top``, directories after what is in them, with its name from there.

    os.walk takes three times as long.

    :param leave: names of directories not to be looked into.
    """
    with os.scandir(top) as entries:
        for entry in entries:
            name = under + entry.name
            if entry.is_dir(follow_symlinks=False) and name not in leave:
                yield from _walk(entry.path, name + "/", leave=leave)
            yield name, entry


def compressed(data: bytes) -> bytes:
    """Return ``data`` as gzip -9n would write it: no name, no time."""
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=out, mtime=0) as stream:
        stream.write(data)
    return out.getvalue()


def mode_of(path: Path) -> int:
    """Return 0755 for what can be run, else 0644."""
    return 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
