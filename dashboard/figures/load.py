"""Charts of a service's load: the highest rate that each variant holds, and the p99 of every trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.figures import base, labels
from dashboard.figures.keeping import kept
from dashboard.findings import headlines
from dashboard.run_rows import Row
from dashboard.style import Mark, Theme, fade, marks
from engine.report import load
from engine.report.load import JoinedLoad
from engine.store.rows import present
from engine.units import milliseconds, significant

PLOT_WIDTH, PLOT_HEIGHT = 480, 300
FAILED = "x"
"""The symbol of a rate that did not hold, whatever the variant."""
OFFLINE = "line-ns"


def _trials(row: JoinedLoad) -> list[dict[str, Any]]:
    return sorted(row.trials, key=lambda trial: trial["rate_per_s"])


def texts_words(loads: Sequence[JoinedLoad]) -> str:
    """The number of texts answered in the trials that held, in words."""
    counts = sorted({trial["answered"] for row in loads for trial in row.trials if trial["holds"]})
    if not counts:
        return "no trial held"
    return f"n = {counts[0]:,}{f' to {counts[-1]:,}' if len(counts) > 1 else ''} texts a trial that held"


@kept
def load_rates(measured: Sequence[Row], loads: Sequence[JoinedLoad], look: Theme) -> go.Figure:
    """One row per variant: the highest rate that held the limit, the lowest that failed twice, and the offline rate.

    `loads`: rows of `engine.report.load.joined`; `measured`: the run's rows, which determine the variants' marks.
    """
    figure = base.titled(
        look,
        headlines.load_title(loads),
        f"Mark: the highest rate of arrivals with {load.limit_words(loads)}, {texts_words(loads)}; bar: up to the "
        "lowest that failed twice (×: none held). │: offline, all texts there at once. More is better."
        if loads
        else "",
        base.ROW_HEIGHT * len(loads),
    )
    shades = marks(measured, look)
    drawn: list[float] = []
    traces: list[go.Scatter] = []
    notes: list[dict[str, Any]] = []
    widest = 0
    reference = next((row for row in loads if row.baseline and row.low_texts_per_s), None)
    if reference is not None:
        figure.add_vline(
            x=reference.low_texts_per_s, line={"color": look.line, "width": 1, "dash": "dot"}, layer="below"
        )
    for position, row in enumerate(loads):
        if row.status != "measured":
            notes.append(base.note_at_row(look, position, f"{row.status} under load"))
            continue
        mark = shades[row.variant]
        held, failing, offline = row.server_texts_per_s, row.beyond_texts_per_s, row.offline_texts_per_s
        shown = held or _lowest(row)
        drawn += [rate for rate in (held, failing, offline) if rate]
        traces += [_gap(shown, present(offline), position, mark), _offline(row, position, mark)]
        traces.append(_held(row, position, mark, look))
        value = significant(held) if held else "none held"
        limits = f"not {significant(failing)}" if failing else ""
        notes.append(base.value_column(look, position, value, limits))
        widest = max(widest, 9 * len(value) + 7 * len(limits))
    figure.add_traces(traces)
    figure.update_layout(margin={"r": 30 + max(widest, 40)}, annotations=notes)
    base.name_rows(figure, [row.name for row in loads])
    if drawn:
        figure.update_xaxes(title_text="Texts a second (log scale)", **base.log_axis(*base.log_range(drawn)))
    return figure


def _gap(shown: float, offline: float, position: int, mark: Mark) -> go.Scatter:
    """A line from the highest rate that held to the offline rate."""
    return go.Scatter(
        x=[shown, offline],
        y=[position] * 2,
        mode="lines",
        line={"color": fade(mark.color, 0.35), "width": 1.5},
        hoverinfo="skip",
    )


def _lowest(row: JoinedLoad) -> float:
    """The lowest rate tried."""
    return min(trial["rate_per_s"] for trial in row.trials)


def _offline(row: JoinedLoad, position: int, mark: Mark) -> go.Scatter:
    rate = row.offline_texts_per_s
    return go.Scatter(
        x=[rate],
        y=[position],
        mode="markers",
        name=row.name,
        marker={"symbol": OFFLINE, "size": 15, "line": {"color": mark.color, "width": 2.5}},
        hovertemplate=(
            f"<b>{base.escape(row.name)}</b><br>offline {significant(rate)} texts/s, batches of {row.max_batch}"
            "<extra></extra>"
        ),
    )


def _held(row: JoinedLoad, position: int, mark: Mark, look: Theme) -> go.Scatter:
    held, failing = row.server_texts_per_s, row.beyond_texts_per_s
    failed = f"{significant(failing)} texts/s failed twice" if failing else "no rate that was tried failed twice"
    if held:
        said = f"holds {significant(held)} texts/s<br>{failed}"
        marker = base.filled(row, mark, look)
    else:
        said = f"no rate held<br>the lowest tried: {significant(_lowest(row))} texts/s"
        marker = {"symbol": FAILED, "size": 10, "color": mark.color}
    doubt = "<br>unstable" if row.validity == "unstable" else ""
    return go.Scatter(
        x=[held or failing],
        y=[position],
        mode="markers",
        name=row.name,
        marker=marker,
        error_x=base.error_bar(held, held, failing, mark.color, thickness=4) if held and failing else None,
        hovertemplate=f"<b>{base.escape(row.name)}</b><br>{said}{doubt}<extra></extra>",
    )


@kept
def load_trials(measured: Sequence[Row], loads: Sequence[JoinedLoad], look: Theme) -> go.Figure:
    """p99 over the rate offered: one line per variant, one mark per trial. The mark shows whether the limit held."""
    done = [row for row in loads if row.trials]
    subtitle = (
        "Mark: p99 of one trial's texts, from arrival to answer, at the rate offered; ×: with 99% confidence the rate "
        "did not hold, so the trial ended early, and its p99 is that of the texts answered until then. "
        "Dashed: the limit; "
        f"{texts_words(done)}."
    )
    title = headlines.load_trials_title(loads)
    if not done:
        figure = base.titled(look, title, "", 0)
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        return figure
    shades = marks(measured, look)
    limit_ms = done[0].p99_limit_s * 1e3
    every = [trial for row in done for trial in row.trials]
    x_low, x_high = base.log_range([trial["rate_per_s"] for trial in every])
    y_low, y_high = base.log_range([limit_ms, *(trial["p99_s"] * 1e3 for trial in every)], pad=0.1)
    scale_x, scale_y = PLOT_WIDTH / math.log(x_high / x_low), PLOT_HEIGHT / math.log(y_high / y_low)
    notes, without = _names(done, look, (x_low, y_high), scale_x, scale_y)
    figure = base.titled(look, title, subtitle + without, PLOT_HEIGHT)
    figure.add_hline(y=limit_ms, line={"color": look.muted, "width": 1.5, "dash": "dash"}, layer="below")
    figure.add_traces([trace for row in done for trace in _curve(row, shades[row.variant], look)])
    notes.append(
        {
            "x": 1,
            "xref": "paper",
            "y": math.log10(limit_ms),
            "text": f"limit {milliseconds(limit_ms / 1e3)} ms",
            "showarrow": False,
            "xanchor": "left",
            "xshift": 6,
            "font": {"size": 12.5, "color": look.muted},
        }
    )
    figure.update_yaxes(
        title_text="p99 from a text's arrival to its answer (ms, log scale)", **base.log_axis(y_low, y_high)
    )
    figure.update_xaxes(title_text="Rate offered (texts/s, log scale)", **base.log_axis(x_low, x_high))
    figure.update_layout(margin={"r": 24 + round(base.LETTER * 14)}, annotations=notes)
    return figure


def _curve(row: JoinedLoad, mark: Mark, look: Theme) -> list[go.Scatter]:
    """A variant's line, whose hover text says which rate it holds, and the marks of its trials."""
    trials = _trials(row)
    xs, ys = [t["rate_per_s"] for t in trials], [t["p99_s"] * 1e3 for t in trials]
    name = base.escape(row.name)
    held, failing = row.server_texts_per_s, row.beyond_texts_per_s
    said = f"holds {significant(held)} texts/s" if held else "no rate held"
    said += f", not {significant(failing)}" if failing else ""
    solid = base.filled(row, mark, look)
    return [
        go.Scatter(
            x=xs,
            y=ys,
            mode="lines",
            name=row.name,
            line={"color": fade(mark.color, 0.5), "width": 1.5},
            hovertemplate=f"<b>{name}</b><br>{said}<extra></extra>",
        ),
        go.Scatter(
            x=xs,
            y=ys,
            mode="markers",
            name=row.name,
            text=[trial_words(trial) for trial in trials],
            marker={
                "symbol": [mark.symbol if trial["holds"] else FAILED for trial in trials],
                "size": [11 if trial["holds"] else 9 for trial in trials],
                "color": solid["color"] if solid["color"] != look.background else mark.color,
                "line": {"color": mark.color, "width": 1},
            },
            hovertemplate=f"<b>{name}</b><br>%{{text}}<extra></extra>",
        ),
    ]


def trial_words(trial: dict[str, Any]) -> str:
    """The result of a trial in three lines."""
    some = f" of {trial['texts']:,}" if trial["answered"] < trial["texts"] else ""
    return (
        f"{significant(trial['rate_per_s'])} texts/s {'held' if trial['holds'] else 'did not hold'}: "
        f"p99 {milliseconds(trial['p99_s'])} ms<br>{trial['late']:,} later than the limit, {trial['answered']:,}{some} "
        f"texts answered<br>batches of {significant(trial['mean_batch'])} on average"
    )


def _names(
    done: Sequence[JoinedLoad], look: Theme, corner: tuple[float, float], scale_x: float, scale_y: float
) -> tuple[list[dict[str, Any]], str]:
    """The variants' names, and a sentence on the names that had no room.

    A name is at the trial of the highest rate that held, else at that of the lowest rate.
    """
    deciding = []
    for row in done:
        trials = _trials(row)
        held = [trial for trial in trials if trial["holds"]]
        deciding.append(held[-1] if held else trials[0])
    # Names must avoid the marks of the other trials too, which have no names.
    others = [trial for row in done for trial in row.trials if trial not in deciding]
    names = [labels.shortened(row.name) for row in done] + [""] * len(others)
    centres = [
        (scale_x * math.log(t["rate_per_s"] / corner[0]), scale_y * math.log(corner[1] / (t["p99_s"] * 1e3)))
        for t in (*deciding, *others)
    ]
    placed = labels.arrange(names, centres, [12.0] * len(names), (PLOT_WIDTH, PLOT_HEIGHT), range(len(done)))
    notes = [
        {
            "x": math.log10(deciding[label.mark]["rate_per_s"]),
            "y": math.log10(deciding[label.mark]["p99_s"] * 1e3),
            "text": base.escape(label.text(names)),
            **labels.beside(label, 12.0, look),
            "font": {"size": 13, "color": look.text},
            "bgcolor": fade(look.background, 0.72),
            "borderpad": 1,
        }
        for label in placed
    ]
    return notes, labels.unnamed(placed, names)
