"""The submitting side of Slurm runs without any Slurm: profiles, refusals, results that come, waiting that ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.errors import RequestError
from engine.jobs import queue, slurm
from engine.store import measurements, open_store, runs
from engine.store.models import SLURM, Run
from engine.store.runfile import writing

sys.path.insert(0, str(Path(__file__).parent / "dashboard"))
from dashboard_fill import FULL, fill

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a finished run, FULL."""
    url = f"sqlite:///{tmp_path_factory.mktemp('node') / 'bench.sqlite'}"
    fill(url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_DATABASE_URL", url)
        return writing.dump(FULL)[1]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bench's own data folder, on a machine without Slurm."""
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


@pytest.fixture
def submitted(data: Path) -> Callable[..., Path]:
    """submitted(**columns): the row of a run that job 17 measures; the folder that it shares with the job."""

    def make(**columns: Any) -> Path:
        folder = data / "logs" / FULL / "slurm"
        folder.mkdir(parents=True)
        (folder / slurm.REQUEST).write_text("{}")
        hour = datetime.now(UTC) - timedelta(hours=1)
        usual = {
            "id": FULL, "suite_name": "fixture", "suite": {}, "device": "cuda", "device_name": "GPU",
            "status": "queued", "host": "Slurm job 17 on n1", "executor": SLURM,
            "environment": {"slurm": {"job": "17"}},
            "log_path": str(folder.parent), "created_at": hour, "heartbeat_at": hour,
        }  # fmt: skip
        with open_store() as store, store.session() as session:
            session.add(Run(**usual | columns))
        return folder

    return make


def look() -> Run:
    """The run after a look."""
    with open_store(create=False) as store:
        slurm.catch_up(store, silent_s=0.0)
        with store.session() as session:
            return runs.get_run(session, FULL)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("partition = 3", "partition: found 3; should be a valid string"),
        ('partitions = "gpu"', "partitions: unknown key; allowed: partition, gpu, time, account, options, setup"),
        ('options = "--mem=8G"', "options: found '--mem=8G'; should be a list: [...]"),
        ('options = ["mem=8G"]', "found 'mem=8G'"),
        ("partition = ", "not a readable TOML file"),
    ],
)
def test_a_wrong_profile_is_one_line(data: Path, content: str, words: str) -> None:
    (data / "slurm.toml").write_text(content)
    with pytest.raises(RequestError) as caught:
        slurm.profile()
    assert str(caught.value).startswith(f"{data / 'slurm.toml'}: ") and words in str(caught.value)


def test_what_is_given_goes_before_the_profile(data: Path) -> None:
    assert slurm.profile() == slurm.Profile()
    (data / "slurm.toml").write_text('partition = "gpu"\ntime = "1:00:00"\noptions = ["--mem=8G"]\n')
    first, second = slurm.profiles(gpu="a100, h100", time="5", account=None)
    assert (first.gpu, second.gpu, first.time, first.partition) == ("a100", "h100", "5", "gpu")
    assert first.options == ["--mem=8G"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "demo", "--on", "slurm"], "--on slurm: there is no sbatch on this machine"),
        (["run", "demo", "--partition", "gpu", "--time", "5"], "--partition, --time: only together with --on slurm"),
        (["run", "demo", "--on", "slurm", "--gpu", "a100,h100"], "`queue` takes several, for a run each"),
    ],
)
def test_what_cannot_be_submitted_is_one_line(data: Path, bench: Callable, arguments: list[str], words: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and words in line
    assert not (data / "bench.sqlite").exists()


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_a_result_takes_the_place_of_the_row(submitted: Callable[..., Path], result: bytes, status: str) -> None:
    # Somebody who could not look at the job may have given it up.
    folder = submitted(status=status, notes="mine")
    with open_store() as store, store.session() as session:
        runs.set_tags(session, FULL, ["kept"])
    (folder / slurm.RESULT).write_bytes(result)
    found = look()
    assert (found.status, found.notes, found.tags) == ("finished", "mine", ["kept"])
    assert found.imported_at is not None and not found.foreign and not folder.exists()
    with open_store() as store, store.session() as session:
        assert len(measurements.measurements(session, FULL)) == 9 and runs.count_runs(session) == 1


def test_processes_that_look_at_once_store_a_result_once(submitted: Callable[..., Path], result: bytes) -> None:
    folder = submitted()
    (folder / slurm.RESULT).write_bytes(result)
    code = """
from engine.jobs import slurm
from engine.store import open_store
with open_store() as store:
    print("ready", flush=True)
    input()
    slurm.catch_up(store)
"""
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    for program in programs:
        assert program.stdout.readline() == "ready\n"
    for program in programs:
        program.stdin.write("go\n")
        program.stdin.flush()
    for program in programs:
        _, errors = program.communicate(timeout=120)
        assert program.returncode == 0, errors
    found = look()
    assert found.status == "finished"
    with open_store() as store, store.session() as session:
        assert len(measurements.measurements(session, FULL)) == 9


def test_a_result_that_is_none_ends_the_run_and_stays(submitted: Callable[..., Path]) -> None:
    folder = submitted()
    (folder / slurm.RESULT).write_bytes(b"not a zip")
    found = look()
    assert found.status == "failed" and "is not a run's file" in str(found.status_reason)
    assert (folder / slurm.RESULT).exists() and look().status == "failed"


def test_the_words_of_a_host_make_no_job(submitted: Callable[..., Path], result: bytes) -> None:
    folder = submitted(executor=None)
    (folder / slurm.RESULT).write_bytes(result)
    found = look()
    assert slurm.job_of(found) is None and found.imported_at is None and (folder / slurm.RESULT).exists()


def test_another_runs_result_is_refused(submitted: Callable[..., Path], result: bytes) -> None:
    folder = submitted(id="01J0000000000000000000000Z")
    (folder / slurm.RESULT).write_bytes(result)
    with open_store() as store:
        slurm.catch_up(store, silent_s=0.0)
        with store.session() as session:
            found = runs.get_run(session, "01J0000000000000000000000Z")
            assert found.status == "failed" and f"is run {FULL}, not 01J" in str(found.status_reason)


def test_a_run_waits_for_a_slurm_that_is_silent_for_a_day(submitted: Callable[..., Path]) -> None:
    position = {"round": 3, "rounds": 30, "process": 1, "processes": 1}
    folder = submitted(status="running", progress={"phase": "timing", "text": "", "done": 0.5, "position": position})
    found = look()
    assert queue.standing(found.status, found.progress) == "timing: Slurm does not answer"
    assert found.status == "running"
    assert (found.progress["phase"], found.progress["text"]) == ("timing", "Slurm does not answer")  # type: ignore[index]
    since = (datetime.now(UTC) - slurm.FORGOTTEN - timedelta(minutes=1)).isoformat()
    with open_store() as store, store.session() as session:
        runs.get_run(session, FULL).progress = found.progress | {"silent_since": since}  # type: ignore[operator]
    found = look()
    assert found.status == "interrupted" and f"Slurm has not answered since {since}" in str(found.status_reason)
    assert not (folder / slurm.REQUEST).exists()


def test_nobody_looks_at_anothers_job_nor_twice_at_once(submitted: Callable[..., Path], result: bytes) -> None:
    folder = submitted(heartbeat_at=datetime.now(UTC))
    (folder / slurm.RESULT).write_bytes(result)
    with open_store() as store:
        assert slurm.catch_up(store), "its follower has just looked"
        assert (folder / slurm.RESULT).exists()
        if os.getuid() == 0:
            os.chown(folder / slurm.REQUEST, 65534, 65534)
        else:
            (folder / slurm.REQUEST).unlink()
        assert not slurm.catch_up(store, silent_s=0.0)
    assert (folder / slurm.RESULT).exists()


def test_a_clock_that_was_set_back_makes_nobody_wait(data: Path, submitted: Callable[..., Path], result: bytes) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=3)
    folder = submitted(heartbeat_at=ahead, progress={"silent_since": ahead.isoformat()})
    with open_store() as store:
        assert slurm.catch_up(store), "its sign of life is of the future, so somebody looks"
    found = look()
    assert found.status == "queued" and found.heartbeat_at < datetime.now(UTC)
    assert found.progress["silent_since"] <= datetime.now(UTC).isoformat()  # type: ignore[index]
    _answers(data, squeue="18|RUNNING|None|n2")
    with open_store() as store, store.session() as session:
        runs.get_run(session, FULL).heartbeat_at = ahead
    assert look().status == "queued", "its result may still come, however old its last sign seems"
    (folder / slurm.RESULT).write_bytes(result)
    with open_store() as store, store.session() as session:
        runs.get_run(session, FULL).heartbeat_at = ahead
    with open_store() as store:
        assert slurm.catch_up(store)
        with store.session() as session:
            assert runs.get_run(session, FULL).status == "finished"


def test_who_follows_is_found_out_where_nobody_else_can_write(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_LOCK_DIR", str(data / "everybodys"))
    lock = Path(slurm._lock().lock_file)
    assert lock.is_relative_to(data / "logs")
    lock.mkdir()
    slurm.follow()
    assert not (data / "everybodys").exists() and not (data / "logs" / "slurm.log").exists()


def _answers(data: Path, **programs: str) -> None:
    """Slurm's commands by name, each of which says what is given."""
    (data / "bin").mkdir(exist_ok=True)
    for name, says in programs.items():
        program = data / "bin" / name
        program.write_text(f"#!/bin/sh\necho '{says}'\n")
        program.chmod(0o755)


def test_a_job_that_left_the_queue_is_given_up(data: Path, submitted: Callable[..., Path]) -> None:
    folder = submitted()
    (folder.parent / "run.log").write_text("loading\nKilled\n")
    _answers(data, squeue="18|RUNNING|None|n2", sacct="")
    found = look()
    assert found.status == "interrupted"
    words = "Slurm job 17 is not in the queue any more and left no result; the last line of its log: Killed"
    assert found.status_reason == words
    # Where there are accounts, they say more.
    with open_store() as store, store.session() as session:
        run = runs.get_run(session, FULL)
        run.status, run.status_reason = "running", None
    (folder / slurm.REQUEST).write_text(json.dumps({}))
    (data / "bin" / "sacct").write_text("#!/bin/sh\necho 'CANCELLED by 1000'\n")
    assert look().status == "cancelled"
