"""Latency distributions: the share of timed calls that took no longer, one step line per row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboard.figures import base
from dashboard.figures.keeping import kept
from dashboard.findings import headlines
from dashboard.run_rows import Row, paired
from dashboard.style import Mark, Theme, fade, marks
from engine.measurement import stats
from engine.units import milliseconds

POINTS = 400
"""Points of a line: as many as a screen can show, and few enough to send at once through a tunnel."""
TAIL = 0.95
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
"""Line styles of the first run, the second run, and so on."""
SYMBOLS = {0.95: "line-ew", 0.99: "x-thin"}
"""Quantile -> symbol: a dash across the line (lines are steep there), and a cross."""
SHOWN = 0.995
"""The axis ends where this share of every row's calls has been answered."""
LINE_PX = 18.0
"""Height of a name."""
MARK_PX = 12.0
"""Vertical distance that names keep from the marks of p50 and p95."""
NAMED = (4.0, 95.0)
"""Names are placed between these percentages of calls."""
AXIS = (-2.0, 102.0)


@kept
def ecdf(measured: Sequence[Row], latencies_s: Mapping[int, np.ndarray], look: Theme) -> go.Figure:
    """One step line per measurement, with marks at p50, p95 and p99 and the name beside it.

    `latencies_s`: measurement id -> float64 [timed calls]. The dash of a line shows the run of its row.
    """
    rows = [row for row in measured if len(latencies_s.get(row.id, ()))]
    height = tall(len(rows))
    marked = {"dash: p95": 0.95, "cross: p99": 0.99}
    carried = ", ".join(name for name, q in marked.items() if _any(rows, latencies_s, q))
    figure = base.titled(
        look,
        headlines.latency_title(paired(rows)) if len(paired(rows)) > 1 else "How long the timed calls took",
        f"Share of {base.n_words(rows)} that took no longer. Mark: p50; {carried or 'too few calls for p95'}. "
        "Further left is better.",
        height,
        share=1.6,
    )
    if not rows:
        return figure
    shades = marks(measured, look)
    runs = list(dict.fromkeys(row.run for row in rows))
    names = []
    traces: list[go.Scatter] = []
    low = min(float(latencies_s[row.id].min()) for row in rows) * 1e3
    high = max(float(np.quantile(latencies_s[row.id], SHOWN)) for row in rows) * 1e3
    for row in rows:
        latencies = latencies_s[row.id]
        x, y = steps(latencies)
        mark = shades[row.variant]
        traces.append(
            go.Scatter(
                x=x * 1e3,
                y=y * 100,
                mode="lines",
                name=row.name,
                line={"color": mark.color, "width": 2, "shape": "hv", "dash": DASHES[runs.index(row.run)]},
                hovertemplate=(
                    f"<b>{base.escape(row.name)}</b><br>%{{y:.1f}}% of calls within %{{x:.3g}} ms<extra></extra>"
                ),
            )
        )
        traces.append(_percentiles(row, latencies, mark, look))
        names.append((row, latencies))
    beyond = sum(int((latencies * 1e3 > high).sum()) for _, latencies in names)
    figure.add_traces(traces)
    figure.update_layout(annotations=_labels(look, names, height))
    low, high = base.log_range([low, high], pad=0.02)
    longest = max(len(row.name) for row, _ in names)
    # Names are to the right of their lines, so the slowest line needs room for its name.
    span = math.log(high / low)
    high *= math.exp(span * min(0.35, 7.2 * longest / 900))
    left_out = f"; {beyond:,} of the slowest beyond the edge" if beyond else ""
    figure.update_xaxes(title_text=f"Latency of a batch (ms, log scale{left_out})", **base.log_axis(low, high))
    figure.update_yaxes(title_text="Calls answered (%)", range=list(AXIS), tickvals=[0, 25, 50, 75, 95])
    return figure


def _percentiles(row: Row, latencies_s: np.ndarray, mark: Mark, look: Theme) -> go.Scatter:
    """The marks on a row's line, in one trace, as many traces are slow to draw."""
    found = {q: stats.percentile(latencies_s, q) for q in stats.PERCENTILE_CALLS}
    values = {q: value for q, value in found.items() if value is not None}
    median = base.filled(row, mark, look, size=10)
    crossing: dict[str, Any] = {"size": 11, "line": {"color": mark.color, "width": 2.5}}
    looks = [crossing | {"symbol": SYMBOLS[q]} if q in SYMBOLS else median for q in values]
    return go.Scatter(
        x=[value * 1e3 for value in values.values()],
        y=[q * 100 for q in values],
        mode="markers",
        name=f"{row.name}, percentiles",
        marker={
            "symbol": [each["symbol"] for each in looks],
            "size": [each["size"] for each in looks],
            "color": median["color"],
            "line": {key: [each["line"][key] for each in looks] for key in ("color", "width")},
        },
        text=[f"p{round(q * 100)}: {milliseconds(value)} ms" for q, value in values.items()],
        hovertemplate=f"<b>{base.escape(row.name)}</b><br>%{{text}}<extra></extra>",
    )


def steps(latencies_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of the empirical distribution: seconds of a call, and the share of calls that took no longer.

    Of more than POINTS calls, about POINTS are taken, more densely in the tail. Both arrays are float32.
    """
    ordered = np.sort(latencies_s)
    n = len(ordered)
    ranks = np.arange(1, n + 1)
    if n > POINTS:
        body = np.linspace(1, TAIL * n, POINTS * 3 // 4)
        tail = np.linspace(TAIL * n, n, POINTS - len(body))
        ranks = np.unique(np.concatenate([body, tail]).round().astype(int))
    x, y = ordered[ranks - 1], ranks / n
    # float32 is finer than a screen, and half as much to send as float64.
    return np.concatenate([x[:1], x]).astype(np.float32), np.concatenate([[0.0], y]).astype(np.float32)


def _any(rows: Sequence[Row], latencies_s: Mapping[int, np.ndarray], q: float) -> bool:
    return any(len(latencies_s[row.id]) >= stats.PERCENTILE_CALLS[q] for row in rows)


def tall(count: int) -> int:
    """The height in px of a plot in which `count` names have a line each."""
    share = (NAMED[1] - NAMED[0]) / (AXIS[1] - AXIS[0])
    return max(300, math.ceil((LINE_PX * count + 3 * MARK_PX) / share))


def _labels(look: Theme, named: Sequence[tuple[Row, np.ndarray]], height_px: int) -> list[dict[str, Any]]:
    """Each row's name to the right of its line. Every name has its own height, so none covers another."""
    ordered = sorted(named, key=lambda item: float(np.median(item[1])))
    # Heights near a mark are left out, so that no name covers a mark.
    aside = MARK_PX * (AXIS[1] - AXIS[0]) / height_px
    free = np.linspace(NAMED[1] - aside, NAMED[0], 1000)
    free = free[np.abs(free - 50) >= aside] / 100
    heights = free[np.linspace(0, len(free) - 1, len(ordered)).round().astype(int)]
    return [
        {
            "x": math.log10(float(np.quantile(latencies, height)) * 1e3),
            "y": 100 * height,
            "text": f"<b>{base.escape(row.name)}</b>" if row.baseline else base.escape(row.name),
            "showarrow": False,
            "xanchor": "left",
            "xshift": 6,
            "font": {"size": 13, "color": look.text},
            "bgcolor": fade(look.background, 0.72),
            "borderpad": 1,
        }
        for (row, latencies), height in zip(ordered, heights, strict=True)
    ]
