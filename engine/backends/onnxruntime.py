"""ONNX Runtime: the model exported to ONNX, fused, in FP16 or in INT8, dynamic or static.

Export, fusion and quantisation happen in a build process (`onnx_graphs`). The worker needs onnxruntime alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from engine.backends import onnx_graphs, rewrites
from engine.backends.base import (
    Audit,
    Backend,
    Batch,
    Calibration,
    LoadRequest,
    Options,
    Recipe,
    Snippet,
    calibration_texts,
)
from engine.backends.onnx_graphs import MODEL
from engine.errors import UnavailableError
from engine.machine import cuda as machine_cuda
from engine.machine import libraries
from engine.machine.cuda import TF32_OVERRIDE, version_pair
from engine.measurement.operators import By, Operator, Profile

FACTS = "weights.json"
LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "off": "ORT_DISABLE_ALL",
}
EXPORT = Recipe("onnx-fp32", {}, ("torch", "transformers", "optimum", "optimum-onnx", "onnx"))
"""The model as ONNX, which other backends build from too."""
QUANTISERS = ("optimum", "optimum-onnx", "onnx", "onnxruntime-gpu")
PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
TENSORRT = tuple(f"{name}.so.10" for name in ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser"))
"""The libraries that ONNX Runtime's TensorRT provider loads, in the version that it was built for."""
FUSED = ("Attention", "MultiHeadAttention", "QAttention")
"""Operators that are a whole attention."""
INTEGER = ("QLinear", "QGemm", "QAttention", "DynamicQuantize")
"""Prefixes of the names of INT8 operators that do not contain Integer."""

ONNX_CODE = """\
settings = ort.SessionOptions()
settings.intra_op_num_threads, settings.inter_op_num_threads = THREADS, 1
settings.graph_optimization_level = ort.GraphOptimizationLevel.{level}
{providers}
session = ort.InferenceSession(
    str(MODEL / "model.onnx"), settings, providers=providers
)


def call(batch):
    inputs = {{item.name: batch[item.name] for item in session.get_inputs()}}
    return session.run(None, inputs)[0].astype(np.float32)
"""

TENSORRT_CODE = """\
try:
    import tensorrt_libs  # noqa: F401 - loads TensorRT where pip installed it
except ImportError:
    pass  # the system's own
"""
NO_TF32_CODE = """\
import os

# Otherwise TensorRT computes float32 in TF32.
os.environ["{variable}"] = "0"
"""


class OnnxRuntimeOptions(rewrites.RewriteOptions):
    per_channel: bool = False
    """INT8: one scale for each output channel instead of one for each tensor."""
    operators: list[str] | None = None
    """INT8: the operator types to quantise; all that ONNX Runtime can, by default."""
    keep: list[str] = []
    """INT8: regular expressions; nodes in whose names one is found stay in floating point."""
    calibration: Calibration | None = None
    """INT8: static, with activations' ranges as observed over these texts; dynamic without."""
    graph_optimization: Literal["all", "extended", "basic", "off"] = "all"
    """The session's optimisation of the graph when it loads it."""
    fused: bool = False
    """Attention, normalisation and GELU as one operator each, fused before by ONNX Runtime's transformer optimiser."""
    provider: Literal["cuda", "tensorrt"] = "cuda"
    """Of a GPU."""
    io_binding: bool = False
    """On a GPU: outputs stay there until they are copied on purpose."""


class OnnxRuntime(Backend):
    """One inference session, on the CPU's or CUDA's execution provider."""

    name: ClassVar[str] = "onnxruntime"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "tf32", "fp16", "int8")
    modules: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    options: ClassVar[type[Options]] = OnnxRuntimeOptions
    int8_options: ClassVar[tuple[str, ...]] = ("per_channel", "operators", "keep", "calibration")

    @classmethod
    def unavailable(cls, precision: str, options: dict[str, Any], device: str, source: Any) -> str | None:
        if precision == "tf32" and device == "cpu":
            return "TF32 is a mode of NVIDIA's tensor cores (Ampere and later); it needs --device cuda"
        parsed = cls.parse_options(options)
        if parsed.provider == "tensorrt" and precision == "int8":
            return 'this INT8 is ONNX Runtime\'s own, of which TensorRT computes nothing; it needs provider = "cuda"'
        if device == "cpu" and (parsed.provider == "tensorrt" or parsed.io_binding):
            what = "TensorRT" if parsed.provider == "tensorrt" else "IO binding"
            return f"{what} is for GPUs; it needs --device cuda"
        if parsed.provider == "tensorrt" and (lacking := [name for name in TENSORRT if not libraries.find(name)]):
            constants = machine_cuda.module_constants("onnxruntime", "capi/build_and_package_info.py") or {}
            cuda, _ = version_pair(constants.get("cuda_version")) or (13, 0)
            return f"needs TensorRT 10 ({', '.join(lacking)}): `pip install 'tensorrt-cu{cuda}<11'` installs it"
        if device != "cpu" and parsed.provider == "cuda" and parsed.calibration:
            return "ONNX Runtime's CUDA provider computes static INT8 in floating point; it needs --device cpu"
        return rewrites.refusal(parsed.rewrites(), source.config)

    @classmethod
    def recipes(cls, precision: str, options: dict[str, Any]) -> list[Recipe]:
        parsed = cls.parse_options(options)
        made = [export_recipe(parsed)]
        if parsed.fused:
            made.append(Recipe("onnx-fused", {}, ("onnx", "onnxruntime-gpu")))
        if precision == "fp16":
            made.append(Recipe("onnx-fp16", {}, ("onnx", "onnxruntime-gpu")))
        if precision != "int8":
            return made
        settings = {
            "instructions": _instructions(),
            "weights": "int8",
            "per_channel": parsed.per_channel,
            "operators": sorted(parsed.operators) if parsed.operators else None,
        }
        # Only where there are some: what was quantised without stays known by its key.
        settings |= {"keep": sorted(parsed.keep)} if parsed.keep else {}
        if parsed.calibration is None:
            return [*made, Recipe("onnx-int8-dynamic", settings, QUANTISERS)]
        settings |= {"calibration": cls.calibration(options)}
        return [*made, Recipe("onnx-int8-static", settings, ("onnx", "onnxruntime-gpu"))]

    @classmethod
    def build(cls, recipe: Recipe, source: Path, target: Path) -> dict[str, Any]:
        if recipe.kind == EXPORT.kind:
            onnx_graphs.export(recipe, source, target)
        else:
            make = {
                "onnx-fused": onnx_graphs.fuse,
                "onnx-fp16": onnx_graphs.halve,
                "onnx-int8-dynamic": onnx_graphs.quantize_dynamic_graph,
                "onnx-int8-static": onnx_graphs.quantize_static_graph,
            }[recipe.kind]
            make(recipe, source, target)
            if not (target / "config.json").exists():
                shutil.copy(source / "config.json", target)
        facts = onnx_graphs.weights_of(target / MODEL)
        if "calibration" in recipe.settings:
            facts |= {"calibration_examples": len(calibration_texts(recipe))}
        (target / FACTS).write_text(json.dumps(facts))
        return facts

    @classmethod
    def snippet(cls, precision: str, options: dict[str, Any], device: str, settings: dict[str, Any]) -> Snippet | None:
        parsed = cls.parse_options(options)
        level = LEVELS[parsed.graph_optimization]
        listed = _providers(device, precision, parsed)
        providers = f"providers = {json.dumps(listed)}"
        if device != "cpu":
            also = TENSORRT_CODE if parsed.provider == "tensorrt" else ""
            if also and precision != "tf32":
                also = NO_TF32_CODE.format(variable=TF32_OVERRIDE) + also
            providers = f"ort.preload_dlls()\n{also}providers = {[*map(_pair, listed)]!r}"
        return Snippet(
            "import onnxruntime as ort",
            ONNX_CODE.format(level=level, providers=providers),
            ("onnxruntime|onnxruntime-gpu",),
            ("config.json", "*.onnx*"),
        )

    def load(self, request: LoadRequest) -> None:
        import onnxruntime as ort

        self._ort = ort
        self._request = request
        self._options = self.parse_options(request.options)
        # Warnings about placement are read from the profile instead.
        ort.set_default_logger_severity(3)
        self._session = self._open(profile=False)
        wanted = PROVIDERS[self._options.provider]
        if request.device != "cpu" and self._session.get_providers()[0] != wanted:
            raise UnavailableError(
                f"ONNX Runtime fell back from {wanted}: that provider did not load; "
                "`python -m engine doctor` says what CUDA lacks, the run's log what the provider said"
            )
        self._inputs = [item.name for item in self._session.get_inputs()]

    def _open(self, profile: bool) -> Any:
        ort, request = self._ort, self._request
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = request.threads
        settings.inter_op_num_threads = 1
        level = LEVELS[self._options.graph_optimization]
        settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        # A worker that waits its turn must not spin; it stops when the last call of a block returns.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        if profile:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(request.scratch / "onnxruntime")
        if request.device != "cpu":
            ort.preload_dlls()
        if self._options.provider == "tensorrt":
            load_tensorrt(tf32=request.precision == "tf32")
        providers = [_pair(item) for item in _providers(request.device, request.precision, self._options)]
        return ort.InferenceSession(str(request.folder / MODEL), settings, providers=providers)

    def call(self, batch: Batch) -> np.ndarray:
        inputs = {name: batch[name] for name in self._inputs}
        logits = self._bound(inputs) if self._options.io_binding else self._session.run(None, inputs)[0]
        return logits if logits.dtype == np.float32 else logits.astype(np.float32)

    def meet(self, shapes: Iterable[Batch]) -> None:
        if self._options.provider == "tensorrt":
            # Its engine is built anew for whatever lies outside the sizes that it has seen: the ends are enough.
            sizes = np.array([batch["input_ids"].shape for batch in shapes])
            for size in (sizes.min(axis=0), sizes.max(axis=0)):
                self.call(dict.fromkeys(self._inputs, np.ones(size, dtype=np.int64)))

    def _bound(self, inputs: Batch) -> np.ndarray:
        """One call through an IO binding: inputs from the host, logits made on the device and copied back."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        binding.bind_output(self._session.get_outputs()[0].name, "cuda", int(self._request.device.partition(":")[2]))
        self._session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]

    def weights_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._request.folder.glob("*.onnx*"))

    def audit(self) -> Audit:
        placement, operators = self._placement()
        facts = json.loads((self._request.folder / FACTS).read_text())
        settings = self._session.get_session_options()
        audit = Audit(
            {
                "parameters_by_dtype": facts["elements_by_dtype"],
                "providers": self._session.get_providers(),
                "nodes_by_provider": {name: sum(ops.values()) for name, ops in placement.items()},
                "operators_by_provider": placement,
                "memory_copies": sum(n for op, n in operators.items() if op.startswith("Memcpy")),
                "graph_optimization": self._options.graph_optimization,
                "fused_attention_nodes": sum(operators[name] for name in FUSED),
                "io_binding": self._options.io_binding,
                "tf32": self._tf32(),
                "threads": settings.intra_op_num_threads,
                "onnxruntime": self._ort.__version__,
            }
        )
        self._judge(audit, facts, operators)
        if self._request.device != "cpu":
            self._judge_placement(audit, placement)
        return audit

    def _tf32(self) -> bool:
        """Whether products of float32 may be computed in TF32."""
        if self._options.provider == "tensorrt":
            return os.environ.get(TF32_OVERRIDE) != "0"
        given: dict[str, str] = self._session.get_provider_options().get("CUDAExecutionProvider", {})
        return given.get("use_tf32") == "1"

    def _judge(self, audit: Audit, facts: dict[str, Any], operators: Counter[str]) -> None:
        integer = sum(n for op, n in operators.items() if "Integer" in op or op.startswith(INTEGER))
        audit.settings["integer_nodes"] = integer
        int8 = sum(facts["elements_by_dtype"].get(dtype, 0) for dtype in ("int8", "uint8"))
        if self._request.precision == "int8" and not (integer and int8):
            audit.wrong.append("no operator computes in INT8")
        if calibrated := facts.get("calibration_examples"):
            audit.settings["calibration_examples"] = calibrated
        wanted = "float16" if self._request.precision == "fp16" else "float32"
        if self._request.precision != "int8" and set(facts["elements_by_dtype"]) != {wanted}:
            audit.wrong.append(f"weights in {', '.join(facts['elements_by_dtype'])} where {wanted} was asked for")
        if self._request.precision == "fp16" and self._request.device == "cpu":
            audit.deviations.append(
                f"computed in FP32: the CPU provider has no FP16 products here, and casts ({operators['Cast']} casts)"
            )
        if self._options.fused and not audit.settings["fused_attention_nodes"]:
            audit.deviations.append("no attention was fused: the optimiser does not know this model's")
        if self._request.device != "cpu" and audit.settings["tf32"] != (self._request.precision == "tf32"):
            audit.wrong.append(f"TF32 is {'on' if audit.settings['tf32'] else 'off'}")

    def _judge_placement(self, audit: Audit, placement: dict[str, dict[str, int]]) -> None:
        """Whether the provider that was asked for is the one that computes."""
        wanted = PROVIDERS[self._options.provider]
        nodes = {
            name: sum(n for operator, n in operators.items() if not operator.startswith("Memcpy"))
            for name, operators in placement.items()
        }
        if not nodes.get(wanted):
            audit.wrong.append(f"{wanted} computes nothing")
        for name, where in (("CPUExecutionProvider", "on the CPU"), (PROVIDERS["cuda"], "by CUDA instead")):
            if name != wanted and nodes.get(name):
                audit.deviations.append(f"{nodes[name]} of {sum(nodes.values())} graph nodes ran {where}")

    def profile(self, batch: Batch, calls: int, folder: Path | None = None) -> Profile:
        feeds = {name: batch[name] for name in self._inputs}
        # The first call of a session is slower, and is left out.
        file, events = self._profiled(feeds, 1 + calls)
        runs = [event for event in events if event.get("name") == "model_run"][1:]
        found = [
            Operator(event["args"].get("op_name", "?"), 1, event["dur"] / 1e6)
            for event in events
            if event["ts"] >= runs[0]["ts"] and _is_node(event)
        ]
        if folder is None:
            file.unlink()
        wall_s = sum(event["dur"] for event in runs) / 1e6
        # On a GPU its profiler sees the host alone, which goes on while the kernels run.
        by: By = "operators" if self._request.device == "cpu" else "launches"
        return Profile(by, found, wall_s, None if folder is None else file)

    def _profiled(self, feeds: Batch, calls: int) -> tuple[Path, list[dict[str, Any]]]:
        """The events of some calls in a profiled session of its own, and the file that holds them."""
        session = self._open(profile=True)
        for _ in range(calls):
            session.run(None, feeds)
        file = Path(session.end_profiling())
        return file, json.loads(file.read_text())

    def _placement(self) -> tuple[dict[str, dict[str, int]], Counter[str]]:
        """Graph nodes by execution provider and operator, from a profiled session of its own."""
        file, events = self._profiled(dict.fromkeys(self._inputs, np.ones((1, 8), dtype=np.int64)), 1)
        file.unlink()
        nodes: dict[str, tuple[str, str]] = {}
        for event in filter(_is_node, events):
            nodes[event["name"]] = (event["args"]["provider"], event["args"].get("op_name", "?"))
        placement: dict[str, dict[str, int]] = {}
        for provider, operator in nodes.values():
            counts = placement.setdefault(provider, {})
            counts[operator] = counts.get(operator, 0) + 1
        return placement, Counter(operator for _, operator in nodes.values())


def _is_node(event: dict[str, Any]) -> bool:
    """Whether an event of a profile is a node of the graph at work."""
    return event.get("cat") == "Node" and bool(event.get("args", {}).get("provider"))


def _instructions() -> str:
    """The instruction set that INT8 weights are laid out for on this machine."""
    from engine.machine.host import cpu_features

    if platform.machine().lower() in ("arm64", "aarch64"):
        return "arm64"
    features = cpu_features()
    return "avx512_vnni" if {"avx512_vnni", "avx_vnni"} & set(features) else "avx2"


def load_tensorrt(tf32: bool) -> None:
    """Loads TensorRT: ONNX Runtime preloads CUDA's libraries alone, and a wheel's lie where no loader looks.

    Without `tf32` this process computes none from then on. Raises UnavailableError where a library does not load.
    """
    if not tf32:
        # TensorRT's own default is TF32, and ONNX Runtime has no option against it.
        os.environ[TF32_OVERRIDE] = "0"
    for name in TENSORRT:
        try:
            ctypes.CDLL(libraries.find(name) or name, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise UnavailableError(f"TensorRT does not load: {error}") from None


def _providers(device: str, precision: str, options: OnnxRuntimeOptions) -> list[Any]:
    """The execution providers in order of preference: names, or lists of a name and its options."""
    if device == "cpu":
        return ["CPUExecutionProvider"]
    index = device.partition(":")[2] or "0"
    found: list[Any] = [["CUDAExecutionProvider", {"device_id": index, "use_tf32": str(int(precision == "tf32"))}]]
    if options.provider == "tensorrt":
        half = {"device_id": index, "trt_fp16_enable": str(precision == "fp16")}
        found.insert(0, ["TensorrtExecutionProvider", half])
    return [*found, "CPUExecutionProvider"]


def _pair(provider: Any) -> Any:
    return tuple(provider) if isinstance(provider, list) else provider


def export_recipe(options: rewrites.RewriteOptions) -> Recipe:
    """The model as ONNX, rewritten as `options` ask."""
    names = options.rewrites()
    # As it is without: what was exported before rewriting came stays known by its key.
    return replace(EXPORT, settings={"rewrites": list(names)}) if names else EXPORT
