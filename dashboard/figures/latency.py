"""Latency of a batch: the median with its interval, and the 95th percentile."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboard.figures import base
from dashboard.figures.keeping import kept
from dashboard.findings import headlines
from dashboard.metrics import METRICS
from dashboard.run_rows import Row, baseline_of
from dashboard.style import Theme, marks


@kept
def latency(rows: Sequence[Row], look: Theme) -> go.Figure:
    """One row per measurement: a mark for p50, a bar for the interval, a tick at p95."""
    metric = METRICS["latency_p50_s"]
    tails = [row for row in rows if row.latency_p95_s is not None]
    tick = "; tick: 95th percentile" if tails else "; too few calls for a 95th percentile"
    figure = base.titled(
        look,
        headlines.latency_title(rows),
        f"Mark: median of {base.n_words(rows)}; bar: 95% interval{tick}. Dotted: baseline. Less is better.",
        base.ROW_HEIGHT * len(rows),
    )
    drawn = base.dots(figure, rows, marks(rows, look), look, metric, base.missing, baseline_of(rows))
    shades = marks(rows, look)
    for position, row in enumerate(rows):
        if row.latency_p95_s is None:
            continue
        value = row.latency_p95_s * metric.factor
        drawn.append(value)
        figure.add_trace(
            go.Scatter(
                x=[value],
                y=[position],
                mode="markers",
                name=f"{row.name}, p95",
                marker={
                    "symbol": "line-ns",
                    "size": 12,
                    "line": {"color": shades[row.variant].color, "width": 2},
                },
                hovertemplate=(
                    f"<b>{base.escape(row.name)}</b><br>95th percentile: "
                    f"{metric.text(row.latency_p95_s)} ms<extra></extra>"
                ),
            )
        )
    if drawn:
        axis = base.log_axis(*base.log_range(drawn), base.NARROW)
        figure.update_xaxes(title_text="Latency of a batch (ms, log scale)", **axis)
    return figure
