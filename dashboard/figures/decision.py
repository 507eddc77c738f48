"""The variants within the limits: latency against another limited quantity, the region beyond a limit shaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.figures import base, labels
from dashboard.figures.keeping import kept
from dashboard.figures.tradeoff import AXES, PLOT_WIDTH, tall, text_time_words
from dashboard.findings import decision_words
from dashboard.findings.deciding import Decision, Judged, Quantity
from dashboard.run_rows import cost_key
from dashboard.style import Theme, fade, marks
from engine.measurement.stats import Interval

SIZE = 13.0
SPREAD = 6.0
"""The y axis is logarithmic if the largest value over the smallest exceeds this."""
OUT_OF_REACH = 1e3
"""Reach of a shaded region beyond the axis: a multiple of its right end, or of the axis span."""


@kept
def decision(decided: Decision, look: Theme, against: str) -> go.Figure:
    """One mark per variant: solid if it remains, hollow and grey if not.

    `against`: a key of QUANTITIES other than p95, for the y axis. For accuracy, the axis shows the difference from the
    baseline and up is better; for the others, down is better.
    """
    quantity = decided.quantities[against]
    tails = any(judged.row.latency_p95_s is not None for judged in decided.judged)
    x_key = "latency_p95_s" if tails else "latency_p50_s"
    measured = [judged.row for judged in decided.judged if judged.row.figure(x_key) is not None]
    # A limit on latency can only be drawn on an axis of latency.
    by_text = cost_key(measured) == "text_s" and decided.limits.latency_p95_s is None
    x_key = "text_s" if by_text else x_key
    drawn = [j for j in decided.judged if j.row.figure(x_key) is not None and quantity.read(j.row) is not None]
    sign = -1.0 if against == "accuracy_lost" else 1.0
    label = "Accuracy beside the baseline's (points)" if sign < 0 else f"{quantity.label} ({quantity.unit})"
    height = tall(len(drawn))
    title, about = decision_words.title(decided, against), _subtitle(decided, drawn, quantity, sign, by_text)
    if not drawn:
        figure = base.titled(look, title, about, height, share=0.82)
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        return figure
    xs = [j.row.figure(x_key) * 1e3 for j in drawn]
    ys = [_bounds(quantity.read(j.row), quantity.factor * sign) for j in drawn]
    allowed = decided.limits.given.get(against)
    y_limit = None if allowed is None else allowed * quantity.factor * sign
    x_limit = decided.limits.latency_p95_s
    x_limit = None if x_limit is None or not tails else x_limit * 1e3
    x_range = base.log_range([*xs, *([x_limit] if x_limit else [])], pad=0.14)
    values = [value for y in ys for value in y] + ([] if y_limit is None else [y_limit])
    # On a linear axis, one variant that takes many times as much would push all others onto the axis.
    log_y = sign > 0 and min(values) > 0 and max(values) / min(values) > SPREAD
    y_range = base.log_range(values, pad=0.16) if log_y else _span(values)
    shapes, notes = _shade(look, x_limit, y_limit, sign, x_range, y_range, log_y)
    shades = marks([j.row for j in decided.judged], look)
    # All are added at once, as Plotly checks the existing ones again with each addition.
    traces: list[go.Scatter] = []
    for judged, x, (low, value, high) in zip(drawn, xs, ys, strict=True):
        mark = shades[judged.row.variant]
        color = mark.color if judged.remains else look.muted
        traces.append(
            go.Scatter(
                x=[x],
                y=[value],
                mode="markers",
                name=judged.row.name,
                marker={
                    "symbol": mark.symbol,
                    "size": SIZE,
                    "color": color if judged.remains else look.background,
                    "line": {"color": color, "width": 1 if judged.remains else 2},
                },
                error_y=base.error_bar(low, value, high, fade(color, 0.6), 1.4) if low < high else None,
                hovertemplate=(
                    f"<b>{base.escape(judged.row.name)}</b><br>{quantity.show(x)} ms<br>{quantity.show(value)}"
                    f" {quantity.unit}<br>{'remains' if judged.remains else 'out'}<extra></extra>"
                ),
            )
        )
    named, without = _labels(look, decided, drawn, xs, [y[1] for y in ys], x_range, y_range, log_y, height)
    figure = base.titled(look, title, about + without, height, share=0.82)
    x_title = AXES["text_s"] if by_text else f"Latency of a batch, {'p95' if tails else 'p50'} (ms, log scale)"
    x_axis = {"title": {"text": x_title}, **base.log_axis(*x_range)}
    if log_y:
        y_axis = {"title": {"text": f"{label.removesuffix(')')}, log scale)"}, **base.log_axis(*y_range)}
    else:
        y_axis = {"title": {"text": label}, "range": list(y_range), "nticks": 7}
    figure.add_traces(traces)
    ends = (
        y_axis["ticktext"]
        if log_y
        else [f"{end:.1f}" if y_range[1] - y_range[0] < 10 else f"{end:.0f}" for end in y_range]
    )
    margin = {"l": base.value_room(ends)}
    figure.update_layout(annotations=notes + named, shapes=shapes, xaxis=x_axis, yaxis=y_axis, margin=margin)
    return figure


def _subtitle(
    decided: Decision, drawn: Sequence[Judged], quantity: Quantity, sign: float, by_text: bool = False
) -> str:
    said = ["Lower left is better." if sign > 0 else "Upper left is better."]
    if by_text:
        said.append(text_time_words([judged.row for judged in drawn]))
    if quantity.key in decided.limits.given or "latency_p95_s" in decided.limits.given:
        said.append("Shaded: beyond a limit.")
    if any(not judged.remains for judged in drawn):
        said.append("Hollow and grey: out.")
    if sign < 0:
        counts = sorted({j.row.examples for j in drawn if j.row.examples})
        n = f", n = {counts[-1]:,} examples" if counts else ""
        said.append(f"Bars: paired 95% intervals{n}.")
    else:
        said.append("One reading each, without an interval.")
    measured = sum(j.row.status == "measured" for j in decided.judged)
    if left := measured - len(drawn):
        said.append(f"{left} without {quantity.label.lower()} or latency left out.")
    return " ".join(said)


def _bounds(figure: Interval | None, factor: float) -> tuple[float, float, float]:
    assert figure is not None
    low, high = sorted((figure.low * factor, figure.high * factor))
    return low, figure.estimate * factor, high


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    free = max(0.2 * (high - low), 0.04 * abs(high), 0.5)
    return (max(0.0, low - free) if low >= 0 and high > 50 else low - free), high + free


def _shade(
    look: Theme,
    x_limit: float | None,
    y_limit: float | None,
    sign: float,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    log_y: bool,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Shapes that fill the region beyond each limit, and the annotations with the limits at their lines."""
    fill = {"type": "rect", "fillcolor": fade(look.line, 0.2), "line": {"width": 0}, "layer": "below"}
    line = {"type": "line", "line": {"color": look.muted, "width": 1.2, "dash": "dash"}, "layer": "below"}
    note = {"showarrow": False, "font": {"size": 12, "color": look.muted}}
    shapes: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    if x_limit is not None:
        tall = {"y0": 0, "y1": 1, "yref": "paper"}
        shapes.append({"x0": x_limit, "x1": x_range[1] * OUT_OF_REACH, **tall, **fill})
        shapes.append({"x0": x_limit, "x1": x_limit, **tall, **line})
        at = {"x": math.log10(x_limit), "y": 0, "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        notes.append({"text": f"{x_limit:g} ms", **at, **note})
    if y_limit is not None:
        wide = {"x0": 0, "x1": 1, "xref": "paper"}
        span = y_range[1] - y_range[0]
        far = y_range[1] + OUT_OF_REACH * span if sign > 0 else y_range[0] - OUT_OF_REACH * span
        shapes.append({"y0": y_limit, "y1": far, **wide, **fill})
        shapes.append({"y0": y_limit, "y1": y_limit, **wide, **line})
        at = {"x": 1, "xref": "paper", "y": math.log10(y_limit) if log_y else y_limit, "xanchor": "right"}
        said = {"text": f"{y_limit:g}".replace("-", "−"), "yanchor": "bottom" if sign > 0 else "top"}
        notes.append({**said, **at, **note})
    return shapes, notes


def _labels(
    look: Theme,
    decided: Decision,
    drawn: Sequence[Judged],
    xs: Sequence[float],
    ys: Sequence[float],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    log_y: bool,
    height: int,
) -> tuple[list[dict[str, Any]], str]:
    """The names at the marks (the fastest bold, those out muted), and a sentence on the marks without a name."""
    x_low, x_high = (math.log(value) for value in x_range)
    # On a log axis, Plotly takes the logarithm as the place of an annotation, but the value for all other items.
    ys = [math.log10(y) for y in ys] if log_y else ys
    bottom, top = (math.log10(value) for value in y_range) if log_y else y_range
    centres = [
        (
            PLOT_WIDTH * (math.log(x) - x_low) / (x_high - x_low),
            height * (1 - (y - bottom) / (top - bottom)),
        )
        for x, y in zip(xs, ys, strict=True)
    ]
    names = [labels.shortened(judged.row.name) for judged in drawn]
    important = [index for index, judged in enumerate(drawn) if judged.row is decided.fastest or judged.row.baseline]
    important += [index for index, judged in enumerate(drawn) if judged.remains]
    notes = []
    placed = labels.arrange(names, centres, [SIZE] * len(drawn), (PLOT_WIDTH, height), important)
    for label in placed:
        judged = drawn[label.mark]
        name = base.escape(label.text(names))
        notes.append(
            {
                "x": math.log10(xs[label.mark]),
                "y": ys[label.mark],
                "text": f"<b>{name}</b>" if judged.row is decided.fastest else name,
                **labels.beside(label, SIZE, look),
                "font": {"size": 13, "color": look.text if judged.remains else look.muted},
                "bgcolor": fade(look.background, 0.72),
                "borderpad": 1,
            }
        )
    return notes, labels.unnamed(placed, names)
