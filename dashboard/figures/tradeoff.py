"""Accuracy against latency, memory as area, the Pareto front, labels at the marks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from dashboard import findings
from dashboard.figures import base
from dashboard.figures.accuracy import gain_key
from dashboard.frame import pareto, rows_of
from dashboard.metrics import METRICS
from dashboard.style import Theme, fade, marks
from engine.units import megabytes

PLOT_WIDTH, PLOT_HEIGHT = 420, 262
"""The smallest plot area that labels are placed for, in CSS pixels."""
RIGHT_MARGIN = 14
"""What a label may take of the figure's right margin: better than a place where it seems to name another mark."""
LARGEST = 26
SMALLEST = 8
LABEL_HEIGHT = 17
LETTER = 6.9
NEAR = 6
"""A label that is as near as this to another mark seems to name that one."""
PASSES = 3

Box = tuple[float, float, float, float]


def tradeoff(frame: pd.DataFrame, look: Theme, height: int = PLOT_HEIGHT) -> go.Figure:
    """A mark a measurement: hollow where another is both faster and better, or where it is not valid."""
    rows = rows_of(frame)
    gain = gain_key(rows)
    metric = METRICS[gain]
    drawn = [row for row in rows if row["latency_p50_s"] is not None and row[gain] is not None]
    left_out = len([row for row in rows if row["status"] == "measured"]) - len(drawn)
    front = pareto(drawn, "latency_p50_s", gain)
    area = ""
    if any(row["memory_bytes"] for row in drawn):
        kind = "VRAM" if drawn[0]["memory_kind"] == "vram" else "RAM"
        area = f" Area: peak {kind}."
    counts = sorted({row["examples"] for row in drawn if row["examples"]})
    n = f" n = {counts[-1]:,} examples." if len(counts) == 1 else ""
    missing = f" {left_out} without {metric.label.lower()} left out." if left_out else ""
    figure = base.titled(
        look,
        findings.tradeoff_title(drawn, gain),
        f"Upper left is better. Bars: 95% intervals. Hollow: beaten in both, or not valid.{area}{n}{missing}",
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
    ys = [_shown(row, gain, metric.low, metric.high, 100.0) for row in drawn]
    x_low, x_high = base.log_range([value for x in xs for value in x], pad=0.12)
    y_span = max(max(y) for y in ys) - min(min(y) for y in ys)
    y_low = max(-2.0, min(min(y) for y in ys) - max(0.12 * y_span, 0.5))
    y_high = max(max(y) for y in ys) + max(0.12 * y_span, 0.5)
    _draw_front(figure, look, front, gain)
    sizes = []
    for row, x, y in zip(drawn, xs, ys, strict=True):
        mark = shades[row["variant"]]
        size = 12.0
        if row["memory_bytes"] and largest:
            size = max(SMALLEST, LARGEST * math.sqrt(row["memory_bytes"] / largest))
        sizes.append(size)
        pale = fade(mark.color, 0.55)
        figure.add_trace(
            go.Scatter(
                x=[x[1]],
                y=[y[1]],
                mode="markers",
                name=row["name"],
                marker=base.filled(row, mark, look, solid=row in front, size=size),
                error_x=base.error_bar(*x, color=pale, thickness=1.2),
                error_y=base.error_bar(*y, color=pale, thickness=1.2),
                hovertemplate=(
                    f"<b>{base.escape(row['name'])}</b><br>"
                    f"{findings.interval_words(row, 'latency_p50_s')} ms<br>"
                    f"{findings.interval_words(row, gain)}%<br>"
                    f"{megabytes(row['memory_bytes'])} MB<extra></extra>"
                ),
            )
        )
    centres = [
        (
            PLOT_WIDTH * (math.log(x[1]) - math.log(x_low)) / (math.log(x_high) - math.log(x_low)),
            PLOT_HEIGHT * (1 - (y[1] - y_low) / (y_high - y_low)),
        )
        for x, y in zip(xs, ys, strict=True)
    ]
    for row, x, y, (dx, dy) in zip(drawn, xs, ys, place([row["name"] for row in drawn], centres, sizes), strict=True):
        figure.add_annotation(
            x=math.log10(x[1]),
            y=y[1],
            text=f"<b>{base.escape(row['name'])}</b>" if row in front else base.escape(row["name"]),
            showarrow=False,
            xshift=dx,
            yshift=-dy,
            font={"size": 13, "color": look.text if row in front else look.muted},
            bgcolor=fade(look.background, 0.72),
            borderpad=1,
        )
    figure.update_xaxes(title_text="Latency of a batch, p50 (ms, log scale)", **base.log_axis(x_low, x_high))
    figure.update_yaxes(title_text=f"{metric.label} (%)", range=[y_low, y_high], nticks=7)
    return figure


def _shown(row: dict, key: str, low: str | None, high: str | None, factor: float) -> tuple[float, float, float]:
    value = row[key] * factor
    if low is None or high is None or row[low] is None or row[high] is None:
        return value, value, value
    return row[low] * factor, value, row[high] * factor


def _draw_front(figure: go.Figure, look: Theme, front: Sequence[dict], gain: str) -> None:
    if len(front) < 2:
        return
    figure.add_trace(
        go.Scatter(
            x=[row["latency_p50_s"] * 1e3 for row in front],
            y=[row[gain] * 100 for row in front],
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
) -> list[tuple[float, float]]:
    """Where each label's middle goes, in pixels right of and below its mark, so that few things overlap.

    `centres` are the marks' places from the upper left of a plot of size `room`; each label takes the free place
    nearest to its mark.
    """
    marks: list[Box] = [
        (x - size / 2, y - size / 2, x + size / 2, y + size / 2) for (x, y), size in zip(centres, sizes, strict=True)
    ]
    widths = [LETTER * len(name) + 6 for name in names]
    labels: list[Box | None] = [None] * len(names)
    offsets = [(0.0, 0.0)] * len(names)
    # The first pass places greedily; later ones let early labels make way for late ones.
    for _ in range(PASSES):
        for index, ((x, y), size, width) in enumerate(zip(centres, sizes, widths, strict=True)):
            others = [box for other, box in enumerate(labels) if box is not None and other != index]
            best = math.inf
            for rank, (dx, dy) in enumerate(_options(size, width)):
                box = (
                    x + dx - width / 2,
                    y + dy - LABEL_HEIGHT / 2,
                    x + dx + width / 2,
                    y + dy + LABEL_HEIGHT / 2,
                )
                cost = sum(_overlap(box, other) for other in (*marks, *others)) + 8 * _outside(box, room) + 2 * rank
                near = (box[0] - NEAR, box[1] - NEAR, box[2] + NEAR, box[3] + NEAR)
                cost += sum(_overlap(near, mark) for other, mark in enumerate(marks) if other != index)
                if cost < best:
                    best, labels[index], offsets[index] = cost, box, (dx, dy)
    return offsets


def _options(size: float, width: float) -> list[tuple[float, float]]:
    """Offsets of a label from its mark, the best first."""
    side, above = size / 2 + 4 + width / 2, size / 2 + 2 + LABEL_HEIGHT / 2
    near = [(side, 0.0), (-side, 0.0), (0.0, -above), (0.0, above)]
    corners = [(sign * side, turn * (above - 4)) for turn in (-1, 1) for sign in (1, -1)]
    shifted = [(sign * width / 3, turn * above) for turn in (-1, 1) for sign in (1, -1)]
    far = [(shift, turn * (above + LABEL_HEIGHT)) for turn in (-1, 1) for shift in (0.0, width / 3, -width / 3)]
    return near + corners + shifted + far


def _overlap(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _outside(box: Box, room: tuple[float, float]) -> float:
    """How far a box sticks out of the plot and of the margin to its right, in pixels."""
    return max(0, -box[0]) + max(0, box[2] - room[0] - RIGHT_MARGIN) + max(0, -box[1]) + max(0, box[3] - room[1])
