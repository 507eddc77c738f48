"""Two variants on the same examples: is one of them more often right? Pure functions over arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05
Z = 1.959964
"""The normal quantile of a 95% interval."""


@dataclass(frozen=True)
class Paired:
    """A variant's accuracy less the baseline's on the same examples."""

    difference: float
    low: float
    high: float
    gained: int
    """Examples that it alone has right."""
    lost: int
    """Examples that the baseline alone has right."""
    p: float
    """Exact McNemar, two-sided."""


def compare(mine: np.ndarray, baseline: np.ndarray) -> Paired:
    """`mine` and `baseline`: bool [examples], whether each is answered right. Raises ValueError on none."""
    n = len(mine)
    if n == 0 or n != len(baseline):
        raise ValueError(f"{n} and {len(baseline)} answers cannot be paired")
    gained = int((mine & ~baseline).sum())
    lost = int((~mine & baseline).sum())
    # Bonett and Price (2012): one more pair each way, so that no discordant pair is no certainty.
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = Z * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    low, high = max(-1.0, up - down - half), min(1.0, up - down + half)
    return Paired((gained - lost) / n, low, high, gained, lost, mcnemar(gained, lost))


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided McNemar p from the discordant pairs; 1 where there are none."""
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    # Integers of any size divide exactly, where floats of 2**n would overflow.
    return min(1.0, 2 * tail / 2**n) if n else 1.0


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction of p-values by name."""
    corrected: dict[str, float] = {}
    running = 0.0
    for rank, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, value * (len(p) - rank)))
        corrected[name] = running
    return corrected


def verdict(pair: Paired, corrected: float) -> str:
    """better, worse or no_difference."""
    if corrected >= LEVEL or pair.gained == pair.lost:
        return "no_difference"
    return "better" if pair.gained > pair.lost else "worse"
