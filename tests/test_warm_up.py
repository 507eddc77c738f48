"""Warm-ups and blocks by a clock that only calls move: how many there are, of which batch, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from engine.backends.base import Audit, Backend, Batch, LoadRequest
from engine.worker import timing


class Clocked(Backend):
    """Each call takes as long as `seconds` says of its number and its batch."""

    name, precisions, modules = "clocked", ("fp32",), ()

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int, Batch], float]) -> None:
        self.now_ns, self.calls, self._seconds = 0, [], seconds
        monkeypatch.setattr(timing, "perf_counter_ns", lambda: self.now_ns)

    def call(self, batch: Batch) -> np.ndarray:
        self.now_ns += round(1e9 * self._seconds(len(self.calls), batch))
        self.calls.append(batch["input_ids"].shape[1])
        return np.zeros((len(batch["input_ids"]), 2), np.float32)

    def load(self, request: LoadRequest) -> None: ...

    def audit(self) -> Audit:
        return Audit({})

    def weights_bytes(self) -> int:
        return 0


def batches(*tokens: int) -> list[Batch]:
    return [{"input_ids": np.zeros((4, count), np.int64)} for count in tokens]


def by_length(number: int, batch: Batch) -> float:
    return batch["input_ids"].shape[1] / 1000


def test_batches_of_many_lengths_come_to_rest(monkeypatch):
    backend = Clocked(monkeypatch, by_length)
    found = timing.warm_up(backend, batches(*range(10, 120, 10)), 0.5, 10.0)
    # Each once, then the longest, ten times at least.
    assert backend.calls == [*range(10, 120, 10), *[110] * 10]
    assert found.settled is True and len(found.latencies_s) == 21


def test_it_lasts_as_long_as_it_is_told_to(monkeypatch):
    backend = Clocked(monkeypatch, lambda number, batch: 0.01)
    assert timing.warm_up(backend, batches(8), 0.5, 10.0).settled is True
    assert len(backend.calls) == 50


def test_what_becomes_faster_all_the_time_does_not_come_to_rest(monkeypatch):
    backend = Clocked(monkeypatch, lambda number, batch: 0.5 * 0.97**number)
    found = timing.warm_up(backend, batches(8), 0.5, 10.0)
    assert found.settled is False and 10 < found.latencies_s.sum() < 10.5


def test_slow_calls_get_the_time_that_their_test_needs(monkeypatch):
    backend = Clocked(monkeypatch, lambda number, batch: 2.0)
    assert timing.warm_up(backend, batches(8), 0.5, 10.0).settled is True
    assert len(backend.calls) == 10
    slower = Clocked(monkeypatch, lambda number, batch: 9.0)
    assert timing.warm_up(slower, batches(8), 0.5, 10.0).settled is None
    assert len(slower.calls) == 4


def test_a_block_makes_no_call_that_it_does_not_count_where_none_is_asked_for(monkeypatch):
    backend = Clocked(monkeypatch, by_length)
    counted = timing.block(backend, batches(10, 20), 0.1, 0.0)
    assert len(counted.latencies_s) == len(backend.calls) == 8 and counted.passes == 4
    backend.calls.clear()
    timing.block(backend, batches(10, 20), 0.1, 0.02)
    assert backend.calls[:2] == [10, 20] and len(backend.calls) == 2 + 8
