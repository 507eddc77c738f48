"""The examples of each call: pure functions over positions and token counts.

A run works through the workload in *windows*. In a round every variant works through the same window in its own
batches. So the ratio of two variants' speeds in a round is over the same examples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LENGTH_WINDOW_BATCHES = 16
"""How many of the largest batches a window holds, if only some variants sort by length or if a token budget is set."""


@dataclass(frozen=True)
class Batching:
    """How one variant forms its batches."""

    batch_size: int
    """The most examples in a batch."""
    padding: str
    order: str
    max_batch_tokens: int | None = None
    """The most tokens in a batch, with padding; None for no limit."""

    def typical(self, lengths: np.ndarray) -> int:
        """The approximate number of examples in a batch, for examples with token counts `lengths`."""
        if self.max_batch_tokens is None:
            return self.batch_size
        return max(1, min(self.batch_size, int(self.max_batch_tokens // max(lengths.mean(), 1.0))))


def windows(lengths: np.ndarray, batchings: list[Batching], seed: int) -> list[np.ndarray]:
    """The workload cut into windows for `batchings`, in the order in which rounds visit them.

    `lengths`: int64 [examples], the baseline's token counts. If every variant sorts by length, the whole workload is
    sorted. If only some do, each of them sorts within its windows. If batches differ in their number of examples, a
    window holds several batches, because the last batch of a window is seldom full. A shorter last window comes after
    all full ones; rounds do not visit it unless it is the only window.
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
        # After sorting, neighbours have similar lengths: without a shuffle a short run would see only short texts.
        cut = [cut[i] for i in np.random.default_rng(seed).permutation(len(cut))]
    return cut + rest


def timed_windows(all_windows: list[np.ndarray]) -> list[np.ndarray]:
    """The windows that rounds visit: all but a shorter last one."""
    full = [w for w in all_windows if len(w) == len(all_windows[0])]
    return full or all_windows


def batches(window: np.ndarray, lengths: np.ndarray, batching: Batching) -> list[np.ndarray]:
    """The window's positions in batches, as `batching` forms them.

    `lengths`: int64 [examples], the variant's own token counts.
    """
    if batching.order == "length":
        window = window[np.argsort(lengths[window], kind="stable")]
    cut: list[np.ndarray] = []
    start = longest = total = 0
    for at, length in enumerate(lengths[window].tolist()):
        rows, longest, total = at - start + 1, max(longest, length), total + length
        tokens = total if batching.padding == "packed" else rows * longest
        over = batching.max_batch_tokens is not None and tokens > batching.max_batch_tokens
        if rows > batching.batch_size or (over and rows > 1):
            cut.append(window[start:at])
            start, longest, total = at, length, length
    return [*cut, window[start:]]
