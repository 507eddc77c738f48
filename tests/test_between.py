"""The answers of one variant in two runs: paired example by example, or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from test_takeaways import BASE, RUN, row

from engine.measurement.labels import align
from engine.report import between

NEWS = ["World", "Sports", "Business", "Sci/Tech"]
TURNED = ["Sports", "World", "Sci/Tech", "Business"]
LABELS = np.random.default_rng(0).integers(0, 4, 400)


def outputs(wrong: int, seed: int) -> np.ndarray:
    """Answers by the order of NEWS, of which `wrong` are not right."""
    found = LABELS.copy()
    at = np.random.default_rng(seed).permutation(400)[:wrong]
    found[at] = (found[at] + 1) % 4
    return found


def run(answers: dict[str, np.ndarray], names: list[str] = NEWS, **changes: Any) -> tuple[Any, Any]:
    labels = align(names, NEWS).to_json()
    rows = [replace(BASE, labels=labels)] + [
        row(variant=name, title=name, labels=labels, accuracy=float((mine == LABELS).mean()), **changes)
        for name, mine in answers.items()
    ]
    return (RUN, rows), {(name, 8): mine for name, mine in answers.items()}


def test_the_same_variant_is_paired_over_the_same_examples():
    first, a = run({"x": outputs(40, 1), "y": outputs(40, 2)})
    second, b = run({"x": outputs(80, 3), "y": outputs(44, 4)})
    found = between.accuracies(first, second, (a, b), LABELS)
    assert set(found) == {("x", 8), ("y", 8)}, "the baseline has no answers here"
    raw = []
    for key, pair in found.items():
        before, after = a[key] == LABELS, b[key] == LABELS
        assert pair.accuracy_difference == pytest.approx(after.mean() - before.mean())
        gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
        assert (pair.accuracy_gained, pair.accuracy_lost, pair.examples) == (gained, lost, 400)
        raw.append(float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue))
    corrected = multipletests(raw, method="holm")[1]
    assert [pair.accuracy_p for pair in found.values()] == pytest.approx(corrected.tolist())
    assert [pair.accuracy_comparison for pair in found.values()] == ["worse", "no_difference"]


def test_answers_are_compared_by_what_they_mean():
    """The same answers by a model whose outputs have another order."""
    right = outputs(40, 1)
    turned = np.array([TURNED.index(NEWS[label]) for label in right])
    first, a = run({"x": right})
    second, b = run({"x": turned}, TURNED)
    found = between.accuracies(first, second, (a, b), LABELS)["x", 8]
    assert (found.accuracy_gained, found.accuracy_lost) == (0, 0)


def test_what_is_not_the_same_is_not_paired():
    first, a = run({"x": outputs(40, 1)})
    second, b = run({"x": outputs(80, 2)})
    assert between.accuracies(first, (RUN | {"example_set_id": "f"}, second[1]), (a, b), LABELS) == {}
    assert between.accuracies(first, second, (a, b), None) == between.accuracies(first, second, (a, {}), LABELS) == {}
    nowhere = (RUN | {"example_set_id": None}, first[1])
    assert between.accuracies(nowhere, nowhere, (a, a), LABELS) == {}
    for changes in ({"validity": "invalid"}, {"status": "failed"}, {"accuracy": None}):
        broken = (RUN, [second[1][0], replace(second[1][1], **changes)])
        assert between.accuracies(first, broken, (a, b), LABELS) == {}
        assert between.accuracies(broken, first, (b, a), LABELS) == {}
