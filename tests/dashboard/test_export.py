"""The PowerPoint deck, opened again."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest
from dashboard_fill import CANCELLED, FAILED, FULL, RUNNING, SIZES, UNLABELLED
from pptx import Presentation
from pptx.oxml.ns import qn

from dashboard import run_rows, style
from dashboard.data import reads
from dashboard.export import chart_slides, deck
from dashboard.export import slides as export_slides


def opened(run_id: str, look: style.Theme = style.LIGHT, batch_size: int | None = None) -> Presentation:
    summary = reads.run(run_id)
    measured = reads.measurements(summary)
    made = deck.build(summary, measured, reads.published(), look, batch_size, reads.loads(summary, measured))
    return Presentation(io.BytesIO(made))


def charts(presentation: Presentation) -> list:
    return [shape.chart for slide in presentation.slides for shape in slide.shapes if shape.has_chart]


@pytest.fixture
def made(database: str) -> Presentation:
    return opened(FULL)


def test_wide_slides_with_findings_as_titles(made: Presentation) -> None:
    assert made.slide_width / made.slide_height == pytest.approx(16 / 9, rel=1e-3)
    titles = [slide.shapes.title.text for slide in made.slides]
    assert titles[0].startswith("Student FP32 answers")
    assert all(titles) and len(made.slides) == 14


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


def test_native_charts_hold_the_databases_figures(made: Presentation, full: list[run_rows.Row]) -> None:
    found = charts(made)
    assert len(found) == 10
    rows = [row for row in full if row.latency_p50_s is not None]
    latency = found[1].plots[0]
    assert list(latency.categories) == [row.title for row in rows]
    assert list(latency.series[0].values) == pytest.approx([row.latency_p50_s * 1e3 for row in rows])


def test_under_load_the_highest_rates_stand_beside_the_offline_ones(made: Presentation) -> None:
    (slide,) = [slide for slide in made.slides if "holds 962 texts/s" in slide.shapes.title.text]
    (chart,) = [shape.chart for shape in slide.shapes if shape.has_chart]
    held, offline = chart.plots[0].series
    assert list(held.values) == [153.0, 105.0, 962.0, 157.0, None]
    assert list(offline.values) == [200.0, 150.0, 1100.0, 205.0, 520.0]
    plus = [float(v.text) for v in held._element.find(qn("c:errBars")).find(qn("c:plus")).iter(qn("c:v"))]
    assert plus == [7.0, 10.0, 44.0, 7.0, 0.0], "up to the lowest rate that did not hold"
    assert "SST-2 head: failed under load" in slide.notes_slide.notes_text_frame.text
    assert "Under" not in " ".join(s.shapes.title.text for s in opened(SIZES).slides), "a run without has no such slide"


def test_error_bars_reach_the_intervals(made: Presentation, full: list[run_rows.Row]) -> None:
    series = charts(made)[1].plots[0].series[0]._element
    bars = series.find(qn("c:errBars"))
    order = [child.tag for child in series]
    assert order.index(qn("c:errBars")) < order.index(qn("c:cat")), "the schema's order of elements"
    plus = [float(v.text) for v in bars.find(qn("c:plus")).iter(qn("c:v"))]
    rows = [row for row in full if row.latency_p50_s is not None]
    assert plus == pytest.approx([1e3 * (row.latency_p50_high_s - row.latency_p50_s) for row in rows])


def test_log_axes(made: Presentation) -> None:
    scaling = charts(made)[1].value_axis._element.find(qn("c:scaling"))
    assert scaling[0].tag == qn("c:logBase")


def test_the_longest_series_of_a_scatter_is_first(made: Presentation) -> None:
    lengths = [len(list(series.values)) for series in charts(made)[0].plots[0].series]
    assert lengths[0] == max(lengths) > 1


def texts(slide: object) -> str:
    return " ".join(shape.text_frame.text for shape in slide.shapes if shape.has_text_frame)


def test_takeaways_have_a_slide_that_says_what_is_not_shown(made: Presentation) -> None:
    slides = [slide for slide in made.slides if slide.shapes.title.text.startswith("What this run shows")]
    said = " ".join(map(texts, slides))
    assert slides[0].shapes.title.text == "What this run shows, and what it does not (1 of 2)"
    assert "Student FP32 loses 16.0 points of accuracy" in said
    assert "Not shown: ONNX FP32: no difference in speed" in said


def test_accuracy_differences_stand_with_their_paired_intervals(made: Presentation, full: list[run_rows.Row]) -> None:
    (slide,) = [slide for slide in made.slides if slide.shapes.title.text.startswith("Student FP32 loses 16.0 points")]
    assert slide.shapes.title.text.endswith("no difference is shown for the 4 others")
    (chart,) = [shape.chart for shape in slide.shapes if shape.has_chart]
    rows = [row for row in full if row.accuracy_difference is not None]
    series = chart.plots[0].series[0]
    assert list(series.values) == pytest.approx([100 * row.accuracy_difference for row in rows])
    minus = [float(v.text) for v in series._element.find(qn("c:errBars")).find(qn("c:minus")).iter(qn("c:v"))]
    assert minus == pytest.approx([100 * (r.accuracy_difference - r.accuracy_difference_low) for r in rows])
    assert chart.value_axis.minimum_scale < -20 and chart.value_axis.maximum_scale >= 0


def test_limits_of_the_hardware(made: Presentation, full: list[run_rows.Row]) -> None:
    (slide,) = [slide for slide in made.slides if "what this device was measured to do" in slide.shapes.title.text]
    (chart,) = [shape.chart for shape in slide.shapes if shape.has_chart]
    rows = {row.title: row for row in full if row.limit_share is not None}
    assert sorted(chart.plots[0].series[0].values) == pytest.approx(
        sorted(100 * row.limit_share for row in rows.values())
    )
    assert "It reaches 40% of <b>FP32</b>" in slide.notes_slide.notes_text_frame.text


def test_the_roofline_has_a_line_a_ceiling_and_a_mark_a_variant(made: Presentation, full: list[run_rows.Row]) -> None:
    (slide,) = [slide for slide in made.slides if "waits most for its products" in slide.shapes.title.text]
    (chart,) = [shape.chart for shape in slide.shapes if shape.has_chart]
    series = {found.name: list(found.values) for found in chart.plots[0].series}
    assert series["FP32 400 GFLOP/s"] == pytest.approx([400, 400])
    assert max(series["Copy 42.0 GB/s"]) == pytest.approx(400)
    rows = [row for row in full if row.limit_share is not None]
    assert len(series) == len(rows) + 2
    for row in rows:
        assert series[row.title] == pytest.approx([row.limits["operations_per_s"] / 1e9])
    assert chart.value_axis.minimum_scale <= min(map(min, series.values()))


def test_batch_sizes_have_a_line_a_variant(database: str) -> None:
    deck = opened(SIZES)
    (slide,) = [slide for slide in deck.slides if slide.shapes.title.text.startswith("From batch 1 to 32")]
    (chart,) = [shape.chart for shape in slide.shapes if shape.has_chart]
    assert list(chart.plots[0].categories) == ["1", "8", "32"]
    rows = reads.measurements(reads.run(SIZES))
    for series in chart.plots[0].series:
        stored = [row.throughput_samples_per_s for row in rows if row.title == series.name]
        assert list(series.values) == pytest.approx(stored)
    assert "batch 1, 8, 32" in texts(slide)


def test_a_batch_size_can_be_asked_for(database: str) -> None:
    assert "batch 8 ·" in texts(opened(SIZES, batch_size=8).slides[0])


@pytest.mark.parametrize("look", [style.LIGHT, style.DARK], ids=lambda look: look.name)
def test_text_is_told_from_its_ground(look: style.Theme, database: str) -> None:
    for slide in opened(FULL, look).slides:
        assert str(slide.background.fill.fore_color.rgb).lower() == look.background.lstrip("#")
        (run,) = slide.shapes.title.text_frame.paragraphs[0].runs
        assert str(run.font.color.rgb).lower() == look.text.lstrip("#")
        for shape in slide.shapes:
            if shape.has_chart:
                assert str(shape.chart.font.color.rgb).lower() == look.text.lstrip("#")
            if shape.has_table:
                cell = shape.table.cell(1, 0)
                assert cell.fill.fore_color.rgb != cell.text_frame.paragraphs[0].runs[0].font.color.rgb


@pytest.mark.parametrize("length", [20, 140, 260, 2000])
def test_a_title_keeps_to_its_box(length: int) -> None:
    shown, size = export_slides.fitted_title(("word " * length)[:length].strip())
    wide = 873 - 14
    lines = len(textwrap.wrap(shown, int(wide / (export_slides.LETTER * size))))
    assert lines * size * 1.2 <= export_slides.TITLE_HEIGHT
    assert shown.endswith("…") == (length == 2000)


@pytest.mark.parametrize("count", [3, 40])
def test_lists_go_on_on_further_slides(count: int, database: str) -> None:
    summary = reads.run(FULL)
    made = deck.Deck(summary, reads.measurements(summary), reads.published(), style.LIGHT, None, ())
    made._list("Notes", [("Name: ", "a sentence that says something " * 4)] * count)
    slides = list(made.file.slides)
    assert (len(slides) > 1) == (count == 40)
    assert sum(texts(slide).count("Name: ") for slide in slides) == count


def test_log_axes_are_labelled_often_enough() -> None:
    assert chart_slides.log_ends([7.5], [55]) == (4, 64, 2)
    assert chart_slides.log_ends([0.3], [900]) == (0.1, 1000, 10)
    assert chart_slides.log_ends([8.0], [8.0]) == (8, 16, 2)


@pytest.mark.skipif(shutil.which("soffice") is None, reason="no LibreOffice on PATH")
def test_libreoffice_opens_it(database: str, tmp_path: Path) -> None:
    summary = reads.run(FULL)
    (tmp_path / "deck.pptx").write_bytes(
        deck.build(summary, reads.measurements(summary), reads.published(), style.DARK)
    )
    profile = f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"
    command = ["soffice", profile, "--headless", "--convert-to", "pdf", "deck.pptx"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=180)
    pages = re.findall(rb"/Type\s*/Page\b", (tmp_path / "deck.pdf").read_bytes())
    assert len(pages) == len(Presentation(str(tmp_path / "deck.pptx")).slides)


@pytest.mark.parametrize("run_id", [SIZES, UNLABELLED, RUNNING, CANCELLED, FAILED])
def test_every_kind_of_run_becomes_a_deck(run_id: str, database: str) -> None:
    assert len(opened(run_id).slides) >= 1
