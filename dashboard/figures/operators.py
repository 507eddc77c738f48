"""The time of a profiled call: by kind of work for every variant, by operator for one variant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.figures import base
from dashboard.figures.keeping import kept
from dashboard.figures.kernel_names import fitted, readable
from dashboard.findings import headlines
from dashboard.run_rows import Row
from dashboard.style import Theme, fade
from engine.measurement import operators
from engine.measurement.operators import KINDS
from engine.units import milliseconds, percent, share_percent

BETWEEN = "between"
LEGEND, LEGEND_LINE, LEGEND_COLUMNS = 12, 20, 3
"""Height of a legend without its lines, height of a line, and entries per line in a narrow window."""
NAME_AT_BAR, NAME_IN_TITLE = 34, 48
"""The most characters of an operator's name."""


def of(row: Row) -> dict[str, Any] | None:
    """The row's profile, or None if it has none."""
    found = (row.audit or {}).get("operators")
    return found if found and not found.get("reason") else None


def hues(look: Theme) -> dict[str | None, str]:
    """Kind of work -> colour. None stands for the sum of the remaining operators and for the time between operators."""
    return {
        "products": look.accent,
        "attention": fade(look.accent, 0.55),
        "quantising": look.hues["eight-bit"],
        "elementwise": look.muted,
        "copies": fade(look.muted, 0.5),
        "other": fade(look.hues["options"], 0.6),
        None: look.grid,
    }


@kept
def by_kind(rows: Sequence[Row], look: Theme) -> go.Figure:
    """One bar per variant: the time of a profiled call in ms, by the kind of work of its operators.

    Profiles in which only the launches were timed are left out, as they do not show the work itself.
    """
    found_of = [(row, of(row)) for row in rows if row.status == "measured"]
    known = [(row, found) for row, found in found_of if found and found["by"] != "launches"]
    figure = base.titled(
        look,
        headlines.operators_title([row for row, _ in known]),
        "A call under the profiler, apart from all timing, by kind of work; “between”: time of no operator.",
        base.ROW_HEIGHT * len(known),
        share=1.5,
    )
    colours = hues(look)
    names = {key: words for key, (words, _) in KINDS.items()} | {BETWEEN: "between operators"}
    for key, words in names.items():
        seconds = [_seconds(found, key) for _, found in known]
        if not any(seconds):
            continue
        figure.add_trace(
            go.Bar(
                x=[value * 1e3 for value in seconds],
                y=list(range(len(known))),
                orientation="h",
                name=words,
                marker={"color": colours.get(key, look.grid), "line": {"width": 1, "color": look.background}},
                customdata=[
                    f"<b>{base.escape(row.name)}</b><br>{words}: {milliseconds(value)} ms, "
                    f"{percent(value / _whole(found), 0)}%"
                    for (row, found), value in zip(known, seconds, strict=True)
                ],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    room = LEGEND + LEGEND_LINE * math.ceil(len(figure.data) / LEGEND_COLUMNS)
    figure.update_layout(
        barmode="stack",
        height=figure.layout.height + room,
        margin={"t": figure.layout.margin.t + room},
        bargap=0.4,
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
    )
    base.name_rows(figure, [row.name for row, _ in known])
    figure.update_xaxes(title_text="Time of a call (ms)", rangemode="tozero")
    if not known:
        figure.update_xaxes(visible=False)
    return figure


def _whole(found: Mapping[str, Any]) -> float:
    return max(found["wall_s"], found["seconds"])


def _seconds(found: Mapping[str, Any], key: str) -> float:
    return _whole(found) - found["seconds"] if key == BETWEEN else found["kinds"].get(key, 0.0)


@kept
def by_operator(row: Row, look: Theme) -> go.Figure:
    """One bar per operator of one variant, the longest first, then the rest and the time between operators."""
    found = of(row)
    assert found is not None
    lines = operators.lines(found)
    first = lines[0]
    figure = base.titled(
        look,
        f"{row.name}: {share_percent(first.share)}% of a call is {fitted(readable(first.name), NAME_IN_TITLE)}",
        f"Own time of each of its {found['by']} in ms and % of a call, {found['calls']} profiled.",
        26 * len(lines),
    )
    colours = hues(look)
    figure.add_trace(
        go.Bar(
            x=[line.seconds * 1e3 for line in lines],
            y=list(range(len(lines))),
            orientation="h",
            name=row.name,
            marker={"color": [colours[line.kind] for line in lines]},
            text=[f"{milliseconds(line.seconds)}, {share_percent(line.share)}%" for line in lines],
            textposition="outside",
            textfont={"size": 12, "color": look.text},
            cliponaxis=False,
            customdata=[f"<b>{base.escape(line.name)}</b><br>{milliseconds(line.seconds)} ms" for line in lines],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    base.name_rows(figure, [fitted(readable(line.name), NAME_AT_BAR) for line in lines])
    figure.update_layout(bargap=0.3, margin={"r": 84})
    figure.update_xaxes(title_text="Own time a call (ms)", rangemode="tozero")
    return figure
