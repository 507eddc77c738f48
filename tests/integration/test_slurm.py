"""Runs as jobs of a real Slurm cluster of one node that keeps no accounts: submitted, followed, ended, lost."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from slurm_cluster import Cluster, cluster
from streamlit.testing.v1 import AppTest

from dashboard.server import door
from engine.jobs import ending, queue, slurm
from engine.machine import devices, locks
from engine.machine.holders import from_words
from engine.store import measurements, open_store, runs
from engine.suite.reading import load_suite
from engine.suite.spec import Suite

__all__ = ["cluster"]
pytestmark = pytest.mark.second_tier
LIMIT_S = 240
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def followed(cluster: Cluster, own_folders: Path) -> Iterator[None]:
    """The process that follows is ended after the last test, whatever it still waits for."""
    yield
    end_followers(own_folders)


def end_followers(data: Path) -> None:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline()[1:] == ["-m", "engine.jobs.slurm"] and process.environ()["BENCH_DATA_DIR"] == str(
                data
            ):
                process.kill()


@pytest.fixture
def file_of(shaped_models, write_suite, tmp_path) -> Callable[..., Path]:
    """file_of(name, workload, **keys of the protocol): the file of a suite of two light variants."""

    def make(name: str = "job", workload: dict[str, Any] | None = None, **protocol: Any) -> Path:
        wide = {"model": shaped_models["wide"], "backend": "onnxruntime"}
        variants = [{"name": "fp32", **wide}, {"name": "int8", **wide, "precision": "int8"}]
        return write_suite(tmp_path, variants, name=name, workload=workload, protocol=protocol)

    return make


@pytest.fixture
def long_suite(file_of) -> Suite:
    """It measures until it is ended."""
    return load_suite(str(file_of("long", rounds=100_000, max_seconds=600.0)))


def submit(suite: Suite, **asked: str) -> str:
    return slurm.submit(suite, slurm.profile(**asked), "cpu", None)


def row_of(run_id: str) -> dict[str, Any]:
    with open_store(create=False) as store, store.session() as session:
        run = runs.get_run(session, run_id)
        rows = measurements.measurements(session, run_id)
        return runs.run_summary(run) | {
            "job": slurm.job_of(run) or run.environment["slurm"].get("job"),
            "measured": [(row.variant, row.status) for row in rows],
            "calls": sum(len(block.latencies_s) for row in rows for block in measurements.blocks(session, row.id)),
        }


def ended(run_id: str) -> dict[str, Any] | None:
    row = row_of(run_id)
    return row if row["status"] in queue.ENDED else None


def phase_of(run_id: str) -> str | None:
    return (row_of(run_id)["progress"] or {}).get("phase")


def text_of(run_id: str) -> str:
    return (row_of(run_id)["progress"] or {}).get("text") or ""


def count() -> int:
    with open_store() as store, store.session() as session:
        return runs.count_runs(session)


def control(*arguments: str) -> None:
    subprocess.run(["scontrol", *arguments], check=True, timeout=30)


def processes_of(run_id: str, module: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if module in words and any(run_id in word for word in words):
                found.append(process)
    return found


def test_a_run_is_measured_by_a_job_and_comes_back_whole(bench, file_of):
    done = bench("run", file_of("whole"), "--on", "slurm", "--device", "cpu", "--time", "10", "--gpu", "a100")
    assert done.returncode == 0, done.stderr
    assert "int8" in done.stdout and "queued:" in done.stderr
    with open_store(create=False) as store, store.session() as session:
        run = runs.get_run(session, "latest")
        assert (run.status, run.suite_name, run.device) == ("finished", "whole", "cpu")
        assert run.imported_at is not None and run.created_at < run.started_at < run.finished_at
        said = run.environment["slurm"]
        assert (said["gpu"], said["time"]) == ("a100", "10") and said["job"].isdigit() and said["node"]
        assert run.host == run.environment["host"]["name"] != slurm.HOST
        rows = measurements.measurements(session, run.id)
        assert [(row.variant, row.status) for row in rows] == [("fp32", "measured"), ("int8", "measured")]
        assert all(
            measurements.blocks(session, row.id) and measurements.logits(session, row.id) is not None for row in rows
        )
        logs = Path(str(run.log_path))
        assert "timing" in queue.log_tail(run.id) and not (logs / "slurm").exists()
        job, run_id = said["job"], run.id
    shown = bench("show", run_id)
    assert shown.returncode == 0 and "fp32" in shown.stdout
    state = subprocess.run(["squeue", "-h", "--states=all", "-j", job, "-o", "%T"], capture_output=True, text=True)
    assert state.stdout.strip() in ("COMPLETED", "COMPLETING")


def test_a_run_that_is_cancelled_keeps_its_rounds(long_suite, wait_until, bench):
    run_id = submit(long_suite)
    # What is told while it works comes from the node.
    text = wait_until(lambda: phase_of(run_id) == "timing" and text_of(run_id), LIMIT_S)
    assert text.startswith("round ")
    row = row_of(run_id)
    assert (row["status"], row["device"]) == ("running", "cpu")
    assert row["host"].startswith(f"Slurm job {row['job']} on ") and row["started_at"]
    assert run_id in bench("runs").stdout
    assert ending.cancel(run_id)
    row = wait_until(lambda: ended(run_id), LIMIT_S)
    assert (row["status"], row["status_reason"]) == ("cancelled", "cancelled by the user")
    assert {status for _, status in row["measured"]} == {"cancelled"} and row["calls"] >= 3


def test_a_time_limit_interrupts_a_run_that_keeps_its_rounds(long_suite, wait_until, own_folders):
    run_id = submit(long_suite)
    wait_until(lambda: phase_of(run_id) == "timing", LIMIT_S)
    # Who looks when the follower is gone finds the result.
    end_followers(own_folders)
    control("update", f"jobid={row_of(run_id)['job']}", "EndTime=now")
    result = Path(row_of(run_id)["log_path"]) / "slurm" / slurm.RESULT
    wait_until(result.exists, LIMIT_S)
    assert row_of(run_id)["status"] == "running"
    with open_store(create=False) as store:
        slurm.catch_up(store, silent_s=0.0)
    row = row_of(run_id)
    assert row["status"] == "interrupted"
    assert row["status_reason"] == f"Slurm ended job {row['job']} early: TimeLimit"
    assert row["calls"] >= 3
    slurm.follow()


def test_waiting_jobs_one_for_each_suite_size_and_gpu(file_of, bench, wait_until):
    sizes = {"batch_size": [2, 4]}
    files = [file_of("first", sizes), file_of("second", sizes)]
    options = ["--on", "slurm", "--gpu", "a100,h100", "--partition", "closed", "--each-batch-size", "--device", "cpu"]
    done = bench("queue", *files, *options)
    assert done.returncode == 0, done.stderr
    asked = done.stdout.split()
    rows = [row_of(run_id) for run_id in asked]
    found = {(r["suite"], *r["spec"]["workload"]["batch_size"], r["environment"]["slurm"]["gpu"]) for r in rows}
    assert found == {(s, size, gpu) for s in ("first", "second") for size in (2, 4) for gpu in ("a100", "h100")}
    assert len(asked) == 8
    listed = subprocess.run(["squeue", "-h", "-o", "%i|%b|%T"], capture_output=True, text=True, check=True).stdout
    for row in rows:
        assert f"{row['job']}|gres:gpu:{row['environment']['slurm']['gpu']}:1|PENDING" in listed
    wait_until(lambda: "Slurm's queue (PartitionDown)" in text_of(asked[0]), 30)
    for given in (asked[::2], [*asked[1::2], "--now"]):
        done = bench("cancel", *given)
        assert done.returncode == 0 and done.stderr.count(": cancelling") == 4, done.stderr
    for run_id in asked:
        row = wait_until(lambda run_id=run_id: ended(run_id), 30)
        assert row["status"] == "cancelled" and row["status_reason"].startswith("cancelled by the user")
    assert not ending.cancel(asked[0]), "it had ended already"


def test_the_run_page_submits_jobs(file_of, wait_until, monkeypatch):
    monkeypatch.setattr(door, "_standing", True)
    test = AppTest.from_file(str(REPOSITORY / "dashboard" / "app.py"), default_timeout=120).run()
    test.session_state["suite"], test.session_state["suite_file"] = "a file …", str(file_of("clicked"))
    test.switch_page("app_pages/run.py").run()
    test.toggle(key="slurm").set_value(True).run()
    for name, value in (("partition", "closed"), ("gpu", "a100"), ("time", "7")):
        test.text_input(key=f"slurm_{name}").set_value(value)
    test.run()
    test.button(key="start").click().run()
    assert not test.exception and not test.error
    run_id = test.query_params["run"]
    run_id = run_id if isinstance(run_id, str) else run_id[0]
    row = row_of(run_id)
    asked = {"job": row["job"], "partition": "closed", "gpu": "a100", "time": "7"}
    assert (row["suite"], row["device"], row["environment"]["slurm"]) == ("clicked", "cuda", asked)
    wait_until(lambda: "Slurm's queue" in text_of(run_id), 60)
    assert "waiting in Slurm's queue" in test.run().get("progress")[0].proto.text
    test.button(key="cancel").click().run()
    assert wait_until(lambda: ended(run_id), 60)["status"] == "cancelled"
    # What is no type of GPU there is one line on the page, too.
    test.query_params.pop("run")
    test.session_state["slurm_gpu"] = "b200"
    test.run()
    test.button(key="start").click().run()
    assert "Requested node configuration is not available" in test.error[0].value


@pytest.fixture
def waiting(long_suite, wait_until) -> Iterator[str]:
    """A run whose job waits on its node for the device, which somebody else holds."""
    with locks.device_lock(devices.resolve_device("cpu"), from_words("run of somebody else")):
        run_id = submit(long_suite)
        wait_until(lambda: "is busy" in text_of(run_id), LIMIT_S)
        yield run_id


def test_a_job_is_cancelled_at_once(waiting, wait_until):
    assert ending.cancel(waiting, at_once=True)
    row = wait_until(lambda: ended(waiting), LIMIT_S)
    assert (row["status"], row["status_reason"]) == ("cancelled", "cancelled by the user")


def test_what_measures_is_killed(waiting, wait_until):
    [process] = processes_of(waiting, "engine.jobs")
    process.kill()
    row = wait_until(lambda: ended(waiting), LIMIT_S)
    assert row["status"] == "interrupted" and " ended while it was queued" in row["status_reason"]
    assert row["imported_at"], "the job itself lived on, and said so"


def test_a_node_is_lost(waiting, cluster, wait_until, is_gone):
    left = processes_of(waiting, "engine.jobs.slurmjob") + processes_of(waiting, "engine.jobs")
    job = row_of(waiting)["job"]
    # It is as if nothing came through to it any more.
    os.kill(cluster.node_pid, signal.SIGSTOP)
    try:
        control("update", "nodename=ALL", "state=down", "reason=lost")
        row = wait_until(lambda: ended(waiting), LIMIT_S)
        assert row["status"] == "interrupted"
        assert row["status_reason"].startswith(f"Slurm job {job} is NODE_FAIL (NodeDown) and left no result")
    finally:
        for process in left:
            process.kill()
        os.kill(cluster.node_pid, signal.SIGCONT)
        control("update", "nodename=ALL", "state=resume")
    wait_until(lambda: all(is_gone(process.pid) for process in left), 10)


def test_a_job_that_cannot_begin_fails_with_the_last_line_of_its_log(file_of, own_folders, wait_until):
    profile = own_folders / "slurm.toml"
    profile.write_text('setup = ["echo no such module: cuda/99; exit 3"]\npartition = "closed"\n')
    try:
        run_id = submit(load_suite(str(file_of("broken"))), partition="main")
    finally:
        profile.unlink()
    row = wait_until(lambda: ended(run_id), LIMIT_S)
    assert row["status"] == "failed"
    assert "is FAILED (NonZeroExitCode) and left no result" in row["status_reason"]
    assert row["status_reason"].endswith("the last line of its log: no such module: cuda/99")
    assert "no such module" in queue.log_tail(run_id)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"partition": "nowhere"}, "invalid partition specified: nowhere"),
        ({"time": "soon"}, "Invalid --time specification"),
        ({"gpu": "b200"}, "Requested node configuration is not available"),
    ],
)
def test_what_sbatch_refuses_is_one_line_and_leaves_nothing(file_of, bench, own_folders, asked, said):
    before, logs = count(), set((own_folders / "logs").iterdir())
    options = [word for key, value in asked.items() for word in (f"--{key}", value)]
    done = bench("queue", file_of("refused"), "--on", "slurm", "--device", "cpu", *options)
    assert done.returncode == 2 and done.stdout == ""
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("error: sbatch: error: ") and said in line
    assert count() == before and set((own_folders / "logs").iterdir()) == logs


def test_the_database_of_the_submitting_side_is_nothing_to_the_job(file_of, monkeypatch, tmp_path, wait_until):
    marker = tmp_path / "environment"
    monkeypatch.setenv("BENCH_DATABASE_URL", f"sqlite:///{tmp_path}/other.sqlite")
    asked = slurm.Profile(setup=[f"env > {marker}.partial; mv {marker}.partial {marker}; exit 1"])
    run_id = slurm.submit(load_suite(str(file_of("apart"))), asked, "cpu", None)
    wait_until(marker.exists, LIMIT_S)
    assert "BENCH_DATABASE_URL" not in marker.read_text() and "BENCH_LOCK_DIR" in marker.read_text()
    row = wait_until(lambda: ended(run_id), LIMIT_S)
    assert row["status"] == "failed"
