"""The PowerPoint deck, opened again."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from dashboard_fill import CANCELLED, FAILED, FULL, RUNNING, SIZES, UNLABELLED
from pptx import Presentation
from pptx.oxml.ns import qn

from dashboard import data, frame
from dashboard.export import deck


def opened(run_id: str) -> Presentation:
    summary = data.run(run_id)
    return Presentation(io.BytesIO(deck.build(summary, data.measurements(summary), data.published())))


def charts(presentation: Presentation) -> list:
    return [shape.chart for slide in presentation.slides for shape in slide.shapes if shape.has_chart]


@pytest.fixture
def made(database: str) -> Presentation:
    return opened(FULL)


def test_wide_slides_with_findings_as_titles(made: Presentation) -> None:
    assert made.slide_width / made.slide_height == pytest.approx(16 / 9, rel=1e-3)
    titles = [slide.shapes.title.text for slide in made.slides]
    assert titles[0].startswith("Student FP32 answers")
    assert all(titles) and len(made.slides) == 8


def test_every_slide_says_device_n_and_interval_and_carries_the_method(made: Presentation) -> None:
    for slide in made.slides:
        texts = " ".join(shape.text_frame.text for shape in slide.shapes if shape.has_text_frame)
        assert "Test CPU <4> & co" in texts and "n = 200 examples" in texts and "interval" in texts
        notes = slide.notes_slide.notes_text_frame.text
        assert "Method." in notes and FULL in notes


def test_charts_and_tables_have_text_alternatives(made: Presentation) -> None:
    for slide in made.slides:
        for shape in slide.shapes:
            if shape.has_chart or shape.has_table:
                assert shape._element.xpath(".//p:cNvPr")[0].get("descr")


def test_native_charts_hold_the_databases_figures(made: Presentation, full: pd.DataFrame) -> None:
    found = charts(made)
    assert len(found) == 6
    rows = [row for row in frame.rows_of(full) if row["latency_p50_s"] is not None]
    latency = found[1].plots[0]
    assert list(latency.categories) == [row["title"] for row in rows]
    assert list(latency.series[0].values) == pytest.approx([row["latency_p50_s"] * 1e3 for row in rows])


def test_error_bars_reach_the_intervals(made: Presentation, full: pd.DataFrame) -> None:
    series = charts(made)[1].plots[0].series[0]._element
    bars = series.find(qn("c:errBars"))
    order = [child.tag for child in series]
    assert order.index(qn("c:errBars")) < order.index(qn("c:cat")), "the schema's order of elements"
    plus = [float(v.text) for v in bars.find(qn("c:plus")).iter(qn("c:v"))]
    rows = [row for row in frame.rows_of(full) if row["latency_p50_s"] is not None]
    assert plus == pytest.approx([1e3 * (row["latency_p50_high_s"] - row["latency_p50_s"]) for row in rows])


def test_log_axes(made: Presentation) -> None:
    scaling = charts(made)[1].value_axis._element.find(qn("c:scaling"))
    assert scaling[0].tag == qn("c:logBase")


def test_the_longest_series_of_a_scatter_is_first(made: Presentation) -> None:
    lengths = [len(list(series.values)) for series in charts(made)[0].plots[0].series]
    assert lengths[0] == max(lengths) > 1


@pytest.mark.parametrize("run_id", [SIZES, UNLABELLED, RUNNING, CANCELLED, FAILED])
def test_every_kind_of_run_becomes_a_deck(run_id: str, database: str) -> None:
    assert len(opened(run_id).slides) >= 1
