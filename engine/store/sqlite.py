"""SQLite as a file: checks, turns on network folders, locks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL

from engine.errors import NoDatabaseError, RequestError, one_line
from engine.machine import file_systems
from engine.store.url import ANOTHER, LockedError, no_database, url_timeout_s

if TYPE_CHECKING:
    pass

MIGRATION_SECONDS = 120.0
"""How long opening waits for another process that brings the same SQLite file up to date."""


def file_identity(file: Path | None) -> tuple[int, int] | None:
    """The identity of a file, which tells it from another file of the same name; None if there is no file.

    Raises OSError where the file system does not say.
    """
    try:
        found = file.stat() if file is not None else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found and (found.st_dev, found.st_ino)


def check_file(file: Path, create: bool) -> None:
    """Makes the folder of an SQLite file. Raises RequestError where SQLite could not write there."""
    if not create and not file.exists():
        raise NoDatabaseError(no_database(str(file)))
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"cannot make the folder {file.parent} of the database: {one_line(error)}; {ANOTHER}"
        ) from error
    if file.is_dir():
        raise RequestError(f"the database {file} is a folder, not a file; {ANOTHER}")
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise RequestError(f"the folder {file.parent} of the database is read-only; make it writable, or {ANOTHER}")
    if file.exists() and not os.access(file, os.R_OK | os.W_OK):
        raise RequestError(f"the database {file} is read-only; make it writable, or {ANOTHER}")


def writable(file: Path) -> bool:
    """Whether SQLite could write to `file`: it needs files beside it."""
    return os.access(file.parent, os.W_OK | os.X_OK) and os.access(file, os.R_OK | os.W_OK)


def migration_lock(file: Path | None) -> AbstractContextManager[Any]:
    """A lock beside an SQLite file, so that two processes do not migrate it at once."""
    if file is None:
        return nullcontext()
    told = "wait until it has brought the database up to date, or end it"
    return _file_lock(file, MIGRATION_SECONDS, RequestError, told)


def on_network(file: Path | None) -> bool:
    return file is not None and file_systems.journal_mode(file) != "WAL"


@contextmanager
def exclusive_turn(file: Path | None, url: URL) -> Iterator[None]:
    """An SQLite file on a network file system for oneself; nothing where `file` is None.

    SQLite's own locks do not suffice on all of them: a client may read pages from its cache that another machine has
    written since, and what it then writes undoes that. So all take turns, and each begins with an empty cache.
    """
    if file is None:
        yield
        return
    with _file_lock(file, url_timeout_s(url), LockedError, "wait for that process, or end it") as is_first:
        if is_first:
            for each in (file, file.with_name(f"{file.name}-journal")):
                _look_anew(each)
        yield


def _look_anew(file: Path) -> None:
    """Have the next reader of `file` ask its server. While no connection of this process has it open: closing it here
    would end the locks of those."""
    # SQLite itself says what is wrong with the file.
    with suppress(OSError):
        opened = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
            # Its size comes with what is read.
            os.pread(opened, 1, 0)
        finally:
            os.close(opened)


@contextmanager
def _file_lock(file: Path, timeout_s: float, error_type: type[RequestError], remedy: str) -> Iterator[bool]:
    """The lock beside an SQLite file; whether this thread did not hold it before."""
    import filelock

    path = file.with_name(f"{file.name}.lock")
    try:
        lock = filelock.FileLock(path, is_singleton=True)
        is_first = not lock.is_locked
        lock.acquire(timeout=timeout_s)
    except filelock.Timeout as error:
        raise error_type(f"another process has held {path} for {timeout_s:g} s; {remedy}") from error
    except (OSError, NotImplementedError) as error:
        raise RequestError(f"cannot lock {path}: {one_line(error)}; {ANOTHER}") from error
    try:
        yield is_first
    finally:
        lock.release()
