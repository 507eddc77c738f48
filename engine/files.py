"""Files that are there whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from engine.errors import RequestError, one_line


def write(file: Path, content: bytes) -> None:
    """Writes all of `content` or nothing: what was there stays until the new file is whole. Raises RequestError."""
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise RequestError(f"cannot write {file}: its folder does not exist, or it is a folder itself")
    if file.exists() and not file.is_file():
        # A pipe or a terminal.
        file.write_bytes(content)
        return
    try:
        # A link stays a link: what it names is replaced.
        target = file.resolve()
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".export-", delete=False) as part:
            try:
                part.write(content)
                part.flush()
                os.fsync(part.fileno())
                Path(part.name).chmod(mode)
                Path(part.name).replace(target)
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise RequestError(f"cannot write {file}: {one_line(error)}") from error


def flush(folder: Path) -> None:
    """Has the disk take every file of `folder`, so that a name given to it afterwards never stands for less."""
    for path in (*(found for found in folder.rglob("*") if not found.is_symlink()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
