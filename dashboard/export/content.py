"""The content that all exports of a run share: the batch size shown, the charts by name, the method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard import figures, run_rows
from dashboard.figures import base
from dashboard.figures.operators import of as profiled
from dashboard.findings import headlines
from dashboard.run_rows import Row
from dashboard.style import Theme
from engine.report.load import JoinedLoad
from engine.store.rows import PublishedRow

METHOD = (
    "Every variant works in a process of its own; in each round every variant, in shuffled order, answers the "
    "same examples, and speed-ups are taken round by round, over the third of the rounds in which the machine was "
    "least disturbed. A call takes one tokenised batch as host arrays and returns its logits as a host array. "
    "Intervals are 95%: speed by Student's t over the rounds with a part for what two processes of one variant differ "
    "by; accuracy by Wilson; accuracy differences by a bootstrap of paired answers, their verdicts by exact McNemar, "
    "corrected by Holm."
)


def batch_sizes(measured: Sequence[Row]) -> list[int]:
    """The baseline's batch sizes, ascending. A run can be shown at each of them."""
    return sorted({row.batch_size for row in measured if row.baseline})


def at(measured: Sequence[Row], batch_size: int | None) -> list[Row]:
    """The rows of the run at `batch_size`, or at the baseline's largest batch size if it is None."""
    sizes = batch_sizes(measured)
    return run_rows.at_batch(measured, batch_size if batch_size is not None else sizes[-1] if sizes else None)


def charts(
    summary: dict[str, Any],
    measured: Sequence[Row],
    reported: Sequence[PublishedRow],
    look: Theme,
    batch_size: int | None = None,
    loads: Sequence[JoinedLoad] = (),
) -> dict[str, go.Figure]:
    """The charts of the run by name, signed with their source; empty if nothing was measured.

    `reported`: published results; `loads`: results under load, as `engine.report.load.joined` gives them.
    """
    rows = at(measured, batch_size)
    if not any(row.status == "measured" for row in rows):
        return {}
    draw: dict[str, Callable[[Sequence[Row], Theme], go.Figure]] = {
        "tradeoff": figures.tradeoff,
        "latency": figures.latency,
        "throughput": figures.throughput,
        "memory": figures.memory,
        "accuracy": figures.accuracy,
    }
    if any(row.figure(headlines.ENERGY) is not None for row in rows):
        draw["energy"] = figures.energy
        if run_rows.untaught(rows):
            del draw["accuracy"]
    made = {name: make(rows, look) for name, make in draw.items()}
    if (summary["ceilings"] or {}).get("products") and any(row.limit_share is not None for row in rows):
        size = next((row.batch_size for row in rows if row.baseline), None)
        made["roofline"] = figures.roofline(measured, summary["ceilings"], look, size)
    if any(profiled(row) for row in rows):
        made["operators"] = figures.by_kind(rows, look)
    if loads:
        made["load"] = figures.load_rates(measured, loads, look)
        made["load-p99"] = figures.load_trials(measured, loads, look)
    if run_rows.swept(measured, "throughput_samples_per_s"):
        made["batches"] = figures.over_batch_size(measured, look)
    if figures.pairs(rows, reported):
        made["published"] = figures.published(rows, reported, look)
    source = base.source(summary, rows)
    return {name: base.sign(figure, look, source) for name, figure in made.items()}
