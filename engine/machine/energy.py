"""Energy by the device's own counter: read by the process that waits, before and after a worker's calls.

NVML's counter moves in steps of up to a tenth of a second, so a window of WINDOW_S is good to a few percent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from engine.machine import gpus
from engine.machine.devices import Device

WINDOW_S = 3.0
REST_S = 1.0
"""How long a GPU rests before its idle power is read: clocks fall some time after the last call."""
NO_COUNTER = "no energy counter: NVML counts the energy of NVIDIA GPUs from Volta on, and nothing else is read"


@dataclass(frozen=True)
class Energy:
    """The energy of a series of calls, and the idle power to subtract."""

    joules: float
    """The device's energy during `seconds`, idle power included."""
    seconds: float
    samples: int
    idle_w: float

    @property
    def joules_per_1000_examples(self) -> float:
        """Idle power subtracted; never below 0."""
        return max(0.0, self.joules - self.idle_w * self.seconds) / self.samples * 1000

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def idle_power_w(device: Device, window_s: float = WINDOW_S, rest_s: float = REST_S) -> float | None:
    """The device's mean power while nothing works on it; None where it has no counter."""
    if device.uuid is None or gpus.nvml_energy_j(device.uuid) is None:
        return None
    time.sleep(rest_s)
    found = _counted(device.uuid, lambda: time.sleep(window_s))
    return None if found is None else found[0] / found[1]


def of_calls(device: Device, idle_w: float | None, work: Callable[[], int]) -> Energy | None:
    """The energy of `work`, which returns how many samples it answered; None without a counter."""
    if device.uuid is None or idle_w is None:
        return None
    samples = 0

    def counted() -> None:
        nonlocal samples
        samples = work()

    found = _counted(device.uuid, counted)
    return Energy(found[0], found[1], samples, idle_w) if found and samples else None


def _counted(uuid: str, work: Callable[[], object]) -> tuple[float, float] | None:
    """Joules and seconds of `work`."""
    before_j, began_s = gpus.nvml_energy_j(uuid), time.perf_counter()
    work()
    after_j, ended_s = gpus.nvml_energy_j(uuid), time.perf_counter()
    return None if before_j is None or after_j is None else (after_j - before_j, ended_s - began_s)
