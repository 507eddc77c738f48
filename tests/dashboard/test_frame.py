"""The figures of the database as pages take them: none invented, none lost."""

from __future__ import annotations

import pandas as pd
import pytest
from dashboard_fill import FULL, SIZES

from dashboard import frame
from dashboard.data import reads
from engine.store import measurements, open_store


def test_the_frame_holds_what_the_database_holds(full: pd.DataFrame, filled: str) -> None:
    with open_store(filled) as store, store.session() as session:
        stored = [measurements.flat(row) for row in measurements.measurements(session, FULL)]
    rows = frame.rows_of(full)
    assert [{key: row[key] for key in stored[0]} for row in rows] == stored


def test_what_was_not_measured_stays_none(full: pd.DataFrame) -> None:
    failed = frame.rows_of(full)[7]
    assert failed["status"] == "failed"
    assert all(failed[key] is None for key in ("latency_p50_s", "latency_p50_low_s", "accuracy", "memory_bytes"))


def test_intervals_hold_their_estimates(full: pd.DataFrame) -> None:
    for row in frame.rows_of(full):
        if row["status"] == "measured":
            assert row["latency_p50_low_s"] < row["latency_p50_s"] < row["latency_p50_high_s"]
            assert row["throughput_samples_per_s_low"] < row["throughput_samples_per_s"]
            assert row["throughput_samples_per_s"] < row["throughput_samples_per_s_high"]


def test_accuracy_is_compared_on_the_same_examples(full: pd.DataFrame) -> None:
    rows = {row["variant"]: row for row in frame.rows_of(full)}
    assert rows["student"]["accuracy_comparison"] == "worse"
    assert rows["onnx"]["accuracy_comparison"] == "no_difference"
    assert rows["onnx"]["accuracy_difference"] == 0
    assert rows["onnx"]["accuracy_difference_low"] < 0 < rows["onnx"]["accuracy_difference_high"]
    expected = rows["student"]["accuracy"] - rows["fp32"]["accuracy"]
    assert rows["student"]["accuracy_difference"] == pytest.approx(expected)
    assert rows["sst2"]["accuracy_comparison"] is None


def test_one_batch_size_at_a_time(database: str) -> None:
    everything = reads.measurements(reads.run(SIZES))
    assert len(everything) == 9
    shown = frame.at_batch(everything, 8)
    assert set(shown["batch_size"]) == {8} and set(shown["name"]) == set(shown["title"])
    assert "DistilBERT FP32 @ 32" in set(everything["name"])


def test_the_front_holds_what_nobody_beats(full: pd.DataFrame) -> None:
    front = [row["variant"] for row in frame.pareto(frame.rows_of(full), "latency_p50_s", "accuracy")]
    assert front[0] == "student" and "int8" in front and "nf4" not in front
    assert "bf16" not in front, "an invalid row must not count"
