"""CUDA: builds, drivers, and which of them fit together."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engine.machine.gpus import Gpu

TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"
"""At "0" NVIDIA's libraries do not compute in TF32, whatever a program asks of them."""

MINIMUM_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""The oldest Linux driver that runs programs built for any minor version of a CUDA major version."""

CUDA_12_BUILDS = {
    "torch": "python -m pip install 'torch==2.13.0+cu126' --index-url https://download.pytorch.org/whl/cu126",
    "onnxruntime-gpu": "python -m pip install 'onnxruntime-gpu<1.27'",
}
"""How to install a build for CUDA 12 where the default one is for CUDA 13."""


# -- Builds of torch and drivers -----------------------------------------------------------------


@dataclass(frozen=True)
class TorchBuild:
    """The versions that the installed torch was built for."""

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
    """The gap that `driver_gap` finds, with the remedy; None if the driver is new enough."""
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
