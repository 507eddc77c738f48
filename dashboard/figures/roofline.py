"""Roofline: operations per second over operations per byte of every variant, below the device's measured ceilings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from dashboard.figures import base, labels
from dashboard.figures.keeping import kept
from dashboard.findings import headlines
from dashboard.run_rows import Row
from dashboard.style import Theme, fade, marks
from engine.measurement.bounds import DISPROVED, FASTER, operation_rate
from engine.store.rows import present
from engine.units import megabytes, share_percent, significant

PLOT_WIDTH, PLOT_HEIGHT = 820, 400
ROOF_LINE = 8
"""Height of a roof's line with the free space around it."""
ROOF_LABEL, SLOPE_LABEL, SLOPE_LABEL_WIDTH = 30, 32, 125
"""Height of the two lines of a roof's label, height of the slope's label, and the latter's width with its distance."""
STRETCHES = ((1.0, 1.0), (0.6, 1.0), (1.4, 1.0), (2.0, 1.0))
"""Factors of width and height by which the drawn plot may differ from the planned size."""


@dataclass(frozen=True)
class Point:
    """The place of one measurement."""

    row: Row
    operations_per_s: float
    intensity: float
    """Operations per byte if each weight is read once and nothing else is read. This is the upper bound."""
    least: float
    """Operations per byte if all data between operators goes through memory. This is the lower bound."""


def points(rows: Sequence[Row], bytes_per_s: float | None) -> list[Point]:
    """The places of the rows that have both a share of a ceiling and known bytes."""
    placed = []
    for row in rows:
        found = row.limits or {}
        rate, share = found.get("operations_per_s"), found.get("bandwidth_share")
        if row.limit_share is None or not (bytes_per_s and rate and share and found.get("compute_dtype")):
            continue
        most = max(found.get("traffic_share") or share, share)
        placed.append(Point(row, rate, rate / (share * bytes_per_s), rate / (most * bytes_per_s)))
    return placed


@dataclass(frozen=True)
class Roof:
    """The rate of the fastest matrix products in a dtype, over all libraries or of one library."""

    dtype: str
    operations_per_s: float
    way: Mapping[str, Any]
    library: str | None = None
    """The library of this roof, or None for the fastest of all libraries."""

    @property
    def name(self) -> str:
        own = f" by {self.library} alone" if self.library else ""
        return f"{self.dtype.upper()}{own} {operation_rate(self.operations_per_s, self.dtype)}"

    @property
    def spread(self) -> str:
        median, repeats = self.way.get("median_operations_per_s"), self.way.get("repeats")
        middle = f"median {operation_rate(median, self.dtype)}, " if median else ""
        return f"{middle}n = {repeats}" if repeats else middle.rstrip(", ")


def roofs(ceilings: Mapping[str, Any], drawn: Sequence[Point]) -> list[Roof]:
    """The ceilings of the dtypes of `drawn`, the lowest first, and those of libraries that are clearly slower.

    A library's ceiling is left out if one of its rows disproves it, as in `engine.measurement.limits`.
    """
    made = []
    for dtype, product in (ceilings.get("products") or {}).items():
        below = [point for point in drawn if present(point.row.limits)["compute_dtype"] == dtype]
        best = product.get("operations_per_s")
        if not below or not best or best <= 0:
            continue
        made.append(Roof(dtype, best, product))
        ways = {way.get("library"): way for way in product.get("ways") or [] if way.get("operations_per_s")}
        for library, way in ways.items():
            own = way["operations_per_s"]
            # A backend without ceilings of its own multiplies with torch.
            mine = [p for p in below if library == (p.row.backend if p.row.backend in ways else "torch")]
            most = max((point.operations_per_s for point in mine), default=0.0)
            if mine and max(0.0, most / DISPROVED) < own < best / FASTER:
                made.append(Roof(dtype, own, way, str(library)))
    return sorted(made, key=lambda roof: roof.operations_per_s)


@kept
def roofline(
    measured: Sequence[Row], ceilings: Mapping[str, Any] | None, look: Theme, shown: int | None = None
) -> go.Figure:
    """One mark per measurement below the ceilings, labelled with its share of its ceiling.

    `shown`: the batch size whose marks are labelled; marks of the same variants at other sizes are small. If None, all
    marks are labelled.
    """
    ceilings = ceilings or {}
    rows = [row for row in measured if row.status == "measured"]
    bytes_per_s = (ceilings.get("copy") or {}).get("bytes_per_s") or 0.0
    drawn = points(rows, bytes_per_s)
    height = PLOT_HEIGHT if drawn else 0
    title, about = headlines.limit_title(rows), _subtitle(rows, drawn, ceilings)
    if not drawn:
        figure = base.titled(look, title, about, height, share=1.5)
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        return figure
    above = roofs(ceilings, drawn)
    x_low, x_high = base.log_range([x for point in drawn for x in (point.least, point.intensity)], pad=0.2)
    heights = [point.operations_per_s for point in drawn] + [roof.operations_per_s for roof in above]
    y_low, y_high = base.log_range(heights, pad=0.12)
    top = above[-1].operations_per_s if above else max(heights)
    # The axis has to show the slope and the label to its left.
    x_low = min(x_low, 0.2 * top / bytes_per_s)
    labelled = [shown is None or p.row.batch_size == shown or _alone(p, drawn, shown) for p in drawn]
    scale_x, scale_y = (PLOT_WIDTH / math.log(x_high / x_low), PLOT_HEIGHT / math.log(y_high / y_low))
    slope_label = _slope_label(ceilings["copy"], look, top, scale_y)
    names = [labels.shortened(p.row.name) if big else "" for p, big in zip(drawn, labelled, strict=True)]
    shares = [f"{share_percent(p.row.limit_share)}%" for p in drawn]
    placed = _placed(drawn, names, shares, above, slope_label, (x_low, y_high), (scale_x, scale_y))
    figure = base.titled(look, title, about + labels.unnamed(placed, names), height, share=1.5)
    figure.add_traces(_slope(top, bytes_per_s, look, x_low, y_low))
    figure.add_traces([_roof(roof, bytes_per_s, look, x_high) for roof in above])
    shades = marks(measured, look)
    figure.add_traces([_mark(p, shades[p.row.variant], look, big) for p, big in zip(drawn, labelled, strict=True)])
    notes = [_name(label, drawn[label.mark], names, shares, look) for label in placed]
    notes += _roof_labels(above, look, y_low, scale_y)
    notes.append(slope_label)
    tera = y_high >= 2e12
    unit, size = ("T", 1e12) if tera else ("G", 1e9)
    axis = base.log_axis(y_low / size, y_high / size)
    ticks = {"tickvals": [tick * size for tick in axis["tickvals"]], "ticktext": axis["ticktext"]}
    figure.update_yaxes(
        title_text=f"Operations of the products ({unit}FLOP/s, of INT8 {unit}OP/s, log scale)",
        **axis | ticks | {"range": [math.log10(y_low), math.log10(y_high)]},
    )
    figure.update_xaxes(
        title_text="Operations a byte, each weight read once a call (FLOP/B, log scale)", **base.log_axis(x_low, x_high)
    )
    longest = max((len(text) for roof in above for text in (roof.name, roof.spread)), default=0)
    margin = {"l": base.value_room(axis["ticktext"]), "r": 20 + round(base.LETTER * longest)}
    figure.update_layout(margin=margin, annotations=notes)
    return figure


def _alone(point: Point, drawn: Sequence[Point], shown: int) -> bool:
    """Whether the point's variant has no mark at the labelled batch size."""
    return not any(p.row.variant == point.row.variant and p.row.batch_size == shown for p in drawn)


def _subtitle(rows: Sequence[Row], drawn: Sequence[Point], ceilings: Mapping[str, Any]) -> str:
    said = [
        "Lines: the fastest products and the copy measured at the run's start. Padding counts, as it is computed. "
        "Bar to the left: if all data between operators went through memory."
    ]
    cached = [p.row.name for p in drawn if (present(p.row.limits).get("bytes_per_call") or 0) <= _cache(ceilings)]
    if cached and len(cached) == len(drawn):
        said.append(f"All weights fit the {megabytes(_cache(ceilings))} MB cache, so the slope is no limit for them.")
    elif cached:
        size = megabytes(_cache(ceilings))
        said.append(
            f"The weights of {headlines.joined(cached)} fit the {size} MB cache, so the slope is no limit for them."
        )
    if left := len(rows) - len(drawn):
        said.append(f"{left} without a ceiling left out.")
    return " ".join(said)


def _cache(ceilings: Mapping[str, Any]) -> int:
    return ceilings.get("cache_bytes") or 0


def _slope(top: float, bytes_per_s: float, look: Theme, x_low: float, y_low: float) -> go.Scatter:
    """The rates that the copy bandwidth allows, up to `top`, the highest roof."""
    left = max(x_low, y_low / bytes_per_s)
    return go.Scatter(
        x=[left, top / bytes_per_s],
        y=[left * bytes_per_s, top],
        mode="lines",
        name="copy bandwidth",
        line={"color": look.muted, "width": 2},
        hovertemplate=f"<b>Copy bandwidth</b><br>{significant(bytes_per_s / 1e9)} GB/s<extra></extra>",
    )


def _roof(roof: Roof, bytes_per_s: float, look: Theme, x_high: float) -> go.Scatter:
    how = base.escape(str(roof.way.get("how") or ""))
    return go.Scatter(
        x=[min(roof.operations_per_s / bytes_per_s, x_high), x_high],
        y=[roof.operations_per_s] * 2,
        mode="lines",
        name=roof.name,
        line={"color": look.line if roof.library else look.muted, "width": 1.5 if roof.library else 2}
        | ({"dash": "dash"} if roof.library else {}),
        hovertemplate=f"<b>{base.escape(roof.name)}</b><br>{how}<br>{roof.spread}<extra></extra>",
    )


def _mark(point: Point, mark: Any, look: Theme, big: bool) -> go.Scatter:
    row, found = point.row, present(point.row.limits)
    rate = operation_rate(point.operations_per_s, found["compute_dtype"])
    bound = f"bound by {row.binds}" if row.binds else "what binds it is not known"
    return go.Scatter(
        x=[point.intensity],
        y=[point.operations_per_s],
        mode="markers",
        name=row.name,
        marker=base.filled(row, mark, look, size=13 if big else 7),
        error_x=base.error_bar(point.least, point.intensity, point.intensity, fade(mark.color, 0.55), thickness=1.2),
        hovertemplate=(
            f"<b>{base.escape(row.name)}</b><br>{rate}: {share_percent(row.limit_share)}% of its "
            f"{found['compute_dtype'].upper()} ceiling<br>{bound}<br>"
            f"{significant(point.least)} to {significant(point.intensity)} FLOP/B<extra></extra>"
        ),
    )


def _placed(
    drawn: Sequence[Point],
    names: Sequence[str],
    shares: Sequence[str],
    above: Sequence[Roof],
    slope_label: Mapping[str, Any],
    corner: tuple[float, float],
    scale: tuple[float, float],
) -> list[labels.Label]:
    """The labels with the marks' names and shares. Only those that have room are returned."""

    def spot(x: float, rate: float) -> tuple[float, float]:
        return scale[0] * math.log(x / corner[0]), scale[1] * math.log(corner[1] / rate)

    heights = [spot(1, roof.operations_per_s)[1] for roof in above]
    taken = [(0.0, y - ROOF_LINE / 2, float(PLOT_WIDTH), y + ROOF_LINE / 2) for y in heights]
    x, y = spot(10.0 ** slope_label["x"], 10.0 ** slope_label["y"])
    taken.append((x - SLOPE_LABEL_WIDTH, y - SLOPE_LABEL, x, y))
    fastest = min(range(len(drawn)), key=lambda index: present(drawn[index].row.latency_p50_s))
    first = [*(index for index, point in enumerate(drawn) if point.row.baseline), fastest]
    texts = [f"{name} {share}" if name else "" for name, share in zip(names, shares, strict=True)]
    sizes = [13.0 if name else 7.0 for name in names]
    centres = [spot(point.intensity, point.operations_per_s) for point in drawn]
    return labels.arrange(texts, centres, sizes, (PLOT_WIDTH, PLOT_HEIGHT), first, taken, STRETCHES)


def _name(
    label: labels.Label, point: Point, names: Sequence[str], shares: Sequence[str], look: Theme
) -> dict[str, Any]:
    said = (f"{base.escape(names[index])} <b>{shares[index]}</b>" for index in label.marks[: label.named])
    return {
        "x": math.log10(point.intensity),
        "y": math.log10(point.operations_per_s),
        "text": ", ".join(said) + label.more,
        **labels.beside(label, 13.0, look),
        "font": {"size": 13, "color": look.text},
        "bgcolor": fade(look.background, 0.72),
        "borderpad": 1,
    }


def _roof_labels(above: Sequence[Roof], look: Theme, y_low: float, scale_y: float) -> list[dict[str, Any]]:
    """Each roof's name, rate and spread at its right end. Labels that would overlap are moved up."""
    made, placed = [], -math.inf
    for roof in above:
        roof_height = scale_y * math.log(roof.operations_per_s / y_low)
        placed = max(roof_height, placed + ROOF_LABEL)
        small = f"<br><span style='color:{look.muted};font-size:11px'>{roof.spread}</span>" if roof.spread else ""
        made.append(
            {
                "x": 1,
                "xref": "paper",
                "y": math.log10(roof.operations_per_s),
                "text": f"{base.escape(roof.name)}{small}",
                "showarrow": False,
                "xanchor": "left",
                "align": "left",
                "xshift": 8,
                "yshift": placed - roof_height,
                "font": {"size": 12.5, "color": look.text},
            }
        )
    return made


def _slope_label(copy: Mapping[str, Any], look: Theme, top: float, scale_y: float) -> dict[str, Any]:
    """The copy's rate, left of the slope's upper end and below it. No mark can be there."""
    bytes_per_s = copy["bytes_per_s"]
    median = copy.get("median_bytes_per_s")
    spread = f"median {significant(median / 1e9)}, n = {copy.get('repeats')}" if median else ""
    small = f"<br><span style='color:{look.muted};font-size:11px'>{spread}</span>" if spread else ""
    at = top * math.exp(-SLOPE_LABEL / scale_y)
    return {
        "x": math.log10(at / bytes_per_s),
        "y": math.log10(at),
        "text": f"Copy {significant(bytes_per_s / 1e9)} GB/s{small}",
        "showarrow": False,
        "xanchor": "right",
        "yanchor": "bottom",
        "align": "right",
        "xshift": -6,
        "font": {"size": 12.5, "color": look.text},
    }
