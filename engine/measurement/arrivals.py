"""A service's load: texts arrive on a schedule that the server cannot delay, and are batched as they come.

A text's latency counts from its intended arrival, so a server that falls behind cannot hide the delay.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.99
"""The confidence that a verdict on a percentile needs, as in MLPerf Inference."""

STEP_S = 1e-6
"""The shortest sleep. A smaller difference between two times may not move the clock."""


def poisson(rate_per_s: float, count: int, seed: int) -> np.ndarray:
    """Arrival times of a Poisson process in seconds: float64 [count], ascending."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_per_s, count))


def holds(count: int, late: int, percentile: float) -> bool:
    """Whether `count` texts, `late` of them beyond a limit, show that the percentile is within the limit.

    This is MLPerf's early stopping: a server whose true share of late texts is the highest allowed would show at most
    `late` late texts with a probability of at most 1 - CONFIDENCE.
    """
    from scipy.stats import binom

    return bool(binom.cdf(late, count, 1 - percentile) <= 1 - CONFIDENCE)


def least_count(late: int, percentile: float) -> int:
    """The fewest texts that show the percentile within a limit when `late` of them are beyond it."""
    low, high = late, late + 1
    while not holds(high, late, percentile):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle, late, percentile) else (middle, high)
    return high


def most_late(count: int, percentile: float) -> int:
    """How many of `count` texts may be late and still show the percentile within a limit; -1 for too few texts."""
    late = -1
    while holds(count, late + 1, percentile):
        late += 1
    return late


@dataclass(frozen=True)
class Served:
    """The answered texts: their latencies, their batches and the calls."""

    latencies_s: np.ndarray
    """float64 [texts answered], from intended arrival to answer, in the order of arrival."""
    batches: list[int]
    """Texts in each batch."""
    calls_s: np.ndarray
    """float64 [batches]: from handing over a batch to receiving its answers."""
    seconds: float
    """From the start to the last answer."""


def serve(
    arrivals_s: np.ndarray,
    answer: Callable[[range], object],
    max_batch: int,
    max_wait_s: float,
    give_up: Callable[[np.ndarray], bool] = lambda latencies_s: False,
) -> Served:
    """Pass texts to `answer` by number, in order, as they arrive; `answer` returns when its batch is answered.

    One batch is answered at a time. A batch is handed over when the server is free and either `max_batch` texts are
    waiting or the first has waited `max_wait_s`. `give_up` receives all latencies after each batch; if it returns
    True, serving ends.
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
"""The lowest rate tried, as a share of the capacity. At this rate nearly every text finds the server idle, so a lower
rate would change nothing."""


def highest(
    holds_at: Callable[[float], bool],
    capacity: float,
    most: int = 12,
    has_time: Callable[[float, bool], bool] = lambda rate, held: True,
    within: float = 1.05,
) -> float | None:
    """The highest rate found at which `holds_at` is true; None if there was none.

    `capacity` is the upper bound. A disturbance can make a trial fail but never hold, so a rate becomes an upper bound
    only when it fails a second time, after another trial. The result lies within a factor of `within` below a rate that
    failed twice. It may be further below when `most` trials were not enough or `has_time` returned False.
    `has_time` receives the next rate and whether any rate has held.
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
    """The lowest rate that failed twice, from trials of (rate, whether it held); None if no rate did."""
    failed = Counter(rate for rate, held in trials if not held)
    return min((rate for rate, times in failed.items() if times > 1), default=None)
