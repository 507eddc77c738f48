"""The raw values of a measurement: the calls that one worker timed in one round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["warmup", "timed"]


@dataclass(frozen=True, slots=True)
class Block:
    """Calls that one worker timed in one round."""

    process: int
    """Which of the protocol's fresh workers, from 0."""
    round: int
    started_s: float
    """Seconds since the run's first block, by the monotonic clock."""
    latencies_s: np.ndarray
    """float64 [calls], seconds, in order."""
    samples: int
    """Examples of all its calls."""
    tokens: int
    """Real tokens of all its calls."""
    padded_tokens: int
    """Tokens of all its calls, padding included."""
    kind: Kind = "timed"
