"""The page Load and its charts: every mark where its row's figures put it, and what is said of it."""

from __future__ import annotations

import html
from dataclasses import replace
from typing import Any

import pytest
from dashboard_fill import CANCELLED, FULL, RUNNING, SIZES
from test_pages import page, text

from dashboard import figures, run_rows, style
from dashboard.data import reads
from dashboard.export import images
from dashboard.tables import load

Row = dict[str, Any]


@pytest.fixture
def loads(full: list[run_rows.Row]) -> list[Row]:
    return reads.loads(reads.run(FULL), full)


def at(figure: Any, name: str, symbol: str | None = None) -> list[Any]:
    """The marks of a variant; those of one symbol."""
    return [
        trace
        for trace in figure.data
        if trace.name == name and trace.mode == "markers" and symbol in (None, trace.marker.symbol)
    ]


@pytest.mark.parametrize("look", [style.LIGHT, style.DARK], ids=lambda look: look.name)
def test_a_mark_stands_at_what_is_held_and_its_bar_ends_at_what_is_not(
    look: style.Theme, full: list[run_rows.Row], loads: list[Row]
) -> None:
    figure = figures.load_rates(full, loads, look)
    shades = style.marks(full, look)
    for position, row in enumerate(loads[:4]):
        (mark,) = at(figure, row.name, shades[row.variant].symbol)
        assert (mark.x[0], mark.y[0]) == (row.server_texts_per_s, position)
        failing = min(trial["rate_per_s"] for trial in row.trials if not trial["holds"])
        assert mark.x[0] + mark.error_x.array[0] == failing and mark.error_x.arrayminus[0] == 0
        assert mark.marker.line.color == shades[row.variant].color
        (offline,) = at(figure, row.name, "line-ns")
        assert offline.x[0] == row.offline_texts_per_s > failing
    (none,) = at(figure, "ONNX INT8", "x")
    assert none.x[0] == 91.0 and none.error_x.array is None, "no rate held: the lowest that was tried"
    assert not at(figure, "SST-2 head")
    assert figure.layout.title.text.replace("<br>", " ") == (
        "Held within the limit: 70 to 87% of the offline rate; none by ONNX INT8"
    )
    said = " ".join(note.text for note in figure.layout.annotations)
    assert "<b>153</b>" in said and "not 160" in said and "none held" in said and "failed under load" in said
    assert figure.layout.xaxis.type == "log" and "Texts a second" in figure.layout.xaxis.title.text
    assert "n = 1,575 to 14,430 texts" in figure.layout.title.subtitle.text.replace("<br>", " ")
    assert figure.layout.template.layout.paper_bgcolor == look.background


@pytest.mark.parametrize("look", [style.LIGHT, style.DARK], ids=lambda look: look.name)
def test_every_trial_has_a_mark_whose_shape_says_whether_it_held(
    look: style.Theme, full: list[run_rows.Row], loads: list[Row]
) -> None:
    figure = figures.load_trials(full, loads, look)
    shades = style.marks(full, look)
    for row in loads[:5]:
        (marks,) = at(figure, row.name)
        trials = sorted(row.trials, key=lambda trial: trial["rate_per_s"])
        assert list(marks.x) == [trial["rate_per_s"] for trial in trials]
        assert list(marks.y) == pytest.approx([trial["p99_s"] * 1e3 for trial in trials])
        own = shades[row.variant].symbol
        assert list(marks.marker.symbol) == [own if trial["holds"] else "x" for trial in trials] and own != "x"
        verdicts = ["did not hold" not in said for said in marks.text]
        assert verdicts == [trial["holds"] for trial in trials]
    (limit,) = figure.layout.shapes
    assert limit.y0 == limit.y1 == 100 and figure.layout.annotations[-1].text == "limit 100 ms"
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    assert "(ms" in figure.layout.yaxis.title.text and "texts/s" in figure.layout.xaxis.title.text
    assert figure.layout.title.text.replace("<br>", " ").replace("\u00a0", " ") == (
        "Student FP32 keeps p99 within 100 ms at 962 texts/s, and not at 1,010"
    )


def test_the_alternatives_say_what_each_variant_holds(full: list[run_rows.Row], loads: list[Row]) -> None:
    for make in (figures.load_rates, figures.load_trials):
        said = images.alternative(make(full, loads, style.LIGHT))
        assert "DistilBERT FP32, holds 153 texts/s, " in said and "160" in said and "no rate held" in said
        assert "%{" not in said and "<" not in said


def test_markup_in_names_is_text(full: list[run_rows.Row], loads: list[Row]) -> None:
    odd = "<b>x</b> %{y}"
    loads = [replace(row, title=odd) for row in loads]
    for make in (figures.load_rates, figures.load_trials):
        figure = make(full, loads, style.LIGHT)
        shown = [trace.hovertemplate or "" for trace in figure.data] + [n.text for n in figure.layout.annotations]
        shown += [figure.layout.title.text, *(figure.layout.yaxis.ticktext or ())]
        assert any("&lt;b&gt;x" in one for one in shown) and not any("<b>x" in one or "%{y}" in one for one in shown)
    table = load.variants(full, loads, style.LIGHT)
    assert html.escape(odd) in table and odd not in table


def test_nothing_to_draw_is_a_figure_that_says_nothing(full: list[run_rows.Row], loads: list[Row]) -> None:
    assert not figures.load_trials(full, [], style.LIGHT).data
    assert not figures.load_rates(full, [], style.LIGHT).data
    assert figures.load_trials(full, [row for row in loads if row.status == "failed"], style.LIGHT).to_json()


def test_the_page_says_which_holds_most_and_by_how_much(database: str) -> None:
    test = page("load", FULL)
    assert not test.exception
    assert test.header[0].value.replace("\\", "") == (
        "Student FP32 holds 962 texts/s with p99 within 100 ms, 6.29 times the baseline's (6.01 to 6.58)."
    )
    said = text(test)
    for words in (
        "▲ holds more", "= no difference shown", "▼ holds less", "0.656 to 0.752",
        "~ unstable: other processes used 1.2 of 4 CPUs", "✗ failed: the worker was ended by SIGKILL",
        "batches of at most 32, padding max_length", "● held", "✕ did not hold", "1,200 of 2,400",
    ):  # fmt: skip
        assert words in said, words
    keys = [component.proto.id.partition("-chart_") for component in test.get("bidi_component")]
    assert [name for _, found, name in keys if found] == ["load", "load_p99"]


def test_the_trials_of_each_variant_can_be_seen(database: str) -> None:
    test = page("load", FULL)
    assert test.selectbox(key="variant").options == [
        "DistilBERT FP32", "DistilBERT 4-bit", "Student FP32", "ONNX FP32", "ONNX INT8",
    ]  # fmt: skip
    test.selectbox(key="variant").set_value("student").run()
    assert not test.exception and "14,430 of 14,430" in text(test)


@pytest.mark.parametrize("run", [SIZES, RUNNING, CANCELLED])
def test_a_run_without_load_says_how_to_get_it(run: str, database: str) -> None:
    test = page("load", run)
    assert not test.exception and test.header[0].value == "This run was not put under a service's load."
    assert test.code[0].value == "python -m engine run fixture --set load.p99_ms=100"
    assert [link.proto.page for link in test.get("page_link")] == ["run"]
