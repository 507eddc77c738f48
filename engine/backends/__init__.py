"""The registry of backends: one line each, imported only when requested.

To add a backend, write a file in this folder with a subclass of `engine.backends.base.Backend`, add a line here, and
name the backend in a suite's variant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.backends.base import Backend

REGISTRY: dict[str, str] = {
    "pytorch": "engine.backends.pytorch:PyTorch",
    "bitsandbytes": "engine.backends.bitsandbytes:BitsAndBytes",
    "onnxruntime": "engine.backends.onnxruntime:OnnxRuntime",
    "openvino": "engine.backends.openvino:OpenVINO",
    "torchao": "engine.backends.torchao:TorchAO",
}


def get(name: str) -> type[Backend]:
    """Return the backend class registered as `name`. Importing the class imports no model library.

    Raises ValueError, which lists the allowed names, for an unknown name.
    """
    from importlib import import_module

    from engine.errors import did_you_mean

    if name not in REGISTRY:
        raise ValueError(
            f"unknown backend {name!r}; allowed: {', '.join(REGISTRY)}" + did_you_mean(name, tuple(REGISTRY))
        )
    module, _, attribute = REGISTRY[name].partition(":")
    return getattr(import_module(module), attribute)
