"""Figures against the database: what they draw, and how."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from dataclasses import replace

import plotly.graph_objects as go
import pytest
from dashboard_fill import FAILED, SIZES, UNLABELLED

from dashboard import figures, run_rows, style
from dashboard.data import reads
from dashboard.figures import base, keeping
from dashboard.figures.memory import parts
from dashboard.tables import comparison, scorecard

SINGLE = (figures.latency, figures.throughput, figures.memory, figures.accuracy, figures.energy, figures.tradeoff)


def value(figure: go.Figure, name: str, axis: str = "x") -> float:
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return trace[axis][0]


@pytest.mark.parametrize("look", [style.LIGHT, style.DARK], ids=lambda look: look.name)
@pytest.mark.parametrize("make", SINGLE, ids=lambda make: make.__name__)
def test_every_figure_brings_its_own_colours(make, look: style.Theme, full: list[run_rows.Row]) -> None:
    figure = make(full, look)
    layout = figure.layout.template.layout
    assert layout.paper_bgcolor == look.background and layout.font.color == look.text
    colours = [t.marker.color for t in figure.data if getattr(t, "marker", None) is not None and t.marker.color]
    assert all(re.fullmatch(r"#[0-9a-f]{6}|rgba\(.*\)", str(colour)) for colour in colours)
    assert figure.layout.title.text and figure.layout.title.subtitle.text


def test_latency_is_the_databases(full: list[run_rows.Row]) -> None:
    figure = figures.latency(full, style.LIGHT)
    for row in full:
        if row.latency_p50_s is not None:
            assert value(figure, row.name) == pytest.approx(row.latency_p50_s * 1e3)
            assert value(figure, f"{row.name}, p95") == pytest.approx(row.latency_p95_s * 1e3)
    assert figure.layout.xaxis.type == "log" and "ms" in figure.layout.xaxis.title.text


def test_throughput_is_the_databases(full: list[run_rows.Row]) -> None:
    figure = figures.throughput(full, style.LIGHT)
    for row in full:
        if row.throughput_samples_per_s is not None:
            assert value(figure, row.name) == pytest.approx(row.throughput_samples_per_s)


def test_accuracy_has_wilsons_interval(full: list[run_rows.Row]) -> None:
    figure = figures.accuracy(full, style.LIGHT)
    row = full[0]
    (trace,) = [trace for trace in figure.data if trace.name == row.name]
    assert trace.x[0] == pytest.approx(100 * row.accuracy)
    assert trace.x[0] + trace.error_x.array[0] == pytest.approx(100 * row.accuracy_high)
    assert trace.x[0] - trace.error_x.arrayminus[0] == pytest.approx(100 * row.accuracy_low)
    assert any("no accuracy" in note.text for note in figure.layout.annotations)


def test_parts_of_memory_add_up_to_the_peak(full: list[run_rows.Row]) -> None:
    figure = figures.memory(full, style.LIGHT)
    for row in full:
        if row.memory_bytes is not None:
            assert sum(parts(row).values()) == row.memory_bytes
            drawn = [t.x[0] for t in figure.data if t.name.startswith(f"{row.name}, ")]
            assert sum(drawn) == pytest.approx(row.memory_bytes / 1e6)


def test_hollow_says_not_valid_or_dominated(full: list[run_rows.Row]) -> None:
    marks = {trace.name: trace.marker for trace in figures.tradeoff(full, style.LIGHT).data}
    assert marks["Student FP32"].color != style.LIGHT.background
    assert marks["DistilBERT 4-bit"].color == style.LIGHT.background
    assert marks["BF16 that is not"].color == style.LIGHT.background
    assert "SST-2 head" not in marks


def test_the_tradeoff_names_its_n(full: list[run_rows.Row]) -> None:
    assert "n = 200 examples." in figures.tradeoff(full, style.LIGHT).layout.title.subtitle.text.replace("<br>", " ")


def test_the_tradeoff_of_unlabelled_text_shows_agreement(database: str) -> None:
    measured = reads.measurements(reads.run(UNLABELLED))
    figure = figures.tradeoff(measured, style.LIGHT)
    assert "Same answer" in figure.layout.yaxis.title.text
    row = measured[2]
    assert value(figure, row.name, "y") == pytest.approx(100 * row.agreement)


def test_published_stands_as_ratios_to_its_own_baseline(full: list[run_rows.Row], database: str) -> None:
    pairs = figures.pairs(full, reads.published())
    assert len(pairs) == 5
    figure = figures.published(full, reads.published(), style.LIGHT)
    speed = {trace.name: trace.x[0] for trace in figure.data if trace.xaxis == "x" and trace.name}
    assert speed["Student FP32, published"] == pytest.approx(0.044 / 0.0048)
    assert speed["ONNX INT8, published"] == pytest.approx(0.044 / 0.089)
    row = full[4]
    assert speed["ONNX INT8, measured"] == pytest.approx(row.speedup)
    assert "chance" in figure.layout.title.subtitle.text.replace("<br>", " ")


def test_over_batch_size(database: str) -> None:
    measured = reads.measurements(reads.run(SIZES))
    figure = figures.over_batch_size(measured, style.LIGHT)
    lines = {trace.name: trace for trace in figure.data if trace.name}
    assert list(lines["DistilBERT FP32"].x) == [1, 8, 32]
    rows = [row for row in measured if row.variant == "fp32"]
    assert list(lines["DistilBERT FP32"].y) == pytest.approx([row.throughput_samples_per_s for row in rows])
    # A star at the best and a ring at the knee of every variant, on its line.
    stars, rings = ([t for t in figure.data if t.marker.symbol == symbol] for symbol in ("star", "circle-open"))
    assert len(stars) == len(rings) == len(lines)
    assert stars[0].y[0] == pytest.approx(max(row.throughput_samples_per_s for row in rows))
    latency = figures.over_batch_size(measured, style.LIGHT, "latency_p50_s")
    assert not [t for t in latency.data if t.marker.symbol == "star"] and "knee" not in str(latency.layout.title)


@pytest.mark.parametrize("make", [*SINGLE, figures.over_batch_size], ids=lambda make: make.__name__)
def test_a_run_without_any_measurement_draws_without_error(make, database: str) -> None:
    assert make(reads.measurements(reads.run(FAILED)), style.LIGHT).to_json()


def test_titles_are_text_and_not_markup(full: list[run_rows.Row]) -> None:
    shown = figures.latency(full, style.LIGHT).layout.yaxis.ticktext
    assert "A &lt;b&gt;model&lt;/b&gt; that fails" in shown
    assert "A &lt;b&gt;model&lt;/b&gt; that fails" in scorecard.scorecard(full, style.LIGHT)


def test_hue_says_technique_and_marker_runtime(full: list[run_rows.Row]) -> None:
    marks = style.marks(full, style.LIGHT)
    assert marks["fp32"].technique == "baseline" and marks["fp32"].symbol == "circle"
    assert marks["nf4"].technique == "four-bit" and marks["nf4"].symbol == "square"
    assert marks["student"].technique == "model"
    assert marks["onnx"].technique == "runtime" and marks["onnx"].symbol == "diamond"
    assert marks["int8"].technique == "eight-bit"
    looks = [(mark.color, mark.symbol) for mark in marks.values()]
    assert len(set(looks)) == len(looks), "two variants look alike"


@pytest.mark.parametrize("look", style.THEMES.values(), ids=lambda look: look.name)
@pytest.mark.parametrize("count", [1, 3, 12, 36])
def test_no_shade_of_a_hue_sinks_into_the_background(count: int, look: style.Theme) -> None:
    assert style.contrast("#ffffff", "#000000") == pytest.approx(21) and style.contrast("#777777", "#777777") == 1
    assert style.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01), "WCAG's own example"
    for hue in look.hues.values():
        shades = style.shades(hue, count, look.background)
        assert shades[0] == hue and len(set(shades)) == count
        assert min(style.contrast(shade, look.background) for shade in shades) >= 2


def test_ticks_have_room_in_a_narrow_chart() -> None:
    assert base.log_axis(150, 15_000)["ticktext"] == ["200", "500", "1,000", "2,000", "5,000", "10,000"]
    assert base.log_axis(150, 15_000, 30)["ticktext"] == ["200", "500", "1k", "2k", "5k", "10k"]
    assert base.log_axis(150, 15_000, base.NARROW)["ticktext"] == ["300", "1k", "3k", "10k"]
    assert base.log_axis(3.2, 9.0, 10)["ticktext"] == base.log_axis(3.2, 9.0)["ticktext"], "no decade lies in it"


def test_one_batch_size_a_variant_is_no_sweep(full: list[run_rows.Row]) -> None:
    rows = full
    other = [row if row.baseline else replace(row, batch_size=256) for row in rows]
    assert not run_rows.swept(other, "throughput_samples_per_s")
    assert run_rows.swept([*rows, replace(rows[0], batch_size=256)], "throughput_samples_per_s")
    figure = figures.over_batch_size(other, style.LIGHT)
    assert figure.layout.title.text == "Throughput over batch size"


def test_what_no_row_has_is_no_column(full: list[run_rows.Row]) -> None:
    rows = full
    none = [replace(row, nll=None, ece=None) for row in rows]
    assert "NLL" in comparison.evidence(rows, style.LIGHT)
    assert "NLL" not in comparison.evidence(none, style.LIGHT) and "Macro F1" in comparison.evidence(none, style.LIGHT)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.3), (3.0, 40.0), (0.02, 9000.0)])
def test_log_ticks_lie_inside_and_suffice(low: float, high: float) -> None:
    ticks = base.log_ticks(low, high)
    assert len(ticks) >= 2 and all(low <= tick <= high for tick in ticks)


def test_a_figure_that_is_asked_for_again_is_not_drawn_again(full: list[run_rows.Row]) -> None:
    first = figures.latency(full, style.LIGHT)
    assert figures.latency(list(full), style.LIGHT) is first
    assert figures.latency(full, style.DARK) is not first and figures.throughput(full, style.LIGHT) is not first
    other = list(full)
    other[0] = replace(other[0], latency_p50_s=2 * other[0].latency_p50_s)
    assert value(figures.latency(other, style.LIGHT), "DistilBERT FP32") == 2 * value(first, "DistilBERT FP32")


def test_a_kept_figure_stays_as_it_is_when_it_is_signed(full: list[run_rows.Row]) -> None:
    figure = figures.latency(full, style.LIGHT)
    before = figure.to_json()
    texts = [keeping.json_of(figure, style.LIGHT, said) for said in ("run A", "run B", "run A")]
    assert [("run A" in text, "run B" in text) for text in texts] == [(True, False), (False, True), (True, False)]
    assert "run A" in base.sign(figure, style.LIGHT, "run A").to_json() and figure.to_json() == before
    assert len(json.loads(texts[0])["layout"]["annotations"]) == len(figure.layout.annotations) + 1


def test_only_the_newest_figures_are_kept(full: list[run_rows.Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MOST", 2)
    monkeypatch.setattr(keeping, "_figures", OrderedDict())
    first = figures.latency(full, style.LIGHT)
    figures.throughput(full, style.LIGHT), figures.energy(full, style.LIGHT)
    assert figures.latency(full, style.LIGHT) is not first and len(keeping._figures) == 2


@pytest.mark.parametrize("make", SINGLE, ids=lambda make: make.__name__)
def test_no_chart_is_drawn_twice_to_find_its_margin(make, full: list[run_rows.Row]) -> None:
    figure = make(full, style.LIGHT)
    assert figure.layout.margin.l > 2 * base.PAD, "room for the ticks is given, not found"
