"""The plan of a run: a suite, resolved once at the start into the cells that the run measures.

All later code receives the plan. It does not derive a cell's batching or experiment from the suite again, because both
are stored with the measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.machine.devices import Device
from engine.suite.batching import Batching
from engine.suite.corpus import Corpus
from engine.suite.spec import Suite, Variant


@dataclass(frozen=True)
class PlannedCell:
    """One measurement to make: a variant at a batch size."""

    variant: Variant
    batching: Batching
    position: int
    """The cell's position, from 0: in the order of the suite's file, batch sizes ascending."""
    experiment: int
    """The batch size whose rounds the cell shares: all cells of an experiment are interleaved with each other.

    A variant with a batch size of its own joins the experiment of the largest batch size.
    """


@dataclass(frozen=True)
class Plan:
    """What a run measures, on which device and over which texts."""

    suite: Suite
    cells: tuple[PlannedCell, ...]
    corpus: Corpus
    device: Device
    threads: int
    """CPU threads of every backend."""

    @property
    def experiments(self) -> list[int]:
        """The batch sizes of the workload: one experiment each."""
        return list(self.suite.workload.batch_size)

    @property
    def baseline(self) -> str:
        """The name of the baseline."""
        return self.suite.baseline

    def cells_of(self, variant: str) -> list[PlannedCell]:
        """The cells of the variant with this name, in the order of the plan."""
        return [cell for cell in self.cells if cell.variant.name == variant]


def cells_of(suite: Suite) -> tuple[PlannedCell, ...]:
    """Every cell of `suite`, in the order of its file."""
    workload = suite.workload
    cells: list[PlannedCell] = []
    for variant in suite.variant:
        for size in [variant.batch_size] if variant.batch_size else workload.batch_size:
            batching = Batching(
                size,
                variant.padding or workload.padding,
                variant.order or workload.order,
                variant.max_batch_tokens or workload.max_batch_tokens,
            )
            experiment = workload.batch_size[-1] if variant.batch_size else size
            cells.append(PlannedCell(variant, batching, len(cells), experiment))
    return tuple(cells)
