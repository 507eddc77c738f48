"""Many processes that write to one SQLite file at once, as runs and dashboards do."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Timer

import numpy as np
import pytest
from ulid import ULID

from engine.errors import RequestError
from engine.jobs import local, queue
from engine.machine import devices
from engine.measurement.summary import Block
from engine.run import resuming
from engine.run.recorder import Recorder, patiently, reserve_last_words
from engine.run.state import Cell, Progress
from engine.store import LockedError, Store, interrupted, measurements
from engine.store import runs as store_runs
from engine.store.models import Run
from engine.suite.corpus import Corpus
from engine.suite.plan import Plan, cells_of
from engine.suite.reading import load_suite

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = """
import sys, time
import numpy as np
from types import SimpleNamespace
from engine.run.recorder import Recorder
from engine.run.state import Progress
from engine.measurement.summary import Block
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
from engine.store import interrupted, measurements, open_store, runs
with open_store(sys.argv[1], create=False) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for index in range(int(sys.argv[2])):
        with store.session() as session:
            assert interrupted.mark_interrupted(session) == [], "a run that lives"
            for row in runs.list_runs(session, limit=20):
                measurements.measurements(session, row.run.id)
        with store.session() as session:
            runs.set_tags(session, sys.argv[3], [f"tag-{index}"])
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
            assert store_runs.get_run(session, run_id).status == "finished"
            assert [block.round for block in measurements.blocks(session, key)] == list(range(20))
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
    assert interrupted.last_words(str(tmp_path / "logs" / run.id)) == "the reason"


def test_a_lock_that_outlasts_a_statement_many_times_costs_no_run_its_beginning_or_end(
    store: Store, url: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("BENCH_DATABASE_URL", url + "?timeout=0.1")
    suite = load_suite("demo")
    examples = Corpus("x.csv", ["a", "b"], ["a text", "another"], np.array([0, 1]), np.array([0, 1]), "0" * 64)
    device = devices.cpu_device()
    plan = Plan(suite, cells_of(suite), examples, device, 2)
    cells, again = [Cell(cell) for cell in plan.cells], [Cell(cell) for cell in plan.cells]
    run_id = str(ULID())

    def through_a_lock(write: Callable[[], object]) -> None:
        """Does it while another process has the database locked, for 15 times as long as a statement waits."""
        with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            release = Timer(1.5, lambda: other.execute("COMMIT"))
            release.start()
            began_s = time.monotonic()
            write()
            assert time.monotonic() - began_s > 1
            release.join()

    def status() -> str:
        with store.session() as session:
            return store_runs.get_run(session, run_id).status

    with Recorder() as recorder:
        through_a_lock(lambda: recorder.begin(run_id, plan, cells, None))
        assert status() == "preparing" and all(cell.id for cell in cells)
        block = Block(0, 0, 0.0, np.full(3, 0.01), 24, 100, 200)
        recorder.blocks([(cells[0], block)])
        through_a_lock(lambda: recorder.prepared_s(run_id, 3.0))
        through_a_lock(lambda: recorder.end(run_id, "interrupted", None))
        assert status() == "interrupted" and interrupted.last_words(str(tmp_path / "logs" / run_id)) is None
        through_a_lock(lambda: recorder.resume(run_id, again))
        assert status() == "preparing" and [len(cell.blocks) for cell in again] == [1, 0, 0, 0, 0]
        recorder.patience_s = 0.0
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LockedError):
                recorder.end(run_id, "cancelled", "asked for at once")
        assert interrupted.last_words(str(tmp_path / "logs" / run_id)) == "asked for at once"
    through_a_lock(lambda: local._ended(run_id, "failed", "a reason"))
    assert status() == "failed"
    with store.session() as session:
        store_runs.get_run(session, run_id).status = "queued"
    through_a_lock(lambda: patiently(lambda: local._claimed(run_id)))
    with store.session() as session:
        assert store_runs.get_run(session, run_id).pid == os.getpid()


def test_of_two_who_resume_a_run_at_once_one_does(
    store: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("BENCH_DATABASE_URL", url)
    suite = load_suite("demo")
    row = queue.queued(str(ULID()), suite, None, "cpu", "a processor", socket.gethostname(), datetime.now(UTC))
    row.status = "interrupted"
    with store.session() as session:
        session.add(row)
    started: list[str] = []
    both = Barrier(2)
    found = resuming.resumable

    def found_at_once(reference: str) -> resuming.Resumable:
        made = found(reference)
        both.wait(30)
        return made

    monkeypatch.setattr(resuming, "resumable", found_at_once)
    monkeypatch.setattr(local, "_detach", lambda store, run_id, arguments: started.append(run_id))
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(local.resume, row.id) for _ in range(2)]
    said = [str(one.exception()) for one in asked if one.exception()]
    assert started == [row.id] and said == [f"run {row.id} goes on already: somebody else has resumed it just now"]
    with store.session() as session:
        assert store_runs.get_run(session, row.id).status == "queued"


def test_turns_are_taken_in_the_order_of_asking_whatever_the_clock_does(
    store: Store, url: str, new_run: Callable[..., Run]
) -> None:
    def ask(run: Run) -> str:
        with store.session() as session:
            run.queued_at = queue.next_queue_time(session)
            session.add(run)
        return run.id

    host = {"host": socket.gethostname(), "status": "queued", "heartbeat_at": datetime.now(UTC)}
    ahead = datetime.now(UTC) + timedelta(hours=3)
    first = new_run(**host, queued_at=ahead, created_at=ahead)
    with store.session() as session:
        session.add(first)
    second, third = ask(new_run(**host)), ask(new_run(**host, created_at=datetime(2020, 1, 1, tzinfo=UTC)))
    with store.session() as session:
        assert [run.id for run in store_runs.live_runs(session)] == [first.id, second, third]
