"""Runs measured into a PostgreSQL server that several processes share."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from postgres_server import PASSWORD

from engine.jobs import local, queue
from engine.store import measurements, open_store, runs
from engine.store.runfile import reading, writing
from engine.suite.reading import load_suite

pytestmark = pytest.mark.second_tier


@pytest.fixture
def shared(migrated_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The server's database is the bench's own."""
    url = migrated_postgres()
    monkeypatch.setenv("BENCH_DATABASE_URL", url)
    return url


@pytest.fixture
def file_of(shaped_models, write_suite, tmp_path) -> Callable[..., Path]:
    """file_of(name, **keys of the protocol): the file of a suite of two light variants."""

    def make(name: str, **protocol: Any) -> Path:
        wide = {"model": shaped_models["wide"], "backend": "onnxruntime"}
        variants = [{"name": "fp32", **wide}, {"name": "int8", **wide, "precision": "int8"}]
        return write_suite(tmp_path, variants, name=name, protocol=protocol)

    return make


def row_of(run_id: str) -> dict[str, Any]:
    with open_store(create=False) as store, store.session() as session:
        run = runs.get_run(session, run_id)
        rows = measurements.measurements(session, run_id)
        return runs.run_summary(run) | {"measured": [row.status for row in rows]}


def ended(run_id: str) -> dict[str, Any] | None:
    row = row_of(run_id)
    return row if row["status"] in queue.ENDED else None


def test_runs_queue_in_order_end_go_on_and_travel(
    shared, file_of, bench, wait_until, own_folders, tmp_path, monkeypatch
):
    long = str(file_of("long", rounds=100_000, max_seconds=600.0))
    first = local.start(load_suite(long), "cpu", long)
    queued = bench("queue", file_of("second"), "--device", "cpu")
    assert queued.returncode == 0, queued.stderr
    second = queued.stdout.strip()
    # The first works while the second waits its turn, each in a process of its own.
    wait_until(lambda: (row_of(first)["progress"] or {}).get("phase") == "timing", 120)
    wait_until(lambda: (row_of(second)["progress"] or {}).get("phase") == "queued", 60)
    said = bench("cancel", first)
    assert said.returncode == 0 and "cancelling" in said.stderr
    one = wait_until(lambda: ended(first), 60)
    two = wait_until(lambda: ended(second), 120)
    assert (one["status"], two["status"]) == ("cancelled", "finished")
    assert one["finished_at"] <= two["started_at"] and two["measured"] == ["measured", "measured"]
    # What the first one lacks is measured; its suite's end is brought near.
    with open_store() as store, store.session() as session:
        run = runs.get_run(session, first)
        run.suite = run.suite | {"protocol": run.suite["protocol"] | {"rounds": 3, "max_seconds": 5.0}}
    resumed = bench("resume", first)
    assert resumed.returncode == 0, resumed.stderr
    assert row_of(first)["measured"] == ["measured", "measured"] and row_of(first)["status"] == "finished"
    listed = bench("runs")
    assert first in listed.stdout and second in listed.stdout
    # As a file it goes into an SQLite database, and from there into this one again.
    made = bench("export", second, "--format", "run", "--output", tmp_path / "second.run.zip")
    assert made.returncode == 0, made.stderr
    content = (tmp_path / "second.run.zip").read_bytes()
    gone = bench("delete", second, "--yes")
    assert gone.returncode == 0, gone.stderr
    assert reading.load(content).new and row_of(second)["measured"] == ["measured", "measured"]
    assert writing.dump(second)[1] == content
    monkeypatch.setenv("BENCH_DATABASE_URL", f"sqlite:///{tmp_path}/other.sqlite")
    assert reading.load(content).new
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM measurement").fetchone() == (2,)
    # Nothing that was printed or logged on the way holds the password.
    files = [file for run_id in (first, second) for file in (own_folders / "logs" / run_id).iterdir()]
    logs = [file.read_text(errors="replace") for file in files]
    said = [queued, said, resumed, listed, made, gone]
    assert not [text for text in [*logs, *(s.stdout + s.stderr for s in said)] if PASSWORD in text]
