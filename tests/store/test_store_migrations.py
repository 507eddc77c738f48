"""The schema that the migrations make, and what they do to data that is there."""

from __future__ import annotations

import io
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from engine.store import Store, examples, measurements, open_store, runs
from engine.store.measurements import new_block
from engine.store.migrations import HEAD
from engine.store.models import Base, Run
from engine.store.rows import row_of
from engine.store.schema import MIGRATIONS, bring_up_to_date


def differences(store: Store) -> list[object]:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, Base.metadata)


def schema(file: Path) -> dict[str, object]:
    """What SQLite knows of every table: columns, foreign keys, indices."""
    with closing(sqlite3.connect(file)) as connection:

        def ask(pragma: str, name: str) -> list[tuple]:
            return connection.execute(f"PRAGMA {pragma}('{name}')").fetchall()

        tables = [
            name
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'alembic_version'"
            )
        ]
        return {
            table: (
                # Without a column's number: a migration adds at the end what a model has in its place.
                sorted(row[1:] for row in ask("table_info", table)),
                sorted(ask("foreign_key_list", table)),
                sorted((name, unique, ask("index_info", name)) for _, name, unique, *_ in ask("index_list", table)),
            )
            for table in tables
        }


def test_the_migrations_make_what_the_models_say(store: Store, file: Path, tmp_path: Path) -> None:
    assert differences(store) == []
    direct = tmp_path / "direct.sqlite"
    engine = create_engine(f"sqlite:///{direct}")
    Base.metadata.create_all(engine)
    engine.dispose()
    assert schema(file) == schema(direct)


def test_a_difference_would_be_seen(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(text("ALTER TABLE run ADD COLUMN mood TEXT"))
        connection.execute(text("DROP INDEX ix_run_status"))
    assert len(differences(store)) == 2


def test_head_is_the_newest_revision(store: Store) -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [HEAD]
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [HEAD]


@pytest.mark.parametrize(
    ("dialect", "words"),
    [
        ("postgresql", ["DOUBLE PRECISION", "BIGINT", "JSON", "BYTEA", "SERIAL"]),
        ("mysql", ["DOUBLE", "BIGINT", "JSON", "BLOB(4294967295)", "AUTO_INCREMENT"]),
    ],
)
def test_the_migrations_can_be_written_for_servers(dialect: str, words: list[str]) -> None:
    buffer = io.StringIO()
    context = MigrationContext.configure(
        dialect_name=dialect, opts={"as_sql": True, "output_buffer": buffer, "target_metadata": Base.metadata}
    )
    scripts = list(ScriptDirectory(str(MIGRATIONS)).walk_revisions())
    with Operations.context(context):
        for script in reversed(scripts):
            script.module.upgrade()
    written = buffer.getvalue()
    for table in Base.metadata.tables:
        assert f"CREATE TABLE {table} " in written
    assert [word for word in words if word not in written] == []


SECOND = '''
"""Renames a column of a table that others refer to, and adds one."""

import sqlalchemy as sa
from alembic import op

revision = "test2"
down_revision = "{head}"


def upgrade() -> None:
    with op.batch_alter_table("measurement", recreate="always") as batch:
        batch.alter_column("title", new_column_name="heading")
        batch.add_column(sa.Column("mood", sa.Text()))
{more}
'''


def scripts_with(tmp_path: Path, more: str = "") -> Path:
    """A copy of the migrations with one more, "test2"."""
    folder = tmp_path / "100% migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "test2.py").write_text(SECOND.format(head=HEAD, more=more))
    return folder


@pytest.fixture
def filled(store: Store, new_run: Callable[..., Run]) -> Store:
    run = new_run(variants=("fp32", "int8"))
    run.measurements[0].blocks.append(new_block(0, 1, "timed", 0.0, 8, 100, 1024, [0.1, 0.2]))
    with store.session() as session:
        session.add(run)
    return store


def counts(file: Path) -> list[int]:
    with closing(sqlite3.connect(file)) as connection:
        return [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("run", "measurement", "block", "published")
        ]


def test_an_older_database_is_backed_up_and_keeps_its_rows(filled: Store, file: Path, tmp_path: Path) -> None:
    before = counts(file)
    assert before == [1, 2, 1, 5]
    bring_up_to_date(filled.engine, scripts=scripts_with(tmp_path), head="test2")
    assert counts(file) == before
    with filled.engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "test2"
        assert connection.execute(text("SELECT heading FROM measurement")).scalars().all() == ["FP32", "INT8"]
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    [backup] = file.parent.glob("*.bak")
    assert f"{HEAD}-to-test2" in backup.name
    assert counts(backup) == before
    assert "title" in str(schema(backup)["measurement"])
    assert not list(file.parent.glob("*.partial"))


def test_a_migration_that_fails_changes_nothing(filled: Store, file: Path, tmp_path: Path) -> None:
    before, shape = counts(file), schema(file)
    scripts = scripts_with(tmp_path, '    op.execute("DELETE FROM block")\n    raise RuntimeError("midway")')
    with pytest.raises(RuntimeError, match="midway"):
        bring_up_to_date(filled.engine, scripts=scripts, head="test2")
    assert counts(file) == before
    assert schema(file) == shape
    with filled.engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == HEAD
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_a_migration_that_leaves_orphans_changes_nothing(filled: Store, file: Path, tmp_path: Path) -> None:
    before = counts(file)
    scripts = scripts_with(tmp_path, '    op.execute("DELETE FROM run")')
    with pytest.raises(RuntimeError, match="without what they refer to"):
        bring_up_to_date(filled.engine, scripts=scripts, head="test2")
    assert counts(file) == before


@pytest.mark.parametrize("dump", sorted((Path(__file__).parent / "schemas").glob("*.sql")), ids=lambda path: path.stem)
def test_every_past_schema_migrates_with_its_data_intact(dump: Path, url: str, file: Path) -> None:
    file.parent.mkdir(parents=True)
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(dump.read_text(encoding="utf-8"))
    with open_store(url) as store, store.session() as session:
        assert differences(store) == []
        run = runs.get_run(session, "latest")
        assert (run.status, run.notes, run.created_at.year) == ("finished", "kept", 2026)
        if dump.stem >= "0004":
            assert run.process == "boot/namespace/12345" and run.queued_at is not None and run.queued_at.minute == 59
        assert run.loads == []
        first, second = measurements.measurements(session, run.id)
        assert (first.variant, first.latency_p50_s, second.accuracy) == ("fp32", 0.0123, 0.5)
        # What the old schema did not know is not made up.
        assert row_of(first).accuracy_p is None and row_of(first).limits is None
        [block] = measurements.blocks(session, second.id)
        assert block.latencies_s.tolist() == [0.012, 0.0125]
        assert np.array_equal(measurements.logits(session, first.id), np.array([[1.5, -1], [-0.25, 2]], np.float32))
        assert run.example_set_id is not None
        texts = [example.text for example in examples.examples(session, run.example_set_id)]
        assert texts == ["Rain in the north.", "A late goal, 2–1."]
    [backup] = file.parent.glob("*.bak")
    assert f"{dump.stem}-to-{HEAD}" in backup.name


@pytest.mark.parametrize(
    ("host", "imported", "executor"),
    [
        ("Slurm", None, "slurm"),
        ("Slurm job 17", None, "slurm"),
        ("Slurm job 17 on n1", None, "slurm"),
        ("Slurm job 17 on n1", "2026-01-01 00:00:00", None),
        ("Slurm-login", None, None),
        ("n1", None, None),
    ],
)
def test_a_submitted_run_of_before_is_still_awaited(
    url: str, file: Path, host: str, imported: str | None, executor: str | None
) -> None:
    file.parent.mkdir(parents=True)
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript((Path(__file__).parent / "schemas" / "0005.sql").read_text(encoding="utf-8"))
        connection.execute("UPDATE run SET host = ?, imported_at = ?", (host, imported))
        connection.commit()
    with open_store(url) as store, store.session() as session:
        run = runs.get_run(session, "latest")
        assert (run.host, run.executor) == (host, executor)


def test_every_past_schema_is_kept() -> None:
    revisions = {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
    assert {path.stem for path in (Path(__file__).parent / "schemas").glob("*.sql")} == revisions - {HEAD}


def test_an_up_to_date_database_is_not_backed_up(filled: Store, url: str, file: Path) -> None:
    open_store(url).close()
    assert not list(file.parent.glob("*.bak"))
