"""Starts the workers of a group of variants and loads their models."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np

from engine.run import ending
from engine.run.context import RunState
from engine.run.state import Cell, Entry
from engine.worker.handle import Worker
from engine.worker.messages import Encode, MeasureMemory, MemoryPeaks, Started


def load_group(state: RunState, group: list[Entry], process: int, stack: ExitStack, first: bool) -> None:
    """Start all workers of `group` at once, then load one after another, so that each sees the device still.

    `process`: the number of these workers among the run's; `first`: whether memory is observed too. The workers
    live as long as `stack`.
    """
    state.tell("loading", f"starting {len(group)} workers", 0.0)
    for entry in group:
        entry.worker = None
        log = state.logs / f"{entry.variant.name}-{process}.log"
        deadline_s = state.plan.suite.protocol.deadline_seconds
        worker = stack.enter_context(Worker(entry.variant, state.plan.device, state.plan.threads, log, deadline_s))
        entry.worker = worker
        ending.guarded(state, entry, worker.start)
    started: dict[str, Started] = {}
    for entry in group:
        if entry.ended is None and entry.worker:
            reply: Started | None = ending.guarded(state, entry, entry.worker.finish)
            if reply is not None:
                started[entry.variant.name] = reply
    for index, entry in enumerate(group):
        if entry.ended is None:
            text = f"{entry.variant.shown}: loading"
            state.tell("loading", text, index / len(group), None, entry.variant.name)
            ending.guarded(state, entry, _load, state, entry, first, started[entry.variant.name])


def _load(state: RunState, entry: Entry, first: bool, started: Started) -> None:
    """Load one variant, encode the texts, and observe memory where it is the `first` process."""
    worker, prepared = entry.running(), entry.prepared
    assert prepared is not None
    loaded = worker.load(prepared, state.plan.suite.workload.max_length)
    encoded = worker.ask(Encode(state.plan.corpus.texts))
    entry.lengths = encoded.lengths
    if not first or entry.kept:
        return
    for cell in sorted(entry.cells, key=lambda c: c.batching.batch_size):
        largest = _largest_batch(state, entry, cell)
        peaks = worker.ask(MeasureMemory(largest, cell.batching.padding))
        cell.values |= {
            "load_s": loaded.load_s,
            "weights_bytes": loaded.weights_bytes,
            "parameters": prepared.parameters,
            "truncated": int(encoded.truncated.sum()),
            **_memory_columns(peaks, started.imports_bytes),
        }


def _largest_batch(state: RunState, entry: Entry, cell: Cell) -> np.ndarray:
    """The positions of the batch with the most padded tokens: int64 [examples in the batch]."""
    assert entry.lengths is not None
    lengths = entry.lengths
    batches = [batch for window in state.windows([(entry, cell)]) for batch in entry.batches(cell, window)]
    return max(batches, key=lambda batch: len(batch) * int(lengths[batch].max()))


def _memory_columns(peaks: MemoryPeaks, imports_bytes: int | None) -> dict[str, Any]:
    """The columns of a measurement's memory, from a worker's reply and what its imports alone cost."""
    return {
        "ram_peak_bytes": peaks.host.bytes,
        "ram_source": peaks.host.source,
        "vram_peak_bytes": peaks.device.bytes,
        "vram_source": peaks.device.source,
        "memory": {
            "ram_peak": asdict(peaks.host),
            "ram_after_imports": {"bytes": imports_bytes, "source": "VmRSS before anything is loaded"},
            "vram_peak": asdict(peaks.device),
            **peaks.allocator,
        },
    }
