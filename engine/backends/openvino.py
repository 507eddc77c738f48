"""OpenVINO on CPUs: FP32, BF16 where the CPU multiplies it, and INT8 through NNCF.

Models are exported and quantised in a build process; the worker needs openvino alone. INT8 may defer what it is
unsure of to the same model in FP32 (`deferral`).
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import model_validator

from engine.backends import deferral, rewrites
from engine.backends.base import (
    Audit,
    Backend,
    Batch,
    Calibration,
    LoadRequest,
    Options,
    Recipe,
    Snippet,
    Source,
    calibration_texts,
)
from engine.backends.onnxruntime import EXPORT, OnnxRuntime, export_recipe
from engine.errors import UnavailableError
from engine.machine.host import BF16_FEATURES, cpu_features

# Its converter and NNCF report their use to a server wherever this can be imported: no request leaves the machine.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

IR = "model.xml"
EXACT_IR = "exact.xml"
"""Beside it, where INT8 defers: the same model in FP32."""
FACTS = "weights.json"
HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}
"""The dtype of everything that is not quantised; without it, OpenVINO chooses one."""
PRODUCTS = ("FullyConnected", "MatMul")
"""The plugin's layer types that multiply."""

OPENVINO_CODE = """\
compiled = ov.Core().compile_model(
    MODEL / "model.xml",
    "CPU",
    {{
        "INFERENCE_NUM_THREADS": THREADS,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "{hint}",
    }},
)
request = compiled.create_infer_request()


def call(batch):
    inputs = {{port.any_name: batch[port.any_name] for port in compiled.inputs}}
    return np.array(request.infer(inputs)[0], dtype=np.float32)
"""
DEFERRING_CODE = """\
def loaded(file):
    settings = {{"INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}}
    return ov.Core().compile_model(MODEL / file, "CPU", settings).create_infer_request()


quantized, exact = loaded("model.xml"), loaded("exact.xml")


def infer(request, batch):
    inputs = {{name: batch[name] for port in request.model_inputs for name in port.names if name in batch}}
    return np.array(request.infer(inputs)[0], dtype=np.float32)


def call(batch):
    found = infer(quantized, batch)
    # FP32 answers where the two best logits are nearer to each other than quantisation moves them.
    second, best = np.partition(found, (-2, -1), axis=1)[:, -2:].T
    unsure = np.flatnonzero(best - second < {margin!r})
    if len(unsure):
        found[unsure] = infer(exact, {{name: array[unsure] for name, array in batch.items()}})
    return found
"""


class OpenVINOOptions(rewrites.RewriteOptions):
    calibration: Calibration | None = None
    """INT8: activations quantised too, their ranges as observed over these texts; weights alone without."""
    keep: list[str] = []
    """INT8: regular expressions; nodes whose whole names match one stay in floating point."""
    smooth_quant_alpha: float | None = None
    """INT8 with calibration: how much of activations' outliers is moved into weights, 0 to 1; NNCF's own by default,
    -1 moves nothing."""
    defer_to: Literal["fp32"] | None = None
    """INT8 with calibration: texts are answered anew by the same model in FP32 where INT8's two best logits are
    nearer to each other than quantisation was seen to move them (`deferral.margin`)."""

    @model_validator(mode="after")
    def _seen_somewhere(self) -> Self:
        if self.defer_to and self.calibration is None:
            raise ValueError("defer_to: needs options.calibration, whose texts show how far quantisation moves logits")
        if self.defer_to and self.calibration and self.calibration.examples < 8:
            raise ValueError(
                "defer_to: needs calibration.examples = 8 or more: a quarter is calibrated over, the rest is compared"
            )
        return self


class OpenVINO(Backend):
    """One compiled model and one inference request on the CPU plugin."""

    name: ClassVar[str] = "openvino"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "int8")
    modules: ClassVar[tuple[str, ...]] = ("openvino",)
    options: ClassVar[type[Options]] = OpenVINOOptions
    int8_options: ClassVar[tuple[str, ...]] = ("calibration", "keep", "smooth_quant_alpha", "defer_to")

    @classmethod
    def unavailable(cls, precision: str, options: dict[str, Any], device: str, source: Source) -> str | None:
        if device != "cpu":
            return "OpenVINO computes on CPUs and Intel's devices; it needs --device cpu"
        if precision == "bf16" and not BF16_FEATURES & set(cpu_features()):
            return "OpenVINO multiplies BF16 on CPUs with AVX512-BF16 or AMX alone; this one has neither"
        if precision == "int8" and find_spec("nncf") is None:
            return "INT8 is made by NNCF: `pip install -r requirements.txt` installs it"
        return rewrites.refusal(cls.parse_options(options).rewrites(), source.config)

    @classmethod
    def recipes(cls, precision: str, options: dict[str, Any]) -> list[Recipe]:
        parsed = cls.parse_options(options)
        exported = export_recipe(parsed)
        if precision != "int8":
            return [exported, Recipe("openvino", {}, ("openvino",))]
        settings = {
            "keep": sorted(parsed.keep),
            "smooth_quant_alpha": parsed.smooth_quant_alpha,
            # Without VNNI, 8-bit products saturate 16-bit sums; seven bits of weight do not.
            "half_range": not any("vnni" in feature or feature == "amx_int8" for feature in cpu_features()),
        }
        if parsed.calibration is None:
            return [exported, Recipe("openvino-int8-weights", settings, ("openvino", "nncf"))]
        settings |= {"calibration": cls.calibration(options)}
        if parsed.defer_to:
            settings |= {"defer_to": parsed.defer_to}
        return [exported, Recipe("openvino-int8", settings, ("openvino", "nncf"))]

    @classmethod
    def build(cls, recipe: Recipe, source: Path, target: Path) -> dict[str, Any]:
        if recipe.kind == EXPORT.kind:
            return OnnxRuntime.build(recipe, source, target)
        import openvino as ov

        model = ov.Core().read_model(source / "model.onnx")
        deferred: dict[str, Any] = {}
        if "defer_to" in recipe.settings:
            ov.save_model(model, target / EXACT_IR, compress_to_fp16=False)
            model, deferred = _deferring(model, recipe, target / EXACT_IR)
        elif recipe.kind == "openvino-int8":
            model = _quantized(model, recipe, calibration_texts(recipe))
        elif recipe.kind == "openvino-int8-weights":
            model = _compressed(model, recipe)
        ov.save_model(model, target / IR, compress_to_fp16=False)
        shutil.copy(source / "config.json", target)
        facts: dict[str, Any] = {"elements_by_dtype": _elements(model), **deferred}
        if "calibration" in recipe.settings:
            facts["calibration_examples"] = len(calibration_texts(recipe))
        (target / FACTS).write_text(json.dumps(facts))
        return facts

    @classmethod
    def snippet(cls, precision: str, options: dict[str, Any], device: str, settings: dict[str, Any]) -> Snippet | None:
        code, files = OPENVINO_CODE.format(hint=HINTS[precision]), ["config.json", "model.xml", "model.bin"]
        if found := settings.get("deferral"):
            code = DEFERRING_CODE.format(margin=found["margin"])
            files += ["exact.xml", "exact.bin"]
        return Snippet("import openvino as ov", code, ("openvino",), tuple(files))

    def load(self, request: LoadRequest) -> None:
        import openvino as ov

        self._request = request
        self._version = ov.__version__
        self._facts: dict[str, Any] = json.loads((request.folder / FACTS).read_text())
        self._compiled = self._compile(IR)
        self._inference = self._compiled.create_infer_request()
        self._inputs = [port.any_name for port in self._compiled.inputs]
        self._exact = None
        if self.parse_options(request.options).defer_to:
            self._exact = self._compile(EXACT_IR).create_infer_request()
            self._answered = self._deferred = 0

    def _compile(self, file: str) -> Any:
        import openvino as ov

        settings = {
            "INFERENCE_NUM_THREADS": self._request.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": HINTS[self._request.precision],
        }
        try:
            return ov.Core().compile_model(self._request.folder / file, "CPU", settings)
        except RuntimeError as error:
            if (lacking := _unsupported(str(error))) is None:
                raise
            raise UnavailableError(lacking) from error

    def call(self, batch: Batch) -> np.ndarray:
        found = self._infer(self._inference, batch)
        if self._exact is None:
            return found
        unsure = deferral.unsure(found, self._facts["deferral"]["margin"])
        self._answered += len(found)
        self._deferred += len(unsure)
        if len(unsure):
            found[unsure] = self._infer(self._exact, {name: batch[name][unsure] for name in self._inputs})
        return found

    def _infer(self, request: Any, batch: Batch) -> np.ndarray:
        found = request.infer({name: batch[name] for name in self._inputs}, share_inputs=True)
        return np.array(found[0], dtype=np.float32)

    def weights_bytes(self) -> int:
        files = [IR] if self._exact is None else [IR, EXACT_IR]
        return sum((self._request.folder / file).with_suffix(".bin").stat().st_size for file in files)

    def audit(self) -> Audit:
        facts = self._facts
        products = Counter[str]()
        layers = Counter[str]()
        for node in self._compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            layer = str(info["layerType"].astype(str)) if "layerType" in info else node.get_type_name()
            layers[layer] += 1
            if layer in PRODUCTS:
                products[str(info["runtimePrecision"].astype(str))] += 1
        threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
        audit = Audit(
            {
                "parameters_by_dtype": facts["elements_by_dtype"],
                "products_by_precision": dict(products),
                "integer_nodes": products["i8"] + products["u8"],
                "fused_attention_nodes": layers["ScaledDotProductAttention"],
                "layers": dict(layers),
                "inference_precision": str(self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()),
                "threads": threads,
                "openvino": self._version,
            }
        )
        if calibrated := facts.get("calibration_examples"):
            audit.settings["calibration_examples"] = calibrated
        if self._exact is not None:
            share = self._deferred / self._answered if self._answered else None
            audit.settings["deferral"] = facts["deferral"] | {"share": share}
        self._judge(audit, products)
        if threads != self._request.threads:
            audit.deviations.append(f"{threads} threads instead of {self._request.threads}")
        return audit

    def _judge(self, audit: Audit, products: Counter[str]) -> None:
        precision, integer = self._request.precision, audit.settings["integer_nodes"]
        calibrated = self.parse_options(self._request.options).calibration is not None
        if precision == "int8":
            if not {"int8", "uint8"} & set(audit.settings["parameters_by_dtype"]):
                audit.wrong.append("no weight is in INT8")
            if calibrated and not integer:
                audit.wrong.append("no operator computes in INT8")
            return
        wanted = HINTS[precision]
        if others := {name: n for name, n in products.items() if name.lower() != wanted}:
            named = ", ".join(f"{n} in {name}" for name, n in others.items())
            (audit.wrong if wanted not in products else audit.deviations).append(
                f"products are computed otherwise than in {wanted}: {named}"
            )


def _unsupported(message: str) -> str | None:
    """The operation that OpenVINO's CPU plug-in lacks, from the message of its refusal; None for any other message.

    As of DeBERTa's, whose export asks in the graph whether a dimension is 1.
    """
    found = re.search(r"CPU plug-in doesn't support (.+?)\.(?: Operation name: (\S+))?\s*$", message, re.MULTILINE)
    if found is None:
        return None
    where = f" ({found[2]})" if found[2] else ""
    return f"OpenVINO's CPU plug-in has no {found[1]}{where}, which this model's graph needs"


def _deferring(model: Any, recipe: Recipe, exact: Path) -> tuple[Any, dict[str, Any]]:
    """`model` in INT8, calibrated over a quarter of the texts, and the facts of its deferral: the rest shows them."""
    import openvino as ov

    texts = calibration_texts(recipe)
    calibrated = len(texts) // 4
    quantized = _quantized(model, recipe, texts[:calibrated])
    answers = []
    for one in (quantized, exact):
        compiled = ov.Core().compile_model(one, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        answers.append(np.concatenate([compiled(text)[0] for text in texts[calibrated:]]))
    margin = deferral.margin(*answers)
    facts = {"to": recipe.settings["defer_to"], "margin": margin, "compared_examples": len(texts) - calibrated}
    return quantized, {"deferral": facts}


def _quantized(model: Any, recipe: Recipe, texts: list[Batch]) -> Any:
    """Weights and activations of the products in INT8, by NNCF's settings for transformers."""
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters, OverflowFix

    advanced = nncf.AdvancedQuantizationParameters(
        overflow_fix=OverflowFix.ENABLE if recipe.settings["half_range"] else OverflowFix.DISABLE
    )
    if (alpha := recipe.settings["smooth_quant_alpha"]) is not None:
        advanced.smooth_quant_alphas = AdvancedSmoothQuantParameters(matmul=alpha)
    return nncf.quantize(
        model,
        nncf.Dataset(texts),
        subset_size=len(texts),
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(patterns=recipe.settings["keep"]),
        advanced_parameters=advanced,
    )


def _compressed(model: Any, recipe: Recipe) -> Any:
    """Weights in INT8, a scale for each output channel; computed in floating point."""
    import nncf

    scope = nncf.IgnoredScope(patterns=recipe.settings["keep"])
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=scope)


def _elements(model: Any) -> dict[str, int]:
    """Elements of the constants by dtype; scalars and shapes are no weights."""
    found = Counter[str]()
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            name = np.dtype(node.get_element_type().to_dtype()).name
            count = int(np.prod(node.get_output_shape(0)))
            if count > 64 and name != "int64":
                found[name] += count
    return dict(found)
