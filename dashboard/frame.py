"""A run as one DataFrame: the stored figures of each measurement, and what follows from its raw values.

Pure. Every column has dtype object, so that "not measured" stays None and never becomes a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from engine import quality, stats

Row = dict[str, Any]

DERIVED = (
    "latency_p50_low_s", "latency_p50_high_s", "throughput_low", "throughput_high", "accuracy_difference",
    "accuracy_difference_low", "accuracy_difference_high", "accuracy_gained", "accuracy_lost", "accuracy_p",
    "accuracy_comparison", "agreement_low", "agreement_high", "memory_bytes", "memory_kind", "memory_ratio",
    "name",
)  # fmt: skip
"""The columns that the store does not hold."""


def build(
    rows: Sequence[Mapping[str, Any]],
    rates: Mapping[int, list[np.ndarray]],
    correct: Mapping[int, np.ndarray],
) -> pd.DataFrame:
    """The frame of one run.

    `rows` are flat measurements with their `id`; by that id, `rates` holds samples/s as one float64
    [rounds] array a process, and `correct` bool [examples], which examples were answered right.
    """
    device_memory = any(row["vram_peak_bytes"] is not None for row in rows)
    several = len({row["batch_size"] for row in rows}) > 1
    built = []
    for row in rows:
        made: Row = {**row, **dict.fromkeys(DERIVED)}
        made["name"] = f"{row['title']} @ {row['batch_size']}" if several else row["title"]
        made["memory_kind"] = "vram" if device_memory else "ram"
        made["memory_bytes"] = row["vram_peak_bytes"] if device_memory else row["ram_peak_bytes"]
        made.update(_speed_intervals(row, rates.get(row["id"])))
        if row["flips"] is not None and row["examples"]:
            same = stats.wilson(row["examples"] - row["flips"], row["examples"])
            made["agreement_low"], made["agreement_high"] = same.low, same.high
        built.append(made)
    for size in sorted({row["batch_size"] for row in rows}):
        _against_baseline([row for row in built if row["batch_size"] == size], built, correct)
    columns = list(built[0]) if built else []
    return pd.DataFrame(built, columns=columns, dtype=object)


def rows_of(frame: pd.DataFrame) -> list[Row]:
    """The frame's rows as dictionaries."""
    return frame.to_dict("records")


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


def usable(row: Row) -> bool:
    """Whether a chart may draw conclusions from the row."""
    return row["status"] == "measured" and row["validity"] != "invalid"


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


def _speed_intervals(row: Mapping[str, Any], rates: list[np.ndarray] | None) -> Row:
    """95% intervals of latency and throughput: as wide, in proportion, as that of the median over the rounds."""
    if not rates:
        return {}
    found = stats.speed_up(rates, [np.ones_like(process) for process in rates])
    if found is None:
        return {}
    down, up = found.low / found.estimate, found.high / found.estimate
    latency_s, rate = row["latency_p50_s"], row["throughput_samples_per_s"]
    made: Row = {}
    if latency_s is not None:
        made |= {"latency_p50_low_s": latency_s / up, "latency_p50_high_s": latency_s / down}
    if rate is not None:
        made |= {"throughput_low": rate * down, "throughput_high": rate * up}
    return made


def _against_baseline(rows: list[Row], everything: list[Row], correct: Mapping[int, np.ndarray]) -> None:
    """Fills in memory ratios and paired accuracy of the rows of one batch size."""
    pairs = {}
    for row in rows:
        baseline = baseline_of(everything, row)
        if baseline is None:
            continue
        if row["memory_bytes"] and baseline["memory_bytes"]:
            row["memory_ratio"] = row["memory_bytes"] / baseline["memory_bytes"]
        mine, theirs = correct.get(row["id"]), correct.get(baseline["id"])
        if row["baseline"] or mine is None or theirs is None or len(mine) != len(theirs):
            continue
        pairs[row["variant"]] = (row, quality.compare(mine, theirs))
    corrected = quality.holm({name: pair.p for name, (_, pair) in pairs.items()})
    for name, (row, pair) in pairs.items():
        row |= {
            "accuracy_difference": pair.difference,
            "accuracy_difference_low": pair.low,
            "accuracy_difference_high": pair.high,
            "accuracy_gained": pair.gained,
            "accuracy_lost": pair.lost,
            "accuracy_p": corrected[name],
            "accuracy_comparison": quality.verdict(pair, corrected[name]),
        }
