"""What errors of other libraries mean."""

from __future__ import annotations

import pytest

from engine.errors import says_out_of_memory


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("MemoryError ", True),
        ("OutOfMemoryError CUDA out of memory. Tried to allocate 20.00 MiB", True),
        ("RuntimeError std::bad_alloc", True),
        ("OSError [Errno 12] Cannot allocate memory", True),
        ("AcceleratorError CUDA error: out of memory", True),
        ("RuntimeError CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("RuntimeError CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`", False),
        ("ImportError _multiarray_umath.so: failed to map segment from shared object", True),
        ("ImportError libcudart.so.12: cannot open shared object file: No such file or directory", False),
        ("ValueError the memory of the model is unknown", False),
    ],
)
def test_an_error_that_means_out_of_memory_is_known_by_whoever_wrote_it(text: str, meant: bool) -> None:
    assert says_out_of_memory(text) is meant
