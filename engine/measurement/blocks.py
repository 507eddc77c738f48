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
    """The number of the worker among the protocol's fresh workers, from 0."""
    round: int
    started_s: float
    """Seconds since the run's first block, by the monotonic clock."""
    latencies_s: np.ndarray
    """float64 [calls], in seconds, in order."""
    samples: int
    """Examples in all calls."""
    tokens: int
    """Real tokens in all calls, without padding."""
    padded_tokens: int
    """Tokens in all calls, with padding."""
    kind: Kind = "timed"
