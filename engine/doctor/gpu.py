"""Checks of the GPU, its driver and the libraries built for it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from engine import backends
from engine.doctor import packages
from engine.doctor.packages import INSTALL
from engine.doctor.proofs import Proof
from engine.doctor.report import Check, gib
from engine.machine import cuda as machine_cuda
from engine.machine import devices, environment, gpus, host, libraries
from engine.machine.cuda import (
    CUDA_12_BUILDS,
    driver_gap,
    version_pair,
)

if TYPE_CHECKING:
    pass

NEWER_DRIVER = "install a newer NVIDIA driver (an administrator's task)"


def gpu_checks(gpu: gpus.Gpu | None) -> Iterable[Check]:
    """The GPU, its driver, and whether the installed builds fit them."""
    group = "GPU"
    if gpu is None:
        problem = devices.no_gpu_reason()
        step = "start this on a machine with an NVIDIA GPU (on a cluster: in a job that was given one)"
        if "nvidia-ml-py" in problem:
            step = f"{INSTALL} '{packages.pin_of('pynvml')}'"
        elif "CUDA_VISIBLE_DEVICES" in problem:
            step = "unset CUDA_VISIBLE_DEVICES"
        yield Check(group, "NVIDIA GPU", "missing", f"{problem}; runs stay on the CPU", step)
    else:
        capability, cuda = (".".join(map(str, v)) for v in (gpu.compute_capability, gpu.driver_cuda_version))
        yield Check(
            group, "NVIDIA GPU", "ok",
            f"cuda:{gpu.index} {gpu.name}, {gib(gpu.memory_total_bytes)}, compute capability {capability}; "
            f"driver {gpu.driver_version}, CUDA {cuda}",
        )  # fmt: skip
        if gpu.compute_mode != "DEFAULT":
            yield Check(
                group, "compute mode", "warn",
                f"{gpu.compute_mode}: variants are loaded one after another instead of being interleaved",
                "nvidia-smi -c DEFAULT (an administrator's command)",
            )  # fmt: skip
    yield _torch_build(gpu)
    yield from _onnxruntime(gpu)


def _torch_build(gpu: gpus.Gpu | None) -> Check:
    group, name, build = "GPU", "torch build", machine_cuda.torch_build()
    cuda_build = f"python -m pip uninstall -y torch && {INSTALL} '{packages.pin_of('torch')}'"
    if build is None:
        return Check(group, name, "missing", "torch is not installed", f"{INSTALL} '{packages.pin_of('torch')}'")
    text = f"torch {build.version}, built {f'for CUDA {build.cuda}' if build.cuda else 'without CUDA'}"
    if gpu is None:
        if build.cuda:
            return Check(group, name, "ok", text)
        return Check(group, name, "warn", f"{text}: enough here, but not on a GPU", cuda_build)
    problem = machine_cuda.torch_cannot_use(gpu, build)
    if problem is None:
        return Check(group, name, "ok", text)
    if gpu.compute_mode == "PROHIBITED":
        mend = "nvidia-smi -c DEFAULT (an administrator's command)"
    elif gpu.driver_cuda_version[0] < 12:
        mend = NEWER_DRIVER
    elif gpu.driver_cuda_version[0] == 12 or gpu.compute_capability < (7, 5):
        mend = CUDA_12_BUILDS["torch"]
    else:
        mend = cuda_build
    return Check(group, name, "missing", problem, mend)


def _onnxruntime(gpu: gpus.Gpu | None) -> Iterable[Check]:
    """ONNX Runtime's own traps: two distributions in one folder, and CUDA libraries of the wrong version."""
    group = "GPU"
    dists = environment.installed_versions(("onnxruntime", "onnxruntime-gpu"))
    if not dists:
        return
    pin = packages.pin_of("onnxruntime")
    if len(dists) > 1:
        yield Check(
            group, "onnxruntime", "warn",
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files",
            f"python -m pip uninstall -y onnxruntime onnxruntime-gpu && {INSTALL} '{pin}'",
        )  # fmt: skip
    constants = machine_cuda.module_constants("onnxruntime", "capi/build_and_package_info.py") or {}
    cuda = version_pair(constants.get("cuda_version"))
    if "onnxruntime-gpu" not in dists or cuda is None:
        yield Check(
            group, "onnxruntime build", "missing" if gpu else "warn",
            f"{', '.join(f'{name} {number}' for name, number in dists.items())} has no CUDA provider",
            f"python -m pip uninstall -y onnxruntime && {INSTALL} '{pin}'",
        )  # fmt: skip
        return
    text = f"onnxruntime-gpu {dists['onnxruntime-gpu']}, built for CUDA {cuda[0]}.{cuda[1]}"
    driver = gpu.driver_cuda_version if gpu else cuda
    problem = driver_gap(driver, cuda, "onnxruntime-gpu")
    if problem:
        mend = CUDA_12_BUILDS["onnxruntime-gpu"] if driver[0] == 12 else NEWER_DRIVER
        yield Check(group, "onnxruntime build", "missing", problem, mend)
    else:
        yield Check(group, "onnxruntime build", "ok", text)
    if not sys.platform.startswith("linux"):
        return
    lacking = [name for name in cuda_libraries(cuda[0]) if not libraries.find(name)]
    if lacking:
        yield Check(
            group, "onnxruntime's libraries", "missing" if gpu else "warn",
            f"not found in the nvidia/* wheels nor by the loader: {', '.join(lacking)} (torch's CUDA "
            f"{cuda[0]} build brings them)",
            # Its extras name the wheels; cuDNN's brings cuBLAS.
            f"{INSTALL} 'onnxruntime-gpu[cuda,cudnn]=={dists['onnxruntime-gpu']}'",
        )  # fmt: skip
    else:
        yield Check(group, "onnxruntime's libraries", "ok", ", ".join(cuda_libraries(cuda[0])))


def cuda_libraries(major: int) -> list[str]:
    """The libraries that ONNX Runtime's CUDA provider loads: those it is linked to, and cuDNN."""
    return [
        *(f"{name}.so.{major}" for name in ("libcudart", "libcublas", "libcublasLt")),
        "libcurand.so.10",
        "libcudnn.so.9",
    ]


def gpu_backend_checks(gpu: gpus.Gpu | None, proofs: Mapping[tuple[str, str], Proof], asked: bool) -> Iterable[Check]:
    """Each installed backend on the GPU."""
    group = "Backends on the GPU"
    for name in backends.REGISTRY:
        if packages.missing_modules(name) != []:
            continue
        if gpu is None:
            lacks = "needs an NVIDIA GPU"
            build = machine_cuda.torch_build()
            if "torch" in backends.get(name).modules and build and build.cuda is None:
                lacks += " and a torch built for CUDA"
            yield Check(group, name, "missing", f"{lacks} (above)")
            continue
        able, refused = packages.precisions_on(name, f"cuda:{gpu.index}")
        if not able:
            yield Check(group, name, "warn", next(iter(refused.values())))
            continue
        text = ", ".join(able) + "".join(f"; {precision}: {reason}" for precision, reason in refused.items())
        proof = proofs.get((name, "cuda"))
        if proof is None or proof.untried:
            why = f": {proof.untried}" if proof else ""
            yield Check(group, name, "warn", f"{text}; not tried out{why}")
        elif proof.problem:
            mend = _mend_cuda(name, gpu)
            yield Check(group, name, "missing", f"fails on cuda:{gpu.index}: {proof.problem}", mend, asked)
        else:
            yield Check(group, name, "ok", text)


def _mend_cuda(name: str, gpu: gpus.Gpu) -> str | None:
    """The command for a backend that fails on the GPU, from what is known of builds and driver."""
    checks = [_torch_build(gpu), *_onnxruntime(gpu)]
    wanted = "torch" if "torch" in backends.get(name).modules else "onnxruntime"
    return next((c.mend for c in checks if c.name.startswith(wanted) and c.state != "ok"), None)


def bitsandbytes_check(proofs: Mapping[tuple[str, str], Proof]) -> Iterable[Check]:
    """A remark on bitsandbytes that a user would not expect."""
    if not packages.is_installed("bitsandbytes"):
        return
    proof = proofs.get(("bitsandbytes", "cpu"))
    facts = proof.facts if proof else {}
    repacks = facts.get("repacks_on_cpu", "avx512_bf16" in host.cpu_features())
    if repacks:
        finding = (
            "on this CPU (AVX512-BF16) the first call repacks 4-bit weights, drops double quantisation and "
            "computes in bfloat16; each quantised layer's output width must be a multiple of 32 and its "
            "input width of 64, other models need --device cuda"
        )
    else:
        why = "bitsandbytes does not repack them" if "avx512_bf16" in host.cpu_features() else "no AVX512-BF16"
        finding = f"4-bit weights are unpacked at every call on this CPU ({why}), any width works"
    yield Check("Notes", "NF4 and FP4 on the CPU", "ok", finding)
    if packages.is_installed("kernels"):
        when = "on this CPU it asks" if repacks else "on a CPU with AVX512-BF16 it asks"
        yield Check(
            "Notes", "package kernels", "warn",
            f"installed: {when} the Hugging Face hub for native code whenever bitsandbytes is imported",
            "python -m pip uninstall -y kernels",
        )  # fmt: skip
