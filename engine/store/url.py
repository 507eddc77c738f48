"""The database's URL, and its errors in the user's words."""

from __future__ import annotations

import errno
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING
from urllib.parse import unquote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from engine import paths
from engine.errors import RequestError, one_line
from engine.machine import file_systems

if TYPE_CHECKING:
    pass

BUSY_SECONDS = 30.0
"""How long a statement waits for another process's write; "?timeout=S" in the URL overrides it."""
ANOTHER = "point BENCH_DATA_DIR or BENCH_DATABASE_URL elsewhere"


class LockedError(RequestError):
    """Another process has held the database for longer than a statement waits."""


@contextmanager
def translate_errors(url: str | URL | None = None) -> Iterator[None]:
    """Turns errors of the database's surroundings (disk full, read-only, locked, no connection ...)
    into a RequestError line that names `url`, by default the bench's own database, and the remedy.

    Mistakes in statements or data pass through as SQLAlchemy raises them.
    """
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        parsed = parse_url(url or paths.database_url()) if not isinstance(url, URL) else url
        message = _explain(error, parsed)
        if message is None:
            raise
        cause = error.orig if isinstance(error, DBAPIError) else error
        busy = getattr(cause, "sqlite_errorname", "").startswith("SQLITE_BUSY")
        raise (LockedError if busy else RequestError)(message) from error


def journal(url: str | None = None) -> tuple[str, bool] | None:
    """`engine.machine.file_systems.journal` of the database at `url`; None where it is no SQLite file."""
    file = sqlite_file(parse_url(url or paths.database_url()))
    return None if file is None else file_systems.journal(file)


def parse_url(url: str) -> URL:
    """`url`, checked for a known kind of database and an installed driver. Raises RequestError."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        shown = re.sub(r"(pass\w*=)[^&]*", r"\1***", re.sub(r":.*@", ":***@", url))
        raise RequestError(
            f"BENCH_DATABASE_URL {shown!r} is not a database URL; write a file as "
            "sqlite:////absolute/path.sqlite, a server as postgresql+psycopg://user:password@host/name"
        ) from error
    place = place_of(parsed)
    try:
        dialect = parsed.get_dialect()
        dialect.import_dbapi()
    except NoSuchModuleError as error:
        raise RequestError(
            f"the database {place} is of an unknown kind, {parsed.drivername!r}; "
            "allowed: sqlite, postgresql, mysql and whatever else SQLAlchemy has a dialect for"
        ) from error
    except ImportError as error:
        packages = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
        name = error.name or parsed.get_driver_name()
        raise RequestError(
            f"the database {place} needs the Python package {name}, which is missing; "
            f"install it: pip install {packages.get(name, name)}"
        ) from error
    if dialect.is_async:
        raise RequestError(
            f"the database {place} names an asynchronous driver; "
            f"leave +{parsed.get_driver_name()} out, or name a synchronous one"
        )
    try:
        url_timeout_s(parsed)
    except ValueError as error:
        raise RequestError(f"the database {place}: timeout is not a number of seconds") from error
    return parsed


def sqlite_file(url: URL) -> Path | None:
    """The absolute path of an SQLite file; None for a database in memory or on a server."""
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or url.query.get("mode") == "memory":
        return None
    if name.startswith("file:"):
        name = unquote(name.removeprefix("file:").removeprefix("//"))
    return None if name == ":memory:" else Path(name).expanduser().absolute()


def url_timeout_s(url: URL) -> float:
    return float(str(url.query.get("timeout", BUSY_SECONDS)))


def no_database(place: str) -> str:
    return f"no database at {place}; run `python -m engine run demo` first"


def place_of(url: URL) -> str:
    """The name of the database in a message: its file, or its URL without the password."""
    file = sqlite_file(url)
    secret = [name for name in url.query if "pass" in name.lower()]
    return str(file) if file is not None else url.difference_update_query(secret).render_as_string()


def place() -> str:
    """The name of the bench's own database in a message. Raises RequestError if its URL is not valid."""
    return place_of(parse_url(paths.database_url()))


def _explain(error: DBAPIError | sqlite3.Error, url: URL) -> str | None:
    """Why the database at `url` cannot be used and what helps; None where the statement is at fault."""
    place = place_of(url)
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, sqlite3.Error):
        if isinstance(error, OperationalError | InterfaceError):
            return (
                f"the database {place} does not answer as it should: {one_line(cause or error)}; "
                "check that its server runs and that BENCH_DATABASE_URL is right"
            )
        if isinstance(error, DataError):
            return f"the database {place} cannot hold a value: {one_line(cause or error)}"
        return None
    name = getattr(cause, "sqlite_errorname", "")
    file = sqlite_file(url)
    kind = name.split("_")[1] if name.startswith("SQLITE_") else ""
    if kind in ("IOERR", "CANTOPEN") and file is not None and is_full(file.parent):
        kind = "FULL"
    elif kind in ("IOERR", "CANTOPEN") and file is not None and _is_read_only(file.parent):
        kind = "READONLY"
    return {
        "FULL": f"the disk of the database {place} is full; free some space, or {ANOTHER}",
        "READONLY": f"the database {place} is read-only; make it and its folder writable, or {ANOTHER}",
        "BUSY": f"the database {place} has been locked by another process for {url_timeout_s(url):g} s; "
        "wait for that process, or end it",
        "LOCKED": f"the database {place} is locked by another connection; try again",
        "NOTADB": f"the file {place} is not a database; move it away, or {ANOTHER}",
        "CORRUPT": f"the database {place} is damaged; put a backup in its place, or move it away",
        "IOERR": f"reading or writing the database {place} failed ({name}: {one_line(cause)}); "
        f"check the disk and its quota, or {ANOTHER}",
        "CANTOPEN": f"cannot open the database {place}: {one_line(cause)}; "
        f"make it and its folder writable, or {ANOTHER}",
        "PROTOCOL": f"locking the database {place} failed; its file system may lack locks: {ANOTHER}",
        "NOLFS": f"the database {place} is larger than its file system allows; {ANOTHER}",
    }.get(kind)


def _is_read_only(folder: Path) -> bool:
    """Whether a file system takes nothing; Linux, which made it so after an error, may still call it writable."""
    try:
        with TemporaryFile(dir=folder):
            return False
    except OSError as error:
        return error.errno == errno.EROFS


def is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < 1 << 20
    except OSError as error:
        return error.errno == errno.ENOSPC
