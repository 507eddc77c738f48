"""Measured results beside published ones, each against the baseline of its own side."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboard.figures import base
from dashboard.figures.keeping import kept
from dashboard.findings import headlines
from dashboard.run_rows import Row, baseline_of
from dashboard.style import Theme, marks
from engine.store.rows import PublishedRow
from engine.units import points, times

Pair = tuple[Row, PublishedRow, PublishedRow]
PANEL_GAP = 0.055


def pairs(rows: Sequence[Row], published: Sequence[PublishedRow]) -> list[Pair]:
    """Each measured row that names a published row, with the published row and the baseline of its study."""
    by_key = {f"{theirs.study}/{theirs.title}": theirs for theirs in published}
    bases = {theirs.study: theirs for theirs in published if theirs.baseline}
    found = []
    for row in rows:
        theirs = by_key.get(row.published or "")
        if row.status == "measured" and theirs is not None and theirs.study in bases:
            found.append((row, theirs, bases[theirs.study]))
    return found


@kept
def published(rows: Sequence[Row], reported: Sequence[PublishedRow], look: Theme) -> go.Figure:
    """Three panels: speed-up, memory ratio, accuracy difference; one row per variant."""
    found = pairs(rows, reported)
    device = found[0][1].device_name if found else ""
    meaningless = any(not theirs.accuracy_meaningful for _, theirs, _ in found)
    chance = " Published accuracies are chance: two labels were compared with four." if meaningless else ""
    figure = base.titled(
        look,
        headlines.published_title(found),
        f"Filled: measured here, with 95% interval. Cross: published ({device}), without one. "
        f"Each against its own side's baseline.{chance}",
        base.ROW_HEIGHT * max(len(found), 1) + 22,
        share=1.6,
    )
    width = (1 - 2 * PANEL_GAP) / 3
    shades = marks(rows, look)
    baseline = baseline_of(rows)
    panels = [
        ("Speed-up (×, log scale)", _speed(found)),
        (f"Peak memory, ratio (×, log scale){_kinds(found)}", _memory(found)),
        ("Accuracy difference (points)", _accuracy(found)),
    ]
    for number, (title, values) in enumerate(panels, 1):
        suffix = "" if number == 1 else str(number)
        start = (number - 1) * (width + PANEL_GAP)
        _panel(figure, look, f"x{suffix}", values, shades, log=number < 3)
        limits = [v for _, mine, low, high, theirs in values for v in (mine, low, high, theirs) if v is not None]
        axis: dict = {"domain": [start, start + width], "anchor": "y", "title": {"text": title}}
        if number < 3 and limits:
            axis |= base.log_axis(*base.log_range([*limits, 1.0], pad=0.1))
        elif limits:
            low, high = min(limits), max(limits)
            free = max(0.1 * (high - low), 1)
            axis |= {"range": [min(low, 0) - free, max(high, 0) + free], "nticks": 6}
        figure.update_layout({f"xaxis{suffix}": axis})
    base.name_rows(figure, [row.name for row, _, _ in found])
    if baseline is None or not found:
        figure.update_xaxes(visible=False)
    return figure


Value = tuple[Row, float | None, float | None, float | None, float | None]
"""A row, its measured value, the low and high ends of the interval, and the published value."""


def _speed(found: Sequence[Pair]) -> list[Value]:
    return [
        (
            row,
            row.speedup,
            row.speedup_low,
            row.speedup_high,
            theirs_base.latency_s / theirs.latency_s if theirs.latency_s and theirs_base.latency_s else None,
        )
        for row, theirs, theirs_base in found
    ]


def _memory(found: Sequence[Pair]) -> list[Value]:
    return [
        (
            row,
            row.memory_ratio,
            None,
            None,
            theirs.vram_bytes / theirs_base.vram_bytes if theirs.vram_bytes and theirs_base.vram_bytes else None,
        )
        for row, theirs, theirs_base in found
    ]


def _accuracy(found: Sequence[Pair]) -> list[Value]:
    values: list[Value] = []
    for row, theirs, theirs_base in found:
        measured = [row.figure(f"accuracy_difference{end}") for end in ("", "_low", "_high")]
        if row.baseline and row.accuracy is not None:
            measured = [0.0, None, None]
        other = None
        if theirs.accuracy is not None and theirs_base.accuracy is not None:
            other = 100 * (theirs.accuracy - theirs_base.accuracy)
        mine, low, high = (None if value is None else 100 * value for value in measured)
        values.append((row, mine, low, high, other))
    return values


def _kinds(found: Sequence[Pair]) -> str:
    return ": RAM here, VRAM published" if found and found[0][0].memory_kind == "ram" else ""


def _panel(figure: go.Figure, look: Theme, axis: str, values: Sequence[Value], shades: dict, log: bool) -> None:
    reference = 1.0 if log else 0.0
    figure.add_shape(
        type="line",
        xref=axis,
        yref="y domain",
        x0=reference,
        x1=reference,
        y0=0,
        y1=1,
        line={"color": look.line, "width": 1, "dash": "dot"},
        layer="below",
    )
    for position, (row, mine, low, high, theirs) in enumerate(values):
        mark = shades[row.variant]
        if mine is not None and theirs is not None:
            figure.add_trace(
                go.Scatter(
                    x=[mine, theirs],
                    y=[position, position],
                    xaxis=axis,
                    mode="lines",
                    line={"color": look.grid, "width": 5},
                    hoverinfo="skip",
                )
            )
        if theirs is not None:
            figure.add_trace(
                go.Scatter(
                    x=[theirs],
                    y=[position],
                    xaxis=axis,
                    mode="markers",
                    name=f"{row.name}, published",
                    marker={"symbol": "x-thin", "size": 9, "line": {"color": look.muted, "width": 2}},
                    hovertemplate=(f"<b>{base.escape(row.name)}</b><br>published: {_text(theirs, log)}<extra></extra>"),
                )
            )
        if mine is not None:
            bar = None
            if low is not None and high is not None and low < high:
                bar = base.error_bar(low, mine, high, mark.color)
            limits = "" if bar is None else f"<br>95%: {_text(low, log)} to {_text(high, log)}"
            figure.add_trace(
                go.Scatter(
                    x=[mine],
                    y=[position],
                    xaxis=axis,
                    mode="markers",
                    name=f"{row.name}, measured",
                    marker=base.filled(row, mark, look),
                    error_x=bar,
                    hovertemplate=(
                        f"<b>{base.escape(row.name)}</b><br>measured: {_text(mine, log)}{limits}<extra></extra>"
                    ),
                )
            )


def _text(value: float | None, ratio: bool) -> str:
    if value is None:
        return "–"
    return times(value) if ratio else f"{points(value / 100)} points"
