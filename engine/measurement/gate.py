"""The gate before accuracy: flags answers that are constant, permuted or no better than chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.measurement import labels as label_names
from engine.measurement.labels import Alignment
from engine.measurement.quality import LEVEL, confusion

PERMUTED_GAIN = 0.10
"""The least gain in accuracy by renaming the answers at which labels are called permuted."""
PERMUTED_LEVEL = 0.001
CONSTANT_SHARE = 0.99


# Whether the labels can be right


@dataclass(frozen=True)
class Flag:
    """A reason to doubt that an accuracy measures the model."""

    kind: Literal["fresh", "constant", "permuted", "chance"]
    sentence: str
    """The reason in plain words, with its figures."""
    figures: dict[str, float]
    """The numbers behind the sentence: shares, counts, p-values."""


def label_gate(labels: np.ndarray, predicted: np.ndarray, names: list[str]) -> list[Flag]:
    """The reasons to doubt the labels that the answers were compared with, causes first; empty if there are none.

    `labels` and `predicted`: int64 [n], indices of `names`. Raises ValueError for n = 0.

    constant: at least 99% of the answers are one label, and more than ten times as many examples have another.
    permuted: renaming the answers by the best permutation of the labels gains at least 10 points; exact
    McNemar of original against renamed answers, and an exact binomial test of the renamed answers against always
    answering the commonest label, both give p below 0.001 after Bonferroni over all permutations. A model that
    is merely weak gains nothing by renaming. A model that always gives the same answer does not pass the second test.
    chance: accuracy is not shown to be above always answering the commonest label, by a one-sided exact
    binomial test at 5%. The share of the commonest label is taken as known.
    """
    matrix = confusion(labels, predicted, len(names))
    flags = (_constant(matrix, names), _permuted(matrix, names), _chance(matrix, names))
    return [flag for flag in flags if flag]


def study_fault(logits: np.ndarray, labels: np.ndarray, alignment: Alignment, count: int) -> str | None:
    """Describe the case study's fault: labels that do not fit each other, compared by their indices.

    `logits`: float32 [n, outputs]; `labels`: int64 [n] of `count` labels. If the model has another number of outputs
    than the data set has labels, the fault is always reported. Chance is the share of matches between unrelated
    answers and labels of these frequencies (Cohen 1960), tested by an exact two-sided binomial test at 5%. None if
    the labels are aligned. Also None if there are as many outputs as labels and the match differs from chance, because
    then the outputs may only lack names.
    """
    from scipy.stats import binomtest

    if alignment.mapping is not None:
        return None
    n, outputs = logits.shape
    match = round(label_names.index_match_rate(logits, labels) * n)
    width = max(outputs, count)
    answered, labelled = (np.bincount(index, minlength=width) / n for index in (logits.argmax(axis=1), labels))
    chance = float(answered @ labelled)
    by_chance = binomtest(match, n, chance).pvalue >= LEVEL
    if outputs == count and not by_chance:
        return None
    beside = f"which is within chance ({chance:.1%})" if by_chance else f"where chance would give {chance:.1%}"
    return (
        f"comparing index with index ({outputs} outputs of the model, {count} labels of the data set) would have "
        f"reported {match / n:.1%} ({match} of {n}), {beside}: this is the case study's fault, where two labels "
        "were compared with four"
    )


def _constant(matrix: np.ndarray, names: list[str]) -> Flag | None:
    n = int(matrix.sum())
    answer = int(matrix.sum(axis=0).argmax())
    answers = int(matrix[:, answer].sum())
    labelled_otherwise = n - int(matrix[answer].sum())
    # A rare label may rightly be answered rarely. Only when it is almost never answered is something wrong.
    if answers < CONSTANT_SHARE * n or 10 * (n - answers) >= labelled_otherwise:
        return None
    every = f"all {n} answers are" if answers == n else f"{answers} of {n} answers ({answers / n:.1%}) are"
    return Flag(
        "constant",
        f"{every} {names[answer]!r}, although {labelled_otherwise} examples ({labelled_otherwise / n:.1%}) have "
        "another label",
        {"n": n, "answers": answers, "labelled_otherwise": labelled_otherwise},
    )


def _permuted(matrix: np.ndarray, names: list[str]) -> Flag | None:
    from scipy.optimize import linear_sum_assignment
    from scipy.stats import binom

    n, count = int(matrix.sum()), len(matrix)
    # Of equally good permutations, choose the one that keeps the most names.
    _, meant = linear_sum_assignment((matrix * (count + 1) + np.eye(count, dtype=np.int64)).T, maximize=True)
    given, renamed = int(np.trace(matrix)), int(matrix[meant, np.arange(count)].sum())
    if renamed - given < PERMUTED_GAIN * n:
        return None
    moved = [i for i in range(count) if meant[i] != i and matrix[:, i].any()]
    # Count the answers that are right under only one naming: a label that keeps its name is no evidence.
    lost, gained = (int(sum(matrix[row[i], i] for i in moved)) for row in (np.arange(count), meant))
    # In logs, because k! and the p-values leave the range of floats.
    log_p = _log_sum(binom.logpmf(np.arange(lost + 1), gained + lost, 0.5)) + math.log(2)
    log_p_chance = _log_sum(binom.logpmf(np.arange(renamed, n + 1), n, matrix.sum(axis=1).max() / n))
    log_corrected = max(log_p, log_p_chance) + math.lgamma(count + 1)
    if log_corrected >= math.log(PERMUTED_LEVEL):
        return None
    shown = [f"its {names[i]!r} looks like {names[meant[i]]!r}" for i in moved[:6]]
    more = f", and so on for {len(moved) - 6} more" if len(moved) > 6 else ""
    return Flag(
        "permuted",
        f"the labels look permuted: {', '.join(shown)}{more}; renamed so, {renamed / n:.1%} of {n} answers "
        f"would be right instead of {given / n:.1%}; if that is so, declare `labels` on the variant",
        {"n": n, "accuracy": given / n, "accuracy_renamed": renamed / n, "log_p": log_corrected},
    )


def _chance(matrix: np.ndarray, names: list[str]) -> Flag | None:
    from scipy.stats import binomtest

    n, right = int(matrix.sum()), int(np.trace(matrix))
    commonest = int(matrix.sum(axis=1).argmax())
    most = int(matrix[commonest].sum())
    p = float(binomtest(right, n, most / n, alternative="greater").pvalue)
    if p < LEVEL:
        return None
    return Flag(
        "chance",
        f"{right / n:.1%} right ({right} of {n}) is not shown to be above always answering {names[commonest]!r}, "
        f"which is right in {most / n:.1%} ({most} of {n})",
        {"n": n, "accuracy": right / n, "commonest": most / n, "p": p},
    )


def _log_sum(logs: np.ndarray) -> float:
    from scipy.special import logsumexp

    return float(logsumexp(logs))
