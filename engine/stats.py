"""Statistics over plain arrays: intervals, percentiles, verdicts. Pure functions, no model, no store."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
BETWEEN_PROCESS_SD = 0.02
"""How far two workers of the same variant differ in speed: standard deviation of one worker's log rate.

Memory layout and page placement fix it for a process's life, so rounds do not show it. Measured by
`benchmarks/same_variant.py`; see docs/method.md.
"""
BETWEEN_PROCESS_WEIGHT = 6
"""The degrees of freedom that the figure above counts for beside a run's own processes."""
PERCENTILE_CALLS = {0.5: 1, 0.95: 59, 0.99: 299}
"""The calls below which a percentile says nothing: the largest of n exceeds it with 95% only from there on."""
UNSTABLE_SPREAD = 0.25
UNSTABLE_DRIFT = 0.15


@dataclass(frozen=True)
class Interval:
    """An estimate between its limits at 95% confidence."""

    estimate: float
    low: float
    high: float


def wilson(successes: int, n: int) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927).

    Raises ValueError for n = 0.
    """
    from scipy.stats import binomtest

    found = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(successes / n, float(found.low), float(found.high))


def percentile(latencies_s: np.ndarray, q: float) -> float | None:
    """The q-quantile in seconds, or None where there are too few calls to carry it."""
    if len(latencies_s) < PERCENTILE_CALLS[q]:
        return None
    return float(np.quantile(latencies_s, q))


def macro_f1(labels: np.ndarray, predicted: np.ndarray, count: int) -> float:
    """The unweighted mean of the F1 of `count` labels; a label that never occurs counts as 0."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, labels=range(count), average="macro", zero_division=0))


def speed_up(rates: list[np.ndarray], baseline_rates: list[np.ndarray]) -> Interval | None:
    """How many times the baseline's rate a variant reaches, taken round by round.

    `rates` and `baseline_rates` hold one float64 [rounds] array a process, in samples/s; NaN marks a
    round without a value. The estimate is the median of the log ratios over the rounds of a process,
    averaged over the processes. Its variance has two parts: of the median within a process, widened
    for neighbouring rounds that resemble each other, and between processes, from the processes of this
    run and BETWEEN_PROCESS_SD together. None where no round has both.
    """
    from scipy.stats import t

    medians, within = [], []
    for mine, theirs in zip(rates, baseline_rates, strict=False):
        length = min(len(mine), len(theirs))
        logs = np.log(mine[:length] / theirs[:length])
        logs = logs[np.isfinite(logs)]
        if len(logs):
            medians.append(float(np.median(logs)))
            within.append(_median_variance(logs))
    if not medians:
        return None
    count = len(medians)
    within_mean = float(np.mean(within))
    assumed = 2 * BETWEEN_PROCESS_SD**2
    observed = max(0.0, float(np.var(medians, ddof=1)) - within_mean) if count > 1 else 0.0
    freedom = BETWEEN_PROCESS_WEIGHT + count - 1
    between = (BETWEEN_PROCESS_WEIGHT * assumed + (count - 1) * observed) / freedom
    half = t.ppf((1 + CONFIDENCE) / 2, freedom) * math.sqrt((between + within_mean) / count)
    centre = float(np.mean(medians))
    return Interval(math.exp(centre), math.exp(centre - half), math.exp(centre + half))


def _median_variance(values: np.ndarray) -> float:
    """The variance of the median of `values`, a short series in time."""
    n = len(values)
    if n < 3:
        # Too few to see their spread: as wide as between processes.
        return 2 * BETWEEN_PROCESS_SD**2
    centred = values - np.median(values)
    sigma = max(1.4826 * float(np.median(np.abs(centred))), float(np.std(values)) / 3)
    total = float(np.sum(centred**2))
    resemblance = float(np.sum(centred[1:] * centred[:-1])) / total if total else 0.0
    resemblance = min(max(resemblance, 0.0), 0.6)
    return (math.pi / 2) * sigma**2 / n * (1 + resemblance) / (1 - resemblance)


def comparison(interval: Interval | None) -> str | None:
    """better, worse or no_difference: where the interval of a speed-up lies beside 1."""
    if interval is None:
        return None
    if interval.low > 1:
        return "better"
    return "worse" if interval.high < 1 else "no_difference"


def instability(block_medians_s: np.ndarray) -> str | None:
    """Why a series of blocks is no steady state, in words; None where nothing speaks against it.

    `block_medians_s`: float64 [blocks], each block's median latency, in the order of time.
    """
    n = len(block_medians_s)
    if n < 6:
        return f"only {n} rounds were timed, too few to see whether it was steady"
    median = float(np.median(block_medians_s))
    low, high = np.quantile(block_medians_s, [0.1, 0.9])
    spread = float(high - low) / median
    if spread > UNSTABLE_SPREAD:
        return f"the middle 80% of rounds spread over {spread:.0%} of the median latency"
    third = n // 3
    drift = float(np.median(block_medians_s[-third:]) / np.median(block_medians_s[:third])) - 1
    if abs(drift) > UNSTABLE_DRIFT:
        return f"latency drifted by {drift:+.0%} from the first third of the rounds to the last"
    return None
