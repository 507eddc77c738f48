"""The parts that charts share: the title as a finding, axes with units, a dot with its interval on its own row."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import plotly.graph_objects as go

from dashboard.figures.kernel_names import fitted
from dashboard.metrics import Metric
from dashboard.run_rows import Row, usable
from dashboard.style import Mark, Theme, template
from engine.report.load import JoinedLoad

ROW_HEIGHT = 36
TITLE_CHARACTERS = 68
SUBTITLE_CHARACTERS = 92
AXIS_HEIGHT = 52
TITLE_SHIFT = 10
PAD = 8
LETTER = 7.4
"""Width in px of a letter of a row's name, in the widest font that an image may fall back to."""
TITLE_ROOM = 34
"""Height in px of an axis title, with its distance from the ticks."""
NAME = 30
"""Letters in each of the two lines of a row's name. Longer lines would leave no room for the plot of a narrow chart."""
NARROW, GAP = 20, 2
"""Letters that fit along the axis of the narrowest chart, and letters of free space between two ticks."""
SOURCE, SOURCE_HEIGHT = "source", 16


def escape(text: str) -> str:
    """`text` escaped, so that Plotly shows it literally, also in a hover template."""
    return html.escape(text, quote=False).replace("%{", "%&#123;")


# Wrapping takes most of the time of an empty figure, and every rerun wraps the same few texts.
@lru_cache(maxsize=512)
def wrap(text: str, width: int) -> tuple[str, ...]:
    """`text` in as few lines of `width` characters as possible, all of about the same length."""
    lines = textwrap.wrap(text, width, break_long_words=False) or [""]
    for narrower in range(width - 1, width // 2, -1):
        tried = textwrap.wrap(text, narrower, break_long_words=False)
        if len(tried) > len(lines):
            break
        lines = tried or lines
    return tuple(lines)


def titled(look: Theme, title: str, subtitle: str, body_height: int, share: float = 1.0) -> go.Figure:
    """An empty figure with `title` (the finding), `subtitle` (what the marks are) and a plot of `body_height` px.

    `share`: the least width of the figure; a chart in one of two columns has 1.
    """
    head = wrap(title, int(TITLE_CHARACTERS * share))
    below = wrap(subtitle, int(SUBTITLE_CHARACTERS * share)) if subtitle else ()
    # Plotly places a subtitle of one line lower than one of several lines.
    top = 14 + 21 * len(head) + 18 * len(below) + (20 if len(below) == 1 else 12)
    # The layout is passed at once: updating the layout of an existing figure takes several times as long.
    return go.Figure(
        layout={
            "template": template(look),
            "height": top + body_height + AXIS_HEIGHT,
            "margin": {"l": PAD, "r": 16, "t": top, "b": AXIS_HEIGHT},
            "title": {
                # Plotly anchors a title of several lines higher than one of a single line.
                "pad": {"t": PAD + TITLE_SHIFT * (len(head) - 1), "l": PAD},
                "text": "<br>".join(map(escape, head)),
                "subtitle": {
                    "text": "<br>".join(map(escape, below)),
                    "font": {"size": 13, "color": look.muted, "weight": 400},
                },
            },
        }
    )


def source(summary: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The source of a chart's figures in one line: device, n, suite and run."""
    counts = sorted({row.examples for row in rows if row.examples})
    n = "" if not counts else f"n = {' to '.join(f'{count:,}' for count in dict.fromkeys((counts[0], counts[-1])))}"
    parts = [
        f"{summary['device_name']} ({summary['device']})",
        f"{n} examples" if n else "",
        f"suite {summary['suite']}",
        f"run {summary['id'][-6:]}, {(summary['created_at'] or '')[:10]}",
    ]
    return " · ".join(filter(None, parts))


def sign(figure: go.Figure, look: Theme, text: str) -> go.Figure:
    """Return a copy with `text` below the plot as its last annotation, and with the room for it.

    A figure that is already signed is returned unchanged. Pages hide the text, as they name the run above the chart;
    every exported image shows it.
    """
    if figure.layout.annotations and figure.layout.annotations[-1].name == SOURCE:
        return figure
    return go.Figure(data=figure.data, layout=signed(figure.to_plotly_json(), look, text)["layout"])


def signed(figure: dict[str, Any], look: Theme, text: str) -> dict[str, Any]:
    """Sign a figure given as a dictionary, as `sign` does. Changes and returns `figure`."""
    layout = figure["layout"]
    margin = layout.setdefault("margin", {})
    below = margin.get("b", AXIS_HEIGHT)
    margin["b"] = below + SOURCE_HEIGHT
    if layout.get("height"):
        layout["height"] += SOURCE_HEIGHT
    layout["annotations"] = [
        *layout.get("annotations", ()),
        {
            "name": SOURCE,
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "align": "left",
            "xshift": PAD - margin.get("l", PAD),
            "y": 0,
            "yref": "paper",
            "yanchor": "bottom",
            "yshift": -below - SOURCE_HEIGHT + 3,
            "text": escape(text),
            "showarrow": False,
            "borderpad": 0,
            "font": {"size": 11, "color": look.muted},
        },
    ]
    return figure


def log_ticks(low: float, high: float, steps: tuple[float, ...] = ()) -> list[float]:
    """Ticks at `steps` of each decade between `low` and `high`.

    The default steps are 1, 2 and 5; a short span has more of them, a long one only 1.
    """
    if not steps:
        steps = (1, 2, 5) if high / low > 4 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
        steps = (1,) if high / low > 300 else steps
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def log_range(values: Sequence[float], pad: float = 0.06) -> tuple[float, float]:
    """Limits of a log axis that leave `pad` of the span free on both sides, in the values' unit."""
    low, high = math.log(min(values)), math.log(max(values))
    free = max((high - low) * pad, 0.08)
    return math.exp(low - free), math.exp(high + free)


def plain(value: float) -> str:
    """The number of a tick without needless zeros."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def _short(value: float) -> str:
    """The number of a tick, as `plain` gives it, with thousands as k."""
    return f"{value / 1e3:,g}k" if value >= 1000 else plain(value)


def log_axis(low: float, high: float, letters: int | None = None) -> dict[str, Any]:
    """A Plotly log axis from `low` to `high`. With `letters`, its ticks and gaps fit about that many letters."""
    ticks, say = log_ticks(low, high), plain
    for steps in ((), (1, 3), (1,)):
        if letters is None or sum(len(say(tick)) + GAP for tick in ticks) <= letters:
            break
        say = _short
        fewer = log_ticks(low, high, steps)
        ticks = fewer if len(fewer) > 1 else ticks
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [say(tick) for tick in ticks],
        "tickangle": 0,
    }


def filled(row: Row | JoinedLoad, mark: Mark, look: Theme, solid: bool = True, size: float = 11) -> dict[str, Any]:
    """A marker; hollow if the row is not `usable` or `solid` is False."""
    is_solid = solid and usable(row)
    return {
        "symbol": mark.symbol,
        "size": size,
        "color": mark.color if is_solid else look.background,
        "line": {"color": mark.color, "width": 1 if is_solid else 2},
    }


def error_bar(low: float, value: float, high: float, color: str, thickness: float = 2) -> dict[str, Any]:
    """A one-point Plotly error bar from `low` to `high` around `value`."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, high - value)],
        "arrayminus": [max(0.0, value - low)],
        "color": color,
        "thickness": thickness,
        "width": 0,
    }


def value_room(ticks: Sequence[str]) -> int:
    """The left margin for an axis of values and its title. If Plotly had to find it, it would draw the chart twice."""
    return round(PAD + TITLE_ROOM + LETTER * max(map(len, ticks), default=0))


def rows_axis(names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A y axis with a row for each name, the first on top. A name has one or several lines."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": ["<br>".join(map(escape, lines)) for lines in names],
        "range": [len(names) - 0.4, -0.6],
        "showgrid": False,
        "tickfont": {"size": 13.5},
        "ticklabelstandoff": 8,
    }


def name_rows(figure: go.Figure, names: Sequence[str]) -> None:
    """Write the names left of the rows and set the margin for them, as a saved image does not measure text again."""
    shown = [_two_lines(name) for name in names]
    longest = max((len(line) for lines in shown for line in lines), default=0)
    figure.update_layout(margin={"l": 2 * PAD + round(LETTER * longest)})
    figure.update_yaxes(**rows_axis(shown))


@lru_cache(maxsize=512)
def _two_lines(name: str) -> tuple[str, ...]:
    """`name` in at most two lines of NAME letters. A name that is too long loses words in its middle."""
    # The no-break space keeps a batch size with its "@".
    words = name.replace(" @ ", " @\u00a0").split(" ")
    for kept in range(len(words), 1, -1):
        left_out = ["…"] if kept < len(words) else []
        shown = [*words[: (kept + 1) // 2], *left_out, *words[len(words) - kept // 2 :]]
        lines = textwrap.wrap(" ".join(shown), NAME, break_long_words=False)
        if len(lines) <= 2 and all(len(line) <= NAME for line in lines):
            return tuple(lines)
    return tuple(textwrap.wrap(fitted(name, 2 * NAME), NAME)[:2]) or ("",)


def note_at_row(look: Theme, position: int, text: str) -> dict[str, Any]:
    """An annotation that explains why a row has no mark."""
    return {
        "x": 0,
        "xref": "paper",
        "y": position,
        "text": f"<i>{escape(text)}</i>",
        "showarrow": False,
        "xanchor": "left",
        "xshift": 6,
        "font": {"size": 12.5, "color": look.muted},
    }


def value_column(look: Theme, position: int, value: str, limits: str) -> dict[str, Any]:
    """An annotation with the figure and interval of a row, to the right of the plot."""
    small = f"  <span style='color:{look.muted};font-size:12px'>{limits}</span>" if limits else ""
    return {
        "x": 1,
        "xref": "paper",
        "y": position,
        "text": f"<b>{value}</b>{small}",
        "showarrow": False,
        "xanchor": "left",
        "align": "left",
        "xshift": 12,
        "font": {"size": 13, "color": look.text},
    }


def dots(
    figure: go.Figure,
    rows: Sequence[Row],
    marks: dict[str, Mark],
    look: Theme,
    metric: Metric,
    why_missing: Callable[[Row], str],
    reference: Row | None,
) -> list[float]:
    """Draw one mark with its interval per row, and return all drawn values in the shown unit."""
    drawn: list[float] = []
    traces: list[go.Scatter] = []
    # All are added at once, as Plotly checks the existing ones again with each addition.
    notes: list[dict[str, Any]] = []
    widest = 0
    if reference is not None and reference.figure(metric.key) is not None:
        figure.add_vline(
            x=reference.figure(metric.key) * metric.factor,
            line={"color": look.line, "width": 1, "dash": "dot"},
            layer="below",
        )
    for position, row in enumerate(rows):
        value = row.figure(metric.key)
        if value is None:
            notes.append(note_at_row(look, position, why_missing(row)))
            continue
        shown = value * metric.factor
        mark = marks[row.variant]
        bar = None
        drawn.append(shown)
        low = row.figure(metric.low) if metric.low else None
        high = row.figure(metric.high) if metric.high else None
        limits = ""
        if low is not None and high is not None and low < high:
            limits = metric.interval(low, high)
            low, high = low * metric.factor, high * metric.factor
            drawn += [low, high]
            bar = error_bar(low, shown, high, mark.color)
        traces.append(
            go.Scatter(
                x=[shown],
                y=[position],
                mode="markers",
                name=row.name,
                marker=filled(row, mark, look),
                error_x=bar,
                cliponaxis=False,
                hovertemplate=(
                    f"<b>{escape(row.name)}</b><br>{metric.text(value)} {metric.unit}"
                    + (f"<br>95%: {limits}" if limits else "")
                    + "<extra></extra>"
                ),
            )
        )
        notes.append(value_column(look, position, metric.text(value), limits))
        widest = max(widest, 9 * len(metric.text(value)) + 7 * len(limits))
    figure.add_traces(traces)
    figure.update_layout(margin={"r": 26 + max(widest, 40)}, annotations=notes)
    name_rows(figure, [row.name for row in rows])
    return drawn


def missing(row: Row) -> str:
    """Why a row has no figure, in a few words."""
    return row.status if row.status != "measured" else "not measured"


def n_words(rows: Sequence[Row]) -> str:
    """The number of timed calls per variant, in words."""
    counts = sorted({row.calls for row in rows if row.calls})
    if not counts:
        return "no calls"
    if len(counts) == 1:
        return f"{counts[0]:,} calls a variant"
    return f"{counts[0]:,} to {counts[-1]:,} calls a variant"
