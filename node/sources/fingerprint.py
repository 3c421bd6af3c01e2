"""By what a source is known to be what it was, without reading it."""

import os
from typing import NamedTuple

RACY_NS = 2_000_000_000
"""Nanoseconds: as coarse as the clock of any file system (FAT). A change this soon after another may not show."""


class Fingerprint(NamedTuple):
    """Size in bytes, times in Unix nanoseconds, the inode. Two are equal if the file was not touched in between.

    The device is left out: NFS, btrfs and overlays number theirs anew at every mount, and a file of another device
    would have to share inode, size and both times.
    """

    size: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Fingerprint":
        inode = status.st_ino  # 64 bits without sign; a database has them with sign
        return cls(
            status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode if inode < 1 << 63 else inode - (1 << 64)
        )

    def is_settled(self, at_ns: int) -> bool:
        """Whether every change after ``at_ns`` (Unix nanoseconds) gives another fingerprint."""
        return max(self.modified_ns, self.changed_ns) <= at_ns - RACY_NS
