"""PyTorch through transformers: FP32, TF32, FP16, BF16."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Literal

import numpy as np

from engine.backends.base import Audit, Backend, Batch, LoadRequest, Options, Snippet, Source

DTYPES = {"fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}
PACKED_MODELS = ("bert", "distilbert", "roberta")
"""Model types whose layers take hidden states alone and attend by scaled_dot_product_attention."""
WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index.json")
CUDA_MODES = """\
torch.set_float32_matmul_precision("{matmul}")
torch.backends.cudnn.allow_tf32 = {tf32}
"""
PYTORCH_CODE = """\
torch.set_num_threads(THREADS)
{modes}model = AutoModelForSequenceClassification.from_pretrained(
    MODEL,
    local_files_only=True,
    use_safetensors=True,
    {how},
){move}.eval()


def call(batch):
    with torch.inference_mode():
        inputs = {{name: torch.from_numpy(array).to(DEVICE) for name, array in batch.items()}}
        return model(**inputs).logits.float().cpu().numpy()
"""


class PyTorchOptions(Options):
    attention: Literal["sdpa", "eager"] | None = None
    """The attention implementation; transformers' own choice by default."""


class PyTorch(Backend):
    """A sequence classifier of transformers, called under `torch.inference_mode`."""

    name: ClassVar[str] = "pytorch"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "tf32", "fp16", "bf16")
    modules: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    options: ClassVar[type[Options]] = PyTorchOptions

    @classmethod
    def unavailable(cls, precision: str, options: dict[str, Any], device: str, source: Any) -> str | None:
        if precision == "tf32" and device == "cpu":
            return "TF32 is a mode of NVIDIA's tensor cores (Ampere and later); it needs --device cuda"
        return None

    @classmethod
    def cannot_pack(cls, precision: str, options: dict[str, Any], device: str, source: Source) -> str | None:
        if (model := source.config.get("model_type")) not in PACKED_MODELS:
            return f"packed batches are written for {', '.join(PACKED_MODELS)}, not for {model}"
        if cls.parse_options(options).attention == "eager":
            return 'packed batches need options.attention = "sdpa"'
        if device != "cpu" and precision not in ("fp16", "bf16"):
            return "the GPU's attention kernel for packed batches computes in fp16 and bf16 alone"
        return None

    @classmethod
    def snippet(cls, precision: str, options: dict[str, Any], device: str, settings: dict[str, Any]) -> Snippet | None:
        code = cls._loading(precision, options, device, f"dtype=torch.{DTYPES[precision]}")
        return Snippet(
            "import torch\nfrom transformers import AutoModelForSequenceClassification",
            code,
            ("torch", "transformers", "safetensors"),
            WEIGHTS,
        )

    @classmethod
    def _loading(cls, precision: str, options: dict[str, Any], device: str, how: str) -> str:
        """Code that loads the model with `how`, the arguments of from_pretrained, and defines `call`."""
        attention = cls.parse_options(options).attention
        how += f',\n    attn_implementation="{attention}"' if attention else ""
        tf32 = precision == "tf32"
        modes = "" if device == "cpu" else CUDA_MODES.format(matmul="high" if tf32 else "highest", tf32=tf32)
        return PYTORCH_CODE.format(how=how, modes=modes, move="" if "device_map" in how else ".to(DEVICE)")

    def load(self, request: LoadRequest) -> None:
        import torch

        torch.set_num_threads(request.threads)
        torch.set_grad_enabled(False)
        # "highest" keeps FP32 products in FP32; "high" allows TF32.
        torch.set_float32_matmul_precision("high" if request.precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = request.precision == "tf32"
        self._torch = torch
        self._request = request
        self._device = torch.device(request.device)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        self._model = self._from_pretrained(request).eval()

    def _from_pretrained(self, request: LoadRequest, **changes: Any) -> Any:
        """The model on its device. Raises ValueError where weights are missing from the files."""
        from transformers import AutoModelForSequenceClassification

        attention = self.parse_options(request.options).attention
        settings = {
            "dtype": getattr(self._torch, DTYPES[request.precision]) if request.precision in DTYPES else None,
            "device_map": {"": request.device},
            "attn_implementation": attention,
        } | changes
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            request.folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **settings,
        )
        if loading["missing_keys"]:
            raise ValueError(f"weights are missing from the files: {', '.join(sorted(loading['missing_keys']))}")
        return model

    def call(self, batch: Batch) -> np.ndarray:
        torch = self._torch
        with torch.inference_mode():
            if "lengths" in batch:
                from engine.backends import packing

                return packing.logits(self._model, batch, self._device).float().cpu().numpy()
            inputs = {name: torch.from_numpy(array).to(self._device) for name, array in batch.items()}
            return self._model(**inputs).logits.float().cpu().numpy()

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.synchronize(self._device)

    def device_seconds(self, batch: Batch) -> float | None:
        if self._device.type != "cuda":
            return None
        start, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self.call(batch)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def allocator_bytes(self, reset: bool = False) -> dict[str, int]:
        if self._device.type != "cuda":
            return {}
        cuda = self._torch.cuda
        peaks = {
            "torch_allocated_peak_bytes": cuda.max_memory_allocated(self._device),
            "torch_reserved_peak_bytes": cuda.max_memory_reserved(self._device),
        }
        if reset:
            cuda.reset_peak_memory_stats(self._device)
        return peaks

    def weights_bytes(self) -> int:
        tensors = {t.data_ptr(): t for t in (*self._model.parameters(), *self._model.buffers())}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    def audit(self) -> Audit:
        torch = self._torch
        dtypes = Counter[str]()
        for parameter in self._model.parameters():
            dtypes[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
        audit = Audit(
            {
                "parameters_by_dtype": dict(dtypes),
                "attention": getattr(self._model.config, "_attn_implementation", None),
                "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
                "float32_matmul_precision": torch.get_float32_matmul_precision(),
                "threads": torch.get_num_threads(),
                # Not TorchVersion, whose pickle would import torch wherever it is read.
                "torch": str(torch.__version__),
                "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            }
        )
        self._judge(audit, dtypes)
        if torch.get_num_threads() != self._request.threads:
            audit.deviations.append(f"{torch.get_num_threads()} threads instead of {self._request.threads}")
        return audit

    def _judge(self, audit: Audit, dtypes: Counter[str]) -> None:
        wanted = DTYPES[self._request.precision]
        if other := sorted(set(dtypes) - {wanted}):
            audit.wrong.append(f"weights in {', '.join(other)} where {wanted} was asked for")
        if audit.settings["tf32"] != (self._request.precision == "tf32"):
            audit.wrong.append(f"TF32 is {'on' if audit.settings['tf32'] else 'off'}")
