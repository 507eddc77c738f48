"""The findings of a run in sentences: the headline, the titles of charts, the notes.

Pure, over the rows of `dashboard.run_rows`. No sentence names a winner where an interval includes 1. A sentence that
ranks figures as measured says so. A peak of memory or energy is one reading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboard.metrics import METRICS
from dashboard.run_rows import Row, baseline_of, cost_key, pareto, untaught, usable
from engine.report import load, takeaways, words
from engine.report.load import JoinedLoad
from engine.store.rows import PublishedRow, present
from engine.units import between, megabytes, milliseconds, percent, point_interval, share_percent, significant, times

ENERGY = "energy_j_per_1000_examples"
MANY = 12
"""The most sentences that can be read at a glance."""


@dataclass(frozen=True)
class Headline:
    """The run's answer in one sentence, and its costs or open questions as detail."""

    finding: str
    detail: str


def joined(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""


def headline(rows: Sequence[Row]) -> Headline:
    """The answer of a run, at one batch size, to the question: which variant should I ship?"""
    baseline = baseline_of(rows)
    others = [row for row in rows if not row.baseline]
    if baseline is None or not any(row.status == "measured" for row in rows):
        if any(row.status == "pending" for row in rows):
            return Headline("Nothing has been measured yet.", "")
        return Headline("Nothing was measured in this run.", _states(rows))
    if not usable(baseline):
        why = baseline.status_reason or baseline.validity_reason or "no reason was stored"
        return Headline(f"The baseline, {baseline.title}, gave nothing to compare with.", f"Reason: {why}.")
    compared = [row for row in others if usable(row) and row.speedup is not None]
    if not compared:
        return Headline(f"Only the baseline, {baseline.title}, was measured.", _states(others))
    faster = sorted((r for r in compared if r.comparison == "better"), key=lambda r: -present(r.speedup))
    if not faster:
        return Headline(_nothing_faster(compared, baseline), _accuracy_overall(compared))
    best = faster[0]
    limits = between(best.speedup_low, best.speedup_high)
    finding = (
        f"{best.name} answers {times(best.speedup)} as many samples/s as {_baseline_name(best, baseline)} "
        f"({limits}){_cost(best)}"
    )
    detail = [_rivals(best, faster[1:]), _lossless(best, faster[1:]), _doubt(best)]
    return Headline(finding, " ".join(filter(None, detail)))


def _baseline_name(row: Row, baseline: Row) -> str:
    """The baseline's name in a sentence about `row`; it includes the batch size where that differs from the row's."""
    return str(baseline.title if row.batch_size == baseline.batch_size else takeaways.sized(baseline))


def _cost(row: Row) -> str:
    if row.accuracy_difference is not None:
        limits = point_interval(row.accuracy_difference_low, row.accuracy_difference_high)
        if row.accuracy_comparison == "no_difference":
            limits = f"{limits} points{takeaways.alone(row)}"
            return f"; no difference in accuracy is shown ({limits}, n = {row.examples})."
        word = "loses" if row.accuracy_comparison == "worse" else "gains"
        return f" and {word} {abs(row.accuracy_difference) * 100:.1f} points of accuracy ({limits})."
    if takeaways.untaught(row):
        return "; its weights are random, so its answers say nothing."
    if row.agreement is not None:
        return f" and gives the same answer to {percent(row.agreement)}% of {row.examples} texts."
    return "; its accuracy is not known."


def _rivals(best: Row, rest: Sequence[Row]) -> str:
    near = [row.name for row in rest if present(row.speedup_high) >= present(best.speedup_low)]
    if not near:
        return ""
    return f"{joined(near)} may be as fast: the intervals overlap."


def _lossless(best: Row, rest: Sequence[Row]) -> str:
    """A sentence on the fastest variant without a shown loss of accuracy; empty if `best` has no shown loss."""
    if best.accuracy_comparison != "worse":
        return ""
    for row in rest:
        if row.accuracy_comparison in ("no_difference", "better"):
            limits = between(row.speedup_low, row.speedup_high)
            return f"Without a shown loss of accuracy: {row.name}, {times(row.speedup)} ({limits})."
    return "Every faster variant loses accuracy."


def _doubt(row: Row) -> str:
    return f"{row.name} was not in a steady state: see the notes." if row.validity == "unstable" else ""


def _nothing_faster(compared: Sequence[Row], baseline: Row) -> str:
    slower = [row.name for row in compared if row.comparison == "worse"]
    if len(slower) == len(compared):
        return f"No variant is faster than {baseline.title}: {joined(slower)} {_are(slower)} slower."
    return f"No variant is shown to be faster than {baseline.title}."


def _accuracy_overall(rows: Sequence[Row]) -> str:
    known = [row for row in rows if row.accuracy_comparison is not None]
    if not known:
        return ""
    return accuracy_title(known)


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _states(rows: Sequence[Row]) -> str:
    """The states of the rows without a measurement, grouped by status and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.status != "measured":
            groups.setdefault((row.status, row.status_reason or ""), []).append(row.name)
    said = [
        f"{joined(names)}: {status}" + (f" ({reason})" if reason else "") for (status, reason), names in groups.items()
    ]
    return "; ".join(said)


def latency_title(rows: Sequence[Row]) -> str:
    """Which row answers a batch soonest."""
    baseline = baseline_of(rows)
    known = [row for row in rows if usable(row) and row.latency_p50_s is not None]
    faster = [row for row in known if row.comparison == "better" and baseline and row.batch_size == baseline.batch_size]
    if baseline is None or baseline not in known or len(known) < 2:
        return "Latency of a batch"
    if all(row.baseline or row.batch_size != baseline.batch_size for row in known):
        return f"Latency of batches of {_batch_words(known)} texts, which cannot be compared"
    if not faster:
        return f"No variant is shown to answer a batch sooner than {baseline.title}"
    best = min(faster, key=lambda row: present(row.latency_p50_s))
    return (
        f"{best.name} answers a batch of {best.batch_size} in {milliseconds(best.latency_p50_s)} ms, "
        f"{baseline.title} in {milliseconds(baseline.latency_p50_s)} ms"
    )


def throughput_title(rows: Sequence[Row]) -> str:
    baseline = baseline_of(rows)
    compared = [r for r in rows if usable(r) and not r.baseline and r.speedup is not None]
    if baseline is None or not compared:
        return "Throughput"
    faster = [row for row in compared if row.comparison == "better"]
    if not faster:
        return f"No speed-up over {baseline.title} is shown"
    best = max(faster, key=lambda row: present(row.speedup))
    limits = between(best.speedup_low, best.speedup_high)
    return f"{best.name}: {times(best.speedup)} ({limits}) the samples/s of {_baseline_name(best, baseline)}"


def memory_title(rows: Sequence[Row]) -> str:
    baseline = baseline_of(rows)
    known = [row for row in rows if usable(row) and row.memory_bytes is not None]
    if not known:
        return "Memory was not measurable in this run"
    kind = "VRAM" if known[0].memory_kind == "vram" else "RAM"
    least = min(known, key=lambda row: present(row.memory_bytes))
    said = f"{least.name} peaks lowest, at {megabytes(least.memory_bytes)} MB of {kind}"
    if baseline is not None and least.memory_ratio is not None and not least.baseline:
        said += f": {times(least.memory_ratio)} {_baseline_name(least, baseline)}'s"
    return said


def accuracy_title(rows: Sequence[Row]) -> str:
    compared = [row for row in rows if row.accuracy_comparison is not None]
    if not compared:
        if any(row.accuracy is not None for row in rows):
            return "Accuracy"
        if any(row.agreement is not None for row in rows):
            doubt = ", all of random weights" if untaught(rows) else ""
            return f"How often each variant answers as the baseline does{doubt}"
        return "No variant's accuracy is known"
    n = max(present(row.examples) for row in compared)
    worse = [row.name for row in compared if row.accuracy_comparison == "worse"]
    better = [row.name for row in compared if row.accuracy_comparison == "better"]
    said = []
    if worse:
        said.append(f"{joined(worse)} {'loses' if len(worse) == 1 else 'lose'} accuracy")
    if better:
        said.append(f"{joined(better)} {'gains' if len(better) == 1 else 'gain'} accuracy")
    return f"{'; '.join(said) or 'No difference in accuracy is shown'} (n = {n:,})"


def energy_title(rows: Sequence[Row]) -> str:
    """The row that takes the least energy for its texts."""
    baseline = baseline_of(rows)
    known = [row for row in rows if usable(row) and row.figure(ENERGY) is not None]
    if not known:
        return "Energy was not measurable in this run"
    least = min(known, key=lambda row: row.figure(ENERGY))
    said = f"{least.name} takes the least energy, {significant(least.figure(ENERGY))} J for 1,000 texts"
    if baseline is not None and baseline in known and not least.baseline:
        said += f"; {_baseline_name(least, baseline)} {significant(baseline.figure(ENERGY))} J"
    return said


def _batch_words(rows: Sequence[Row]) -> str:
    return joined([f"{size:,}" for size in sorted({row.batch_size for row in rows})])


def tradeoff_title(rows: Sequence[Row], gain: str) -> str:
    """The Pareto front in words. It is computed from the values alone, without their intervals.

    `gain`: accuracy, agreement, or saved_bytes if the answers mean nothing.
    """
    word = {"accuracy": "accuracy", "agreement": "agreement", "saved_bytes": "memory"}[gain]
    cost = cost_key(rows)
    speed = METRICS[cost].label.lower()
    front = pareto(rows, cost, gain)
    if not front or len(rows) < 2:
        return f"{speed.capitalize()} and {word}: nothing to compare"
    names = [row.name for row in front]
    if len(names) == 1:
        best = "lower" if gain == "saved_bytes" else "higher"
        return f"No measured {speed} is lower than {names[0]}'s, and no measured {word} {best}"
    return f"Not beaten in both {speed} and {word}, as measured: {joined(names)}"


def published_title(pairs: Sequence[tuple[Row, PublishedRow, PublishedRow]]) -> str:
    """How the published speed-ups compare with the measured ones.

    `pairs`: measured row, its published row, the published baseline.
    """
    compared = [
        (row, base.latency_s / theirs.latency_s)
        for row, theirs, base in pairs
        if not row.baseline and row.speedup is not None and theirs.latency_s and base.latency_s
    ]
    if not compared:
        return "Measured beside published"
    outside = [row for row, ratio in compared if not present(row.speedup_low) <= ratio <= present(row.speedup_high)]
    opposite = [
        row.name
        for row, ratio in compared
        if (row.comparison == "better" and ratio < 1) or (row.comparison == "worse" and ratio > 1)
    ]
    said = f"{len(outside)} of {len(compared)} published speed-ups lie outside the interval measured here"
    if opposite:
        said += f"; {joined(opposite)} {'points' if len(opposite) == 1 else 'point'} the other way"
    return said


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The rows in the suite's order. More than MANY rows are sorted, the fastest first."""
    if len(rows) <= MANY:
        return list(rows)
    return sorted(rows, key=lambda row: row.speedup or 0.0, reverse=True)


def told(items: Sequence[takeaways.Takeaway]) -> list[str]:
    """One paragraph per measurement, made of its takeaways. It names the measurement once."""
    paragraphs: dict[str, list[str]] = {}
    for item in items:
        said = paragraphs.setdefault(item.name, [])
        said.append(f"It {item.predicate}" if said and item.predicate else item.sentence)
    return [" ".join(said) for said in paragraphs.values()]


def notes(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Variants, kind and text of each note that a reader needs. A note on several variants appears once."""
    measured = [row.name for row in rows if row.status == "measured"]
    holders: dict[tuple[str, str], list[str]] = {}
    for name, kind, text in _notes(rows):
        holders.setdefault((kind, text), []).append(name)
    several = len(measured) > 2
    return [
        (f"All {len(measured)} that were measured" if several and names == measured else joined(names), kind, text)
        for (kind, text), names in holders.items()
    ]


def _notes(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    said = []
    for row in rows:
        name = row.name
        if row.status != "measured":
            said.append((name, row.status, row.status_reason or "no reason was stored"))
            continue
        if row.validity in ("invalid", "unstable"):
            said.append((name, row.validity, row.validity_reason or "no reason was stored"))
        elif row.validity_reason:
            said.append((name, "deviation", row.validity_reason))
        if row.accuracy is None and row.accuracy_reason:
            said.append((name, "no accuracy", row.accuracy_reason))
            if (match := takeaways.index_match(row)) is not None:
                said.append(
                    (
                        name,
                        "index match",
                        f"comparing the index of each answer with the index of its label would have reported "
                        f"{percent(match)}%. That number measures nothing: the two lists of "
                        "labels mean different things",
                    )
                )
        said += [(name, "labels", flag["sentence"]) for flag in takeaways.flags(row)]
        if row.truncated:
            cut = "1 text was" if row.truncated == 1 else f"{row.truncated:,} texts were"
            said.append((name, "truncated", f"{cut} cut to {row.max_length} tokens"))
        if row.schedule == "sequential":
            said.append((name, "sequential", "measured one after another, not in interleaved rounds"))
    return said


def context(summary: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Device, workload and protocol in one line."""
    workload, protocol = summary["spec"]["workload"], summary["spec"]["protocol"]
    examples = next((row.examples for row in rows if row.examples), None)
    sizes = words.batch_sizes(rows)
    threads = summary["environment"].get("threads")
    return (
        f"{summary['device_name']} ({summary['device']}{f', {threads} threads' if threads else ''}) · "
        f"{f'{examples:,}' if examples else '–'} examples of {workload['dataset'].rsplit('/', 1)[-1]} · "
        f"batch {sizes} {words.padding_words(rows, workload['max_length'])} · "
        f"{protocol['rounds']} rounds, {words.processes_words(rows, protocol)} · "
        f"{'a first look (--quick): wide intervals · ' if protocol.get('quick') else ''}"
        "ranges are 95% intervals."
    )


def literal(text: str) -> str:
    """`text` for Streamlit's Markdown, with every markup character escaped.

    Streamlit turns addresses into links, and no escape prevents that. An invisible word joiner in the address does.
    """
    unlinked = re.sub(r"(?i)(?<=https:)(?=//)|(?<=http:)(?=//)|(?<=www)(?=\.)|(?<=@)(?=\w)", "\u2060", text)
    return re.sub(r"([\\`*_{}\[\]()#+!|<>$~:])", r"\\\1", unlinked)


def interval_words(row: Row, key: str) -> str:
    """The value of metric `key` in its unit with its interval in parentheses."""
    metric = METRICS[key]
    value = metric.text(row.figure(metric.key))
    limits = metric.interval(row.figure(metric.low), row.figure(metric.high)) if metric.low and metric.high else ""
    return f"{value} ({limits})" if limits else value


def limit_title(rows: Sequence[Row]) -> str:
    """The row that comes nearest to its device's measured limit."""
    known = [row for row in rows if usable(row) and row.limit_share is not None]
    if not known:
        return "How near the variants come to this device's limit is not known"
    most = max(present(row.limit_share) for row in known)
    nearest = [row.name for row in known if row.limit_share == most]
    if len(nearest) > 1:
        return f"The variants reach at most {share_percent(most)}% of what this device was measured to do"
    return f"{nearest[0]} comes nearest to what this device was measured to do: {share_percent(most)}% of it"


BINDS = {
    "compute": "its products",
    "bandwidth": "memory",
    "launches": "launching its kernels",
    "host": "other work on the host",
}
"""`Row.binds` -> what the row waits for, in words."""


def limit_detail(rows: Sequence[Row]) -> str:
    """A sentence on what binds the fastest row; empty if that is known for no row."""
    timed = [row for row in rows if usable(row) and row.throughput_samples_per_s]
    if not any(row.binds for row in timed):
        return ""
    fastest = max(timed, key=lambda row: present(row.throughput_samples_per_s))
    share = fastest.limit_share
    said = [f"reaches {share_percent(share)}% of its ceiling"] if share is not None else []
    if fastest.binds:
        said.append(f"waits most for {BINDS[fastest.binds]}")
    unknown = "" if fastest.binds else " What binds it is not known."
    if not said:
        return f"What binds {fastest.name}, the fastest as measured, is not known."
    return f"The fastest as measured, {fastest.name}, {' and '.join(said)}.{unknown}"


def load_title(loads: Sequence[JoinedLoad]) -> str:
    """The rates that the variants hold under load, as shares of their offline rates.

    `loads`: rows of `report.load.joined`.
    """
    done = [row for row in loads if row.status == "measured"]
    shares = [row.server_texts_per_s / present(row.offline_texts_per_s) for row in done if row.server_texts_per_s]
    if not shares:
        return "No variant held a rate that was tried" if loads else "No variant was put under load"
    low, high = percent(min(shares), 0), percent(max(shares), 0)
    failed = [row.name for row in done if not row.server_texts_per_s]
    rest = "" if not failed else f"; none by {joined(failed) if len(failed) < 3 else f'{len(failed)} of them'}"
    return f"Held within the limit: {low if low == high else f'{low} to {high}'}% of the offline rate{rest}"


def load_trials_title(loads: Sequence[JoinedLoad]) -> str:
    """The two rates between which the best variant's p99 leaves the limit."""
    best = max(
        (row for row in loads if row.server_texts_per_s), key=lambda r: present(r.server_texts_per_s), default=None
    )
    if best is None:
        return load_title(loads)
    beyond = best.beyond_texts_per_s
    until = f", and not at {significant(beyond)}" if beyond else ", the most that was tried"
    rate = significant(best.server_texts_per_s)
    # The title is wrapped later: the no-break space keeps the unit with its number.
    limit = load.limit_words(loads).replace(" ms", "\u00a0ms")
    return f"{best.name} keeps {limit} at {rate} texts/s{until}"


def operators_title(rows: Sequence[Row]) -> str:
    """The share of matrix products and attention in the baseline's call, or in the first row's."""
    if not rows:
        return "No variant's work was timed by kind"
    row = baseline_of(rows) or rows[0]
    found = present(row.audit)["operators"]
    whole_s = max(found["wall_s"], found["seconds"])
    share = (found["kinds"].get("products", 0.0) + found["kinds"].get("attention", 0.0)) / whole_s
    return f"{row.name} spends {percent(share, 0)}% of a call on matrix products and attention"
