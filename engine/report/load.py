"""What a run's variants gave under a service's load: bounds, ratios to the baseline's, sentences.

Pure: over the flat objects of `engine.store.measurements.loads`, which `joined` sets beside their measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.measurement import arrivals
from engine.units import between, milliseconds, significant

Row = dict[str, Any]
IDENTITY = ("title", "model", "backend", "precision", "baseline", "published", "position")
"""What a measurement says of its variant, whatever its batch size."""
VERDICTS = {
    "better": "▲ holds more",
    "worse": "▼ holds less",
    "no_difference": "= no difference shown",
}


def joined(loads: Sequence[Mapping[str, Any]], measurements: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row a variant under load, with what names it and how it compares: the bounds of its rate and their ratios.

    `low_texts_per_s` is the highest rate that held (0: none did), `high_texts_per_s` the lowest that failed twice, or
    what it answers where all texts are there; None where it failed.
    """
    of: dict[str, Mapping[str, Any]] = {}
    for measured in measurements:
        of.setdefault(measured["variant"], measured)
    made: list[Row] = []
    for found in loads:
        about = of.get(found["variant"], {"title": found["variant"], "baseline": False})
        row = {name: about.get(name) for name in IDENTITY} | dict(found)
        row["name"] = row["title"]
        # As tables name rows: by their batches where these differ.
        row["batch_size"] = found["max_batch"]
        done = found["status"] == "measured"
        row["low_texts_per_s"] = (found["server_texts_per_s"] or 0.0) if done else None
        row["beyond_texts_per_s"] = beyond(found)
        row["high_texts_per_s"] = (row["beyond_texts_per_s"] or found["offline_texts_per_s"]) if done else None
        made.append(row)
    base = next((row for row in made if row["baseline"] and row["status"] == "measured"), None)
    for row in made:
        row |= _beside(row, base)
    return made


def beyond(found: Mapping[str, Any]) -> float | None:
    """The lowest rate that did not hold in two trials; None where none was tried in vain twice."""
    return arrivals.failed_twice((trial["rate_per_s"], trial["holds"]) for trial in found["trials"])


def _beside(row: Row, base: Row | None) -> Row:
    """The ratio of the rate to the baseline's, the least and the most that the bounds of both allow, and a verdict."""
    none = dict.fromkeys(("ratio", "ratio_low", "ratio_high", "comparison"))
    if base is None or row is base or row["status"] != "measured":
        return none
    low, high = row["low_texts_per_s"], row["high_texts_per_s"]
    base_low, base_high = base["low_texts_per_s"], base["high_texts_per_s"]
    found: Row = {"comparison": "better" if low > base_high else "worse" if high < base_low else "no_difference"}
    if low and base_low:
        found |= {"ratio": low / base_low, "ratio_low": low / base_high, "ratio_high": high / base_low}
    return none | found


def limit_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """The limit that all rows of a run were held to, in words."""
    return f"p99 within {milliseconds(rows[0]['p99_limit_s'])} ms"


def batches(row: Mapping[str, Any]) -> str:
    """How texts were batched as they came."""
    waiting = f", waiting at most {milliseconds(row['max_wait_s'])} ms" if row["max_wait_s"] else ""
    return f"batches of at most {row['max_batch']}{waiting}"


def headline(rows: Sequence[Row]) -> str:
    """Which variant holds the highest rate, and by how much against the baseline; one sentence."""
    done = [row for row in rows if row["status"] == "measured"]
    if not done:
        return "No variant could be put under load."
    limit = limit_words(done)
    best = max(done, key=lambda row: row["low_texts_per_s"])
    if not best["low_texts_per_s"]:
        return f"No variant held {limit} at any rate that was tried."
    said = f"{best['title']} holds {significant(best['low_texts_per_s'])} texts/s with {limit}"
    base = next((row for row in done if row["baseline"]), None)
    if best is base:
        return f"{said}, the most of all{', and it is the baseline' if len(done) > 1 else ''}."
    if base is None:
        return f"{said}; the baseline was not put under load."
    if best["ratio"] is None:
        return f"{said}; the baseline held no rate that was tried."
    bounds = between(best["ratio_low"], best["ratio_high"])
    if best["comparison"] == "no_difference":
        return f"{said}; no difference to the baseline is shown ({significant(best['ratio'])} times, {bounds})."
    return f"{said}, {significant(best['ratio'])} times the baseline's ({bounds})."


def doubt(rows: Sequence[Row]) -> str:
    """Which of the rows that the headline speaks of are in doubt, and how to find out why; empty where none is."""
    done = [row for row in rows if row["status"] == "measured"]
    best = max(done, key=lambda row: row["low_texts_per_s"], default=None)
    told = [row for row in done if row is best or row["baseline"]]
    names = [row["title"] for row in told if row["validity"] == "unstable"]
    return f"In doubt, by what the machine did meanwhile: {' and '.join(names)}." if names else ""


def notes(rows: Sequence[Row]) -> list[str]:
    """One sentence for each row that failed or is in doubt."""
    said = []
    for row in rows:
        if row["status"] != "measured":
            why = f": {row['status_reason']}" if row["status_reason"] else ""
            said.append(f"{row['title']}: {row['status']} under load{why}")
        elif row["validity_reason"]:
            said.append(f"{row['title']}: {row['validity']} under load: {row['validity_reason']}")
    return said
