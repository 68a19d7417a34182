# SPDX-License-Identifier: GPL-2.0-or-later
"""What the first bytes of a program or library say it runs on: its class, and the oldest kernel.

Source: NT_GNU_ABI_TAG in the Linux Standard Base, "Note section": an operating system word,
0 for Linux, then the earliest kernel version in three words.
"""

from __future__ import annotations

import functools
import re
import struct
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elftools.elf.segments import NoteSegment

# Where an ELF header names its table of sections, by class: offset, then size, count and index.
_SECTIONS = {1: (32, 4, 46), 2: (40, 8, 58)}
# Where it says how many segments there are, and more than any library has.
_SEGMENTS = {1: 44, 2: 56}
_MOST_SEGMENTS = 64
# What facts.sh sends; the note's size, that of another (a build's id), and what it says beyond.
_SENT = 8192
_NOTE = 32
_BUILD_ID = 36
_SINCE_GLIBC_2_26 = (3, 2, 0)


def elf_bits(head: bytes) -> int | None:
    """Return 32 or 64 for the first bytes of an ELF file, else None."""
    if head[:4] != b"\x7fELF":
        return None
    return {1: 32, 2: 64}.get(head[4]) if len(head) > 4 else None


def _noted(segment: NoteSegment) -> tuple[int, int, int] | None:
    for note in segment.iter_notes():
        if note["n_name"] == "GNU" and note["n_type"] == "NT_GNU_ABI_TAG":
            found = note["n_desc"]
            version = (found["abi_major"], found["abi_minor"], found["abi_tiny"])
            known = found["abi_os"] == "ELF_NOTE_OS_LINUX" and max(version) < 10_000
            return version if known else None
    return None


def _not_sent(segment: NoteSegment) -> tuple[int, int, int] | None:
    """Return what a note says that stands far from the beginning, by what may stand there."""
    size, align = segment["p_filesz"], segment["p_align"]
    return _SINCE_GLIBC_2_26 if align == 4 and size >= _NOTE and size != _BUILD_ID else None


# The nodes of a cluster mostly have the same library.
@functools.lru_cache(maxsize=64)
def least_kernel(head: bytes) -> tuple[int, int, int] | None:
    """Return the version of the oldest kernel that an ELF file says it runs on, or None.

    :param head: the file's first bytes. Up to Debian 12 the note stands there; Debian 13's
        linker puts it at the end. What was linked so is new enough to be of glibc 2.26 or
        later, and those want at least Linux 3.2 on every x86 (glibc's NEWS of 2.26).
    """
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import NoteSegment

    place = _SECTIONS.get(head[4]) if head[:4] == b"\x7fELF" and len(head) >= 64 else None
    if place is None:
        return None
    offset, size, rest = place
    if not 0 < struct.unpack_from("<H", head, _SEGMENTS[head[4]])[0] <= _MOST_SEGMENTS:
        return None
    # The table of sections is at the end of the file, which was not sent.
    cut = bytearray(head)
    cut[offset : offset + size] = bytes(size)
    cut[rest : rest + 6] = bytes(6)
    try:
        for segment in ELFFile(BytesIO(bytes(cut))).iter_segments("PT_NOTE"):
            assert isinstance(segment, NoteSegment)
            sent = segment["p_offset"] < max(_SENT, len(head))
            version = _noted(segment) if sent else _not_sent(segment)
            if version is not None:
                return version
    # What pyelftools comes to when offsets and sizes lead anywhere.
    except (ELFError, ConstructError, struct.error, ValueError, LookupError, AttributeError,
            TypeError, ArithmeticError, OSError, MemoryError):  # fmt: skip
        return None
    return None


def kernel_version(release: str) -> tuple[int, int, int]:
    """Return the numbers a kernel release begins with: 2.6.20-krg is (2, 6, 20)."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", release)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)
