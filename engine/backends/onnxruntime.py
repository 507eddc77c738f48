"""ONNX Runtime: the model exported to ONNX, and its dynamically quantised INT8 form.

Export and quantisation go through optimum in a build process; the worker needs onnxruntime alone.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from engine.backends.base import Audit, Backend, Batch, LoadRequest, Options, Recipe, Snippet
from engine.errors import UnavailableError
from engine.operators import Operator, Profile

MODEL = "model.onnx"
FACTS = "weights.json"
LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "off": "ORT_DISABLE_ALL",
}

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


class OnnxRuntimeOptions(Options):
    per_channel: bool = False
    """INT8: one scale for each output channel instead of one for each tensor."""
    operators: list[str] | None = None
    """INT8: the operator types to quantise; all that ONNX Runtime can, by default."""
    graph_optimization: Literal["all", "extended", "basic", "off"] = "all"


class OnnxRuntime(Backend):
    """One inference session, on the CPU's or CUDA's execution provider."""

    name: ClassVar[str] = "onnxruntime"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "tf32", "int8")
    modules: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    options: ClassVar[type[Options]] = OnnxRuntimeOptions

    @classmethod
    def unavailable(cls, precision: str, options: dict[str, Any], device: str, source: Any) -> str | None:
        if precision == "tf32" and device == "cpu":
            return "TF32 is a mode of NVIDIA's tensor cores (Ampere and later); it needs --device cuda"
        return None

    @classmethod
    def recipes(cls, precision: str, options: dict[str, Any]) -> list[Recipe]:
        export = Recipe("onnx-fp32", {}, ("torch", "transformers", "optimum", "optimum-onnx", "onnx"))
        if precision != "int8":
            return [export]
        parsed = cls.parse_options(options)
        settings = {
            "instructions": _instructions(),
            "per_channel": parsed.per_channel,
            "operators": sorted(parsed.operators) if parsed.operators else None,
        }
        return [export, Recipe("onnx-int8-dynamic", settings, ("optimum-onnx", "onnx", "onnxruntime-gpu"))]

    @classmethod
    def build(cls, recipe: Recipe, source: Path, target: Path) -> dict[str, Any]:
        if recipe.kind == "onnx-fp32":
            _export(source, target)
        else:
            _quantize(recipe, source, target)
        facts = _weights(target / MODEL)
        (target / FACTS).write_text(json.dumps(facts))
        return facts

    @classmethod
    def snippet(cls, precision: str, options: dict[str, Any], device: str, settings: dict[str, Any]) -> Snippet | None:
        level = LEVELS[cls.parse_options(options).graph_optimization]
        providers = 'providers = ["CPUExecutionProvider"]'
        if device != "cpu":
            cuda = f'("CUDAExecutionProvider", {{"use_tf32": "{int(precision == "tf32")}"}})'
            providers = f'ort.preload_dlls()\nproviders = [{cuda}, "CPUExecutionProvider"]'
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
        # Warnings about placement are read from the profile instead.
        ort.set_default_logger_severity(3)
        self._session = self._open(profile=False)
        if request.device != "cpu" and self._session.get_providers()[0] != "CUDAExecutionProvider":
            raise UnavailableError(
                "ONNX Runtime fell back to the CPU: its CUDA provider did not load; "
                "`python -m engine doctor` says which library it lacks"
            )
        self._inputs = [item.name for item in self._session.get_inputs()]

    def _open(self, profile: bool) -> Any:
        ort, request = self._ort, self._request
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = request.threads
        settings.inter_op_num_threads = 1
        level = self.parse_options(request.options).graph_optimization
        settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[level])
        # A worker that waits its turn must not spin; it stops when the last call of a block returns.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        if profile:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(request.scratch / "onnxruntime")
        providers: list[Any] = ["CPUExecutionProvider"]
        if request.device != "cpu":
            ort.preload_dlls()
            index = int(request.device.partition(":")[2] or 0)
            tf32 = "1" if request.precision == "tf32" else "0"
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": str(index), "use_tf32": tf32}))
        return ort.InferenceSession(str(request.folder / MODEL), settings, providers=providers)

    def call(self, batch: Batch) -> np.ndarray:
        logits = self._session.run(None, {name: batch[name] for name in self._inputs})[0]
        return logits if logits.dtype == np.float32 else logits.astype(np.float32)

    def weights_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._request.folder.glob("*.onnx*"))

    def audit(self) -> Audit:
        placement, operators = self._placement()
        facts = json.loads((self._request.folder / FACTS).read_text())
        settings = self._session.get_session_options()
        given = self._session.get_provider_options()
        audit = Audit(
            {
                "parameters_by_dtype": facts["elements_by_dtype"],
                "providers": self._session.get_providers(),
                "nodes_by_provider": {name: sum(ops.values()) for name, ops in placement.items()},
                "operators_by_provider": placement,
                "memory_copies": sum(n for op, n in operators.items() if op.startswith("Memcpy")),
                "graph_optimization": self.parse_options(self._request.options).graph_optimization,
                "tf32": given.get("CUDAExecutionProvider", {}).get("use_tf32") == "1",
                "threads": settings.intra_op_num_threads,
                "onnxruntime": self._ort.__version__,
            }
        )
        self._judge(audit, facts, operators)
        return audit

    def _judge(self, audit: Audit, facts: dict[str, Any], operators: Counter[str]) -> None:
        integer = sum(
            n for op, n in operators.items() if "Integer" in op or op.startswith(("QLinear", "DynamicQuantize"))
        )
        audit.settings["integer_nodes"] = integer
        int8 = sum(facts["elements_by_dtype"].get(dtype, 0) for dtype in ("int8", "uint8"))
        if self._request.precision == "int8" and not (integer and int8):
            audit.wrong.append("no operator computes in INT8")
        if self._request.precision != "int8" and set(facts["elements_by_dtype"]) != {"float32"}:
            audit.wrong.append(f"weights in {', '.join(facts['elements_by_dtype'])} where float32 was asked for")
        if self._request.device != "cpu":
            on_cpu = audit.settings["nodes_by_provider"].get("CPUExecutionProvider", 0)
            if on_cpu:
                total = sum(audit.settings["nodes_by_provider"].values())
                audit.deviations.append(f"{on_cpu} of {total} graph nodes ran on the CPU")

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
        return Profile("operators", found, wall_s, None if folder is None else file)

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
    from engine.hardware import cpu_features

    if platform.machine().lower() in ("arm64", "aarch64"):
        return "arm64"
    features = cpu_features()
    return "avx512_vnni" if {"avx512_vnni", "avx_vnni"} & set(features) else "avx2"


def _export(source: Path, target: Path) -> None:
    import torch
    from optimum.exporters.onnx import onnx_export_from_model
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        source, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
    ).eval()
    onnx_export_from_model(model, target, task="text-classification", device="cpu", do_validation=False)


def _quantize(recipe: Recipe, source: Path, target: Path) -> None:
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    make = getattr(AutoQuantizationConfig, recipe.settings["instructions"])
    # Without VNNI, 8-bit products saturate 16-bit sums; seven bits of weight do not.
    extra = {"reduce_range": True} if recipe.settings["instructions"] == "avx2" else {}
    config = make(
        is_static=False,
        per_channel=recipe.settings["per_channel"],
        operators_to_quantize=recipe.settings["operators"],
        **extra,
    )
    ORTQuantizer.from_pretrained(source, file_name=MODEL).quantize(save_dir=target, quantization_config=config)
    (target / "model_quantized.onnx").rename(target / MODEL)
    for name in ("config.json",):
        if not (target / name).exists():
            shutil.copy(source / name, target / name)


def _weights(model: Path) -> dict[str, Any]:
    """Elements and bytes of the graph's weights by dtype; scalars and shapes are not weights."""
    import onnx

    elements, size = Counter[str](), Counter[str]()
    for tensor in onnx.load(str(model), load_external_data=False).graph.initializer:
        count = int(np.prod(tensor.dims)) if tensor.dims else 1
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if count > 64 and dtype != np.int64:
            elements[dtype.name] += count
            size[dtype.name] += count * dtype.itemsize
    return {"elements_by_dtype": dict(elements), "bytes_by_dtype": dict(size)}
