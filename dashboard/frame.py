"""A run as one DataFrame: the stored figures of each measurement, and what a page needs beside them.

Pure. Every column has dtype object, so that "not measured" stays None and never becomes a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from engine.measurement import stats
from engine.report import takeaways

Row = dict[str, Any]

TEXT_TIMES = {
    "text_s": "throughput_samples_per_s",
    "text_low_s": "throughput_samples_per_s_high",
    "text_high_s": "throughput_samples_per_s_low",
}
"""Seconds a text and its interval -> the samples/s of which each is one over."""
DERIVED = ("agreement_low", "agreement_high", "memory_bytes", "memory_kind", "memory_ratio", "name", *TEXT_TIMES)
"""The columns that the store does not hold."""


def build(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The frame of one run, from its flat measurements with their `id`."""
    device_memory = any(row["vram_peak_bytes"] is not None for row in rows)
    several = len({row["batch_size"] for row in rows}) > 1
    built = []
    for row in rows:
        made: Row = {**row, **dict.fromkeys(DERIVED)}
        made["name"] = takeaways.sized(made) if several else row["title"]
        made["memory_kind"] = "vram" if device_memory else "ram"
        made["memory_bytes"] = row["vram_peak_bytes"] if device_memory else row["ram_peak_bytes"]
        made |= {name: 1 / row[rate] if row[rate] else None for name, rate in TEXT_TIMES.items()}
        if row["flips"] is not None and row["examples"]:
            same = stats.wilson(row["examples"] - row["flips"], row["examples"])
            made["agreement_low"], made["agreement_high"] = same.low, same.high
        built.append(made)
    for made in built:
        baseline = baseline_of(built, made)
        if baseline is not None and made["memory_bytes"] and baseline["memory_bytes"]:
            made["memory_ratio"] = made["memory_bytes"] / baseline["memory_bytes"]
    columns = list(built[0]) if built else []
    return pd.DataFrame(built, columns=columns, dtype=object)


def rows_of(frame: pd.DataFrame) -> list[Row]:
    """The frame's rows as dictionaries."""
    # Four times as fast as to_dict, which looks at the type of each value: these are Python's own already.
    return [dict(zip(frame.columns, values, strict=True)) for values in frame.to_numpy(dtype=object)]


def at_batch(frame: pd.DataFrame, batch_size: int | None) -> pd.DataFrame:
    """One batch size of a run, with the variants that keep a batching of their own."""
    if batch_size is None or frame.empty:
        return frame
    sizes = frame.groupby("variant", sort=False)["batch_size"].agg(lambda values: set(values))
    keep = [row["batch_size"] == batch_size or batch_size not in sizes[row["variant"]] for row in rows_of(frame)]
    chosen = frame[keep].copy()
    chosen["name"] = [row["title"] if row["batch_size"] == batch_size else row["name"] for row in rows_of(chosen)]
    return chosen


def baseline_of(rows: Sequence[Row], row: Row | None = None) -> Row | None:
    """The baseline's row, at the batch size of `row` where it was measured there."""
    found = [candidate for candidate in rows if candidate["baseline"]]
    if row is not None:
        found.sort(key=lambda candidate: candidate["batch_size"] != row["batch_size"])
    return found[0] if found else None


def paired(rows: Sequence[Row]) -> list[Row]:
    """The baseline and the rows that share rounds with it: those of which a speed-up may be said."""
    return [row for row in rows if row["baseline"] or row["speedup"] is not None]


def untaught(rows: Sequence[Row]) -> bool:
    """Whether all that was measured are models of random weights, whose answers say nothing."""
    measured = [row for row in rows if row["status"] == "measured"]
    return bool(measured) and all(map(takeaways.untaught, measured))


def swept(rows: Sequence[Row], key: str) -> bool:
    """Whether some variant has a figure at several batch sizes."""
    sizes: dict[str, set[int]] = {}
    for row in rows:
        if usable(row) and row[key] is not None:
            sizes.setdefault(row["variant"], set()).add(row["batch_size"])
    return any(len(each) > 1 for each in sizes.values())


def usable(row: Row) -> bool:
    """Whether a chart may draw conclusions from the row."""
    return takeaways.sound(row)


def cost_key(rows: Sequence[Row]) -> str:
    """What speed is held against others in: a batch's latency, or the time a text where batches differ in size.

    A larger batch takes longer because it holds more: that beats nobody.
    """
    return "latency_p50_s" if len({row["batch_size"] for row in rows}) < 2 else "text_s"


def pareto(rows: Sequence[Row], cost: str, gain: str) -> list[Row]:
    """The rows that no other beats in both: lowest `cost` first. Rows without either figure take no part."""
    ordered = sorted(
        (row for row in rows if usable(row) and row[cost] is not None and row[gain] is not None),
        key=lambda row: (row[cost], -row[gain]),
    )
    front: list[Row] = []
    for row in ordered:
        if not front or row[gain] > front[-1][gain]:
            front.append(row)
    return front
