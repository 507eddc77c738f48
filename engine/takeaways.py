"""What a run shows, in sentences that its statistics write: each is true of this run, with its numbers.

Pure, over the flat rows of `engine.store.queries.flat`. Nothing is called faster, slower, better or worse where
the interval or the test does not show it; what was looked for and not shown is said apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.units import between, megabytes, percent, point_interval, points, significant, times

Row = dict[str, Any]
Stored = tuple[dict[str, Any], list[Row]]
"""A run's summary and its rows."""
Key = tuple[str, int]
"""A measurement of a run: variant and batch size."""
Answers = Mapping[Key, Row]
"""Accuracy columns of run B's measurements beside run A's on the same examples, as `engine.between` pairs them."""
Kind = Literal["state", "labels", "speed", "accuracy", "answers", "memory", "energy", "limit", "batching"]

LIGHTER, HEAVIER = 0.9, 1.1
"""Memory ratios worth a sentence: one reading each, so small differences are left alone."""
SMALL_WEIGHTS = 0.7
RANDOM_WEIGHTS = "its head or all its weights are random: made for speed and memory alone"
"""Why a row has no accuracy whose model nobody has taught: its answers say nothing of what they are asked."""


@dataclass(frozen=True)
class Takeaway:
    """One sentence about one measurement."""

    kind: Kind
    name: str
    """The measurement's name, which the sentence begins with."""
    sentence: str
    shown: bool = True
    """False where a difference was looked for and none is shown."""


@dataclass(frozen=True)
class Regression:
    """Something that got worse by more than was allowed."""

    name: str
    sentence: str


def names(rows: Sequence[Row]) -> dict[int, str]:
    """Each row's name by its position in `rows`: the title, with its batch size where there are several."""
    several = len({row["batch_size"] for row in rows}) > 1
    return {index: sized(row) if several else row["title"] for index, row in enumerate(rows)}


def sized(row: Row) -> str:
    """A row's title with its batch size."""
    return f"{row['title']} @ {row['batch_size']}"


def untaught(row: Row) -> bool:
    """Whether the row's model has random weights."""
    return row["accuracy_reason"] == RANDOM_WEIGHTS


def sound(row: Row) -> bool:
    """Whether anything may be concluded from a row: it was measured, and is not invalid."""
    return row["status"] == "measured" and row["validity"] != "invalid"


def baseline_for(row: Row, rows: Sequence[Row]) -> Row | None:
    """The baseline's row that `row` was compared with: at its batch size, else at the largest."""
    found = [r for r in rows if r["baseline"]]
    return min(found, key=lambda r: (r["batch_size"] != row["batch_size"], -r["batch_size"]), default=None)


def takeaways(rows: Sequence[Row]) -> list[Takeaway]:
    """What one run shows, row by row in its order; the baseline's own rows first of all say what is wrong with them."""
    said: list[Takeaway] = []
    called = names(rows)
    for index, row in enumerate(rows):
        name = called[index]
        if row["status"] != "measured":
            because = f": {row['status_reason']}" if row["status_reason"] else ""
            sentence = f"{name} was not measured: {row['status']}{because}."
            said.append(Takeaway("state", name, sentence))
            continue
        said += [Takeaway("labels", name, f"{name}: {flag['sentence']}") for flag in flags(row)]
        if row["validity"] == "invalid":
            sentence = f"{name} is invalid, and nothing is concluded from it: {row['validity_reason']}."
            said.append(Takeaway("state", name, sentence))
            continue
        said += _batching(row, name)
        base = baseline_for(row, rows)
        if row["baseline"] or base is None or not sound(base):
            continue
        title = base["title"] if base["batch_size"] == row["batch_size"] else sized(base)
        said += [*_speed(row, name, title), *_accuracy(row, name, title), *_answers(row, name, title)]
        said += [*_memory(row, name, base, title), *_energy(row, name, base, title), *_limit(row, name)]
    return said


def flags(row: Row) -> list[dict[str, Any]]:
    """What the label gate has against a row's labels: kind, sentence and figures each."""
    return (row["quality"] or {}).get("flags") or []


def index_match(row: Row) -> float | None:
    """What comparing index with index would have reported, a share; None where it does not need to be said.

    That is where the study's fault names it anyway, and of random weights.
    """
    named = any(flag["kind"] == "study" for flag in flags(row))
    return None if named or untaught(row) else row["index_match_rate"]


def _unsteady(row: Row) -> str:
    return ", unstable" if row["validity"] == "unstable" else ""


def _speed(row: Row, name: str, base: str) -> Iterator[Takeaway]:
    if row["speedup"] is None:
        return
    figure = f"{times(row['speedup'])} ({between(row['speedup_low'], row['speedup_high'])}{_unsteady(row)})"
    if row["comparison"] == "no_difference":
        yield Takeaway("speed", name, f"{name}: no difference in speed to {base} is shown: {figure}.", shown=False)
    elif row["comparison"] == "better":
        yield Takeaway("speed", name, f"{name} answers {figure} as many samples/s as {base}.")
    else:
        yield Takeaway("speed", name, f"{name} is slower than {base}: {figure} its samples/s.")


def alone(row: Row) -> str:
    """Why an interval of accuracy's difference leaves out zero where no difference is shown; empty where it does not.

    The interval is of one pair; the verdict's test is corrected for all pairs of the run.
    """
    unshown = row["accuracy_comparison"] == "no_difference" and row.get("accuracy_p") is not None
    if not unshown or row["accuracy_difference_low"] <= 0 <= row["accuracy_difference_high"]:
        return ""
    return f" for this pair alone, but p {p_words(row['accuracy_p'])} by McNemar with Holm"


def _accuracy(row: Row, name: str, base: str) -> Iterator[Takeaway]:
    if row["accuracy_difference"] is None:
        return
    limits = point_interval(row["accuracy_difference_low"], row["accuracy_difference_high"])
    counts = f"{row['accuracy_lost']} examples lost, {row['accuracy_gained']} gained, of {row['examples']:,}"
    if row["accuracy_comparison"] == "no_difference":
        could = row["detectable_difference"]
        least = f"; {would_show(could)}" if could is not None else ""
        sentence = (
            f"{name}: no difference in accuracy to {base} is shown: {points(row['accuracy_difference'])} points "
            f"({limits}{alone(row)}); {counts}{least}."
        )
        yield Takeaway("accuracy", name, sentence, shown=False)
        return
    word = "loses" if row["accuracy_comparison"] == "worse" else "gains"
    sentence = (
        f"{name} {word} {abs(row['accuracy_difference']) * 100:.1f} points of accuracy against {base} "
        f"({limits}; McNemar with Holm, p {p_words(row['accuracy_p'])}): {counts}."
    )
    yield Takeaway("accuracy", name, sentence)


def would_show(share: float) -> str:
    """What a run's examples could have shown, of a `detectable_difference`: quality.POWER in words."""
    return f"this n would have shown {percent(share)} points in four of five such cases"


def p_words(p: float | None) -> str:
    """ "= 0.012", or "< 0.001"."""
    if p is None:
        return "unknown"
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def _answers(row: Row, name: str, base: str) -> Iterator[Takeaway]:
    if row["flips"] is None or not row["examples"] or untaught(row):
        return
    if row["flips"] == 0:
        yield Takeaway("answers", name, f"{name} gives the same answer as {base} to all {row['examples']:,} examples.")
        return
    flips = f"{name} answers {row['flips']:,} of {row['examples']:,} examples otherwise than {base}"
    yield Takeaway("answers", name, f"{flips} ({percent(row['flips'] / row['examples'], 2)}%).")


def _memory(row: Row, name: str, base: Row, title: str) -> Iterator[Takeaway]:
    kind = "vram" if base["vram_peak_bytes"] is not None else "ram"
    mine, theirs = row[f"{kind}_peak_bytes"], base[f"{kind}_peak_bytes"]
    if not mine or not theirs:
        return
    ratio, word = mine / theirs, kind.upper()
    beside = f"{megabytes(mine)} MB at its peak, {title} {megabytes(theirs)} MB"
    weights = None
    if row["weights_bytes"] and base["weights_bytes"]:
        weights = row["weights_bytes"] / base["weights_bytes"]
    if ratio <= LIGHTER or ratio >= HEAVIER:
        yield Takeaway("memory", name, f"{name} needs {times(ratio)} the {word} of {title}: {beside}.")
    elif weights is not None and weights <= SMALL_WEIGHTS and row["batch_size"] == base["batch_size"]:
        rest = f"saves no {word}" if ratio >= 1 else f"needs {times(ratio)} its {word}"
        sentence = f"{name} has {times(weights)} the bytes of weights of {title} and {rest}: {beside}."
        yield Takeaway("memory", name, sentence)


def _energy(row: Row, name: str, base: Row, title: str) -> Iterator[Takeaway]:
    mine, theirs = row["energy_j_per_1000_examples"], base["energy_j_per_1000_examples"]
    if mine is None or not theirs:
        return
    ratio = mine / theirs
    if LIGHTER < ratio < HEAVIER:
        return
    sentence = (
        f"{name} takes {times(ratio)} the energy of {title}: {significant(mine)} J for 1,000 examples, "
        f"{title} {significant(theirs)} J, idle power subtracted."
    )
    yield Takeaway("energy", name, sentence)


def _limit(row: Row, name: str) -> Iterator[Takeaway]:
    sentence = (row["limits"] or {}).get("sentence")
    if sentence:
        yield Takeaway("limit", name, f"{name}: {sentence}")


def _batching(row: Row, name: str) -> Iterator[Takeaway]:
    changed = {way: seen for way, seen in (row["invariance"] or {}).items() if seen["changed"]}
    if not changed:
        return
    said = " and ".join(f"{seen['changed']} of {seen['examples']} under {way}" for way, seen in changed.items())
    yield Takeaway("batching", name, f"{name}'s answers depend on the batch: {said} differ from those at its own.")


def pairs(first: Stored, second: Stored) -> list[tuple[Row, Row]]:
    """The measurements that two runs share, by variant and batch size, whatever became of them."""
    other = {(row["variant"], row["batch_size"]): row for row in second[1]}
    return [(row, other[key]) for row in first[1] if (key := (row["variant"], row["batch_size"])) in other]


def change(a: Row, b: Row) -> tuple[float, float, float] | None:
    """The speed-up of `b` over that of `a`, each against its own run's baseline, with its 95% limits.

    The two runs are independent: their intervals' half-widths add as squares, on the logarithm.
    """
    if any(row[key] is None for row in (a, b) for key in ("speedup", "speedup_low", "speedup_high")):
        return None
    halves = [math.log(row["speedup_high"] / row["speedup_low"]) / 2 for row in (a, b)]
    centre, half = math.log(b["speedup"] / a["speedup"]), math.hypot(*halves)
    return math.exp(centre), math.exp(centre - half), math.exp(centre + half)


def moved(a: Row, b: Row, first: Stored, second: Stored) -> tuple[float, float, float] | None:
    """`change` from row `a` of one run to `b` of another, where something may be concluded from it.

    Both rows and both baselines are sound, and the baselines are the same variant.
    """
    bases = (baseline_for(a, first[1]), baseline_for(b, second[1]))
    if a["baseline"] or b["baseline"] or not all(row is not None and sound(row) for row in (a, b, *bases)):
        return None
    return change(a, b) if _same_baseline(first, second) else None


def _same_baseline(first: Stored, second: Stored) -> bool:
    def known(run: Stored) -> set[tuple[str, str, str]]:
        return {(row["variant"], row["backend"], row["precision"]) for row in run[1] if row["baseline"]}

    return known(first) == known(second)


def differences(
    first: Stored, second: Stored, letters: tuple[str, str] = ("A", "B"), answers: Answers | None = None
) -> list[str]:
    """What two runs say differently of the same variants, and what differs between the runs themselves.

    `answers`: as `engine.between` pairs them; without, no accuracy is told. Of a row that is invalid nothing else is.
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
    by_key = {(r["variant"], r["batch_size"]): called[i] for i, r in enumerate(first[1])}
    for a, b in pairs(first, second):
        key = (a["variant"], a["batch_size"])
        found = [
            f"is invalid in {letter}, and nothing is concluded from it: {row['validity_reason']}"
            for letter, row in ((one, a), (other, b))
            if row["validity"] == "invalid"
        ]
        if sound(a) and sound(b):
            found = [*_moved_speed(a, b, first, second, letters), *_moved_accuracy((answers or {}).get(key), letters)]
            found += _moved_memory(a, b, letters)
        said += [f"{by_key[key]}: {sentence}" for sentence in found]
    only = {row["variant"] for row in first[1]} ^ {row["variant"] for row in second[1]}
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
        f"{significant(a['speedup'])} ({letters[0]}), {significant(b['speedup'])} ({letters[1]})"
    )


def _moved_accuracy(pair: Row | None, letters: tuple[str, str]) -> Iterator[str]:
    if pair is None or pair["accuracy_comparison"] == "no_difference":
        return
    word = "fell" if pair["accuracy_comparison"] == "worse" else "rose"
    limits = point_interval(pair["accuracy_difference_low"], pair["accuracy_difference_high"])
    yield (
        f"the accuracy {word} by {abs(pair['accuracy_difference']) * 100:.1f} points from {letters[0]} to {letters[1]} "
        f"({limits}; McNemar with Holm, p {p_words(pair['accuracy_p'])}): {pair['accuracy_lost']} of the same "
        f"{pair['examples']:,} examples lost, {pair['accuracy_gained']} gained"
    )


def _moved_memory(a: Row, b: Row, letters: tuple[str, str]) -> Iterator[str]:
    # A run without a GPU has no VRAM to hold beside another's.
    kind = "ram" if None in (a["vram_peak_bytes"], b["vram_peak_bytes"]) else "vram"
    before, after = a[f"{kind}_peak_bytes"], b[f"{kind}_peak_bytes"]
    if not before or not after or LIGHTER < after / before < HEAVIER:
        return
    yield (
        f"the peak of its {kind.upper()} {'rose' if after > before else 'fell'} to {times(after / before)} of what it "
        f"was: {megabytes(before)} MB ({letters[0]}), {megabytes(after)} MB ({letters[1]})"
    )


def regressions(rows: Sequence[Row], threshold: float) -> list[Regression]:
    """What is shown to be worse than the baseline by more than `threshold` (a share: 0.05 is 5%, or 5 points).

    That is where all of an interval lies beyond it, of accuracy where the test shows a loss besides. What failed or is
    invalid counts as such, whatever the threshold, and its figures for nothing.
    """
    found, called = [], names(rows)
    for index, row in enumerate(rows):
        name = called[index]
        if row["status"] == "failed":
            found.append(Regression(name, f"{name} failed: {row['status_reason']}"))
        if row["status"] == "measured" and not sound(row):
            found.append(Regression(name, f"{name} is invalid: {row['validity_reason']}"))
        base = baseline_for(row, rows)
        if row["baseline"] or not sound(row) or base is None or not sound(base):
            continue
        if row["speedup_high"] is not None and row["speedup_high"] < 1 - threshold:
            limits = between(row["speedup_low"], row["speedup_high"])
            sentence = f"{name} is slower than the baseline by more than {percent(threshold)}%: {limits} its samples/s"
            found.append(Regression(name, sentence))
        if (lost := _lost(row, threshold)) is not None:
            sentence = f"{name} loses more than {percent(threshold)} points of accuracy: {lost}"
            found.append(Regression(name, sentence))
    return found


def _lost(pair: Row, threshold: float) -> str | None:
    """How much accuracy is shown to be lost, in words, where that is more than `threshold`."""
    high = pair["accuracy_difference_high"]
    if pair["accuracy_comparison"] != "worse" or high is None or high >= -threshold:
        return None
    return f"{points(pair['accuracy_difference'])} points ({point_interval(pair['accuracy_difference_low'], high)})"


def regressions_between(
    first: Stored, second: Stored, threshold: float, answers: Answers | None = None
) -> list[Regression]:
    """What run B is shown to do worse than run A by more than `threshold`, a share, as in `regressions`.

    `answers`: as `engine.between` pairs them; without, accuracies are not held beside each other. What failed or became
    invalid counts as such, and what was invalid before for nothing.
    """
    found, called = [], names(second[1])
    by_key = {(r["variant"], r["batch_size"]): called[i] for i, r in enumerate(second[1])}
    for a, b in pairs(first, second):
        key = (b["variant"], b["batch_size"])
        name = by_key[key]
        if a["status"] == "measured" and b["status"] == "failed":
            found.append(Regression(name, f"{name} failed: {b['status_reason']}"))
        if sound(a) and b["status"] == "measured" and not sound(b):
            found.append(Regression(name, f"{name} became invalid: {b['validity_reason']}"))
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
