# SPDX-License-Identifier: GPL-2.0-or-later
"""A release in small: archives, patches, fix-ups and policy that build in a second."""

from __future__ import annotations

import bz2
import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provision import unpack

HERE = Path(__file__).resolve().parent
# Fixed, so that the same content always makes the same archive.
_WHEN = 1_170_000_000


def pack(path: Path, files: Mapping[str, bytes], mode: str = "w:gz") -> None:
    """Write a tar archive of regular files; a name ending in .sh is executable."""
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), _WHEN
            member.mode = 0o755 if name.endswith(".sh") else 0o644
            tar.addfile(member, io.BytesIO(data))


def content(directory: Path, top: str) -> dict[str, bytes]:
    """Return the files below a directory, named from ``top``."""
    return {
        f"{top}/{path.relative_to(directory)}": path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True)
class Mini:
    """Where the pieces of the small release are."""

    release: Path
    sources: Path
    linux: Path
    extra: Path
    tree: str

    @property
    def options(self) -> list[str]:
        """Return the options of fetch and build-kernel that choose this release."""
        return ["--release", str(self.release), "--source-dir", str(self.sources)]


def make(
    directory: Path,
    *,
    change: Mapping[str, bytes] | None = None,
    patches: Mapping[str, bytes] | None = None,
    urls: Sequence[str] = (),
) -> Mini:
    """Make archives and the release file below ``directory``.

    :param change: files of the kernel tree to replace, by name below it.
    :param patches: patches instead of the small release's own, by name.
    """
    sources = directory / "sources"
    sources.mkdir(parents=True)
    files = content(HERE / "linux", "linux-mini")
    files |= {f"linux-mini/{name}": data for name, data in (change or {}).items()}
    linux = sources / "linux-mini.tar.gz"
    pack(linux, files)
    extra = sources / "extra.tar.gz"
    if patches is None:
        patches = {p.name: p.read_bytes() for p in sorted((HERE / "extra/patches").iterdir())}
    more = {f"extra/patches/{n}.bz2": bz2.compress(data) for n, data in patches.items()}
    pack(extra, more | content(HERE / "extra/tools", "extra/tools"))
    tree = unpack.archive_tree_id(linux)
    text = (HERE / "release.toml").read_text("utf-8")
    for word, value in (
        ("HERE", str(HERE)),
        ("URLS", ", ".join(f'"{url}"' for url in urls)),
        ("TREE", tree),
        ("SHA256", hashlib.sha256(extra.read_bytes()).hexdigest()),
    ):
        text = text.replace(word, value)
    release = directory / "mini.toml"
    release.write_text(text, "utf-8")
    return Mini(release, sources, linux, extra, tree)
