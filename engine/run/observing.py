"""Reads the rest from a worker after timing: effective configuration, tokenising, device time, energy, operators."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from engine.errors import one_line
from engine.machine import energy
from engine.measurement import summary
from engine.run.context import RunState
from engine.run.state import Cell, Entry
from engine.suite import batching
from engine.worker.handle import WorkerError
from engine.worker.messages import MeasureDeviceTime, Profile, ReadAudit, TimeBlock, Tokenize

TOKENIZED_BATCHES = 30
"""How many batches are tokenised, at most, for the time that it takes."""
DEVICE_CALLS = 10
"""How many calls are timed by the device's own clock."""
PROFILED_SECONDS = 0.2
"""About how long the profiled calls take together."""
PROFILED_CALLS = 20
"""How many calls are profiled at most; at least one is."""


def observe(state: RunState, entry: Entry) -> None:
    """Read everything but latency, memory and answers from a variant's worker."""
    assert entry.prepared is not None
    worker = entry.running()
    audit = asdict(worker.ask(ReadAudit()))
    # By these a later look knows whether the files are still the same.
    audit["loaded"] = {"model": entry.prepared.source.digest, "folder": entry.prepared.folder.name}
    for cell in entry.cells:
        cell.audit = audit
        windows = batching.timed_windows(state.windows([(entry, cell)]))
        batches = [batch for window in windows[:TOKENIZED_BATCHES] for batch in entry.batches(cell, window)]
        texts = [[state.plan.corpus.texts[i] for i in batch] for batch in batches[:TOKENIZED_BATCHES]]
        padding = cell.batching.padding
        tokenizing = worker.ask(Tokenize(texts, padding))
        middle = batches[len(batches) // 2]
        device = worker.ask(MeasureDeviceTime(middle, padding, DEVICE_CALLS))
        first_window = entry.batches(cell, windows[0])
        spent = energy.of_calls(
            state.plan.device, state.idle_power_w, partial(_call_for_energy, entry, first_window, padding)
        )
        cell.values |= {
            "energy_j_per_1000_examples": spent.joules_per_1000_examples if spent else None,
            "energy": spent.to_json() if spent else {"reason": energy.NO_COUNTER},
            "audit": audit,
            "tokenize_p50_s": float(np.median(tokenizing.latencies_s)),
            "device_p50_s": None if device.seconds is None else float(np.median(device.seconds)),
        }
    # Last, because the profiled call may end the worker.
    for cell in entry.cells:
        cell.values["audit"] = cell.audit = audit | {"operators": _operators(state, entry, cell)}


def _operators(state: RunState, entry: Entry, cell: Cell) -> dict[str, Any]:
    """Where the calls of one batch spend their time; the `reason` alone where the profile fails."""
    window = batching.timed_windows(state.windows([(entry, cell)]))[0]
    latencies_s = summary.Raw(cell.blocks).latencies_s()
    affordable = PROFILED_SECONDS / float(np.median(latencies_s)) if len(latencies_s) else 1
    calls = min(max(int(affordable), 1), PROFILED_CALLS)
    positions, padding = entry.batches(cell, window)[0], cell.batching.padding
    try:
        return entry.running().ask(Profile(positions, padding, calls)).facts()
    except WorkerError as error:
        return {"reason": f"the profiled call ended the worker: {one_line(error)}"}


def _call_for_energy(entry: Entry, batches: list[np.ndarray], padding: str) -> int:
    """Have a worker call `batches` for as long as energy is read; the number of samples that it answered."""
    return entry.running().ask(TimeBlock(batches, padding, energy.WINDOW_S, untimed_seconds=0.0)).samples
