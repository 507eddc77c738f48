"""The environment that a run records: versions, variables, governors, container."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine import __version__, paths
from engine.machine import cuda, gpus, host
from engine.machine.host import (
    memory_limit_bytes,
    physical_cores_usable,
)

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
    found = {host.read_line(host.SYS_CPU / f"cpu{cpu}/cpufreq/scaling_governor") for cpu in host.cpu_affinity()} - {""}
    return sorted(found) or None


def _boost() -> bool | None:
    """Whether the CPU may go above its base clock; None where the system does not say."""
    if boost := host.read_line(host.SYS_CPU / "cpufreq/boost"):
        return boost == "1"
    if no_turbo := host.read_line(host.SYS_CPU / "intel_pstate/no_turbo"):
        return no_turbo == "0"
    return None


def environment() -> dict[str, Any]:
    """The facts that a run stores about its machine and software: plain values, ready for JSON."""
    import psutil

    build = cuda.torch_build()
    memory = psutil.virtual_memory()
    smt = host.read_line(host.SYS_CPU / "smt/active")
    return {
        "bench": {"version": __version__, "checkout": _checkout()},
        "host": {
            "name": socket.gethostname(),
            "os": _operating_system(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "libc": " ".join(platform.libc_ver()).strip() or None,
            "virtual_machine": "hypervisor" in host.cpuinfo().get("flags", "").split(),
            "container": _container(),
        },
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "executable": sys.executable,
        },
        "cpu": {
            "name": host.cpu_name(),
            "features": host.cpu_features(),
            "cores_total": os.cpu_count(),
            "cores_usable": host.usable_cores(),
            "physical_cores_usable": physical_cores_usable(),
            "affinity": host.cpu_affinity(),
            "quota": host.cpu_quota(),
            "governors": _governors(),
            "boost": _boost(),
            "smt": smt == "1" if smt else None,
            "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        },
        "memory": {
            "total_bytes": int(memory.total),
            "available_bytes": int(memory.available),
            "limit_bytes": memory_limit_bytes(),
            "huge_pages": _chosen(host.read_line(Path("/sys/kernel/mm/transparent_hugepage/enabled"))),
        },
        "gpus": [
            asdict(gpu)
            | {
                "compute_capability": list(gpu.compute_capability),
                "driver_cuda_version": list(gpu.driver_cuda_version),
            }
            | gpus.gpu_settings(gpu.uuid)
            for gpu in gpus.visible_gpus()
        ],
        "nvml_problem": gpus.nvml_problem(),
        "torch_build": asdict(build) if build else None,
        "distributions": installed_versions(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _chosen(text: str) -> str | None:
    """The bracketed word of "always [madvise] never"."""
    match = re.search(r"\[(\w+)\]", text)
    return match.group(1) if match else None
