"""A classifier's output layer as its files have it: whether anything was ever learnt in it. Needs no model library."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from engine.measurement.gate import Flag

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
STANDARD_ERRORS = 5
"""How far the deviation of n weights may lie from the initialiser's: its standard error is 1 / sqrt(2n) of it."""


def fresh(folder: Path, config: dict[str, Any], labels: int) -> Flag | None:
    """The evidence that a head was initialised, saved and never trained; None if there is none.

    Such a head has biases of exactly 0, which training would change, and weights that deviate from 0 as config.json's
    `initializer_range` says. `folder`: with safetensors; `labels`: how many outputs the model has.
    """
    from safetensors import SafetensorError

    wanted = config.get("initializer_range")
    try:
        found = output_layer(folder, labels)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        # An unreadable file is refused when it is loaded, with its own message.
        return None
    if found is None or not isinstance(wanted, int | float) or not wanted > 0:
        return None
    weights, biases = found
    deviation = float(np.sqrt(np.mean(weights**2)))
    if biases.any() or abs(deviation / wanted - 1) > STANDARD_ERRORS / np.sqrt(2 * weights.size):
        return None
    return Flag(
        "fresh",
        f"its head looks freshly initialised: all {len(biases)} biases are 0, and its {weights.size:,} weights deviate "
        f"from 0 by {deviation:.3g}, as new ones do (initializer_range = {wanted:g}); was it trained and then saved?",
        {"biases": len(biases), "weights": weights.size, "deviation": deviation, "initializer_range": float(wanted)},
    )


def output_layer(folder: Path, labels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Weights, float64 [labels, width], and biases, float64 [labels], of the layer that gives a model's outputs.

    None where no layer has as many outputs as there are labels, or more than one. Raises OSError, ValueError and
    SafetensorError where the files of `folder` are not to be read.
    """
    import ml_dtypes  # noqa: F401  # With it numpy knows BF16.
    from safetensors import safe_open

    index = folder / INDEX
    names = {WEIGHTS}
    if index.is_file():
        names = {Path(name).name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(folder / name, "np")) for name in sorted(names)]
        holder = {name: file for file in opened for name in file.keys()}  # noqa: SIM118  # It is no dict.
        shapes = {name: holder[name].get_slice(name).get_shape() for name in holder}
        layers = [
            (f"{name}.weight", f"{name}.bias")
            for name in (key.removesuffix(".bias") for key in shapes if key.endswith(".bias"))
            if shapes[f"{name}.bias"] == [labels]
            and len(wide := shapes.get(f"{name}.weight", [])) == 2
            and wide[0] == labels
        ]
        if len(layers) != 1:
            return None
        weights, biases = (holder[name].get_tensor(name).astype(np.float64) for name in layers[0])
    return weights, biases
