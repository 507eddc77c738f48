"""Memory in bytes, with its source: the host's peak from the kernel, the device's from NVML.

A figure that cannot be read is None, with the reason as its source.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One memory figure: the bytes, and their source or the reason why there are none."""

    bytes: int | None
    source: str


def _status_bytes(field: str) -> int | None:
    """A field of /proc/self/status in bytes; None off Linux."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def resident_bytes() -> int | None:
    """The RAM that this process holds now (VmRSS); None off Linux."""
    return _status_bytes("VmRSS")


def reset_host_peak() -> bool:
    """Reset the kernel's peak (VmHWM); False if the kernel does not permit it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return True
    except OSError:
        return False


def host_peak(was_reset: bool) -> Figure:
    """The process's peak in RAM since the reset, or since the process started."""
    peak = _status_bytes("VmHWM")
    if peak is not None:
        since = "since loading" if was_reset else "since the process started (clear_refs is not permitted)"
        return Figure(peak, f"VmHWM of the worker {since}")
    try:
        import resource
    except ImportError:
        return Figure(None, "this system does not report a process's peak")
    # ru_maxrss is in kilobytes, but in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Figure(peak, "ru_maxrss of the worker since it started")


class DeviceMemory:
    """A worker's memory on one GPU. Create it before the device is used: it records the memory of other processes."""

    def __init__(self, uuid: str | None) -> None:
        from engine.machine import gpus

        self._uuid = uuid
        self._before = gpus.nvml_used_bytes(uuid) if uuid else None

    def read(self) -> Figure:
        """This process's bytes: as NVML reports them by process, else the increase of the device's since creation."""
        from engine.machine import gpus

        if not self._uuid:
            return Figure(None, "no GPU in use")
        own = gpus.nvml_process_bytes(self._uuid, os.getpid())
        if own is not None:
            return Figure(own, "NVML, by process")
        used = gpus.nvml_used_bytes(self._uuid)
        if used is None or self._before is None:
            return Figure(None, "NVML does not answer")
        return Figure(
            max(0, used - self._before),
            "NVML, the device's increase since before loading (process ids are hidden here)",
        )
