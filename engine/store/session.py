"""Opens the database: finds it, brings its schema up to date, and says in one line what is in the way."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

from sqlalchemy import URL, Engine, NullPool, QueuePool, StaticPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from engine import file_systems, paths
from engine.errors import RequestError, one_line
from engine.store.migrations import HEAD

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 30.0
"""How long a statement waits for another process's write; "?timeout=S" in the URL overrides it."""
MIGRATION_SECONDS = 120.0
"""How long opening waits for another process that brings the same SQLite file up to date."""
ANOTHER = "point BENCH_DATA_DIR or BENCH_DATABASE_URL elsewhere"


class LockedError(RequestError):
    """Another process has held the database for longer than a statement waits."""


class Store:
    """An open database whose schema is up to date. Close it, or use it in a `with` statement."""

    def __init__(
        self, url: URL, engine: Engine, read_only: str | None = None, copy: TemporaryDirectory[str] | None = None
    ) -> None:
        self._copy = copy
        self.url = url
        self.engine = engine
        self.read_only = read_only
        """One line that says why nothing can be stored; None where it can."""
        self._sessions = sessionmaker(engine, expire_on_commit=False)
        self._file = _sqlite_file(url)
        self._taking_turns = self._file if read_only is None and _on_network(self._file) else None
        self._hasty = self._sessions
        if self._file is not None and read_only is None and not self._taking_turns:
            self._hasty = sessionmaker(_engine(url, self._file, hasty=True), expire_on_commit=False)
        self._opened: tuple[int, int] | None = None
        with suppress(OSError):
            self._opened = _which(self._file)

    def check_there(self) -> None:
        """Raises RequestError where the file is not the one any more that was opened.

        SQLite would go on with that, to no avail: it is gone with this process.
        """
        try:
            gone = self._opened is not None and _which(self._file) != self._opened
        except OSError:
            # A network file system that does not answer now: whether it is the file shows at the next look.
            return
        if gone:
            raise RequestError(f"the database {self._file} was removed or replaced while it was written to")

    @contextmanager
    def session(self, durable: bool = True) -> Iterator[Session]:
        """A session that commits at the end, and rolls back on an error.

        `durable`: whether the commit waits for the disk, so that a power cut takes nothing of it. One that does not
        wait is whole all the same, and durable with the next that does.
        What it has loaded stays readable afterwards. Raises RequestError where the database cannot be
        used (see `translate_errors`).
        """
        sessions = self._sessions if durable else self._hasty
        with translate_errors(self.url), _turn(self._taking_turns, self.url), sessions.begin() as session:
            yield session

    def close(self) -> None:
        for sessions in (self._sessions, self._hasty):
            sessions.kw["bind"].dispose()
        if self._copy is not None:
            self._copy.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_store(url: str | None = None, create: bool = True) -> Store:
    """The database at the SQLAlchemy `url` (by default `paths.database_url()`), up to date.

    Makes the folder, the tables and the published rows where they are missing; an older schema is
    migrated, after a backup beside an SQLite file. With `create=False` a database that does not exist
    is refused instead, and one that cannot be written is opened to be read. Raises RequestError, in one line, for
    whatever stands in the way.
    """
    from engine.store.published import sync

    parsed = _parse(url or paths.database_url())
    file = _sqlite_file(parsed)
    if file is not None:
        if not str(parsed.database).startswith("file:"):
            # SQLAlchemy does not know "~".
            parsed = parsed.set(database=str(file))
        if not create and file.is_file():
            why = "is read-only" if not _writable(file) else "lies on a full disk" if _is_full(file.parent) else None
            if why:
                with translate_errors(parsed):
                    return _reader(parsed, file, why)
        _check_file(file, create)
    with translate_errors(parsed), _turn(file if _on_network(file) else None, parsed):
        if file is not None:
            # Before the first ordinary connection: setting the journal mode writes to the file.
            _check_revision(_peek(file, _timeout(parsed)), parsed, create)
        engine = _engine(parsed, file)
        try:
            bring_up_to_date(engine, create=create)
            sync(engine)
        except BaseException:
            engine.dispose()
            raise
    return Store(parsed, engine)


@contextmanager
def translate_errors(url: str | URL | None = None) -> Iterator[None]:
    """Turns errors of the database's surroundings (disk full, read-only, locked, no connection ...)
    into a RequestError line that names `url`, by default the bench's own database, and the remedy.

    Mistakes in statements or data pass through as SQLAlchemy raises them.
    """
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        parsed = _parse(url or paths.database_url()) if not isinstance(url, URL) else url
        message = _explain(error, parsed)
        if message is None:
            raise
        cause = error.orig if isinstance(error, DBAPIError) else error
        busy = getattr(cause, "sqlite_errorname", "").startswith("SQLITE_BUSY")
        raise (LockedError if busy else RequestError)(message) from error


def journal(url: str | None = None) -> tuple[str, bool] | None:
    """`engine.file_systems.journal` of the database at `url`; None where it is no SQLite file."""
    file = _sqlite_file(_parse(url or paths.database_url()))
    return None if file is None else file_systems.journal(file)


def bring_up_to_date(engine: Engine, create: bool = True, scripts: Path = MIGRATIONS, head: str = HEAD) -> None:
    """Migrates the database of `engine` to `head`, the newest revision in the folder `scripts`.

    Does nothing, and imports no Alembic, where it is there already. Raises RequestError for a database
    that is newer than this program, that is somebody else's, or that is missing while `create` is off.
    """
    if _check_revision(_revision(engine), engine.url, create, scripts, head) == head:
        return
    file = _sqlite_file(engine.url)
    with _one_at_a_time(file):
        revision = _check_revision(_revision(engine), engine.url, create, scripts, head)
        if revision == head:
            return
        try:
            _migrate(engine, file, revision, scripts, head)
        except DBAPIError:
            # Without a lock to share (a database server), another process may have been faster.
            if file is not None or _revision(engine)[0] != head:
                raise


def alembic_config(connection: Connection, scripts: Path = MIGRATIONS) -> Config:
    """What Alembic's commands need to work on `connection` with the migrations in `scripts`."""
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def write_migration(revision: str, message: str) -> None:
    """Writes a draft of migration `revision`: what engine/store/models.py has over the newest one."""
    from alembic import command

    engine = create_engine("sqlite://", poolclass=StaticPool)
    bring_up_to_date(engine)
    with engine.connect() as connection:
        command.revision(alembic_config(connection), message, autogenerate=True, rev_id=revision)


def _parse(url: str) -> URL:
    """`url`, checked for a known kind of database and an installed driver. Raises RequestError."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        shown = re.sub(r"(pass\w*=)[^&]*", r"\1***", re.sub(r":.*@", ":***@", url))
        raise RequestError(
            f"BENCH_DATABASE_URL {shown!r} is not a database URL; write a file as "
            "sqlite:////absolute/path.sqlite, a server as postgresql+psycopg://user:password@host/name"
        ) from error
    place = _place(parsed)
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
        _timeout(parsed)
    except ValueError as error:
        raise RequestError(f"the database {place}: timeout is not a number of seconds") from error
    return parsed


def _sqlite_file(url: URL) -> Path | None:
    """The absolute path of an SQLite file; None for a database in memory or on a server."""
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or url.query.get("mode") == "memory":
        return None
    if name.startswith("file:"):
        name = unquote(name.removeprefix("file:").removeprefix("//"))
    return None if name == ":memory:" else Path(name).expanduser().absolute()


def _which(file: Path | None) -> tuple[int, int] | None:
    """What tells a file from every other of its name; None where there is none.

    Raises OSError where the file system does not say.
    """
    try:
        found = file.stat() if file is not None else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found and (found.st_dev, found.st_ino)


def _timeout(url: URL) -> float:
    return float(str(url.query.get("timeout", BUSY_SECONDS)))


def _check_file(file: Path, create: bool) -> None:
    """Makes the folder of an SQLite file. Raises RequestError where SQLite could not write there."""
    if not create and not file.exists():
        raise RequestError(_missing(str(file)))
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


def _writable(file: Path) -> bool:
    """Whether SQLite could write to `file`: it needs files beside it."""
    return os.access(file.parent, os.W_OK | os.X_OK) and os.access(file, os.R_OK | os.W_OK)


def _reader(url: URL, file: Path, why: str) -> Store:
    """The database in `file`, which cannot be written, with all that was committed to it.

    Raises RequestError where its schema is not today's.
    """
    place, copy = f"{file.as_uri()}?mode=ro", None
    try:
        with closing(sqlite3.connect(place, uri=True)) as connection:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        # A reader, too, writes beside it, unless the file is promised to stay as it is and nothing lies in a journal.
        beside = [file.with_name(f"{file.name}-{end}") for end in ("wal", "journal")]
        if any(journal.is_file() and journal.stat().st_size for journal in beside):
            copy = TemporaryDirectory(prefix="inference-bench-read-")
            for found in (file, *beside):
                if found.is_file():
                    shutil.copy(found, copy.name)
            moved = Path(copy.name) / file.name
            with closing(sqlite3.connect(moved)) as connection:
                connection.execute("PRAGMA journal_mode=DELETE").fetchone()
            place = f"{moved.as_uri()}?mode=ro"
        place += "&immutable=1"
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(place, uri=True, timeout=_timeout(url), check_same_thread=False),
        poolclass=QueuePool,
    )
    store = Store(url, engine, f"the database {file} {why}: nothing can be stored in it", copy)
    try:
        revision = _check_revision(_revision(engine), url, create=False)
        if revision != HEAD:
            raise RequestError(
                f"the database {file} {why} and has the older schema {revision}, which cannot be brought up to "
                "date there; copy its folder to where it can be written, and point BENCH_DATA_DIR there"
            )
    except BaseException:
        store.close()
        raise
    return store


def _engine(url: URL, file: Path | None, hasty: bool = False) -> Engine:
    """An SQLAlchemy engine for `url`, with SQLite's pragmas set on every connection.

    `hasty`: in WAL mode no commit waits for the disk.
    """
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, json_serializer=_json)
    pragmas = ["foreign_keys=ON"]
    if file is None:
        engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        mode = file_systems.journal_mode(file)
        # On a network file system whoever has a turn opens the file anew (see `_turn`).
        pool = NullPool if mode != "WAL" else QueuePool
        engine = create_engine(url, poolclass=pool, connect_args={"timeout": _timeout(url)})
        pragmas += [f"journal_mode={mode}", "synchronous=NORMAL" if hasty else "synchronous=FULL"]

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: sqlite3.Connection, _: object) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def _json(value: Any) -> str:
    """`value` as a server takes it: SQLite alone keeps NaN."""
    from engine.store.queries import plain

    return json.dumps(plain(value), allow_nan=False)


Revision = tuple[str | None, bool]
"""The schema's revision, and whether there are tables although there is none."""


def _peek(file: Path, timeout: float) -> Revision:
    """The revision of an SQLite file, read without changing a byte of it."""
    if not file.exists():
        return None, False
    for mode in ("ro", "rw"):
        try:
            with closing(sqlite3.connect(f"{file.as_uri()}?mode={mode}", uri=True, timeout=timeout)) as connection:
                tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
                if "alembic_version" not in tables:
                    return None, bool(tables)
                row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
                return (row[0] if row else None), bool(tables - {"alembic_version"})
        except sqlite3.OperationalError as error:
            # After a crash in TRUNCATE mode, only a writer can bring the file back to its last commit.
            if mode == "rw" or error.sqlite_errorname != "SQLITE_READONLY_ROLLBACK":
                raise
    raise AssertionError("unreachable")


def _revision(engine: Engine) -> Revision:
    """The revision of the database behind `engine`."""
    from sqlalchemy import inspect, text

    from engine.store.models import Base

    with engine.connect() as connection:
        inspector = inspect(connection)
        if inspector.has_table("alembic_version"):
            revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            if revision is not None:
                return revision, False
        return None, not set(Base.metadata.tables).isdisjoint(inspector.get_table_names())


def _check_revision(
    found: Revision, url: URL, create: bool, scripts: Path = MIGRATIONS, head: str = HEAD
) -> str | None:
    """The revision in `found`, None for an empty database.

    Raises RequestError where the database must be left alone.
    """
    revision, others = found
    place = _place(url)
    if revision == head:
        return revision
    if revision is None:
        if others:
            raise RequestError(
                f"the database {place} has tables that this bench did not make; it is left as it is; {ANOTHER}"
            )
        if not create:
            raise RequestError(_missing(place))
        return None
    from alembic.script import ScriptDirectory

    if revision not in {script.revision for script in ScriptDirectory(str(scripts)).walk_revisions()}:
        raise RequestError(
            f"the database {place} has schema {revision}, which this bench does not know "
            f"(its newest is {head}); it is left as it is; update the bench, or {ANOTHER}"
        )
    return revision


def _missing(place: str) -> str:
    return f"no database at {place}; run `python -m engine run demo` first"


def _one_at_a_time(file: Path | None) -> AbstractContextManager[Any]:
    """A lock beside an SQLite file, so that two processes do not migrate it at once."""
    if file is None:
        return nullcontext()
    told = "wait until it has brought the database up to date, or end it"
    return _file_lock(file, MIGRATION_SECONDS, RequestError, told)


def _on_network(file: Path | None) -> bool:
    return file is not None and file_systems.journal_mode(file) != "WAL"


@contextmanager
def _turn(file: Path | None, url: URL) -> Iterator[None]:
    """An SQLite file on a network file system for oneself; nothing where `file` is None.

    SQLite's own locks do not suffice on all of them: a client may read pages from its cache that another machine has
    written since, and what it then writes undoes that. So all take turns, and each begins with an empty cache.
    """
    if file is None:
        yield
        return
    with _file_lock(file, _timeout(url), LockedError, "wait for that process, or end it") as is_first:
        if is_first:
            for each in (file, file.with_name(f"{file.name}-journal")):
                _look_anew(each)
        yield


def _look_anew(file: Path) -> None:
    """Have the next reader of `file` ask its server. While no connection of this process has it open: closing it here
    would end the locks of those."""
    # What is wrong with it SQLite says.
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


def _migrate(engine: Engine, file: Path | None, revision: str | None, scripts: Path, head: str) -> None:
    """All steps from `revision` to `head` in one transaction, where the database can do that."""
    from alembic import command

    sqlite = engine.dialect.name == "sqlite"
    with engine.connect() as connection:
        if sqlite:
            # Altering a table in SQLite replaces it, and dropping the old one would delete what refers to it.
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            # The driver itself begins no transaction before DDL.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            if file is not None and revision is not None:
                _back_up(file, f"{revision}-to-{head}")
            command.upgrade(alembic_config(connection, scripts), head)
            if sqlite and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()):
                raise RuntimeError(f"migration to {head} leaves rows without what they refer to: {broken[:3]}")
            connection.commit()
        finally:
            connection.rollback()
            if sqlite:
                connection.exec_driver_sql("PRAGMA foreign_keys=ON")


def _back_up(file: Path, label: str) -> Path:
    """Copies an SQLite file to a new one beside it, of whose name `label` becomes a part."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    copy = file.with_name(f"{file.name}.{label}.{stamp}.bak")
    partial = copy.with_name(copy.name + ".partial")
    try:
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(partial)) as target:
            source.backup(target)
        partial.replace(copy)
    finally:
        partial.unlink(missing_ok=True)
    return copy


def _place(url: URL) -> str:
    """What to call the database in a message: its file, or its URL without the password."""
    file = _sqlite_file(url)
    secret = [name for name in url.query if "pass" in name.lower()]
    return str(file) if file is not None else url.difference_update_query(secret).render_as_string()


def place() -> str:
    """What to call the bench's own database. Raises RequestError where its URL is none."""
    return _place(_parse(paths.database_url()))


def _explain(error: DBAPIError | sqlite3.Error, url: URL) -> str | None:
    """Why the database at `url` cannot be used and what helps; None where the statement is at fault."""
    place = _place(url)
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
    file = _sqlite_file(url)
    kind = name.split("_")[1] if name.startswith("SQLITE_") else ""
    if kind in ("IOERR", "CANTOPEN") and file is not None and _is_full(file.parent):
        kind = "FULL"
    elif kind in ("IOERR", "CANTOPEN") and file is not None and _is_read_only(file.parent):
        kind = "READONLY"
    return {
        "FULL": f"the disk of the database {place} is full; free some space, or {ANOTHER}",
        "READONLY": f"the database {place} is read-only; make it and its folder writable, or {ANOTHER}",
        "BUSY": f"the database {place} has been locked by another process for {_timeout(url):g} s; "
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


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < 1 << 20
    except OSError as error:
        return error.errno == errno.ENOSPC
