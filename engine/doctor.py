"""What this machine can run, what each other variant lacks, and the command that mends it.

Looks are cheap and made here; proofs (does torch multiply on this GPU, did ONNX Runtime keep its CUDA
provider) are made in short processes of their own, so that nothing they load or crash stays behind.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from engine import backends, file_systems, hardware, libraries, paths, pool, processes
from engine.errors import RequestError, one_line

if TYPE_CHECKING:
    from rich.text import Text

State = Literal["ok", "warn", "missing"]
SIGNS: dict[str, str] = {"ok": "✓", "warn": "!", "missing": "✗"}
STYLES = {"ok": "green", "warn": "yellow", "missing": "red"}

MINIMUM_PYTHON = (3, 11)
PROOF_SECONDS = 120.0
"""A first import of torch from a cluster's network file system takes a minute."""
LOW_DISK_BYTES = 5 * 2**30
INSTALL = "python -m pip install"
DISTRIBUTION_OF = {"onnxruntime": "onnxruntime-gpu", "pynvml": "nvidia-ml-py", "sklearn": "scikit-learn"}
"""The distribution to install for a module of another name."""
NEWER_DRIVER = "install a newer NVIDIA driver (an administrator's task)"
CHROMES = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge",
    "msedge",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    group: str
    name: str
    state: State
    finding: str
    mend: str | None = None
    """The command, or the step, that puts it right."""
    required: bool = False
    """Whether the bench works at all without it: these alone decide the exit code."""


@dataclass(frozen=True)
class Report:
    """All checks, and the device that a run would take."""

    request: str
    device: hardware.Device
    """What was examined: the CPU where the request is refused."""
    refusal: str | None
    """Why a run with this request is refused; None where it is not."""
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0 where all installed backends work on the CPU, and on the GPU if one was asked for by name."""
        return int(bool(self.refusal) or any(c.required and c.state == "missing" for c in self.checks))

    def to_json(self) -> dict[str, Any]:
        return {
            "request": self.request,
            "device": asdict(self.device),
            "refusal": self.refusal,
            "exit_code": self.exit_code,
            "checks": [asdict(check) for check in self.checks],
        }


def examine(device: str = "auto", prove: bool = True) -> Report:
    """Look at everything that a run on `device` needs. Raises RequestError for unknown text alone.

    A GPU that was asked for and is not there is a finding, not an error: finding out is what this is for.
    Without `prove` no process is started, and what only a proof can show is not said.
    """
    kind, _ = hardware.parse_device(device)
    try:
        chosen, refusal = hardware.resolve_device(device), None
    except RequestError as error:
        chosen, refusal = hardware.cpu_device(), one_line(error)
    gpu = _gpu_of(chosen)
    proofs = _prove(gpu) if prove else {}
    checks = [
        *_machine(),
        *_backends(proofs),
        *_gpu(gpu),
        *_gpu_backends(gpu, proofs, asked=kind == "cuda"),
        *_bitsandbytes(proofs),
        *_data(),
        *_hub(),
        _chromium(),
    ]
    return Report(device, chosen, refusal, tuple(checks))


def _gpu_of(chosen: hardware.Device) -> hardware.Gpu | None:
    """The GPU to look at: the chosen one, or the first where the run would stay on the CPU."""
    found = hardware.gpus()
    return found[chosen.index or 0] if found else None


# -- Showing ---------------------------------------------------------------------------------------


def render(report: Report, width: int | None = None) -> Text:
    """The report: a block for each group, a sign for each check, what mends it below.

    By default as wide as the terminal, and 100 columns at most. Commands are there to be copied and are
    never broken here: print it with `soft_wrap=True`. `.plain` is the same as a string.
    """
    from rich.text import Text

    width = max(40, width or min(100, shutil.get_terminal_size((100, 24)).columns))
    text = Text()
    head = f"--device {report.request} means {report.device.spec} here ({report.device.name})."
    text.append("\n".join(textwrap.wrap(report.refusal or head, width)) + "\n")
    group = ""
    for check in report.checks:
        if check.group != group:
            group = check.group
            text.append(f"\n{group}\n", style="bold")
        lines = textwrap.wrap(
            f"{check.name}: {check.finding}", width - 6, break_long_words=False, break_on_hyphens=False
        )
        text.append(f"  {SIGNS[check.state]} ", style=STYLES[check.state])
        text.append("\n      ".join(lines) + "\n")
        if check.mend:
            text.append(f"      → {check.mend}\n")
    text.append(f"\n{summary(report)}")
    return text


def summary(report: Report) -> str:
    """One line: how many checks are in which state, and whether the bench works."""
    counts = {state: sum(check.state == state for check in report.checks) for state in SIGNS}
    works = "something that every run needs is missing" if report.exit_code else "the bench works here"
    return f"{counts['ok']} ok, {counts['warn']} to note, {counts['missing']} missing: {works}."


# -- Proofs ----------------------------------------------------------------------------------------

_IMPORT = """
import importlib, json, sys
device, modules = sys.argv[1], sys.argv[2:]
for name in modules:
    importlib.import_module(name)
facts = {}
"""

_WORK = {
    "pytorch": """
import torch
x = torch.ones(64, 64, device=device)
assert float((x @ x).sum()) == 64.0 ** 3, "a product came out wrong"
""",
    "bitsandbytes": """
import bitsandbytes, torch
from bitsandbytes.functional import has_avx512bf16
layer = bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.bfloat16).to(device).eval()
with torch.inference_mode():
    out = layer(torch.ones(2, 64, dtype=torch.bfloat16, device=device)).float().cpu()
assert bool(torch.isfinite(out).all()), "a 4-bit layer gave no finite numbers"
facts = {"repacks_on_cpu": bool(has_avx512bf16())}
""",
    "onnxruntime": """
import numpy, onnxruntime
from onnx import TensorProto, helper
providers, x = ["CPUExecutionProvider"], numpy.ones((64, 64), "float32")
if device != "cpu":
    onnxruntime.preload_dlls()
    providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.partition(":")[2]}))
x_info, y_info = (helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape) for n in "xy")
graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "proof", [x_info], [y_info])
model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=providers)
facts = {"providers": session.get_providers()}
assert device == "cpu" or facts["providers"][0] == "CUDAExecutionProvider", "fell back to the CPU"
assert float(session.run(None, {"x": x})[0].sum()) == 64.0 ** 3, "a product came out wrong"
""",
    "openvino": """
import numpy, openvino
from openvino import opset13
x = opset13.parameter([64, 64], numpy.float32)
model = openvino.Model([opset13.matmul(x, x, False, False)], [x])
product = openvino.Core().compile_model(model, "CPU")([numpy.ones((64, 64), "float32")])[0]
assert float(product.sum()) == 64.0 ** 3, "a product came out wrong"
""",
    "torchao": """
import torch
from torchao.quantization import Int8WeightOnlyConfig, quantize_
layer = torch.nn.Sequential(torch.nn.Linear(64, 64)).to(device)
quantize_(layer, Int8WeightOnlyConfig())
assert bool(torch.isfinite(layer(torch.ones(2, 64, device=device))).all()), "an INT8 layer gave no finite numbers"
""",
}
"""A tiny piece of work for each backend; a backend that has none here only proves that it imports."""

_SAY = """
print(json.dumps(facts))
"""


@dataclass(frozen=True)
class Proof:
    """How a backend's piece of work went."""

    problem: str | None
    """One line; None where it worked."""
    facts: Mapping[str, Any]
    untried: str | None = None
    """Why nothing was tried out; None where it was."""


def prove(name: str, device: str, seconds: float = PROOF_SECONDS) -> Proof:
    """Import what backend `name` needs in a process of its own, and let it do its piece of work there."""
    work = _WORK.get(name, "")
    if "from onnx import" in work and not _installed("onnx"):
        work = ""  # Only the proof needs it, and building: that lack has a check of its own.
    code = _IMPORT + work + _SAY
    # Nothing here may go to the network, whatever is installed.
    around = dict(os.environ) if device == "cpu" else hardware.worker_environment()
    env = around | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    command = [sys.executable, "-c", code, device, *backends.get(name).modules]
    try:
        done = subprocess.run(
            processes.tie(command),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=processes.tied(env),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Proof(f"did not finish within {seconds:g} s", {})
    if done.returncode != 0:
        return Proof(_reason(done.stderr, done.returncode), {})
    said = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return Proof(None, json.loads(said[-1]) if said else {})


def _reason(stderr: str, code: int) -> str:
    """The line of `stderr` that says most about why a process failed."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in stderr.splitlines()]
    lines = [line for line in lines if line]
    libraries = re.findall(r"([\w.+-]+\.so[\w.]*): cannot open shared object file", stderr)
    if libraries:
        return f"cannot load {', '.join(dict.fromkeys(libraries))}"
    if code < 0:
        lines.append(f"the process was ended by signal {-code}")
    return one_line(ValueError(lines[-1]), 240) if lines else f"ended with exit code {code}"


def _prove(gpu: hardware.Gpu | None) -> dict[tuple[str, str], Proof]:
    """A proof for each installed backend, on the CPU and on the GPU where there is one and nobody else has it."""
    installed = [name for name in backends.REGISTRY if _missing(name) == []]
    jobs = [(name, "cpu") for name in installed]
    alone: list[tuple[str, str]] = []
    found: dict[tuple[str, str], Proof] = {}
    with ExitStack() as stack:
        if gpu is not None:
            on_gpu = [(name, f"cuda:{gpu.index}") for name in installed]
            try:
                stack.enter_context(pool.device_lock(hardware.gpu_device(gpu), pool.DOCTOR))
                # Where the GPU admits one process, two would refuse each other.
                (alone if gpu.compute_mode == "EXCLUSIVE_PROCESS" else jobs).extend(on_gpu)
            except RequestError as error:
                found = dict.fromkeys(on_gpu, Proof(None, {}, one_line(error)))
        with ThreadPoolExecutor(max(1, min(len(jobs), hardware.usable_cores()))) as hands:
            found |= zip(jobs, hands.map(lambda job: prove(*job), jobs), strict=True)
        found |= {job: prove(*job) for job in alone}
    return {(name, where.partition(":")[0]): proof for (name, where), proof in found.items()}


# -- Checks ----------------------------------------------------------------------------------------


def _machine() -> Iterable[Check]:
    group = "Machine"
    found, wanted = sys.version_info[:3], ".".join(map(str, MINIMUM_PYTHON))
    text = ".".join(map(str, found))
    if found[:2] >= MINIMUM_PYTHON:
        yield Check(group, "Python", "ok", text, required=True)
    else:
        yield Check(
            group, "Python", "missing", f"{text}; the bench needs {wanted} or later",
            f"python{wanted} -m venv .venv && .venv/bin/{INSTALL} -r requirements.txt", True,
        )  # fmt: skip
    physical, usable = hardware.physical_cores_usable(), hardware.usable_cores()
    cores = f"{usable} usable of {os.cpu_count()} CPUs"
    if physical and physical != usable:
        cores += f" ({physical} physical cores)"
    kinds = ("avx2", "avx_vnni", "avx512_", "amx_", "i8mm", "sve")
    notable = [feature for feature in hardware.cpu_features() if feature.startswith(kinds)]
    yield Check(group, "CPU", "ok", "; ".join(filter(None, [hardware.cpu_name(), cores, ", ".join(notable)])))
    limit, total = hardware.memory_limit_bytes(), hardware.memory_total_bytes()
    of = f"{_gib(limit)} granted by the cgroup, of {_gib(total)}" if limit else _gib(total)
    yield Check(group, "memory", "ok", of)
    yield from _pins()


def _requirements() -> list[str]:
    """The lines of requirements.txt that name a distribution."""
    try:
        lines = (paths.REPOSITORY / "requirements.txt").read_text("utf-8").splitlines()
    except OSError:
        return []
    return [line for raw in lines if (line := raw.partition("#")[0].strip()) and not line.startswith("-")]


def _pins() -> Iterable[Check]:
    """Whether what is installed is what the project was tested with."""
    if not _installed("packaging"):
        return
    from packaging.requirements import InvalidRequirement, Requirement

    wanted: list[Requirement] = []
    for line in _requirements():
        try:
            wanted.append(Requirement(line))
        except InvalidRequirement:
            continue
    found = hardware.installed_versions([item.name for item in wanted])
    off = [
        f"{item.name} {found[item.name]} (tested with {item.specifier})"
        for item in wanted
        if item.name in found and not item.specifier.contains(found[item.name], prereleases=True)
    ]
    if off:
        mend = f"{INSTALL} -r requirements.txt"
        yield Check("Machine", "package versions", "warn", f"not as tested: {'; '.join(off)}", mend)
    elif wanted:
        finding = f"{len(found)} of {len(wanted)} installed, in the versions tested"
        yield Check("Machine", "package versions", "ok", finding)


def _missing(name: str) -> list[str] | None:
    """The modules that backend `name` lacks; None where the backend itself cannot be asked."""
    try:
        return [module for module in backends.get(name).modules if not _installed(module)]
    except Exception:  # A backend is somebody's own file: whatever is wrong with it is a finding.
        return None


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


@functools.cache
def _owners() -> Mapping[str, list[str]]:
    """Module -> the distributions that install it; slow to find out."""
    return packages_distributions()


def _versions(modules: Iterable[str]) -> str:
    names = dict.fromkeys(dist for module in modules for dist in _owners().get(module, [])[:1])
    return ", ".join(f"{name} {version(name)}" for name in names)


def _pin(module: str) -> str:
    """What to install for `module`: the project's own pin where it has one."""
    name = DISTRIBUTION_OF.get(module, module.replace("_", "-"))
    start = re.compile(rf"{re.escape(name)}\s*([=<>~!\[;]|$)", re.IGNORECASE)
    return next((line for line in _requirements() if start.match(line)), name)


def _precisions(name: str, device: str) -> tuple[list[str], dict[str, str]]:
    """The precisions of a backend that nothing speaks against on `device`, and why not for the others."""
    from engine.backends.base import Source

    cls = backends.get(name)
    able, refused = [], {}
    for precision in cls.precisions:
        try:
            reason = cls.unavailable(precision, {}, device, Source("", Path(), {}, ""))
        except Exception:  # Without a model it may not be able to tell; then nothing speaks against it.
            reason = None
        if reason:
            refused[precision] = reason
        else:
            able.append(precision)
    return able, refused


def _lacks_to_build(name: str) -> list[str]:
    """The distributions that a backend's build steps need and that are not installed."""
    cls = backends.get(name)
    needed: dict[str, None] = {}
    for precision in cls.precisions:
        try:
            for recipe in cls.recipes(precision, {}):
                needed |= dict.fromkeys(recipe.distributions)
        except Exception:  # See _missing.
            continue
    installed = hardware.installed_versions(tuple(needed))
    # Either distribution of ONNX Runtime builds; which one is there is looked at elsewhere.
    return [dist for dist in needed if dist not in installed and not dist.startswith("onnxruntime")]


def _backends(proofs: Mapping[tuple[str, str], Proof]) -> Iterable[Check]:
    """Each backend on the CPU."""
    group = "Backends on the CPU"
    installed = 0
    for name in backends.REGISTRY:
        try:
            cls = backends.get(name)
        except Exception as error:  # See _missing.
            fault = f"{backends.REGISTRY[name]} cannot be imported: {type(error).__name__}: {one_line(error)}"
            yield Check(group, name, "missing", fault, f"{INSTALL} -r requirements.txt", True)
            continue
        missing = _missing(name) or []
        if missing:
            pins = " ".join(f"'{_pin(module)}'" for module in missing)
            yield Check(group, name, "missing", f"not installed: {', '.join(missing)}", f"{INSTALL} {pins}")
            continue
        installed += 1
        able, refused = _precisions(name, "cpu")
        finding = f"{', '.join(able) or 'no precision'} ({_versions(cls.modules)})"
        finding += "".join(f"; {precision}: {reason}" for precision, reason in refused.items())
        proof = proofs.get((name, "cpu"))
        if proof is not None and proof.problem:
            yield Check(
                group, name, "missing", f"installed, but fails: {proof.problem} ({_versions(cls.modules)})",
                f"{INSTALL} -r requirements.txt", True,
            )  # fmt: skip
        else:
            yield Check(group, name, "ok", finding, required=True)
        if lacking := _lacks_to_build(name):
            pins = " ".join(f"'{_pin(dist)}'" for dist in lacking)
            yield Check(
                group, f"{name}, building", "missing",
                f"models cannot be made into what it loads: {', '.join(lacking)} not installed",
                f"{INSTALL} {pins}",
            )  # fmt: skip
    if not installed:
        yield Check(group, "any backend", "missing", "no backend is installed", f"{INSTALL} -r requirements.txt", True)


def _gpu(gpu: hardware.Gpu | None) -> Iterable[Check]:
    """The GPU, its driver, and whether the installed builds fit them."""
    group = "GPU"
    if gpu is None:
        problem = hardware.no_gpu_reason()
        step = "start this on a machine with an NVIDIA GPU (on a cluster: in a job that was given one)"
        if "nvidia-ml-py" in problem:
            step = f"{INSTALL} '{_pin('pynvml')}'"
        elif "CUDA_VISIBLE_DEVICES" in problem:
            step = "unset CUDA_VISIBLE_DEVICES"
        yield Check(group, "NVIDIA GPU", "missing", f"{problem}; runs stay on the CPU", step)
    else:
        capability, cuda = (".".join(map(str, v)) for v in (gpu.compute_capability, gpu.driver_cuda_version))
        yield Check(
            group, "NVIDIA GPU", "ok",
            f"cuda:{gpu.index} {gpu.name}, {_gib(gpu.memory_total_bytes)}, compute capability {capability}; "
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


def _torch_build(gpu: hardware.Gpu | None) -> Check:
    group, name, build = "GPU", "torch build", hardware.torch_build()
    cuda_build = f"python -m pip uninstall -y torch && {INSTALL} '{_pin('torch')}'"
    if build is None:
        return Check(group, name, "missing", "torch is not installed", f"{INSTALL} '{_pin('torch')}'")
    text = f"torch {build.version}, built {f'for CUDA {build.cuda}' if build.cuda else 'without CUDA'}"
    if gpu is None:
        if build.cuda:
            return Check(group, name, "ok", text)
        return Check(group, name, "warn", f"{text}: enough here, but not on a GPU", cuda_build)
    problem = hardware.torch_cannot_use(gpu, build)
    if problem is None:
        return Check(group, name, "ok", text)
    if gpu.compute_mode == "PROHIBITED":
        mend = "nvidia-smi -c DEFAULT (an administrator's command)"
    elif gpu.driver_cuda_version[0] < 12:
        mend = NEWER_DRIVER
    elif gpu.driver_cuda_version[0] == 12 or gpu.compute_capability < (7, 5):
        mend = hardware.CUDA_12_BUILDS["torch"]
    else:
        mend = cuda_build
    return Check(group, name, "missing", problem, mend)


def _onnxruntime(gpu: hardware.Gpu | None) -> Iterable[Check]:
    """ONNX Runtime's own traps: two distributions in one folder, and CUDA libraries of the wrong version."""
    group = "GPU"
    dists = hardware.installed_versions(("onnxruntime", "onnxruntime-gpu"))
    if not dists:
        return
    pin = _pin("onnxruntime")
    if len(dists) > 1:
        yield Check(
            group, "onnxruntime", "warn",
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files",
            f"python -m pip uninstall -y onnxruntime onnxruntime-gpu && {INSTALL} '{pin}'",
        )  # fmt: skip
    constants = hardware.module_constants("onnxruntime", "capi/build_and_package_info.py") or {}
    cuda = hardware.version_pair(constants.get("cuda_version"))
    if "onnxruntime-gpu" not in dists or cuda is None:
        yield Check(
            group, "onnxruntime build", "missing" if gpu else "warn",
            f"{', '.join(f'{name} {number}' for name, number in dists.items())} has no CUDA provider",
            f"python -m pip uninstall -y onnxruntime && {INSTALL} '{pin}'",
        )  # fmt: skip
        return
    text = f"onnxruntime-gpu {dists['onnxruntime-gpu']}, built for CUDA {cuda[0]}.{cuda[1]}"
    driver = gpu.driver_cuda_version if gpu else cuda
    problem = hardware.driver_gap(driver, cuda, "onnxruntime-gpu")
    if problem:
        mend = hardware.CUDA_12_BUILDS["onnxruntime-gpu"] if driver[0] == 12 else NEWER_DRIVER
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
    """What ONNX Runtime's CUDA provider loads: the libraries it is linked to, and cuDNN."""
    return [
        *(f"{name}.so.{major}" for name in ("libcudart", "libcublas", "libcublasLt")),
        "libcurand.so.10",
        "libcudnn.so.9",
    ]


def _gpu_backends(gpu: hardware.Gpu | None, proofs: Mapping[tuple[str, str], Proof], asked: bool) -> Iterable[Check]:
    """Each installed backend on the GPU."""
    group = "Backends on the GPU"
    for name in backends.REGISTRY:
        if _missing(name) != []:
            continue
        if gpu is None:
            lacks = "needs an NVIDIA GPU"
            build = hardware.torch_build()
            if "torch" in backends.get(name).modules and build and build.cuda is None:
                lacks += " and a torch built for CUDA"
            yield Check(group, name, "missing", f"{lacks} (above)")
            continue
        able, refused = _precisions(name, f"cuda:{gpu.index}")
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


def _mend_cuda(name: str, gpu: hardware.Gpu) -> str | None:
    """The command for a backend that fails on the GPU, from what is known of builds and driver."""
    checks = [_torch_build(gpu), *_onnxruntime(gpu)]
    wanted = "torch" if "torch" in backends.get(name).modules else "onnxruntime"
    return next((c.mend for c in checks if c.name.startswith(wanted) and c.state != "ok"), None)


def _bitsandbytes(proofs: Mapping[tuple[str, str], Proof]) -> Iterable[Check]:
    """What bitsandbytes does that a user would not expect."""
    if not _installed("bitsandbytes"):
        return
    proof = proofs.get(("bitsandbytes", "cpu"))
    facts = proof.facts if proof else {}
    repacks = facts.get("repacks_on_cpu", "avx512_bf16" in hardware.cpu_features())
    if repacks:
        finding = (
            "on this CPU (AVX512-BF16) the first call repacks 4-bit weights, drops double quantisation and "
            "computes in bfloat16; each quantised layer's output width must be a multiple of 32 and its "
            "input width of 64, other models need --device cuda"
        )
    else:
        why = "bitsandbytes does not repack them" if "avx512_bf16" in hardware.cpu_features() else "no AVX512-BF16"
        finding = f"4-bit weights are unpacked at every call on this CPU ({why}), any width works"
    yield Check("Notes", "NF4 and FP4 on the CPU", "ok", finding)
    if _installed("kernels"):
        when = "on this CPU it asks" if repacks else "on a CPU with AVX512-BF16 it asks"
        yield Check(
            "Notes", "package kernels", "warn",
            f"installed: {when} the Hugging Face hub for native code whenever bitsandbytes is imported",
            "python -m pip uninstall -y kernels",
        )  # fmt: skip


def _nearest(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _writable(folder: Path) -> str | None:
    """Why nothing can be written to `folder` (or made there, where it does not exist yet); None if it can."""
    nearest = _nearest(folder)
    if not nearest.is_dir():
        return f"{nearest} is no folder"
    if nearest != folder:
        return None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} is not writable"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return one_line(error)


def _data() -> Iterable[Check]:
    """Where results, checkpoints and artefacts go."""
    group, folder = "Data", paths.local_data()
    problem = _writable(folder)
    if problem:
        yield Check(
            group, "data folder", "missing", f"{folder}: {problem}",
            "export BENCH_DATA_DIR=/a/folder/you/can/write", True,
        )  # fmt: skip
    elif folder.exists() and folder.stat().st_mode & 0o005:
        yield Check(group, "data folder", "warn", f"{folder}: other users may read it", f"chmod o= {folder}")
    else:
        made = "" if folder.exists() else " (made at the first run)"
        yield Check(group, "data folder", "ok", f"{folder}{made}", required=True)
    try:
        free = shutil.disk_usage(_nearest(folder)).free
    except OSError as error:
        yield Check(group, "disk space", "warn", one_line(error))
    else:
        low = free < LOW_DISK_BYTES
        yield Check(
            group, "disk space", "warn" if low else "ok",
            f"{_gib(free)} free" + (": little for checkpoints and exported models" if low else ""),
            "export BENCH_DATA_DIR=/a/folder/with/more/room" if low else None,
        )  # fmt: skip
    yield _database(paths.database_url())


def _database(url: str) -> Check:
    """Whether the database could be opened. Looks at the file alone, and never shows a password."""
    group, name = "Data", "database"
    mend = "export BENCH_DATABASE_URL=sqlite:////a/folder/you/can/write/bench.sqlite"
    scheme, _, rest = url.partition("://")
    if not scheme.startswith("sqlite"):
        try:
            parts = urlsplit(url)
            place = f"{parts.hostname or 'localhost'}{f':{parts.port}' if parts.port else ''}{parts.path}"
        except ValueError:
            return Check(group, name, "missing", "BENCH_DATABASE_URL is no URL", mend, True)
        return Check(group, name, "warn", f"{scheme.partition('+')[0]} at {place}; not tried out")
    file = rest.removeprefix("/").partition("?")[0]
    if file in ("", ":memory:"):
        return Check(group, name, "warn", "in memory: results are gone when the process ends", mend)
    path = Path(file)
    if not path.exists():
        problem = _writable(path.parent.absolute())
        if problem:
            return Check(group, name, "missing", f"{path} cannot be made: {problem}", mend, True)
        return Check(group, name, "ok", f"{path} (made at the first run)", required=True)
    if not os.access(path, os.R_OK | os.W_OK):
        return Check(group, name, "missing", f"{path} is not readable and writable", mend, True)
    # Opening it, even to read, may leave files beside it.
    with path.open("rb") as opened:
        start = opened.read(16)
    if start not in (b"", b"SQLite format 3\0"):
        return Check(group, name, "missing", f"{path} is no SQLite database", mend, True)
    said, slower = file_systems.journal(path)
    finding = f"{path}, {_mib(path.stat().st_size)}; {said}"
    return Check(group, name, "warn" if slower else "ok", finding, required=True)


def hub_cache() -> Path:
    """The folder in which Hugging Face's libraries keep what they downloaded."""
    if given := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(given).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        home = f"{os.environ.get('XDG_CACHE_HOME', '~/.cache')}/huggingface"
    return Path(home).expanduser() / "hub"


def _hub() -> Iterable[Check]:
    group, folder = "Data", hub_cache()
    problem = _writable(folder)
    count = sum(1 for _ in folder.glob("*--*")) if folder.is_dir() else 0
    held = f"{count} model{'s' * (count != 1)} and data sets" if count else "empty"
    if problem:
        yield Check(
            group, "Hugging Face cache", "warn", f"{folder}: {problem}; nothing can be downloaded",
            "export HF_HOME=/a/folder/you/can/write",
        )  # fmt: skip
    else:
        yield Check(group, "Hugging Face cache", "ok", f"{folder}, {held}")
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    flags = [name for name in names if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}]
    if flags:
        yield Check(
            group, "offline", "warn",
            f"{', '.join(flags)} set: only what was fetched before is found",
            f"env {' '.join(f'-u {name}' for name in flags)} python -m engine fetch SUITE",
        )  # fmt: skip


def find_chromium() -> str | None:
    """A Chrome or Chromium that kaleido and the browser tests can drive; None where there is none."""
    if given := os.environ.get("BROWSER_PATH"):
        return given if os.access(given, os.X_OK) else None
    for name in CHROMES:
        if found := shutil.which(name):
            return found
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or "~/.cache/ms-playwright").expanduser()
    return next((str(found) for found in sorted(cache.glob("chromium-*/chrome-*/chrome"))), None)


def _chromium() -> Check:
    found = find_chromium()
    if found:
        return Check("Optional", "Chromium", "ok", found)
    return Check(
        "Optional", "Chromium", "warn",
        "none found: charts as images from the server and the browser tests need one; slides with native "
        "charts do not",
        "sudo apt-get install chromium (or: python -m playwright install chromium)",
    )  # fmt: skip


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
