"""Attention heads widened with zeros: the same answers, by kernels that take no narrower ones.

Fused attention in 16 bit takes heads whose width is a multiple of 8; those of TinyBERT 4L-312 are 26 wide.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

MULTIPLE = 8
MODELS = ("bert", "distilbert", "roberta")
"""Model types with fused attention, which goes by the width that its layers have."""


def widened(config: dict[str, Any]) -> tuple[int, int]:
    """How wide the heads of a model are, and will be. `config`: its config.json."""
    size = config["dim"] if config["model_type"] == "distilbert" else config["hidden_size"]
    width = size // (config["n_heads"] if config["model_type"] == "distilbert" else config["num_attention_heads"])
    return width, -(-width // MULTIPLE) * MULTIPLE


def refusal(config: dict[str, Any]) -> str | None:
    """Why a model's heads are not widened; None where they can be. `config`: its config.json."""
    if (model := config.get("model_type")) not in MODELS:
        return f"options.pad_heads is written for {', '.join(MODELS)}, not for {model}"
    if config.get("position_embedding_type", "absolute") != "absolute":
        return "options.pad_heads: this model's positions are embedded in heads of their own width"
    width, wider = widened(config)
    if width == wider:
        return f"options.pad_heads: this model's heads are {width} wide, a multiple of {MULTIPLE}: nothing is to pad"
    return None


def widen(model: Any) -> None:
    """Pad the heads of every attention in `model`, a classifier of transformers, in place, to the next multiple of 8.

    Zeros after each head's outputs add nothing to a product of query and key, and what they give as values is
    multiplied by zeros. Scores are divided by the root of the new width, so queries grow by what that is too much.
    """
    import torch

    width, wider = widened(model.config.to_dict())

    def rows(linear: Any, factor: float = 1.0) -> Any:
        weight, bias = (t.unflatten(0, (-1, width)) * factor for t in (linear.weight, linear.bias))
        weight = torch.nn.functional.pad(weight, (0, 0, 0, wider - width)).flatten(0, 1)
        return _linear(weight, torch.nn.functional.pad(bias, (0, wider - width)).flatten())

    def columns(linear: Any) -> Any:
        weight = torch.nn.functional.pad(linear.weight.unflatten(1, (-1, width)), (0, wider - width))
        return _linear(weight.flatten(1), linear.bias)

    grown = math.sqrt(wider / width)
    with torch.no_grad():
        if model.config.model_type == "distilbert":
            for layer in model.base_model.transformer.layer:
                at = layer.attention
                at.q_lin, at.k_lin, at.v_lin = rows(at.q_lin, grown), rows(at.k_lin), rows(at.v_lin)
                at.out_lin = columns(at.out_lin)
                at.attention_head_size, at.dim = wider, at.n_heads * wider
            return
        for layer in model.base_model.encoder.layer:
            at = layer.attention.self
            at.query, at.key, at.value = rows(at.query, grown), rows(at.key), rows(at.value)
            at.attention_head_size, at.all_head_size = wider, at.num_attention_heads * wider
            layer.attention.output.dense = columns(layer.attention.output.dense)


def found(model: Any) -> int:
    """How wide the heads of `model`, a classifier of transformers, are now."""
    return next(int(m.attention_head_size) for m in model.modules() if hasattr(m, "attention_head_size"))


def source() -> str:
    """The Python code of `widen` and what it needs: for a folder that is used without the bench."""
    return "\n\n".join([f"MULTIPLE = {MULTIPLE}\n", *(inspect.getsource(part) for part in (widened, widen, _linear))])


def _linear(weight: Any, bias: Any) -> Any:
    import torch

    made = torch.nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
    made.weight, made.bias = (torch.nn.Parameter(t.contiguous(), requires_grad=False) for t in (weight, bias))
    return made
