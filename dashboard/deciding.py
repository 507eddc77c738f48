"""Which variants keep the limits that somebody sets, which of them is fastest, and what each limit costs. Pure.

A figure with an interval is within a limit where the whole interval is, beyond it where none of it is, and else not
shown. Peaks of memory, percentiles and energy have no interval: their one value decides. What was not measured is not
within a limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from dashboard import findings
from dashboard.frame import Row, baseline_of, usable
from engine import stats, takeaways
from engine.stats import Interval
from engine.units import between, significant, times

State = Literal["within", "beyond", "not shown", "unknown"]
Versus = Callable[[Row, Row], Interval | None]
"""How many times the second row's samples/s the first one reaches."""
TITLES = {"accuracy_lost": findings.accuracy_title, "memory_bytes": findings.memory_title}
"""The finding of a chart that shows no limit."""
SIGNS = {"within": "✓", "beyond": "✗", "not shown": "?", "unknown": "–"}


@dataclass(frozen=True)
class Limits:
    """The most that is allowed of each, in stored units; None where there is no limit."""

    memory_bytes: float | None = None
    latency_p95_s: float | None = None
    accuracy_lost: float | None = None
    """A share: 0.005 is half a point. What a variant answers worse than the baseline."""
    energy_j_per_1000_examples: float | None = None

    @property
    def given(self) -> dict[str, float]:
        """The limits that are set, by name."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in every.items() if value is not None}


@dataclass(frozen=True)
class Quantity:
    """What a limit may be set on."""

    key: str
    label: str
    unit: str
    factor: float
    """From the stored unit to the shown one."""
    show: Callable[[float | None], str] = significant

    def read(self, row: Row) -> Interval | None:
        """The row's figure with its limits (the same three times where it has none), or None."""
        if self.key != "accuracy_lost":
            value = row[self.key]
            return None if value is None else Interval(value, value, value)
        if row["baseline"]:
            return Interval(0.0, 0.0, 0.0)
        if row["accuracy_difference"] is None:
            return None
        return Interval(-row["accuracy_difference"], -row["accuracy_difference_high"], -row["accuracy_difference_low"])

    def missing(self, row: Row) -> str:
        """Why the row has no such figure, in a few words."""
        if self.key == "latency_p95_s" and row["calls"]:
            return f"{row['calls']} calls, {stats.PERCENTILE_CALLS[0.95]} needed"
        if self.key == "accuracy_lost" and row["accuracy_reason"]:
            return str(row["accuracy_reason"])
        return "not measured"

    def text(self, stored: float) -> str:
        return self.show(stored * self.factor)

    def amount(self, stored: float) -> str:
        """A limit as it was set, with its unit, not to be broken between lines."""
        return self.counted(f"{stored * self.factor:.6g}")

    def counted(self, number: str) -> str:
        """A number as it is written, with its unit, not to be broken between lines."""
        unit = "point" if (number, self.unit) == ("1", "points") else self.unit
        return f"{number}\u00a0{unit}"


def _tenths(value: float | None) -> str:
    return "–" if value is None else f"{value + 0.0:.1f}".replace("-0.0", "0.0").replace("-", "−")


QUANTITIES: dict[str, Quantity] = {
    quantity.key: quantity
    for quantity in (
        Quantity("memory_bytes", "Peak memory", "MB", 1e-6),
        Quantity("latency_p95_s", "Latency, p95", "ms", 1e3),
        Quantity("accuracy_lost", "Accuracy lost", "points", 100.0, _tenths),
        Quantity("energy_j_per_1000_examples", "Energy", "J/1,000", 1.0),
    )
}


def quantities(rows: Sequence[Row]) -> dict[str, Quantity]:
    """QUANTITIES by the names that they have in a run: its memory is VRAM or RAM."""
    memory = "Peak VRAM" if any(row["memory_kind"] == "vram" for row in rows) else "Peak RAM"
    return QUANTITIES | {"memory_bytes": replace(QUANTITIES["memory_bytes"], label=memory)}


@dataclass(frozen=True)
class Judgement:
    """One row's figure beside one limit."""

    quantity: Quantity
    allowed: float
    state: State
    figure: Interval | None

    def holds(self, strict: bool) -> bool:
        """Whether the row may stay. `strict`: only what is shown to be within; else its estimate decides."""
        if self.figure is None:
            return False
        return _at_most(self.figure.high if strict else self.figure.estimate, self.allowed)


@dataclass(frozen=True)
class Judged:
    """One row beside all limits."""

    row: Row
    problem: str | None
    """Why nothing is concluded from the row, whatever the limits."""
    judgements: dict[str, Judgement]
    strict: bool

    @property
    def failed(self) -> list[str]:
        """The limits that it does not keep."""
        return [key for key, judgement in self.judgements.items() if not judgement.holds(self.strict)]

    @property
    def remains(self) -> bool:
        return self.problem is None and not self.failed


@dataclass(frozen=True)
class Cost:
    """What one limit costs: the fastest without it, over the fastest with it."""

    quantity: Quantity
    allowed: float
    kept_out: list[Row]
    """Those that this limit alone keeps out."""
    without: Row | None
    given_up: Interval | None
    """The speed of `without` over that of the fastest; None where it is the same, or where nothing remains."""


@dataclass(frozen=True)
class Loosening:
    """One limit to move, and what remains then."""

    quantity: Quantity
    shown: float
    """The least value that does, in the shown unit, rounded up."""
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
    """Those that may be as fast, and the fastest's speed over theirs."""
    costs: list[Cost]
    loosenings: list[Loosening]
    """Where nothing remains: the smallest change of a single limit first."""

    @property
    def remaining(self) -> list[Row]:
        return [judged.row for judged in self.judged if judged.remains]


def decide(rows: Sequence[Row], limits: Limits, strict: bool = True, versus: Versus | None = None) -> Decision:
    """Holds the rows of one batch size against `limits`.

    `versus` compares two rows, by `from_rounds` where their rounds are known; by their stored intervals by default.
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
    if row["status"] != "measured":
        problem = row["status"]
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
    """Whether `value` keeps a limit, which went through another unit."""
    return value <= allowed or math.isclose(value, allowed, rel_tol=1e-9)


def _pace(row: Row) -> float | None:
    """What the fastest has the most of: speed-ups, or samples/s where there was no baseline to hold against."""
    return row["speedup"] if row["speedup"] is not None else row["throughput_samples_per_s"]


def _fastest(remaining: Sequence[Row], versus: Versus) -> tuple[Row | None, list[tuple[Row, Interval | None]]]:
    if not remaining:
        return None, []
    held = all(row["speedup"] is not None for row in remaining)
    key = "speedup" if held else "throughput_samples_per_s"
    first, *rest = sorted(remaining, key=lambda row: -(row[key] or 0.0))
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
    """`value` rounded up to three significant digits: a limit that it keeps."""
    if value == 0:
        return 0.0
    places = 2 - math.floor(math.log10(abs(value)))
    return math.ceil(value * 10.0**places - 1e-9) / 10.0**places


def from_intervals(row: Row, other: Row) -> Interval | None:
    """The ratio of two rows' speeds by their stored intervals, as if these were independent: wider than by rounds."""
    if other["baseline"] and row["speedup"] is not None:
        return Interval(row["speedup"], row["speedup_low"], row["speedup_high"])
    key = "speedup" if None not in (row["speedup"], other["speedup"]) else "throughput_samples_per_s"
    figures = [[each[name] for name in (key, f"{key}_low", f"{key}_high")] for each in (row, other)]
    if any(not value for each in figures for value in each):
        return None
    half = math.hypot(*(math.log(high / low) / 2 for _, low, high in figures))
    centre = math.log(figures[0][0] / figures[1][0])
    return Interval(math.exp(centre), math.exp(centre - half), math.exp(centre + half))


def from_rounds(rows: Sequence[Row], rates: Mapping[int, list[np.ndarray]]) -> Versus:
    """Compares two rows of one experiment over the rounds that they share, the calm ones, as a run does.

    `rates`: by a row's `id`, samples/s as one float64 [rounds] array a process. Rows without rounds here are
    compared by their stored intervals. Where the run widened its intervals (a machine slower than it has been), so
    does this.
    """
    known = [row for row in rows if row["id"] in rates]
    calm = stats.calm_rounds([rates[row["id"]] for row in known])
    base = baseline_of(known)
    slower = 1.0
    for row in known:
        if base is not None and row is not base and row["speedup_high"] is not None:
            again = stats.speed_up(rates[row["id"]], rates[base["id"]], calm)
            slower = max(slower, row["speedup_high"] / again.high if again else 1.0)

    def versus(row: Row, other: Row) -> Interval | None:
        if other["baseline"] or row["id"] not in rates or other["id"] not in rates:
            return from_intervals(row, other)
        found = stats.speed_up(rates[row["id"]], rates[other["id"]], calm)
        return found and replace(found, low=found.low / slower, high=found.high * slower)

    return versus


# Words


def answer(decision: Decision) -> tuple[str, str]:
    """The decision as one sentence with its uncertainty, and what belongs to it in smaller letters."""
    rows = [judged.row for judged in decision.judged]
    if not any(row["status"] == "measured" for row in rows):
        waiting = any(row["status"] == "pending" for row in rows)
        return ("Nothing has been measured yet." if waiting else "Nothing was measured in this run."), ""
    if decision.fastest is None:
        return _nothing(decision)
    first, rivals = decision.fastest, [row for row, _ in decision.rivals]
    limited = bool(decision.limits.given)
    within = " within your limits" if limited else ""
    speed = _speed_words(first, baseline_of(rows))
    count = len(decision.remaining)
    if rivals:
        names = [row["name"] for row in [first, *rivals]]
        either = " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        none = "neither" if len(names) == 2 else "none of them"
        finding = f"{either}: {none} is shown to be the fastest{within}."
    elif count == 1:
        verb = "keeps your limits" if limited else "can be decided on"
        finding = f"Only {first['name']} {verb}: {speed}."
    elif limited:
        finding = f"Ship {first['name']}: {speed}, the fastest of {count} variants within your limits."
    else:
        finding = f"Without a limit {first['name']} is the fastest of {count} variants: {speed}."
    detail = [_rival_words(decision, speed), _accuracy_words(first), _kept_words(decision), _unknown_words(decision)]
    if first["validity"] == "unstable":
        detail.append(f"~ {first['name']} was not in a steady state.")
    return finding, " ".join(filter(None, detail))


def _speed_words(row: Row, baseline: Row | None) -> str:
    if row["baseline"]:
        return "the baseline itself"
    if row["speedup"] is None or baseline is None:
        limits = between(row["throughput_samples_per_s_low"], row["throughput_samples_per_s_high"])
        return f"{significant(row['throughput_samples_per_s'])} samples/s ({limits})"
    limits = between(row["speedup_low"], row["speedup_high"])
    return f"{times(row['speedup'])} ({limits}) the samples/s of {baseline['name']}"


def _rival_words(decision: Decision, speed: str) -> str:
    if not decision.rivals or decision.fastest is None:
        return ""
    said = [
        f"{times(ratio.estimate)} ({between(ratio.low, ratio.high)}) that of {row['name']}"
        for row, ratio in decision.rivals
        if ratio is not None
    ]
    beside = f"; {findings.joined(said)}" if said else ""
    return f"{decision.fastest['name']} has the highest estimate, {speed}{beside}."


def _accuracy_words(row: Row) -> str:
    figure = QUANTITIES["accuracy_lost"].read(row)
    if row["baseline"] or figure is None:
        return ""
    if row["accuracy_comparison"] == "no_difference":
        limits = f"{between(figure.low * 100, figure.high * 100, _tenths)} points lost{takeaways.alone(row)}"
        return f"No difference in its accuracy is shown: {limits}, n = {row['examples']:,}."
    sign, word = (1, "loses") if row["accuracy_comparison"] == "worse" else (-1, "gains")
    low, high = sorted((100 * sign * figure.low, 100 * sign * figure.high))
    amount = f"{_tenths(100 * sign * figure.estimate)} points of accuracy"
    return f"It {word} {amount} ({between(low, high, _tenths)}, n = {row['examples']:,})."


def _small(quantity: Quantity) -> str:
    """A quantity's label within a sentence."""
    return quantity.label[0].lower() + quantity.label[1:]


def _kept_words(decision: Decision) -> str:
    kept = [
        f"{judged.row['name']} ({_small(judgement.quantity)})"
        for judged in decision.judged
        if judged.remains
        for judgement in judged.judgements.values()
        if judgement.state == "not shown"
    ]
    return f"Kept by its estimate, not shown to be within: {findings.joined(kept)}." if kept else ""


def _unknown_words(decision: Decision) -> str:
    groups: dict[tuple[str, str], list[str]] = {}
    for judged in decision.judged:
        for judgement in judged.judgements.values():
            if judged.problem is None and judgement.state == "unknown":
                key = (_small(judgement.quantity), judgement.quantity.missing(judged.row))
                groups.setdefault(key, []).append(judged.row["name"])
    return " ".join(
        f"Out for want of a figure, {what} ({why}): {findings.joined(names)}." for (what, why), names in groups.items()
    )


def _nothing(decision: Decision) -> tuple[str, str]:
    finding = "No variant is shown to keep your limits." if decision.strict else "No variant keeps your limits."
    candidates = [judged for judged in decision.judged if judged.problem is None]
    if not candidates:
        return "Nothing can be decided on: no row of this run is valid.", ""
    if decision.loosenings:
        first = decision.loosenings[0]
        return finding, (
            f"The smallest single step: {_small(first.quantity)} of "
            f"{first.quantity.counted(significant(first.shown))} lets {first.row['name']} in. "
            f"{_unknown_words(decision)}"
        ).strip()
    nearest = min(candidates, key=lambda judged: len(judged.failed))
    missed = findings.joined([_small(decision.quantities[key]) for key in nearest.failed])
    return finding, (
        f"No single limit brings one back: {nearest.row['name']} comes nearest and misses {missed}. "
        f"{_unknown_words(decision)}"
    ).strip()


def cost_words(cost: Cost, fastest: Row | None) -> str:
    """What a limit costs, in a few words."""
    if cost.without is None:
        return "nothing remains without it either"
    if fastest is None:
        return f"without it, {cost.without['name']} remains"
    if cost.without is fastest:
        return "costs nothing: the fastest stays the same"
    if cost.given_up is None:
        return f"{cost.without['name']} instead; how much faster is not known"
    ratio = f"{times(cost.given_up.estimate)} ({between(cost.given_up.low, cost.given_up.high)})"
    if cost.given_up.low <= 1:
        return f"no loss of speed is shown: {cost.without['name']} is {ratio} as fast"
    return f"{ratio} the speed: {cost.without['name']} instead"


def title(decision: Decision, against: str) -> str:
    """The finding of a chart of p95 and the quantity `against`: whom either limit keeps out."""
    measured = [judged for judged in decision.judged if judged.problem is None]
    said = []
    # One chart tells of p95 alone; the others then have findings of their own.
    tells = against == "accuracy_lost" or against in decision.limits.given
    for key in (against, "latency_p95_s") if tells else ():
        if key in decision.limits.given:
            quantity = decision.quantities[key]
            out = [judged.row["name"] for judged in measured if key in judged.failed]
            said.append(f"by {quantity.amount(decision.limits.given[key])}: {findings.joined(out) or 'no variant'}")
    rows = [judged.row for judged in decision.judged]
    if not said and against in TITLES:
        return TITLES[against](rows)
    if not said:
        return f"{decision.quantities[against].label} and latency, without a limit"
    return f"Kept out {'; '.join(said)}"
