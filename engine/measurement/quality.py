"""Statistics of a classifier's answers: against a baseline, label by label, and whether its labels can be right.

Pure functions over arrays, no model, no store. A proportion's own interval is `stats.wilson`, macro F1
`stats.macro_f1`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from engine.measurement.stats import CONFIDENCE

LEVEL = 0.05
POWER = 0.8
BINS = 15

# Against a baseline


@dataclass(frozen=True)
class Paired:
    """A variant's accuracy less the baseline's on the same examples."""

    difference: float
    """Share of the examples; above 0 where the variant is more often right."""
    low: float
    high: float
    """Limits at 95% confidence, uncorrected for several variants."""
    gained: int
    """Examples that it alone has right."""
    lost: int
    """Examples that the baseline alone has right."""
    p: float
    """Exact McNemar, two-sided, uncorrected."""


def compare(mine: np.ndarray, baseline: np.ndarray) -> Paired:
    """`mine` and `baseline`: bool [examples], whether each is answered right.

    Raises ValueError where there are none, or not as many of both.
    """
    n = len(mine)
    if n == 0 or n != len(baseline):
        raise ValueError(f"{n} and {len(baseline)} answers cannot be paired")
    gained = int((mine & ~baseline).sum())
    lost = int((~mine & baseline).sum())
    low, high = paired_interval(gained, lost, n)
    return Paired((gained - lost) / n, low, high, gained, lost, mcnemar(gained, lost))


@lru_cache(4096)
def paired_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """95% limits of the difference of accuracy: a paired percentile bootstrap of n examples, as a share.

    An example moves the difference by +1, -1 or 0, so what a resample of n of them gives is the sum of n
    such steps; its distribution is computed (a convolution) rather than drawn, and so has neither seed nor
    noise: the "ideal bootstrap", Efron and Tibshirani (1993), ch. 6. The plain form degenerates to [0, 0]
    without discordant pairs and covers a difference that few pairs show far too seldom. So the steps are
    resampled with one more pair each way, gained + 1 and lost + 1 of n + 2, as Bonett and Price (2012)
    smooth Wald's interval. Simulated (tests/test_quality.py), it covers the true difference in 94% to 97%
    of experiments, in more where few pairs are discordant, and it excludes 0 wherever exact McNemar shows a
    difference at 5%, unless all n examples are discordant.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    size = next_fast_len(2 * n + 1, real=True)
    step = np.zeros(size)
    step[[0, 1, -1]] = np.array([n - gained - lost, gained + 1, lost + 1]) / (n + 2)
    # From -n to n; indices below 0 wrap around.
    total = np.roll(irfft(rfft(step) ** n, size), n)[: 2 * n + 1]
    tail = (1 - CONFIDENCE) / 2
    low = int(np.searchsorted(np.cumsum(total), tail)) - n
    # Counted from its own end, so that who is called the baseline makes no difference.
    high = n - int(np.searchsorted(np.cumsum(total[::-1]), tail))
    return low / n, high / n


@lru_cache(4096)
def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided McNemar p from the discordant pairs; 1 where there are none."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction of p-values by name (Holm 1979)."""
    corrected: dict[str, float] = {}
    running = 0.0
    for rank, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, value * (len(p) - rank)))
        corrected[name] = running
    return corrected


def verdict(gained: int, lost: int, corrected: float) -> str:
    """better, worse or no_difference, from a p-value corrected over the variants."""
    if corrected >= LEVEL or gained == lost:
        return "no_difference"
    return "better" if gained > lost else "worse"


@lru_cache(maxsize=4096)
def smallest_detectable(discordant: int, n: int, family: int = 1) -> float | None:
    """The true difference of accuracy that n examples would have shown with 80% power, as a share.

    Shown: exact McNemar, two-sided, at 5% / `family`: the first step of Holm over so many comparisons, which
    shows a difference whatever the others give. The power is exact: over the number of discordant pairs,
    binomial with the share `discordant` / n that was observed, and over their direction. A difference cannot
    be larger than the share of discordant pairs, so where even all of them in one direction would be too few,
    the share grows with the difference: then the answer does not depend on `discordant`. Without any, the
    share is taken at its one-sided 95% upper limit (Clopper-Pearson; the rule of three, 3 / n). None for so
    few examples that no answers at all could show a difference. Raises ValueError where `discordant` is not
    within 0 to n, or `family` below 1.
    """
    from scipy.optimize import brentq
    from scipy.stats import beta, binom

    if not 0 <= discordant <= n:
        raise ValueError(f"{discordant} of {n} examples cannot be discordant")
    if family < 1:
        raise ValueError(f"a family of {family} comparisons corrects nothing: give 1 at least")
    level = LEVEL / family
    # Pairs that all point one way have p = 2 * 0.5**pairs.
    fewest = math.floor(1 - math.log2(level)) + 1
    if n < fewest:
        return None
    share = discordant / n if discordant else 1 - LEVEL ** (1 / n)
    # As many pairs as that with 80%: the binomial's upper tail is a beta distribution of its share.
    one_way = float(beta.ppf(POWER, fewest, n - fewest + 1))
    if share <= one_way:
        return one_way
    fewest_likely, most_likely = binom.ppf([1e-12, 1 - 1e-12], n, share)
    pairs = np.arange(max(fewest, fewest_likely), most_likely + 1)
    weight = binom.pmf(pairs, n, share)
    # The most pairs against the direction with which McNemar still shows a difference; -1 where none does.
    most = binom.ppf(level / 2, pairs, 0.5) - 1

    def power(difference: float) -> float:
        up = 0.5 + difference / share / 2
        return float(weight @ (binom.cdf(most, pairs, up) + binom.sf(pairs - most - 1, pairs, up)))

    target = min(POWER, power(share))
    return float(brentq(lambda difference: power(difference) - target, 0, share))


@dataclass(frozen=True)
class Flips:
    """Examples that a variant answers otherwise than the baseline."""

    changed: int
    right_to_wrong: int | None
    """The baseline's answer is right, the variant's wrong; None, as the next two, without labels."""
    wrong_to_right: int | None
    wrong_to_wrong: int | None
    """Both are wrong, each in its own way."""
    index: np.ndarray
    """int64 [changed]: which examples, in order."""
    matrix: np.ndarray
    """int64 [baseline's answer, own answer]."""


def flips(answers: np.ndarray, baseline: np.ndarray, labels: np.ndarray | None, count: int) -> Flips:
    """`answers`, `baseline` and `labels`: int64 [n], each below `count`; without labels for unlabelled text.

    Raises ValueError where there are none, or not as many of each.
    """
    matrix = confusion(baseline, answers, count)
    changed = answers != baseline
    index = np.flatnonzero(changed).astype(np.int64)
    if labels is None:
        return Flips(len(index), None, None, None, index, matrix)
    if len(labels) != len(answers):
        raise ValueError(f"{len(labels)} labels do not fit {len(answers)} answers")
    lost = int((changed & (baseline == labels)).sum())
    gained = int((changed & (answers == labels)).sum())
    return Flips(len(index), lost, gained, len(index) - lost - gained, index, matrix)


# Label by label


def confusion(labels: np.ndarray, predicted: np.ndarray, count: int) -> np.ndarray:
    """The confusion matrix of `count` labels: int64 [label, predicted]; rows sum to the labels' examples.

    `labels` and `predicted`: int64 [n]. Raises ValueError for n = 0, and for indices outside of `count`.
    """
    from sklearn.metrics import confusion_matrix

    for values in (labels, predicted):
        if len(values) == 0 or values.min() < 0 or values.max() >= count:
            raise ValueError(f"{len(values)} labels cannot be counted: give at least one, each from 0 to {count - 1}")
    counts: np.ndarray = confusion_matrix(labels, predicted, labels=np.arange(count)).astype(np.int64)
    return counts


@dataclass(frozen=True)
class LabelScore:
    """How well one label is told from all others."""

    precision: float | None
    """Of the answers with this label the share that is right; None where it was never answered."""
    recall: float | None
    """Of the examples with this label the share that is found; None where there are none."""
    f1: float
    """The harmonic mean of both, 0 where nothing was found: what `stats.macro_f1` averages."""
    support: int
    """Examples with this label."""


def label_scores(labels: np.ndarray, predicted: np.ndarray, count: int) -> list[LabelScore]:
    """A score for each of `count` labels, in their order. `labels` and `predicted`: int64 [n]."""
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(count), zero_division=np.nan
    )
    return [
        LabelScore(
            None if np.isnan(precision[i]) else float(precision[i]),
            None if np.isnan(recall[i]) else float(recall[i]),
            0.0 if np.isnan(f1[i]) else float(f1[i]),
            int(support[i]),
        )
        for i in range(count)
    ]


# Probabilities


def nll(logits: np.ndarray, mapping: list[int], labels: np.ndarray) -> float | None:
    """Mean negative log likelihood of the right label, in nats.

    `logits`: float32 [n, outputs]; `mapping`: output -> label, as in `Alignment`; `labels`: int64 [n], n at
    least 1. Outputs that mean one label add their probabilities up. None where logits are not finite, and
    where an example's label is that of no output: any model would be infinitely wrong about it.
    """
    if not np.isfinite(logits).all():
        return None
    log_likelihood = _log_probability(logits, mapping, labels)
    return float(-log_likelihood.mean()) if np.isfinite(log_likelihood).all() else None


@dataclass(frozen=True)
class Bin:
    """The answers whose confidence lies in one part of 0 to 1."""

    count: int
    confidence: float | None
    """Mean probability of the answers; None, as the next, without any."""
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """Whether answers are right as often as their probability says."""

    ece: float
    """Expected calibration error, 0 to 1."""
    bins: list[Bin]
    """Of equal width, from 0 to 1; each contains its upper limit."""


def calibration(logits: np.ndarray, mapping: list[int], labels: np.ndarray) -> Calibration | None:
    """Expected calibration error over 15 bins of equal width (Naeini et al. 2015, Guo et al. 2017).

    Arguments as for `nll`. An answer is the label of the largest output, as accuracy counts it, and its
    confidence that label's probability. The mean over the answers of the distance between a bin's
    confidence and its accuracy. Biased upwards where n is small: chance alone parts the two, so that a perfectly
    calibrated model shows some 10 points at n = 80, 5 at 400 and 1.5 at 3,800 (tests/test_quality.py). None
    where logits are not finite.
    """
    if not np.isfinite(logits).all():
        return None
    answers = np.asarray(mapping, dtype=np.int64)[logits.argmax(axis=1)]
    if len(answers) != len(labels):
        raise ValueError(f"{len(labels)} labels do not fit the logits of {len(answers)} examples")
    confidence = np.exp(_log_probability(logits, mapping, answers))
    at = np.digitize(confidence, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    counts = np.bincount(at, minlength=BINS)
    sure = np.bincount(at, confidence, minlength=BINS)
    right = np.bincount(at, answers == labels, minlength=BINS)
    bins = [
        Bin(int(n), float(sure[i] / n) if n else None, float(right[i] / n) if n else None) for i, n in enumerate(counts)
    ]
    return Calibration(float(np.abs(sure - right).sum() / len(labels)), bins)


def _log_probability(logits: np.ndarray, mapping: list[int], labels: np.ndarray) -> np.ndarray:
    """The log of the probability that each row of `logits` gives to its entry of `labels`: float64 [n]."""
    from scipy.special import log_softmax, logsumexp

    if len(labels) == 0 or logits.shape != (len(labels), len(mapping)):
        raise ValueError(
            f"logits of shape {logits.shape} do not fit {len(labels)} labels and {len(mapping)} model outputs"
        )
    meant = np.asarray(mapping)[None, :] == labels[:, None]
    shares = np.where(meant, log_softmax(logits.astype(np.float64), axis=1), -np.inf)
    summed: np.ndarray = logsumexp(shares, axis=1)
    return summed
