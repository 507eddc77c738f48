"""Throughput over batch size: one line per variant with its interval, labelled at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from dashboard.figures import base
from dashboard.figures.keeping import kept
from dashboard.metrics import METRICS
from dashboard.run_rows import Row, usable
from dashboard.style import Theme, fade, marks
from engine.report.sweep import NEAR, Sweep, sweep
from engine.units import times

SWEPT = "throughput_samples_per_s"


@kept
def over_batch_size(measured: Sequence[Row], look: Theme, key: str = SWEPT) -> go.Figure:
    """Metric `key` of each variant at each batch size of a run."""
    rows = [row for row in measured if usable(row) and row.figure(key) is not None]
    metric = METRICS[key]
    sizes = sorted({row.batch_size for row in rows})
    figure = base.titled(
        look,
        _title(rows, sizes, key),
        f"{metric.header} of each variant; band: 95% interval."
        + (f" ★ most; ◯ knee: the smallest batch that may reach {NEAR:.0%} of it." if key == SWEPT else ""),
        280,
    )
    if not rows:
        return figure
    shades = marks(measured, look)
    values: list[float] = []
    ends = []
    for variant in dict.fromkeys(row.variant for row in rows):
        line = sorted((row for row in rows if row.variant == variant), key=lambda row: row.batch_size)
        mark = shades[variant]
        xs = [row.batch_size for row in line]
        ys = [row.figure(key) * metric.factor for row in line]
        lows = [(row.figure(metric.low) or row.figure(key)) * metric.factor for row in line if metric.low]
        highs = [(row.figure(metric.high) or row.figure(key)) * metric.factor for row in line if metric.high]
        values += ys + lows + highs
        if lows and highs:
            figure.add_trace(
                go.Scatter(
                    x=xs + xs[::-1],
                    y=highs + lows[::-1],
                    fill="toself",
                    fillcolor=fade(mark.color, 0.16),
                    line={"width": 0},
                    mode="lines",
                    hoverinfo="skip",
                )
            )
        figure.add_trace(
            go.Scatter(
                x=xs,
                y=ys,
                mode="lines+markers",
                name=line[0].title,
                line={"color": mark.color, "width": 2},
                marker={"symbol": mark.symbol, "size": 9, "color": mark.color},
                hovertemplate=(
                    f"<b>{base.escape(line[0].title)}</b><br>batch %{{x}}: %{{y:.3s}} {metric.unit}<extra></extra>"
                ),
            )
        )
        ends.append((xs[-1], ys[-1], line[0].title))
        if key == SWEPT and (found := sweep(line)) is not None:
            _mark(figure, found, metric.factor, mark.color)
    low, high = base.log_range(values)
    _label_ends(figure, look, ends, low, high)
    figure.update_yaxes(title_text=f"{metric.header}, log scale", **base.log_axis(low, high))
    figure.update_xaxes(
        title_text="Batch size (examples, log scale)",
        type="log",
        tickvals=sizes,
        ticktext=[str(size) for size in sizes],
        range=[math.log10(sizes[0]) - 0.05, math.log10(sizes[-1]) + 0.05],
    )
    longest = max(len(title) for _, _, title in ends)
    figure.update_layout(margin={"r": 24 + round(7.4 * longest)})
    return figure


def _mark(figure: go.Figure, found: Sweep, factor: float, color: str) -> None:
    """A star at the most samples/s, a ring at the knee."""
    for row, symbol, size in ((found.best, "star", 15), (found.knee, "circle-open", 19)):
        figure.add_trace(
            go.Scatter(
                x=[row.batch_size],
                y=[row.figure(SWEPT) * factor],
                mode="markers",
                marker={"symbol": symbol, "size": size, "color": color, "line": {"width": 2}},
                hoverinfo="skip",
            )
        )


def _label_ends(figure: go.Figure, look: Theme, ends: list[tuple[int, float, str]], low: float, high: float) -> None:
    """Write each line's name at its end. Names that would overlap are moved apart."""
    span = math.log(high) - math.log(low)
    previous = -math.inf
    for _, value, title in sorted(ends, key=lambda end: end[1]):
        line_end = 280 * (math.log(value) - math.log(low)) / span
        place = max(line_end, previous + 17)
        previous = place
        figure.add_annotation(
            x=1,
            xref="paper",
            y=math.log10(value),
            text=base.escape(title),
            showarrow=False,
            xanchor="left",
            xshift=8,
            yshift=place - line_end,
            font={"size": 13, "color": look.text},
        )


def _title(rows: list[Row], sizes: list[int], key: str) -> str:
    if not rows:
        return "No batch size was measured"
    baseline = [row for row in rows if row.baseline]
    if len(sizes) > 1 and baseline:
        first = min(baseline, key=lambda row: row.batch_size)
        last = max(baseline, key=lambda row: row.batch_size)
        said = f"From batch {first.batch_size} to {last.batch_size}, {first.title}"
        if first is last:
            return f"{METRICS[key].label} over batch size"
        ratio = times(last.figure(key) / first.figure(key))
        if METRICS[key].better == "lower":
            return f"{said} takes {ratio} as long for a batch"
        return f"{said} answers {ratio} as many samples/s"
    return f"{METRICS[key].label} over batch size"
