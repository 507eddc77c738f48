"""The results of a run's variants under a service's load: bounds, ratios to the baseline's, sentences.

Pure: over the rows of `engine.store.measurements.loads`, which `joined` puts beside their measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from engine.measurement import arrivals
from engine.store.rows import LoadRow, Row
from engine.units import between, milliseconds, significant

VERDICTS = {
    "better": "▲ holds more",
    "worse": "▼ holds less",
    "no_difference": "= no difference shown",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedLoad(LoadRow):
    """The results of a variant under load, with its title and model, and its comparison with the baseline."""

    title: str
    model: str | None
    backend: str | None
    precision: str | None
    baseline: bool
    published: str | None
    low_texts_per_s: float | None
    """The highest rate that held, 0 where none did; None where the variant failed, as in `high_texts_per_s`."""
    beyond_texts_per_s: float | None
    """The lowest rate that failed twice; None where none did."""
    high_texts_per_s: float | None
    """The lowest rate that failed twice, or what it answers where all texts are there."""
    ratio: float | None = None
    """The rate over the baseline's, with the least and the most that the bounds of both allow."""
    ratio_low: float | None = None
    ratio_high: float | None = None
    comparison: str | None = None
    """better, worse or no_difference."""

    @property
    def name(self) -> str:
        """The name in charts: a variant is put under load once, so its title suffices."""
        return self.title

    @property
    def batch_size(self) -> int:
        """The largest batch, for tables that name rows by their batches where these differ."""
        return self.max_batch


def joined(loads: Sequence[LoadRow], measurements: Sequence[Row]) -> list[JoinedLoad]:
    """Each variant under load beside its measurement, and beside the baseline under load."""
    of: dict[str, Row] = {}
    for measured in measurements:
        of.setdefault(measured.variant, measured)
    made = [_joined(load, of.get(load.variant)) for load in loads]
    base = next((row for row in made if row.baseline and row.status == "measured"), None)
    return [_compared(row, base) for row in made]


def _joined(load: LoadRow, about: Row | None) -> JoinedLoad:
    beyond_texts_per_s = beyond(load)
    done = load.status == "measured"
    return JoinedLoad(
        **{field.name: getattr(load, field.name) for field in fields(LoadRow)},
        title=about.title if about else load.variant,
        model=about.model if about else None,
        backend=about.backend if about else None,
        precision=about.precision if about else None,
        baseline=bool(about and about.baseline),
        published=about.published if about else None,
        low_texts_per_s=(load.server_texts_per_s or 0.0) if done else None,
        beyond_texts_per_s=beyond_texts_per_s,
        high_texts_per_s=(beyond_texts_per_s or load.offline_texts_per_s) if done else None,
    )


def beyond(load: LoadRow) -> float | None:
    """The lowest rate that did not hold in two trials; None where no rate failed twice."""
    return arrivals.failed_twice((trial["rate_per_s"], trial["holds"]) for trial in load.trials)


def _compared(row: JoinedLoad, base: JoinedLoad | None) -> JoinedLoad:
    """The row with its ratio to the baseline's rate, the ratio's bounds and a verdict."""
    if base is None or row is base:
        return row
    low, high = row.low_texts_per_s, row.high_texts_per_s
    base_low, base_high = base.low_texts_per_s, base.high_texts_per_s
    if low is None or high is None or base_low is None or base_high is None:
        return row
    verdict = "better" if low > base_high else "worse" if high < base_low else "no_difference"
    if not low or not base_low:
        return replace(row, comparison=verdict)
    return replace(row, comparison=verdict, ratio=low / base_low, ratio_low=low / base_high, ratio_high=high / base_low)


def limit_words(rows: Sequence[LoadRow]) -> str:
    """The limit that all rows of a run were held to, in words."""
    return f"p99 within {milliseconds(rows[0].p99_limit_s)} ms"


def batches(row: LoadRow) -> str:
    """How texts were batched as they came."""
    waiting = f", waiting at most {milliseconds(row.max_wait_s)} ms" if row.max_wait_s else ""
    return f"batches of at most {row.max_batch}{waiting}"


def headline(rows: Sequence[JoinedLoad]) -> str:
    """Which variant holds the highest rate, and by how much against the baseline; one sentence."""
    done = [row for row in rows if row.status == "measured"]
    if not done:
        return "No variant could be put under load."
    limit = limit_words(done)
    best = max(done, key=lambda row: row.low_texts_per_s or 0.0)
    if not best.low_texts_per_s:
        return f"No variant held {limit} at any rate that was tried."
    said = f"{best.title} holds {significant(best.low_texts_per_s)} texts/s with {limit}"
    base = next((row for row in done if row.baseline), None)
    if best is base:
        return f"{said}, the most of all{', and it is the baseline' if len(done) > 1 else ''}."
    if base is None:
        return f"{said}; the baseline was not put under load."
    if best.ratio is None:
        return f"{said}; the baseline held no rate that was tried."
    bounds = between(best.ratio_low, best.ratio_high)
    if best.comparison == "no_difference":
        return f"{said}; no difference to the baseline is shown ({significant(best.ratio)} times, {bounds})."
    return f"{said}, {significant(best.ratio)} times the baseline's ({bounds})."


def doubt(rows: Sequence[JoinedLoad]) -> str:
    """Which of the rows that the headline speaks of are in doubt, and how to find out why; empty where none is."""
    done = [row for row in rows if row.status == "measured"]
    best = max(done, key=lambda row: row.low_texts_per_s or 0.0, default=None)
    told = [row for row in done if row is best or row.baseline]
    names = [row.title for row in told if row.validity == "unstable"]
    return f"In doubt, by what the machine did meanwhile: {' and '.join(names)}." if names else ""


def notes(rows: Sequence[JoinedLoad]) -> list[str]:
    """One sentence for each row that failed or is in doubt."""
    said = []
    for row in rows:
        if row.status != "measured":
            why = f": {row.status_reason}" if row.status_reason else ""
            said.append(f"{row.title}: {row.status} under load{why}")
        elif row.validity_reason:
            said.append(f"{row.title}: {row.validity} under load: {row.validity_reason}")
    return said
