"""Accuracy against speed with the Pareto front and names at the marks; memory where the answers mean nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.figures import base, labels
from dashboard.figures.accuracy import gain_key
from dashboard.figures.keeping import kept
from dashboard.findings import headlines
from dashboard.metrics import METRICS, Metric
from dashboard.run_rows import Row, cost_key, pareto, untaught
from dashboard.style import Theme, fade, marks
from engine.report import words
from engine.units import megabytes

PLOT_WIDTH, PLOT_HEIGHT = 420, 262
"""The smallest plot area that labels are placed for, in CSS pixels."""
FEW, MORE_HEIGHT, TALLEST = 6, 24, 478
"""Each mark beyond FEW makes the plot MORE_HEIGHT taller for its name, up to TALLEST, the height in a saved image."""
LARGEST = 26
SMALLEST = 8
SAVED = "saved_bytes"
"""Memory as a quantity of which more is better."""
AXES = {"latency_p50_s": "Latency of a batch, p50 (ms, log scale)", "text_s": "Time a text (ms, log scale)"}


def tall(count: int) -> int:
    """The height in CSS pixels of a plot with `count` named marks."""
    return min(TALLEST, PLOT_HEIGHT + MORE_HEIGHT * max(0, count - FEW))


@kept
def tradeoff(rows: Sequence[Row], look: Theme) -> go.Figure:
    """One mark per measurement: hollow if another is both faster and better, or if it is not valid."""
    gain = axis_key(rows)
    key, metric = gain, METRICS["vram_peak_bytes" if gain == SAVED else gain]
    if gain == SAVED:
        key = "memory_bytes"
        metric = METRICS[f"{rows[0].memory_kind}_peak_bytes"]
    cost = METRICS[cost_key([row for row in rows if row.latency_p50_s is not None and row.figure(key) is not None])]
    drawn = [row for row in rows if row.figure(cost.key) is not None and row.figure(key) is not None]
    left_out = len([row for row in rows if row.status == "measured"]) - len(drawn)
    front = pareto(drawn, cost.key, gain)
    area = ""
    if gain != SAVED and any(row.memory_bytes for row in drawn):
        kind = "VRAM" if drawn[0].memory_kind == "vram" else "RAM"
        area = f" Area: peak {kind}."
    counts = sorted({row.examples for row in drawn if row.examples})
    n = f" n = {counts[-1]:,} examples." if len(counts) == 1 and gain != SAVED else ""
    missing = f" {left_out} without {metric.label.lower()} left out." if left_out else ""
    height = tall(len(drawn))
    title = headlines.tradeoff_title(drawn, gain)
    about = f"{_directions(gain, cost, drawn)}{area}{n}{missing}"
    if not drawn:
        figure = base.titled(look, title, about, height, share=0.82)
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        return figure
    shades = marks(rows, look)
    largest = max((row.memory_bytes or 0) for row in drawn)
    xs = [_shown(row, cost.key, cost.low, cost.high, cost.factor) for row in drawn]
    ys = [_shown(row, key, metric.low, metric.high, metric.factor) for row in drawn]
    x_low, x_high = base.log_range([value for x in xs for value in x], pad=0.12)
    y_span = max(max(y) for y in ys) - min(min(y) for y in ys)
    if gain == SAVED:
        # One reading is not precise enough to tell apart values within some percent.
        y_span = max(y_span, 0.4 * max(max(y) for y in ys))
    # The axis goes below zero, to leave room for a mark at zero and its name.
    y_low = max(-max(2.0, 0.12 * y_span), min(min(y) for y in ys) - max(0.12 * y_span, 0.5))
    y_high = max(max(y) for y in ys) + max(0.12 * y_span, 0.5)
    sizes = [_size(row, largest) if area else 12.0 for row in drawn]
    names = [labels.shortened(row.name) for row in drawn]
    centres = [
        (
            PLOT_WIDTH * (math.log(x[1]) - math.log(x_low)) / (math.log(x_high) - math.log(x_low)),
            height * (1 - (y[1] - y_low) / (y_high - y_low)),
        )
        for x, y in zip(xs, ys, strict=True)
    ]
    placed = labels.arrange(names, centres, sizes, (PLOT_WIDTH, height), important(drawn, front, cost.key))
    figure = base.titled(look, title, about + labels.unnamed(placed, names), height, share=0.82)
    _draw_front(figure, look, front, (cost.key, cost.factor), (key, metric.factor))
    # All are added at once, as Plotly checks the existing ones again with each addition.
    traces: list[go.Scatter] = []
    notes: list[dict[str, Any]] = []
    for row, x, y, size in zip(drawn, xs, ys, sizes, strict=True):
        mark = shades[row.variant]
        pale = fade(mark.color, 0.55)
        traces.append(
            go.Scatter(
                x=[x[1]],
                y=[y[1]],
                mode="markers",
                name=row.name,
                marker=base.filled(row, mark, look, solid=row in front, size=size),
                cliponaxis=False,
                error_x=base.error_bar(*x, color=pale, thickness=1.2),
                error_y=base.error_bar(*y, color=pale, thickness=1.2),
                hovertemplate=(
                    f"<b>{base.escape(row.name)}</b><br>"
                    f"{cost.label.lower()} {headlines.interval_words(row, cost.key)} ms<br>"
                    + ("" if gain == SAVED else f"{headlines.interval_words(row, gain)}%<br>")
                    + f"{megabytes(row.memory_bytes)} MB<extra></extra>"
                ),
            )
        )
    for label in placed:
        row = drawn[label.mark]
        said = [
            f"<b>{base.escape(names[index])}</b>" if drawn[index] in front else base.escape(names[index])
            for index in label.marks[: label.named]
        ]
        notes.append(
            {
                "x": math.log10(xs[label.mark][1]),
                "y": ys[label.mark][1],
                "text": ", ".join(said) + label.more,
                **labels.beside(label, sizes[label.mark], look),
                "font": {"size": 13, "color": look.text if row in front else look.muted},
                "bgcolor": fade(look.background, 0.72),
                "borderpad": 1,
            }
        )
    figure.add_traces(traces)
    ends = [f"{y_low:.1f}" if y_span < 10 else f"{y_low:.0f}", f"{y_high:.0f}"]
    figure.update_layout(annotations=notes, margin={"l": base.value_room(ends)})
    figure.update_xaxes(title_text=AXES[cost.key], **base.log_axis(x_low, x_high))
    figure.update_yaxes(title_text=metric.header, range=[y_low, y_high], nticks=7)
    return figure


def important(rows: Sequence[Row], front: Sequence[Row], cost: str = "latency_p50_s") -> list[int]:
    """The rows whose names a chart keeps if not all have room: the baseline, the fastest, those of the front."""
    fastest = min(range(len(rows)), key=lambda index: rows[index].figure(cost), default=0)
    base_line = [index for index, row in enumerate(rows) if row.baseline]
    return [*base_line, fastest, *(index for index, row in enumerate(rows) if row in front)] if rows else []


def _size(row: Row, largest: float) -> float:
    """The size of a mark; its area shows the peak of memory."""
    return max(SMALLEST, LARGEST * math.sqrt(row.memory_bytes / largest)) if row.memory_bytes else 12.0


def axis_key(rows: Sequence[Row]) -> str:
    """The metric shown against latency: that of the answers, or SAVED if the answers mean nothing."""
    return SAVED if untaught(rows) and any(row.memory_bytes for row in rows) else gain_key(list(rows))


def text_time_words(rows: Sequence[Row]) -> str:
    """A sentence on why the axis shows the time per text instead of latency."""
    return f"Time a text: 1 / (samples/s), as batches of {words.batch_sizes(rows)} take different times."


def _directions(gain: str, cost: Metric, drawn: Sequence[Row]) -> str:
    said = ["Lower left is better." if gain == SAVED else "Upper left is better."]
    if cost.key == "text_s":
        said.append(text_time_words(drawn))
    said.append("Bars: 95% intervals; memory has none." if gain == SAVED else "Bars: 95% intervals.")
    said.append("Hollow: beaten in both as measured, or not valid.")
    if gain == SAVED:
        said.append("Answers of random weights say nothing.")
    return " ".join(said)


def _shown(row: Row, key: str, low: str | None, high: str | None, factor: float) -> tuple[float, float, float]:
    value = row.figure(key) * factor
    from_, to = (row.figure(end) if end else None for end in (low, high))
    if from_ is None or to is None:
        return value, value, value
    return from_ * factor, value, to * factor


def _draw_front(
    figure: go.Figure, look: Theme, front: Sequence[Row], cost: tuple[str, float], gain: tuple[str, float]
) -> None:
    """Draw a line through the front; `cost` and `gain`: the key of an axis, and the factor to the shown unit."""
    if len(front) < 2:
        return
    figure.add_trace(
        go.Scatter(
            x=[row.figure(cost[0]) * cost[1] for row in front],
            y=[row.figure(gain[0]) * gain[1] for row in front],
            mode="lines",
            line={"color": look.line, "width": 1.5, "shape": "hv"},
            name="Pareto front",
            hoverinfo="skip",
        )
    )
