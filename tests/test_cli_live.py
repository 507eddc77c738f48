"""What the terminal says of a run that is under way, and of a device that one has to itself."""

from __future__ import annotations

import os
import pty
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ulid import ULID

from engine.machine import devices, locks, processes
from engine.machine.holders import from_words
from engine.run.position import RoundPosition
from engine.run.state import Progress
from engine.store import models, open_store
from engine.suite.reading import load_suite


@pytest.fixture
def live(own_folders: Path, write_suite: Callable[..., Path], tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A run of this process that holds the CPU at round 12 of 30, with a log; and its suite's file."""
    run_id, folder = str(ULID()), own_folders / "logs"
    variant = {"model": "none/such", "backend": "onnxruntime"}
    suite = write_suite(tmp_path, [variant], name="mine", protocol={"rounds": 30})
    (folder / run_id).mkdir(parents=True)
    (folder / run_id / "run.log").write_text("the first line\nthe last line\n")
    progress = {"phase": "timing", "text": "", "done": 0.4, "seconds_left": 40.0}
    progress["position"] = {"round": 12, "rounds": 30, "process": 1, "processes": 1}
    run = models.Run(
        id=run_id, suite_name="mine", suite=load_suite(str(suite)).model_dump(mode="json"), device="cpu",
        device_name="a processor", host=socket.gethostname(), environment={}, status="running", progress=progress,
        created_at=datetime.now(UTC), started_at=datetime.now(UTC), heartbeat_at=datetime.now(UTC), pid=os.getpid(),
        process=processes.mark(), log_path=str(folder / run_id),
    )  # fmt: skip
    with open_store() as store:
        with store.session() as session:
            session.add(run)
        with locks.device_lock(devices.cpu_device(), from_words(f"run {run_id}")):
            yield run_id, suite
        with store.session() as session:
            session.delete(session.get_one(models.Run, run_id))


def test_where_a_run_stands_and_the_end_of_its_log(live: tuple[str, Path], bench: Callable[..., Any]) -> None:
    run_id, _ = live
    stands = "timing round 12 of at least 30, about 40 s left"
    assert stands in bench("queue").stdout
    shown = bench("show", run_id, "--log", 1)
    assert f"Run {run_id} on {socket.gethostname()}: {stands}\nthe last line\n" in shown.stdout


def test_classify_says_which_run_it_would_disturb(live: tuple[str, Path], bench: Callable[..., Any]) -> None:
    run_id, suite = live
    asked = bench("classify", suite, "Rain in the north.", "--device", "cpu")
    assert asked.returncode == 2 and "Traceback" not in asked.stderr
    assert f"busy: run {run_id} (mine), timing round 12 of at least 30, about 40 s left, has" in asked.stderr


@pytest.mark.second_tier
def test_a_terminal_is_shown_a_bar_that_goes_away(
    tiny_models: dict[str, Path], write_suite: Callable[..., Path], tmp_path: Path
) -> None:
    variant = {"title": "Tiny [bold]one[/bold]", "model": tiny_models["distilbert"], "backend": "onnxruntime"}
    # Long enough to be drawn, several times a second.
    suite = write_suite(tmp_path, [variant], protocol={"rounds": 30, "block_seconds": 0.05})
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "engine", "run", str(suite), "--device", "cpu"]
    environment = {"BENCH_DATA_DIR": str(tmp_path / "data"), "TERM": "xterm-256color", "COLUMNS": "120"}
    with subprocess.Popen(
        command,
        cwd=Path(__file__).resolve().parent.parent,
        env=os.environ | environment,
        stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        parts = []
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:
            pass  # how Linux says that nobody holds the other end any more
        os.close(ours)
        assert process.wait(60) == 0
    drawn = b"".join(parts).decode()
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    assert "Traceback" not in said and "timing:" not in said, "lines are for who has no terminal"
    assert re.search(r"round \d+ of at least 30 .* \d+% about .+ left", said), said
    assert "Tiny [bold]one[/bold]: " in said, "a title is no markup"
    assert "\x1b[2K" in drawn[-100:], "the bar is wiped off at the end"


def test_progress_is_read_as_it_was_stored() -> None:
    progress = Progress("timing", "", 0.4, 40.0, None, RoundPosition(12, 30, 1, 2))
    assert Progress.from_json(asdict(progress)) == progress
    assert progress.position is not None and progress.position.words == "round 12 of at least 30, process 1 of 2"
    assert RoundPosition(31, 30, 1, 1).words == "round 31 of 31"
    # As older versions store it, and with a key of Slurm's follower.
    stored = {"phase": "queued", "text": "submitted", "silent_since": "x"}
    assert Progress.from_json(stored) == Progress("queued", "submitted")
