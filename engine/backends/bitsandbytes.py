"""bitsandbytes through transformers: NF4 and FP4 with double quantisation, and LLM.int8."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Literal

from engine.backends.base import Audit, LoadRequest, Options, Snippet, Source
from engine.backends.pytorch import WEIGHTS, PyTorch, TransformersOptions
from engine.errors import UnavailableError, one_line
from engine.machine.host import cpu_features

COMPUTE = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
CPU_BLOCK_WIDTH = 64
"""bitsandbytes' 4-bit kernel for CPUs with AVX512-BF16 needs input widths that are multiples of the quantisation block,
64. It also needs output widths that are multiples of 32. Every width inside an encoder is an input and an output
width, so the check of 64 covers both."""


class BitsAndBytesOptions(TransformersOptions):
    compute: Literal["fp32", "fp16", "bf16"] = "bf16"
    """The dtype of matrix products and of everything that is not quantised."""
    double_quantization: bool = True
    """Also quantise the scales of the 4-bit blocks."""


class BitsAndBytes(PyTorch):
    """Quantises the linear layers of the encoder. The classification head stays as it is."""

    name: ClassVar[str] = "bitsandbytes"
    precisions: ClassVar[tuple[str, ...]] = ("nf4", "fp4", "int8")
    modules: ClassVar[tuple[str, ...]] = ("torch", "transformers", "accelerate", "bitsandbytes")
    options: ClassVar[type[Options]] = BitsAndBytesOptions

    @classmethod
    def unavailable(cls, precision: str, options: dict[str, Any], device: str, source: Source) -> str | None:
        if device != "cpu" or precision == "int8" or "avx512_bf16" not in cpu_features():
            return None
        for key in ("hidden_size", "dim", "intermediate_size", "hidden_dim"):
            width = source.config.get(key)
            if isinstance(width, int) and width % CPU_BLOCK_WIDTH:
                return (
                    f"bitsandbytes' 4-bit kernel for CPUs with AVX512-BF16 needs layer widths that are "
                    f"multiples of {CPU_BLOCK_WIDTH}; this model's {key} is {width}; it needs --device cuda"
                )
        return None

    @classmethod
    def snippet(cls, precision: str, options: dict[str, Any], device: str, settings: dict[str, Any]) -> Snippet | None:
        parsed = cls.parse_options(options)
        dtype = f"torch.{COMPUTE[parsed.compute]}"
        # The run's audit lists the linear layers that were not quantised. All others were.
        kept = [str(name) for name in settings["linear_modules_kept"]]
        if precision == "int8":
            quantization = f"BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules={kept!r})"
        else:
            quantization = (
                f'BitsAndBytesConfig(\n    load_in_4bit=True,\n    bnb_4bit_quant_type="{precision}",\n'
                f"    bnb_4bit_use_double_quant={parsed.double_quantization},\n    bnb_4bit_compute_dtype={dtype},\n"
                f"    llm_int8_skip_modules={kept!r},\n)"
            )
        how = f'quantization_config=quantization,\n    dtype={dtype},\n    device_map={{"": DEVICE}}'
        return Snippet(
            "import torch\nfrom transformers import AutoModelForSequenceClassification, BitsAndBytesConfig",
            f"quantization = {quantization}\n{cls._loading(precision, options, device, how)}",
            ("torch", "transformers", "safetensors", "accelerate", "bitsandbytes"),
            WEIGHTS,
        )

    def load(self, request: LoadRequest) -> None:
        super().load(request)
        try:
            # The CPU kernel packs the weights at the first call, which fails here if it cannot pack them.
            self.call({"input_ids": _ones(), "attention_mask": _ones()})
        except (AssertionError, RuntimeError) as error:
            cannot = isinstance(error, AssertionError | NotImplementedError)
            if not cannot and "is invalid for input of size" not in str(error):
                raise
            raise UnavailableError(
                f"bitsandbytes cannot run {request.precision} on {request.device}: {one_line(error)}"
            ) from error

    def _from_pretrained(self, request: LoadRequest, **changes: Any) -> Any:
        from transformers import BitsAndBytesConfig

        options = self.parse_options(request.options)
        compute = getattr(self._torch, COMPUTE[options.compute])
        self._head = self._head_modules(request)
        if request.precision == "int8":
            quantization = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=self._head)
        else:
            quantization = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type=request.precision,
                bnb_4bit_use_double_quant=options.double_quantization,
                bnb_4bit_compute_dtype=compute,
                # This list replaces the library's default, which keeps only `classifier`.
                llm_int8_skip_modules=self._head,
            )
        return super()._from_pretrained(request, quantization_config=quantization, dtype=compute)

    def _head_modules(self, request: LoadRequest) -> list[str]:
        """Return the names of the top-level modules other than the encoder: the classification head."""
        from transformers import AutoConfig, AutoModelForSequenceClassification

        config = AutoConfig.from_pretrained(request.folder, local_files_only=True, trust_remote_code=False)
        with self._torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
        return [name for name, _ in model.named_children() if name != model.base_model_prefix]

    def weights_bytes(self) -> int:
        # The scales of blocks are in each weight's quantisation state, which is not among parameters and buffers.
        tensors: list[Any] = [*self._model.parameters(), *self._model.buffers()]
        for parameter in self._model.parameters():
            state = getattr(parameter, "quant_state", None)
            if state is not None:
                tensors += _tensors_of(state)
            scales = getattr(parameter, "SCB", None)
            if scales is not None:
                tensors.append(scales)
        distinct = {t.data_ptr(): t for t in tensors}
        return sum(t.numel() * t.element_size() for t in distinct.values())

    def _judge(self, audit: Audit, dtypes: Counter[str]) -> None:
        import bitsandbytes as bnb

        kind = bnb.nn.Linear8bitLt if self._request.precision == "int8" else bnb.nn.Linear4bit
        modules = dict(self._model.named_modules())
        quantised = {name: m for name, m in modules.items() if isinstance(m, kind)}
        plain = [
            name for name, m in modules.items() if isinstance(m, self._torch.nn.Linear) and not isinstance(m, kind)
        ]
        audit.settings |= {
            "bitsandbytes": bnb.__version__,
            "quantized_modules": len(quantised),
            "linear_modules_kept": plain,
            "compute_dtype": self.parse_options(self._request.options).compute,
        }
        if not quantised:
            audit.wrong.append("no module was quantised")
        if kept_inside := [name for name in plain if name.split(".")[0] not in self._head]:
            audit.deviations.append(f"left unquantised inside the encoder: {', '.join(kept_inside)}")
        if self._request.precision != "int8":
            self._judge_4bit(audit, quantised)

    def _judge_4bit(self, audit: Audit, quantised: dict[str, Any]) -> None:
        options = self.parse_options(self._request.options)
        states = [m.weight.quant_state for m in quantised.values()]
        computes = {str(m.compute_dtype).removeprefix("torch.") for m in quantised.values()}
        packed = sum(bool(getattr(s, "packing_format_for_cpu", False)) for s in states)
        nested = sum(bool(s.nested) for s in states)
        if packed:
            computes = {"bfloat16"}
        audit.settings |= {
            "quant_types": sorted({s.quant_type for s in states}),
            "double_quantized_modules": nested,
            "repacked_for_cpu_modules": packed,
            "compute_dtype": ", ".join(sorted(computes)),
        }
        if set(audit.settings["quant_types"]) != {self._request.precision}:
            audit.wrong.append(f"quantised as {audit.settings['quant_types']}")
        if options.double_quantization and nested < len(states):
            why = " (the CPU kernel repacks the weights at the first call)" if packed else ""
            audit.deviations.append(f"double quantisation is gone{why}")
        requested = COMPUTE[options.compute]
        if computes != {requested}:
            audit.deviations.append(f"computed in {', '.join(sorted(computes))} instead of {requested}")


def _ones() -> Any:
    import numpy as np

    return np.ones((1, 8), dtype=np.int64)


def _tensors_of(state: Any) -> list[Any]:
    """Return the tensors of a bitsandbytes QuantState, including those of a nested state."""
    tensors = [t for t in (state.absmax, state.code, getattr(state, "offset", None)) if hasattr(t, "data_ptr")]
    return tensors + (_tensors_of(state.state2) if getattr(state, "state2", None) is not None else [])
