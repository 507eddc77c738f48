"""The words of verdicts, states, batches and rounds, used by every table and page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.store.rows import Row

SPEED_VERDICTS = {
    "better": "▲ faster",
    "worse": "▼ slower",
    "no_difference": "= no difference shown",
}
ACCURACY_VERDICTS = {
    "better": "▲ more accurate",
    "worse": "▼ less accurate",
    "no_difference": "= no difference shown",
}
"""A sign and words for each verdict, so that colour is never alone."""
STATES = {
    "failed": "✗ failed",
    "unavailable": "○ unavailable",
    "cancelled": "◌ cancelled",
    "pending": "… pending",
}


def batch_words(row: Row) -> str:
    """How many examples a batch has: "8", or "64 (at most 2,048 tokens)"."""
    budget = row.max_batch_tokens
    return f"{row.batch_size}" + (f" (at most {budget:,} tokens)" if budget else "")


def batch_sizes(rows: Sequence[Row]) -> str:
    """The batches of all `rows`, each once, the smallest first."""
    return ", ".join(dict.fromkeys(batch_words(row) for row in sorted(rows, key=lambda row: row.batch_size)))


def padding_words(rows: Sequence[Row], max_length: int) -> str:
    """How the sequences of `rows` are padded, each way once, and how long they are at most."""
    words = {"max_length": f"to {max_length} tokens", "longest": "to the longest", "packed": "not at all"}
    ways = [words[way] for way in words if any(row.padding == way for row in rows)]
    most = "" if ways[:1] == [words["max_length"]] else f", at most {max_length} tokens"
    return f"padded {' or '.join(ways) or words['longest']}{most}"


QUICK_WORDS = "A first look: few rounds and examples, so wide intervals. "


def one_by_one(rows: Sequence[Row]) -> bool:
    """Whether the variants were measured one after another, as they did not fit beside each other."""
    return any(row.schedule == "sequential" for row in rows)


def processes_words(rows: Sequence[Row], protocol: dict[str, Any]) -> str:
    """The number of processes per variant, as words; twice as many if variants were measured forward and back."""
    count = protocol["processes"] * (2 if one_by_one(rows) else 1)
    return f"{count} process{'es' if count > 1 else ''} a variant"


def rounds_words(rows: Sequence[Row]) -> str:
    """Which rounds a speed-up is of."""
    return "over all rounds" if one_by_one(rows) else "in the same rounds, the calm third"
