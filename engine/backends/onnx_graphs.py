"""The making of ONNX graphs: export, fusion, FP16 and INT8. Runs in a build process.

optimum exports models and quantises them dynamically. ONNX Runtime's own quantiser, which optimum calls, is called
directly for static quantisation, for two reasons. optimum passes on no types for the outputs of fused operators, so
the quantiser ends with an error there. And optimum cannot calibrate a graph with branches.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from engine.backends import rewrites
from engine.backends.base import Batch, Recipe, calibration_texts

MODEL = "model.onnx"
"""The name of the graph's file in its folder."""


def export(recipe: Recipe, source: Path, target: Path) -> None:
    import torch
    from optimum.exporters.onnx import onnx_export_from_model
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        source, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
    ).eval()
    rewrites.rewrite(recipe.settings.get("rewrites", ()), model)
    onnx_export_from_model(model, target, task="text-classification", device="cpu", do_validation=False)


def fuse(recipe: Recipe, source: Path, target: Path) -> None:
    from onnxruntime.transformers.optimizer import optimize_model
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    # The optimiser's name for encoders of every family is "bert". opt_level=0 leaves a session's own fusions to it.
    model = optimize_model(str(source / MODEL), "bert", config.num_attention_heads, config.hidden_size, opt_level=0)
    model.save_model_to_file(str(target / MODEL))


def halve(recipe: Recipe, source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    # Inputs stay integers and logits float32. The scores of masked tokens, the lowest float32, become the lowest FP16.
    onnx.save(convert_float_to_float16(onnx.load(str(source / MODEL)), keep_io_types=True), str(target / MODEL))


def _kept_nodes(recipe: Recipe, model: Path) -> list[str]:
    """The names of the nodes that stay in floating point. Raises ValueError for an expression without a match."""
    import onnx

    names = [node.name for node in onnx.load(str(model), load_external_data=False).graph.node]
    matches: list[str] = []
    for expression in recipe.settings.get("keep") or []:
        matching = [name for name in names if re.search(expression, name)]
        if not matching:
            raise ValueError(f"options.keep: no node of the graph matches {expression!r}")
        matches += matching
    return matches


def _products_of_activations(model: Path) -> list[str]:
    """Return the names of the nodes that multiply two activations."""
    import onnx

    graph = onnx.load(str(model), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] not in weights]


def quantize_static_graph(recipe: Recipe, source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._texts = iter(calibration_texts(recipe))

        def get_next(self) -> Batch | None:
            return next(self._texts, None)

    quantize_static(
        _graph(source),
        target / MODEL,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=recipe.settings["operators"] or ["MatMul", "Gemm"],
        per_channel=recipe.settings["per_channel"],
        reduce_range=_reduced(recipe),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        # Products of two activations stay in floating point: their ranges differ too much from text to text.
        nodes_to_exclude=[*_kept_nodes(recipe, source / MODEL), *_products_of_activations(source / MODEL)],
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    _forget_types(target / MODEL)


def _graph(source: Path) -> Any:
    """Return the loaded graph. Given a path, the quantiser would leave files in `source`, which other builds use."""
    import onnx

    return onnx.load(str(source / MODEL))


def quantize_dynamic_graph(recipe: Recipe, source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantFormat, QuantizationMode, QuantType
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import QuantizationConfig
    from transformers import AutoConfig

    settings = QuantizationConfig(
        is_static=False,
        format=QuantFormat.QOperator,
        mode=QuantizationMode.IntegerOps,
        weights_dtype=QuantType.QInt8,
        per_channel=recipe.settings["per_channel"],
        reduce_range=_reduced(recipe),
        operators_to_quantize=recipe.settings["operators"] or [],
        # Products of two activations stay in floating point, as in ONNX Runtime's own quantize_dynamic.
        nodes_to_exclude=[*_kept_nodes(recipe, source / MODEL), *_products_of_activations(source / MODEL)],
    )
    config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    with TemporaryDirectory(dir=target.parent) as folder:
        typed = Path(folder) / MODEL
        _infer_types(source / MODEL, typed)
        ORTQuantizer(typed, config).quantize(settings, target, file_suffix=None)
    _forget_types(target / MODEL)


def _infer_types(model: Path, typed: Path) -> None:
    """Write the graph with the type of every tensor. The quantiser cannot infer those of fused operators."""
    import onnx
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    onnx.save(SymbolicShapeInference.infer_shapes(onnx.load(str(model)), auto_merge=True), str(typed))


def _forget_types(model: Path) -> None:
    """Remove the inferred types. With them a session plans the graph differently and answers a fifth more slowly."""
    import onnx

    graph = onnx.load(str(model))
    del graph.graph.value_info[:]
    onnx.save(graph, str(model))


def _reduced(recipe: Recipe) -> bool:
    """Whether weights are limited to seven bits. Without VNNI, products of eight bits saturate 16-bit sums."""
    return recipe.settings["instructions"] == "avx2"


def weights_of(model: Path) -> dict[str, Any]:
    """Return the elements and bytes of the graph's weights by dtype. Scalars and shapes do not count as weights."""
    import onnx

    elements, size = Counter[str](), Counter[str]()
    for tensor in onnx.load(str(model), load_external_data=False).graph.initializer:
        count = int(np.prod(tensor.dims)) if tensor.dims else 1
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if count > 64 and dtype != np.int64:
            elements[dtype.name] += count
            size[dtype.name] += count * dtype.itemsize
    return {"elements_by_dtype": dict(elements), "bytes_by_dtype": dict(size)}
