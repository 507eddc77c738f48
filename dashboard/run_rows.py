"""Rows as pages show them: what the store has of each measurement, and what the others of its run add to it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from engine.measurement import stats
from engine.report import takeaways
from engine.store import rows as stored

MemoryKind = Literal["vram", "ram"]


@dataclass(frozen=True, slots=True)
class Across:
    """A speed-up over its own run's baseline, divided by the speed-up of a row of another run; not paired."""

    ratio: float
    low: float
    """Of the 95% interval, as `high`."""
    high: float
    comparison: str
    """better, worse or no_difference."""
    is_own: bool
    """Whether the row of the other run is that run's baseline: then the ratio is simply the row's own speed-up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(stored.Row):
    """A measurement beside the others of its run."""

    name: str
    """The title, with the batch size where the rows have several."""
    memory_kind: MemoryKind
    """VRAM where any variant of the run has some, else RAM."""
    memory_bytes: int | None = None
    """The peak of that memory."""
    memory_ratio: float | None = None
    """`memory_bytes` over the baseline's."""
    agreement_low: float | None = None
    """Of Wilson's 95% interval, as `agreement_high`."""
    agreement_high: float | None = None

    run: str = ""
    """The letter of its run, where several are compared."""
    plain: str = ""
    """The variant's own name, where `variant` is unique over several runs."""
    label: str = ""
    """Its title in lists to choose from."""
    example_set_id: str | None = None
    own_baseline: bool = False
    """Whether it is its own run's baseline, whatever it is compared with."""
    across: Across | None = None
    """Of a row of another run: how its speed-up compares with that of the baseline."""

    @property
    def phase(self) -> int:
        """The batch size of its experiment."""
        return self.batch_size if self.experiment is None else self.experiment

    @property
    def saved_bytes(self) -> int | None:
        """Less than nothing, by `memory_bytes`: for charts whose better side is the right."""
        return None if self.memory_bytes is None else -self.memory_bytes


def build(rows: Sequence[stored.Row]) -> list[Row]:
    """The rows of one run, from those of the store."""
    memory_kind: MemoryKind = "vram" if any(row.vram_peak_bytes is not None for row in rows) else "ram"
    several = len({row.batch_size for row in rows}) > 1
    built = [_shown(row, takeaways.sized(row) if several else row.title, memory_kind) for row in rows]
    return [replace(row, memory_ratio=memory_ratio(row, baseline_of(built, row))) for row in built]


def _shown(row: stored.Row, name: str, memory_kind: MemoryKind) -> Row:
    agreement_low = agreement_high = None
    if row.flips is not None and row.examples:
        same = stats.wilson(row.examples - row.flips, row.examples)
        agreement_low, agreement_high = same.low, same.high
    return Row(
        **{field.name: getattr(row, field.name) for field in fields(stored.Row)},
        name=name,
        plain=row.variant,
        label=row.title,
        own_baseline=row.baseline,
        memory_kind=memory_kind,
        memory_bytes=row.vram_peak_bytes if memory_kind == "vram" else row.ram_peak_bytes,
        agreement_low=agreement_low,
        agreement_high=agreement_high,
    )


def memory_ratio(row: Row, baseline: Row | None) -> float | None:
    """The row's peak of memory over the baseline's; None where either is not known."""
    if baseline is None or not row.memory_bytes or not baseline.memory_bytes:
        return None
    return row.memory_bytes / baseline.memory_bytes


def at_batch(rows: Sequence[Row], batch_size: int | None) -> list[Row]:
    """One batch size of a run, with the variants that keep a batching of their own."""
    if batch_size is None:
        return list(rows)
    sizes: dict[str, set[int]] = {}
    for row in rows:
        sizes.setdefault(row.variant, set()).add(row.batch_size)
    kept = [row for row in rows if row.batch_size == batch_size or batch_size not in sizes[row.variant]]
    return [replace(row, name=row.title) if row.batch_size == batch_size else row for row in kept]


def baseline_of(rows: Sequence[Row], row: Row | None = None) -> Row | None:
    """The baseline's row, at the batch size of `row` where it was measured there."""
    found = [candidate for candidate in rows if candidate.baseline]
    if row is not None:
        found.sort(key=lambda candidate: candidate.batch_size != row.batch_size)
    return found[0] if found else None


def paired(rows: Sequence[Row]) -> list[Row]:
    """The baseline and the rows that share rounds with it: those of which a speed-up may be said."""
    return [row for row in rows if row.baseline or row.speedup is not None]


def untaught(rows: Sequence[Row]) -> bool:
    """Whether all that was measured are models of random weights, whose answers say nothing."""
    measured = [row for row in rows if row.status == "measured"]
    return bool(measured) and all(map(takeaways.untaught, measured))


def swept(rows: Sequence[Row], key: str) -> bool:
    """Whether some variant has a figure at several batch sizes."""
    sizes: dict[str, set[int]] = {}
    for row in rows:
        if usable(row) and row.figure(key) is not None:
            sizes.setdefault(row.variant, set()).add(row.batch_size)
    return any(len(each) > 1 for each in sizes.values())


def usable(row: takeaways.Sound) -> bool:
    """Whether a chart may draw conclusions from the row."""
    return takeaways.sound(row)


def cost_key(rows: Sequence[Row]) -> str:
    """What speed is held against others in: a batch's latency, or the time a text where batches differ in size.

    A larger batch takes longer because it holds more: that beats nobody.
    """
    return "latency_p50_s" if len({row.batch_size for row in rows}) < 2 else "text_s"


def pareto(rows: Sequence[Row], cost: str, gain: str) -> list[Row]:
    """The rows that no other beats in both: lowest `cost` first. Rows without either figure take no part."""
    ordered = sorted(
        (row for row in rows if usable(row) and row.figure(cost) is not None and row.figure(gain) is not None),
        key=lambda row: (row.figure(cost), -row.figure(gain)),
    )
    front: list[Row] = []
    for row in ordered:
        if not front or row.figure(gain) > front[-1].figure(gain):
            front.append(row)
    return front
