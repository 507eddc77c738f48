"""Doubts: reasons why figures may not come from a steady state. They are stored as facts and worded here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """The kind of doubt."""

    FEW_CALLS = "few_calls"
    FEW_ROUNDS = "few_rounds"
    WARMING = "warming"
    SPREAD = "spread"
    DRIFT = "drift"
    NOT_SILENT = "not_silent"
    SHORT_WARM_UP = "short_warm_up"
    UNSETTLED_WARM_UP = "unsettled_warm_up"
    OTHER_PROCESSES = "other_processes"
    STOLEN_TIME = "stolen_time"
    OTHERS_ON_GPU = "others_on_gpu"
    GPU_SLOWED = "gpu_slowed"
    GPU_CLOCK_FELL = "gpu_clock_fell"
    SLOWER_MACHINE = "slower_machine"
    STORED_WORDS = "stored_words"
    """A reason stored as words by an older version of the bench."""


WORDS = {
    Code.FEW_CALLS: "only {calls} of {min_calls} calls were timed before max_seconds",
    Code.FEW_ROUNDS: "only {rounds} rounds were timed, too few to see whether it was steady",
    Code.WARMING: "the first {rounds} rounds were {share:.0%} slower than the rest: it was still warming up",
    Code.SPREAD: "the middle 80% of rounds spread over {share:.0%} of the median latency",
    Code.DRIFT: "latency drifted by {share:+.0%} from the first third of the rounds to the last",
    Code.NOT_SILENT: "{blocks} of {timed} blocks began while another worker still used the CPU",
    Code.SHORT_WARM_UP: "its warm-up had only {calls} calls, too few to tell whether its latency had settled",
    Code.UNSETTLED_WARM_UP: "its latency did not settle within {seconds:.0f} s of warm-up",
    Code.OTHER_PROCESSES: "other processes used {cpus_used:.1f} of {cpus} CPUs while it was timed",
    Code.STOLEN_TIME: "the hypervisor gave {share:.0%} of the CPUs' time to other machines",
    Code.GPU_CLOCK_FELL: "the GPU's clock fell from {before_mhz} to {after_mhz} MHz",
    Code.SLOWER_MACHINE: (
        "the machine was slower than it has been: calls took {factor:.2f} times as long as in the fastest earlier run "
        "of this work here, so the speed-up's interval is that much wider"
    ),
    Code.STORED_WORDS: "{text}",
}


@dataclass(frozen=True)
class Doubt:
    """One doubt: its code and its values."""

    code: Code
    values: tuple[tuple[str, Any], ...] = ()

    @property
    def words(self) -> str:
        """The doubt as a phrase without a full stop."""
        values = dict(self.values)
        if self.code is Code.OTHERS_ON_GPU:
            are = "process was" if values["processes"] == 1 else "processes were"
            return f"{values['processes']} other {are} on the GPU"
        if self.code is Code.GPU_SLOWED:
            at = f" at {values['temperature_c']} °C" if values["temperature_c"] else ""
            return f"the GPU lowered its clocks ({', '.join(values['reasons'])}{at})"
        return WORDS[self.code].format(**values)

    def to_json(self) -> dict[str, Any]:
        """The doubt as it is stored."""
        return {"code": str(self.code), **dict(self.values)}


def doubt(code: Code, **values: Any) -> Doubt:
    """A doubt with its values, which must be JSON-ready and hashable."""
    return Doubt(code, tuple(values.items()))


def of_json(stored: Iterable[Mapping[str, Any]] | None) -> list[Doubt]:
    """Read a measurement's doubts from the form in which they are stored."""
    doubts = []
    for item in stored or ():
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in item.items() if name != "code"}
        doubts.append(doubt(Code(item["code"]), **values))
    return doubts


def in_words(doubts: Iterable[Doubt]) -> list[str]:
    """The phrases of `doubts`, without duplicates."""
    return list(dict.fromkeys(each.words for each in doubts))


def slowdown_of(stored: Iterable[Iterable[Mapping[str, Any]] | None]) -> float:
    """The factor by which a run's calls took longer than earlier ones, from its measurements' stored doubts; else 1."""
    factors = [d["factor"] for doubts in stored for d in doubts or () if d["code"] == Code.SLOWER_MACHINE]
    return max(factors, default=1.0)
