"""The sentences of the page Decide, made from a `Decision`."""

from __future__ import annotations

from dashboard.findings import headlines
from dashboard.findings.deciding import QUANTITIES, TITLES, Cost, Decision, Quantity, tenths
from dashboard.run_rows import Row, baseline_of
from engine.report import takeaways
from engine.units import between, significant, times

# Words


def answer(decision: Decision) -> tuple[str, str]:
    """Return the decision as one sentence with its uncertainty, and the details to show below it in smaller type."""
    rows = [judged.row for judged in decision.judged]
    if not any(row.status == "measured" for row in rows):
        waiting = any(row.status == "pending" for row in rows)
        return ("Nothing has been measured yet." if waiting else "Nothing was measured in this run."), ""
    if decision.fastest is None:
        return _nothing(decision)
    first, rivals = decision.fastest, [row for row, _ in decision.rivals]
    limited = bool(decision.limits.given)
    within = " within your limits" if limited else ""
    speed = _speed_words(first, baseline_of(rows))
    count = len(decision.remaining)
    if rivals:
        names = [row.name for row in [first, *rivals]]
        either = " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        none = "neither" if len(names) == 2 else "none of them"
        finding = f"{either}: {none} is shown to be the fastest{within}."
    elif count == 1:
        verb = "keeps your limits" if limited else "can be decided on"
        finding = f"Only {first.name} {verb}: {speed}."
    elif limited:
        finding = f"Ship {first.name}: {speed}, the fastest of {count} variants within your limits."
    else:
        finding = f"Without a limit {first.name} is the fastest of {count} variants: {speed}."
    detail = [_rival_words(decision, speed), _accuracy_words(first), _kept_words(decision), _unknown_words(decision)]
    if first.validity == "unstable":
        detail.append(f"~ {first.name} was not in a steady state.")
    return finding, " ".join(filter(None, detail))


def _speed_words(row: Row, baseline: Row | None) -> str:
    if row.baseline:
        return "the baseline itself"
    if row.speedup is None or baseline is None:
        limits = between(row.throughput_samples_per_s_low, row.throughput_samples_per_s_high)
        return f"{significant(row.throughput_samples_per_s)} samples/s ({limits})"
    limits = between(row.speedup_low, row.speedup_high)
    return f"{times(row.speedup)} ({limits}) the samples/s of {baseline.name}"


def _rival_words(decision: Decision, speed: str) -> str:
    if not decision.rivals or decision.fastest is None:
        return ""
    said = [
        f"{times(ratio.estimate)} ({between(ratio.low, ratio.high)}) that of {row.name}"
        for row, ratio in decision.rivals
        if ratio is not None
    ]
    beside = f"; {headlines.joined(said)}" if said else ""
    return f"{decision.fastest.name} has the highest estimate, {speed}{beside}."


def _accuracy_words(row: Row) -> str:
    figure = QUANTITIES["accuracy_lost"].read(row)
    if row.baseline or figure is None:
        return ""
    if row.accuracy_comparison == "no_difference":
        limits = f"{between(figure.low * 100, figure.high * 100, tenths)} points lost{takeaways.alone(row)}"
        return f"No difference in its accuracy is shown: {limits}, n = {row.examples:,}."
    sign, word = (1, "loses") if row.accuracy_comparison == "worse" else (-1, "gains")
    low, high = sorted((100 * sign * figure.low, 100 * sign * figure.high))
    amount = f"{tenths(100 * sign * figure.estimate)} points of accuracy"
    return f"It {word} {amount} ({between(low, high, tenths)}, n = {row.examples:,})."


def _small(quantity: Quantity) -> str:
    """A quantity's label within a sentence."""
    return quantity.label[0].lower() + quantity.label[1:]


def _kept_words(decision: Decision) -> str:
    kept = [
        f"{judged.row.name} ({_small(judgement.quantity)})"
        for judged in decision.judged
        if judged.remains
        for judgement in judged.judgements.values()
        if judgement.state == "not shown"
    ]
    return f"Kept by its estimate, not shown to be within: {headlines.joined(kept)}." if kept else ""


def _unknown_words(decision: Decision) -> str:
    groups: dict[tuple[str, str], list[str]] = {}
    for judged in decision.judged:
        for judgement in judged.judgements.values():
            if judged.problem is None and judgement.state == "unknown":
                key = (_small(judgement.quantity), judgement.quantity.missing(judged.row))
                groups.setdefault(key, []).append(judged.row.name)
    return " ".join(
        f"Left out because a figure is missing, {what} ({why}): {headlines.joined(names)}."
        for (what, why), names in groups.items()
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
            f"{first.quantity.counted(significant(first.shown))} lets {first.row.name} in. "
            f"{_unknown_words(decision)}"
        ).strip()
    nearest = min(candidates, key=lambda judged: len(judged.failed))
    missed = headlines.joined([_small(decision.quantities[key]) for key in nearest.failed])
    return finding, (
        f"Changing a single limit is not enough: {nearest.row.name} comes nearest and misses {missed}. "
        f"{_unknown_words(decision)}"
    ).strip()


def cost_words(cost: Cost, fastest: Row | None) -> str:
    """The cost of a limit, in a few words."""
    if cost.without is None:
        return "nothing remains without it either"
    if fastest is None:
        return f"without it, {cost.without.name} remains"
    if cost.without is fastest:
        return "costs nothing: the fastest stays the same"
    if cost.given_up is None:
        return f"{cost.without.name} instead; how much faster is not known"
    ratio = f"{times(cost.given_up.estimate)} ({between(cost.given_up.low, cost.given_up.high)})"
    if cost.given_up.low <= 1:
        return f"no loss of speed is shown: {cost.without.name} is {ratio} as fast"
    return f"{ratio} the speed: {cost.without.name} instead"


def title(decision: Decision, against: str) -> str:
    """The title of a chart of p95 and the quantity `against`: the variants that either limit keeps out."""
    measured = [judged for judged in decision.judged if judged.problem is None]
    said = []
    # A limit on p95 alone is named on one chart only, the one of accuracy; the other charts keep titles of their own.
    names_limits = against == "accuracy_lost" or against in decision.limits.given
    for key in (against, "latency_p95_s") if names_limits else ():
        if key in decision.limits.given:
            quantity = decision.quantities[key]
            out = [judged.row.name for judged in measured if key in judged.failed]
            said.append(f"by {quantity.amount(decision.limits.given[key])}: {headlines.joined(out) or 'no variant'}")
    rows = [judged.row for judged in decision.judged]
    if not said and against in TITLES:
        return TITLES[against](rows)
    if not said:
        return f"{decision.quantities[against].label} and latency, without a limit"
    return f"Kept out {'; '.join(said)}"
