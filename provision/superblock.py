# SPDX-License-Identifier: GPL-2.0-or-later
"""The start of a disk or partition: an ext2/3/4 superblock, and whose boot code stands there.

Values in, values out. Source of the layouts: struct ext3_super_block in
include/linux/ext3_fs.h of Linux 2.6.20, with the later bits of Documentation/filesystems/ext4
in today's kernels; the GRUB 0.97 manual's "Stage 1", the boot sectors of LILO, SYSLINUX and
GRUB 2 themselves.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

_MAGIC = 0xEF53
# Where a superblock is in what it lies on, and how much of it is needed.
OFFSET = 1024
_LEAST = 120


@dataclass(frozen=True)
class Superblock:
    """What a kernel looks at before it mounts an ext2, ext3 or ext4 file system."""

    compat: int
    incompat: int
    ro_compat: int
    uuid: str

    @property
    def has_journal(self) -> bool:
        """Tell whether it is more than ext2."""
        return bool(self.compat & 0x4)


def read(start: bytes) -> Superblock | None:
    """Return the superblock in the first bytes of a partition, None if there is none."""
    block = start[OFFSET:]
    if len(block) < _LEAST or struct.unpack_from("<H", block, 56)[0] != _MAGIC:
        return None
    # Revision 0 has no features and no UUID.
    if struct.unpack_from("<I", block, 76)[0] == 0:
        return Superblock(0, 0, 0, "")
    compat, incompat, ro_compat = struct.unpack_from("<3I", block, 92)
    return Superblock(compat, incompat, ro_compat, str(uuid.UUID(bytes=block[104:120])))


def boot_code(sector: bytes) -> str | None:
    """Return whose boot code a sector holds: legacy, grub2, lilo, syslinux; None if nobody's.

    Both GRUBs say GRUB; stage1 has its version, 3.2, at 0x3e, where GRUB 2's boot.img leaves
    room for a BIOS parameter block.
    """
    code = sector[:446]
    if code[6:10] == b"LILO" or code[2:6] == b"LILO":
        return "lilo"
    if b"GRUB" in code:
        return "legacy" if code[0x3E:0x40] == b"\x03\x02" else "grub2"
    if b"SYSLINUX" in sector[:512] or b"EXTLINUX" in sector[:512]:
        return "syslinux"
    return None
