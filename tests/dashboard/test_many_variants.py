"""A run of more variants, with longer names, than a chart or a reader takes at once."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from dashboard_fill import FULL
from pptx import Presentation
from pptx.enum.chart import XL_CHART_TYPE

from dashboard import figures, run_rows, style
from dashboard.data import reads
from dashboard.export import deck
from dashboard.export import slides as export_slides
from dashboard.figures import base
from dashboard.findings import deciding, headlines
from dashboard.findings.settings import Setting
from dashboard.tables import comparison

LONG = "OpenVINO INT8, FP32 where unsure, first token alone, sorted"


@pytest.fixture
def many(full: list[run_rows.Row]) -> list[run_rows.Row]:
    """36 variants of two batch sizes, each with a name of about 60 letters; the last is the fastest."""
    first = full[0]
    rows = []
    for at in range(36):
        size = 32 if at % 2 else 8
        faster = {
            "variant": f"v{at}", "title": f"{LONG} {at}", "name": f"{LONG} {at} @ {size}", "batch_size": size,
            "baseline": at == 0, "published": None, "speedup": 1.0 + at / 100,
            "latency_p50_s": size / (1000.0 + 10 * at),
            "throughput_samples_per_s": 1000.0 + 10 * at, "throughput_samples_per_s_low": None,
            "throughput_samples_per_s_high": None, "latency_p50_low_s": None, "latency_p50_high_s": None,
        }  # fmt: skip
        rows.append(replace(first, **faster))
    return rows


@pytest.mark.parametrize("make", [figures.latency, figures.throughput, figures.memory, figures.accuracy])
def test_long_names_leave_a_chart_most_of_its_width(make, many: list[run_rows.Row]) -> None:
    figure = make(many, style.LIGHT)
    # The narrowest column of a page is 520 px wide.
    assert figure.layout.margin.l + figure.layout.margin.r < 0.8 * 520
    for name, shown in zip([row.name for row in many], figure.layout.yaxis.ticktext, strict=True):
        lines = shown.split("<br>")
        assert len(lines) <= 2 and all(len(line) <= base.NAME for line in lines)
        # What tells it from the others is kept, and a size stays with its sign.
        assert lines[-1].replace("\u00a0", " ").endswith(" ".join(name.split()[-3:]))
        assert "…" in shown and name.startswith(lines[0].rstrip(" …"))


def test_where_batches_differ_the_time_a_text_is_compared(many: list[run_rows.Row]) -> None:
    figure = figures.tradeoff(many, style.LIGHT)
    assert figure.layout.xaxis.title.text == "Time a text (ms, log scale)"
    at = {trace.name: trace for trace in figure.data}
    for row in many:
        assert at[row.name].x[0] == pytest.approx(1e3 / row.throughput_samples_per_s)
    # All are equally accurate, so that the fastest alone is not beaten.
    solid = [name for name, trace in at.items() if trace.marker.color != style.LIGHT.background]
    assert solid == [f"{LONG} 35 @ 32"]
    assert figure.layout.title.text.replace("<br>", " ").startswith(f"No measured time a text is lower than {LONG} 35")


def test_a_decision_between_unlike_batches_is_drawn_by_the_time_a_text(many: list[run_rows.Row]) -> None:
    rows = many
    free = figures.decision(deciding.decide(rows, deciding.Limits()), style.LIGHT, "memory_bytes")
    assert free.layout.xaxis.title.text == "Time a text (ms, log scale)"
    assert "as batches of 8, 32 take different times" in free.layout.title.subtitle.text.replace("<br>", " ")
    # A limit on latency stands where latency does.
    held = figures.decision(deciding.decide(rows, deciding.Limits(latency_p95_s=0.05)), style.LIGHT, "memory_bytes")
    assert held.layout.xaxis.title.text == "Latency of a batch, p95 (ms, log scale)"


def test_the_fastest_of_many_are_told_first(many: list[run_rows.Row]) -> None:
    rows = many
    assert [row.variant for row in headlines.ranked(rows)[:2]] == ["v35", "v34"]
    assert headlines.ranked(rows[: headlines.MANY]) == rows[: headlines.MANY], "few stay in the suite's order"


def test_a_setting_of_many_variants_names_the_first_and_keeps_the_rest_as_a_tooltip() -> None:
    names = [f"variant {at}" for at in range(20)]
    table = comparison.settings([Setting("variant", "precision", [("int8", names), ("fp32", names[:2])])])
    text = re.sub(r"<[^>]+>", " ", table)
    assert "variant 7 and 12 more" in text and "variant 8" not in text and "variant 0, variant 1" in text
    assert "variant 19" in table


def test_slides_of_many_show_the_foremost_and_name_the_rest_in_their_notes(
    many: list[run_rows.Row], database: str
) -> None:
    slides = Presentation(io.BytesIO(deck.build(reads.run(FULL), many, reads.published()))).slides
    charts = {}
    for slide in slides:
        for shape in slide.shapes:
            if shape.has_chart and shape.chart.chart_type == XL_CHART_TYPE.LINE_MARKERS:
                charts[slide.shapes.title.text] = (slide, shape.chart)
    assert len(slides) < 20 and charts
    for slide, chart in charts.values():
        names = list(chart.plots[0].categories)
        assert len(names) == len(set(names)) == export_slides.COLUMNS
        notes = slide.notes_slide.notes_text_frame.text
        assert notes.count(f"{LONG} ") >= 36 - export_slides.COLUMNS and "Not on the chart: " in notes
        (foot,) = [shape.text_frame.text for shape in slide.shapes if shape.name == export_slides.FOOTER]
        assert f"{export_slides.COLUMNS} of 36 variants, the rest in the notes" in foot
    tables = [shape.table for slide in slides for shape in slide.shapes if shape.has_table]
    named = [row.cells[0].text for table in tables for row in list(table.rows)[1:]]
    assert len(named) == len(set(named)) == 36, "no two have one name"
