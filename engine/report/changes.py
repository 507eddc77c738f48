"""Finds the changes between two runs or variants, and which of them are regressions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.measurement.summary import Difference
from engine.report.takeaways import HEAVIER, LIGHTER, Answers, Stored, baseline_for, names, p_words, sound
from engine.store.rows import Row
from engine.units import between, megabytes, percent, point_interval, points, significant, times


@dataclass(frozen=True)
class Regression:
    """Something that got worse by more than was allowed."""

    name: str
    sentence: str


def pairs(first: Stored, second: Stored) -> list[tuple[Row, Row]]:
    """The measurements that two runs share, by variant and batch size, whatever became of them."""
    other = {(row.variant, row.batch_size): row for row in second[1]}
    return [(row, other[key]) for row in first[1] if (key := (row.variant, row.batch_size)) in other]


def change(a: Row, b: Row) -> tuple[float, float, float] | None:
    """The speed-up of `b` over that of `a`, each against its own run's baseline, with its 95% limits.

    The two runs are independent: their intervals' half-widths add as squares, on the logarithm.
    """
    halves = []
    for row in (a, b):
        if row.speedup_low is None or row.speedup_high is None:
            return None
        halves.append(math.log(row.speedup_high / row.speedup_low) / 2)
    if a.speedup is None or b.speedup is None:
        return None
    centre, half = math.log(b.speedup / a.speedup), math.hypot(*halves)
    return math.exp(centre), math.exp(centre - half), math.exp(centre + half)


def moved(a: Row, b: Row, first: Stored, second: Stored) -> tuple[float, float, float] | None:
    """`change` from row `a` of one run to `b` of another, where something may be concluded from it.

    Both rows and both baselines are sound, and the baselines are the same variant.
    """
    bases = (baseline_for(a, first[1]), baseline_for(b, second[1]))
    if a.baseline or b.baseline or not all(row is not None and sound(row) for row in (a, b, *bases)):
        return None
    return change(a, b) if _same_baseline(first, second) else None


def _same_baseline(first: Stored, second: Stored) -> bool:
    def known(run: Stored) -> set[tuple[str, str, str]]:
        return {(row.variant, row.backend, row.precision) for row in run[1] if row.baseline}

    return known(first) == known(second)


def differences(
    first: Stored, second: Stored, letters: tuple[str, str] = ("A", "B"), answers: Answers | None = None
) -> list[str]:
    """Sentences on the differences between two runs: in their variants' figures, and in the runs themselves.

    `answers`: as `report.between` pairs them; without, no accuracy is told. Of a row that is invalid nothing else is.
    """
    one, other = letters
    said = []
    for field, what in (("device_name", "devices"), ("suite", "suites"), ("host", "hosts")):
        if first[0][field] != second[0][field]:
            said.append(f"different {what}: {first[0][field]} ({one}), {second[0][field]} ({other})")
    if first[0]["example_set_id"] != second[0]["example_set_id"]:
        said.append("different examples: accuracies are not comparable")
    if not _same_baseline(first, second):
        said.append("different baselines: speed-ups are not comparable")
    called = names(first[1])
    by_key = {(r.variant, r.batch_size): called[i] for i, r in enumerate(first[1])}
    for a, b in pairs(first, second):
        key = (a.variant, a.batch_size)
        found = [
            f"is invalid in {letter}, and nothing is concluded from it: {row.validity_reason}"
            for letter, row in ((one, a), (other, b))
            if row.validity == "invalid"
        ]
        if sound(a) and sound(b):
            found = [*_moved_speed(a, b, first, second, letters), *_moved_accuracy((answers or {}).get(key), letters)]
            found += _moved_memory(a, b, letters)
        said += [f"{by_key[key]}: {sentence}" for sentence in found]
    only = {row.variant for row in first[1]} ^ {row.variant for row in second[1]}
    if only:
        said.append(f"in one of the runs only: {', '.join(sorted(only))}")
    return said


def _moved_speed(a: Row, b: Row, first: Stored, second: Stored, letters: tuple[str, str]) -> Iterator[str]:
    found = moved(a, b, first, second)
    if found is None or found[1] <= 1 <= found[2]:
        return
    word = "rose" if found[0] > 1 else "fell"
    yield (
        f"the speed-up {word} to {times(found[0])} ({between(found[1], found[2])}) of what it was: "
        f"{significant(a.speedup)} ({letters[0]}), {significant(b.speedup)} ({letters[1]})"
    )


def _moved_accuracy(pair: Difference | None, letters: tuple[str, str]) -> Iterator[str]:
    if pair is None or pair.accuracy_comparison == "no_difference":
        return
    word = "fell" if pair.accuracy_comparison == "worse" else "rose"
    limits = point_interval(pair.accuracy_difference_low, pair.accuracy_difference_high)
    yield (
        f"the accuracy {word} by {abs(pair.accuracy_difference) * 100:.1f} points from {letters[0]} to {letters[1]} "
        f"({limits}; McNemar with Holm, p {p_words(pair.accuracy_p)}): {pair.accuracy_lost} of the same "
        f"{pair.examples:,} examples lost, {pair.accuracy_gained} gained"
    )


def _moved_memory(a: Row, b: Row, letters: tuple[str, str]) -> Iterator[str]:
    # A run without a GPU has no VRAM to hold beside another's.
    kind = "ram" if None in (a.vram_peak_bytes, b.vram_peak_bytes) else "vram"
    before, after = a.figure(f"{kind}_peak_bytes"), b.figure(f"{kind}_peak_bytes")
    if not before or not after or LIGHTER < after / before < HEAVIER:
        return
    yield (
        f"the peak of its {kind.upper()} {'rose' if after > before else 'fell'} to {times(after / before)} of what it "
        f"was: {megabytes(before)} MB ({letters[0]}), {megabytes(after)} MB ({letters[1]})"
    )


def regressions(rows: Sequence[Row], threshold: float) -> list[Regression]:
    """The variants shown to be worse than the baseline by more than `threshold` (a share: 0.05 is 5%, or 5 points).

    That is where all of an interval lies beyond it, of accuracy where the test shows a loss besides. What failed or is
    invalid counts as such, whatever the threshold, and its figures for nothing.
    """
    found, called = [], names(rows)
    for index, row in enumerate(rows):
        name = called[index]
        if row.status == "failed":
            found.append(Regression(name, f"{name} failed: {row.status_reason}"))
        if row.status == "measured" and not sound(row):
            found.append(Regression(name, f"{name} is invalid: {row.validity_reason}"))
        base = baseline_for(row, rows)
        if row.baseline or not sound(row) or base is None or not sound(base):
            continue
        if row.speedup_high is not None and row.speedup_high < 1 - threshold:
            limits = between(row.speedup_low, row.speedup_high)
            sentence = f"{name} is slower than the baseline by more than {percent(threshold)}%: {limits} its samples/s"
            found.append(Regression(name, sentence))
        if (lost := _lost(row, threshold)) is not None:
            sentence = f"{name} loses more than {percent(threshold)} points of accuracy: {lost}"
            found.append(Regression(name, sentence))
    return found


def _lost(pair: Row | Difference, threshold: float) -> str | None:
    """How much accuracy is shown to be lost, in words, where that is more than `threshold`."""
    high = pair.accuracy_difference_high
    if pair.accuracy_comparison != "worse" or high is None or high >= -threshold:
        return None
    return f"{points(pair.accuracy_difference)} points ({point_interval(pair.accuracy_difference_low, high)})"


def regressions_between(
    first: Stored, second: Stored, threshold: float, answers: Answers | None = None
) -> list[Regression]:
    """The variants shown to be worse in run B than in run A by more than `threshold`, a share, as in `regressions`.

    `answers`: as `report.between` pairs them; without, accuracies are not held beside each other. What failed or became
    invalid counts as such, and what was invalid before for nothing.
    """
    found, called = [], names(second[1])
    by_key = {(r.variant, r.batch_size): called[i] for i, r in enumerate(second[1])}
    for a, b in pairs(first, second):
        key = (b.variant, b.batch_size)
        name = by_key[key]
        if a.status == "measured" and b.status == "failed":
            found.append(Regression(name, f"{name} failed: {b.status_reason}"))
        if sound(a) and b.status == "measured" and not sound(b):
            found.append(Regression(name, f"{name} became invalid: {b.validity_reason}"))
        ratio = moved(a, b, first, second)
        if ratio is not None and ratio[2] < 1 - threshold:
            sentence = (
                f"{name}: its speed-up fell by more than {percent(threshold)}%, to {times(ratio[0])} "
                f"({between(ratio[1], ratio[2])}) of what it was"
            )
            found.append(Regression(name, sentence))
        pair = (answers or {}).get(key) if sound(a) and sound(b) else None
        if pair is not None and (lost := _lost(pair, threshold)) is not None:
            allowed = f"more than {percent(threshold)} points on the same examples"
            found.append(Regression(name, f"{name}: its accuracy fell by {allowed}: {lost}"))
    return found
