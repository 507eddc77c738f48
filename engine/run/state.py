"""The state of a run in progress: its progress, its cells and its variants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from engine.artefacts.preparer import Prepared
from engine.measurement import bounds
from engine.measurement.blocks import Block
from engine.measurement.doubts import Doubt
from engine.measurement.summary import Difference
from engine.run.position import RoundPosition
from engine.suite import batching
from engine.suite.batching import Batching
from engine.suite.plan import PlannedCell
from engine.suite.spec import Variant
from engine.worker.handle import Worker


@dataclass(frozen=True)
class Progress:
    """The progress of a run."""

    phase: str
    """queued, preparing, loading, answering, timing, serving or finished."""
    text: str
    done: float | None = None
    """Share of the phase, 0 to 1; None where unknown."""
    seconds_left: float | None = None
    variant: str | None = None
    position: RoundPosition | None = None
    """Which round is timed, in the phase timing."""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Progress:
        """The progress that a run's row holds, of this version or an older one."""
        known: dict[str, Any] = {item.name: stored[item.name] for item in fields(cls) if item.name in stored}
        return cls(**known | {"position": RoundPosition.from_json(stored.get("position"))})


Listener = Callable[[Progress], None]


class Cancelled(Exception):
    """A user asked the run to stop."""


@dataclass
class Cell:
    """One measurement in progress: a planned cell and its results so far."""

    planned: PlannedCell
    id: int = 0
    """The key of its row in the store."""
    logits: np.ndarray | None = None
    """float32 [examples, labels]."""
    blocks: list[Block] = field(default_factory=list)
    """Its timed blocks. Warm-up is stored and not kept here."""
    audit: dict[str, Any] | None = None
    kept: bool = False
    """Whether it is stored as measured. A resumed run measures the others and times a kept baseline beside them."""
    disturbed: int = 0
    """Blocks that began while another worker still used the CPU."""
    doubts: list[Doubt] = field(default_factory=list)
    """Why its figures may not be those of a steady state."""
    conditions: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    """Columns that are known before the end."""
    difference: Difference | None = None
    """Its accuracy beside the baseline's, p uncorrected; None where either has none."""
    limit_row: bounds.Observation | None = None
    limit: bounds.Limits | None = None

    @property
    def variant(self) -> Variant:
        return self.planned.variant

    @property
    def batching(self) -> Batching:
        return self.planned.batching

    @property
    def experiment(self) -> int:
        return self.planned.experiment


@dataclass
class Entry:
    """One variant of the run, all its cells, and its worker while it has one."""

    variant: Variant
    cells: list[Cell]
    prepared: Prepared | None = None
    ended: str | None = None
    """failed, unavailable or cancelled, once it is."""
    lengths: np.ndarray | None = None
    """int64 [examples]: tokens of each text by the variant's own tokenizer; None until its worker has encoded them."""
    worker: Worker | None = None

    @property
    def kept(self) -> bool:
        return all(cell.kept for cell in self.cells)

    def running(self) -> Worker:
        """The variant's worker, which has been started."""
        assert self.worker is not None
        return self.worker

    def batches(self, cell: Cell, window: np.ndarray) -> list[np.ndarray]:
        """The positions of `window` in batches, as `cell` forms them: int64 [examples in the batch] each."""
        assert self.lengths is not None
        return batching.batches(window, self.lengths, cell.batching)


Pairs = list[tuple[Entry, Cell]]
"""Cells with the entries that they belong to."""
