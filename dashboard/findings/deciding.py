"""Decide which variants keep the user's limits, which of them is fastest, and what each limit costs. Pure.

A figure with an interval is within a limit if the whole interval is within it, beyond the limit if the whole interval
is beyond it, and otherwise not shown. Peaks of memory, percentiles and energy have no interval: their one value
decides. A figure that was not measured is not within a limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from dashboard.findings import headlines
from dashboard.run_rows import Row, baseline_of, usable
from engine.measurement import stats
from engine.measurement.stats import Interval
from engine.store.rows import present
from engine.units import significant

State = Literal["within", "beyond", "not shown", "unknown"]
Versus = Callable[[Row, Row], Interval | None]
"""Function that returns the ratio of the first row's samples/s to the second row's, or None if it is not known."""
TITLES = {"accuracy_lost": headlines.accuracy_title, "memory_bytes": headlines.memory_title}
"""Quantity -> function that gives the title of a chart without a limit."""
SIGNS = {"within": "✓", "beyond": "✗", "not shown": "?", "unknown": "–"}


@dataclass(frozen=True)
class Limits:
    """The largest allowed value of each quantity, in stored units; None means no limit."""

    memory_bytes: float | None = None
    latency_p95_s: float | None = None
    accuracy_lost: float | None = None
    """The accuracy that a variant may lose against the baseline, as a share: 0.005 is half a point."""
    energy_j_per_1000_examples: float | None = None

    @property
    def given(self) -> dict[str, float]:
        """The limits that are set, by name."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in every.items() if value is not None}


@dataclass(frozen=True)
class Quantity:
    """A quantity that can have a limit."""

    key: str
    label: str
    unit: str
    factor: float
    """The shown value is the stored value times this factor."""
    show: Callable[[float | None], str] = significant

    def read(self, row: Row) -> Interval | None:
        """Return the row's figure with its interval, or None. A figure without an interval is its own low and high."""
        if self.key != "accuracy_lost":
            value = row.figure(self.key)
            return None if value is None else Interval(value, value, value)
        if row.baseline:
            return Interval(0.0, 0.0, 0.0)
        if row.accuracy_difference is None:
            return None
        return Interval(
            -row.accuracy_difference, -present(row.accuracy_difference_high), -present(row.accuracy_difference_low)
        )

    def missing(self, row: Row) -> str:
        """Why the row lacks this figure, in a few words."""
        if self.key == "latency_p95_s" and row.calls:
            return f"{row.calls} calls, {stats.PERCENTILE_CALLS[0.95]} needed"
        if self.key == "accuracy_lost" and row.accuracy_reason:
            return str(row.accuracy_reason)
        return "not measured"

    def text(self, stored: float) -> str:
        return self.show(stored * self.factor)

    def amount(self, stored: float) -> str:
        """A limit as it was set, with its unit after a no-break space."""
        return self.counted(f"{stored * self.factor:.6g}")

    def counted(self, number: str) -> str:
        """`number` with its unit after a no-break space."""
        unit = "point" if (number, self.unit) == ("1", "points") else self.unit
        return f"{number}\u00a0{unit}"


def tenths(value: float | None) -> str:
    return "–" if value is None else f"{value + 0.0:.1f}".replace("-0.0", "0.0").replace("-", "−")


QUANTITIES: dict[str, Quantity] = {
    quantity.key: quantity
    for quantity in (
        Quantity("memory_bytes", "Peak memory", "MB", 1e-6),
        Quantity("latency_p95_s", "Latency, p95", "ms", 1e3),
        Quantity("accuracy_lost", "Accuracy lost", "points", 100.0, tenths),
        Quantity("energy_j_per_1000_examples", "Energy", "J/1,000", 1.0),
    )
}


def quantities(rows: Sequence[Row]) -> dict[str, Quantity]:
    """QUANTITIES with the labels that fit the rows: memory is called VRAM or RAM."""
    memory = "Peak VRAM" if any(row.memory_kind == "vram" for row in rows) else "Peak RAM"
    return QUANTITIES | {"memory_bytes": replace(QUANTITIES["memory_bytes"], label=memory)}


@dataclass(frozen=True)
class Judgement:
    """One row's figure compared with one limit."""

    quantity: Quantity
    allowed: float
    state: State
    figure: Interval | None

    def holds(self, strict: bool) -> bool:
        """Whether the row keeps the limit. `strict`: the whole interval has to keep it; else the estimate decides."""
        if self.figure is None:
            return False
        return _at_most(self.figure.high if strict else self.figure.estimate, self.allowed)


@dataclass(frozen=True)
class Judged:
    """One row compared with all limits."""

    row: Row
    problem: str | None
    """Why the row cannot be used, whatever the limits; None if it can."""
    judgements: dict[str, Judgement]
    strict: bool

    @property
    def failed(self) -> list[str]:
        """The limits that the row does not keep."""
        return [key for key, judgement in self.judgements.items() if not judgement.holds(self.strict)]

    @property
    def remains(self) -> bool:
        return self.problem is None and not self.failed


@dataclass(frozen=True)
class Cost:
    """The cost of one limit: the speed of the fastest row without the limit over that of the fastest row with it."""

    quantity: Quantity
    allowed: float
    kept_out: list[Row]
    """The rows that only this limit keeps out."""
    without: Row | None
    """The fastest row without the limit, or None."""
    given_up: Interval | None
    """The speed of `without` over that of the fastest; None if both are the same row, or if no row remains."""


@dataclass(frozen=True)
class Loosening:
    """One limit that can be loosened, and the row that then keeps all limits."""

    quantity: Quantity
    shown: float
    """The smallest sufficient limit, in the shown unit, rounded up."""
    row: Row


@dataclass(frozen=True)
class Decision:
    """The answer to a set of limits."""

    limits: Limits
    strict: bool
    quantities: dict[str, Quantity]
    judged: list[Judged]
    fastest: Row | None
    rivals: list[tuple[Row, Interval | None]]
    """The rows that may be as fast, each with the speed of `fastest` over its own, or None if that is not known."""
    costs: list[Cost]
    loosenings: list[Loosening]
    """Filled only if no row remains; the smallest change of a single limit comes first."""

    @property
    def remaining(self) -> list[Row]:
        return [judged.row for judged in self.judged if judged.remains]


def decide(rows: Sequence[Row], limits: Limits, strict: bool = True, versus: Versus | None = None) -> Decision:
    """Compare the rows of one batch size with `limits`.

    `versus` compares two rows: pass `from_rounds(...)` if their rounds are known. The default, `from_intervals`, uses
    their stored intervals.
    """
    versus = versus or from_intervals
    known = quantities(rows)
    judged = [_judge(row, limits, strict, known) for row in rows]
    fastest, rivals = _fastest([j.row for j in judged if j.remains], versus)
    costs = [_cost(judged, key, fastest, versus) for key in limits.given if judged]
    loosenings = [] if fastest else _loosenings(judged)
    return Decision(limits, strict, known, judged, fastest, rivals, costs, loosenings)


def _judge(row: Row, limits: Limits, strict: bool, known: Mapping[str, Quantity]) -> Judged:
    problem = None
    if row.status != "measured":
        problem = row.status
    elif not usable(row):
        problem = "invalid"
    elif _pace(row) is None:
        problem = "not timed"
    judgements = {}
    for key, allowed in limits.given.items():
        figure = known[key].read(row)
        state: State = "unknown"
        if figure is not None:
            below = _at_most(figure.low, allowed)
            state = "within" if _at_most(figure.high, allowed) else "not shown" if below else "beyond"
        judgements[key] = Judgement(known[key], allowed, state, figure)
    return Judged(row, problem, judgements, strict)


def _at_most(value: float, allowed: float) -> bool:
    """Whether `value` keeps a limit. The limit was converted from another unit, so rounding errors are allowed for."""
    return value <= allowed or math.isclose(value, allowed, rel_tol=1e-9)


def _pace(row: Row) -> float | None:
    """The row's speed-up or, without a baseline to compare with, its samples/s."""
    return row.speedup if row.speedup is not None else row.throughput_samples_per_s


def _fastest(remaining: Sequence[Row], versus: Versus) -> tuple[Row | None, list[tuple[Row, Interval | None]]]:
    if not remaining:
        return None, []
    held = all(row.speedup is not None for row in remaining)
    key = "speedup" if held else "throughput_samples_per_s"
    first, *rest = sorted(remaining, key=lambda row: -(row.figure(key) or 0.0))
    compared = [(row, versus(first, row)) for row in rest]
    return first, [(row, ratio) for row, ratio in compared if ratio is None or ratio.low <= 1]


def _cost(judged: Sequence[Judged], key: str, fastest: Row | None, versus: Versus) -> Cost:
    freed = [j for j in judged if j.problem is None and set(j.failed) <= {key}]
    without, _ = _fastest([j.row for j in freed], versus)
    kept_out = [j.row for j in freed if j.failed]
    given_up = None
    if fastest is not None and without is not None and without is not fastest:
        given_up = versus(without, fastest)
    judgement = judged[0].judgements[key]
    return Cost(judgement.quantity, judgement.allowed, kept_out, without, given_up)


def _loosenings(judged: Sequence[Judged]) -> list[Loosening]:
    best: dict[str, tuple[float, Judgement, Row]] = {}
    for item in judged:
        if item.problem is not None or len(item.failed) != 1:
            continue
        judgement = item.judgements[item.failed[0]]
        if judgement.figure is None:
            continue
        needed = judgement.figure.high if item.strict else judgement.figure.estimate
        key = judgement.quantity.key
        if key not in best or needed < best[key][0]:
            best[key] = needed, judgement, item.row

    def stretch(found: tuple[float, Judgement, Row]) -> float:
        return found[0] / found[1].allowed if found[1].allowed else math.inf

    return [
        Loosening(judgement.quantity, upwards(needed * judgement.quantity.factor), row)
        for needed, judgement, row in sorted(best.values(), key=stretch)
    ]


def upwards(value: float) -> float:
    """`value` rounded up to three significant digits, so that `value` keeps the result as a limit."""
    if value == 0:
        return 0.0
    places = 2 - math.floor(math.log10(abs(value)))
    return math.ceil(value * 10.0**places - 1e-9) / 10.0**places


def from_intervals(row: Row, other: Row) -> Interval | None:
    """The ratio of two rows' speeds, from their stored intervals; None where one is missing.

    The intervals are treated as independent, so the result is wider than one from rounds.
    """
    if other.baseline and row.speedup is not None:
        return Interval(row.speedup, present(row.speedup_low), present(row.speedup_high))
    key = "speedup" if None not in (row.speedup, other.speedup) else "throughput_samples_per_s"
    figures = [[each.figure(name) for name in (key, f"{key}_low", f"{key}_high")] for each in (row, other)]
    if any(not value for each in figures for value in each):
        return None
    half = math.hypot(*(math.log(high / low) / 2 for _, low, high in figures))
    centre = math.log(figures[0][0] / figures[1][0])
    return Interval(math.exp(centre), math.exp(centre - half), math.exp(centre + half))


def from_rounds(rows: Sequence[Row], rates: Mapping[int, list[np.ndarray]]) -> Versus:
    """Return a function that compares two rows of one experiment over their shared calm rounds, as a run does.

    `rates`: row `id` -> samples/s, one float64 [rounds] array per process. Rows that are not in `rates` are compared
    by their stored intervals. If the run widened its intervals because its machine was slower than before, the
    function widens its own as much.
    """
    known = [row for row in rows if row.id in rates]
    calm = stats.calm_rounds([rates[row.id] for row in known])
    base = baseline_of(known)
    slower = 1.0
    for row in known:
        if base is not None and row is not base and row.speedup_high is not None:
            unwidened = stats.speed_up(rates[row.id], rates[base.id], calm)
            slower = max(slower, row.speedup_high / unwidened.high if unwidened else 1.0)

    def versus(row: Row, other: Row) -> Interval | None:
        if other.baseline or row.id not in rates or other.id not in rates:
            return from_intervals(row, other)
        ratio = stats.speed_up(rates[row.id], rates[other.id], calm)
        return ratio and replace(ratio, low=ratio.low / slower, high=ratio.high * slower)

    return versus
