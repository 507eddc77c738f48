"""The findings of a run as sentences, made from its statistics. Each is true of this run and carries its numbers.

Pure, over the rows of `engine.store.measurements.rows`. Nothing is called faster, slower, better or worse where
the interval or the test does not show it; what was looked for and not shown is said apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.measurement.summary import Difference
from engine.report.load import JoinedLoad
from engine.store.rows import Row
from engine.units import between, megabytes, percent, point_interval, points, significant, times

Stored = tuple[dict[str, Any], Sequence[Row]]
"""A run's summary and its rows."""
Key = tuple[str, int]
"""A measurement of a run: variant and batch size."""
Answers = Mapping[Key, Difference]
"""The accuracy of run B's measurements beside run A's on the same examples, as `report.between` pairs them."""
Kind = Literal["state", "labels", "speed", "accuracy", "answers", "memory", "energy", "limit", "batching"]

LIGHTER, HEAVIER = 0.9, 1.1
"""Memory ratios worth a sentence: one reading each, so small differences are left alone."""
SMALL_WEIGHTS = 0.7
LEAST_P = 0.001
"""Smaller p values are shown as "< 0.001"."""


@dataclass(frozen=True)
class Takeaway:
    """One sentence about one measurement."""

    kind: Kind
    name: str
    """The measurement's name, which the sentence begins with."""
    sentence: str
    shown: bool = True
    """False where a difference was looked for and none is shown."""
    predicate: str | None = None
    """The sentence without the name, if the name is its subject. After another sentence, "It" may replace the name."""


def _subject(kind: Kind, name: str, predicate: str) -> Takeaway:
    """The takeaway whose sentence is the name and `predicate`."""
    return Takeaway(kind, name, f"{name} {predicate}", predicate=predicate)


def names(rows: Sequence[Row]) -> dict[int, str]:
    """Each row's name by its position in `rows`: the title, with its batch size where there are several."""
    several = len({row.batch_size for row in rows}) > 1
    return {index: sized(row) if several else row.title for index, row in enumerate(rows)}


def sized(row: Row | JoinedLoad) -> str:
    """A row's title with its batch size."""
    return f"{row.title} @ {row.batch_size}"


def untaught(row: Row) -> bool:
    """Whether the row's model has random weights."""
    return bool(row.random_weights)


Sound = Row | JoinedLoad


def sound(row: Sound) -> bool:
    """Whether anything may be concluded from a row: it was measured, and is not invalid."""
    return bool(row.status == "measured" and row.validity != "invalid")


def baseline_for(row: Row, rows: Sequence[Row]) -> Row | None:
    """The baseline's row that `row` was compared with: at its batch size, else at the largest."""
    found = [r for r in rows if r.baseline]
    return min(found, key=lambda r: (r.batch_size != row.batch_size, -r.batch_size), default=None)


def takeaways(rows: Sequence[Row]) -> list[Takeaway]:
    """The takeaways of one run, row by row. For a baseline's row these are only its state, labels and batching."""
    said: list[Takeaway] = []
    called = names(rows)
    for index, row in enumerate(rows):
        name = called[index]
        if row.status != "measured":
            because = f": {row.status_reason}" if row.status_reason else ""
            said.append(_subject("state", name, f"was not measured: {row.status}{because}."))
            continue
        said += [Takeaway("labels", name, f"{name}: {flag['sentence']}") for flag in flags(row)]
        if row.validity == "invalid":
            predicate = f"is invalid, and nothing is concluded from it: {row.validity_reason}."
            said.append(_subject("state", name, predicate))
            continue
        said += _batching(row, name)
        base = baseline_for(row, rows)
        if row.baseline or base is None or not sound(base):
            continue
        title = base.title if base.batch_size == row.batch_size else sized(base)
        said += [*_speed(row, name, title), *_accuracy(row, name, title), *_answers(row, name, title)]
        said += [*_memory(row, name, base, title), *_energy(row, name, base, title), *_limit(row, name)]
    return said


def flags(row: Row) -> list[dict[str, Any]]:
    """The label gate's objections to a row's labels: kind, sentence and figures each."""
    return (row.quality or {}).get("flags") or []


def index_match(row: Row) -> float | None:
    """The accuracy that a comparison of indices would have reported, a share; None if it need not be mentioned.

    That is where the study's fault names it anyway, and of random weights.
    """
    named = any(flag["kind"] == "study" for flag in flags(row))
    return None if named or untaught(row) else row.index_match_rate


def _unsteady(row: Row) -> str:
    return ", unstable" if row.validity == "unstable" else ""


def _speed(row: Row, name: str, base: str) -> Iterator[Takeaway]:
    if row.speedup is None:
        return
    figure = f"{times(row.speedup)} ({between(row.speedup_low, row.speedup_high)}{_unsteady(row)})"
    if row.comparison == "no_difference":
        yield Takeaway("speed", name, f"{name}: no difference in speed to {base} is shown: {figure}.", shown=False)
    elif row.comparison == "better":
        yield _subject("speed", name, f"answers {figure} as many samples/s as {base}.")
    else:
        yield _subject("speed", name, f"is slower than {base}: {figure} its samples/s.")


def alone(row: Row) -> str:
    """Why an interval of accuracy's difference leaves out zero where no difference is shown; empty where it does not.

    The interval is of one pair; the verdict's test is corrected for all pairs of the run.
    """
    low, high = row.accuracy_difference_low, row.accuracy_difference_high
    if row.accuracy_comparison != "no_difference" or row.accuracy_p is None or low is None or high is None:
        return ""
    if low <= 0 <= high:
        return ""
    return f" for this pair alone, but p {p_words(row.accuracy_p)} by McNemar with Holm"


def _accuracy(row: Row, name: str, base: str) -> Iterator[Takeaway]:
    if row.accuracy_difference is None:
        return
    limits = point_interval(row.accuracy_difference_low, row.accuracy_difference_high)
    counts = f"{row.accuracy_lost} examples lost, {row.accuracy_gained} gained, of {row.examples:,}"
    if row.accuracy_comparison == "no_difference":
        could = row.detectable_difference
        least = f"; {would_show(could)}" if could is not None else ""
        sentence = (
            f"{name}: no difference in accuracy to {base} is shown: {points(row.accuracy_difference)} points "
            f"({limits}{alone(row)}); {counts}{least}."
        )
        yield Takeaway("accuracy", name, sentence, shown=False)
        return
    word = "loses" if row.accuracy_comparison == "worse" else "gains"
    predicate = (
        f"{word} {abs(row.accuracy_difference) * 100:.1f} points of accuracy against {base} "
        f"({limits}; McNemar with Holm, p {p_words(row.accuracy_p)}): {counts}."
    )
    yield _subject("accuracy", name, predicate)


def would_show(share: float) -> str:
    """The smallest difference that a run's examples would have shown, as words, with the power `quality.POWER`."""
    return f"this n would have shown {percent(share)} points in four of five such cases"


def p_words(p: float | None) -> str:
    """ "= 0.012", or "< 0.001"."""
    if p is None:
        return "unknown"
    return p_figure(p) if p < LEAST_P else f"= {p_figure(p)}"


def p_figure(p: float) -> str:
    """ "0.012", or "< 0.001": a p value alone, as a table shows it."""
    return f"< {LEAST_P}" if p < LEAST_P else f"{p:.2g}"


def _answers(row: Row, name: str, base: str) -> Iterator[Takeaway]:
    if row.flips is None or not row.examples or untaught(row):
        return
    if row.flips == 0:
        yield _subject("answers", name, f"gives the same answer as {base} to all {row.examples:,} examples.")
        return
    flips = f"answers {row.flips:,} of {row.examples:,} examples otherwise than {base}"
    yield _subject("answers", name, f"{flips} ({percent(row.flips / row.examples, 2)}%).")


def _memory(row: Row, name: str, base: Row, title: str) -> Iterator[Takeaway]:
    kind = "vram" if base.vram_peak_bytes is not None else "ram"
    mine, theirs = row.figure(f"{kind}_peak_bytes"), base.figure(f"{kind}_peak_bytes")
    if not mine or not theirs:
        return
    ratio, word = mine / theirs, kind.upper()
    beside = f"{megabytes(mine)} MB at its peak, {title} {megabytes(theirs)} MB"
    weights = None
    if row.weights_bytes and base.weights_bytes:
        weights = row.weights_bytes / base.weights_bytes
    if ratio <= LIGHTER or ratio >= HEAVIER:
        yield _subject("memory", name, f"needs {times(ratio)} the {word} of {title}: {beside}.")
    elif weights is not None and weights <= SMALL_WEIGHTS and row.batch_size == base.batch_size:
        rest = f"saves no {word}" if ratio >= 1 else f"needs {times(ratio)} its {word}"
        yield _subject("memory", name, f"has {times(weights)} the bytes of weights of {title} and {rest}: {beside}.")


def _energy(row: Row, name: str, base: Row, title: str) -> Iterator[Takeaway]:
    mine, theirs = row.energy_j_per_1000_examples, base.energy_j_per_1000_examples
    if mine is None or not theirs:
        return
    ratio = mine / theirs
    if LIGHTER < ratio < HEAVIER:
        return
    predicate = (
        f"takes {times(ratio)} the energy of {title}: {significant(mine)} J for 1,000 examples, "
        f"{title} {significant(theirs)} J, idle power subtracted."
    )
    yield _subject("energy", name, predicate)


def _limit(row: Row, name: str) -> Iterator[Takeaway]:
    sentence = (row.limits or {}).get("sentence")
    if sentence:
        yield Takeaway("limit", name, f"{name}: {sentence}")


def _batching(row: Row, name: str) -> Iterator[Takeaway]:
    changed = {way: seen for way, seen in (row.invariance or {}).items() if seen["changed"]}
    if not changed:
        return
    said = " and ".join(f"{seen['changed']} of {seen['examples']} under {way}" for way, seen in changed.items())
    yield Takeaway("batching", name, f"{name}'s answers depend on the batch: {said} differ from those at its own.")
