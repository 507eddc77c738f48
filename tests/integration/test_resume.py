"""A run that ended early, or lacks a variant, goes on with what it has."""

from __future__ import annotations

import os
import shutil
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.jobs import local, queue
from engine.measurement import stats, summary
from engine.store import interrupted, measurements, open_store, runs


@pytest.fixture
def suite(shaped_models, write_suite, tmp_path):
    """suite(**keys of the protocol): a suite of three light variants, its file."""

    def make(**protocol: Any) -> Path:
        wide = {"model": shaped_models["wide"], "backend": "onnxruntime"}
        variants = [{"name": "fp32", **wide}, {"name": "int8", **wide, "precision": "int8"},
                    {"name": "again", **wide}]  # fmt: skip
        usual = {"rounds": 60, "block_seconds": 0.1, "min_calls": 1, "max_seconds": 60.0}
        return write_suite(tmp_path, variants, name="resumed", protocol=usual | protocol)

    return make


def rounds_of(run_id: str) -> dict[str, dict[int, list[int]]]:
    """Variant -> process -> its rounds."""
    found: dict[str, dict[int, list[int]]] = {}
    with open_store(create=False) as store, store.session() as session:
        for row in measurements.measurements(session, run_id):
            for block in measurements.blocks(session, row.id):
                found.setdefault(row.variant, {}).setdefault(block.process, []).append(block.round)
    return found


def rows_of(run_id: str) -> dict[str, dict[str, Any]]:
    with open_store(create=False) as store, store.session() as session:
        return {row.variant: row.to_json() for row in measurements.rows(session, run_id)}


def newest() -> str:
    with open_store(create=False) as store, store.session() as session:
        return runs.get_run(session, "latest").id


def speed_up(run_id: str, variant: str) -> float:
    """From the stored calls alone."""
    with open_store(create=False) as store, store.session() as session:
        raws = {}
        for row in measurements.measurements(session, run_id):
            blocks = measurements.blocks(session, row.id)
            raws[row.variant] = summary.Raw(blocks)
    calm = stats.calm_rounds([raw.rates() for raw in raws.values()])
    found = stats.speed_up(raws[variant].rates(), raws["fp32"].rates(), calm)
    assert found
    return found.estimate


def until_killed(live: Any, suite: Path, wait_until: Any) -> tuple[str, dict[str, dict[int, list[int]]]]:
    """A run whose runner is killed at its 12th round; its id and the rounds that are stored."""
    run = live("run", suite, "--device", "cpu")
    run.wait_for("timing: round")
    run_id = newest()
    wait_until(lambda: len(rounds_of(run_id).get("again", {}).get(0, [])) >= 12, 60)
    os.killpg(run.process.pid, signal.SIGKILL)
    run.process.wait()
    return run_id, rounds_of(run_id)


def test_a_killed_run_goes_on_with_what_it_has(suite, live, bench, wait_until):
    run_id, before = until_killed(live, suite(), wait_until)
    done = bench("resume", run_id[-6:])
    assert done.returncode == 0, done.stderr
    after, rows = rounds_of(run_id), rows_of(run_id)
    assert newest() == run_id, "the same run"
    for variant, row in rows.items():
        assert row["status"] == "measured" and row["examples"]
        assert after[variant][0] == before[variant][0], "what was timed is kept"
        made = after[variant][1]
        assert made == list(range(len(made))) and 12 <= len(made) <= 60 - min(len(r[0]) for r in before.values()) + 1
        assert row["calls"] > 0 and np.isfinite(row["speedup"])
    assert rows["int8"]["speedup"] == pytest.approx(speed_up(run_id, "int8"))
    with open_store(create=False) as store, store.session() as session:
        run = runs.get_run(session, run_id)
        assert (run.status, run.status_reason) == ("finished", None)
        blocks = [b for row in measurements.measurements(session, run_id) for b in measurements.blocks(session, row.id)]
    begun = [[block.started_s for block in blocks if block.process == process] for process in (0, 1)]
    assert max(begun[0]) < min(begun[1]), "its clock goes on"

    again = bench("resume", run_id)
    assert again.returncode == 2
    assert again.stderr.strip() == (
        f"error: run {run_id} lacks nothing: every variant is measured, or unavailable here"
    )


@pytest.mark.second_tier
def test_only_what_failed_is_measured_again_beside_its_baseline(suite, live, bench):
    run = live("run", suite(rounds=40), "--device", "cpu")
    run.wait_for("timing: round")
    os.kill(run.workers()["int8"], signal.SIGKILL)
    assert run.end() == 1
    run_id = newest()
    before, rounds = rows_of(run_id), rounds_of(run_id)
    assert {name: row["status"] for name, row in before.items()} == {
        "fp32": "measured", "int8": "failed", "again": "measured",
    }  # fmt: skip
    done = bench("resume", run_id)
    assert done.returncode == 0, done.stderr
    assert "again: loading" not in done.stderr and "int8: loading" in done.stderr
    after = rows_of(run_id)
    assert {row["status"] for row in after.values()} == {"measured"}
    assert after["int8"]["accuracy"] is not None and after["int8"]["status_reason"] is None
    assert rounds_of(run_id)["again"] == rounds["again"] and rounds_of(run_id)["fp32"][0] == rounds["fp32"][0]
    for name in ("latency_p50_s", "ram_peak_bytes", "load_s", "accuracy", "calls", "audit"):
        assert after["again"][name] == before["again"][name], "what was whole stays as it was"
    assert after["int8"]["speedup"] == pytest.approx(speed_up(run_id, "int8"))
    assert set(rounds_of(run_id)["int8"]) <= {0, 1} and len(rounds_of(run_id)["int8"][1]) >= 8


@pytest.mark.second_tier
def test_who_may_not_go_on_is_told_why_and_nothing_changes(suite, live, bench, wait_until, shaped_models, tmp_path):
    file = suite()
    copy = shutil.copytree(shaped_models["wide"], tmp_path / "model")
    text = file.read_text().replace(str(shaped_models["wide"]), str(copy))
    file.write_text(text)
    run_id, before = until_killed(live, file, wait_until)

    with open_store() as store, store.session() as session:
        assert run_id in interrupted.mark_interrupted(session)
        run = runs.get_run(session, run_id)
        host, environment = run.host, dict(run.environment)

    def refused(**columns: Any) -> str:
        for values in (columns, {"host": host, "environment": environment}):
            with open_store() as store, store.session() as session:
                run = runs.get_run(session, run_id)
                for name, value in values.items():
                    setattr(run, name, value)
            if values is columns:
                done = bench("resume", run_id)
        assert done.returncode == 2, done.stderr
        return done.stderr.strip().splitlines()[-1]

    assert "was begun on elsewhere; resume it there" in refused(host="elsewhere")
    name = next(iter(environment["distributions"]))
    changed = environment | {"distributions": environment["distributions"] | {name: "0.0.1"}}
    assert f"other versions ({name} 0.0.1 then" in refused(environment=changed)

    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4] ^= 1
    weights.write_bytes(content)
    done = bench("resume", run_id)
    assert done.returncode == 2 and "its model has changed since" in done.stderr.strip().splitlines()[-1]
    assert rounds_of(run_id) == before

    with open_store() as store, store.session() as session:
        run = runs.get_run(session, run_id)
        run.status, run.host, run.heartbeat_at = "running", "elsewhere", datetime.now(UTC)
    assert f"run {run_id} is running" in bench("resume", run_id).stderr


@pytest.mark.second_tier
def test_a_run_is_resumed_by_a_process_of_its_own(suite, live, wait_until):
    run_id, before = until_killed(live, suite(), wait_until)
    assert local.resume(run_id[:8]) == run_id

    def status() -> str:
        with open_store(create=False) as store, store.session() as session:
            return runs.get_run(session, run_id).status

    wait_until(lambda: status() in queue.ENDED, 120)
    assert status() == "finished"
    assert {row["status"] for row in rows_of(run_id).values()} == {"measured"}
    assert rounds_of(run_id)["int8"][0] == before["int8"][0]
