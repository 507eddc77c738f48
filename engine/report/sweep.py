"""The best batch size and the knee of each variant. Pure, over the rows of `engine.store.measurements.rows`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.store.rows import Row
from engine.units import milliseconds, significant, whole

NEAR = 0.95
"""The share of the best throughput from which on a larger batch gains little."""


@dataclass(frozen=True)
class Sweep:
    """One variant over its batch sizes: rows of it."""

    best: Row
    """The row with the most samples/s."""
    knee: Row
    """The row of the smallest batch whose samples/s may reach NEAR of the best: its interval includes that."""
    single: Row | None
    """One example a call, where that was measured."""

    def sentence(self) -> str:
        """The three in words."""
        best, knee = self.best, self.knee
        said = f"{best.title}: most samples/s ({significant(best.throughput_samples_per_s)}) "
        said += f"at batch {whole(best.batch_size)}"
        if knee is not best:
            share = rate(knee) / rate(best)
            said += (
                f"; the knee is at {whole(knee.batch_size)} ({share:.0%} of it, "
                f"{milliseconds(knee.latency_p50_s)} instead of {milliseconds(best.latency_p50_s)} ms a call)"
            )
        if self.single is not None:
            said += f"; one text alone takes {milliseconds(self.single.latency_p50_s)} ms"
        return said


def rate(row: Row) -> float:
    """Samples/s of a row, 0 where none were measured."""
    return row.throughput_samples_per_s or 0.0


def sweep(rows: Sequence[Row]) -> Sweep | None:
    """The sweep of `rows`, all of one variant; None if fewer than two batch sizes have valid figures."""
    known = [r for r in rows if r.throughput_samples_per_s is not None and r.validity != "invalid"]
    known.sort(key=lambda r: r.batch_size)
    if len({r.batch_size for r in known}) < 2:
        return None
    best = max(known, key=rate)
    near = NEAR * rate(best)
    reach = [r.throughput_samples_per_s_high or rate(r) for r in known]
    knee = next(r for r, high in zip(known, reach, strict=True) if high >= near)
    return Sweep(best, knee, known[0] if known[0].batch_size == 1 else None)


def sweeps(rows: Sequence[Row]) -> list[Sweep]:
    """The sweeps of all variants that were measured at several batch sizes, in the rows' order."""
    names = dict.fromkeys(row.variant for row in rows)
    found = (sweep([row for row in rows if row.variant == name]) for name in names)
    return [each for each in found if each is not None]
