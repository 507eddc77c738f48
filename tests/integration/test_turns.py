"""Classify and runs take one device in turn: neither keeps the other out, however often it asks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.jobs import local, queue
from engine.machine import devices, locks
from engine.machine.holders import from_words
from engine.store import open_store, runs
from engine.suite.reading import load_suite
from engine.suite.spec import Suite

pytestmark = pytest.mark.second_tier

REPOSITORY = Path(__file__).resolve().parents[2]
USER = """
import sys, time
from engine.classify.answering import Answer
from engine.classify.warm import WarmPool
from engine.machine.locks import DeviceBusy
from engine.suite.reading import load_suite
suite = load_suite(sys.argv[1])
with WarmPool() as pool:
    while True:
        try:
            events = list(pool.ask(suite, ["The bank's shares rose."], "cpu", calls=300))
            print(next(event.status for event in events[::-1] if isinstance(event, Answer)), flush=True)
        except DeviceBusy as error:
            print(error, flush=True)
            time.sleep(0.05)
"""
WAIT = """
import sys, time
from engine.machine import devices, locks
from engine.machine.holders import from_words
with locks.turn(devices.cpu_device(), from_words("run 01K0000000000000000000TEST")):
    print("waits", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def suite(shaped_models: dict[str, Path], write_suite: Callable[..., Path], tmp_path: Path) -> Suite:
    variants = [{"name": "fp32", "model": shaped_models["wide"], "backend": "onnxruntime"}]
    protocol = {"threads": 1, "max_seconds": 4.0, "rounds": 100_000, "min_calls": 1}
    return load_suite(str(write_suite(tmp_path, variants, name="turns", protocol=protocol)))


class User:
    """Somebody who classifies without a pause, in a dashboard of his own; `said` has what he gets."""

    def __init__(self, suite: Suite, log: Path) -> None:
        self.log = log
        with log.open("wb") as out, log.with_suffix(".err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", USER, str(suite.folder / "turns.toml")], cwd=REPOSITORY, stdout=out, stderr=err
            )

    @property
    def said(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def users(suite: Suite, tmp_path: Path) -> Iterator[list[User]]:
    made = [User(suite, tmp_path / f"user-{number}.log") for number in range(3)]
    yield made
    for user in made:
        user.process.kill()
        user.process.wait()


def row_of(run_id: str) -> dict[str, Any]:
    with open_store(create=False) as store, store.session() as session:
        return runs.run_summary(runs.get_run(session, run_id))


def test_a_run_begins_while_others_classify_without_a_pause_and_they_go_on_after_it(
    suite: Suite, users: list[User], wait_until: Callable[..., Any]
) -> None:
    for user in users:
        wait_until(lambda user=user: user.said.count("measured") >= 3, 120, lambda user=user: str(user.said))
    run_id = local.start(suite, "cpu")
    wait_until(lambda: (row_of(run_id)["progress"] or {}).get("phase") == "queued", 60)
    began_s = time.monotonic()
    wait_until(lambda: row_of(run_id)["status"] != "queued", 60)
    # A call of 300 texts and what a machine that others use makes of it; without turns a minute was not enough.
    assert time.monotonic() - began_s < 45
    wait_until(lambda: row_of(run_id)["status"] in queue.ENDED, 120)
    assert row_of(run_id)["status"] == "finished"
    answered = [user.said.count("measured") for user in users]
    for user, before in zip(users, answered, strict=True):
        wait_until(lambda user=user, before=before: user.said.count("measured") > before, 60)
        assert {words for words in user.said if words != "measured"}, "he was told who has the device"
        for words in user.said:
            assert words == "measured" or words.startswith(f"busy: run {run_id} (turns), "), words
    assert any("timing round" in words for user in users for words in user.said)


def test_a_turn_ends_with_its_holder(wait_until: Callable[..., Any]) -> None:
    device = devices.cpu_device()
    first = subprocess.Popen(
        [sys.executable, "-c", WAIT], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout and first.stdout.readline() == "waits\n"
        os.kill(first.pid, signal.SIGSTOP)
        waits = pytest.raises(locks.DeviceBusy, match=r"run 01K0+TEST \(process \d+\) waits for it, and goes first$")
        with waits, locks.device_lock(device, from_words("another")):
            pass
        assert locks.holder(device) is None, "who waits does not hold it"
    finally:
        psutil.Process(first.pid).kill()
        first.communicate()
    with locks.device_lock(device, from_words("another")):
        assert locks.holder(device) == from_words("another")
        busy = pytest.raises(locks.DeviceBusy, match=r"another \(process \d+\) holds it")
        mine = from_words("run of mine")
        with locks.turn(device, mine), busy, locks.device_lock(device, mine, in_turn=True):
            pass
