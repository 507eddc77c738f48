"""Processes under a run: killed, interrupted, refused; what they import and how many threads they use."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from engine import paths
from engine.machine import devices, locks
from engine.machine.holders import from_words
from engine.store import measurements, open_store, runs

FOR_EVER = {"rounds": 1_000_000, "min_calls": 1, "max_seconds": 600.0, "block_seconds": 0.005}


@pytest.fixture(scope="module")
def endless(shaped_models, write_suite, tmp_path_factory):
    """A suite of three light variants that times until it is told otherwise."""
    wide = {"model": shaped_models["wide"], "backend": "onnxruntime"}
    return write_suite(
        tmp_path_factory.mktemp("suite"),
        [
            {"name": "first", **wide},
            {"name": "second", **wide, "precision": "int8"},
            {"name": "third", **wide, "options": {"graph_optimization": "basic"}},
        ],
        name="endless",
        protocol=FOR_EVER,
    )


def stored(suite_name: str) -> tuple[str, str, str | None, dict[str, tuple[str, str | None, int, bool]]]:
    """The newest run of a suite: id, status, reason; variant -> status, reason, timed calls, has logits."""
    with open_store(create=False) as store, store.session() as session:
        run = runs.list_runs(session, limit=1, suite=suite_name)[0].run
        found = {}
        for row in measurements.measurements(session, run.id):
            calls = sum(len(block.latencies_s) for block in measurements.blocks(session, row.id))
            answered = measurements.logits(session, row.id) is not None
            found[row.variant] = (row.status, row.status_reason, calls, answered)
        return run.id, run.status, run.status_reason, found


def lock_is_free() -> bool:
    try:
        with locks.device_lock(devices.resolve_device("cpu"), from_words("a test")):
            return True
    except locks.DeviceBusy:
        return False


def test_who_holds_a_device_is_not_written_through_a_link(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_LOCK_DIR", str(tmp_path))
    device = devices.cpu_device()
    mine = tmp_path / "mine"
    mine.write_text("as it was")
    lock = locks._lock_file(device)
    lock.with_suffix(f".{os.getuid()}.holder").symlink_to(mine)
    lock.with_name(f"{lock.stem}.warm-{os.getpid()}").symlink_to(mine)
    with locks.device_lock(device, from_words("a test")):
        locks.register_warm(device, os.getpid())
    assert mine.read_text() == "as it was"


def test_a_killed_worker_is_a_failed_measurement_and_the_others_go_on(endless, live, tmp_path):
    file = tmp_path / "run.json"
    run = live("run", endless, "--device", "cpu", "--set", "protocol.max_seconds=4", "--json", file)
    run.wait_for("timing:")
    workers = run.workers()
    assert set(workers) == {"first", "second", "third"}
    os.kill(workers["second"], signal.SIGKILL)
    assert run.end() == 1, run.said
    assert any(line.startswith("failed: second: ") and "SIGKILL" in line for line in run.lines)
    assert "Traceback" not in run.said
    written = json.loads(file.read_text())
    assert written["run"]["status"] == "finished" and "second" in written["run"]["status_reason"]
    rows = {row["variant"]: row for row in written["measurements"]}
    assert rows["second"]["status"] == "failed" and "SIGKILL" in rows["second"]["status_reason"]
    # What it gave is told, and nothing is concluded from it.
    assert rows["second"]["calls"] > 0 and rows["second"]["accuracy"] is not None
    assert rows["second"]["speedup"] is rows["second"]["comparison"] is rows["second"]["validity"] is None
    for name in ("first", "third"):
        assert rows[name]["status"] == "measured" and rows[name]["speedup_low"] > 0
    # It was killed early on: the others had most of the four seconds to themselves.
    calls = {name: found[2] for name, found in stored("endless")[3].items()}
    assert 0 < calls["second"] < min(calls["first"], calls["third"])


@pytest.mark.second_tier
def test_a_killed_baseline_leaves_the_others_without_a_speed_up(endless, live, tmp_path):
    file = tmp_path / "run.json"
    run = live("run", endless, "--device", "cpu", "--set", "protocol.max_seconds=2", "--json", file)
    run.wait_for("loading: third")
    os.kill(run.workers()["first"], signal.SIGKILL)
    assert run.end() == 1, run.said
    rows = {row["variant"]: row for row in json.loads(file.read_text())["measurements"]}
    assert rows["first"]["status"] == "failed"
    for name in ("second", "third"):
        assert rows[name]["status"] == "measured" and rows[name]["throughput_samples_per_s"] > 0
        assert rows[name]["speedup"] is rows[name]["comparison"] is rows[name]["agreement"] is None


def test_a_killed_runner_leaves_no_orphans_no_lock_and_what_it_measured(endless, live, bench, wait_until, is_gone):
    run = live("run", endless, "--device", "cpu")
    run.wait_for("timing:")
    workers = run.workers()
    assert len(workers) == 3 and not lock_is_free()
    wait_until(lambda: all(calls > 5 for _, _, calls, _ in stored("endless")[3].values()), 120)
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    wait_until(lambda: all(map(is_gone, workers.values())), 5, lambda: "workers outlived their runner")
    assert lock_is_free()
    listed = bench("runs")
    run_id, status, reason, found = stored("endless")
    assert re.search(rf"{run_id} .* interrupted ", listed.stdout), listed.stdout
    assert status == "interrupted" and f"process {run.process.pid}" in (reason or "")
    for name in ("first", "second", "third"):
        status, reason, calls, answered = found[name]
        assert status == "cancelled" and "ended without finishing" in (reason or "")
        assert calls > 5 and answered
    shown = bench("show", run_id)
    assert shown.returncode == 0 and "cancelled" in shown.stdout


@pytest.mark.parametrize(
    ("number", "said"),
    [
        pytest.param(signal.SIGINT, "cancelled by the user", marks=pytest.mark.second_tier),
        (signal.SIGTERM, "ended by SIGTERM"),
        pytest.param(signal.SIGHUP, "ended by SIGHUP", marks=pytest.mark.second_tier),
    ],
)
def test_an_interrupted_run_is_stored_as_cancelled(endless, live, bench, wait_until, is_gone, number, said):
    run = live("run", endless, "--device", "cpu")
    run.wait_for("timing:")
    workers = run.workers()
    wait_until(lambda: all(calls > 5 for _, _, calls, _ in stored("endless")[3].values()), 120)
    run.process.send_signal(number)
    assert run.end(20) == 130, run.said
    assert "Traceback" not in run.said and "cancelled" in run.lines[-1]
    assert all(map(is_gone, workers.values())) and lock_is_free()
    run_id, status, reason, found = stored("endless")
    assert status == "cancelled" and reason == said
    for status, reason, calls, answered in found.values():
        assert status == "cancelled" and "cancelled" in (reason or "")
        assert calls > 5 and answered
    # "What was measured is stored": and shown.
    for row in json.loads(bench("export", run_id, "--format", "json").stdout)["measurements"]:
        assert row["calls"] == found[row["variant"]][2] and row["latency_p50_s"] > 0 and row["accuracy"] is not None
        assert row["speedup"] is None and row["comparison"] is None


@pytest.mark.second_tier
def test_an_interrupted_preparation_is_stored_as_cancelled(shaped_models, write_suite, live, tmp_path, is_gone):
    import psutil

    model = shutil.copytree(shaped_models["wide"], tmp_path / "own")
    # Another model, so that there is something to build.
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"seq_classif_dropout": 0.15}))
    suite = write_suite(tmp_path, [{"model": model, "backend": "onnxruntime"}], name="unprepared")
    run = live("run", suite, "--device", "cpu")
    run.wait_for("preparing: v0: building")
    children = psutil.Process(run.process.pid).children()
    assert children, "a build process is at work"
    run.process.send_signal(signal.SIGINT)
    assert run.end(20) == 130, run.said
    assert all(is_gone(child.pid) for child in children) and lock_is_free()
    assert stored("unprepared")[1] == "cancelled"
    assert not list((paths.local_data() / "artefacts").glob(".*.draft"))


def test_a_second_run_on_a_device_in_use_is_refused(endless, live, bench):
    run = live("run", endless, "--device", "cpu")
    run.wait_for("timing:")
    first = stored("endless")[0]
    refused = bench("run", endless, "--device", "cpu")
    assert refused.returncode == 2
    lines = refused.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ") and f"run {first}" in lines[-1] and "busy" in lines[-1]
    assert f"process {run.process.pid}" in lines[-1]
    assert stored("endless")[0] == first, "a refused run leaves no row"
    run.process.send_signal(signal.SIGINT)
    assert run.end(20) == 130


@pytest.mark.second_tier
def test_a_model_that_vanishes_before_it_is_loaded_is_a_failed_measurement(shaped_models, write_suite, live, tmp_path):
    model = shutil.copytree(shaped_models["wide"], tmp_path / "vanishing")
    suite = write_suite(
        tmp_path,
        [
            {"name": "stays", "model": shaped_models["wide"], "backend": "onnxruntime"},
            {"name": "vanishes", "model": model},
        ],
        name="vanishing",
    )
    file = tmp_path / "run.json"
    run = live("run", suite, "--device", "cpu", "--json", file)
    # All is prepared; the worker has its libraries to import before it looks at the folder.
    run.wait_for("loading: starting")
    shutil.rmtree(model)
    assert run.end() == 1, run.said
    assert "Traceback" not in run.said
    rows = {row["variant"]: row for row in json.loads(file.read_text())["measurements"]}
    assert rows["vanishes"]["status"] == "failed" and "vanishing" in rows["vanishes"]["status_reason"]
    assert "\n" not in rows["vanishes"]["status_reason"]
    assert rows["stays"]["status"] == "measured" and rows["stays"]["throughput_samples_per_s"] > 0


# What a worker is made of


@pytest.fixture(scope="module")
def inside(shaped_models, write_suite, live_run, tmp_path_factory, request):
    """A run of a torch and an ONNX worker with one thread each: its JSON, and the maps of the live workers.

    Python itself writes into the workers' logs what they import.
    """
    wide = shaped_models["wide"]
    folder = tmp_path_factory.mktemp("suite")
    suite = write_suite(
        folder,
        [{"name": "torch", "model": wide}, {"name": "onnx", "model": wide, "backend": "onnxruntime"}],
        name="inside",
        protocol={**FOR_EVER, "max_seconds": 3.0, "threads": 1},
    )
    file = folder / "run.json"
    run = live_run("run", suite, "--device", "cpu", "--json", file, env={"PYTHONPROFILEIMPORTTIME": "1"})
    request.addfinalizer(run.kill)
    run.wait_for("timing:")
    workers = run.workers()
    maps = {name: Path(f"/proc/{pid}/maps").read_text() for name, pid in workers.items()}
    variables = {name: Path(f"/proc/{pid}/environ").read_text() for name, pid in workers.items()}
    assert run.end() == 0, run.said
    return json.loads(file.read_text()), maps, variables


def imported(run: dict, variant: str) -> set[str]:
    """Top-level packages that a worker imported, by its log."""
    log = (Path(run["log_path"]) / f"{variant}-0.log").read_text()
    return {name.partition(".")[0] for name in re.findall(r"^import time:.*\| +([\w.]+)$", log, re.MULTILINE)}


@pytest.mark.second_tier
def test_an_onnx_worker_has_no_torch_in_it(inside):
    run = inside[0]["run"]
    onnx, torch = imported(run, "onnx"), imported(run, "torch")
    assert {"onnxruntime", "tokenizers", "numpy"} <= onnx
    assert not {"torch", "transformers", "optimum", "onnx", "datasets", "sqlalchemy", "dashboard"} & onnx
    assert {"torch", "transformers", "tokenizers"} <= torch
    assert not {"onnxruntime", "optimum", "datasets", "sqlalchemy", "dashboard"} & torch
    # What the bench needs for its figures, or another library would take along because it is there.
    assert not {"sklearn", "scipy", "pandas", "pyarrow"} & (onnx | torch)
    maps = inside[1]
    assert "/onnxruntime/" in maps["onnx"] and "/torch/" not in maps["onnx"]
    assert "/torch/" in maps["torch"] and "/onnxruntime/" not in maps["torch"]


@pytest.mark.second_tier
def test_an_onnx_worker_needs_far_less_memory(inside):
    peak = {row["variant"]: row["ram_peak_bytes"] for row in inside[0]["measurements"]}
    assert peak["onnx"] < 250e6 and peak["onnx"] < 0.5 * peak["torch"]


@pytest.mark.second_tier
def test_workers_have_the_threads_that_the_protocol_gives(inside):
    found, _, variables = inside
    assert found["run"]["environment"]["threads"] == 1
    for row in found["measurements"]:
        assert row["audit"]["settings"]["threads"] == 1, row["variant"]
        assert row["audit"]["deviations"] == []
        assert "OMP_NUM_THREADS=1\0" in variables[row["variant"]]
