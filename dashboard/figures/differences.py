"""Each row against the baseline: speed-ups and accuracy differences, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import plotly.graph_objects as go

from dashboard.figures import base
from dashboard.figures.keeping import kept
from dashboard.findings import headlines
from dashboard.metrics import METRICS
from dashboard.run_rows import Row, baseline_of, paired
from dashboard.style import Theme, marks
from engine.store.rows import present
from engine.units import points


@kept
def speedups(rows: Sequence[Row], look: Theme) -> go.Figure:
    """One row per measurement of `comparing.against`, with its speed-up. Rows of other runs show `across`, marked †."""
    apart = ""
    if any(row.across is not None for row in rows):
        apart = " †: of another run, not paired."
    figure = base.titled(
        look,
        headlines.throughput_title(paired(rows))
        if len(paired(rows)) > 1
        else "Speed-ups of different runs beside each other",
        f"Samples/s over the baseline's, round by round; bar: 95% interval over {base.n_words(rows)}.{apart} "
        "Dotted: baseline.",
        base.ROW_HEIGHT * len(rows),
    )
    shown = [_marked_across(row) for row in rows]
    metric = METRICS["speedup"]
    drawn = base.dots(figure, shown, marks(rows, look), look, metric, _why_no_speedup, baseline_of(shown))
    if drawn:
        figure.update_xaxes(title_text="Speed-up (×, log scale)", **base.log_axis(*base.log_range(drawn), base.NARROW))
    return figure


def _marked_across(row: Row) -> Row:
    """The row with its ratio across runs as its speed-up, and † after its name."""
    if row.across is None:
        return row
    across = row.across
    name = f"{row.name} †"
    return replace(row, speedup=across.ratio, speedup_low=across.low, speedup_high=across.high, name=name)


def _why_no_speedup(row: Row) -> str:
    if row.status != "measured":
        return str(row.status)
    return f"baseline of {row.run}" if row.own_baseline else "shares no rounds with the baseline"


@kept
def accuracy_differences(rows: Sequence[Row], look: Theme) -> go.Figure:
    """One row per measurement: accuracy minus the baseline's on the same examples, in points, with paired intervals."""
    counts = sorted({present(row.examples) for row in rows if row.accuracy_difference is not None})
    n = f"n = {counts[-1]:,} examples" if len(counts) == 1 else "n differs between rows"
    figure = base.titled(
        look,
        headlines.accuracy_title(rows),
        f"Accuracy less the baseline's on the same examples; bar: 95% interval of a paired bootstrap, {n}. "
        "Title: McNemar, Holm. Dotted: no difference.",
        base.ROW_HEIGHT * len(rows),
    )
    figure.add_vline(x=0, line={"color": look.line, "width": 1, "dash": "dot"}, layer="below")
    metric = replace(METRICS["accuracy_difference"], show=_signed)
    drawn = base.dots(figure, rows, marks(rows, look), look, metric, _why_no_difference, None)
    if drawn:
        low, high = min(*drawn, 0.0), max(*drawn, 0.0)
        free = max((high - low) * 0.08, 0.5)
        figure.update_xaxes(title_text="Accuracy, difference (points)", range=[low - free, high + free], nticks=7)
    return figure


def _signed(value: float | None) -> str:
    return "–" if value is None else points(value / 100)


def _why_no_difference(row: Row) -> str:
    if row.baseline:
        return "baseline"
    if row.status != "measured":
        return str(row.status)
    return "no accuracy: see the notes" if row.accuracy is None else "not on the baseline's examples"
