"""Readable names of kernels. Libraries name kernels by C++ signatures and by every setting of a matrix product."""

from __future__ import annotations

import re

_NAMESPACES = re.compile(r"(?:\(anonymous namespace\)|\b(?:at|native|c10|cutlass|std|cuda|detail))::")
_LOOPS = re.compile(
    r"^(?:vectorized_|unrolled_)?(?:elementwise|reduce)_kernel<(?:[\d\s,]|true|false)*"
    r"(?:gpu_kernel_impl(?:_nocast)?<|ReduceOp<[^<]*?func_wrapper_t<\w+, )?(?P<does>\w+(?:<\w+>)?)(?P<end>$)?"
)
"""PyTorch's loops over elements. Only their template arguments say what they do."""
_SETTINGS = (
    (re.compile(r"^Kernel2?<(\w+).*"), r"\1"),
    (re.compile(r"^(nvjet_sm\d+_\w+?_\d+x\d+)_.*"), r"\1"),
    (re.compile(r"^(\w*xmma_gemm\w*?_tilesize\w+?)_.*"), r"\1"),
    (re.compile(r"^cudnn_generated_fort_native_(\w+?)_knob_.*"), r"cudnn_\1"),
)
"""Pattern of a library's names -> the part that tells its kernels apart."""


def readable(name: str) -> str:
    """The name of an operator or kernel without namespaces, parameters and irrelevant settings.

    "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, ...>(...)" becomes
    "CUDAFunctor_add<float>".
    """
    if " -> " in name:
        return name  # a copy's name, "source -> destination", is readable
    text = _NAMESPACES.sub("", name.removeprefix("void "))
    if found := _LOOPS.match(text):
        # A run stores names cut to a limit, so the end may be missing.
        return found["does"] + ("…" if found["end"] is not None else "")
    for pattern, left in _SETTINGS:
        text = pattern.sub(left, text)
    signature = name.startswith("void ") or "(" in text
    return (re.split(r"[<(]", text, maxsplit=1)[0].strip() or text) if signature else text


def fitted(name: str, limit: int) -> str:
    """`name` in at most `limit` characters. The middle is cut, as names of a family differ at the end."""
    if len(name) <= limit:
        return name
    end = (limit - 1) // 2
    return f"{name[: limit - 1 - end]}…{name[-end:]}"
