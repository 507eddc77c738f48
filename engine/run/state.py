"""The state of a run on its way: progress, entries and cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.artefacts.preparer import Prepared
from engine.measurement import bounds, summary
from engine.suite.batching import Batching
from engine.suite.spec import Variant
from engine.worker.handle import Worker


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    phase: str
    """queued, preparing, loading, answering, timing, serving or finished."""
    text: str
    done: float | None = None
    """Share of the phase, 0 to 1; None where unknown."""
    seconds_left: float | None = None
    variant: str | None = None


Listener = Callable[[Progress], None]


class Cancelled(Exception):
    """Somebody asked the run to stop."""


@dataclass
class Cell:
    """One measurement on its way: a variant at a batch size."""

    variant: Variant
    batching: Batching
    position: int
    id: int = 0
    logits: np.ndarray | None = None
    blocks: list[summary.Block] = field(default_factory=list)
    audit: dict[str, Any] | None = None
    kept: bool = False
    """Stored as measured; where the run was resumed since, only a baseline is timed again, beside what was missing."""
    disturbed: int = 0
    doubts: list[str] = field(default_factory=list)
    """Why its figures may not be those of a steady state."""
    conditions: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    """Columns that are known before the end."""
    limit_row: bounds.Row | None = None
    limit: bounds.Limits | None = None


@dataclass
class Entry:
    """One variant of the run and all its cells."""

    variant: Variant
    cells: list[Cell]
    prepared: Prepared | None = None
    ended: str | None = None
    """failed, unavailable or cancelled, once it is."""
    lengths: np.ndarray | None = None
    worker: Worker | None = None

    @property
    def kept(self) -> bool:
        return all(cell.kept for cell in self.cells)
