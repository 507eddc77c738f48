"""The database's schema: migrations, revisions, backup."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL, Engine, StaticPool, create_engine
from sqlalchemy.exc import DBAPIError

from engine.errors import NoDatabaseError, RequestError
from engine.store.migrations import HEAD
from engine.store.sqlite import migration_lock
from engine.store.url import ANOTHER, no_database, place_of, sqlite_file

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

MIGRATIONS = Path(__file__).parent / "migrations"


def bring_up_to_date(engine: Engine, create: bool = True, scripts: Path = MIGRATIONS, head: str = HEAD) -> None:
    """Migrates the database of `engine` to `head`, the newest revision in the folder `scripts`.

    Does nothing, and imports no Alembic, where it is there already. Raises RequestError for a database
    that is newer than this program, that is somebody else's, or that is missing while `create` is off.
    """
    if check_revision(schema_revision(engine), engine.url, create, scripts, head) == head:
        return
    file = sqlite_file(engine.url)
    with migration_lock(file):
        revision = check_revision(schema_revision(engine), engine.url, create, scripts, head)
        if revision == head:
            return
        try:
            _migrate(engine, file, revision, scripts, head)
        except DBAPIError:
            # Without a lock to share (a database server), another process may have been faster.
            if file is not None or schema_revision(engine)[0] != head:
                raise


def alembic_config(connection: Connection, scripts: Path = MIGRATIONS) -> Config:
    """Alembic's configuration for `connection` with the migrations in `scripts`."""
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


Revision = tuple[str | None, bool]
"""The schema's revision, and whether there are tables although there is none."""


def peek_revision(file: Path, timeout: float) -> Revision:
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


def schema_revision(engine: Engine) -> Revision:
    """The revision of the database behind `engine`."""
    from sqlalchemy import inspect, text

    from engine.store.models import Base

    with engine.connect() as connection:
        # One question for all tables: another process may create them between two.
        tables = set(inspect(connection).get_table_names())
        if "alembic_version" in tables:
            revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            if revision is not None:
                return revision, False
        return None, not tables.isdisjoint(Base.metadata.tables)


def check_revision(found: Revision, url: URL, create: bool, scripts: Path = MIGRATIONS, head: str = HEAD) -> str | None:
    """The revision in `found`, None for an empty database.

    Raises RequestError where the database must be left alone.
    """
    revision, others = found
    place = place_of(url)
    if revision == head:
        return revision
    if revision is None:
        if others:
            raise RequestError(
                f"the database {place} has tables that this bench did not make; it is left as it is; {ANOTHER}"
            )
        if not create:
            raise NoDatabaseError(no_database(place))
        return None
    from alembic.script import ScriptDirectory

    if revision not in {script.revision for script in ScriptDirectory(str(scripts)).walk_revisions()}:
        raise RequestError(
            f"the database {place} has schema {revision}, which this bench does not know "
            f"(its newest is {head}); it is left as it is; update the bench, or {ANOTHER}"
        )
    return revision


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
