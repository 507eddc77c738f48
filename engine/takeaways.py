"""What a run shows, in sentences that its statistics write: each is true of this run, with its numbers.

Pure, over the flat rows of `engine.store.queries.flat`. Nothing is called faster, slower, better or worse where
the interval or the test does not show it; what was looked for and not shown is said apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.units import between, megabytes, percent, point_interval, points, significant, times

Row = dict[str, Any]
Stored = tuple[dict[str, Any], list[Row]]
"""A run's summary and its rows."""
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
        if row["baseline"] or base is None or base["status"] != "measured" or base["validity"] == "invalid":
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
            f"({limits}); {counts}{least}."
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
    """The measurements that two runs share, by variant and batch size."""
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


def differences(first: Stored, second: Stored, letters: tuple[str, str] = ("A", "B")) -> list[str]:
    """What two runs say differently of the same variants, and what differs between the runs themselves."""
    one, other = letters
    said = []
    for key, what in (("device_name", "devices"), ("suite", "suites"), ("host", "hosts")):
        if first[0][key] != second[0][key]:
            said.append(f"different {what}: {first[0][key]} ({one}), {second[0][key]} ({other})")
    if first[0]["example_set_id"] != second[0]["example_set_id"]:
        said.append("different examples: accuracies are not comparable")
    called = names(first[1])
    by_key = {(r["variant"], r["batch_size"]): called[i] for i, r in enumerate(first[1])}
    for a, b in pairs(first, second):
        name = by_key[a["variant"], a["batch_size"]]
        moved = None if a["baseline"] else change(a, b)
        if moved is not None and not moved[1] <= 1 <= moved[2]:
            word = "rose" if moved[0] > 1 else "fell"
            said.append(
                f"{name}: the speed-up {word} to {times(moved[0])} ({between(moved[1], moved[2])}) of what it was: "
                f"{significant(a['speedup'])} ({one}), {significant(b['speedup'])} ({other})"
            )
    only = {row["variant"] for row in first[1]} ^ {row["variant"] for row in second[1]}
    if only:
        said.append(f"in one of the runs only: {', '.join(sorted(only))}")
    return said


def regressions(rows: Sequence[Row], threshold: float) -> list[Regression]:
    """What is shown to be worse than the baseline by more than `threshold` (a share: 0.05 is 5%, or 5 points)."""
    found, called = [], names(rows)
    for index, row in enumerate(rows):
        name = called[index]
        if row["status"] == "failed":
            found.append(Regression(name, f"{name} failed: {row['status_reason']}"))
        if row["status"] != "measured" or row["baseline"]:
            continue
        if row["speedup_high"] is not None and row["speedup_high"] < 1 - threshold:
            limits = between(row["speedup_low"], row["speedup_high"])
            sentence = f"{name} is slower than the baseline by more than {percent(threshold)}%: {limits} its samples/s"
            found.append(Regression(name, sentence))
        lost = row["accuracy_difference"]
        if lost is not None and row["accuracy_comparison"] == "worse" and lost < -threshold:
            sentence = f"{name} loses more than {percent(threshold)} points of accuracy: {points(lost)} points"
            found.append(Regression(name, sentence))
    return found


def regressions_between(first: Stored, second: Stored, threshold: float) -> list[Regression]:
    """What run B is shown to do worse than run A by more than `threshold`, a share."""
    found, called = [], names(second[1])
    by_key = {(r["variant"], r["batch_size"]): called[i] for i, r in enumerate(second[1])}
    same_examples = first[0]["example_set_id"] == second[0]["example_set_id"]
    for a, b in pairs(first, second):
        name = by_key[b["variant"], b["batch_size"]]
        if a["status"] == "measured" and b["status"] == "failed":
            found.append(Regression(name, f"{name} failed: {b['status_reason']}"))
        moved = None if a["baseline"] else change(a, b)
        if moved is not None and moved[2] < 1 - threshold:
            sentence = (
                f"{name}: its speed-up fell by more than {percent(threshold)}%, to {times(moved[0])} "
                f"({between(moved[1], moved[2])}) of what it was"
            )
            found.append(Regression(name, sentence))
        if same_examples and None not in (a["accuracy"], b["accuracy"]) and b["accuracy"] < a["accuracy"] - threshold:
            sentence = (
                f"{name}: its accuracy fell by more than {percent(threshold)} points on the same examples, "
                f"from {percent(a['accuracy'])}% to {percent(b['accuracy'])}%"
            )
            found.append(Regression(name, sentence))
    return found
