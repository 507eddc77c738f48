"""The one timing contract: a call takes a tokenised batch as host arrays and returns host logits.

The clock runs around exactly that, with the device idle before and after.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from engine.backends.base import Backend, Batch
from engine.measurement import stats


@dataclass(frozen=True)
class Timed:
    """Timed calls of one block."""

    started_ns: int
    """`time.perf_counter_ns` at the first call: one clock for all processes of a machine."""
    latencies_s: np.ndarray
    """float64 [calls]."""
    passes: int
    """How often the block went through all of its batches."""


def one_call(backend: Backend, batch: Batch) -> tuple[int, np.ndarray]:
    """Nanoseconds of one call, and its logits."""
    backend.synchronize()
    start = perf_counter_ns()
    logits = backend.call(batch)
    backend.synchronize()
    return perf_counter_ns() - start, logits


def block(backend: Backend, batches: list[Batch], seconds: float, untimed_seconds: float) -> Timed:
    """Whole passes over `batches` until `seconds` are timed, after `untimed_seconds` of calls that are not.

    In those, at least one, caches, clocks and thread pools wake up; with 0 there are none.
    """
    start = perf_counter_ns()
    index = 0
    while untimed_seconds and (index == 0 or perf_counter_ns() - start < untimed_seconds * 1e9):
        one_call(backend, batches[index % len(batches)])
        index += 1
    latencies_ns: list[int] = []
    passes = 0
    collecting = gc.isenabled()
    gc.disable()
    try:
        started_ns = perf_counter_ns()
        while not passes or perf_counter_ns() - started_ns < seconds * 1e9:
            for batch in batches:
                latencies_ns.append(one_call(backend, batch)[0])
            passes += 1
    finally:
        if collecting:
            gc.enable()
    return Timed(started_ns, np.array(latencies_ns, dtype=np.float64) / 1e9, passes)


@dataclass(frozen=True)
class WarmUp:
    """Calls before anything counts."""

    started_ns: int
    latencies_s: np.ndarray
    """float64 [calls]."""
    settled: bool | None
    """Whether the last calls passed the test of a steady state before the time was up; None for too few calls."""


SLOW = 3
"""How many times as long a warm-up may last whose calls are too slow to be tested within its time."""


def warm_up(backend: Backend, batches: list[Batch], seconds: float, max_seconds: float) -> WarmUp:
    """One call of each batch, then of the largest alone until `stats.settled` holds for the last of those.

    For at least `seconds` and at most `max_seconds`, or SLOW times as long where so few calls went into it that
    nothing can be said. Only calls of one shape tell whether they become faster.
    """
    started_ns = perf_counter_ns()
    latencies_ns: list[int] = []
    largest = max(batches, key=lambda batch: batch["input_ids"].size)
    while True:
        first_pass = len(latencies_ns) < len(batches)
        latencies_ns.append(one_call(backend, batches[len(latencies_ns)] if first_pass else largest)[0])
        elapsed_s = (perf_counter_ns() - started_ns) / 1e9
        if elapsed_s < seconds and elapsed_s < max_seconds:
            continue
        alone = latencies_ns if len(batches) == 1 else latencies_ns[len(batches) :]
        settled = stats.settled(np.array(alone, dtype=np.float64))
        if settled or elapsed_s > max_seconds * (SLOW if settled is None else 1):
            return WarmUp(started_ns, np.array(latencies_ns, dtype=np.float64) / 1e9, settled)
