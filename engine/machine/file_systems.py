"""Where a file lies, and how SQLite may write there."""

from __future__ import annotations

import os
from pathlib import Path

NETWORK_FILE_SYSTEMS = (
    "nfs", "lustre", "gpfs", "beegfs", "fhgfs", "cifs", "smb", "ceph", "afs", "glusterfs", "panfs",
    "wekafs", "orangefs", "pvfs", "9p", "virtiofs", "vboxsf", "ncpfs", "coda", "fuse.",
)  # fmt: skip
"""Beginnings of file system types on which SQLite's WAL is unsafe: it needs memory shared by all users."""


def file_system(file: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The type of the file system on which `file` lies, such as "ext4" or "nfs4"; empty where no mounts are listed."""
    target = os.path.realpath(file)
    kind, longest = "", -1
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, where, fstype, *_ = line.split(" ")
        # The kernel writes blanks and backslashes in octal.
        for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            where = where.replace(code, sign)
        inside = target == where or target.startswith(where.rstrip("/") + "/")
        # If two file systems are mounted at one place, the later one covers the earlier.
        if inside and len(where) >= longest:
            kind, longest = fstype, len(where)
    return kind


def journal_mode(file: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The SQLite journal mode that is safe where `file` lies: WAL, or TRUNCATE on a network file system."""
    kind = file_system(file, mounts)
    return "TRUNCATE" if kind == "fuse" or kind.startswith(NETWORK_FILE_SYSTEMS) else "WAL"


def journal(file: Path) -> tuple[str, bool]:
    """How SQLite writes to `file`, in words, and whether that is the slower way."""
    kind, mode = file_system(file), journal_mode(file)
    if mode == "WAL":
        return f"journal mode WAL, as {kind or 'its file system'} is local", False
    return f"journal mode {mode}, as WAL is unsafe on a network file system ({kind}); writes wait for its disk", True
