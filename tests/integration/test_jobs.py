"""Runs that outlive who asked for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from engine.artefacts.preparer import Preparer
from engine.errors import RequestError
from engine.jobs import ending, local, queue
from engine.machine import devices, locks
from engine.machine.holders import from_words
from engine.store import measurements, open_store, runs
from engine.suite.reading import load_suite
from engine.suite.spec import Suite

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def suite_of(shaped_models, write_suite, tmp_path):
    """suite_of(**keys of the protocol): a suite of two light variants, loaded."""

    def make(name: str = "job", workload: dict[str, Any] | None = None, **protocol: Any) -> Suite:
        wide = {"model": shaped_models["wide"], "backend": "onnxruntime"}
        variants = [{"name": "fp32", **wide}, {"name": "int8", **wide, "precision": "int8"}]
        return load_suite(str(write_suite(tmp_path, variants, name=name, workload=workload, protocol=protocol)))

    return make


def row_of(run_id: str) -> dict[str, Any]:
    with open_store(create=False) as store, store.session() as session:
        run = runs.get_run(session, run_id)
        found = [(m.variant, m.status, m.status_reason) for m in measurements.measurements(session, run_id)]
        return runs.run_summary(run) | {"measurements": found}


def ended(run_id: str) -> dict[str, Any] | None:
    row = row_of(run_id)
    return row if row["status"] in queue.ENDED else None


def phase_of(run_id: str) -> str | None:
    return (row_of(run_id)["progress"] or {}).get("phase")


def test_a_run_survives_who_started_it(suite_of, wait_until):
    suite = suite_of("survivor", max_seconds=2.0, rounds=100_000, min_calls=1)
    code = """
        import os, sys, time
        from pathlib import Path
        from engine.jobs import local
        from engine.suite.reading import load_suite
        suite = load_suite(sys.argv[1])
        began = time.monotonic()
        run_id = local.start(suite, "cpu", sys.argv[1])
        print(run_id, time.monotonic() - began, os.getsid(0), flush=True)
        os.kill(os.getpid(), 9)
    """
    path = suite.folder / "survivor.toml"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert done.returncode == -9, done.stderr
    run_id, took_s, session = done.stdout.split()
    assert float(took_s) < 5, "it returns at once"
    process = psutil.Process(row_of(run_id)["pid"])
    assert os.getsid(process.pid) == process.pid != int(session)
    assert run_id in process.cmdline()
    row = wait_until(lambda: ended(run_id), 120)
    assert row["status"] == "finished" and row["suite"] == "survivor" and row["suite_path"] == str(path)
    assert row["pid"] == process.pid
    assert [(name, status) for name, status, _ in row["measurements"]] == [("fp32", "measured"), ("int8", "measured")]
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 20)
    log = queue.log_tail(run_id)
    assert "queued" not in log and "timing: round 2" in log and "finished" in log


@pytest.mark.second_tier
def test_a_queued_run_waits_for_its_device_and_then_measures(suite_of, wait_until):
    device = devices.resolve_device("cpu")
    with locks.device_lock(device, from_words("run of somebody else")):
        run_id = local.start(suite_of(), "cpu")
        wait_until(lambda: phase_of(run_id) == "queued", 30)
        row = row_of(run_id)
        assert row["status"] == "queued" and "run of somebody else" in row["progress"]["text"]
        time.sleep(1.5)
        assert row_of(run_id)["status"] == "queued" and row_of(run_id)["measurements"] == []
    row = wait_until(lambda: ended(run_id), 60)
    assert row["status"] == "finished" and {status for _, status, _ in row["measurements"]} == {"measured"}


def test_cancelling_a_queued_run(suite_of, wait_until, is_gone):
    with locks.device_lock(devices.resolve_device("cpu"), from_words("run of somebody else")):
        run_id = local.start(suite_of(), "cpu")
        wait_until(lambda: phase_of(run_id) == "queued", 30)
        assert ending.cancel(run_id)
        row = wait_until(lambda: ended(run_id), 10, lambda: "it goes on waiting")
    assert row["status"] == "cancelled" and "queued" in row["status_reason"]
    wait_until(lambda: is_gone(row["pid"]), 20)
    assert not ending.cancel(run_id), "it has ended already"


def test_cancelling_a_run_that_is_timing(suite_of, wait_until, is_gone):
    run_id = local.start(suite_of(max_seconds=600.0, rounds=1_000_000, min_calls=1), "cpu")
    wait_until(lambda: phase_of(run_id) == "timing", 90)
    pid = row_of(run_id)["pid"]
    children = psutil.Process(pid).children(recursive=True)
    assert len(children) == 2
    assert ending.cancel(run_id[-8:]), "a part of the id is enough"
    row = wait_until(lambda: ended(run_id), 20, lambda: "it goes on")
    assert row["status"] == "cancelled" and row["cancel_requested"] and row["finished_at"]
    for _, status, reason in row["measurements"]:
        assert status == "cancelled" and reason
    with open_store(create=False) as store, store.session() as session:
        for measurement in measurements.measurements(session, run_id):
            assert measurements.blocks(session, measurement.id), "what was timed is kept"
    wait_until(lambda: is_gone(pid) and all(is_gone(child.pid) for child in children), 20)
    with locks.device_lock(devices.resolve_device("cpu"), from_words("a test")):
        pass


@pytest.mark.second_tier
def test_a_run_ends_at_once_where_it_must_and_says_so(suite_of, wait_until, is_gone):
    # A round of twenty seconds: its end is far away.
    run_id = local.start(suite_of(block_seconds=10.0, max_seconds=600.0, rounds=1_000_000, min_calls=1), "cpu")
    wait_until(lambda: phase_of(run_id) == "timing", 90)
    began = time.monotonic()
    assert ending.cancel(run_id, at_once=True)
    row = wait_until(lambda: ended(run_id), 30, lambda: "it goes on")
    assert time.monotonic() - began < 9 and row["status"] == "cancelled"
    assert {status for _, status, _ in row["measurements"]} == {"cancelled"}
    wait_until(lambda: is_gone(row["pid"]), 20)


@pytest.mark.second_tier
def test_another_process_is_not_ended_for_a_runs(suite_of, wait_until):
    with locks.device_lock(devices.resolve_device("cpu"), from_words("run of somebody else")):
        run_id = local.start(suite_of(), "cpu")
        wait_until(lambda: phase_of(run_id) == "queued", 30)
        pid = row_of(run_id)["pid"]
        bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        try:
            with open_store() as store, store.session() as session:
                # Its number was given to another process.
                runs.get_run(session, run_id).pid = bystander.pid
            with pytest.raises(RequestError, match=f"its process {bystander.pid} is not there any more"):
                ending.cancel(run_id, at_once=True)
            with open_store() as store, store.session() as session:
                runs.get_run(session, run_id).host = "elsewhere"
            with pytest.raises(RequestError, match="is measured on elsewhere"):
                ending.cancel(run_id, at_once=True)
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()
            psutil.Process(pid).kill()
            # On no other page or machine is it under way, whatever the row was made to say.
            with open_store() as store, store.session() as session:
                runs.get_run(session, run_id).status = "cancelled"


@pytest.mark.second_tier
def test_queued_runs_take_their_turns(suite_of, wait_until, bench):
    with locks.device_lock(devices.resolve_device("cpu"), from_words("run of somebody else")):
        asked = [local.start(suite_of(f"turn-{index}"), "cpu") for index in range(2)]
        queued = bench("queue", suite_of("turn-2").folder / "turn-2.toml", "--device", "cpu")
        assert queued.returncode == 0, queued.stderr
        asked.append(queued.stdout.strip())
        for run_id in asked:
            wait_until(lambda run_id=run_id: phase_of(run_id) == "queued", 30)
        wait_until(lambda: "was queued" in row_of(asked[2])["progress"]["text"], 10)
        # Who is cancelled while he waits holds up nobody.
        said = bench("cancel", asked[1])
        assert said.returncode == 0 and "cancelling" in said.stderr
    rows = [wait_until(lambda run_id=run_id: ended(run_id), 90) for run_id in asked]
    assert [row["status"] for row in rows] == ["finished", "cancelled", "finished"]
    assert rows[0]["finished_at"] <= rows[2]["started_at"], "in the order of their asking"
    said = bench("cancel", asked[0], "01NOSUCHRUN", asked[2], "--now")
    assert said.returncode == 2 and said.stderr.count("ended already") == 2 and "01NOSUCHRUN" in said.stderr


def test_a_request_that_cannot_be_met_is_stored_as_failed(suite_of, wait_until, tmp_path):
    run_id = local.start(suite_of("hopeless", workload={"dataset": str(tmp_path / "none.csv")}), "cpu")
    row = wait_until(lambda: ended(run_id), 30)
    assert row["status"] == "failed" and row["finished_at"]
    assert "none.csv" in row["status_reason"] and "no such file" in row["status_reason"]
    assert "\n" not in row["status_reason"] and "Traceback" not in row["status_reason"]
    assert "none.csv" in queue.log_tail(run_id)


def test_an_unknown_device_is_refused_before_anything_is_stored(suite_of):
    def count() -> int:
        with open_store() as store, store.session() as session:
            return len(runs.list_runs(session, limit=1000))

    before = count()
    with pytest.raises(RequestError, match="cuda"):
        local.start(suite_of(), "cuda:999")
    assert count() == before


def test_a_queued_run_whose_process_was_killed_is_closed_at_once(suite_of, wait_until, is_gone, bench):
    with locks.device_lock(devices.resolve_device("cpu"), from_words("run of somebody else")):
        run_id = local.start(suite_of(), "cpu")
        wait_until(lambda: phase_of(run_id) == "queued", 30)
        pid = row_of(run_id)["pid"]
        psutil.Process(pid).kill()
        wait_until(lambda: is_gone(pid), 10)
    assert row_of(run_id)["status"] == "queued"
    assert "interrupted" in bench("runs").stdout
    row = row_of(run_id)
    assert row["status"] == "interrupted" and "queued" in row["status_reason"]


@pytest.mark.second_tier
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("what", ["artefact", "checkpoint"])
def test_a_run_that_waits_for_what_another_process_builds_ends_when_it_is_told(
    suite_of, write_suite, tmp_path, monkeypatch, wait_until, what, at_once
):
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "data"))
    suite = suite_of()
    folder = "artefacts"
    if what == "checkpoint":
        folder = "checkpoints"
        shape = {"model_type": "distilbert", "dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 2}
        made = {"name": "made", "architecture": shape, "dataset": REPOSITORY / "data/news/train.csv",
                "examples": 16, "tokenizer": {"vocab_size": 300}, "epochs": 0}  # fmt: skip
        suite = load_suite(str(write_suite(tmp_path, [{"model": "checkpoint:made"}], checkpoints=[made])))
    with Preparer(suite) as preparer:
        targets = [Path(preparer.prepare(variant).folder) for variant in suite.variant]
    if what == "checkpoint":
        targets = [preparer.source(suite.variant[0].model).folder]
    with ExitStack() as another:
        for target in targets:
            # As while somebody else makes it.
            assert target.parent.name == folder
            shutil.rmtree(target)
            another.enter_context(FileLock(target.parent / f".{target.name}.lock"))
        run_id = local.start(suite, "cpu")
        wait_until(lambda: "another process builds" in str(row_of(run_id)["progress"]), 60, lambda: str(row_of(run_id)))
        began_s = time.monotonic()
        ending.cancel(run_id, at_once=at_once)
        row = wait_until(lambda: ended(run_id), 20)
        assert time.monotonic() - began_s < 10 and row["status"] == "cancelled"
        assert {status for _, status, _ in row["measurements"]} == {"cancelled"}
