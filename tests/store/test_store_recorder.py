"""What a run finds in the store of runs before it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from engine.run import estimate
from engine.run.recorder import Recorder
from engine.store import Store
from engine.store.models import Run

SPEC = {"name": "demo", "baseline": "fp32", "workload": {"batch_size": [8]}, "variant": [], "checkpoint": []}
ALIKE = {"suite": SPEC, "environment": {"distributions": {"torch": "2.13.0"}, "threads": 2}}


@pytest.fixture
def url(both: str) -> str:
    return both


@pytest.fixture
def add(store: Store, new_run: Callable[..., Run]) -> Callable[..., str]:
    """add(latency_s, **columns): a run with one measurement of `fp32`; its id."""

    def make(latency_s: float | None, **columns: object) -> str:
        run = new_run(variants=("fp32",), **ALIKE | columns)
        run.measurements[0].latency_p50_s = latency_s
        with store.session() as session:
            session.add(run)
        return run.id

    return make


def test_the_shortest_latency_of_runs_alike(url: str, add: Callable[..., str]) -> None:
    for latency_s in (0.012, 0.010, 0.011, None):
        add(latency_s)
    # Other work, another machine, other libraries, a run that did not end: none of them tells anything.
    add(0.001, suite=SPEC | {"workload": {"batch_size": [8], "max_length": 16}})
    add(0.001, suite_name="other")
    add(0.001, host="elsewhere")
    add(0.001, device_name="another processor")
    add(0.001, environment={"distributions": {"torch": "2.14.0"}, "threads": 2})
    add(0.001, status="cancelled")
    now = add(0.0005, status="running")
    with Recorder(url) as recorder:
        assert recorder.earlier_latencies_s(now) == {("fp32", 8): 0.010}


def test_what_came_as_a_file_tells_nothing_of_this_machine(url: str, store: Store, add: Callable[..., str]) -> None:
    add(0.010)
    now = datetime.now(UTC)
    # Such a file need not even say what checkpoints its suite makes.
    foreign = add(0.001, suite={"name": "demo", "workload": {"batch_size": [8]}}, imported_at=now, created_at=now)
    add(0.002, imported_at=now, created_at=now)
    add(0.009, imported_at=now, queued_at=now, created_at=now - timedelta(hours=1))
    running = add(None, status="running")
    with Recorder(url) as recorder:
        assert recorder.earlier_latencies_s(running) == {("fp32", 8): 0.009}, "of a Slurm job that was submitted here"
    with store.session() as session:
        run = session.get_one(Run, foreign)
        run.started_at = run.finished_at = now
        run.environment = ALIKE["environment"] | {"preparing_s": "x"}
        assert estimate.earlier(session, "demo", "a processor") is None, "the newest that is ours tells no length"


def test_the_first_run_has_nothing_to_compare_with(url: str, add: Callable[..., str]) -> None:
    now = add(0.01, status="running")
    with Recorder(url) as recorder:
        assert recorder.earlier_latencies_s(now) == {}


def test_how_long_it_is_measured_makes_no_other_work(url: str, add: Callable[..., str]) -> None:
    add(0.010, suite=SPEC | {"protocol": {"rounds": 6}})
    now = add(None, suite=SPEC | {"protocol": {"rounds": 60}}, status="running")
    with Recorder(url) as recorder:
        assert recorder.earlier_latencies_s(now) == {("fp32", 8): 0.010}
