"""NVIDIA GPUs, as NVML describes them."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from engine.errors import UnavailableError, one_line

T = TypeVar("T")


# -- GPUs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG slice of one, that CUDA programs started from here see."""

    index: int
    """CUDA's number of the device: the N of "cuda:N"."""
    uuid: str
    name: str
    memory_total_bytes: int
    compute_capability: tuple[int, int]
    driver_version: str
    driver_cuda_version: tuple[int, int]
    """The highest CUDA version that the driver runs."""
    compute_mode: str
    """DEFAULT, EXCLUSIVE_PROCESS, PROHIBITED or EXCLUSIVE_THREAD."""


@dataclass(frozen=True)
class Listed:
    """A GPU as NVML lists it, whether or not CUDA programs see it."""

    gpu: Gpu
    speed: float = 0.0
    """CUDA cores times their highest clock: roughly what CUDA's order FASTEST_FIRST goes by."""
    mig: bool = False
    slices: tuple[tuple[Gpu, str], ...] = ()
    """MIG slices, each with the older form of its name: MIG-GPU-UUID/instance/compute instance."""


@functools.cache
def _nvml() -> Any:
    """The module pynvml, initialised. Raises UnavailableError with the reason; only success is kept."""
    try:
        import pynvml
    except ImportError as error:
        raise UnavailableError("the package nvidia-ml-py is not installed") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise UnavailableError(one_line(error)) from error
    return pynvml


def _ask(question: Callable[[Any], T]) -> T | None:
    """The result of `question` from NVML; None if NVML is not there or cannot answer."""
    try:
        nvml = _nvml()
    except UnavailableError:
        return None
    try:
        return question(nvml)
    except nvml.NVMLError:
        return None


def nvml_problem() -> str | None:
    """Why NVML names no GPU; None where it names one."""
    try:
        nvml = _nvml()
    except UnavailableError as error:
        return str(error)
    try:
        return None if nvml.nvmlDeviceGetCount() else "the NVIDIA driver lists no GPU"
    except nvml.NVMLError as error:
        return one_line(error)


COMPUTE_MODES = ("DEFAULT", "EXCLUSIVE_THREAD", "PROHIBITED", "EXCLUSIVE_PROCESS")


def _compute_mode(nvml: Any, handle: Any) -> str:
    try:
        return COMPUTE_MODES[int(nvml.nvmlDeviceGetComputeMode(handle))]
    except (nvml.NVMLError, IndexError):
        return "DEFAULT"


def _driver_cuda(nvml: Any) -> tuple[int, int]:
    try:
        number = nvml.nvmlSystemGetCudaDriverVersion_v2()
    except nvml.NVMLError:
        number = nvml.nvmlSystemGetCudaDriverVersion()
    return number // 1000, number % 1000 // 10


def _listed(nvml: Any) -> list[Listed]:
    """All GPUs that may be opened, in the order of their PCI bus."""
    found: list[Listed] = []
    driver, cuda = nvml.nvmlSystemGetDriverVersion(), _driver_cuda(nvml)

    def describe(handle: Any, parent: Any) -> Gpu:
        return Gpu(
            index=-1,
            uuid=nvml.nvmlDeviceGetUUID(handle),
            name=nvml.nvmlDeviceGetName(handle),
            memory_total_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            compute_capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(parent)),
            driver_version=driver,
            driver_cuda_version=cuda,
            compute_mode=_compute_mode(nvml, parent),
        )

    for number in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            gpu = describe(handle, handle)
        except nvml.NVMLError:
            continue  # A GPU of another job: listed, but not ours to open.
        try:
            clock = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)
            speed = float(nvml.nvmlDeviceGetNumGpuCores(handle) * clock)
        except nvml.NVMLError:
            speed = 0.0
        slices: list[tuple[Gpu, str]] = []
        try:
            mig = bool(nvml.nvmlDeviceGetMigMode(handle)[0])
            for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle) if mig else 0):
                try:
                    part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
                    instance = nvml.nvmlDeviceGetGpuInstanceId(part)
                    compute = nvml.nvmlDeviceGetComputeInstanceId(part)
                    slices.append((describe(part, handle), f"MIG-{gpu.uuid}/{instance}/{compute}"))
                except nvml.NVMLError:
                    continue  # No slice in this place.
        except nvml.NVMLError:
            mig = False  # A GPU that has no MIG at all.
        found.append(Listed(gpu, speed, mig, tuple(slices)))
    return found


def visible_devices(listed: Sequence[Listed], visible: str | None, order: str | None) -> list[Gpu]:
    """The devices that CUDA shows of `listed`, numbered as CUDA does.

    `visible` is CUDA_VISIBLE_DEVICES, `order` is CUDA_DEVICE_ORDER; None where unset. The rules are
    CUDA's: the list ends at the first entry that names nothing, an entry named twice empties it, and
    a program sees one MIG slice at most and no whole GPU beside it. But an unset order means the PCI
    bus's, as nvidia-smi counts, and not CUDA's guess at the fastest: `worker_environment` makes it so.
    """
    ordered = list(listed)
    if order == "FASTEST_FIRST":
        ordered.sort(key=lambda item: -item.speed)
    chosen: list[Gpu] = []
    if visible is None:
        for item in ordered:
            chosen += [item.slices[0][0]] if item.slices else [] if item.mig else [item.gpu]
    else:
        for entry in visible.split(","):
            gpu = _named(ordered, entry.strip())
            if gpu is None:
                break
            if gpu in chosen:
                return []
            chosen.append(gpu)
    slices = {part.uuid for item in listed for part, _ in item.slices}
    mig = [gpu for gpu in chosen if gpu.uuid in slices]
    return [replace(gpu, index=index) for index, gpu in enumerate(mig[:1] or chosen)]


def _named(ordered: Sequence[Listed], entry: str) -> Gpu | None:
    """The GPU that one entry of CUDA_VISIBLE_DEVICES names: by index, or by the unique start of a UUID."""
    if entry.startswith("MIG-"):
        parts = [part for item in ordered for part in item.slices]
        matches = [gpu for gpu, old in parts if old == entry or gpu.uuid.startswith(entry)]
        return matches[0] if len(matches) == 1 else None
    if entry.startswith("GPU-"):
        items = [item for item in ordered if item.gpu.uuid.startswith(entry)]
        if len(items) != 1:
            return None
    else:
        number = re.match(r"\+?\d+", entry)  # CUDA reads "1gpu" as 1.
        if number is None or int(number.group()) >= len(ordered):
            return None
        items = [ordered[int(number.group())]]
    item = items[0]
    if item.mig:
        return item.slices[0][0] if item.slices else None
    return item.gpu


def visible_gpus() -> list[Gpu]:
    """The GPUs that CUDA programs started from here see; empty where there is none, or no driver."""
    listed = _ask(_listed) or []
    return visible_devices(listed, os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER"))


def nvml_process_bytes(uuid: str, pid: int) -> int | None:
    """Device memory that process `pid` holds on the GPU; None where NVML does not show it (containers)."""

    def question(nvml: Any) -> int | None:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        held = [
            process.usedGpuMemory
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            if process.pid == pid and process.usedGpuMemory is not None
        ]
        return int(sum(held)) if held else None

    return _ask(question)


def nvml_used_bytes(uuid: str) -> int | None:
    """Device memory in use on the GPU by all processes and the driver; None where NVML does not say."""
    return _ask(lambda nvml: int(nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(uuid)).used))


def nvml_process_ids(uuid: str) -> set[int] | None:
    """The processes that compute on the GPU, as NVML numbers them; None where it does not say."""
    return _ask(
        lambda nvml: {
            process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByUUID(uuid))
        }
    )


def nvml_energy_j(uuid: str) -> float | None:
    """Joules that the GPU has used since its driver was loaded; None where it has no such counter (before Volta)."""
    return _ask(lambda nvml: nvml.nvmlDeviceGetTotalEnergyConsumption(nvml.nvmlDeviceGetHandleByUUID(uuid)) / 1e3)


@dataclass(frozen=True)
class GpuState:
    """How a GPU stands at one moment; None each where NVML does not say."""

    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    slowed_by: list[str] | None
    """NVML's reasons for clocks below the highest, such as SW_POWER_CAP or HW_THERMAL_SLOWDOWN."""


SLOWED_BY = {
    "GpuIdle": "GPU_IDLE",
    "ApplicationsClocksSetting": "APPLICATIONS_CLOCKS_SETTING",
    "SwPowerCap": "SW_POWER_CAP",
    "HwSlowdown": "HW_SLOWDOWN",
    "SyncBoost": "SYNC_BOOST",
    "SwThermalSlowdown": "SW_THERMAL_SLOWDOWN",
    "HwThermalSlowdown": "HW_THERMAL_SLOWDOWN",
    "HwPowerBrakeSlowdown": "HW_POWER_BRAKE_SLOWDOWN",
    "DisplayClockSetting": "DISPLAY_CLOCK_SETTING",
}
"""The ends of NVML's constants -> what nvidia-smi calls these reasons."""


def nvml_state(uuid: str) -> GpuState | None:
    """The GPU's clocks, temperature, power and reasons for lower clocks, now; None without NVML."""

    def of(question: Callable[[Any, Any], Any]) -> Any:
        return _ask(lambda nvml: question(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid)))

    def reasons(nvml: Any, gpu: Any) -> list[str]:
        bits = nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
        return [name for end, name in SLOWED_BY.items() if bits & getattr(nvml, f"nvmlClocksEventReason{end}")]

    if nvml_problem() is not None:
        return None
    return GpuState(
        sm_clock_mhz=of(lambda nvml, gpu: int(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM))),
        memory_clock_mhz=of(lambda nvml, gpu: int(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM))),
        temperature_c=of(lambda nvml, gpu: int(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))),
        power_w=of(lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3),
        slowed_by=of(reasons),
    )


def gpu_settings(uuid: str) -> dict[str, Any]:
    """Settings of a GPU that change how fast it is; None each where NVML does not say."""

    def of(question: Callable[[Any, Any], Any]) -> Any:
        return _ask(lambda nvml: question(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid)))

    return {
        "memory_used_bytes": nvml_used_bytes(uuid),
        "power_limit_w": of(lambda nvml, gpu: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000),
        "sm_clock_max_mhz": of(lambda nvml, gpu: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM)),
        "memory_clock_max_mhz": of(lambda nvml, gpu: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_MEM)),
        "persistence": of(lambda nvml, gpu: bool(nvml.nvmlDeviceGetPersistenceMode(gpu))),
        "ecc": of(lambda nvml, gpu: bool(nvml.nvmlDeviceGetEccMode(gpu)[0])),
    }
