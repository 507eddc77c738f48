"""Throughput in samples/s with its interval."""

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
def throughput(rows: Sequence[Row], look: Theme) -> go.Figure:
    """One row per measurement: a mark for samples/s, a bar for the interval."""
    figure = base.titled(
        look,
        headlines.throughput_title(rows),
        f"Mark: samples/s over {base.n_words(rows)}; bar: 95% interval. Dotted: baseline. More is better.",
        base.ROW_HEIGHT * len(rows),
    )
    metric = METRICS["throughput_samples_per_s"]
    drawn = base.dots(figure, rows, marks(rows, look), look, metric, base.missing, baseline_of(rows))
    if drawn:
        axis = base.log_axis(*base.log_range(drawn), base.NARROW)
        figure.update_xaxes(title_text="Throughput (samples/s, log scale)", **axis)
    return figure
