"""Every example's logits, in the batches that are timed later, and how much they depend on the batch."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from engine.measurement import summary
from engine.run.context import RunState
from engine.run.state import Cell, Entry
from engine.worker.messages import Evaluate

REQUEST_SECONDS = 2.0
"""About how long one request for answers takes, so that progress is told in between."""
INVARIANCE_EXAMPLES = 256
"""How many examples are answered a second time in other batches, at most."""
INVARIANCE_SECONDS = 3.0
"""Time limit of the second answers, for each other way of batching."""


def answer(state: RunState, entry: Entry) -> None:
    """Have a variant answer every example at each batch size, and store the logits."""
    assert entry.prepared is not None
    worker, examples = entry.running(), len(state.plan.corpus)
    for cell in entry.cells:
        peers = [
            (other, peer)
            for other in state.alive()
            if other.lengths is not None
            for peer in other.cells
            if peer.experiment == cell.experiment
        ]
        batches = [batch for window in state.windows(peers) for batch in entry.batches(cell, window)]
        logits: np.ndarray | None = None
        done, step = 0, 1
        while done < len(batches):
            part = batches[done : done + step]
            began_s = time.monotonic()
            part_logits = worker.ask(Evaluate(part, cell.batching.padding)).logits
            if logits is None:
                logits = np.empty((examples, part_logits.shape[1]), dtype=np.float32)
            logits[np.concatenate(part)] = part_logits
            done += len(part)
            seconds = max(time.monotonic() - began_s, 1e-3)
            step = max(1, math.ceil(len(part) * REQUEST_SECONDS / seconds))
            text = f"{entry.variant.shown}: answering {examples} examples"
            left_s = (len(batches) - done) * seconds / len(part)
            state.tell("answering", text, done / len(batches), left_s, entry.variant.name)
        assert logits is not None
        cell.logits = logits
        state.recorder.prediction(cell.id, logits, entry.prepared.labels)
        cell.values["invariance"] = _invariance(state, entry, cell, logits)


def _invariance(state: RunState, entry: Entry, cell: Cell, logits: np.ndarray) -> dict[str, Any]:
    """Compare `logits` with a second answer to the first examples: one at a time, and under the other padding."""
    batching = cell.batching
    other_padding = "max_length" if batching.padding == "longest" else "longest"
    ways = {f"padding {other_padding}": (batching.batch_size, other_padding)}
    if batching.batch_size > 1:
        ways = {"batch 1": (1, batching.padding)} | ways
    chosen = np.arange(min(INVARIANCE_EXAMPLES, len(logits)))
    changes = {}
    for name, (size, padding) in ways.items():
        text = f"{entry.variant.shown}: answering again, {name}"
        state.tell("answering", text, None, None, entry.variant.name)
        second = _second_logits(entry, [chosen[i : i + size] for i in range(0, len(chosen), size)], padding)
        changes[name] = summary.changed(logits[: len(second)], second)
    return changes


def _second_logits(entry: Entry, batches: list[np.ndarray], padding: str) -> np.ndarray:
    """Logits of as many of `batches` as INVARIANCE_SECONDS allow, at least one: float32 [examples, labels]."""
    parts: list[np.ndarray] = []
    done, step, began_s = 0, 1, time.monotonic()
    while done < len(batches):
        part = batches[done : done + step]
        parts.append(entry.running().ask(Evaluate(part, padding)).logits)
        done += len(part)
        spent_s = time.monotonic() - began_s
        step = math.floor((INVARIANCE_SECONDS - spent_s) * done / max(spent_s, 1e-3))
        if step < 1:
            break
    return np.concatenate(parts)
