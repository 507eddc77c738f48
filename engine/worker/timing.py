"""The one timing contract: a call takes a tokenised batch as host arrays and returns host logits.

The clock runs around exactly this call, with the device idle before and after.
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
    """How many times the block went through all of its batches."""


def one_call(backend: Backend, batch: Batch) -> tuple[int, np.ndarray]:
    """Nanoseconds of one call, and its logits."""
    backend.synchronize()
    start = perf_counter_ns()
    logits = backend.call(batch)
    backend.synchronize()
    return perf_counter_ns() - start, logits


def block(backend: Backend, batches: list[Batch], seconds: float, untimed_seconds: float) -> Timed:
    """Time whole passes over `batches` for at least `seconds`, after `untimed_seconds` of untimed calls.

    The untimed calls, at least one, wake up caches, clocks and thread pools; 0 means no untimed calls.
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
    """Calls before anything is measured."""

    started_ns: int
    latencies_s: np.ndarray
    """float64 [calls]."""
    settled: bool | None
    """Whether the last calls passed the test for a steady state in time; None for too few calls."""


SLOW = 3
"""How many times as long a warm-up may last if its calls are too slow to be tested within its time."""


def warm_up(backend: Backend, batches: list[Batch], seconds: float, max_seconds: float) -> WarmUp:
    """Call each batch once, then only the largest until `stats.settled` holds for the calls of the largest.

    The warm-up lasts at least `seconds` and at most `max_seconds`, or SLOW times as long if there were too few calls to
    tell. Only calls of one shape show whether calls become faster.
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
