"""Batches without padding: a classifier of transformers computes real tokens alone, each attending to its own example.

The examples' tokens go through the layers as one long row. Embeddings are looked up before in the usual shape, so that
every example has its own positions; the head sees the first token of each. Attention is computed example by example: on
a CPU once for all of one length, on a GPU by the flash kernel for sequences of several lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from engine.backends.base import Batch

MASKS = ("attn_mask", "attention_mask")


def logits(model: Any, batch: Batch, device: torch.device) -> torch.Tensor:
    """The logits of `model` for a packed batch: [examples, labels], in the batch's order."""
    # Examples of one length stand together.
    order = np.argsort(batch["lengths"], kind="stable")
    lengths = batch["lengths"][order]
    starts = (np.cumsum(batch["lengths"]) - batch["lengths"])[order]
    columns = np.arange(lengths.max())
    real = columns < lengths[:, None]
    source = np.where(real, starts[:, None] + columns, 0)
    pads = {"input_ids": model.config.pad_token_id or 0}
    inputs = {
        name: torch.from_numpy(np.where(real, array[source], pads.get(name, 0))).to(device)
        for name, array in batch.items()
        if name != "lengths"
    }
    # Without one transformers warns, and a mask of ones is none: attention keeps examples apart here.
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    kept = torch.from_numpy(np.flatnonzero(real)).to(device)
    # The first token of each example in the row, in the order in which they came.
    first = torch.from_numpy((np.cumsum(lengths) - lengths)[np.argsort(order)]).to(device)
    with _as_one_row(model, kept, first), _WithinExamples(lengths, device) as attention:
        found = model(**inputs).logits
    if not attention.used:
        raise ValueError("its attention is not scaled_dot_product_attention: examples would have seen each other")
    return found


@contextmanager
def _as_one_row(model: Any, kept: torch.Tensor, first: torch.Tensor) -> Iterator[None]:
    """`model`'s layers get the hidden states at `kept` as one row [1, tokens, width] and give those at `first`."""
    base = model.base_model
    layers = base.transformer if hasattr(base, "transformer") else base.encoder

    def pack(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        found: dict[str, Any] = {n: None if n in MASKS else x for n, x in kwargs.items()}
        hidden = args[0] if args else found.pop("x")
        return (hidden.reshape(-1, hidden.shape[-1])[kept][None],), found

    def unpack(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[0, first][:, None]
        return output

    with ExitStack() as hooks:
        for handle in (layers.register_forward_pre_hook(pack, with_kwargs=True), layers.register_forward_hook(unpack)):
            hooks.callback(handle.remove)
        yield


class _WithinExamples(TorchFunctionMode):
    """Attention over one row of examples, `lengths` tokens each in ascending order, each within itself."""

    def __init__(self, lengths: np.ndarray, device: torch.device) -> None:
        super().__init__()
        self.used = False
        alike, counts = np.unique(lengths, return_counts=True)
        self._groups = list(zip(alike.tolist(), counts.tolist(), strict=True))
        self._longest = int(lengths.max())
        self._edges: Any = None
        if device.type == "cuda":
            self._edges = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)).to(device)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.nn.functional.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        self.used = True
        query_key_value = [x[0].transpose(0, 1) for x in args[:3]]  # [tokens, heads, width]
        made = self._by_length(*query_key_value) if self._edges is None else self._by_kernel(*query_key_value)
        return made.transpose(0, 1)[None]

    def _by_length(self, *query_key_value: torch.Tensor) -> torch.Tensor:
        parts, start = [], 0
        for length, count in self._groups:
            end = start + length * count
            alike = (x[start:end].unflatten(0, (count, length)).transpose(1, 2) for x in query_key_value)
            made = torch.nn.functional.scaled_dot_product_attention(*alike)
            parts.append(made.transpose(1, 2).flatten(0, 1))
            start = end
        return torch.cat(parts)

    def _by_kernel(self, *query_key_value: torch.Tensor) -> torch.Tensor:
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = (x.contiguous() for x in query_key_value)
        made = varlen_attn(query, key, value, self._edges, self._edges, self._longest, self._longest)
        assert isinstance(made, torch.Tensor)
        return made
