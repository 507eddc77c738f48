"""Sentences: none calls a winner that the statistics do not show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dashboard import figures, run_rows, style
from dashboard.findings import headlines
from engine import units
from engine.measurement import labels
from engine.report import takeaways


@pytest.fixture
def rows(full: list[run_rows.Row]) -> list[run_rows.Row]:
    return full


def changed(rows: list[run_rows.Row], variants: list[str], **values: Any) -> list[run_rows.Row]:
    return [replace(row, **values) if row.variant in variants else row for row in rows]


def test_the_headline_names_gain_and_cost(rows: list[run_rows.Row]) -> None:
    said = headlines.headline(rows)
    assert said.finding.startswith("Student FP32 answers 4.9") or said.finding.startswith("Student FP32 answers 5.0")
    assert "loses" in said.finding and "points of accuracy" in said.finding
    assert "Without a shown loss of accuracy: ONNX INT8, 2." in said.detail


def test_no_winner_where_the_interval_includes_one(rows: list[run_rows.Row]) -> None:
    only = changed([rows[0], rows[3]], ["onnx"], comparison="no_difference")
    assert headlines.headline(only).finding == "No variant is shown to be faster than DistilBERT FP32."
    assert headlines.throughput_title(only) == "No speed-up over DistilBERT FP32 is shown"
    assert headlines.latency_title(only).startswith("No variant is shown")


def test_all_slower_is_said(rows: list[run_rows.Row]) -> None:
    said = headlines.headline([rows[0], rows[1]])
    assert said.finding == "No variant is faster than DistilBERT FP32: DistilBERT 4-bit is slower."


def test_an_invalid_row_never_wins(rows: list[run_rows.Row]) -> None:
    fast = changed(rows, ["bf16"], speedup=50.0, speedup_low=45.0, speedup_high=55.0, comparison="better")
    assert "BF16" not in headlines.headline(fast).finding


def test_without_a_usable_baseline(rows: list[run_rows.Row]) -> None:
    broken = changed(rows, ["fp32"], status="failed", status_reason="out of memory")
    said = headlines.headline(broken)
    assert "gave nothing to compare with" in said.finding and "out of memory" in said.detail


def test_nothing_measured_groups_the_reasons(rows: list[run_rows.Row]) -> None:
    none = [replace(row, status="cancelled", status_reason="stopped") for row in rows[:3]]
    said = headlines.headline(none)
    assert said.finding == "Nothing was measured in this run."
    assert said.detail == "DistilBERT FP32, DistilBERT 4-bit and Student FP32: cancelled (stopped)"


def test_a_run_under_way_has_not_failed_to_measure(rows: list[run_rows.Row]) -> None:
    waiting = [replace(row, status="pending", status_reason=None) for row in rows[:3]]
    assert headlines.headline(waiting).finding == "Nothing has been measured yet."


def test_notes_name_every_doubt(rows: list[run_rows.Row]) -> None:
    kinds = {(name, kind) for name, kind, _ in headlines.notes(rows)}
    assert ("BF16 that is not", "invalid") in kinds
    assert ("DistilBERT 4-bit", "unstable") in kinds
    assert ("SST-2 head", "no accuracy") in kinds
    assert ("SST-2 head", "index match") in kinds
    assert ("DistilBERT TF32", "unavailable") in kinds
    assert any("27.5%" in text and "measures nothing" in text for _, _, text in headlines.notes(rows))


def test_notes_name_labels_that_cannot_be_right(rows: list[run_rows.Row]) -> None:
    flag = {"kind": "permuted", "sentence": "the labels look permuted", "figures": {}}
    flagged = changed(rows, ["student"], quality={"flags": [flag]})
    assert ("Student FP32", "labels", "the labels look permuted") in headlines.notes(flagged)


def test_of_random_weights_no_answer_is_praised(rows: list[run_rows.Row]) -> None:
    known = {"accuracy": None, "accuracy_difference": None, "accuracy_comparison": None, "flips": 3}
    random = [
        replace(row, **known, accuracy_reason=labels.RANDOM_WEIGHTS, random_weights=True, index_match_rate=0.25)
        for row in rows
    ]
    assert headlines.headline(random).finding.endswith("; its weights are random, so its answers say nothing.")
    assert not any(item.kind == "answers" for item in takeaways.takeaways(random))
    assert not any(kind == "index match" for _, kind, _ in headlines.notes(random))
    measured = [row for row in random if row.status == "measured"]
    everyone = f"All {len(measured)} that were measured"
    assert (everyone, "no accuracy", labels.RANDOM_WEIGHTS) in headlines.notes(random)
    assert headlines.accuracy_title(random).endswith("as the baseline does, all of random weights")
    figure = figures.tradeoff(random, style.LIGHT)
    assert "memory" in figure.layout.title.text and figure.layout.yaxis.title.text == "Peak RAM (MB)"


def test_a_baseline_alone_is_not_the_best_of_anything(rows: list[run_rows.Row]) -> None:
    assert headlines.latency_title(rows[:1]) == "Latency of a batch"
    assert headlines.tradeoff_title(rows[:1], "accuracy") == "Latency and accuracy: nothing to compare"


@pytest.mark.parametrize(
    ("gain", "more", "less", "end"),
    [
        ("accuracy", 0.91, 0.90, "accuracy higher"),
        ("agreement", 0.91, 0.90, "agreement higher"),
        ("saved_bytes", -90, -91, "memory lower"),
    ],
)
def test_the_front_is_of_what_was_measured_and_calls_nobody_best(
    rows: list[run_rows.Row], gain: str, more: float, less: float, end: str
) -> None:
    """Two variants whose intervals overlap: the one is ahead in both figures, or each in one, by next to nothing."""

    def at(row: run_rows.Row, latency_p50_s: float, value: float) -> run_rows.Row:
        figure = {"memory_bytes": -value} if gain == "saved_bytes" else {gain: value}
        return replace(row, latency_p50_s=latency_p50_s, **figure)

    one, other = at(rows[3], 0.0100, more), at(rows[0], 0.0101, less)
    alone = headlines.tradeoff_title([one, other], gain)
    assert alone == f"No measured latency is lower than ONNX FP32's, and no measured {end}"
    # As good in one of them: still true.
    assert headlines.tradeoff_title([one, at(other, 0.0101, more)], gain) == alone
    several = headlines.tradeoff_title([at(one, 0.0100, less), at(other, 0.0101, more)], gain)
    assert several == f"Not beaten in both latency and {end.split()[0]}, as measured: ONNX FP32 and DistilBERT FP32"
    for title in (alone, several):
        assert not any(word in title for word in ("fastest", "lowest", "highest", "best "))


def test_latencies_of_other_batch_sizes_are_no_match(rows: list[run_rows.Row]) -> None:
    larger = [row if row.baseline else replace(row, batch_size=256) for row in rows[:4]]
    assert headlines.latency_title(larger) == "Latency of batches of 8 and 256 texts, which cannot be compared"
    assert headlines.tradeoff_title(larger, "accuracy").startswith("Not beaten in both time a text and accuracy, as ")
    assert "samples/s as DistilBERT FP32 @ 8 (" in headlines.headline(larger).finding
    figure = figures.tradeoff(larger, style.LIGHT)
    assert "1 / (samples/s), as batches of 8, 256" in figure.layout.title.subtitle.text.replace("<br>", " ")
    assert figure.layout.xaxis.title.text == "Time a text (ms, log scale)"
    at = {trace.name: trace for trace in figure.data}
    for row in larger:
        assert at[row.name].x[0] == pytest.approx(1e3 / row.throughput_samples_per_s)
    front = at["Pareto front"]
    assert list(front.x) == sorted(front.x) and list(front.y) == sorted(front.y) and len(front.x) > 1


def test_what_is_told_of_a_variant_names_it_once() -> None:
    said = {"answers twice as many.": "A", "needs half.": "A", "is slower.": "B"}
    items = [takeaways.Takeaway("speed", name, f"{name} {rest}", predicate=rest) for rest, name in said.items()]
    items.insert(2, takeaways.Takeaway("batching", "A", "A's answers vary."))
    assert headlines.told(items) == ["A answers twice as many. It needs half. A's answers vary.", "B is slower."]


def test_energy_names_the_least(rows: list[run_rows.Row]) -> None:
    spent = [replace(row, energy_j_per_1000_examples=161.0 if row.baseline else 22.4) for row in rows[:2]]
    assert headlines.energy_title(spent) == (
        "DistilBERT 4-bit takes the least energy, 22.4 J for 1,000 texts; DistilBERT FP32 161 J"
    )
    none = [replace(row, energy_j_per_1000_examples=None) for row in rows]
    assert headlines.energy_title(none) == "Energy was not measurable in this run"
    figure = figures.energy(spent + none[2:], style.DARK)
    assert figure.layout.xaxis.type == "log" and len(figure.data) == 2


def test_points_have_no_negative_zero() -> None:
    assert units.points(-0.0001) == "0.0"
    assert units.points(-0.012) == "−1.2"


def test_literal_text_is_no_markup() -> None:
    assert headlines.literal("a_b $x$ [y]") == r"a\_b \$x\$ \[y\]"
