"""Energy for 1,000 texts, with idle power subtracted. One reading."""

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
def energy(rows: Sequence[Row], look: Theme) -> go.Figure:
    """One row per measurement, with a mark for the joules."""
    figure = base.titled(
        look,
        headlines.energy_title(rows),
        "Mark: joules by the device's counter, idle power subtracted. One reading, so no interval. Dotted: baseline. "
        "Less is better.",
        base.ROW_HEIGHT * len(rows),
    )
    metric = METRICS[headlines.ENERGY]
    drawn = base.dots(figure, rows, marks(rows, look), look, metric, base.missing, baseline_of(rows))
    # A counter may read zero, or less than the idle energy; neither can be drawn on a log axis.
    above = [value for value in drawn if value > 0]
    if above:
        axis = base.log_axis(*base.log_range(above), base.NARROW)
        figure.update_xaxes(title_text=f"{metric.header}, log scale", **axis)
    return figure
