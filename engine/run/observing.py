"""What is read of a worker after timing: configuration, tokenising, device time, memory, operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.machine import energy
from engine.run.state import Entry

TOKENIZED_BATCHES = 30
DEVICE_CALLS = 10
PROFILED_SECONDS = 0.2
PROFILED_CALLS = 20
"""Calls of which operators are timed: as many as this takes about, and no more than that; one at least."""
ANSWER_SECONDS = 2.0
INVARIANCE_EXAMPLES = 256
"""How many examples are answered again in other batches, at most ..."""
INVARIANCE_SECONDS = 3.0
"""... and for how long, in each of the other ways."""


def energy_calls(entry: Entry, batches: list[np.ndarray], padding: str) -> int:
    """Have a worker call batches for a window of energy; how many samples it answered."""
    assert entry.worker is not None
    reply = entry.worker.ask("block", batches=batches, padding=padding, seconds=energy.WINDOW_S, untimed_seconds=0.0)
    return int(reply["samples"])


def memory_columns(figures: dict[str, Any], imports_bytes: int | None) -> dict[str, Any]:
    host, device = figures["host"], figures["device"]
    return {
        "ram_peak_bytes": host["bytes"],
        "ram_source": host["source"],
        "vram_peak_bytes": device["bytes"],
        "vram_source": device["source"],
        "memory": {
            "ram_peak": host,
            "ram_after_imports": {"bytes": imports_bytes, "source": "VmRSS before anything is loaded"},
            "vram_peak": device,
            **figures["allocator"],
        },
    }
