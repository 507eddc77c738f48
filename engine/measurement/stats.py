"""Statistics over plain arrays: intervals, percentiles, verdicts. Pure functions, without a model or a store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.measurement.doubts import Code, Doubt, doubt

CONFIDENCE = 0.95
BETWEEN_PROCESS_SD = 0.02
"""How much workers of the same variant differ in speed: the standard deviation of one worker's log rate.

Memory layout and page placement fix the difference for a process's life, so rounds do not show it. Measured by
`benchmarks/same_variant.py`; see docs/method.md.
"""
SEQUENTIAL_SD = 0.1
"""How much the log ratio of two variants timed one after another varies between runs: its standard deviation.

Measured by `benchmarks/repeatability.py --apart`; see docs/method.md.
"""
BETWEEN_PROCESS_WEIGHT = 6
"""The degrees of freedom that the assumed variance between processes counts as, beside a run's own processes."""
ROUND_SD = 0.15
"""The standard deviation of one round's log ratio, as on a noisy machine, for runs with too few rounds to show it."""
RESEMBLANCE = 0.9
"""The largest autocorrelation of neighbouring rounds that widens an interval. A short series cannot show more."""
CALM_SHARE = 1 / 3
CALM_ROUNDS = 6
CALM_NEIGHBOURS = (-3, -1, 1, 3)
"""The share of a process's rounds that a speed-up is taken from; the least number of them (all if there are fewer);
and the offsets of the neighbours that decide whether a round was calm.

On a shared machine other work slows the rounds down for half a minute at a time, and not every variant equally: INT8
to 0.73 of its speed, FP32 in PyTorch to 0.93. So a median over all rounds follows the state that lasted longer.
Over the five one-minute runs of `demo` that the share was chosen on, that median moved by up to 17%, and the median
over the calm third by 2.5%. docs/method.md has later runs, some of which did worse.
"""
PERCENTILE_CALLS = {0.5: 1, 0.95: 59, 0.99: 299}
"""The least calls for each percentile: from there on the largest of n calls exceeds it with a probability of 95%."""
UNSTABLE_SPREAD = 0.25
UNSTABLE_DRIFT = 0.15
MEDIAN_DEVIATION = 0.6745
"""The median distance of a normal number from its mean, in standard deviations."""
DRIFT_ERRORS = 2
"""The least drift in standard errors, because two rounds of a noisy machine may differ by more than UNSTABLE_DRIFT."""
SETTLING_CALLS = 5
"""Calls in each of the two samples that the warm-up test compares."""
SETTLED_DIFFERENCE = 0.1
WARMING_ROUNDS = 3
WARMING_DIFFERENCE = 0.1
WARMING_LEVEL = 0.001


@dataclass(frozen=True)
class Interval:
    """An estimate with its limits at 95% confidence."""

    estimate: float
    low: float
    high: float


def wilson(successes: int, n: int) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927).

    Raises ValueError for n = 0.
    """
    from scipy.stats import binomtest

    limits = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(successes / n, float(limits.low), float(limits.high))


def percentile(latencies_s: np.ndarray, q: float) -> float | None:
    """The q-quantile in seconds, or None for too few calls."""
    if len(latencies_s) < PERCENTILE_CALLS[q]:
        return None
    return float(np.quantile(latencies_s, q))


def macro_f1(labels: np.ndarray, predicted: np.ndarray, count: int) -> float:
    """The unweighted mean of the F1 of `count` labels; a label that never occurs counts as 0."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, labels=range(count), average="macro", zero_division=0))


def calm_rounds(rates: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
    """The rounds of each process in which the machine was least disturbed: one bool [rounds] array per process.

    `rates` holds one list per variant of an experiment, with a float64 [rounds] array per process, in any unit; NaN
    marks a round without a value. The calmness of a round is the mean speed of the variants, relative to each
    variant's own median, in the round's CALM_NEIGHBOURS, because a disturbance outlasts a round and slows all variants.
    A choice by a round's own calls would prefer rounds in which the noisiest variant happened to be fast. So even
    rounds are chosen by odd rounds and odd rounds by even rounds: as in cross-fitting, a round's own luck has no
    influence.
    """
    chosen = []
    for process in range(max(map(len, rates), default=0)):
        series = [variant[process] for variant in rates if process < len(variant)]
        length = max(map(len, series))
        if not length:
            chosen.append(np.zeros(0, dtype=bool))
            continue
        logs = np.full((len(series), length), np.nan)
        for line, values in zip(logs, series, strict=True):
            line[: len(values)] = np.log(values)
            if np.isfinite(line).any():
                line -= np.nanmedian(line)
        known = np.isfinite(logs).any(axis=0)
        mean = np.nansum(logs, axis=0) / np.maximum(np.isfinite(logs).sum(axis=0), 1)
        around = _neighbour_sums(np.where(known, mean, 0)) / np.maximum(_neighbour_sums(known.astype(float)), 1)
        speed = np.where(known, around, -np.inf)
        count = min(int(known.sum()), max(CALM_ROUNDS, math.ceil(length * CALM_SHARE)))
        calm = np.zeros(length, dtype=bool)
        even = math.ceil(count * known[::2].sum() / max(known.sum(), 1))
        for first, chosen_count in ((0, even), (1, count - even)):
            calm[first + 2 * np.argsort(-speed[first::2], kind="stable")[:chosen_count]] = True
        chosen.append(calm)
    return chosen


def _neighbour_sums(values: np.ndarray) -> np.ndarray:
    """For each round of `values`, float64 [rounds], the sum of its CALM_NEIGHBOURS that exist."""
    reach = max(CALM_NEIGHBOURS)
    weights = np.zeros(2 * reach + 1)
    weights[[reach + step for step in CALM_NEIGHBOURS]] = 1
    return np.convolve(values, weights)[reach:-reach]


def speed_up(
    rates: list[np.ndarray],
    baseline_rates: list[np.ndarray],
    calm: list[np.ndarray] | None = None,
    sequential: bool = False,
) -> Interval | None:
    """A variant's rate as a multiple of the baseline's, taken round by round.

    `rates` and `baseline_rates` hold one float64 [rounds] array per process, in samples/s; NaN marks a
    round without a value. `calm`: the rounds to use, as returned by `calm_rounds`; by default all. The estimate
    is the median of the log ratios over the rounds of a process, averaged over the processes. Its variance has two
    parts: that of the median within a process, widened for neighbouring rounds that resemble each other, and that
    between processes, from the processes of this run and BETWEEN_PROCESS_SD together. `sequential`: the two variants
    were timed one after another, which adds the variance of SEQUENTIAL_SD. None if no round has both rates.
    """
    logs = []
    for process, (mine, theirs) in enumerate(zip(rates, baseline_rates, strict=False)):
        length = min(len(mine), len(theirs))
        ratios = np.log(mine[:length] / theirs[:length])
        logs.append(ratios if calm is None else ratios[calm[process][:length]])
    return _over_processes(logs, 2 * BETWEEN_PROCESS_SD**2 + (SEQUENTIAL_SD**2 if sequential else 0.0))


def rate(rates: list[np.ndarray]) -> Interval | None:
    """A variant's own rate over all rounds, with limits as in `speed_up`; None without a round.

    `rates` as in `speed_up`. Each process adds the variance of one worker here, not of two.
    """
    return _over_processes([np.log(mine) for mine in rates], BETWEEN_PROCESS_SD**2)


def _over_processes(logs: list[np.ndarray], assumed: float) -> Interval | None:
    """The interval from `logs`, float64 [rounds] for each process; `assumed`: the prior variance between processes."""
    from scipy.stats import t

    known = [values[np.isfinite(values)] for values in logs]
    known = [values for values in known if len(values)]
    if not known:
        return None
    medians = [float(np.median(values)) for values in known]
    count = len(medians)
    within = float(np.mean([_median_variance(values) for values in known]))
    observed = max(0.0, float(np.var(medians, ddof=1)) - within) if count > 1 else 0.0
    freedom = BETWEEN_PROCESS_WEIGHT + count - 1
    between = (BETWEEN_PROCESS_WEIGHT * assumed + (count - 1) * observed) / freedom
    half = t.ppf((1 + CONFIDENCE) / 2, freedom) * math.sqrt((between + within) / count)
    centre = float(np.mean(medians))
    return Interval(math.exp(centre), math.exp(centre - half), math.exp(centre + half))


def _median_variance(values: np.ndarray) -> float:
    """The variance of the median of `values`, a short time series."""
    from scipy.stats import t

    n = len(values)
    if n < 3:
        # The values are too few to show their spread.
        return (math.pi / 2) * ROUND_SD**2 / n
    centred = values - np.median(values)
    sigma = max(1.4826 * float(np.median(np.abs(centred))), float(np.std(values)) / 3)
    total = float(np.sum(centred**2))
    resemblance = float(np.sum(centred[1:] * centred[:-1])) / total if total else 0.0
    resemblance = min(max(resemblance, 0.0), RESEMBLANCE)
    # The spread of a few values is itself uncertain, which Student's t accounts for.
    few = (t.ppf(0.975, n - 1) / t.ppf(0.975, math.inf)) ** 2
    return float((math.pi / 2) * sigma**2 / n * few * (1 + resemblance) / (1 - resemblance))


def comparison(interval: Interval | None) -> str | None:
    """better, worse or no_difference, by the position of a speed-up's interval relative to 1; None without interval."""
    if interval is None:
        return None
    if interval.low > 1:
        return "better"
    return "worse" if interval.high < 1 else "no_difference"


def settled(latencies: np.ndarray) -> bool | None:
    """Whether a series has settled by its end; None for too few calls. `latencies`: float64 [calls] in any unit.

    As in pyperf's calibration of warm-ups, the last two samples of SETTLING_CALLS calls are compared. The series has
    settled if their medians differ by at most SETTLED_DIFFERENCE and the first call of the earlier sample is no
    outlier of the later one (beyond Tukey's fence, and by more than SETTLED_DIFFERENCE).
    """
    if len(latencies) < 2 * SETTLING_CALLS:
        return None
    before, last = latencies[-2 * SETTLING_CALLS : -SETTLING_CALLS], latencies[-SETTLING_CALLS:]
    low, high = np.quantile(last, [0.25, 0.75])
    fence = max(high + 1.5 * (high - low), (1 + SETTLED_DIFFERENCE) * high)
    return bool(before[0] <= fence and abs(np.median(before) / np.median(last) - 1) <= SETTLED_DIFFERENCE)


def warming(block_medians_s: np.ndarray) -> Doubt | None:
    """The doubt that the first rounds were slower than the rest; None if this is not shown.

    `block_medians_s`: float64 [blocks] in time order. The doubt needs a one-sided Mann-Whitney test of the first tenth
    (at least WARMING_ROUNDS) against the rest at WARMING_LEVEL, and a difference above WARMING_DIFFERENCE.
    """
    from scipy.stats import mannwhitneyu

    first = max(WARMING_ROUNDS, len(block_medians_s) // 10)
    early, rest = block_medians_s[:first], block_medians_s[first:]
    if len(rest) < 4 * first:
        return None
    slower = float(np.median(early) / np.median(rest)) - 1
    if slower <= WARMING_DIFFERENCE or mannwhitneyu(early, rest, alternative="greater").pvalue > WARMING_LEVEL:
        return None
    return doubt(Code.WARMING, rounds=first, share=slower)


def instability(block_medians_s: np.ndarray) -> Doubt | None:
    """The reason to doubt that a series of blocks is a steady state; None if there is none.

    `block_medians_s`: float64 [blocks], each block's median latency, in time order.
    """
    n = len(block_medians_s)
    if n < 6:
        return doubt(Code.FEW_ROUNDS, rounds=n)
    median = float(np.median(block_medians_s))
    low, high = np.quantile(block_medians_s, [0.1, 0.9])
    if reason := warming(block_medians_s):
        return reason
    spread = float(high - low) / median
    if spread > UNSTABLE_SPREAD:
        return doubt(Code.SPREAD, share=spread)
    third = n // 3
    drift = float(np.median(block_medians_s[-third:]) / np.median(block_medians_s[:third])) - 1
    # Noise is taken between neighbouring rounds: a drift hardly shows there, and the median ignores single outliers.
    noise = float(np.median(np.abs(np.diff(np.log(block_medians_s))))) / (MEDIAN_DEVIATION * math.sqrt(2))
    if abs(drift) > UNSTABLE_DRIFT and abs(math.log1p(drift)) > DRIFT_ERRORS * noise * math.sqrt(2 / third):
        return doubt(Code.DRIFT, share=drift)
    return None
