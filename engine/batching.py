"""Which examples a call gets: pure functions over positions and token counts.

A run works through the workload in *windows*. In a round every variant works through the same window,
each in batches of its own, so that the ratio of two variants' speeds in a round is over the same
examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

LENGTH_WINDOW_BATCHES = 16
"""Where only some variants sort by length, a window holds this many of the largest batches to sort within."""


@dataclass(frozen=True)
class Batching:
    """How one variant forms its batches."""

    batch_size: int
    padding: str
    order: str


def experiment(spec: dict[str, Any], variant: str, batch_size: int) -> int:
    """The batch size whose rounds a measurement belongs to, by a run's suite as stored.

    A variant with a batch size of its own joins the last, as `engine.runner` has it.
    """
    own = any(item["name"] == variant and item.get("batch_size") for item in spec.get("variant") or [])
    return max(spec["workload"]["batch_size"]) if own else batch_size


def windows(lengths: np.ndarray, batchings: list[Batching], seed: int) -> list[np.ndarray]:
    """The workload cut into windows for `batchings`, in the order in which rounds visit them.

    `lengths`: int64 [examples], the baseline's token counts. Where every variant sorts by length, the
    whole workload is sorted; where only some do, each sorts within its windows. Every full window
    comes before a last, shorter one, which rounds do not visit unless it is the only one.
    """
    largest = max(b.batch_size for b in batchings)
    sorting = [b.order == "length" for b in batchings]
    positions = np.argsort(lengths, kind="stable") if all(sorting) else np.arange(len(lengths))
    size = largest
    if any(sorting) and not all(sorting):
        size = min(largest * LENGTH_WINDOW_BATCHES, max(largest, len(lengths) // largest * largest))
    cut = [positions[start : start + size] for start in range(0, len(positions), size)]
    rest = [cut.pop()] if len(cut) > 1 and len(cut[-1]) < size else []
    if all(sorting):
        # Neighbours have the same length: without a shuffle a short run would see short texts alone.
        cut = [cut[i] for i in np.random.default_rng(seed).permutation(len(cut))]
    return cut + rest


def timed_windows(all_windows: list[np.ndarray]) -> list[np.ndarray]:
    """Those that rounds visit: all but a last one that is shorter than the others."""
    full = [w for w in all_windows if len(w) == len(all_windows[0])]
    return full or all_windows


def batches(window: np.ndarray, lengths: np.ndarray, batching: Batching) -> list[np.ndarray]:
    """The window's positions in batches, as `batching` forms them.

    `lengths`: int64 [examples], the variant's own token counts.
    """
    if batching.order == "length":
        window = window[np.argsort(lengths[window], kind="stable")]
    size = batching.batch_size
    return [window[start : start + size] for start in range(0, len(window), size)]
