"""Counts the work of one call of a classifier: floating-point operations, activations moved, operators.

Counted on the meta device, where tensors have shapes and no values, by torch's own counter. Imports torch
inside functions only.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from engine.errors import first_line
from engine.measurement.polynomial import Polynomial, evaluate

VERSION = 1
"""Raised whenever the same model would be counted differently: descriptions are cached by it."""
LENGTH_STEP = 8
"""Tokens a sequence of the shortest count."""


class CountError(RuntimeError):
    """The work of a call is not such a polynomial."""


def describe(
    config: Any, inputs: Sequence[str], max_positions: int | None = None, first_token: bool = False
) -> dict[str, Any]:
    """The operations of the classifier that transformers makes of `config`, as plain values.

    `inputs`: the names of its inputs, such as input_ids. `first_token`: of one whose last layer computes no other
    (`engine.backends.rewrites`). Keys:

    `flops`: floating-point operations of the matrix products, a multiplication and an addition each; a Polynomial.
    `activation_elements`: elements of the floating-point tensors that the operators read and write, weights apart;
    a Polynomial. What fused kernels keep in registers and caches counts here: an upper estimate.
    `operators`: how many of them compute or copy, so a kernel or more each. Eager attention: an upper estimate too.
    `gathered_parameters`: parameters in tables of which a call reads a few rows (embeddings).
    `reason`: why the model cannot be counted, then all else is None; else None.
    """
    found: dict[str, Any] = {
        "reason": None,
        "counter": None,
        "flops": None,
        "activation_elements": None,
        "operators": None,
        "gathered_parameters": None,
    }
    try:
        return found | _describe(config, inputs, max_positions, first_token)
    except Exception as error:
        # The architecture needs values, which are absent here. The model itself may well run.
        return found | {"reason": f"its operations could not be counted: {first_line(error)}"}


def _describe(config: Any, inputs: Sequence[str], max_positions: int | None, first_token: bool) -> dict[str, Any]:
    import torch

    from engine.backends import rewrites

    step = min(LENGTH_STEP, (max_positions or 5 * LENGTH_STEP) // 5)
    if step < 1:
        raise CountError(f"it takes {max_positions} tokens at most, too few to count it at several lengths")
    model = _meta_model(config)
    if first_token:
        rewrites.keep_first_token(model)
    # From two sequences on: with one, some copies of attention's operands are left out.
    counts = {shape: _count(model, inputs, *shape) for shape in [(b, k * step) for b in (2, 3) for k in (1, 2, 3)]}
    flops = fit({shape: count.flops for shape, count in counts.items()})
    activations = fit({shape: count.elements for shape, count in counts.items()})
    rows, length = 5, 5 * step
    check = _count(model, inputs, rows, length)
    for what, polynomial, counted in (
        ("operations", flops, check.flops),
        ("activation elements", activations, check.elements),
    ):
        if (fitted := evaluate(polynomial, rows, length)) != counted:
            raise CountError(f"{rows} x {length} tokens take {counted} {what}, not {fitted} as shorter ones would say")
    if len({count.operators for count in (*counts.values(), check)}) > 1:
        raise CountError("the number of its operators depends on the shape")
    return {
        "counter": f"FlopCounterMode of torch {torch.__version__}, eager attention",
        "flops": flops,
        "activation_elements": activations,
        "operators": check.operators,
        "gathered_parameters": check.gathered_parameters,
    }


def fit(counts: dict[tuple[int, int], int]) -> Polynomial:
    """The polynomial through counts at b and b + 1 sequences of n, 2n and 3n tokens.

    Raises CountError where its coefficients are no whole numbers.
    """
    (few, many), lengths = (sorted({shape[axis] for shape in counts}) for axis in (0, 1))
    each = [counts[many, length] - counts[few, length] for length in lengths]
    shared = [counts[few, length] - few * more for length, more in zip(lengths, each, strict=True)]
    return {"per_call": _quadratic(shared, lengths[0]), "per_sequence": _quadratic(each, lengths[0])}


def _quadratic(values: Sequence[int], step: int) -> list[int]:
    """The coefficients, by power, of the quadratic with these `values` at step, 2 step and 3 step."""
    first, second, third = values
    squared, rest = divmod(third - 2 * second + first, 2 * step * step)
    linear, more = divmod(second - first - 3 * squared * step * step, step)
    if rest or more:
        raise CountError(f"{first}, {second} and {third} at {step}, {2 * step} and {3 * step} tokens fit no quadratic")
    return [first - linear * step - squared * step * step, linear, squared]


def _meta_model(config: Any) -> Any:
    """The classifier of `config`, without values.

    Eager attention, whose products are plain ones. Of `scaled_dot_product_attention` the counter knows CUDA's
    kernels alone: on the CPU it counts nothing for it (torch 2.13), and on the meta device transformers' way
    to it fails, because it looks at the mask's values.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    with torch.device("meta"):
        # A copy: the attention implementation is written into the configuration.
        model = AutoModelForSequenceClassification.from_config(copy.deepcopy(config), attn_implementation="eager")
    return model.eval()


@dataclass
class Count:
    """The work of the operators of one call."""

    flops: int = 0
    elements: int = 0
    operators: int = 0
    gathered_parameters: int = 0


def _count(model: Any, inputs: Sequence[str], rows: int, length: int) -> Count:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    found = Count()
    # Constants that a model makes on its way belong to the meta device too.
    with torch.no_grad(), torch.device("meta"):
        batch = {name: torch.ones((rows, length), dtype=torch.int64) for name in inputs}
        # The counter takes composite operators apart; the mode around it sees the parts.
        with _traffic(model, found), FlopCounterMode(display=False) as counter:
            model(**batch)
    found.flops = counter.get_total_flops()
    return found


def _traffic(model: Any, found: Count) -> Any:
    """A dispatch mode that adds what each operator moves to `found`."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    embedding, unsafe_view = torch.ops.aten.embedding.default, torch.ops.aten._unsafe_view.default
    tensors = (*model.parameters(), *model.buffers())
    weights = {_storage(tensor): tensor.numel() for tensor in tensors if tensor.is_floating_point()}
    gathered: set[int] = set()
    read: set[int] = set()

    class Traffic(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            # A view moves nothing; one of them is not called so by its schema.
            if func.is_view or func is unsafe_view:
                return out
            found.operators += 1
            written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
            moved = list(written)
            for leaf in tree_leaves((args, kwargs)):
                if not isinstance(leaf, torch.Tensor):
                    continue
                if _storage(leaf) not in weights:
                    moved.append(leaf)
                elif func is embedding:
                    gathered.add(_storage(leaf))
                    moved += written  # a row is read for each one written
                else:
                    read.add(_storage(leaf))
            found.elements += sum(_elements(tensor) for tensor in moved if tensor.is_floating_point())
            found.gathered_parameters = sum(weights[storage] for storage in gathered - read)
            return out

    return Traffic()


def _storage(tensor: Any) -> int:
    """An identity that a tensor shares with its views and with no other tensor."""
    return tensor.untyped_storage()._cdata


def _elements(tensor: Any) -> int:
    """Elements of `tensor` that lie apart in memory: what is broadcast is read once."""
    return prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
