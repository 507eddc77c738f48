"""A service's load: arrivals, batches as they come, waiting times that queueing theory knows, rules of evidence."""

from __future__ import annotations

import time
import types
from typing import Any

import numpy as np
import pytest

from engine import backends
from engine.backends.pytorch import bucketed
from engine.cli import load as cli_load
from engine.measurement import arrivals
from engine.run import load
from engine.worker.__main__ import Host
from engine.worker.messages import AnswerTexts, Meet, Met, Request


class Clock:
    """A clock that stands still but for sleeping and work."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """What `engine` takes the time from in this test."""
    made = Clock()
    monkeypatch.setattr(arrivals, "time", made)
    monkeypatch.setattr(load, "time", made)
    return made


def by_lindley(arrivals_s: np.ndarray, service_s: np.ndarray) -> np.ndarray:
    """Latencies of a queue that answers one at a time in order, by Lindley's recursion."""
    free_s, found = 0.0, []
    for arrived_s, takes_s in zip(arrivals_s, service_s, strict=True):
        free_s = max(free_s, arrived_s) + takes_s
        found.append(free_s - arrived_s)
    return np.array(found)


def test_arrivals_are_a_poisson_process():
    gaps = np.diff(arrivals.poisson(50.0, 20_000, seed=1))
    assert gaps.min() > 0 and gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # of an exponential distribution
    assert np.array_equal(arrivals.poisson(50.0, 100, 1), arrivals.poisson(50.0, 100, 1))


@pytest.mark.parametrize("load", [0.3, 0.5, 0.7])
def test_constant_service_waits_as_long_as_an_m_d_1_queue(clock, load):
    service_s = 0.01
    schedule = arrivals.poisson(load / service_s, 40_000, seed=2)
    load = 40_000 * service_s / schedule[-1]  # as drawn
    served = arrivals.serve(
        schedule,
        lambda texts: clock.sleep(service_s),
        max_batch=1,
        max_wait_s=0.0,
    )
    waits_s = served.latencies_s - service_s
    # Pollaczek and Khinchine, for a service time that does not vary.
    assert waits_s.mean() == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.08)
    assert (waits_s < 1e-9).mean() == pytest.approx(1 - load, abs=0.01)


def test_with_a_real_timer_latency_is_from_the_intended_arrival_to_the_answer():
    schedule = arrivals.poisson(120.0, 150, seed=3)
    began_s, ended_s = [], []

    def answer(texts: range) -> None:
        began_s.append(time.perf_counter())
        while time.perf_counter() < began_s[-1] + 0.005:
            pass
        ended_s.append(time.perf_counter())

    start_s = time.perf_counter()
    served = arrivals.serve(schedule, answer, max_batch=1, max_wait_s=0.0)
    assert served.batches == [1] * 150
    # Nobody is asked before the time, and none faster than the queue allows.
    assert np.all(np.array(began_s) - start_s >= schedule)
    assert np.all(served.latencies_s - by_lindley(schedule, np.full(150, 0.005)) > -1e-4)
    apart = served.latencies_s - (np.array(ended_s) - start_s - schedule)
    assert np.quantile(np.abs(apart), 0.9) < 1e-3  # the rest are this process's own interruptions


def test_a_server_that_stalls_is_charged_with_all_who_came_meanwhile(clock):
    schedule = np.arange(1, 101) / 100.0

    def answer(texts: range) -> None:
        clock.sleep(0.5 if texts.start == 10 else 0.001)

    served = arrivals.serve(schedule, answer, 1, 0.0)
    assert served.latencies_s[10] == pytest.approx(0.5)
    assert (served.latencies_s > 0.1).sum() > 40  # not one slow answer: everyone behind it


def test_a_batch_goes_when_it_is_full_or_its_first_text_has_waited(clock):
    seen = []

    def answer(texts: range) -> None:
        seen.append((round(clock.now_s, 3), len(texts)))
        clock.sleep(0.1)

    schedule = np.array([0.0, 0.001, 0.002, 0.003, 0.3, 0.302, 0.9])
    served = arrivals.serve(schedule, answer, max_batch=4, max_wait_s=0.01)
    assert seen == [(0.003, 4), (0.31, 2), (0.91, 1)]
    assert served.batches == [4, 2, 1] and served.latencies_s[:2] == pytest.approx([0.103, 0.102])


def test_who_came_while_the_server_was_busy_go_together(clock):
    schedule = np.array([0.0, 0.02, 0.03, 0.04, 0.05])
    served = arrivals.serve(schedule, lambda texts: clock.sleep(0.1), 3, 0.0)
    assert served.batches == [1, 3, 1]


@pytest.mark.parametrize(("late", "percentile", "count"), [(1, 0.9, 64), (1, 0.99, 662), (0, 0.99, 459)])
def test_the_least_counts_are_mlperfs(late, percentile, count):
    assert arrivals.least_count(late, percentile) == count
    assert not arrivals.holds(count - 1, late, percentile)
    assert arrivals.most_late(count, percentile) == late


def test_too_few_texts_show_nothing():
    assert arrivals.most_late(100, 0.99) == -1


def test_giving_up_ends_it(clock):
    schedule = arrivals.poisson(100.0, 1000, 0)
    served = arrivals.serve(schedule, lambda texts: clock.sleep(1.0), 1, 0.0, lambda seen: seen.max() > 3)
    assert len(served.latencies_s) == len(served.batches) < 10


@pytest.mark.parametrize("true", [7.0, 40.0, 71.0, 97.0])
def test_the_highest_rate_is_found_from_below(true):
    asked: list[float] = []

    def holds_at(rate: float) -> bool:
        asked.append(rate)
        return rate <= true

    found = arrivals.highest(holds_at, capacity=100.0, most=14)
    assert found is not None and true / 1.06 < found <= true and len(asked) <= 14
    assert arrivals.highest(lambda rate: False, 100.0) is None


def test_once_a_rate_holds_a_search_ends_when_its_time_is_up():
    asked: list[float] = []

    def holds_at(rate: float) -> bool:
        asked.append(rate)
        return rate < 20

    assert arrivals.highest(holds_at, 100.0, most=12, has_time=lambda rate, held: not held) == 17.5
    assert asked == [70, 35, 17.5], "none holds yet: it goes on"


def test_what_disturbed_a_search_for_a_while_does_not_mislead_it():
    trials: list[tuple[float, bool]] = []

    def holds_at(rate: float) -> bool:
        # The machine was busy with something else for the first four trials.
        trials.append((rate, len(trials) >= 4 and rate <= 60))
        return trials[-1][1]

    found = arrivals.highest(holds_at, 100.0, most=20)
    assert [held for _, held in trials[:5]] == [False] * 4 + [True] and trials[4][0] < 5
    assert found is not None and 57 < found <= 60 and len(trials) < 16
    assert found < arrivals.failed_twice(trials) < 1.05 * found
    # Cut short, it says no more than it knows: each of these failed once.
    assert arrivals.failed_twice(trials[:5]) is None


def test_where_nothing_holds_the_lowest_rate_is_tried_twice():
    asked: list[float] = []
    assert arrivals.highest(lambda rate: bool(asked.append(rate)), 100.0) is None
    assert len(asked) == 7 and asked[-1] == asked[-2] > 100 / 64 > asked[-1] / 2
    # Each would take too long but the first.
    asked.clear()
    assert arrivals.highest(lambda rate: bool(asked.append(rate)), 100.0, has_time=lambda rate, held: False) is None
    assert asked == [70, 70]


def test_a_slow_server_is_searched_no_longer_than_its_first_rate_that_holds(clock):
    found = load.LoadResult("a", "A", "cpu", 2.0, max_batch=1, max_wait_s=0.0, padding="longest")
    told: list[str] = []
    load.measure(found, lambda texts: clock.sleep(0.5), 0, tell=lambda text, done: told.append(text))
    assert [trial.holds for trial in found.trials].count(True) == 1 and found.trials[-1].holds
    assert found.server_texts_per_s == found.trials[-1].rate_per_s and found.trials[-1].answered == 662
    rate_per_s = found.trials[-1].rate_per_s
    assert 250 < 662 / rate_per_s < clock.now_s < load.WHOLE.serving_s(rate_per_s)
    assert told[-1] == "A: server, 0.700 texts/s for up to 15 min"


def test_a_server_of_known_speed_gets_the_rate_that_queueing_theory_allows(clock):
    found = load.LoadResult("a", "A", "cpu", 0.05, max_batch=1, max_wait_s=0.0, padding="longest")
    told: list[float] = []
    load.measure(found, lambda texts: clock.sleep(0.01), seed=0, tell=lambda text, done: told.append(done))
    assert found.offline_texts_per_s == pytest.approx(100) and found.single_p90_s == pytest.approx(0.01)
    # By Lindley's recursion over 300,000 arrivals p99 is 50 ms at 57 texts/s; a trial of 850 texts varies.
    assert found.server_texts_per_s is not None and 45 < found.server_texts_per_s < 62
    held = [trial for trial in found.trials if trial.holds]
    assert all(trial.texts == trial.answered >= 662 and trial.p99_s <= 0.05 for trial in held)
    assert len(told) == 2 + len(found.trials) and told == sorted(told) and told[0] == 0 and told[-1] < 1
    assert f"{found.server_texts_per_s:.1f} texts/s hold p99 within 50.0 ms" in "\n".join(cli_load.show(found))


@pytest.mark.second_tier
def test_batches_of_many_sizes_warm_a_server_up_before_anything_counts(clock):
    found = load.LoadResult("a", "A", "cpu", 0.05, max_batch=12, max_wait_s=0.0, padding="longest")
    sizes: list[int] = []

    def answer(texts: range) -> None:
        # What is prepared at the first batch of a size takes long.
        clock.sleep(0.001 if len(texts) in sizes else 5.0)
        sizes.append(len(texts))

    load.measure(found, answer, 0, lambda text, done: None)
    assert sizes[:7] == [1, 2, 4, 8, 12, 12, 12] and found.single_p90_s == pytest.approx(0.001)
    assert found.offline_texts_per_s == pytest.approx(12_000)
    assert load.warm_up_sizes(1) == [1, 1] and load.warm_up_sizes(32)[-3:] == [16, 32, 32]


@pytest.mark.parametrize("most", [1, 5, 8, 12, 31, 32])
def test_no_batch_of_a_server_is_of_a_shape_that_its_library_did_not_meet(most):
    config = types.SimpleNamespace(max_position_embeddings=512, pad_token_id=0)

    def rows(size: int) -> int:
        return len(bucketed({"input_ids": np.zeros((size, 16), dtype=np.int64)}, config)["input_ids"])

    met = load.sizes_to_meet(most)
    assert {rows(size) for size in range(1, most + 1)} == {rows(size) for size in met} and met[-1] == most


def lengths_met(lengths: list[int], sizes: list[int], padding: str) -> list[tuple[int, list[int]]]:
    """What a worker shows its backend: of each batch its rows, and the lengths among them."""
    seen: list[Any] = []
    host: Any = Host()
    host.encoder = types.SimpleNamespace(
        encode=lambda texts: types.SimpleNamespace(lengths=np.array([len(text) for text in texts])),
        batch=lambda encoded, positions, padding: encoded.lengths[positions],
    )
    host.backend = types.SimpleNamespace(meet=seen.extend)
    host.meet(Meet(["x" * length for length in lengths], sizes, padding))
    return [(len(batch), sorted(set(batch.tolist()))) for batch in seen]


def test_a_server_meets_batches_as_long_as_each_of_its_texts():
    found = lengths_met([5, 3, 9, 3], [1, 2, 8], "longest")
    assert found == [
        *[(1, [3]), (2, [3]), (8, [3])],
        *[(1, [5]), (2, [3, 5]), (8, [3, 5])],
        *[(1, [9]), (2, [5, 9]), (8, [3, 5, 9])],
    ]
    assert lengths_met([5, 3, 9, 3], [2], "max_length") == [(2, [5, 9])]


def test_who_prepares_for_no_shape_has_no_batch_made():
    host: Any = Host()
    # Without `batch`: whoever asked for one would fail.
    host.encoder = types.SimpleNamespace(encode=lambda texts: types.SimpleNamespace(lengths=np.array([5, 3])))
    host.backend = backends.get("pytorch")()
    host.backend._model = host.backend._forward = object()
    assert host.meet(Meet(["a", "b"], [1, 256], "longest")) == Met()


def test_all_sizes_are_met_before_any_text_is_answered(clock):
    asked: list[Request[Any]] = []

    def ask(request: Request[Any]) -> None:
        asked.append(request)
        clock.sleep(0.001)

    wanted = types.SimpleNamespace(p99_ms=50.0, max_wait_ms=0.0, max_batch=12)
    suite: Any = types.SimpleNamespace(
        load=wanted,
        workload=types.SimpleNamespace(padding="longest", seed=0),
        protocol=types.SimpleNamespace(quick=True),
    )
    variant = types.SimpleNamespace(name="a", shown="A", padding=None, batch_size=None)
    worker: Any = types.SimpleNamespace(variant=variant, device=types.SimpleNamespace(spec="cpu"), ask=ask)
    load.under_load(worker, suite, ["x", "y"], lambda text, done: None)
    assert asked[0] == Meet(["x", "y"], [1, 2, 4, 8, 12], "longest")
    assert {type(request) for request in asked[1:]} == {AnswerTexts}


def test_where_no_rate_holds_it_says_so(clock):
    found = load.LoadResult("a", "A", "cpu", 0.005, max_batch=1, max_wait_s=0.0, padding="longest")
    load.measure(found, lambda texts: clock.sleep(0.01), 0, lambda text, done: None)
    assert found.server_texts_per_s is None and "no rate held" in cli_load.show(found)[-1]
    # A trial ends as soon as it cannot hold any more.
    assert all(trial.answered < trial.texts and trial.late > 1 for trial in found.trials)


def test_a_first_look_asks_for_the_same_evidence_with_fewer_and_shorter_trials(clock):
    whole, quick = (
        load.LoadResult("a", "A", "cpu", 0.05, max_batch=1, max_wait_s=0.0, padding="longest") for _ in range(2)
    )
    spent_s = []
    for found, effort in ((whole, load.WHOLE), (quick, load.QUICK)):
        began_s = clock.now_s
        load.measure(found, lambda texts: clock.sleep(0.01), 0, lambda text, done: None, effort)
        spent_s.append(clock.now_s - began_s)
    assert spent_s[1] < spent_s[0] and len(quick.trials) <= load.QUICK.trials
    assert all(trial.texts >= 662 for trial in quick.trials) and quick.single_texts >= 64
