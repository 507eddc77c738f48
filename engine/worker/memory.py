"""Memory by source, in bytes: the host's peak by the kernel, the device's by NVML.

A figure that cannot be read is None, with the reason beside it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One memory figure: bytes, or why there are none, and where it comes from."""

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
    """What this process holds in RAM now (VmRSS)."""
    return _status_bytes("VmRSS")


def reset_host_peak() -> bool:
    """Start the kernel's peak (VmHWM) afresh; False where the kernel does not let us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return True
    except OSError:
        return False


def host_peak(was_reset: bool) -> Figure:
    """The process's peak in RAM since the reset, or since its start."""
    peak = _status_bytes("VmHWM")
    if peak is not None:
        since = "since loading" if was_reset else "since the process started (clear_refs is not permitted)"
        return Figure(peak, f"VmHWM of the worker {since}")
    try:
        import resource
    except ImportError:
        return Figure(None, "this system tells no peak of a process")
    # Kilobytes, but bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Figure(peak, "ru_maxrss of the worker since it started")


class DeviceMemory:
    """A worker's memory on one GPU. Make it before the device is touched: it notes what others hold."""

    def __init__(self, uuid: str | None) -> None:
        from engine.machine import gpus

        self._uuid = uuid
        self._before = gpus.nvml_used_bytes(uuid) if uuid else None

    def read(self) -> Figure:
        """This process's bytes: by process where NVML tells it, else what the device gained since."""
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
            "NVML, the device's gain since before loading (process ids are hidden here)",
        )
