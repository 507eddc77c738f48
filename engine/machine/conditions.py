"""The state of a machine during timing: use of CPU and GPU by other processes, clocks, temperature.

Read before and after, by the process that waits for the workers; nothing here runs while a call is timed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from engine.machine import gpus, host
from engine.machine.devices import Device
from engine.machine.gpus import GpuState
from engine.measurement.doubts import Code, Doubt, doubt

OTHERS_CPU_SHARE = 0.1
"""The share of the CPUs that other processes may use beside a measurement on the CPU."""
OTHERS_CPU_SHARE_CUDA = 0.5
"""The same beside one on a GPU, which needs a core or two of the host alone."""
STEAL_SHARE = 0.05
"""The share of the CPUs that a hypervisor may give to other machines."""
CLOCK_DROP = 0.1
HOT = ("HW_SLOWDOWN", "HW_THERMAL_SLOWDOWN", "SW_THERMAL_SLOWDOWN", "HW_POWER_BRAKE_SLOWDOWN")
"""Reasons for lower clocks that mean trouble; a power cap or fixed clocks are how the card was set up."""


@dataclass(frozen=True)
class Conditions:
    """The observations between the start and the end of a series of rounds."""

    seconds: float
    cpus: int
    """CPUs that the bench may use; the shares below are of their time."""
    others_cpu_share: float | None
    """Time that processes other than the bench's kept them busy."""
    steal_share: float | None
    """Time that a hypervisor gave to other machines, likewise; None where the system does not tell."""
    gpu_start: dict[str, Any] | None
    gpu_end: dict[str, Any] | None
    """Clocks in MHz, temperature in degrees Celsius, power in watts, reasons for lower clocks."""
    gpu_others: int | None
    """Other processes on the GPU; None where process ids are hidden."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Watch:
    """Begins to look when it is made; `stop` says what was seen."""

    def __init__(self, device: Device, own_cpu_s: Callable[[], float], own_pids: Iterable[int]) -> None:
        """`own_cpu_s` gives the CPU seconds that the bench's processes have used so far."""
        self._device = device
        self._own_cpu_s = own_cpu_s
        self._own_pids = {os.getpid(), *own_pids}
        self._began_s = time.monotonic()
        self._own_before_s = own_cpu_s()
        self._before = host.cpu_times()
        self._gpu_before = _state(device)

    def stop(self) -> Conditions:
        now = host.cpu_times()
        own_s = self._own_cpu_s() - self._own_before_s
        seconds = time.monotonic() - self._began_s
        whole_s = max(seconds * now.cpus, 1e-9)
        others = max(0.0, now.busy_s - self._before.busy_s - own_s) / whole_s
        steal = None
        if now.steal_s is not None and self._before.steal_s is not None:
            steal = max(0.0, now.steal_s - self._before.steal_s) / whole_s
        return Conditions(
            seconds=seconds,
            cpus=now.cpus,
            others_cpu_share=others,
            steal_share=steal,
            gpu_start=self._gpu_before,
            gpu_end=_state(self._device),
            gpu_others=self._gpu_others(),
        )

    def _gpu_others(self) -> int | None:
        if self._device.uuid is None:
            return None
        pids = gpus.nvml_process_ids(self._device.uuid)
        # A list without our own workers is one of another process namespace: it says nothing.
        if pids is None or not pids & self._own_pids:
            return None
        return len(pids - self._own_pids)


def disturbances(seen: Conditions, kind: str) -> list[Doubt]:
    """Why figures timed under these conditions are in doubt; `kind` is cpu or cuda."""
    doubts = []
    limit = OTHERS_CPU_SHARE if kind == "cpu" else OTHERS_CPU_SHARE_CUDA
    if seen.others_cpu_share is not None and seen.others_cpu_share > limit:
        used = seen.others_cpu_share * seen.cpus
        doubts.append(doubt(Code.OTHER_PROCESSES, cpus_used=used, cpus=seen.cpus))
    if seen.steal_share is not None and seen.steal_share > STEAL_SHARE:
        doubts.append(doubt(Code.STOLEN_TIME, share=seen.steal_share))
    if seen.gpu_others:
        doubts.append(doubt(Code.OTHERS_ON_GPU, processes=seen.gpu_others))
    start, end = seen.gpu_start or {}, seen.gpu_end or {}
    # Each may be None where NVML does not say.
    reasons = [r for r in HOT if r in {*(start.get("slowed_by") or ()), *(end.get("slowed_by") or ())}]
    if reasons:
        hottest = max(filter(None, (start.get("temperature_c"), end.get("temperature_c"))), default=None)
        doubts.append(doubt(Code.GPU_SLOWED, reasons=tuple(reasons), temperature_c=hottest))
    before, after = start.get("sm_clock_mhz"), end.get("sm_clock_mhz")
    if before and after and after < before * (1 - CLOCK_DROP):
        doubts.append(doubt(Code.GPU_CLOCK_FELL, before_mhz=before, after_mhz=after))
    return doubts


def _state(device: Device) -> dict[str, Any] | None:
    state: GpuState | None = gpus.nvml_state(device.uuid) if device.uuid else None
    return asdict(state) if state else None
