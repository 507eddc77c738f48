"""The machine as a run finds it: CPUs, memory, GPUs, versions. Imports no model library, ever.

Everything here only looks: no function changes a setting, and what cannot be known is None.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import RequestError
from engine.machine import cuda, gpus
from engine.machine.cuda import TF32_OVERRIDE
from engine.machine.gpus import Gpu
from engine.machine.host import cpu_name

DEVICE_REQUESTS = "auto, cpu, cuda, cuda:N"
DOCTOR = "`python -m engine doctor` says what is missing"


def no_gpu_reason() -> str:
    """Why `gpus.visible_gpus` is empty, in words for a message."""
    problem = gpus.nvml_problem()
    if problem is not None:
        return f"no NVIDIA driver answers here ({problem})"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES={visible!r} shows no GPU of this machine"
    return "the NVIDIA driver lists no GPU that this process may open"


# -- The device that a run asks for ----------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """Where a run works."""

    spec: str
    """"cpu" or "cuda:N"."""
    kind: Literal["cpu", "cuda"]
    name: str
    lock_key: str
    """The resource that one run at a time may use: the GPU's UUID, or the host."""
    uuid: str | None = None

    @property
    def index(self) -> int | None:
        """The N of "cuda:N"."""
        return int(self.spec.partition(":")[2]) if self.kind == "cuda" else None


def parse_device(request: str) -> tuple[Literal["auto", "cpu", "cuda"], int]:
    """The kind and index that `request` means. Raises RequestError for unknown text."""
    match = re.fullmatch(r"(auto|cpu|cuda)|cuda:(\d{1,4})", request)
    if match is None:
        raise RequestError(f"--device {request!r}: unknown device; allowed: {DEVICE_REQUESTS}")
    kind: Any = match.group(1) or "cuda"
    return kind, int(match.group(2) or 0)


def cpu_device() -> Device:
    """The host's CPU as a device."""
    host = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname()) or "unknown"
    return Device("cpu", "cpu", cpu_name(), f"host-{host}")


def gpu_device(gpu: Gpu) -> Device:
    """A GPU of this machine as a device."""
    return Device(f"cuda:{gpu.index}", "cuda", gpu.name, gpu.uuid, gpu.uuid)


def resolve_device(request: str) -> Device:
    """The device that `request` (auto, cpu, cuda or cuda:N) means on this machine.

    `auto` takes the first GPU where the installed torch can use it, else the CPU. Raises RequestError,
    with what is allowed here and why, for unknown text and for a GPU that is not there.
    """
    kind, index = parse_device(request)
    if kind == "cpu":
        return cpu_device()
    found = gpus.visible_gpus()
    if kind == "auto" and (not found or cuda.torch_cannot_use(found[0], cuda.torch_build())):
        return cpu_device()
    if not found:
        raise RequestError(f"--device {request}: {no_gpu_reason()}; allowed: auto, cpu; {DOCTOR}")
    if index >= len(found):
        shown = ", ".join(f"cuda:{gpu.index} ({gpu.name})" for gpu in found)
        raise RequestError(
            f"--device {request}: CUDA shows {len(found)} GPU{'s' * (len(found) > 1)} here; "
            f"allowed: auto, cpu, cuda, {shown}"
        )
    return gpu_device(found[index])


def worker_environment() -> dict[str, str]:
    """This process's environment as a worker's: in it "cuda:N" is the one that `resolve_device` named.

    Naming the GPUs by UUID leaves nothing to CUDA's own guess at their order. Whether TF32 is used is what a variant's
    precision says, and not a variable that overrules each library behind its back.
    """
    found = gpus.visible_gpus()
    own = {name: value for name, value in os.environ.items() if name != TF32_OVERRIDE}
    return own | ({"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in found)} if found else {})
