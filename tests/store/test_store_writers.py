"""Many processes that write to one SQLite file at once, as runs and dashboards do."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine import jobs
from engine.errors import RequestError
from engine.recorder import Recorder, reserve_last_words
from engine.runner import Progress
from engine.store import LockedError, Store, queries
from engine.store.models import Run

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = """
import sys, time
import numpy as np
from types import SimpleNamespace
from engine.recorder import Recorder
from engine.runner import Progress
from engine.summary import Block
url, run_id, measurement, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with Recorder(url) as recorder:
    print("ready", flush=True)
    sys.stdin.readline()
    recorder.state(run_id, "running")
    for index in range(rounds):
        block = Block(0, index, float(index), np.full(3, 0.01), 24, 100, 200)
        recorder.blocks([(SimpleNamespace(id=measurement), block)])
        recorder.progress(run_id, Progress(f"phase {index}", "timing"))
    recorder.finish(measurement, {"status": "measured"})
    recorder.end(run_id, "finished", None)
"""
DASHBOARD = """
import sys
from engine.store import open_store, queries
with open_store(sys.argv[1], create=False) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for index in range(int(sys.argv[2])):
        with store.session() as session:
            assert queries.mark_interrupted(session) == [], "a run that lives"
            for row in queries.list_runs(session, limit=20):
                queries.measurements(session, row.run.id)
        with store.session() as session:
            queries.set_tags(session, sys.argv[3], [f"tag-{index}"])
"""


@pytest.fixture
def writer() -> Callable[..., subprocess.Popen[str]]:
    """writer(code, *arguments): a Python program that waits for a line before it begins."""

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_runs_and_dashboards_at_once(
    store: Store, url: str, file: Path, new_run: Callable[..., Run], writer: Callable, tmp_path: Path
) -> None:
    runs = [new_run(variants=("fp32",), status="preparing", host="elsewhere", heartbeat_at=datetime.now(UTC))
            for _ in range(3)]  # fmt: skip
    with store.session() as session:
        session.add_all(runs)
        session.flush()
        ids = [(run.id, run.measurements[0].id) for run in runs]
    programs = [writer(RUN, url, run_id, key, 20) for run_id, key in ids]
    programs += [writer(DASHBOARD, url, 20, run_id) for run_id, _ in ids[:2]]
    for program in programs:
        assert program.stdout.readline() == "ready\n", program.stderr.read()
    for program in programs:
        program.stdin.write("\n")
        program.stdin.flush()
    for program in programs:
        _, errors = program.communicate(timeout=240)
        assert program.returncode == 0, errors
    with store.session() as session:
        for run_id, key in ids:
            assert queries.get_run(session, run_id).status == "finished"
            assert [block.round for block in queries.latencies(session, key)] == list(range(20))
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_recorder_gives_up_a_locked_database_in_the_end(
    store: Store, url: str, file: Path, new_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    run = new_run(status="running", host="elsewhere", log_path=str(tmp_path / "logs" / "x"))
    with store.session() as session:
        session.add(run)
    reserve_last_words(run.id)
    with Recorder(url + "?timeout=0.1") as recorder, closing(sqlite3.connect(file, isolation_level=None)) as other:
        recorder.patience_s = 1.0
        other.execute("BEGIN IMMEDIATE")
        began_s = time.monotonic()
        with pytest.raises(LockedError, match="has been locked by another process"):
            recorder.progress(run.id, Progress("timing", "round 1"))
        assert 1.0 <= time.monotonic() - began_s < 10
        with pytest.raises(RequestError):
            recorder.end(run.id, "failed", "the reason")
    assert queries.last_words(str(tmp_path / "logs" / run.id)) == "the reason"


def test_turns_are_taken_in_the_order_of_asking_whatever_the_clock_does(
    store: Store, url: str, new_run: Callable[..., Run]
) -> None:
    def ask(run: Run) -> str:
        with store.session() as session:
            run.queued_at = jobs._turn(session)
            session.add(run)
        return run.id

    host = {"host": socket.gethostname(), "status": "queued", "heartbeat_at": datetime.now(UTC)}
    ahead = datetime.now(UTC) + timedelta(hours=3)
    first = new_run(**host, queued_at=ahead, created_at=ahead)
    with store.session() as session:
        session.add(first)
    second, third = ask(new_run(**host)), ask(new_run(**host, created_at=datetime(2020, 1, 1, tzinfo=UTC)))
    with store.session() as session:
        assert [run.id for run in queries.live_runs(session)] == [first.id, second, third]
