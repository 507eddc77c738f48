"""Many texts in batches, and their answers as one."""

from __future__ import annotations

from typing import Any

import pytest

from engine.classify import answering
from engine.classify.answering import Answer
from engine.errors import RequestError


def part(labels: list[str], latency_s: float | None = None, **columns: Any) -> Answer:
    timing = {} if latency_s is None else {"latency_s": latency_s, "latency_range_s": [latency_s, latency_s * 2]}
    values: dict[str, Any] = {
        "labels": labels,
        "probabilities": [{label: 1.0} for label in labels],
        "shape": [len(labels), 7],
        "truncated": [False] * len(labels),
        "agrees": [True] * len(labels),
        "tokenize_s": None if latency_s is None else latency_s / 10,
    }
    return Answer("a", "A", "measured", **(values | timing | columns))


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [([1], [1]), ([1] * 32, [32]), ([1] * 65, [32, 32, 1]), ([600_000] * 3, [1, 1, 1]), ([1_000_000, 1], [1, 1])],
)
def test_batches_hold_few_texts_and_few_bytes(sizes: list[int], parts: list[int]) -> None:
    texts = [f"{index % 10}" * size for index, size in enumerate(sizes)]
    made = answering.batches(texts)
    assert [len(batch) for batch in made] == parts
    assert [text for batch in made for text in batch] == texts


def test_batches_are_joined_in_order() -> None:
    whole = answering.joined([part(["x", "y"], 1.0), part(["z"], 3.0, shape=[1, 9], agrees=[False], note="busy")])
    assert whole.labels == ["x", "y", "z"] and whole.probabilities == [{"x": 1.0}, {"y": 1.0}, {"z": 1.0}]
    assert whole.agrees == [True, True, False] and whole.truncated == [False] * 3
    assert whole.latency_s == 2.0 and whole.latency_range_s == [1.0, 6.0] and whole.tokenize_s == pytest.approx(0.2)
    assert whole.shape == [2, 9] and whole.note == "busy"


def test_untimed_and_incomparable_batches() -> None:
    whole = answering.joined([part(["x"]), part(["y"], agrees=None)])
    assert whole.latency_s is None and whole.latency_range_s is None and whole.agrees is None


def test_answers_end_with_the_batch_that_failed() -> None:
    failed = Answer("a", "A", "failed", "out of memory")
    whole = answering.joined([part(["x"], 1.0), failed, part(["z"], 1.0)])
    assert whole.labels == ["x"] and whole.status == "failed" and whole.reason == "out of memory"
    assert answering.joined([failed]) is failed


def test_limits_can_be_others() -> None:
    answering.check_texts(["x"] * 300, 300)
    with pytest.raises(RequestError, match="1,001 texts are too many at once; allowed: up to 1,000"):
        answering.check_texts(["x"] * 1001, 1000)
    answering.check_texts(["x" * 600_000] * 3, 3, 5_000_000)
