"""Which examples a call gets: pure functions over positions and token counts.

A run works through the workload in *windows*. In a round every variant works through the same window,
each in batches of its own, so that the ratio of two variants' speeds in a round is over the same
examples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LENGTH_WINDOW_BATCHES = 16
"""Where only some variants sort by length, or batches have a token budget, a window holds this many of the largest."""


@dataclass(frozen=True)
class Batching:
    """How one variant forms its batches."""

    batch_size: int
    """Examples in a batch, at most."""
    padding: str
    order: str
    max_batch_tokens: int | None = None
    """Tokens in a batch, its padding included, at most; None for no such limit."""

    def typical(self, lengths: np.ndarray) -> int:
        """About how many of the examples of `lengths` make a batch."""
        if self.max_batch_tokens is None:
            return self.batch_size
        return max(1, min(self.batch_size, int(self.max_batch_tokens // max(lengths.mean(), 1.0))))


def windows(lengths: np.ndarray, batchings: list[Batching], seed: int) -> list[np.ndarray]:
    """The workload cut into windows for `batchings`, in the order in which rounds visit them.

    `lengths`: int64 [examples], the baseline's token counts. Where every variant sorts by length, the
    whole workload is sorted; where only some do, each sorts within its windows. Where batches differ in their number
    of examples, a window holds several, as the last of a window is seldom full. Every full window comes before a last,
    shorter one, which rounds do not visit unless it is the only one.
    """
    largest = max(b.typical(lengths) for b in batchings)
    sorting = [b.order == "length" for b in batchings]
    several = (any(sorting) and not all(sorting)) or any(b.max_batch_tokens is not None for b in batchings)
    positions = np.argsort(lengths, kind="stable") if all(sorting) else np.arange(len(lengths))
    size = largest
    if several:
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
    made: list[np.ndarray] = []
    start = longest = total = 0
    for at, length in enumerate(lengths[window].tolist()):
        rows, longest, total = at - start + 1, max(longest, length), total + length
        tokens = total if batching.padding == "packed" else rows * longest
        over = batching.max_batch_tokens is not None and tokens > batching.max_batch_tokens
        if rows > batching.batch_size or (over and rows > 1):
            made.append(window[start:at])
            start, longest, total = at, length, length
    return [*made, window[start:]]
