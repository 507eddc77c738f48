"""Accuracy with Wilson's interval; agreement with the baseline where there are no labels."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboard.figures import base
from dashboard.figures.keeping import kept
from dashboard.findings import headlines
from dashboard.metrics import METRICS
from dashboard.run_rows import Row, baseline_of
from dashboard.style import Theme, marks


def gain_key(rows: list[Row]) -> str:
    """The metric of a run's answers: accuracy, or agreement where no accuracy is known."""
    return "accuracy" if any(row.accuracy is not None for row in rows) else "agreement"


@kept
def accuracy(rows: Sequence[Row], look: Theme) -> go.Figure:
    """One row per measurement: a mark for the share, a bar for Wilson's 95% interval."""
    key = gain_key(list(rows))
    metric = METRICS[key]
    counts = sorted({row.examples for row in rows if row.examples})
    n = f"n = {counts[-1]:,} examples, the same for all" if len(counts) == 1 else "n differs between variants"
    tested = " Differences are tested in pairs (McNemar, Holm)." if key == "accuracy" else ""
    figure = base.titled(
        look,
        headlines.accuracy_title(rows),
        f"Mark: share of examples; bar: Wilson's 95% interval; {n}.{tested}",
        base.ROW_HEIGHT * len(rows),
    )

    def why(row: Row) -> str:
        if row.status != "measured":
            return row.status
        return "no accuracy: see the notes" if row.accuracy_reason else "not known"

    reference = baseline_of(rows) if key == "accuracy" else None
    drawn = base.dots(figure, rows, marks(rows, look), look, metric, why, reference)
    if drawn:
        low, high = min(drawn), max(drawn)
        free = max((high - low) * 0.08, 0.5)
        # Beyond 0 and 100 the axis needs only the room for a mark at the limit.
        beyond = max(0.05 * (high - low), 0.6)
        span = [max(-beyond, low - free), min(100 + beyond, high + free)]
        figure.update_xaxes(title_text=f"{metric.label} (%)", range=span, nticks=7)
    return figure
