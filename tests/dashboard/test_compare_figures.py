"""The figures of the page Compare against raw values and rows."""

from __future__ import annotations

import numpy as np
import pytest
from dashboard_fill import FULL, SIZES, UNLABELLED
from test_comparing import compared, evidence_of, sides_of

from dashboard import figures, run_rows, style
from dashboard.figures.ecdf import POINTS, steps
from dashboard.findings import comparing
from engine.measurement import stats


def test_a_distributions_points_are_calls_and_their_shares() -> None:
    latencies = np.random.default_rng(1).lognormal(0, 0.3, 20_000)
    x, y = steps(latencies)
    assert len(x) <= POINTS + 2 and y[0] == 0 and y[-1] == 1 and x[-1] == pytest.approx(latencies.max())
    assert np.isin(x, latencies.astype(np.float32)).all()
    for value, share in zip(x[1:], y[1:], strict=True):
        assert (latencies.astype(np.float32) <= value).mean() == pytest.approx(share, abs=2e-4)
    assert (y > 0.95).sum() > POINTS / 5, "the tail is what p95 and p99 are read from"
    x, y = steps(np.array([3.0, 1.0, 2.0]))
    assert list(x) == [1, 1, 2, 3] and list(y) == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_percentiles_stand_on_the_lines_where_the_calls_carry_them(database: str) -> None:
    sides = sides_of(FULL)
    rows = list(compared(sides, "A/fp32").values())
    raws = evidence_of(sides).raws
    timed = {key: raw.latencies_s() for key, raw in raws.items()}
    figure = figures.ecdf(rows, timed, style.LIGHT)
    traces = {trace.name: trace for trace in figure.data}
    for row in rows:
        if row.status != "measured":
            assert row.name not in traces
            continue
        assert traces[row.name].line.shape == "hv"
        marked = traces[f"{row.name}, percentiles"]
        # 72 calls carry no 99th percentile.
        assert row.calls < stats.PERCENTILE_CALLS[0.99] and list(marked.y) == [50, 95]
        assert list(marked.x) == pytest.approx([row.latency_p50_s * 1e3, row.latency_p95_s * 1e3])
        assert list(marked.marker.symbol) == [style.RUNTIME_SYMBOLS[row.backend], "line-ew"]
        assert (marked.marker.color == style.LIGHT.background) != run_rows.usable(row)
        assert set(marked.marker.line.color) == {traces[row.name].line.color}
        assert [said.split(":")[0] for said in marked.text] == ["p50", "p95"]
    said = figure.layout.title.subtitle.text
    assert "72 calls a variant" in said and "p95" in said and "p99" not in said
    assert figure.layout.title.text.startswith("Student FP32 answers a batch of 8 in")
    assert {note.text for note in figure.layout.annotations} >= {"<b>DistilBERT FP32</b>", "ONNX INT8"}
    assert figure.layout.xaxis.type == "log" and "ms" in figure.layout.xaxis.title.text


def test_runs_are_told_apart_by_dashes_and_no_row_of_another_is_called_sooner(database: str) -> None:
    sides = sides_of(FULL, SIZES)
    rows = list(compared(sides, "A/fp32", names=["B/student"]).values())
    timed = {key: raw.latencies_s() for key, raw in evidence_of(sides).raws.items()}
    figure = figures.ecdf(rows, timed, style.DARK)
    dashes = {trace.name: trace.line.dash for trace in figure.data if trace.mode == "lines"}
    assert dashes == {"DistilBERT FP32 (A)": "solid", "Student FP32 (B)": "dash"}
    assert figure.layout.title.text == "How long the timed calls took"
    speed = figures.speedups(rows, style.DARK)
    assert "Student" not in speed.layout.title.text
    (mark,) = [trace for trace in speed.data if trace.name == "Student FP32 (B) †"]
    assert mark.x[0] == pytest.approx(rows[1].across.ratio)
    assert mark.x[0] - mark.error_x.arrayminus[0] == pytest.approx(rows[1].across.low)
    assert "not paired" in speed.layout.title.subtitle.text.replace("<br>", " ")


def test_differences_are_the_rows(database: str) -> None:
    rows = list(compared(sides_of(FULL), "A/int8").values())
    speed = {trace.name: trace for trace in figures.speedups(rows, style.LIGHT).data}
    accuracy = figures.accuracy_differences(rows, style.LIGHT)
    marks = {trace.name: trace for trace in accuracy.data}
    for row in rows:
        if row.speedup is not None:
            assert speed[row.name].x[0] == pytest.approx(row.speedup)
        if row.accuracy_difference is not None:
            mark = marks[row.name]
            assert mark.x[0] == pytest.approx(100 * row.accuracy_difference)
            assert mark.x[0] + mark.error_x.array[0] == pytest.approx(100 * row.accuracy_difference_high)
    assert "n = 200" in accuracy.layout.title.subtitle.text.replace("<br>", " ")
    assert any(shape.x0 == shape.x1 == 0 for shape in accuracy.layout.shapes), "the line of no difference"
    notes = [note.text for note in accuracy.layout.annotations]
    assert any("−14.0" in note for note in notes) and "<i>baseline</i>" in notes


@pytest.mark.parametrize("look", [style.LIGHT, style.DARK], ids=lambda look: look.name)
def test_figures_without_rows_or_labels_draw_without_error(look: style.Theme, database: str) -> None:
    rows = list(compared(sides_of(UNLABELLED), "A/fp32").values())
    for drawn in (rows, []):
        for figure in (
            figures.ecdf(drawn, {}, look),
            figures.speedups(drawn, look),
            figures.accuracy_differences(drawn, look),
        ):
            assert figure.layout.template.layout.paper_bgcolor == look.background and figure.to_json()


def test_latency_over_batch_size_says_latency(database: str) -> None:
    sides = sides_of(SIZES)
    everything = comparing.tagged(sides)
    rows = list(compared(sides, "A/fp32", sizes=[32]).values())
    frame = comparing.over_sizes(everything, rows)
    figure = figures.over_batch_size(frame, style.LIGHT, "latency_p50_s")
    first, last = (row.latency_p50_s for row in everything if row.plain == "fp32" and row.batch_size in (1, 32))
    assert (
        figure.layout.title.text == f"From batch 1 to 32, DistilBERT FP32 takes {last / first:.2f}× as long for a batch"
    )
    one_size = sides_of(FULL)
    assert comparing.over_sizes(comparing.tagged(one_size), list(compared(one_size, "A/fp32").values())) == []
