"""The figures of the database as pages take them: none invented, none lost."""

from __future__ import annotations

import pytest
from dashboard_fill import FULL, SIZES

from dashboard import run_rows
from dashboard.data import reads
from engine.store import measurements, open_store


def test_the_rows_hold_what_the_database_holds(full: list[run_rows.Row], filled: str) -> None:
    with open_store(filled) as store, store.session() as session:
        stored = measurements.rows(session, FULL)
    assert [row.to_json() for row in full] == [row.to_json() for row in stored]
    assert [row.id for row in full] == [row.id for row in stored]


def test_what_was_not_measured_stays_none(full: list[run_rows.Row]) -> None:
    failed = full[7]
    assert failed.status == "failed"
    assert all(failed.figure(key) is None for key in ("latency_p50_s", "latency_p50_low_s", "accuracy", "memory_bytes"))


def test_intervals_hold_their_estimates(full: list[run_rows.Row]) -> None:
    for row in full:
        if row.status == "measured":
            assert row.latency_p50_low_s < row.latency_p50_s < row.latency_p50_high_s
            assert row.throughput_samples_per_s_low < row.throughput_samples_per_s
            assert row.throughput_samples_per_s < row.throughput_samples_per_s_high


def test_accuracy_is_compared_on_the_same_examples(full: list[run_rows.Row]) -> None:
    rows = {row.variant: row for row in full}
    assert rows["student"].accuracy_comparison == "worse"
    assert rows["onnx"].accuracy_comparison == "no_difference"
    assert rows["onnx"].accuracy_difference == 0
    assert rows["onnx"].accuracy_difference_low < 0 < rows["onnx"].accuracy_difference_high
    expected = rows["student"].accuracy - rows["fp32"].accuracy
    assert rows["student"].accuracy_difference == pytest.approx(expected)
    assert rows["sst2"].accuracy_comparison is None


def test_one_batch_size_at_a_time(database: str) -> None:
    everything = reads.measurements(reads.run(SIZES))
    assert len(everything) == 9
    shown = run_rows.at_batch(everything, 8)
    assert {row.batch_size for row in shown} == {8} and all(row.name == row.title for row in shown)
    assert "DistilBERT FP32 @ 32" in {row.name for row in everything}


def test_the_front_holds_what_nobody_beats(full: list[run_rows.Row]) -> None:
    front = [row.variant for row in run_rows.pareto(full, "latency_p50_s", "accuracy")]
    assert front[0] == "student" and "int8" in front and "nf4" not in front
    assert "bf16" not in front, "an invalid row must not count"
