"""The same variants in two runs over the same examples: their answers, example by example."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.measurement import summary
from engine.measurement.labels import Alignment
from engine.measurement.summary import Difference
from engine.report import changes, takeaways
from engine.report.takeaways import Answers, Key, Stored
from engine.store.rows import Row

Outputs = Mapping[Key, np.ndarray]
"""(variant, batch size) -> int64 [examples]: the index of each answer's largest logit."""


def accuracies(first: Stored, second: Stored, outputs: tuple[Outputs, Outputs], labels: np.ndarray | None) -> Answers:
    """The accuracy of each shared measurement in run B beside that in run A; p corrected by Holm over all of them.

    `outputs`: of either run; `labels`: int64 [examples] of the one example set. Empty where the runs have not the same
    examples or these no labels; a measurement that is not sound, or has no accuracy, in either run is left out.
    """
    if labels is None or None in (found := _sets(first, second)) or found[0] != found[1]:
        return {}
    paired: dict[Key, Difference] = {}
    for a, b in changes.pairs(first, second):
        key = (a.variant, a.batch_size)
        theirs, mine = (known.get(key) for known in outputs)
        sound = takeaways.sound(a) and takeaways.sound(b) and None not in (a.accuracy, b.accuracy)
        if sound and theirs is not None and mine is not None:
            paired[key] = summary.difference(_right(b, mine, labels), _right(a, theirs, labels))
    return dict(zip(paired, summary.corrected(list(paired.values())), strict=True))


def stored(first: Stored, second: Stored) -> Answers:
    """`accuracies` of two runs as the store has their answers."""
    from engine.store import examples, measurements, open_store

    set_id, other = _sets(first, second)
    if set_id is None or set_id != other:
        return {}
    outputs: list[Outputs] = []
    with open_store(create=False) as store, store.session() as session:
        labels = examples.example_labels(session, set_id)
        for run, _ in (first, second):
            keys = {m.id: (m.variant, m.batch_size) for m in measurements.measurements(session, run["id"])}
            found = measurements.all_logits(session, list(keys))
            outputs.append({keys[id]: logits.argmax(axis=1) for id, logits in found.items()})
    return accuracies(first, second, (outputs[0], outputs[1]), labels)


def _sets(first: Stored, second: Stored) -> tuple[str | None, str | None]:
    return first[0]["example_set_id"], second[0]["example_set_id"]


def _right(row: Row, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which examples a row answers right: bool [examples]."""
    right: np.ndarray = np.asarray(Alignment(**(row.labels or {})).mapping)[outputs] == labels
    return right
