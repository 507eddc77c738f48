"""What the variants of a run answer, in one set of labels, from their stored logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dashboard.run_rows import Row
from engine.measurement import summary
from engine.measurement.labels import Alignment


@dataclass(frozen=True)
class Answers:
    """What the variants of a run answer, in one set of labels."""

    names: list[str]
    """What the labels are called."""
    truth: np.ndarray | None
    """int16 [examples]: index into `names`; None where texts are unlabelled or no model speaks of their labels."""
    ids: list[int]
    """The measurements, in their order: the columns of what follows."""
    answers: np.ndarray
    """int16 [examples, variants]: index into `names`."""
    confidence: np.ndarray
    """float32 [examples, variants]: the softmax's share of the answered label."""
    left_out: list[tuple[str, str]]
    """Name and reason of each measured variant that could not be compared."""

    def column(self, measurement_id: int) -> int:
        return self.ids.index(measurement_id)


def build(
    rows: Sequence[Row], logits: Sequence[np.ndarray | None], truth: np.ndarray | None, label_names: list[str] | None
) -> Answers:
    """The answers of measured `rows`, one array of `logits` (float32 [examples, outputs]) each.

    `truth` is int [examples], indices of `label_names`; None where unlabelled. Where any variant's labels were
    aligned with the data set's, all answers are in these; else in the labels of the baseline's model, by name.
    """
    aligned = [_alignment(row) for row in rows]
    by_data_set = bool(label_names) and any(a.mapping is not None for a in aligned)
    first = next((a for a, row in zip(aligned, rows, strict=True) if row.baseline), aligned[0] if aligned else None)
    if by_data_set or first is None:
        names = list(label_names or [])
    else:
        names = list(dict.fromkeys(first.model_labels))
    columns, shares, ids, left_out = [], [], [], []
    arrays: list[np.ndarray | None] = [truth, *logits]
    size = next((len(array) for array in arrays if array is not None), 0)
    for row, found, alignment in zip(rows, logits, aligned, strict=True):
        mapping, reason = alignment.mapping, alignment.reason
        if not by_data_set:
            assert first is not None
            mapping, reason = _by_model(alignment, first, names)
        if found is None or found.shape[0] != size:
            mapping, reason = None, "its answers were not stored"
        elif mapping is not None and found.shape[1] != len(mapping):
            reason = f"{found.shape[1]} outputs do not fit {len(mapping)} labels"
            mapping = None
        if mapping is None or found is None:
            left_out.append((row.name, reason or "its labels were not aligned"))
            continue
        answer = np.asarray(mapping, np.int16)[found.argmax(axis=1)]
        columns.append(answer)
        shares.append(_confidence(found, mapping, answer, len(names)))
        ids.append(row.id)
    empty = np.zeros((size, 0))
    return Answers(
        names,
        truth.astype(np.int16) if truth is not None and by_data_set else None,
        ids,
        np.stack(columns, axis=1) if columns else empty.astype(np.int16),
        np.stack(shares, axis=1) if shares else empty.astype(np.float32),
        left_out,
    )


def _alignment(row: Row) -> Alignment:
    return Alignment(**row.labels) if row.labels else Alignment(None, None, "its labels were not stored", [])


def _by_model(mine: Alignment, first: Alignment, names: list[str]) -> tuple[list[int] | None, str | None]:
    """The mapping into the first model's labels, or why there is none."""
    if not mine.model_labels:
        return None, mine.reason
    if not summary.comparable(replace(mine, mapping=None), replace(first, mapping=None)):
        return None, f"its labels ({', '.join(mine.model_labels[:6])}) are not the baseline's"
    return [names.index(label) for label in mine.model_labels], None


def _confidence(logits: np.ndarray, mapping: Sequence[int], answer: np.ndarray, count: int) -> np.ndarray:
    """float32 [examples]: the share of each answered label; outputs that mean one label add up."""
    with np.errstate(invalid="ignore", over="ignore"):
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = powers / powers.sum(axis=1, keepdims=True)
    summed = shares @ np.eye(count, dtype=np.float32)[np.asarray(mapping)]
    return summed[np.arange(len(answer)), answer].astype(np.float32)
