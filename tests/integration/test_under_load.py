"""A run puts its variants under a service's load, keeps what they give, and goes on where it was ended meanwhile."""

from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.artefacts import preparer
from engine.cli import load as cli_load
from engine.jobs import ending
from engine.machine import locks
from engine.machine.locks import DeviceBusy
from engine.measurement import arrivals
from engine.store import interrupted, measurements, open_store, runs
from engine.store.runfile import writing
from engine.suite.reading import load_suite

SHORT = {"rounds": 6, "block_seconds": 0.02, "min_calls": 6, "max_seconds": 10.0, "quick": True}
"""`quick` as `--quick` sets it: whole efforts take minutes a variant."""
LIMIT_MS = 5000.0
"""So long that some rate holds also on a machine that others use."""


@pytest.fixture
def suite(shaped_models, write_suite, tmp_path):
    """suite(*variants, **keys of [load]): light variants named after what they say of themselves; its file."""

    def make(*variants: dict[str, Any], **load: Any) -> Path:
        usual = {"model": shaped_models["wide"], "backend": "onnxruntime"}
        table = {"p99_ms": LIMIT_MS, "max_batch": 8} | load
        filled = [usual | variant for variant in variants]
        return write_suite(tmp_path, filled, name="loaded", protocol=SHORT, load=table)

    return make


def stored(run_id: str = "latest") -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """A run, variant -> its measurement, variant -> its load."""
    with open_store(create=False) as store, store.session() as session:
        run = runs.get_run(session, run_id)
        rows = {row.variant: row.to_json() for row in measurements.rows(session, run.id)}
        return runs.run_summary(run), rows, {row.variant: row.to_json() for row in measurements.loads(session, run.id)}


def check(found: dict[str, Any]) -> None:
    """What holds of any result, whatever the machine was like."""
    assert found["status"] == "measured" and found["validity"] in ("valid", "unstable")
    assert (found["validity"] == "valid") is (found["validity_reason"] is None)
    assert found["p99_limit_s"] == LIMIT_MS / 1e3 and found["single_p90_s"] > 0 and found["single_texts"] >= 64
    assert 1 <= len(found["trials"]) <= 8 and found["conditions"]["seconds"] > 4
    held = [trial["rate_per_s"] for trial in found["trials"] if trial["holds"]]
    assert found["server_texts_per_s"] == max(held, default=None)
    for trial in found["trials"]:
        assert trial["rate_per_s"] < found["offline_texts_per_s"] and trial["texts"] >= 662
        assert trial["holds"] is (trial["late"] <= arrivals.most_late(trial["texts"], 0.99))
        assert 1 <= trial["mean_batch"] <= found["max_batch"]
        if trial["holds"]:
            assert trial["answered"] == trial["texts"] and trial["p99_s"] <= found["p99_limit_s"]


@pytest.mark.second_tier
def test_every_measured_variant_is_put_under_load_its_own_way(suite, bench, shaped_models, tmp_path):
    own = {"name": "own", "batch_size": 4, "padding": "longest", "order": "length"}
    packed = {"name": "packed", "model": shaped_models["wide"], "backend": "pytorch", "padding": "packed"}
    lacking = {"name": "tf32", "model": shaped_models["wide"], "backend": "pytorch", "precision": "tf32"}
    file = tmp_path / "run.json"
    done = bench("run", suite({"name": "plain"}, own, packed, lacking), "--device", "cpu", "--json", file)
    assert done.returncode == 0, done.stderr
    written = json.loads(file.read_text())
    found = {row["variant"]: row for row in written["scenarios"]}
    assert list(found) == ["plain", "own", "packed"], "not what cannot run here"
    for row in found.values():
        check(row)
        assert row["server_texts_per_s"], row
    assert [(row["padding"], row["max_batch"]) for row in found.values()] == [
        ("max_length", 8), ("longest", 4), ("packed", 8),
    ]  # fmt: skip
    told = [line for line in done.stderr.splitlines() if line.startswith("serving: ")]
    # Each at its beginning, and again where it takes long.
    assert list(dict.fromkeys(line.split(": ")[1] for line in told)) == ["plain", "own", "packed"]
    assert done.stderr.index("timing: ") < done.stderr.index("serving: ") < done.stderr.index("finished: ")
    assert "Under a service's load: p99 within 5,000 ms, batches of each variant's own" in done.stdout
    run, rows, again = stored()
    assert run["spec"]["load"] == {"p99_ms": LIMIT_MS, "max_batch": 8, "max_wait_ms": 0.0}
    assert again == found and {row["status"] for row in rows.values()} == {"measured", "unavailable"}
    assert bench("resume", run["id"]).stderr.strip().endswith("every variant is measured, or unavailable here")

    elsewhere = tmp_path / "one.run.zip"
    writing.write(run["id"], elsewhere)
    env = {"BENCH_DATA_DIR": str(tmp_path / "other")}
    assert bench("import", elsewhere, env=env).returncode == 0
    shown = bench("show", run["id"], env=env).stdout
    assert "Holds texts/s" in shown
    exported = json.loads(bench("export", run["id"], "--format", "json", env=env).stdout)
    assert exported["scenarios"] == list(again.values())
    assert bench("delete", run["id"], "--yes", env=env).returncode == 0
    url = f"sqlite:///{tmp_path / 'other' / 'bench.sqlite'}"
    with open_store(url, create=False) as store, store.session() as session:
        assert measurements.loads(session, run["id"]) == []


@pytest.mark.second_tier
def test_a_worker_that_dies_under_load_is_a_row_with_its_reason(suite, live, bench, wait_until):
    run = live("run", suite({"name": "fp32"}, {"name": "other"}), "--device", "cpu")
    run.wait_for("serving: other", 240)

    def under_load() -> bool:
        told = stored()[0]["progress"]
        # Any step after its start: a run stores where it stands once a second at most, so not every step.
        return told["variant"] == "other" and "loading" not in told["text"]

    wait_until(under_load, 240, lambda: run.said, lambda: run.process.poll() is None)
    os.kill(run.workers()["other"], signal.SIGKILL)
    assert run.end(240) == 1, run.said
    summary, rows, found = stored()
    assert summary["status"] == "finished" and summary["status_reason"] == "failed under load: other"
    assert {row["status"] for row in rows.values()} == {"measured"} and rows["other"]["speedup"]
    check(found["fp32"])
    lost = found["other"]
    assert lost["status"] == "failed" and lost["status_reason"] == "the worker was ended by SIGKILL"
    assert lost["trials"] == [] and lost["validity"] is None and lost["offline_texts_per_s"] is None
    assert "failed under load: other: the worker was ended by SIGKILL" in run.said

    done = bench("resume", summary["id"])
    assert done.returncode == 0, done.stderr
    after = stored()[2]
    check(after["other"])
    assert after["fp32"] == found["fp32"], "what is stored stays"


@pytest.mark.parametrize("way", [pytest.param("cancelled", marks=pytest.mark.second_tier), "killed"])
def test_a_run_that_ends_under_load_goes_on_with_the_load_alone(suite, live, bench, wait_until, way):
    run = live("run", suite({"name": "fp32"}, {"name": "other"}), "--device", "cpu")
    run.wait_for("serving: other", 240)
    run_id = stored()[0]["id"]
    if way == "killed":
        os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()
        with open_store() as store, store.session() as session:
            interrupted.mark_interrupted(session)
    else:
        ending.cancel(run_id)
        assert run.end(60) == 130, run.said
    summary, rows, found = stored(run_id)
    assert summary["status"] == ("interrupted" if way == "killed" else "cancelled")
    assert {row["status"] for row in rows.values()} == {"measured"} and list(found) == ["fp32"]

    done = bench("resume", run_id)
    assert done.returncode == 0, done.stderr
    phases = {line.split(":")[0] for line in done.stderr.splitlines()}
    assert "serving" in phases and not phases & {"loading", "answering", "timing"}
    assert "serving: fp32" not in done.stderr
    summary, after, load = stored(run_id)
    assert (summary["status"], summary["status_reason"]) == ("finished", None)
    assert after == rows, "no measurement is touched"
    assert load["fp32"] == found["fp32"]
    check(load["other"])


@pytest.mark.second_tier
def test_a_look_whose_worker_or_model_fails_says_so_in_a_line(
    suite, bench, live, wait_until, write_suite, tmp_path, shaped_models
):
    look = live("load", suite({"name": "fp32"}), "--variant", "fp32", "--device", "cpu")
    look.wait_for("serving:", 120)
    pid = wait_until(lambda: next(iter(look.workers().values()), None), 60)
    os.kill(pid, signal.SIGKILL)
    assert look.end(60) == 1 and look.lines[-1] == "failed: fp32: the worker was ended by SIGKILL"
    assert "Traceback" not in look.said
    int8 = {"name": "int8", "model": shaped_models["wide"], "backend": "onnxruntime", "precision": "int8"}
    wrong = write_suite(tmp_path / "wrong", [int8 | {"options": {"keep": ["none"]}}], name="wrong")
    done = bench("load", wrong, "--variant", "int8", "--device", "cpu", "--p99-ms", 50)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("failed: int8: ")


def test_a_look_takes_the_device_before_it_makes_anything(suite, monkeypatch):
    @contextmanager
    def taken(device, holder, timeout_s=0.0):
        raise DeviceBusy("taken")
        yield

    monkeypatch.setattr(locks, "device_lock", taken)
    monkeypatch.setattr(preparer, "Preparer", lambda *arguments: pytest.fail("something was prepared"))
    asked = load_suite(str(suite({"name": "fp32"})))
    with pytest.raises(DeviceBusy):
        cli_load.look(asked, asked.variants["fp32"], "cpu")


@pytest.mark.second_tier
def test_a_look_stores_nothing_and_says_what_does(suite, bench, write_suite, tmp_path, shaped_models):
    file = suite({"name": "fp32"}, {"name": "own", "batch_size": 4})
    done = bench("load", file, "--variant", "own", "--device", "cpu", "--json", "-")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["p99_limit_s"], found["max_batch"]) == (LIMIT_MS / 1e3, 4) and found["trials"]
    done = bench("load", file, "--variant", "own", "--device", "cpu", "--p99-ms", 150, "--max-batch", 6)
    assert done.returncode == 0 and "p99 within 150 ms" in done.stdout and "in batches of 6" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("not stored: [load] in a suite")
    variants = [{"name": "fp32", "model": shaped_models["wide"], "backend": "onnxruntime"}]
    bare = write_suite(tmp_path / "bare", variants, name="bare")
    for arguments, words in (
        ((), "suite 'bare' has no [load]; give the limit in milliseconds: --p99-ms MS"),
        (("--p99-ms", 5, "--max-wait-ms", 5), "max_wait_ms: found 5; allowed: less than p99_ms"),
        (("--p99-ms", 0), "load.p99_ms: found 0"),
    ):
        done = bench("load", bare, "--variant", "fp32", *arguments)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1
