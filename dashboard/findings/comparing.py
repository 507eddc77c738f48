"""Compare the variants of one or several runs with one baseline. Pure.

Within a run, any variant may be the baseline. Speed-ups over it come from the same rounds as the run's own speed-ups,
and differences in accuracy from the same examples. Rounds of different runs are not paired. Between runs, only
speed-ups are compared, each over its own run's baseline, as in `python -m engine compare RUN RUN`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from dashboard.findings import headlines
from dashboard.findings.headlines import Headline
from dashboard.run_rows import Across, Row, baseline_of, memory_ratio, usable
from engine.measurement import quality, stats
from engine.measurement.doubts import slowdown_of
from engine.measurement.labels import Alignment
from engine.measurement.summary import Raw, comparable, comparison, corrected, difference
from engine.report import between as between_runs
from engine.report import changes as report_changes
from engine.report import takeaways
from engine.units import between, milliseconds, times

LETTERS = "ABCDEF"
"""The letters of the compared runs, the chosen run first. At most this many runs can be compared at once."""
FOUND = "Found after warm-up"


@dataclass(frozen=True)
class Side:
    """One of the compared runs."""

    letter: str
    summary: dict[str, Any]
    """As `queries.run_summary` gives it."""
    stored: list[Row]
    """The run's rows as `dashboard.run_rows` gives them: against its own baseline, at every batch size."""


@dataclass(frozen=True)
class Evidence:
    """Raw values by measurement id. They are needed for a baseline whose comparisons are not stored."""

    raws: Mapping[int, Raw]
    """Blocks of every measured row of the experiments shown."""
    outputs: Mapping[int, np.ndarray] = field(default_factory=dict)
    """int64 [examples]: the index of the largest logit. Needed only if `needs_answers` returns True."""
    labels: Mapping[str, np.ndarray | None] = field(default_factory=dict)
    """Example set -> int64 [examples], or None if the examples have no labels."""


def tagged(sides: Sequence[Side]) -> list[Row]:
    """Return every row of every run, marked with its run.

    `run` becomes the letter of the run. `variant` and `title` become unique across the runs.
    """
    found = []
    for side in sides:
        titles = list({row.variant: row.title for row in side.stored}.values())
        for row in side.stored:
            title = row.title if titles.count(row.title) == 1 else f"{row.title} [{row.variant}]"
            lettered = f"{title} ({side.letter})"
            made = replace(
                row,
                run=side.letter,
                example_set_id=side.summary["example_set_id"],
                variant=f"{side.letter}/{row.variant}",
                title=lettered if len(sides) > 1 else title,
                # The first run's labels carry no letter, so a choice and its link survive when a run joins or leaves.
                label=title if side is sides[0] else lettered,
            )
            found.append(made)
    if len({row.memory_kind for row in found}) <= 1:
        return found
    # A run without a GPU has no VRAM to compare, so all runs are compared by RAM.
    in_ram = [replace(row, memory_kind="ram", memory_bytes=row.ram_peak_bytes) for row in found]
    bases = [row for row in in_ram if row.own_baseline]
    return [
        replace(row, memory_ratio=memory_ratio(row, _reference(row, [base for base in bases if base.run == row.run])))
        for row in in_ram
    ]


def sizes_of(rows: Sequence[Row]) -> list[int]:
    """The batch sizes of the experiments of all runs, ascending, to choose from."""
    return sorted({row.phase for row in rows})


def usual_size(rows: Sequence[Row]) -> int | None:
    """The largest batch size that every run has, else the largest of all; None without rows."""
    by_run = [{row.phase for row in rows if row.run == run} for run in dict.fromkeys(r.run for r in rows)]
    if not by_run:
        return None
    return max(set.intersection(*by_run) or set.union(*by_run))


def chosen(rows: Sequence[Row], sizes: Sequence[int], names: Sequence[str], baseline: str) -> list[Row]:
    """The rows of batch sizes `sizes` and of variants `names`, the baseline first.

    Their names include the batch size if the rows have several.
    """
    kept = [row for row in rows if row.phase in sizes and row.variant in {*names, baseline}]
    several = len({row.batch_size for row in kept}) > 1
    named = [replace(row, name=takeaways.sized(row) if several else row.title) for row in kept]
    return sorted(named, key=lambda row: row.variant != baseline)


def baselines(rows: Sequence[Row]) -> dict[str, str]:
    """Variant -> label of each possible baseline: first the runs' own baselines, then all measured variants."""
    able = [row for row in rows if row.own_baseline or row.status == "measured"]
    return {row.variant: row.label for row in sorted(able, key=lambda row: not row.own_baseline)}


def variants(rows: Sequence[Row]) -> dict[str, str]:
    """Variant -> label, in the order of the runs and their suites."""
    return {row.variant: row.label for row in rows}


def needs_answers(rows: Sequence[Row], baseline: str) -> bool:
    """Whether the answers have to be compared anew, as the stored comparison is against another baseline."""
    own = {row.variant: row.own_baseline for row in rows}.get(baseline, False)
    return not own or len({row.run for row in rows}) > 1


def against(rows: Sequence[Row], everything: Sequence[Row], baseline: str, evidence: Evidence) -> list[Row]:
    """Return `rows` compared with variant `baseline`; `everything`: all rows of their runs, as `tagged` gives them.

    Holm's method corrects the p-values over `rows`. A row that shares no rounds with the baseline has no speed-up; it
    has `across` where that is known. A row over other examples has no difference in accuracy.
    """
    found = []
    references = [row for row in everything if row.variant == baseline]
    slower = {run: slowdown_of(row.doubts for row in everything if row.run == run) for run in {row.run for row in rows}}
    calm: dict[tuple[str, int], list[np.ndarray]] = {}
    for row in rows:
        reference = _reference(row, references)
        made = replace(row, baseline=row.variant == baseline, memory_ratio=memory_ratio(row, reference), across=None)
        if reference is not None and reference.own_baseline and row.run == reference.run:
            if made.accuracy_p is not None:
                made = replace(made, accuracy_p=quality.mcnemar(row.accuracy_gained or 0, row.accuracy_lost or 0))
            found.append(made)
            continue
        key = (row.run, row.phase)
        if key not in calm:
            calm[key] = stats.calm_rounds(_rates(everything, key, evidence))
        columns = _speed(row, reference, evidence, calm[key], slower[row.run]) | _answers(row, reference, evidence)
        found.append(replace(made, across=_across(row, reference, everything), **columns))
    return corrected(found)


def _reference(row: Row, references: Sequence[Row]) -> Row | None:
    """The baseline's row of the same experiment or, in another run, of the same batch size; else its last row.

    None without `references`.
    """
    same = "phase" if any(r.run == row.run for r in references) else "batch_size"
    near = [reference for reference in references if reference.figure(same) == row.figure(same)]
    return next(iter(near or references[-1:]), None)


def _rates(everything: Sequence[Row], experiment: tuple[str, int], evidence: Evidence) -> list[list[np.ndarray]]:
    """Samples/s by round of each measured variant of an experiment, its own baseline first."""
    peers = [
        row
        for row in everything
        if (row.run, row.phase) == experiment and row.status == "measured" and row.id in evidence.raws
    ]
    peers.sort(key=lambda row: not row.own_baseline)
    return [evidence.raws[row.id].rates() for row in peers]


def _speed(
    row: Row, reference: Row | None, evidence: Evidence, calm: list[np.ndarray], slower: float
) -> dict[str, Any]:
    shared = (
        reference is not None
        and (row.run, row.phase) == (reference.run, reference.phase)
        and row.status == reference.status == "measured"
        and row.id in evidence.raws
        and reference.id in evidence.raws
    )
    if not shared:
        return dict.fromkeys(("speedup", "speedup_low", "speedup_high", "comparison"))
    assert reference is not None
    is_baseline = row.id == reference.id
    return comparison(evidence.raws[row.id], evidence.raws[reference.id], is_baseline, calm, slower)


def _across(row: Row, reference: Row | None, everything: Sequence[Row]) -> Across | None:
    """`Row.across` of a row of another run. None unless both runs' own baselines are the same variant and usable."""
    if reference is None or row.run == reference.run or row.own_baseline:
        return None
    if row.batch_size != reference.batch_size or not usable(row) or not usable(reference):
        return None
    if not all(_has_usable_baseline(r, everything) for r in (row, reference)):
        return None
    own = {r.run: (r.plain, r.backend, r.precision) for r in everything if r.own_baseline}
    moved = report_changes.change(reference, row)
    if moved is None or own.get(row.run) != own.get(reference.run):
        return None
    verdict = stats.comparison(stats.Interval(*moved))
    return None if verdict is None else Across(*moved, verdict, reference.own_baseline)


def _has_usable_baseline(row: Row, everything: Sequence[Row]) -> bool:
    """Whether the row's own run has a usable baseline for it."""
    base = takeaways.baseline_for(row, [r for r in everything if r.run == row.run])
    return base is not None and usable(base)


def _answers(row: Row, reference: Row | None, evidence: Evidence) -> dict[str, Any]:
    """Accuracy difference and agreement with the reference's answers to the same examples; p is not corrected."""
    keys = ("accuracy_difference", "accuracy_gained", "accuracy_lost", "accuracy_p", "accuracy_comparison")
    found: dict[str, Any] = dict.fromkeys(
        (*keys, "accuracy_difference_low", "accuracy_difference_high", "detectable_difference")
    ) | dict.fromkeys(("agreement", "agreement_low", "agreement_high", "flips"))
    if reference is None or row.example_set_id is None or row.example_set_id != reference.example_set_id:
        return found
    mine, theirs = (evidence.outputs.get(r.id) for r in (row, reference))
    if mine is None or theirs is None or not row.labels or not reference.labels:
        return found
    alignment, other = Alignment(**row.labels), Alignment(**reference.labels)
    if comparable(alignment, other):
        flips = int((_meaning(mine, alignment) != _meaning(theirs, other)).sum())
        same = stats.wilson(len(mine) - flips, len(mine))
        found |= {"agreement": same.estimate, "flips": flips}
        found |= {"agreement_low": same.low, "agreement_high": same.high}
    labels = evidence.labels.get(row.example_set_id)
    known = None not in (row.accuracy, reference.accuracy, alignment.mapping, other.mapping)
    if labels is not None and known and row.id != reference.id:
        found |= asdict(difference(_meaning(mine, alignment) == labels, _meaning(theirs, other) == labels))
    return found


def _meaning(outputs: np.ndarray, alignment: Alignment) -> np.ndarray:
    """The labels of `outputs`: the data set's labels where they are aligned, else the model's own names."""
    return np.asarray(alignment.model_labels if alignment.mapping is None else alignment.mapping)[outputs]


def over_sizes(everything: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """The variants of `rows` at all their batch sizes, in the order of `rows`.

    Variants with a usable row at only one batch size are left out.
    """
    found = []
    for variant, is_baseline in {row.variant: row.baseline for row in rows}.items():
        line = [row for row in everything if row.variant == variant and usable(row)]
        if len(line) > 1:
            found += [replace(row, baseline=is_baseline) for row in line]
    return found


# Sentences


def headline(sides: Sequence[Side], rows: Sequence[Row]) -> Headline:
    """The headline of a comparison; `rows` as `against` gives them."""
    baseline = baseline_of(rows)
    if len(sides) == 1:
        return headlines.headline(rows)
    if len(sides) > 2:
        named = f", against {baseline.title}" if baseline else ""
        return Headline(f"{len(sides)} runs side by side{named}.", unpaired(sides))
    first, second = sides
    wanted = {row.plain for row in rows}
    stored = (_stored(first), _stored(second))
    pairs = [(b, report_changes.moved(a, b, *stored)) for a, b in report_changes.pairs(*stored) if a.variant in wanted]
    compared = [(row, moved) for row, moved in pairs if moved is not None]
    changed = [(row, moved) for row, moved in compared if not moved[1] <= 1 <= moved[2]]
    changed.sort(key=lambda pair: -abs(math.log(pair[1][0])))
    names = f"{first.letter} and {second.letter}"
    if not compared:
        said = f"{names} share no variant with a speed-up in both."
    elif not changed:
        said = f"No speed-up is shown to differ between {names}: {len(compared)} compared."
    else:
        row, moved = changed[0]
        name = next(r.name for r in second.stored if r.id == row.id)
        said = (
            f"{len(changed)} of {len(compared)} speed-ups differ{'s' if len(changed) == 1 else ''} between {names}; "
            f"{name}'s is in {second.letter} {times(moved[0])} ({between(moved[1], moved[2])}) of what it is "
            f"in {first.letter}."
        )
    return Headline(said, unpaired(sides))


def unpaired(sides: Sequence[Side]) -> str:
    """A sentence on why figures of different runs are not simply divided by each other."""
    hosts = {side.summary["host"] for side in sides}
    apart = "on different machines" if len(hosts) > 1 else "at different times"
    return (
        f"These runs were measured {apart}: their rounds are not paired. Between runs, a speed-up over its own run's "
        "baseline stands beside another's; latencies and samples/s are each run's own."
    )


def _stored(side: Side) -> takeaways.Stored:
    return side.summary, side.stored


def changes(sides: Sequence[Side], rows: Sequence[Row], evidence: Evidence) -> tuple[list[str], list[str]]:
    """Return sentences on the shown changes, and sentences on the changes that are not shown.

    One run is compared with its baseline. Of several runs, each is compared with the first.
    """
    if len(sides) == 1:
        kinds = ("speed", "accuracy", "answers", "memory", "energy")
        found = [item for item in takeaways.takeaways(headlines.ranked(rows)) if item.kind in kinds]
        return headlines.told([item for item in found if item.shown]), [i.sentence for i in found if not i.shown]
    wanted = {row.plain for row in rows}
    said = []
    for other in sides[1:]:
        # A run's speed-ups need its baseline.
        stored = [
            (side.summary, [r for r in side.stored if r.variant in wanted or r.baseline]) for side in (sides[0], other)
        ]
        letters = (sides[0].letter, other.letter)
        answers = _between(stored[0], stored[1], evidence)
        differences = report_changes.differences(stored[0], stored[1], letters, answers)
        if not differences:
            looked = "speed-up or accuracy" if answers else "speed-up"
            differences = [f"same device, suite and examples, and no {looked} is shown to differ"]
        prefix = f"{letters[0]} and {letters[1]}: " if len(sides) > 2 else ""
        said += [f"{prefix}{sentence[:1].upper()}{sentence[1:]}." for sentence in differences]
    return said, []


def _between(first: takeaways.Stored, second: takeaways.Stored, evidence: Evidence) -> takeaways.Answers:
    outputs = [
        {(r.variant, r.batch_size): evidence.outputs[r.id] for r in rows if r.id in evidence.outputs}
        for _, rows in (first, second)
    ]
    labels = evidence.labels.get(first[0]["example_set_id"])
    return between_runs.accuracies(first, second, (outputs[0], outputs[1]), labels)


def distribution_words(row: Row) -> str:
    """The latency percentiles of a row in one line. Percentiles that need more calls are left out."""
    known = [
        f"p{name} {milliseconds(row.figure(f'latency_p{name}_s'))} ms"
        for name in (50, 95, 99)
        if row.figure(f"latency_p{name}_s") is not None
    ]
    return f"{row.name}: {', '.join(known)}"
