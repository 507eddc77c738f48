"""The knee of a sweep over batch sizes, its best throughput, and one text alone."""

from __future__ import annotations

from typing import Any

from row_builder import stored_row

from engine.report import sweep, tables
from engine.store.rows import Row


def row(size: int, rate: float | None, high: float | None = None, **more: Any) -> Row:
    figures = {
        "batch_size": size,
        "throughput_samples_per_s": rate,
        "throughput_samples_per_s_high": high,
        "latency_p50_s": size / rate if rate else None,
    }
    return stored_row(**{"variant": "a", "title": "A"} | figures | more)


def test_the_knee_is_the_smallest_batch_that_may_be_near_the_best():
    found = sweep.sweep([row(32, 100.0, 102.0), row(1, 40.0, 41.0), row(8, 93.0, 96.0), row(16, 97.0, 99.0)])
    assert found is not None and found.single is not None
    assert [r.batch_size for r in (found.best, found.knee, found.single)] == [32, 8, 1]
    # Without an interval, or with a narrower one, 93% is not near enough.
    narrow = sweep.sweep([row(8, 93.0), row(16, 97.0), row(32, 100.0)])
    assert narrow is not None and narrow.knee.batch_size == 16 and narrow.single is None


def test_throughput_that_falls_again_has_its_best_in_the_middle():
    found = sweep.sweep([row(1, 50.0), row(8, 100.0), row(64, 70.0)])
    assert found is not None and found.best.batch_size == found.knee.batch_size == 8


def test_one_batch_size_or_figures_that_do_not_hold_make_no_sweep():
    assert sweep.sweep([row(8, 10.0)]) is None
    assert sweep.sweep([row(8, 10.0), row(16, None)]) is None
    assert sweep.sweep([row(8, 10.0), row(16, 99.0, validity="invalid")]) is None


def test_each_variant_is_said_in_one_sentence():
    other = {"variant": "b", "title": "B"}
    rows = [row(1, 40.0), row(8, 96.0), row(32, 100.0), row(1, 30.0, **other), row(8, 90.0, **other)]
    said = [found.sentence() for found in sweep.sweeps(rows)]
    assert said == [
        "A: most samples/s (100) at batch 32; the knee is at 8 (96% of it, 83.3 instead of 320 ms a call); "
        "one text alone takes 25.0 ms",
        "B: most samples/s (90.0) at batch 8; one text alone takes 33.3 ms",
    ]
    assert tables.sweeps is sweep.sweeps  # `show` says them among its notes
