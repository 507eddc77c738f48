"""Deferral: a quantised model answers, and where it is unsure the model that it was made from answers instead.

A quantised model changes an answer only where it moves the gap between two logits further than that gap is wide. How
far it moves them is observed over training texts that it was not calibrated over; a text whose two best logits are
nearer to each other than the furthest move is deferred. An answer is then changed only by a move further than any of
n observed ones, which one new text of the same kind makes with a probability of at most 1 / (n + 1), as in split
conformal prediction (Papadopoulos et al. 2002). As in a cascade of classifiers (Viola and Jones 2001), most texts
never reach the slower model.
"""

from __future__ import annotations

import numpy as np


def unsure(logits: np.ndarray, margin: float) -> np.ndarray:
    """Positions of the rows of float [texts, labels] whose two best values are less than `margin` apart: int [n]."""
    if logits.shape[1] < 2:
        return np.empty(0, dtype=np.intp)
    best = np.partition(logits, (-2, -1), axis=1)
    return np.flatnonzero(best[:, -1] - best[:, -2] < margin)


def margin(quantized: np.ndarray, exact: np.ndarray) -> float:
    """The furthest that quantisation moved the gap between its answer and another label, over texts.

    Both float [texts, labels], the same texts and labels. Where no gap moved further, no answer whose two best logits
    are at least so far apart is changed.
    """
    rows, answers = np.arange(len(quantized)), quantized.argmax(axis=1)

    def gaps(logits: np.ndarray) -> np.ndarray:
        return logits[rows, answers][:, None] - logits

    return float((gaps(quantized) - gaps(exact)).max(initial=0.0))
