"""A classifier's output layer as its files have it: whether anything was ever learnt in it. Needs no model library."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from engine.quality import Flag

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
HEADER_BYTES = 100_000_000
"""The longest header that the format allows."""
STANDARD_ERRORS = 5
"""How far the deviation of n weights may lie from the initialiser's: its standard error is 1 / sqrt(2n) of it."""


def fresh(folder: Path, config: dict[str, Any], labels: int) -> Flag | None:
    """What speaks for a head that was initialised, saved and never trained; None where nothing does, or is known.

    Such a head has biases of exactly 0, which training leaves, and weights that deviate from 0 as config.json's
    `initializer_range` says. `folder`: with safetensors; `labels`: how many outputs the model has.
    """
    wanted = config.get("initializer_range")
    try:
        found = output_layer(folder, labels)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        # What is not readable is refused where it is loaded, in words of its own.
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

    None where no layer has as many outputs as there are labels, or more than one. Raises OSError and ValueError where
    the files of `folder` are not to be read.
    """
    index = folder / INDEX
    names = {WEIGHTS}
    if index.is_file():
        names = {Path(name).name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    tensors = {name: place for file in sorted(names) for name, place in _header(folder / file).items()}
    layers = []
    for name in (key.removesuffix(".bias") for key in tensors if key.endswith(".bias")):
        bias, weight = tensors[f"{name}.bias"], tensors.get(f"{name}.weight")
        if weight and bias[2]["shape"] == [labels] and len(weight[2]["shape"]) == 2 and weight[2]["shape"][0] == labels:
            layers.append((weight, bias))
    if len(layers) != 1:
        return None
    return _read(layers[0][0]), _read(layers[0][1])


Place = tuple[Path, int, dict[str, Any]]
"""A file, where its tensors begin, and what its header says of one."""


def _header(file: Path) -> dict[str, Place]:
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        if length > HEADER_BYTES:
            raise ValueError(f"{file.name} is no safetensors file: a header of {length} bytes")
        header = json.loads(opened.read(length))
    return {name: (file, 8 + length, tensor) for name, tensor in header.items() if name != "__metadata__"}


def _read(place: Place) -> np.ndarray:
    file, begin, tensor = place
    first, last = tensor["data_offsets"]
    with file.open("rb") as opened:
        opened.seek(begin + first)
        values = np.frombuffer(opened.read(last - first), DTYPES[tensor["dtype"]])
    if tensor["dtype"] == "BF16":
        # The upper half of a float32.
        values = (values.astype("<u4") << 16).view("<f4")
    return values.astype(np.float64).reshape(tensor["shape"])
