"""Accuracy, or memory where answers say nothing, against latency: the Pareto front, labels at the marks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboard import findings
from dashboard.figures import base
from dashboard.figures.accuracy import gain_key
from dashboard.frame import Row, pareto, rows_of, untaught
from dashboard.metrics import METRICS
from dashboard.style import Theme, fade, marks
from engine import tables
from engine.units import megabytes

PLOT_WIDTH, PLOT_HEIGHT = 420, 262
"""The smallest plot area that labels are placed for, in CSS pixels."""
FEW, MORE_HEIGHT = 6, 24
"""With more marks than FEW a plot is that much taller for each: their names need the room."""
RIGHT_MARGIN = 14
"""What a label may take of the figure's right margin: better than a place where it seems to name another mark."""
LARGEST = 26
SMALLEST = 8
LABEL_HEIGHT = 17
LETTER = 6.9
NEAR = 6
"""A label that is as near as this to another mark seems to name that one."""
PASSES = 3
COVERED = 3
"""What a square pixel of a mark below a label costs, where one of another label costs 1."""
OUTSIDE = 60
"""What a pixel of a label beyond the plot costs, in the same."""
SAVED = "memory_saved"
"""Memory as something of which more is better."""

Box = tuple[float, float, float, float]


def tall(count: int) -> int:
    """The height of a plot of `count` marks with their names, in CSS pixels."""
    return PLOT_HEIGHT + MORE_HEIGHT * max(0, count - FEW)


def tradeoff(frame: pd.DataFrame, look: Theme) -> go.Figure:
    """A mark a measurement: hollow where another is both faster and better, or where it is not valid."""
    rows = [row | {SAVED: None if row["memory_bytes"] is None else -row["memory_bytes"]} for row in rows_of(frame)]
    gain = axis_key(rows)
    key, metric = gain, METRICS["vram_peak_bytes" if gain == SAVED else gain]
    if gain == SAVED:
        key = "memory_bytes"
        metric = METRICS[f"{rows[0]['memory_kind']}_peak_bytes"]
    drawn = [row for row in rows if row["latency_p50_s"] is not None and row[key] is not None]
    # A larger batch takes longer because it holds more: that beats nobody.
    alike = len({row["batch_size"] for row in drawn}) < 2
    left_out = len([row for row in rows if row["status"] == "measured"]) - len(drawn)
    front = pareto(drawn, "latency_p50_s", gain) if alike else []
    area = ""
    if gain != SAVED and any(row["memory_bytes"] for row in drawn):
        kind = "VRAM" if drawn[0]["memory_kind"] == "vram" else "RAM"
        area = f" Area: peak {kind}."
    counts = sorted({row["examples"] for row in drawn if row["examples"]})
    n = f" n = {counts[-1]:,} examples." if len(counts) == 1 and gain != SAVED else ""
    missing = f" {left_out} without {metric.label.lower()} left out." if left_out else ""
    height = tall(len(drawn))
    figure = base.titled(
        look,
        findings.tradeoff_title(drawn, gain),
        f"{_directions(gain, alike, drawn)}{area}{n}{missing}",
        height,
        share=0.82,
    )
    if not drawn:
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        return figure
    shades = marks(rows, look)
    largest = max((row["memory_bytes"] or 0) for row in drawn)
    xs = [_shown(row, "latency_p50_s", "latency_p50_low_s", "latency_p50_high_s", 1e3) for row in drawn]
    ys = [_shown(row, key, metric.low, metric.high, metric.factor) for row in drawn]
    x_low, x_high = base.log_range([value for x in xs for value in x], pad=0.12)
    y_span = max(max(y) for y in ys) - min(min(y) for y in ys)
    if gain == SAVED:
        # One reading has no digits to tell apart what lies within some percent.
        y_span = max(y_span, 0.4 * max(max(y) for y in ys))
    # Room below nothing for a mark that stands there, and for its name.
    y_low = max(-max(2.0, 0.12 * y_span), min(min(y) for y in ys) - max(0.12 * y_span, 0.5))
    y_high = max(max(y) for y in ys) + max(0.12 * y_span, 0.5)
    _draw_front(figure, look, front, key, metric.factor)
    sizes = []
    # Added at once: Plotly checks all that are there again with each one more.
    traces: list[go.Scatter] = []
    notes: list[dict[str, Any]] = []
    for row, x, y in zip(drawn, xs, ys, strict=True):
        mark = shades[row["variant"]]
        size = 12.0
        if area and row["memory_bytes"] and largest:
            size = max(SMALLEST, LARGEST * math.sqrt(row["memory_bytes"] / largest))
        sizes.append(size)
        pale = fade(mark.color, 0.55)
        traces.append(
            go.Scatter(
                x=[x[1]],
                y=[y[1]],
                mode="markers",
                name=row["name"],
                marker=base.filled(row, mark, look, solid=not alike or row in front, size=size),
                cliponaxis=False,
                error_x=base.error_bar(*x, color=pale, thickness=1.2),
                error_y=base.error_bar(*y, color=pale, thickness=1.2),
                hovertemplate=(
                    f"<b>{base.escape(row['name'])}</b><br>"
                    f"{findings.interval_words(row, 'latency_p50_s')} ms<br>"
                    + ("" if gain == SAVED else f"{findings.interval_words(row, gain)}%<br>")
                    + f"{megabytes(row['memory_bytes'])} MB<extra></extra>"
                ),
            )
        )
    centres = [
        (
            PLOT_WIDTH * (math.log(x[1]) - math.log(x_low)) / (math.log(x_high) - math.log(x_low)),
            height * (1 - (y[1] - y_low) / (y_high - y_low)),
        )
        for x, y in zip(xs, ys, strict=True)
    ]
    offsets = place([row["name"] for row in drawn], centres, sizes, (PLOT_WIDTH, height))
    for row, x, y, size, (dx, dy) in zip(drawn, xs, ys, sizes, offsets, strict=True):
        notes.append(
            {
                "x": math.log10(x[1]),
                "y": y[1],
                "text": f"<b>{base.escape(row['name'])}</b>" if row in front else base.escape(row["name"]),
                **beside(dx, dy, size, look),
                "font": {"size": 13, "color": look.text if row in front else look.muted},
                "bgcolor": fade(look.background, 0.72),
                "borderpad": 1,
            }
        )
    figure.add_traces(traces)
    figure.update_layout(annotations=notes)
    figure.update_xaxes(title_text="Latency of a batch, p50 (ms, log scale)", **base.log_axis(x_low, x_high))
    figure.update_yaxes(title_text=metric.header, range=[y_low, y_high], nticks=7)
    return figure


def axis_key(rows: Sequence[Row]) -> str:
    """What stands against latency: what a run says of its answers, or SAVED where those say nothing."""
    return SAVED if untaught(rows) and any(row["memory_bytes"] for row in rows) else gain_key(list(rows))


def _directions(gain: str, alike: bool, drawn: Sequence[Row]) -> str:
    said = ["Lower left is better." if gain == SAVED else "Upper left is better."]
    if not alike:
        said = [f"Batches of {tables.batch_sizes(drawn)}: their latencies are not to be compared."]
    said.append("Bars: 95% intervals; memory has none." if gain == SAVED else "Bars: 95% intervals.")
    said.append("Hollow: beaten in both as measured, or not valid." if alike else "Hollow: not valid.")
    if gain == SAVED:
        said.append("Answers of random weights say nothing.")
    return " ".join(said)


def _shown(row: dict, key: str, low: str | None, high: str | None, factor: float) -> tuple[float, float, float]:
    value = row[key] * factor
    if low is None or high is None or row[low] is None or row[high] is None:
        return value, value, value
    return row[low] * factor, value, row[high] * factor


def _draw_front(figure: go.Figure, look: Theme, front: Sequence[dict], key: str, factor: float) -> None:
    if len(front) < 2:
        return
    figure.add_trace(
        go.Scatter(
            x=[row["latency_p50_s"] * 1e3 for row in front],
            y=[row[key] * factor for row in front],
            mode="lines",
            line={"color": look.line, "width": 1.5, "shape": "hv"},
            name="Pareto front",
            hoverinfo="skip",
        )
    )


def place(
    names: Sequence[str],
    centres: Sequence[tuple[float, float]],
    sizes: Sequence[float],
    room: tuple[float, float] = (PLOT_WIDTH, PLOT_HEIGHT),
    lines: Sequence[Box] = (),
) -> list[tuple[float, float]]:
    """Where each label's middle goes, in pixels right of and below its mark, so that few things overlap.

    `centres` are the marks' places from the upper left of a plot of size `room`, `lines` the boxes of what else is
    there; each label takes the free place nearest to its mark.
    """
    if not names:
        return []
    middles, halves = np.array(centres, dtype=float), np.array(sizes, dtype=float)[:, None] / 2
    marks = np.hstack([middles - halves, middles + halves])
    drawn = np.array(lines, dtype=float).reshape(-1, 4)
    options, boxes, fixed = [], [], []
    for index, name in enumerate(names):
        width = LETTER * len(name) + 6
        offered = np.array(_options(sizes[index], width))
        half = np.array([width / 2, LABEL_HEIGHT / 2])
        where = middles[index] + offered
        box = np.hstack([where - half, where + half])
        near = box + np.array([-NEAR, -NEAR, NEAR, NEAR])
        cost = COVERED * _overlaps(box, marks) + _overlaps(near, np.delete(marks, index, axis=0))
        cost += _overlaps(box, drawn) + OUTSIDE * _outside(box, room) + 2 * np.arange(len(offered))
        options.append(offered)
        boxes.append(box)
        fixed.append(cost)
    labels = np.full((len(names), 4), np.inf)
    chosen = [0] * len(names)
    # The first pass places greedily; later ones let early labels make way for late ones.
    for _ in range(PASSES):
        for index in range(len(names)):
            cost = fixed[index] + _overlaps(boxes[index], np.delete(labels, index, axis=0))
            chosen[index] = int(np.argmin(cost))
            labels[index] = boxes[index][chosen[index]]
    return [(float(o[at, 0]), float(o[at, 1])) for o, at in zip(options, chosen, strict=True)]


def _options(size: float, width: float) -> list[tuple[float, float]]:
    """Offsets of a label from its mark, the best first."""
    side, above = size / 2 + 4 + width / 2, size / 2 + 2 + LABEL_HEIGHT / 2
    near = [(side, 0.0), (-side, 0.0), (0.0, -above), (0.0, above)]
    corners = [(sign * side, turn * (above - 4)) for turn in (-1, 1) for sign in (1, -1)]
    shifted = [(sign * width / 3, turn * above) for turn in (-1, 1) for sign in (1, -1)]
    far = [
        (shift, turn * (above + lines * LABEL_HEIGHT))
        for lines in (1, 2, 3)
        for turn in (-1, 1)
        for shift in (0.0, width / 3, -width / 3, width / 2, -width / 2)
    ]
    aside = [
        (sign * side, turn * (above - 4 + lines * LABEL_HEIGHT))
        for lines in (1, 2)
        for turn in (-1, 1)
        for sign in (1, -1)
    ]
    return near + corners + shifted + far + aside


def beside(dx: float, dy: float, size: float, look: Theme) -> dict[str, Any]:
    """How an annotation stands `dx`, `dy` px from its mark: with a line to it where another mark may be nearer."""
    if abs(dy) <= size / 2 + LABEL_HEIGHT:
        return {"showarrow": False, "xshift": dx, "yshift": -dy}
    line = {"arrowhead": 0, "arrowwidth": 1, "arrowcolor": look.line, "standoff": size / 2}
    return {"showarrow": True, "ax": dx, "ay": dy, **line}


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How many square pixels of `others` each box covers. Boxes [n, 4], others [m, 4]; infinite ones are nowhere."""
    others = others[np.isfinite(others[:, 0])]
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)


def _outside(boxes: np.ndarray, room: tuple[float, float]) -> np.ndarray:
    """How far each box sticks out of the plot and of the margin to its right, in pixels."""
    beyond = np.hstack([-boxes[:, :2], boxes[:, 2:] - np.array([room[0] + RIGHT_MARGIN, room[1]])])
    return np.clip(beyond, 0, None).sum(axis=1)
