"""PyTorch through transformers: FP32, TF32, FP16, BF16, as it is or compiled."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from engine.backends import rewrites
from engine.backends.base import Audit, Backend, Batch, LoadRequest, Options, Snippet, Source
from engine.measurement.operators import Operator, Profile

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


LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""The sequence lengths that a compiled model is padded to: CUDA graphs are recorded for each shape separately."""
ROWS = 8
"""A compiled model's batches have so many rows, a multiple of it, or a power of two below."""
RECOMPILATIONS = 64
"""From torch's own 8 on, a new shape would run uncompiled without a word."""
GRAPH_MODES = ("reduce-overhead", "max-autotune")


class TransformersOptions(Options):
    attention: Literal["sdpa", "eager"] | None = None
    """The attention implementation; transformers' own choice by default."""
    compile: Literal["default", "reduce-overhead", "max-autotune"] | None = None
    """A mode of torch.compile; on a GPU those of GRAPH_MODES record CUDA graphs."""

    def rewrites(self) -> tuple[str, ...]:
        """None: libraries that quantise as they load leave nothing to rewrite."""
        return ()


class PyTorchOptions(rewrites.RewriteOptions, TransformersOptions):
    pass


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
        if cls.parse_options(options).compile and device == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
            return "torch.compile needs a C++ compiler: `apt-get install g++` installs one"
        return rewrites.refusal(cls.parse_options(options).rewrites(), source.config)

    @classmethod
    def cannot_pack(cls, precision: str, options: dict[str, Any], device: str, source: Source) -> str | None:
        if (model := source.config.get("model_type")) not in PACKED_MODELS:
            return f"packed batches are written for {', '.join(PACKED_MODELS)}, not for {model}"
        if cls.parse_options(options).attention == "eager":
            return 'packed batches need options.attention = "sdpa"'
        if "first_token" in cls.parse_options(options).rewrites():
            return "packed batches are one row of all texts, whose first tokens options.first_token would leave out"
        if device != "cpu" and precision not in ("fp16", "bf16"):
            return "the GPU's attention kernel for packed batches computes in fp16 and bf16 alone"
        return None

    @classmethod
    def snippet(cls, precision: str, options: dict[str, Any], device: str, settings: dict[str, Any]) -> Snippet | None:
        code = cls._loading(precision, options, device, f"dtype=torch.{DTYPES[precision]}")
        imports = "import torch\nfrom transformers import AutoModelForSequenceClassification"
        if names := cls.parse_options(options).rewrites():
            imports = f"import functools\nimport math\n{imports}\nfrom typing import Any"
            loaded = ".eval()\n"
            defined, called = rewrites.source(names)
            code = f"{defined}\n\n{code.replace(loaded, loaded + called, 1)}"
        return Snippet(
            imports,
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
        code = PYTORCH_CODE.format(how=how, modes=modes, move="" if "device_map" in how else ".to(DEVICE)")
        if mode := cls.parse_options(options).compile:
            code = code.replace("\n\n\ndef call", f'\nmodel = torch.compile(model, mode="{mode}")\n\n\ndef call')
        return code

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
        rewrites.rewrite(self.parse_options(request.options).rewrites(), self._model)
        self._forward = self._model
        if mode := self.parse_options(request.options).compile:
            import torch._dynamo.config
            import torch._inductor.config

            # Idle compile processes would not be silent.
            torch._inductor.config.compile_threads = 1
            torch._dynamo.config.recompile_limit = RECOMPILATIONS
            self._forward = torch.compile(self._model, mode=mode)

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
        rows = len(batch["input_ids"])
        if self._forward is not self._model:
            batch = bucketed(batch, self._model.config)
        with torch.inference_mode():
            if "lengths" in batch:
                from engine.backends import packing

                return packing.logits(self._model, batch, self._device).float().cpu().numpy()
            inputs = {name: torch.from_numpy(array).to(self._device) for name, array in batch.items()}
            return self._forward(**inputs).logits[:rows].float().cpu().numpy()

    def meet(self, shapes: Iterable[Batch]) -> None:
        if self._forward is self._model:
            return
        met = set()
        for batch in shapes:
            shape = bucketed(batch, self._model.config)["input_ids"].shape
            if shape not in met:
                met.add(shape)
                # A CUDA graph is recorded at the second call, and replayed from the third on.
                for _ in range(3 if self._records() else 1):
                    self.call(batch)

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

    def profile(self, batch: Batch, calls: int, folder: Path | None = None) -> Profile:
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        on_device = self._device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]
        if on_device:
            # The first profile of a process also sets up the device's own.
            with profile(activities=activities):
                self.call(batch)
        with profile(activities=activities) as seen:
            began_s = time.perf_counter()
            for _ in range(calls):
                self.call(batch)
            wall_s = time.perf_counter() - began_s
        file = None
        if folder is not None:
            file = folder / "torch.json"
            seen.export_chrome_trace(str(file))
        own = "self_device_time_total" if on_device else "self_cpu_time_total"
        found = [
            Operator(item.key, item.count, getattr(item, own) / 1e6)
            for item in seen.key_averages()
            if (item.device_type != DeviceType.CPU) == on_device and not item.is_user_annotation
        ]
        return Profile("kernels" if on_device else "operators", found, wall_s, file)

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
        if names := self.parse_options(self._request.options).rewrites():
            audit.settings |= {"rewrites": list(names), "head_width": rewrites.head_width(self._model)}
        if mode := self.parse_options(self._request.options).compile:
            audit.settings |= self._compiled(mode)
            if not audit.settings["compiled_graphs"]:
                audit.wrong.append("nothing was compiled")
            if breaks := audit.settings["graph_breaks"]:
                audit.deviations.append(f"{breaks} graph breaks: parts of the model run uncompiled")
            if mode in GRAPH_MODES and not audit.settings["cuda_graphs"]:
                audit.deviations.append("compiled without CUDA graphs, as these are for GPUs")
        if torch.get_num_threads() != self._request.threads:
            audit.deviations.append(f"{torch.get_num_threads()} threads instead of {self._request.threads}")
        return audit

    def _records(self) -> bool:
        """Whether calls are recorded as CUDA graphs."""
        return self._device.type == "cuda" and self.parse_options(self._request.options).compile in GRAPH_MODES

    def _compiled(self, mode: str) -> dict[str, Any]:
        """The counters of torch.compile since the model was loaded."""
        from torch._dynamo.utils import counters

        graphs = int(counters["stats"]["unique_graphs"])
        return {
            "compile": mode,
            "compiled_graphs": graphs,
            # The first graph is no recompilation.
            "recompilations": max(0, graphs - 1),
            "graph_breaks": sum(counters["graph_break"].values()),
            "cuda_graphs": self._records(),
        }

    def _judge(self, audit: Audit, dtypes: Counter[str]) -> None:
        wanted = DTYPES[self._request.precision]
        if other := sorted(set(dtypes) - {wanted}):
            audit.wrong.append(f"weights in {', '.join(other)} where {wanted} was asked for")
        if audit.settings["tf32"] != (self._request.precision == "tf32"):
            audit.wrong.append(f"TF32 is {'on' if audit.settings['tf32'] else 'off'}")


def bucketed(batch: Batch, config: Any) -> Batch:
    """`batch` padded to one of a few shapes: masked tokens to the right, copies of the last text below.

    `config`: the model's, for its padding token and the tokens it takes.
    """
    rows, tokens = batch["input_ids"].shape
    most = getattr(config, "max_position_embeddings", None) or LENGTHS[-1]
    width = next((length for length in LENGTHS if tokens <= length <= most), tokens)
    height = -(-rows // ROWS) * ROWS if rows > ROWS // 2 else 1 << (rows - 1).bit_length()
    if (height, width) == (rows, tokens):
        return batch
    padding = ((0, height - rows), (0, width - tokens))
    made = {}
    for name, array in batch.items():
        value = (config.pad_token_id or 0) if name == "input_ids" else 0
        wide = np.pad(array, ((0, 0), padding[1]), constant_values=value)
        made[name] = np.pad(wide, (padding[0], (0, 0)), mode="edge")
    return made
