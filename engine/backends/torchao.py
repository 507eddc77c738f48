"""torchao: INT8 weights, with activations as they are or quantised at each call, on PyTorch's linear layers."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Literal

from engine.backends.base import Audit, LoadRequest, Options, Snippet
from engine.backends.pytorch import WEIGHTS, PyTorch, TransformersOptions

CONFIGS = {"weight-only": "Int8WeightOnlyConfig", "dynamic": "Int8DynamicActivationInt8WeightConfig"}
DTYPE = {"cpu": "float32", "cuda": "bfloat16"}
"""The dtype of everything that is not INT8."""


class TorchAOOptions(TransformersOptions):
    quantization: Literal["weight-only", "dynamic"] = "dynamic"
    """Whether activations are quantised too, each token by itself at each call."""


class TorchAO(PyTorch):
    """Linear layers of the encoder quantised, the whole classification head kept."""

    name: ClassVar[str] = "torchao"
    precisions: ClassVar[tuple[str, ...]] = ("int8",)
    modules: ClassVar[tuple[str, ...]] = ("torch", "transformers", "torchao")
    options: ClassVar[type[Options]] = TorchAOOptions

    @classmethod
    def snippet(cls, precision: str, options: dict[str, Any], device: str, settings: dict[str, Any]) -> Snippet | None:
        config = CONFIGS[cls.parse_options(options).quantization]
        code = cls._loading("fp32", options, device, f"dtype=torch.{DTYPE[device]}")
        loaded = ".eval()\n"
        quantize = f"{loaded}quantize_(model.base_model, {config}())\n"
        return Snippet(
            f"import torch\nfrom torchao.quantization import {config}, quantize_\n"
            "from transformers import AutoModelForSequenceClassification",
            code.replace(loaded, quantize, 1),
            ("torch", "transformers", "safetensors", "torchao"),
            WEIGHTS,
        )

    def _from_pretrained(self, request: LoadRequest, **changes: Any) -> Any:
        import torchao.quantization as quantization

        dtype = getattr(self._torch, DTYPE[self._device.type])
        model = super()._from_pretrained(request, dtype=dtype, **changes).eval()
        config = getattr(quantization, CONFIGS[self.parse_options(request.options).quantization])
        quantization.quantize_(model.base_model, config())
        return model

    def weights_bytes(self) -> int:
        from torchao.utils import get_model_size_in_bytes

        return int(get_model_size_in_bytes(self._model))

    def _judge(self, audit: Audit, dtypes: Counter[str]) -> None:
        import torchao

        wanted = self.parse_options(self._request.options).quantization
        linear = [m for m in self._model.base_model.modules() if isinstance(m, self._torch.nn.Linear)]
        kinds = Counter(type(m.weight).__name__ for m in linear)
        quantised = [m for m in linear if hasattr(m.weight, "qdata") and m.weight.qdata.dtype == self._torch.int8]
        dynamic = sum(getattr(m.weight, "act_quant_kwargs", None) is not None for m in quantised)
        # Their dtype says what they are unpacked to.
        counted = Counter(dtypes)
        for module in quantised:
            counted[str(module.weight.dtype).removeprefix("torch.")] -= module.weight.numel()
            counted["int8"] += module.weight.numel()
        audit.settings |= {
            "parameters_by_dtype": dict(+counted),
            "torchao": torchao.__version__,
            "quantized_modules": len(quantised),
            "weight_types": dict(kinds),
            "dynamic_modules": dynamic,
            # Products of quantised activations; weights alone are unpacked and multiplied in floating point.
            "integer_nodes": dynamic,
        }
        if len(quantised) < len(linear):
            audit.wrong.append(f"{len(quantised)} of {len(linear)} linear layers are in INT8")
        if dynamic != (len(quantised) if wanted == "dynamic" else 0):
            audit.wrong.append(f"{dynamic} of {len(quantised)} layers quantise activations; {wanted} was asked for")
