"""Derives every figure from the raw values of a run, and writes them to its rows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from engine.measurement import bounds, limits, stats, summary
from engine.measurement.doubts import Code, doubt
from engine.run.context import RunState
from engine.run.state import Cell, Entry


def derive(state: RunState) -> None:
    """Derive the figures of every measured cell, the baseline's first, and store them."""
    baseline = state.baseline()
    measured = [
        (entry, cell)
        for entry in sorted(state.entries, key=lambda entry: entry is not baseline)
        if entry.ended is None and entry.prepared is not None
        for cell in entry.cells
    ]
    experiments = {
        experiment: [cell for _, cell in measured if cell.experiment == experiment]
        for experiment in state.plan.experiments
    }
    calm = {
        experiment: stats.calm_rounds([summary.Raw(cell.blocks).rates() for cell in cells])
        for experiment, cells in experiments.items()
    }
    latencies_s = {
        (cell.variant.name, cell.batching.batch_size): float(np.median(summary.Raw(cell.blocks).latencies_s()))
        for _, cell in measured
        if cell.blocks
    }
    state.slowdown = summary.slowdown(latencies_s, state.recorder.earlier_latencies_s(state.id))
    for entry, cell in measured:
        if state.slowdown > 1:
            cell.doubts.append(doubt(Code.SLOWER_MACHINE, factor=state.slowdown))
        cell.values |= _figures(state, entry, cell, baseline, calm[cell.experiment])
        cell.values |= _limits(state, entry, cell, baseline)
    for cells in experiments.values():
        differing = [(cell, cell.difference) for cell in cells if cell.difference is not None]
        for (cell, _), difference in zip(differing, summary.corrected([d for _, d in differing]), strict=True):
            cell.values |= asdict(difference)
    for _, cell in measured:
        state.recorder.finish(cell.id, cell.values | {"status": "measured", "status_reason": None})
        cell.kept = True


def own_figures(state: RunState, entry: Entry, cell: Cell) -> dict[str, Any]:
    """The figures of one cell that need no other: of its calls and of its answers, as far as there are any."""
    figures: dict[str, Any] = {}
    if cell.blocks:
        figures |= {"schedule": state.schedule, "conditions": cell.conditions}
        figures |= summary.speed(summary.Raw(cell.blocks, cell.logits))
    if cell.logits is not None and entry.prepared is not None:
        corpus = state.plan.corpus
        figures |= summary.answers(
            cell.logits,
            state.alignment(entry),
            corpus.labels,
            corpus.label_names,
            entry.prepared.random_weights,
            entry.prepared.head,
        )
        figures["random_weights"] = entry.prepared.random_weights
        figures["batch_flip_rate"] = summary.batch_flip_rate(cell.values.get("invariance"))
    return figures


def _figures(state: RunState, entry: Entry, cell: Cell, baseline: Entry, calm: list[np.ndarray]) -> dict[str, Any]:
    """All figures of one cell but its limits; `calm`: the rounds that count, see `stats.calm_rounds`."""
    known = baseline.ended is None or baseline.kept
    reference = _baseline_cell(cell, baseline) if known else None
    raw = summary.Raw(cell.blocks, cell.logits)
    reference_raw = summary.Raw(reference.blocks, reference.logits) if reference else None
    sequential = state.schedule == "sequential"
    min_calls = state.plan.suite.protocol.min_calls
    figures = own_figures(state, entry, cell)
    figures |= summary.comparison(raw, reference_raw, entry is baseline, calm, state.slowdown, sequential)
    figures |= summary.validity(raw, cell.audit, min_calls, cell.disturbed, cell.doubts)
    return figures | _against_baseline(state, entry, cell, baseline, reference, figures)


def _limits(state: RunState, entry: Entry, cell: Cell, baseline: Entry) -> dict[str, Any]:
    """How near to the device's ceilings a cell comes. The baseline's cells must have been assessed before."""
    assert entry.prepared is not None
    cell.limit_row = summary.limits_row(cell.blocks, cell.values, cell.variant.precision, state.plan.device.kind)
    compared = None
    reference = _baseline_cell(cell, baseline)
    if entry is not baseline and baseline.prepared and reference.limit_row and reference.limit:
        same_model = entry.prepared.source.digest == baseline.prepared.source.digest
        compared = bounds.Baseline(reference.limit_row, reference.limit, same_model, cell.values["comparison"])
    cell.limit = limits.assess(cell.limit_row, state.ceilings, entry.prepared.operations, compared)
    return {"limits": asdict(cell.limit), "limit_share": cell.limit.compute_share, "binds": cell.limit.binds}


def _against_baseline(
    state: RunState, entry: Entry, cell: Cell, baseline: Entry, reference: Cell | None, own: dict[str, Any]
) -> dict[str, Any]:
    """Compare a cell's answers with the baseline's; `own`: the cell's figures without this comparison.

    Where both have an accuracy, this adds the kinds of flips to `own["quality"]`.
    """
    assert cell.logits is not None
    if reference is None or reference.logits is None:
        return summary.agreement([], None)
    corpus = state.plan.corpus
    alignment, baseline_alignment = state.alignment(entry), state.alignment(baseline)
    answers = summary.predicted_names(cell.logits, alignment, corpus.label_names)
    baseline_answers = None
    if summary.comparable(alignment, baseline_alignment):
        baseline_answers = summary.predicted_names(reference.logits, baseline_alignment, corpus.label_names)
    figures = summary.agreement(answers, baseline_answers)
    if entry is not baseline and None not in (own.get("accuracy"), reference.values.get("accuracy")):
        assert corpus.labels is not None
        pair = summary.paired(cell.logits, alignment, reference.logits, baseline_alignment, corpus.labels)
        if pair is not None:
            cell.difference, own["quality"]["flips"] = pair
    return figures


def _baseline_cell(cell: Cell, baseline: Entry) -> Cell:
    """The baseline's cell in the same experiment, else its last."""
    return next((c for c in baseline.cells if c.experiment == cell.experiment), baseline.cells[-1])
