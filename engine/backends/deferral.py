"""Deferral: a quantised model answers. Where it is unsure, the exact model that it was made from answers instead.

Quantisation changes an answer only where it moves the gap between two logits by more than the width of that gap. The
moves are observed over training texts that were not used for calibration. The largest of them is the margin, and a
text whose two best logits are less than the margin apart is deferred. After that, only a move larger than all n
observed ones can change an answer. A new text of the same kind makes such a move with a probability of at most
1 / (n + 1), as in split conformal prediction (Papadopoulos et al. 2002). As in a cascade of classifiers (Viola and
Jones 2001), most texts never reach the slower model.
"""

from __future__ import annotations

import numpy as np


def unsure(logits: np.ndarray, margin: float) -> np.ndarray:
    """The rows of `logits`, float [texts, labels], whose two best values are less than `margin` apart: int [n]."""
    if logits.shape[1] < 2:
        return np.empty(0, dtype=np.intp)
    best = np.partition(logits, (-2, -1), axis=1)
    return np.flatnonzero(best[:, -1] - best[:, -2] < margin)


def margin(quantized: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest move, over all texts, of the gap between the quantised model's answer and another label.

    Both arrays are float [texts, labels], for the same texts and labels. As long as no gap moves further than the
    margin, quantisation changes no answer whose two best logits are at least the margin apart.
    """
    rows, answers = np.arange(len(quantized)), quantized.argmax(axis=1)

    def gaps(logits: np.ndarray) -> np.ndarray:
        return logits[rows, answers][:, None] - logits

    return float((gaps(quantized) - gaps(exact)).max(initial=0.0))
