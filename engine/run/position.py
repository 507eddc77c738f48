"""Which round of a run is timed, as a fact; terminal, page and log share its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RoundPosition:
    """Which round is timed, of which process. All numbers count from 1."""

    round: int
    rounds: int
    """The least number of rounds of this process: more follow while a variant has too few timed calls."""
    process: int
    processes: int

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> RoundPosition | None:
        """The position in a run's stored progress; None where there is none."""
        return cls(**stored) if stored else None

    @property
    def words(self) -> str:
        """The position as a phrase, such as "round 3 of at least 30, process 1 of 2"."""
        least = "at least " if self.round <= self.rounds else ""
        words = f"round {self.round} of {least}{max(self.round, self.rounds)}"
        return words + (f", process {self.process} of {self.processes}" if self.processes > 1 else "")
