"""Answers, kinds of flip and filters, from arrays alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from row_builder import shown_row

from dashboard import run_rows
from dashboard.data import answers
from dashboard.data.answers import Answers
from dashboard.findings import disagreements
from dashboard.findings.disagreements import KINDS, LABELLED, Wanted
from engine.measurement import quality

NAMES = ["World", "Sports", "Business"]
#        right  lost  gained  swapped  both lost  all wrong, alike
TRUTH = [0, 0, 1, 2, 2, 1]
BASE = [0, 0, 0, 1, 2, 2]
INT8 = [0, 1, 1, 0, 1, 2]
NF4 = [0, 0, 0, 1, 0, 2]


def row(number: int, labels: list[str], mapping: list[int] | None, **columns: Any) -> run_rows.Row:
    alignment = {
        "mapping": mapping,
        "how": "name" if mapping else None,
        "reason": None if mapping else "they do not fit",
        "model_labels": labels,
    }
    name = f"Variant {number}"
    return shown_row(**{"id": number, "name": name, "baseline": number == 1, "labels": alignment} | columns)


def logits(answers: list[int], outputs: int = 3) -> np.ndarray:
    return np.eye(outputs, dtype=np.float32)[answers] * 2


@pytest.fixture
def found() -> Answers:
    rows = [row(number, NAMES, [0, 1, 2]) for number in (1, 2, 3)]
    return answers.build(rows, [logits(a) for a in (BASE, INT8, NF4)], np.array(TRUTH), NAMES)


def positions(found: Answers, others: tuple[int, ...] = (1, 2), among: np.ndarray | None = None, **wanted: Any) -> list:
    return disagreements.chosen(found, Wanted(**wanted), 0, others, among).tolist()


def test_answers_are_in_the_data_sets_labels_whatever_the_models_order() -> None:
    turned = row(2, ["business", "world", "sports"], [2, 0, 1])
    found = answers.build(
        [row(1, NAMES, [0, 1, 2]), turned], [logits([0, 1, 2]), logits([1, 2, 0])], np.array([0, 1, 2]), NAMES
    )
    assert found.answers.tolist() == [[0, 0], [1, 1], [2, 2]] and found.answers.dtype == np.int16
    share = np.exp(2) / (np.exp(2) + 2)
    assert found.confidence == pytest.approx(np.full((3, 2), share)) and found.confidence.dtype == np.float32


def test_outputs_that_mean_one_label_add_up() -> None:
    wide = row(1, list("abcd"), [0, 1, 1, 2])
    found = answers.build([wide], [np.zeros((1, 4), np.float32)], np.array([0]), NAMES)
    assert found.confidence.tolist() == [[0.25]]
    found = answers.build([wide], [np.array([[0, 0.1, 0, 0]], np.float32)], np.array([0]), NAMES)
    assert 0.5 < found.confidence[0, 0] < 0.53 and found.answers.tolist() == [[1]]


def test_a_variant_whose_labels_do_not_fit_is_left_out_with_the_reason() -> None:
    rows = [row(1, NAMES, [0, 1, 2]), row(2, ["NEGATIVE", "POSITIVE"], None), row(3, NAMES, [0, 1, 2])]
    made = answers.build(rows, [logits(BASE), logits(BASE[:], 3)[:, :2], None], np.array(TRUTH), NAMES)
    assert made.ids == [1] and made.answers.shape == (6, 1)
    assert made.left_out == [("Variant 2", "they do not fit"), ("Variant 3", "its answers were not stored")]


def test_unlabelled_answers_are_compared_by_the_baselines_names() -> None:
    rows = [row(1, NAMES, None), row(2, ["Sports", "World", "Business"], None), row(3, ["A", "B"], None)]
    made = answers.build(rows, [logits([0, 1]), logits([1, 1]), logits([0, 1], 2)], None, None)
    assert made.names == NAMES and made.truth is None and made.ids == [1, 2]
    assert made.answers.tolist() == [[0, 0], [1, 0]]
    assert made.left_out[0][0] == "Variant 3" and "not the baseline's" in made.left_out[0][1]
    assert not set(disagreements.kinds(made, [1])) & set(LABELLED)
    assert disagreements.by_variant(made, 0, [1]) == [{"other": 1}]
    with pytest.raises(ValueError, match="labelled"):
        disagreements.flags(made, "lost", 0, [1])


def test_a_baseline_that_does_not_fit_leaves_the_others_to_compare() -> None:
    rows = [row(1, ["NO", "YES"], None), row(2, NAMES, [0, 1, 2]), row(3, NAMES, [0, 1, 2])]
    made = answers.build(rows, [logits([0] * 6, 2), logits(INT8), logits(NF4)], np.array(TRUTH), NAMES)
    assert made.ids == [2, 3] and made.truth is not None


def test_nothing_stored_is_no_error() -> None:
    assert answers.build([], [], None, None).answers.shape == (0, 0)
    assert answers.build([], [], np.array(TRUTH), NAMES).answers.shape == (6, 0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("other", [1, 2, 3, 4]),
        ("lost", [1, 4]),
        ("gained", [2]),
        ("swapped", [3]),
        ("split", [1, 2, 3, 4]),
        ("wrong", [3, 5]),
        ("same", [0, 5]),
        ("all", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_kinds(found: Answers, kind: str, expected: list[int]) -> None:
    assert positions(found, kind=kind) == expected
    assert disagreements.counts(found, Wanted(), 0, (1, 2))[kind] == len(expected)  # type: ignore[index]


def test_every_kind_is_tested(found: Answers) -> None:
    assert disagreements.kinds(found, [1, 2]) == list(KINDS)
    assert "split" not in disagreements.kinds(found, [1])


def test_a_reference_other_than_the_baseline(found: Answers) -> None:
    assert disagreements.chosen(found, Wanted("lost"), 2, [1]).tolist() == [1]
    assert disagreements.chosen(found, Wanted("swapped"), 2, [1]).tolist() == [3, 4]


def test_conditions_hold_together(found: Answers) -> None:
    assert positions(found, kind="other", label=2) == [3, 4]
    assert positions(found, kind="other", was=0) == [1, 2]
    assert positions(found, kind="other", said=1) == [1, 2, 4]
    assert positions(found, kind="other", said=0) == [3, 4]
    assert positions(found, kind="all", among=np.array([5, 1, 999])) == [1, 5]
    assert positions(found, kind="all", among=np.array([], np.int64)) == []
    assert positions(found, kind="all", label=0, was=0, said=1) == [1]


def test_the_answer_belongs_to_the_variant_that_flips(found: Answers) -> None:
    """Text 4: both lose it, INT8 to Sports, NF4 to World; text 1: INT8 alone, though NF4 says World."""
    assert positions(found, kind="lost", said=0) == [4]


def test_counts_by_variant_add_up(found: Answers) -> None:
    each = disagreements.by_variant(found, 0, [1, 2])
    assert each == [
        {"other": 4, "lost": 2, "gained": 1, "swapped": 1},
        {"other": 1, "lost": 1, "gained": 0, "swapped": 0},
    ]


def test_of_many_those_that_differ_most_are_foremost(found: Answers) -> None:
    assert disagreements.foremost(found, 0, [1, 2], 2) == [1, 2]
    assert disagreements.foremost(found, 0, [2, 1], 1) == [1], "it differs on four texts, the other on one"
    assert disagreements.foremost(found, 0, [2, 1, 2], 2) == [2, 1]


def test_confusion(found: Answers) -> None:
    assert disagreements.confusion(found, 1, None).tolist() == [[1, 1, 0], [0, 1, 1], [1, 1, 0]]
    against = disagreements.confusion(found, 1, 0)
    assert against.tolist() == quality.confusion(np.array(BASE), np.array(INT8), 3).tolist()


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        (
            [1],
            "INT8 answers 4 of 6 texts otherwise than FP32: 2 right to wrong, 1 wrong to right, "
            "1 wrong to another wrong",
        ),
        ([2, 1], "On 4 of 6 texts at least one of 2 variants answers otherwise than FP32: 4 by INT8 and 1 by NF4"),
        (
            [2, 1, 0],
            "On 4 of 6 texts at least one of 3 variants answers otherwise than FP32: 4 by INT8, 1 by NF4 and none by "
            "the other",
        ),
        ([0], "FP32 answers all 6 texts as FP32 does"),
        ([], "No variant is compared with FP32"),
    ],
)
def test_headlines(found: Answers, others: list[int], sentence: str) -> None:
    assert disagreements.headline(found, {0: "FP32", 1: "INT8", 2: "NF4"}, 0, others) == sentence
