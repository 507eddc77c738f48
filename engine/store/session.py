"""Opens the database: finds it, brings its schema up to date, and says in one line what is in the way."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import URL, Engine, NullPool, QueuePool, StaticPool, create_engine, event
from sqlalchemy.orm import Session, sessionmaker

from engine import paths
from engine.errors import RequestError
from engine.machine import file_systems
from engine.store.migrations import HEAD
from engine.store.schema import bring_up_to_date, check_revision, peek_revision, schema_revision
from engine.store.sqlite import check_file, exclusive_turn, file_identity, on_network, writable
from engine.store.url import is_full, parse_url, sqlite_file, translate_errors, url_timeout_s

if TYPE_CHECKING:
    pass


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
        self._file = sqlite_file(url)
        self._taking_turns = self._file if read_only is None and on_network(self._file) else None
        self._hasty = self._sessions
        if self._file is not None and read_only is None and not self._taking_turns:
            self._hasty = sessionmaker(_engine(url, self._file, hasty=True), expire_on_commit=False)
        self._opened: tuple[int, int] | None = None
        with suppress(OSError):
            self._opened = file_identity(self._file)

    def check_there(self) -> None:
        """Raises RequestError where the file is not the one any more that was opened.

        SQLite would go on with that, to no avail: it is gone with this process.
        """
        try:
            gone = self._opened is not None and file_identity(self._file) != self._opened
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
        with translate_errors(self.url), exclusive_turn(self._taking_turns, self.url), sessions.begin() as session:
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

    parsed = parse_url(url or paths.database_url())
    file = sqlite_file(parsed)
    if file is not None:
        if not str(parsed.database).startswith("file:"):
            # SQLAlchemy does not know "~".
            parsed = parsed.set(database=str(file))
        if not create and file.is_file():
            why = "is read-only" if not writable(file) else "lies on a full disk" if is_full(file.parent) else None
            if why:
                with translate_errors(parsed):
                    return _reader(parsed, file, why)
        check_file(file, create)
    with translate_errors(parsed), exclusive_turn(file if on_network(file) else None, parsed):
        if file is not None:
            # Before the first ordinary connection: setting the journal mode writes to the file.
            check_revision(peek_revision(file, url_timeout_s(parsed)), parsed, create)
        engine = _engine(parsed, file)
        try:
            bring_up_to_date(engine, create=create)
            sync(engine)
        except BaseException:
            engine.dispose()
            raise
    return Store(parsed, engine)


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
        creator=lambda: sqlite3.connect(place, uri=True, timeout=url_timeout_s(url), check_same_thread=False),
        poolclass=QueuePool,
    )
    store = Store(url, engine, f"the database {file} {why}: nothing can be stored in it", copy)
    try:
        revision = check_revision(schema_revision(engine), url, create=False)
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
        engine = create_engine(url, poolclass=pool, connect_args={"timeout": url_timeout_s(url)})
        pragmas += [f"journal_mode={mode}", "synchronous=NORMAL" if hasty else "synchronous=FULL"]

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: sqlite3.Connection, _: object) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def _json(value: Any) -> str:
    """`value` as a server takes it: SQLite alone keeps NaN."""
    from engine.store.rows import plain

    return json.dumps(plain(value), allow_nan=False)
