"""Rewrites of a loaded classifier that leave its answers as they are: the same function, by fewer or other kernels.

`pad_heads`: fused attention in 16 bit takes heads whose width is a multiple of 8; those of TinyBERT 4L-312 are 26 wide.
`first_token`: a classification head reads the last layer's first token alone, so nothing else of it need be computed.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Sequence
from typing import Any

from engine.backends.base import Options

MULTIPLE = 8
MODELS = ("bert", "distilbert", "roberta")
"""Model types whose layers are known here."""


class RewriteOptions(Options):
    """The options of every backend that builds from PyTorch's model."""

    pad_heads: bool = False
    """Attention heads widened with zeros to a multiple of 8, which fused kernels take."""
    first_token: bool = False
    """The last layer computes its first token alone, which is all that the classification head reads."""

    def rewrites(self) -> tuple[str, ...]:
        """The names of those that are asked for."""
        return tuple(name for name in RewriteOptions.model_fields if getattr(self, name))


def refusal(names: Sequence[str], config: dict[str, Any]) -> str | None:
    """Why a model is not rewritten so; None where it can be. `config`: its config.json."""
    for name in names:
        if (model := config.get("model_type")) not in MODELS:
            return f"options.{name} is written for {', '.join(MODELS)}, not for {model}"
        if config.get("position_embedding_type", "absolute") != "absolute":
            return f"options.{name}: this model's positions are embedded in its attention"
        if config.get("output_attentions"):
            return f"options.{name}: this model's config.json asks for its attentions, which are not kept"
    if "pad_heads" in names:
        width, wider = widened(config)
        if width == wider:
            return f"options.pad_heads: this model's heads are {width} wide, a multiple of {MULTIPLE}: pad nothing"
    return None


def rewrite(names: Sequence[str], model: Any) -> None:
    """Rewrite `model`, a classifier of transformers, in place."""
    if "pad_heads" in names:
        widen(model)
    if "first_token" in names:
        keep_first_token(model)


def source(names: Sequence[str]) -> tuple[str, str]:
    """Python code that defines the rewrites, and the lines that call them: for a folder used without the bench.

    It needs functools and math imported, and Any of typing.
    """
    parts, calls = [], []
    if "pad_heads" in names:
        parts += [f"MULTIPLE = {MULTIPLE}\n", *(inspect.getsource(part) for part in (widened, widen, _linear))]
        calls.append("widen(model)\n")
    if "first_token" in names:
        parts += [inspect.getsource(part) for part in (keep_first_token, _distilbert_layer, _bert_layer)]
        calls.append("keep_first_token(model)\n")
    return "\n\n".join(parts), "".join(calls)


# Wider heads


def widened(config: dict[str, Any]) -> tuple[int, int]:
    """How wide the heads of a model are, and will be. `config`: its config.json."""
    # Where the file leaves them out, a model of either family is as large as its first.
    distilbert = config["model_type"] == "distilbert"
    size = config.get("dim" if distilbert else "hidden_size", 768)
    width = size // config.get("n_heads" if distilbert else "num_attention_heads", 12)
    return width, -(-width // MULTIPLE) * MULTIPLE


def widen(model: Any) -> None:
    """Pad the heads of every attention in `model` to the next multiple of 8.

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


def head_width(model: Any) -> int:
    """How wide the heads of `model` are now."""
    return next(int(m.attention_head_size) for m in model.modules() if hasattr(m, "attention_head_size"))


def _linear(weight: Any, bias: Any) -> Any:
    import torch

    made = torch.nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
    made.weight, made.bias = (torch.nn.Parameter(t.contiguous(), requires_grad=False) for t in (weight, bias))
    return made


# The first token alone


def keep_first_token(model: Any) -> None:
    """Have the last layer of `model` compute its first token alone: keys and values of all, a query of one."""
    if model.config.model_type == "distilbert":
        last = model.base_model.transformer.layer[-1]
        last.forward = functools.partial(_distilbert_layer, last)
    else:
        last = model.base_model.encoder.layer[-1]
        last.forward = functools.partial(_bert_layer, last)


def _distilbert_layer(layer: Any, x: Any, attn_mask: Any = None, *others: Any, **more: Any) -> tuple[Any, ...]:
    first = x[:, :1]
    # A mask with a row for each query has one for the first.
    mask = attn_mask[:, :, :1] if attn_mask is not None and attn_mask.dim() == 4 else attn_mask
    attended = layer.attention(query=first, key=x, value=x, mask=mask)[0]
    attended = layer.sa_layer_norm(attended + first)
    return (layer.output_layer_norm(layer.ffn(attended) + attended),)


def _bert_layer(layer: Any, hidden_states: Any, attention_mask: Any = None, *others: Any, **more: Any) -> tuple[Any]:
    at, first = layer.attention.self, hidden_states[:, :1]
    query, key, value = (
        part.unflatten(-1, (at.num_attention_heads, at.attention_head_size)).transpose(1, 2)
        for part in (at.query(first), at.key(hidden_states), at.value(hidden_states))
    )
    scores = query @ key.transpose(-1, -2) / math.sqrt(at.attention_head_size)
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, :1]
    context = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    attended = layer.attention.output(context, first)
    return (layer.output(layer.intermediate(attended), attended),)
