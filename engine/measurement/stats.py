"""Statistics over plain arrays: intervals, percentiles, verdicts. Pure functions, no model, no store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.measurement.doubts import Code, Doubt, doubt

CONFIDENCE = 0.95
BETWEEN_PROCESS_SD = 0.02
"""How far two workers of the same variant differ in speed: standard deviation of one worker's log rate.

Memory layout and page placement fix it for a process's life, so rounds do not show it. Measured by
`benchmarks/same_variant.py`; see docs/method.md.
"""
SEQUENTIAL_SD = 0.1
"""How far a ratio of two variants that were timed one after another moves from run to run: of its logarithm.

Measured by `benchmarks/repeatability.py --apart`; see docs/method.md.
"""
BETWEEN_PROCESS_WEIGHT = 6
"""The degrees of freedom that the figure above counts for beside a run's own processes."""
ROUND_SD = 0.15
"""The standard deviation of one round's log ratio where a run has too few to show it: that of a noisy machine."""
RESEMBLANCE = 0.9
"""The largest autocorrelation of neighbouring rounds that an interval is widened for: a short series shows no more."""
CALM_SHARE = 1 / 3
CALM_ROUNDS = 6
CALM_NEIGHBOURS = (-3, -1, 1, 3)
"""The share of a process's rounds that a speed-up is taken from, and how many at least (all where there are fewer);
and the rounds beside one that tell whether it was calm.

On a shared machine others slow the rounds down for half a minute at a time, and not every variant alike: INT8 to
0.73 of its speed, FP32 in PyTorch to 0.93, so that a median over all rounds follows whichever state lasted longer.
Over the five one-minute runs of `demo` that the share was chosen on it moved by up to 17%, over the calm third by
2.5%; docs/method.md has later runs, some of which did worse.
"""
PERCENTILE_CALLS = {0.5: 1, 0.95: 59, 0.99: 299}
"""The calls below which a percentile says nothing: the largest of n exceeds it with 95% only from there on."""
UNSTABLE_SPREAD = 0.25
UNSTABLE_DRIFT = 0.15
MEDIAN_DEVIATION = 0.6745
"""The median distance of a normal number from its mean, in standard deviations."""
DRIFT_ERRORS = 2
"""How many standard errors a drift is at least, as two rounds of a noisy machine may differ by more than that share."""
SETTLING_CALLS = 5
"""Calls in each of the two samples that the test of a warm-up compares."""
SETTLED_DIFFERENCE = 0.1
WARMING_ROUNDS = 3
WARMING_DIFFERENCE = 0.1
WARMING_LEVEL = 0.001


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


def calm_rounds(rates: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
    """The rounds of each process in which the machine was least disturbed: one bool [rounds] array a process.

    `rates` holds for each variant of an experiment one float64 [rounds] array a process, in any unit; NaN marks a
    round without a value. A round is as calm as its variants, each beside its own median, were fast in its
    CALM_NEIGHBOURS: what disturbs the machine outlasts a round and slows all variants. Judged by its own calls, those
    rounds would be taken in which the noisiest variant happened to be fast. So even rounds are chosen among
    themselves by odd ones, and odd ones by even ones: a round's own luck has no say, as in cross-fitting.
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
        around = _beside(np.where(known, mean, 0)) / np.maximum(_beside(known.astype(float)), 1)
        speed = np.where(known, around, -np.inf)
        count = min(int(known.sum()), max(CALM_ROUNDS, math.ceil(length * CALM_SHARE)))
        calm = np.zeros(length, dtype=bool)
        even = math.ceil(count * known[::2].sum() / max(known.sum(), 1))
        for first, of_these in ((0, even), (1, count - even)):
            calm[first + 2 * np.argsort(-speed[first::2], kind="stable")[:of_these]] = True
        chosen.append(calm)
    return chosen


def _beside(values: np.ndarray) -> np.ndarray:
    """For each of float64 [rounds] the sum of its CALM_NEIGHBOURS, of those that there are."""
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
    """How many times the baseline's rate a variant reaches, taken round by round.

    `rates` and `baseline_rates` hold one float64 [rounds] array a process, in samples/s; NaN marks a
    round without a value. `calm`: the rounds to take, as `calm_rounds` gives them; all by default. The estimate
    is the median of the log ratios over the rounds of a process, averaged over the processes. Its variance has two
    parts: of the median within a process, widened for neighbouring rounds that resemble each other, and between
    processes, from the processes of this run and BETWEEN_PROCESS_SD together. `sequential`: the two were timed one
    after another, so that SEQUENTIAL_SD comes on top. None where no round has both.
    """
    logs = []
    for process, (mine, theirs) in enumerate(zip(rates, baseline_rates, strict=False)):
        length = min(len(mine), len(theirs))
        ratios = np.log(mine[:length] / theirs[:length])
        logs.append(ratios if calm is None else ratios[calm[process][:length]])
    return _over_processes(logs, 2 * BETWEEN_PROCESS_SD**2 + (SEQUENTIAL_SD**2 if sequential else 0.0))


def rate(rates: list[np.ndarray]) -> Interval | None:
    """A variant's own rate, over all rounds, between the limits that `speed_up` would have; None without a round.

    `rates` as there. One worker a process has its luck in it, not two.
    """
    return _over_processes([np.log(mine) for mine in rates], BETWEEN_PROCESS_SD**2)


def _over_processes(logs: list[np.ndarray], assumed: float) -> Interval | None:
    """`logs`: a float64 [rounds] array a process; `assumed`: the variance between processes that is known before."""
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
    """The variance of the median of `values`, a short series in time."""
    from scipy.stats import t

    n = len(values)
    if n < 3:
        # Too few to see their spread.
        return (math.pi / 2) * ROUND_SD**2 / n
    centred = values - np.median(values)
    sigma = max(1.4826 * float(np.median(np.abs(centred))), float(np.std(values)) / 3)
    total = float(np.sum(centred**2))
    resemblance = float(np.sum(centred[1:] * centred[:-1])) / total if total else 0.0
    resemblance = min(max(resemblance, 0.0), RESEMBLANCE)
    # The spread of a few values is itself uncertain, as Student's t has it.
    few = (t.ppf(0.975, n - 1) / t.ppf(0.975, math.inf)) ** 2
    return float((math.pi / 2) * sigma**2 / n * few * (1 + resemblance) / (1 - resemblance))


def comparison(interval: Interval | None) -> str | None:
    """better, worse or no_difference: where the interval of a speed-up lies beside 1."""
    if interval is None:
        return None
    if interval.low > 1:
        return "better"
    return "worse" if interval.high < 1 else "no_difference"


def settled(latencies: np.ndarray) -> bool | None:
    """Whether a series has come to rest at its end; `latencies`: float64 [calls] in any unit. None for too few.

    As in pyperf's calibration of warm-ups, the last two samples of SETTLING_CALLS calls are compared: their
    medians differ by no more than SETTLED_DIFFERENCE, and the first call of the earlier one is no outlier of the
    later one (beyond Tukey's fence, and by more than that difference).
    """
    if len(latencies) < 2 * SETTLING_CALLS:
        return None
    before, last = latencies[-2 * SETTLING_CALLS : -SETTLING_CALLS], latencies[-SETTLING_CALLS:]
    low, high = np.quantile(last, [0.25, 0.75])
    fence = max(high + 1.5 * (high - low), (1 + SETTLED_DIFFERENCE) * high)
    return bool(before[0] <= fence and abs(np.median(before) / np.median(last) - 1) <= SETTLED_DIFFERENCE)


def warming(block_medians_s: np.ndarray) -> Doubt | None:
    """The doubt that the first rounds were still slower than the rest; None where that is not shown.

    `block_medians_s`: float64 [blocks] in the order of time. A one-sided Mann-Whitney test of the first tenth
    (WARMING_ROUNDS at least) against the rest at WARMING_LEVEL, and a difference of WARMING_DIFFERENCE.
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
    """The doubt that a series of blocks is a steady state; None where nothing speaks against it.

    `block_medians_s`: float64 [blocks], each block's median latency, in the order of time.
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
    # From one round to the next: what drifts hardly moves in between, and the median leaves out a disturbed round.
    noise = float(np.median(np.abs(np.diff(np.log(block_medians_s))))) / (MEDIAN_DEVIATION * math.sqrt(2))
    if abs(drift) > UNSTABLE_DRIFT and abs(math.log1p(drift)) > DRIFT_ERRORS * noise * math.sqrt(2 / third):
        return doubt(Code.DRIFT, share=drift)
    return None
