"""Load like a service's: texts arrive by a schedule, whatever the server does, and wait in batches formed as they come.

A text's latency counts from its intended arrival, so that a server that is behind cannot hide it by being asked later.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.99
"""How sure a verdict on a percentile must be, as MLPerf Inference has it."""

STEP_S = 1e-6
"""The shortest wait: a difference of two times may be too small to move a clock."""


def poisson(rate_per_s: float, count: int, seed: int) -> np.ndarray:
    """Arrival times of a Poisson process in seconds: float64 [count], ascending."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_per_s, count))


def holds(count: int, late: int, percentile: float) -> bool:
    """Whether `count` texts, `late` of them beyond a limit, show that the percentile is within it.

    MLPerf's early stopping: a server whose true share of late texts was as high as allowed would show so few of
    them with a probability of at most 1 - CONFIDENCE.
    """
    from scipy.stats import binom

    return bool(binom.cdf(late, count, 1 - percentile) <= 1 - CONFIDENCE)


def least_count(late: int, percentile: float) -> int:
    """How many texts it takes to show that the percentile is within a limit, where `late` are beyond it."""
    low, high = late, late + 1
    while not holds(high, late, percentile):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle, late, percentile) else (middle, high)
    return high


def most_late(count: int, percentile: float) -> int:
    """How many of `count` texts may be late where the percentile is to be shown within a limit; -1: too few texts."""
    late = -1
    while holds(count, late + 1, percentile):
        late += 1
    return late


@dataclass(frozen=True)
class Served:
    """What became of the texts that arrived."""

    latencies_s: np.ndarray
    """float64 [texts answered], from intended arrival to answer, in the order of arrival."""
    batches: list[int]
    """Texts a batch."""
    calls_s: np.ndarray
    """float64 [batches]: from handing a batch over to having its answers."""
    seconds: float
    """From the start to the last answer."""


def serve(
    arrivals_s: np.ndarray,
    answer: Callable[[range], object],
    max_batch: int,
    max_wait_s: float,
    give_up: Callable[[np.ndarray], bool] = lambda latencies_s: False,
) -> Served:
    """Have `answer` answer texts by number, in order, as they arrive; it returns when they are answered.

    One batch is answered at a time. It is handed over when the server is free and `max_batch` texts are there, or the
    first of them has waited `max_wait_s`. `give_up` sees all latencies after each batch and may end it.
    """
    latencies_s, batches, calls_s = np.empty(len(arrivals_s)), list[int](), list[float]()
    began_s = time.perf_counter()
    start = 0
    while start < len(arrivals_s):
        full_at = arrivals_s[start + max_batch - 1] if start + max_batch <= len(arrivals_s) else math.inf
        due_s = min(arrivals_s[start] + max_wait_s, full_at)
        if (now_s := time.perf_counter() - began_s) < due_s:
            time.sleep(max(due_s - now_s, STEP_S))
            continue
        here = int(np.searchsorted(arrivals_s, now_s, side="right"))
        end = min(start + max_batch, here)
        answer(range(start, end))
        done_s = time.perf_counter() - began_s
        latencies_s[start:end] = done_s - arrivals_s[start:end]
        batches.append(end - start)
        calls_s.append(done_s - now_s)
        start = end
        if give_up(latencies_s[:end]):
            break
    return Served(latencies_s[:start], batches, np.array(calls_s), time.perf_counter() - began_s)


LOWEST_SHARE = 1 / 64
"""Of the capacity: no rate below is tried. Nearly every text finds the server idle then, and fewer change nothing."""


def highest(
    holds_at: Callable[[float], bool],
    capacity: float,
    most: int = 12,
    has_time: Callable[[float, bool], bool] = lambda rate, held: True,
    within: float = 1.05,
) -> float | None:
    """The highest rate found at which `holds_at` is true; None where there was none.

    `capacity` bounds it from above. What disturbs a trial makes it fail and never hold, so that a rate bounds it only
    when it fails a second time, after another trial. The rate lies within a factor of `within` below one that failed
    twice, unless `most` trials were not enough or `has_time`, of the next rate and whether one has held, was false.
    """
    low, high, rate = None, capacity, 0.7 * capacity
    once: list[float] = []
    for _ in range(most):
        held = holds_at(rate)
        if held:
            low, once = rate, [other for other in once if other > rate]
        elif rate in once:
            high, once = rate, [other for other in once if other < rate]
        else:
            once.append(rate)
        top = min(once, default=high)
        if low is None:
            lower = rate / 2
            enough = lower < LOWEST_SHARE * capacity or not has_time(lower, False)
            rate = top if enough else lower
            if enough and not once:
                break
        elif once and (held or top / low <= within):
            rate = top
        elif top / low <= within:
            break
        else:
            rate = math.sqrt(low * top)
        if low is not None and not has_time(rate, True):
            break
    return low


def failed_twice(trials: Iterable[tuple[float, bool]]) -> float | None:
    """The lowest of the rates that failed twice, of trials as (rate, whether it held); None where none did."""
    failed = Counter(rate for rate, held in trials if not held)
    return min((rate for rate, times in failed.items() if times > 1), default=None)
