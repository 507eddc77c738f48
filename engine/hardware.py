"""The machine as a run finds it: CPUs, memory, GPUs, versions. Imports no model library, ever.

Everything here only looks: no function changes a setting, and what cannot be known is None.
"""

from __future__ import annotations

import ast
import functools
import math
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from engine import __version__, paths
from engine.errors import RequestError, UnavailableError, one_line

T = TypeVar("T")

PROC = Path("/proc")
SYS_CPU = Path("/sys/devices/system/cpu")

FEATURES = (
    "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
    "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "svebf16", "svei8mm", "sme",
)  # fmt: skip
"""CPU flags that change how fast, or how, a model computes."""

DISTRIBUTIONS = (
    "torch", "transformers", "tokenizers", "safetensors", "huggingface-hub", "accelerate", "bitsandbytes",
    "kernels", "triton", "optimum", "optimum-onnx", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino",
    "nncf", "torchao", "datasets", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "nvidia-ml-py", "psutil",
    "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cublas-cu12", "nvidia-cudnn-cu12",
)  # fmt: skip
"""Installed packages that a run records with their versions."""

VARIABLES = (
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "OMP_PLACES", "OMP_DYNAMIC", "GOMP_CPU_AFFINITY",
    "GOMP_SPINCOUNT", "KMP_AFFINITY", "KMP_BLOCKTIME", "MKL_NUM_THREADS", "MKL_ENABLE_INSTRUCTIONS",
    "MKL_DYNAMIC", "OPENBLAS_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY",
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING",
    "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING", "LD_PRELOAD", "LD_LIBRARY_PATH", "MALLOC_ARENA_MAX", "MALLOC_CONF",
    "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE",
    "TOKENIZERS_PARALLELISM", "BENCH_DATA_DIR", "PYTHONHASHSEED", "PYTHONMALLOC",
    "SLURM_JOB_ID", "SLURM_JOB_PARTITION", "SLURM_CPUS_PER_TASK", "SLURM_JOB_GPUS", "SLURMD_NODENAME",
)  # fmt: skip
"""Environment variables that a run records. Others may hold secrets and are never read (nor is
BENCH_DATABASE_URL, which may hold a password)."""

TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"
"""At "0" NVIDIA's libraries do not compute in TF32, whatever a program asks of them."""

MINIMUM_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""The oldest Linux driver that runs programs built for any minor version of a CUDA major version."""

CUDA_12_BUILDS = {
    "torch": "python -m pip install 'torch==2.13.0+cu126' --index-url https://download.pytorch.org/whl/cu126",
    "onnxruntime-gpu": "python -m pip install 'onnxruntime-gpu<1.27'",
}
"""How to install a build for CUDA 12 where the default one is for CUDA 13."""

DEVICE_REQUESTS = "auto, cpu, cuda, cuda:N"
DOCTOR = "`python -m engine doctor` says what is missing"


# -- CPU and memory ------------------------------------------------------------------------------


def _read(path: Path) -> str:
    """The text of a small system file, stripped; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _affinity() -> list[int]:
    """The CPUs that this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _cgroup_folders(controller: str) -> list[Path]:
    """The folders of the cgroups, v1 or v2, that hold this process for `controller`, and their parents."""
    paths_by_kind: dict[str, str] = {}
    for line in _read(PROC / "self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            paths_by_kind["cgroup2"] = path
        elif controller in controllers.split(","):
            paths_by_kind["cgroup"] = path
    found: list[Path] = []
    for line in _read(PROC / "self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, words = left.split(), right.split()
        kind, options = (words[0], words[-1].split(",")) if words else ("", [])
        if kind not in paths_by_kind or (kind == "cgroup" and controller not in options):
            continue
        root, point = fields[3].rstrip("/"), Path(fields[4].replace("\\040", " "))
        path = paths_by_kind[kind]
        inside = path.removeprefix(root) if path == root or path.startswith(f"{root}/") else ""
        folder = point / inside.strip("/") if ".." not in Path(inside).parts else point
        while True:
            found.append(folder)
            if folder == point:
                break
            folder = folder.parent
    return found


@dataclass(frozen=True)
class CpuTimes:
    """Seconds that the CPUs which this process may use were busy, and taken by other machines, since the start."""

    busy_s: float
    steal_s: float | None
    """None where the system does not tell."""
    cpus: int
    """How many they are; all of the machine's where the system does not tell them apart."""


def cpu_times() -> CpuTimes:
    """Read from the system's own counters, of every process."""
    import psutil

    every = psutil.cpu_times(percpu=True)
    mine = [every[cpu] for cpu in _affinity()] if max(_affinity()) < len(every) else every
    # Guest time is part of user time already.
    busy_s = sum(getattr(one, name, 0.0) for one in mine for name in ("user", "nice", "system", "irq", "softirq"))
    steal_s = sum(one.steal for one in mine) if hasattr(mine[0], "steal") else None
    return CpuTimes(busy_s, steal_s, len(mine))


def cpu_quota() -> float | None:
    """CPUs' worth of time that the cgroups grant this process; None where they set no limit."""
    quotas = []
    for folder in _cgroup_folders("cpu"):
        words = _read(folder / "cpu.max").split() or [
            _read(folder / "cpu.cfs_quota_us"),
            _read(folder / "cpu.cfs_period_us"),
        ]
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]) > 0:
            quotas.append(int(words[0]) / int(words[1]))
    return min((quota for quota in quotas if quota > 0), default=None)


def usable_cores() -> int:
    """CPUs that this process may use: its affinity, or the cgroup's CPU quota where that is less."""
    quota = cpu_quota()
    affinity = len(_affinity())
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def physical_cores_usable() -> int | None:
    """Physical cores behind `usable_cores`; None where the system does not tell which threads share one."""
    cores = set()
    for cpu in _affinity():
        topology = SYS_CPU / f"cpu{cpu}/topology"
        siblings = _read(topology / "core_cpus_list") or _read(topology / "thread_siblings_list")
        if not siblings:
            return None
        cores.add(siblings)
    return min(len(cores), usable_cores()) if cores else None


def cache_bytes() -> int | None:
    """The last-level caches of the CPUs that this process may use, together; None where the system does not tell."""
    sizes: dict[tuple[int, str], int] = {}
    for cpu in _affinity():
        for index in (SYS_CPU / f"cpu{cpu}/cache").glob("index*"):
            level, size = _read(index / "level"), re.fullmatch(r"(\d+)K", _read(index / "size"))
            if level.isdigit() and size and _read(index / "type") != "Instruction":
                sizes[int(level), _read(index / "shared_cpu_list")] = int(size[1]) * 1024
    last = max((level for level, _ in sizes), default=None)
    return None if last is None else sum(size for (level, _), size in sizes.items() if level == last)


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    try:
        with (PROC / "cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.strip():
                    break
                key, _, value = line.partition(":")
                fields[key.strip().lower()] = value.strip()
    except OSError:
        pass
    return fields


ARM_PARTS = {
    "0xd0c": "Neoverse N1", "0xd40": "Neoverse V1", "0xd49": "Neoverse N2", "0xd4f": "Neoverse V2",
}  # fmt: skip


def cpu_name() -> str:
    """The CPU's model name, or the nearest thing to one that the system tells."""
    info = _cpuinfo()
    if name := info.get("model name"):
        return re.sub(r"\s+", " ", name)
    if part := info.get("cpu part"):
        return f"Arm {ARM_PARTS.get(part, f'part {part}')}"
    return platform.processor() or platform.machine() or "unknown CPU"


def cpu_features() -> list[str]:
    """Those of `FEATURES` that this CPU has."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("features") or "").split())
    return [feature for feature in FEATURES if feature in flags]


def memory_total_bytes() -> int:
    """The machine's physical memory."""
    import psutil

    return int(psutil.virtual_memory().total)


def memory_limit_bytes() -> int | None:
    """The memory that the cgroups grant this process; None where that is no less than the machine's."""
    limits = []
    for folder in _cgroup_folders("memory"):
        text = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
        if text.isdigit():
            limits.append(int(text))
    limit = min(limits, default=None)
    return limit if limit is not None and limit < memory_total_bytes() else None


# -- GPUs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG slice of one, that CUDA programs started from here see."""

    index: int
    """As CUDA numbers devices: the N of "cuda:N"."""
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
    """What `question` gets from NVML; None where NVML is not there or does not know."""
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
    """What one entry of CUDA_VISIBLE_DEVICES names: an index, or the start of a UUID that is no other's."""
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


def gpus() -> list[Gpu]:
    """The GPUs that CUDA programs started from here see; empty where there is none, or no driver."""
    listed = _ask(_listed) or []
    return visible_devices(listed, os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER"))


def no_gpu_reason() -> str:
    """Why `gpus` is empty, in words for a message."""
    problem = nvml_problem()
    if problem is not None:
        return f"no NVIDIA driver answers here ({problem})"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES={visible!r} shows no GPU of this machine"
    return "the NVIDIA driver lists no GPU that this process may open"


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


def _gpu_settings(uuid: str) -> dict[str, Any]:
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


# -- Builds of torch and drivers -----------------------------------------------------------------


@dataclass(frozen=True)
class TorchBuild:
    """What the installed torch was built for."""

    version: str
    cuda: str | None
    """The CUDA version, such as "13.0"; None for a build without CUDA."""
    hip: str | None = None

    @property
    def cuda_version(self) -> tuple[int, int] | None:
        return version_pair(self.cuda)


def version_pair(text: str | None) -> tuple[int, int] | None:
    """The first two numbers of a version: "13.0.1" -> (13, 0)."""
    match = re.match(r"(\d+)(?:\.(\d+))?", text or "")
    return (int(match.group(1)), int(match.group(2) or 0)) if match else None


def module_constants(module: str, file: str) -> dict[str, Any] | None:
    """The literals that `file` of an installed package assigns at top level, read without importing it."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    try:
        tree = ast.parse((Path(next(iter(spec.submodule_search_locations))) / file).read_text("utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    found[target.id] = node.value.value
    return found


def torch_build() -> TorchBuild | None:
    """The installed torch's version and CUDA version, read from its files; None where there is no torch."""
    constants = module_constants("torch", "version.py")
    if not constants or "__version__" not in constants:
        return None
    return TorchBuild(constants["__version__"], constants.get("cuda"), constants.get("hip"))


def driver_gap(driver_cuda: tuple[int, int], build_cuda: tuple[int, int], package: str = "torch") -> str | None:
    """Why a driver cannot run a build of `package` for `build_cuda`; None where it can.

    CUDA's minor versions are compatible: a driver runs builds for its own major version, and older ones.
    """
    if driver_cuda[0] >= build_cuda[0]:
        return None
    minimum = MINIMUM_DRIVER.get(build_cuda[0])
    return (
        f"the NVIDIA driver runs CUDA {driver_cuda[0]}.{driver_cuda[1]} at most, but the installed {package} "
        f"is built for CUDA {build_cuda[0]}.{build_cuda[1]}, which needs driver "
        + (f"{minimum} or newer" if minimum else f"for CUDA {build_cuda[0]}")
    )


def driver_too_old(driver_cuda: tuple[int, int], build_cuda: tuple[int, int], package: str = "torch") -> str | None:
    """What `driver_gap` says, with the remedy; None where the driver is new enough."""
    gap = driver_gap(driver_cuda, build_cuda, package)
    if gap is None:
        return None
    if driver_cuda[0] == 12 and package in CUDA_12_BUILDS:
        return f"{gap}: install that driver, or a build for CUDA 12: {CUDA_12_BUILDS[package]}"
    return f"{gap}: install that driver, or a build of {package} for CUDA {driver_cuda[0]}"


def torch_cannot_use(gpu: Gpu, build: TorchBuild | None) -> str | None:
    """Why the installed torch cannot use `gpu`, as far as its files tell; None where it can."""
    if build is None:
        return "torch is not installed"
    cuda = build.cuda_version
    if cuda is None:
        return f"torch {build.version} is a build without CUDA"
    if gap := driver_gap(gpu.driver_cuda_version, cuda):
        return gap
    if cuda[0] >= 13 and gpu.compute_capability < (7, 5):
        major, minor = gpu.compute_capability
        return (
            f"torch {build.version} is built for CUDA {build.cuda}, which dropped GPUs older than Turing "
            f"(compute capability 7.5; {gpu.name} has {major}.{minor})"
        )
    if gpu.compute_mode == "PROHIBITED":
        return f"{gpu.name} is in compute mode PROHIBITED"
    return None


# -- The device that a run asks for ----------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """Where a run works."""

    spec: str
    """"cpu" or "cuda:N"."""
    kind: Literal["cpu", "cuda"]
    name: str
    lock_key: str
    """What may be used by one run at a time: the GPU's UUID, or the host."""
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
    found = gpus()
    if kind == "auto" and (not found or torch_cannot_use(found[0], torch_build())):
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
    found = gpus()
    own = {name: value for name, value in os.environ.items() if name != TF32_OVERRIDE}
    return own | ({"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in found)} if found else {})


# -- What a run stores -----------------------------------------------------------------------------


def installed_versions(names: Sequence[str] = DISTRIBUTIONS) -> dict[str, str]:
    """The versions of those of `names` that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _checkout() -> dict[str, Any] | None:
    """The commit of the bench's own code, and whether files differ from it; None outside a checkout."""
    if not (paths.REPOSITORY / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(paths.REPOSITORY), *words],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
            # Looking must not take the lock on the index from somebody who works here.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        ).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def _container() -> str | None:
    """The kind of container that this process runs in; None where nothing says that it does."""
    if os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER"):
        return "apptainer"
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if Path("/run/.containerenv").exists():
        return "podman"
    if Path("/.dockerenv").exists():
        return "docker"
    return None


def _operating_system() -> str:
    if not hasattr(platform, "freedesktop_os_release"):
        return platform.platform()
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME") or platform.platform()
    except OSError:
        return platform.platform()


def _governors() -> list[str] | None:
    """The CPU frequency governors of the usable CPUs; None where the system does not show them."""
    found = {_read(SYS_CPU / f"cpu{cpu}/cpufreq/scaling_governor") for cpu in _affinity()} - {""}
    return sorted(found) or None


def _boost() -> bool | None:
    """Whether the CPU may go above its base clock; None where the system does not say."""
    if boost := _read(SYS_CPU / "cpufreq/boost"):
        return boost == "1"
    if no_turbo := _read(SYS_CPU / "intel_pstate/no_turbo"):
        return no_turbo == "0"
    return None


def environment() -> dict[str, Any]:
    """What a run stores about where it worked: plain values only, ready for JSON."""
    import psutil

    build = torch_build()
    memory = psutil.virtual_memory()
    smt = _read(SYS_CPU / "smt/active")
    return {
        "bench": {"version": __version__, "checkout": _checkout()},
        "host": {
            "name": socket.gethostname(),
            "os": _operating_system(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "libc": " ".join(platform.libc_ver()).strip() or None,
            "virtual_machine": "hypervisor" in _cpuinfo().get("flags", "").split(),
            "container": _container(),
        },
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "executable": sys.executable,
        },
        "cpu": {
            "name": cpu_name(),
            "features": cpu_features(),
            "cores_total": os.cpu_count(),
            "cores_usable": usable_cores(),
            "physical_cores_usable": physical_cores_usable(),
            "affinity": _affinity(),
            "quota": cpu_quota(),
            "governors": _governors(),
            "boost": _boost(),
            "smt": smt == "1" if smt else None,
            "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        },
        "memory": {
            "total_bytes": int(memory.total),
            "available_bytes": int(memory.available),
            "limit_bytes": memory_limit_bytes(),
            "huge_pages": _chosen(_read(Path("/sys/kernel/mm/transparent_hugepage/enabled"))),
        },
        "gpus": [
            asdict(gpu)
            | {
                "compute_capability": list(gpu.compute_capability),
                "driver_cuda_version": list(gpu.driver_cuda_version),
            }
            | _gpu_settings(gpu.uuid)
            for gpu in gpus()
        ],
        "nvml_problem": nvml_problem(),
        "torch_build": asdict(build) if build else None,
        "distributions": installed_versions(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _chosen(text: str) -> str | None:
    """The bracketed word of "always [madvise] never"."""
    match = re.search(r"\[(\w+)\]", text)
    return match.group(1) if match else None
