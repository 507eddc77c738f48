"""The one timing contract: a call takes a tokenised batch as host arrays and returns host logits.

The clock runs around exactly that, with the device idle before and after.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from engine.backends.base import Backend, Batch


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
    """Whole passes over `batches` until `seconds` are timed, after at least one untimed call.

    The untimed part lasts `untimed_seconds` too: caches, clocks and thread pools wake up in it.
    """
    start = perf_counter_ns()
    index = 0
    while index == 0 or perf_counter_ns() - start < untimed_seconds * 1e9:
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


def warm_up(backend: Backend, batches: list[Batch], seconds: float, max_seconds: float) -> Timed:
    """Calls until the last five are within 10% of the five before them, for at least `seconds`.

    It gives up after `max_seconds`; at least ten calls are made unless that is exceeded.
    """
    started_ns = perf_counter_ns()
    latencies_ns: list[int] = []
    while True:
        latencies_ns.append(one_call(backend, batches[len(latencies_ns) % len(batches)])[0])
        elapsed_s = (perf_counter_ns() - started_ns) / 1e9
        if elapsed_s > max_seconds or (elapsed_s >= seconds and _settled(latencies_ns)):
            return Timed(started_ns, np.array(latencies_ns, dtype=np.float64) / 1e9, 0)


def _settled(latencies_ns: list[int]) -> bool:
    if len(latencies_ns) < 10:
        return False
    before, last = np.median(latencies_ns[-10:-5]), np.median(latencies_ns[-5:])
    return bool(abs(last / before - 1) < 0.1)
