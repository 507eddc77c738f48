"""Warm workers: real processes with tiny models."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import pytest

from engine.classify import warm
from engine.classify.answering import Answer
from engine.classify.warm import WarmPool
from engine.errors import RequestError
from engine.machine import devices, locks, processes
from engine.run.state import Progress
from engine.suite.reading import load_suite
from engine.suite.spec import Suite
from engine.worker import handle

TEXTS = ["Shares rose on Monday after the bank's report.", "The striker scored twice in the final."]
HOLD = """
import sys, time
from engine.machine import devices, locks
from engine.machine.holders import from_words
with locks.device_lock(devices.cpu_device(), from_words(sys.argv[1])):
    print("held", flush=True)
    left = locks.await_eviction(devices.cpu_device(), float(sys.argv[2]), lambda n: print("waits", n, flush=True))
    print("left", left, flush=True)
    sys.stdin.read()
"""

ASK = """
import sys
from engine.classify.answering import Answer
from engine.classify.warm import WarmPool
from engine.suite.reading import load_suite
with WarmPool() as pool:
    events = list(pool.ask(load_suite(sys.argv[1]), ["The bank's shares rose."], "cpu"))
answers = [event for event in events if isinstance(event, Answer)]
print(answers[-1].status, *sorted({"torch", "transformers", "onnxruntime", "optimum"} & set(sys.modules)))
"""


@pytest.fixture
def suite(tiny_models: dict[str, Path], write_suite: Callable[..., Path], tmp_path: Path) -> Suite:
    variants = [
        # Two that start fast: these tests start workers again and again.
        {"name": "fp32", "title": "Plain", "model": str(tiny_models["distilbert"]), "backend": "onnxruntime"},
        {"name": "moved", "model": str(tiny_models["permuted"]), "backend": "onnxruntime"},
        {"name": "bert", "model": str(tiny_models["bert"])},
    ]
    return load_suite(str(write_suite(tmp_path, variants, protocol={"threads": 1})))


@pytest.fixture
def own_pool() -> Iterator[WarmPool]:
    with WarmPool() as made:
        yield made


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[WarmPool]:
    """For tests that leave nothing behind."""
    with WarmPool() as made:
        yield made


@pytest.fixture(scope="module")
def shared_suite(
    tiny_models: dict[str, Path], write_suite: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Suite:
    variants = [{"name": "fp32", "model": str(tiny_models["distilbert"]), "backend": "onnxruntime"}]
    return load_suite(str(write_suite(tmp_path_factory.mktemp("suite"), variants, protocol={"threads": 1})))


@pytest.fixture
def hold() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """hold(who, wait_s): a process that holds the CPU as `who`, and waits for warm workers to go."""
    started: list[subprocess.Popen[str]] = []

    def start(who: str, wait_s: float = 10) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, who, str(wait_s)],
            cwd=Path(warm.__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def answers(events: Any) -> dict[str, Answer]:
    """The last answer of each variant."""
    return {event.variant: event for event in events if isinstance(event, Answer)}


def until(true: Callable[[], object], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_answers_come_twice_when_cold_and_once_when_warm(own_pool: WarmPool, suite: Suite) -> None:
    cold = list(own_pool.ask(suite, TEXTS, "cpu"))
    seen = [event for event in cold if isinstance(event, Answer)]
    assert [a.latency_s is None for a in seen] == [True] * 3 + [False] * 3
    assert any(isinstance(event, Progress) and event.phase == "loading" for event in cold)
    pids = {item.pid for item in own_pool.loaded()}
    assert len(pids) == 3

    began_s = time.monotonic()
    again = [event for event in own_pool.ask(suite, TEXTS, "cpu") if isinstance(event, Answer)]
    assert time.monotonic() - began_s < 5
    assert [a.variant for a in again] == ["fp32", "moved", "bert"]
    assert {item.pid for item in own_pool.loaded()} == pids
    plain, moved, bert = again
    assert plain.agrees is None and moved.agrees == [True, True]
    assert plain.labels == moved.labels and bert.agrees is not None
    assert plain.shape and plain.shape[0] == 2 and plain.latency_s and plain.tokenize_s
    assert plain.latency_range_s and plain.latency_range_s[0] <= plain.latency_s <= plain.latency_range_s[1]
    assert plain.probabilities and sum(plain.probabilities[0].values()) == pytest.approx(1)
    assert plain.probabilities[0] == pytest.approx(moved.probabilities[0], abs=1e-5)


@pytest.mark.second_tier
def test_selections_of_a_suite_share_workers(own_pool: WarmPool, suite: Suite) -> None:
    answers(own_pool.ask(suite.select(["moved"]), TEXTS, "cpu"))
    before = {item.variant: item.pid for item in own_pool.loaded()}
    answers(own_pool.ask(suite.select(["bert"]), TEXTS, "cpu"))
    after = {item.variant: item.pid for item in own_pool.loaded()}
    assert after["fp32"] == before["fp32"] and set(after) == {"fp32", "moved", "bert"}


@pytest.mark.second_tier
def test_no_model_library_is_imported_where_the_pool_lives(
    tiny_models: dict[str, Path], write_suite: Callable[..., Path], tmp_path: Path
) -> None:
    variants = [{"name": "fp32", "model": str(tiny_models["distilbert"]), "backend": "onnxruntime"}]
    # A process of its own: other tests have made models in this one.
    asked = subprocess.run(
        [sys.executable, "-c", ASK, str(write_suite(tmp_path, variants, protocol={"threads": 1}))],
        cwd=Path(warm.__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert asked.stdout.split() == ["measured"], asked.stderr


@pytest.mark.second_tier
@pytest.mark.parametrize("text", ["🙂🙂", "مرحبا بالعالم", "a\x00b\x1b[31mc\x07", "<b>x</b> **y**", "word " * 190_000])
def test_strange_texts_get_an_answer(shared_pool: WarmPool, shared_suite: Suite, text: str) -> None:
    found = answers(shared_pool.ask(shared_suite, [text], "cpu"))["fp32"]
    assert found.status == "measured" and found.labels
    assert found.truncated == [len(text) > 1000]


@pytest.mark.second_tier
@pytest.mark.parametrize(
    ("texts", "say"),
    [
        ([], "no text given"),
        ([""], "empty"),
        ([" \t\n\u2028\xa0"], "empty"),
        (["\x00\x07\u200b\u202e"], "control characters"),
        (["word"] * 300, "too many"),
        (["x" * 1_000_001], "longer than"),
        (["x" * 600_000] * 2, "together"),
        (["\ud800 words"], "not valid Unicode"),
    ],
)
def test_texts_that_cannot_be_asked(suite: Suite, own_pool: WarmPool, texts: list[str], say: str) -> None:
    with pytest.raises(RequestError, match=say) as caught:
        list(own_pool.ask(suite, texts, "cpu"))
    assert "\n" not in str(caught.value)
    assert not own_pool.loaded()


@pytest.mark.second_tier
def test_a_dead_worker_is_replaced(own_pool: WarmPool, suite: Suite) -> None:
    one = suite.select([])
    answers(own_pool.ask(one, TEXTS, "cpu"))
    (before,) = own_pool.loaded()
    os.kill(before.pid, signal.SIGKILL)
    assert until(lambda: not own_pool.loaded())
    assert answers(own_pool.ask(one, TEXTS, "cpu"))["fp32"].latency_s
    (after,) = own_pool.loaded()
    assert after.pid != before.pid


@pytest.mark.second_tier
def test_a_worker_that_dies_in_a_call_is_replaced(own_pool: WarmPool, suite: Suite) -> None:
    one = suite.select([])
    answers(own_pool.ask(one, TEXTS, "cpu"))
    (before,) = own_pool.loaded()
    os.kill(before.pid, signal.SIGSTOP)
    events = own_pool.ask(one, TEXTS, "cpu")
    assert isinstance(next(events), Progress)
    os.kill(before.pid, signal.SIGKILL)
    assert answers(events)["fp32"].status == "measured"
    assert own_pool.loaded()[0].pid != before.pid


def test_a_run_evicts_and_is_not_disturbed(
    own_pool: WarmPool, suite: Suite, hold: Callable[..., subprocess.Popen[str]]
) -> None:
    answers(own_pool.ask(suite, TEXTS, "cpu"))
    device = devices.cpu_device()
    pids = {item.pid for item in own_pool.loaded()}
    assert set(locks.warm_workers(device)) >= pids and len(pids) == 3
    run = hold("run 01K0000000000000000000TEST")
    assert run.stdout and run.stdout.readline().startswith("waits ")
    assert run.stdout.readline() == "left 0\n"
    assert not own_pool.loaded() and not locks.warm_workers(device)
    with pytest.raises(locks.DeviceBusy, match=r"^busy: run 01K0.*TEST .*has ended$") as caught:
        list(own_pool.ask(suite, TEXTS, "cpu"))
    assert "\n" not in str(caught.value)
    assert not own_pool.loaded()
    run.kill()
    run.wait()
    # Its process is gone without a word; what it left behind holds nobody up.
    assert answers(own_pool.ask(suite.select([]), TEXTS, "cpu"))["fp32"].status == "measured"


@pytest.mark.second_tier
def test_fetch_evicts_what_would_be_in_its_trainings_way(
    own_pool: WarmPool, suite: Suite, bench: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    answers(own_pool.ask(suite, TEXTS, "cpu"))
    assert own_pool.loaded()
    file = suite.folder / f"{suite.name}.toml"
    done = bench("fetch", file, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    # Another test's pool may have workers on the device, too.
    waited = re.search(r"waiting until (\d+) warm workers of Classify have left", done.stderr)
    assert waited is not None and int(waited[1]) >= 3
    assert not own_pool.loaded() and not locks.warm_workers(devices.cpu_device())
    assert answers(own_pool.ask(suite.select([]), TEXTS, "cpu"))["fp32"].status == "measured"


@pytest.mark.second_tier
def test_classify_says_that_fetch_has_the_device(
    own_pool: WarmPool, suite: Suite, hold: Callable[..., subprocess.Popen[str]]
) -> None:
    hold("fetch agnews")
    with pytest.raises(locks.DeviceBusy, match=r"^busy: fetch agnews has .* to itself; Classify answers when it has"):
        list(own_pool.ask(suite, TEXTS, "cpu"))


@pytest.mark.second_tier
def test_a_run_that_starts_while_a_model_loads(
    own_pool: WarmPool, suite: Suite, hold: Callable[..., subprocess.Popen[str]]
) -> None:
    events = own_pool.ask(suite.select([]), TEXTS, "cpu")
    for event in events:
        if isinstance(event, Progress) and event.phase == "loading":
            break
    assert until(lambda: locks.warm_workers(devices.cpu_device()))
    run = hold("run 01K0000000000000000000TEST")
    with pytest.raises(locks.DeviceBusy, match="busy: run"):
        list(events)
    assert run.stdout and run.stdout.readline().startswith(("waits ", "left 0"))


def test_a_missing_model_ends_its_variant_alone(
    own_pool: WarmPool, tiny_models: dict[str, Path], write_suite: Callable[..., Path], tmp_path: Path
) -> None:
    variants = [
        {"name": "fp32", "model": str(tiny_models["distilbert"])},
        {"name": "gone", "model": "./nowhere"},
        {"name": "hub", "model": "someone/something"},
        {"name": "tf32", "model": str(tiny_models["distilbert"]), "precision": "tf32"},
    ]
    found = answers(own_pool.ask(load_suite(str(write_suite(tmp_path, variants))), TEXTS, "cpu"))
    assert {name: a.status for name, a in found.items()} == {
        "fp32": "measured",
        "gone": "unavailable",
        "hub": "unavailable",
        "tf32": "unavailable",
    }
    assert "no such folder" in (found["gone"].reason or "")
    assert "--device cuda" in (found["tf32"].reason or "")


@pytest.mark.second_tier
def test_the_least_recently_used_goes_first(suite: Suite) -> None:
    with WarmPool(workers=2) as small:
        answers(small.ask(suite.select([]), TEXTS, "cpu"))
        answers(small.ask(suite.select(["moved"]), TEXTS, "cpu"))
        answers(small.ask(suite.select([]), TEXTS, "cpu"))
        assert {item.variant for item in small.loaded()} == {"fp32", "moved"}
        answers(small.ask(suite.select(["bert"]), TEXTS, "cpu"))
        assert {item.variant for item in small.loaded()} == {"fp32", "bert"}


@pytest.mark.second_tier
def test_little_memory_evicts(own_pool: WarmPool, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(own_pool.ask(suite, TEXTS, "cpu"))
    monkeypatch.setattr(warm, "_available_bytes", lambda: 0)
    assert until(lambda: not own_pool.loaded())


@pytest.mark.second_tier
def test_idle_workers_go(suite: Suite) -> None:
    with WarmPool(idle_seconds=0.1) as short:
        answers(short.ask(suite.select([]), TEXTS, "cpu"))
        assert until(lambda: not short.loaded())


@pytest.mark.second_tier
def test_closing_ends_the_processes(suite: Suite) -> None:
    with WarmPool() as made:
        answers(made.ask(suite.select([]), TEXTS, "cpu"))
        (item,) = made.loaded()
    assert processes.lives(item.pid, None) is False
    with pytest.raises(RequestError, match="closing"):
        list(made.ask(suite, TEXTS, "cpu"))


@pytest.mark.second_tier
def test_a_reader_who_leaves_stops_nothing_for_others(own_pool: WarmPool, suite: Suite) -> None:
    events = own_pool.ask(suite, TEXTS, "cpu")
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert answers(own_pool.ask(suite, TEXTS, "cpu"))["bert"].latency_s


@pytest.mark.second_tier
@pytest.mark.parametrize("step", ["load", "make"])
def test_nobody_waits_for_anothers_model(
    own_pool: WarmPool,
    suite: Suite,
    shared_suite: Suite,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While one person's model loads, or is made with the device's lock held, another's answers come."""
    began, go_on = Event(), Event()
    slow = suite.select([])
    load, prepare = handle.Worker.load, warm.Preparer.prepare

    def wait(variant: Any) -> None:
        if variant.title == "Plain":
            began.set()
            assert go_on.wait(20)

    def loading(worker: Any, *args: Any) -> Any:
        wait(worker.variant)
        return load(worker, *args)

    def making(preparer: Any, variant: Any) -> Any:
        wait(variant)
        return prepare(preparer, variant)

    if step == "load":
        monkeypatch.setattr(handle.Worker, "load", loading)
    else:
        monkeypatch.setattr(warm.Preparer, "prepare", making)
    first: dict[str, Answer] = {}
    person = Thread(target=lambda: first.update(answers(own_pool.ask(slow, TEXTS, "cpu"))))
    if step == "make":
        # The second person's model is there already: what is missing is made one after the other.
        answers(own_pool.ask(shared_suite, TEXTS, "cpu"))
    person.start()
    try:
        assert began.wait(30)
        found = answers(own_pool.ask(shared_suite, TEXTS, "cpu"))["fp32"]
        assert not go_on.is_set() and not first
        assert found.status == "measured" and found.latency_s
        assert found.note == ("timed while another model was being made" if step == "make" else None)
    finally:
        go_on.set()
        person.join(60)
    assert first["fp32"].latency_s


@pytest.mark.second_tier
def test_a_batch_of_many_is_timed_once(own_pool: WarmPool, shared_suite: Suite) -> None:
    found = [e for e in own_pool.ask(shared_suite, TEXTS, "cpu", calls=1) if isinstance(e, Answer)][-1]
    assert found.latency_s and found.latency_range_s == [found.latency_s, found.latency_s]


@pytest.mark.second_tier
def test_a_model_trained_anew_is_loaded_anew(own_pool: WarmPool, suite: Suite, tiny_models: dict[str, Path]) -> None:
    one = suite.select([])
    answers(own_pool.ask(one, TEXTS, "cpu"))
    (before,) = own_pool.loaded()
    os.utime(tiny_models["distilbert"] / "model.safetensors")
    answers(own_pool.ask(one, TEXTS, "cpu"))
    (after,) = own_pool.loaded()
    assert after.pid != before.pid


STAY = """
    print(*(worker.pid for worker in psutil.Process().children()), flush=True)
    sys.stdin.read()
"""
ASK_AND_STAY = "import psutil" + ASK.replace("\nanswers =", f"{STAY}answers =")


@pytest.mark.second_tier
@pytest.mark.parametrize("stopped", [False, True])
def test_no_worker_outlives_a_pool_that_was_killed(suite: Suite, tmp_path: Path, stopped: bool) -> None:
    """As when the kernel or an administrator ends a dashboard: nobody is left to close anything."""
    asker = subprocess.Popen(
        [sys.executable, "-c", ASK_AND_STAY, str(tmp_path / f"{suite.name}.toml")],
        cwd=Path(warm.__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert asker.stdout
    workers = [psutil.Process(int(pid)) for pid in asker.stdout.readline().split()]
    assert len(workers) >= 1
    if stopped:
        for worker in workers:
            worker.suspend()
    asker.kill()
    asker.wait()
    gone = until(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers), 15)
    for worker in workers:
        if not gone and worker.is_running():
            worker.kill()
    asker.communicate()
    assert gone
