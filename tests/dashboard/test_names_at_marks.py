"""Names at marks, in pages, images and slides: none lies on another, however many there are."""

from __future__ import annotations

import io
import itertools
import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from dashboard_fill import FULL
from pptx import Presentation
from pptx.oxml.ns import qn

from dashboard import figures, run_rows, style
from dashboard.data import reads
from dashboard.export import deck, slides
from dashboard.figures import labels
from dashboard.figures.roofline import PLOT_HEIGHT
from dashboard.figures.tradeoff import tall
from dashboard.findings import deciding

Box = tuple[float, float, float, float]
ENDINGS = ("", "compiled", "CUDA graphs", "fused attention, batches by length")
COUNTS = (6, 12, 36)


def meeting(boxes: dict[str, Box]) -> list[tuple[str, str]]:
    """The pairs of boxes that overlap."""
    pairs = itertools.combinations(boxes.items(), 2)
    return [
        (one, other)
        for (one, a), (other, b) in pairs
        if min(a[2], b[2]) - max(a[0], b[0]) > 1e-6 and min(a[3], b[3]) - max(a[1], b[1]) > 1e-6
    ]


def around(x: float, y: float, width: float, height: float = labels.HEIGHT) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


@pytest.fixture(params=[(count, spots) for count in COUNTS for spots in (count, 3)], ids="{0[0]}-at-{0[1]}".format)
def many(request: pytest.FixtureRequest, full: list[run_rows.Row]) -> list[run_rows.Row]:
    """So many variants, each at a place of its own or near one of a few."""
    count, spots = request.param
    measured = [row for row in full if row.limit_share is not None and row.accuracy is not None]
    base = next(row for row in measured if row.baseline)
    rows = [base]
    for index in range(1, count):
        like = measured[index % len(measured)]
        place, near = random.Random(index % spots), random.Random(index)
        slower = place.uniform(0.3, 3) * near.uniform(0.98, 1.02)
        better = place.uniform(-0.1, 0.05) + near.uniform(-0.002, 0.002)
        name = f"{index} {like.title} {ENDINGS[index % 4]}"
        row = replace(like, variant=f"v{index}", title=name, name=name, baseline=False)
        times = ("latency_p50_s", "latency_p50_low_s", "latency_p50_high_s")
        row = replace(row, **{key: base.figure(key) * slower for key in times})
        shares = ("accuracy", "accuracy_low", "accuracy_high")
        row = replace(row, **{key: min(1, base.figure(key) + better) for key in shares})
        rate = base.limits["operations_per_s"] / slower
        rows.append(replace(row, limits=base.limits | {"operations_per_s": rate, "bandwidth_share": 0.3 / slower}))
    return rows


def drawn(figure: go.Figure, width: float, height: float) -> dict[str, Box]:
    """The names' boxes in a plot of a size, from its upper left."""
    x_low, x_high = figure.layout.xaxis.range
    y_low, y_high = figure.layout.yaxis.range
    found = {}
    for note in figure.layout.annotations:
        if note.xref == "paper" or note.yanchor or note.name:
            continue
        dx, dy = (note.ax, note.ay) if note.showarrow else (note.xshift, -note.yshift)
        x, y = width * (note.x - x_low) / (x_high - x_low) + dx, height * (y_high - note.y) / (y_high - y_low) + dy
        plain = note.text.replace("<b>", "").replace("</b>", "").replace("&lt;", "<").replace("&gt;", ">")
        wide = labels.text_width(plain)
        x += {"left": wide / 2, "right": -wide / 2}.get(note.xanchor, 0)
        found[plain] = around(x, y, wide + labels.PADDING)
    return found


def plot_of_an_image(figure: go.Figure) -> tuple[float, float]:
    """How wide and tall a saved image draws a figure's plot."""
    margin = figure.layout.margin
    return style.IMAGE_WIDTH - margin.l - margin.r, style.IMAGE_HEIGHT - margin.t - margin.b


@pytest.mark.parametrize("width", [420, 700, 1040, 1600, None])
def test_none_lies_on_another_in_the_tradeoff(width: int | None, many: list[run_rows.Row]) -> None:
    figure = figures.tradeoff(many, style.LIGHT)
    boxes = drawn(figure, *((width, tall(len(many))) if width else plot_of_an_image(figure)))
    assert any(name.startswith(many[0].title) for name in boxes), "the baseline's is there"
    assert not meeting(boxes)
    unnamed = [
        title for title in [row.title for row in many] if not any(labels.shortened(title) in name for name in boxes)
    ]
    said = figure.layout.title.subtitle.text.replace("<br>", " ")
    assert (f" {len(unnamed)} of {len(many)} names had no room." in said) == bool(unnamed)


@pytest.mark.parametrize("width", [520, 820, 1040, 1600, None])
def test_none_lies_on_another_below_the_roof(width: int | None, many: list[run_rows.Row]) -> None:
    figure = figures.roofline(many, reads.run(FULL)["ceilings"], style.LIGHT)
    boxes = drawn(figure, *((width, PLOT_HEIGHT) if width else plot_of_an_image(figure)))
    assert boxes and not meeting(boxes)


def missing(figure: go.Figure, titles: list[str]) -> int:
    """The marks whose names are nowhere on a figure, as its subtitle has to say."""
    there = " ".join(note.text for note in figure.layout.annotations)
    count = sum(labels.shortened(title) not in there for title in titles)
    said = figure.layout.title.subtitle.text.replace("<br>", " ")
    assert (f" {count} of {len(titles)} names had no room." in said) == bool(count)
    return count


@pytest.mark.parametrize("against", ["accuracy_lost", "memory_bytes"])
def test_who_has_no_room_beside_the_limits_is_counted(against: str, many: list[run_rows.Row]) -> None:
    rows = [replace(row, latency_p95_s=1.1 * row.latency_p50_s) for row in many]
    drawn_rows = [row for row in rows if deciding.quantities(rows)[against].read(row) is not None]
    figure = figures.decision(deciding.decide(rows, deciding.Limits()), style.LIGHT, against)
    left = missing(figure, [row.name for row in drawn_rows])
    assert left < len(drawn_rows) and (left or len(rows) < max(COUNTS))


def test_who_has_no_room_among_the_trials_is_counted(full: list[run_rows.Row]) -> None:
    measured = reads.loads(reads.run(FULL), full)
    held = next(row for row in measured if row.trials and row.server_texts_per_s)
    loads = []
    for index in range(30):
        # Not quite on one spot: those would share a label.
        trials = [trial | {"rate_per_s": trial["rate_per_s"] * (1 + 0.04 * index)} for trial in held.trials]
        loads.append(replace(held, title=f"{index} {held.title}, of a longer name", trials=trials))
    assert missing(figures.load_trials(full, loads, style.LIGHT), [row.name for row in loads])


@pytest.mark.parametrize("count", [2, 14, 36])
def test_every_line_has_its_name_at_a_height_of_its_own(count: int, full: list[run_rows.Row]) -> None:
    base = full[0]
    random = np.random.default_rng(count)
    rows = [replace(base, id=i, variant=f"v{i}", name=f"Variant {i}", baseline=i == 0) for i in range(count)]
    timed = {row.id: random.lognormal(-3 + 0.02 * row.id, 0.1, 200) for row in rows}
    figure = figures.ecdf(rows, timed, style.LIGHT)
    low, high = figure.layout.yaxis.range
    margin = figure.layout.margin
    per_percent = (figure.layout.height - margin.t - margin.b) / (high - low)
    heights = sorted(note.y for note in figure.layout.annotations)
    assert len(heights) == count
    assert np.diff(heights).min() * per_percent >= labels.HEIGHT
    for marked in (50, 95):
        assert min(abs(height - marked) for height in heights) * per_percent >= labels.HEIGHT / 2


def on_slide(chart: Any) -> dict[str, Box]:
    """The boxes of a scatter's names in points, from the upper left of its chart, as the file has them."""
    width, height = slides.CHART
    left, top, wide, high = slides.PLOT_AT
    ends_x = math.log(chart.category_axis.minimum_scale), math.log(chart.category_axis.maximum_scale)
    log_y = chart.value_axis._element.find(qn("c:scaling")).find(qn("c:logBase")) is not None
    ends_y = chart.value_axis.minimum_scale, chart.value_axis.maximum_scale
    if log_y:
        ends_y = math.log(ends_y[0]), math.log(ends_y[1])
    found = {}
    for series in chart.plots[0].series:
        for label in series._element.iter(qn("c:dLbl")):
            text = "".join(run.text for run in label.iter(qn("a:t")))
            (x,) = series._element.xpath("c:xVal//c:pt[@idx='0']/c:v")
            (y,) = series._element.xpath("c:yVal//c:pt[@idx='0']/c:v")
            y_at = math.log(float(y.text)) if log_y else float(y.text)
            x_at = width * (left + wide * (math.log(float(x.text)) - ends_x[0]) / (ends_x[1] - ends_x[0]))
            y_at = height * (top + high * (ends_y[1] - y_at) / (ends_y[1] - ends_y[0]))
            long = labels.text_width(text) + labels.PADDING
            has_mark = series._element.find(qn("c:marker")).find(qn("c:size")) is not None
            side = label.find(qn("c:dLblPos")).get("val")
            offsets = labels.nearest(slides.MARKER if has_mark else slides.NO_MARKER, long)
            dx, dy = offsets["rltb".index(side)]
            moved = [
                float(label.xpath(f"c:layout/c:manualLayout/c:{axis}/@val")[0])
                for axis in "xy"
                if label.xpath("c:layout")
            ]
            dx, dy = (dx + width * moved[0], dy + height * moved[1]) if moved else (dx, dy)
            assert all(body.get("wrap") == "none" for body in label.iter(qn("a:bodyPr"))), "in one line"
            found[text] = around(x_at + dx, y_at + dy, long)
    return found


def test_none_lies_on_another_on_a_slide(many: list[run_rows.Row]) -> None:
    made = deck.build(reads.run(FULL), many, reads.published())
    scatters = 0
    for slide in Presentation(io.BytesIO(made)).slides:
        for chart in (shape.chart for shape in slide.shapes if shape.has_chart):
            if not chart._chartSpace.findall(f".//{qn('c:scatterChart')}"):
                continue
            scatters += 1
            boxes = on_slide(chart)
            assert boxes and not meeting(boxes)
            assert all(box[0] >= 0 and box[2] <= slides.CHART[0] for box in boxes.values()), "on the slide"
            said = " ".join(boxes)
            missing = [title for title in [row.title for row in many] if labels.shortened(title) not in said]
            notes = slide.notes_slide.notes_text_frame.text
            assert all(labels.shortened(title) in notes for title in missing)
    assert scatters == 2


def test_marks_on_one_spot_share_a_label() -> None:
    names = ["FP32", "FP16", "BF16", "NF4"]
    placed = labels.arrange(names, [(100, 100), (300, 50), (304, 53), (299, 46)], [12.0] * 4, (420, 262))
    assert [label.text(names) for label in placed] == ["FP32", "FP16, BF16, NF4"]
    long = [f"A variant with a rather long name {index}" for index in range(4)]
    (only,) = labels.arrange(long, [(200, 100)] * 4, [12.0] * 4, (420, 262), first=[2])
    assert only.text(long) == f"{long[2]} and 3 more"
    assert labels.left_out([only], long) == [0, 1, 3] and " 3 of 4 names" in labels.unnamed([only], long)


def test_the_most_important_name_is_kept() -> None:
    names = [f"A variant with a long name {index}" for index in range(30)]
    centres = [(200 + 12 * math.cos(index), 130 + 12 * math.sin(index)) for index in range(30)]
    placed = labels.arrange(names, centres, [20.0] * 30, (420, 262), first=[29])
    assert 29 in placed[0].marks and len(placed) < 30


def test_a_label_stands_at_its_own_mark() -> None:
    names = ["DistilBERT FP32", "DistilBERT 4-bit", "Student FP32", "ONNX FP32", "ONNX INT8"]
    centres = [(365.0, 114.0), (356.0, 97.0), (208.0, 97.0), (123.0, 114.0), (55.0, 114.0)]
    placed = labels.arrange(names, centres, [26.0, 26.0, 25.0, 16.0, 13.0], (420, 262))
    (student,) = (label for label in placed if label.mark == 2)
    assert student.dx > -50, "left of its mark, it would stand above ONNX FP32's"


def test_a_label_far_from_its_mark_has_a_line_to_it() -> None:
    near = labels.Label((0,), 1, 40.0, -20.0, 80.0)
    assert labels.beside(near, 13.0, style.LIGHT) == {"showarrow": False, "xshift": 40.0, "yshift": 20.0}
    right = labels.beside(labels.Label((0,), 1, 60.0, 0.0, 80.0), 13.0, style.LIGHT)
    assert (right["xanchor"], right["xshift"]) == ("left", 60.0 - 40.0 + labels.PADDING / 2)
    far = labels.beside(labels.Label((0,), 1, 40.0, -60.0, 80.0), 13.0, style.LIGHT)
    assert far["showarrow"] and (far["ax"], far["ay"]) == (40.0, -60.0) and far["arrowhead"] == 0
