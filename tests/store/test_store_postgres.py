"""A PostgreSQL server as the store: what is its own, beyond the tests that both kinds of database pass."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from postgres_server import PASSWORD
from sqlalchemy import create_engine, make_url, select, text

from engine.errors import RequestError
from engine.store import open_store, place, runs
from engine.store.models import Base, Published, Run
from engine.store.schema import alembic_config

pytestmark = pytest.mark.second_tier

NewDatabase = Callable[..., str]


def refusal(url: str, **options: bool) -> str:
    with pytest.raises(RequestError) as caught:
        open_store(url, **options).close()
    assert PASSWORD not in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_the_migrations_make_what_the_models_say(migrated_postgres: NewDatabase) -> None:
    with open_store(migrated_postgres(), create=False) as store:
        with store.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, Base.metadata) == []
        with store.session() as session:
            assert len(session.scalars(select(Published)).all()) == 5


def test_an_older_schema_goes_forward_with_its_rows(postgres: NewDatabase) -> None:
    url = postgres()
    engine = create_engine(url)
    with engine.begin() as connection:
        command.upgrade(alembic_config(connection), "0001")
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO run (id, suite_name, suite, device, device_name, host, environment, status, created_at, "
                "cancel_requested, notes) VALUES ('01J0000000000000000000000A', 'demo', '{}', 'cpu', 'a', 'b', '{}', "
                "'finished', '2026-03-01 12:00:00.25', false, 'kept')"
            )
        )
    engine.dispose()
    with open_store(url) as store, store.session() as session:
        run = runs.get_run(session, "latest")
        assert (run.notes, run.tags) == ("kept", [])
        assert run.created_at == datetime(2026, 3, 1, 12, 0, 0, 250_000, UTC)


def test_create_off_and_strangers_tables(postgres: NewDatabase) -> None:
    url = postgres()
    assert "no database at postgresql+psycopg://bench:***@/bench_" in refusal(url, create=False)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE run (recipe TEXT)"))
    engine.dispose()
    assert "tables that this bench did not make" in refusal(url)


def test_processes_that_open_a_new_database_at_once(postgres: NewDatabase, python: Callable) -> None:
    code = """
import sys
from engine.store import measurements, open_store
with open_store(sys.argv[1]) as store, store.session() as session:
    print(len(measurements.published(session)))
"""
    url = postgres()
    for program in [python(code, url) for _ in range(3)]:
        output, errors = program.communicate(timeout=300)
        assert (program.returncode, output) == (0, "5\n"), errors


def test_writers_in_several_processes_lose_nothing(migrated_postgres: NewDatabase, python: Callable) -> None:
    code = """
import sys
from datetime import UTC, datetime
from engine.store import examples, open_store
from engine.store.models import Run
with open_store(sys.argv[1]) as store:
    for number in range(30):
        with store.session() as session:
            examples.add_example_set(session, f"set {number}", "news", None, ["a", "b"], None, [0, 1])
            now = datetime.now(UTC)
            given = {"device": "cpu", "device_name": "a", "host": "b", "environment": {"nan": float("nan")}}
            session.add(Run(id=f"{sys.argv[2]}{number:025}", suite_name="demo", suite={}, status="finished",
                            created_at=now, example_set_id=f"set {number}", **given))
"""
    url = migrated_postgres()
    for program in [python(code, url, letter) for letter in "ABC"]:
        _, errors = program.communicate(timeout=300)
        assert program.returncode == 0, errors
    with open_store(url) as store, store.session() as session:
        assert runs.count_runs(session) == 90
        assert session.scalars(select(Run)).first().environment == {"nan": None}  # type: ignore[union-attr]


def test_a_wrong_password_and_a_server_that_is_gone(migrated_postgres: NewDatabase, tmp_path) -> None:
    url = make_url(migrated_postgres())
    wrong = url.set(password="nothing-like-it").render_as_string(hide_password=False)
    message = refusal(wrong)
    assert "password authentication failed" in message and "nothing-like-it" not in message
    gone = url.update_query_dict({"host": str(tmp_path)}).render_as_string(hide_password=False)
    assert "check that its server runs and that BENCH_DATABASE_URL is right" in refusal(gone)


def test_a_password_is_never_shown(migrated_postgres: NewDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    url = migrated_postgres()
    monkeypatch.setenv("BENCH_DATABASE_URL", url)
    assert place().startswith("postgresql+psycopg://bench:***@/bench_")
    monkeypatch.setenv(
        "BENCH_DATABASE_URL",
        make_url(url)
        .set(password=None)
        .update_query_dict({"password": PASSWORD})
        .render_as_string(hide_password=False),
    )
    assert PASSWORD not in place() and "password" not in place()
    open_store().close()
