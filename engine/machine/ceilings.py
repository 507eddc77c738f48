"""`python -m engine.machine.ceilings DEVICE THREADS`: what the device can reach, measured at the start of a run.

A process of its own measures and prints one JSON object; `measure` is what its parent calls. Model libraries
are imported inside functions, in that process alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from time import perf_counter, process_time
from typing import Any

from engine import paths
from engine.errors import first_line, one_line
from engine.machine import devices, environment, host, processes
from engine.machine.devices import Device
from engine.machine.host import BF16_FEATURES

DTYPES = ("fp32", "tf32", "bf16", "fp16", "int8")
TIMEOUT_S = 120.0
SIZES = {"cpu": (128, 256, 512, 1024, 2048), "cuda": (1024, 2048, 4096, 8192)}
"""Rows, columns and depth of the square products that are tried."""
GROWTH_LIMIT_S = 0.1
"""The longest that one product may take: no larger one is begun."""
PREPARING_CALLS, PREPARING_S = 8, 0.02
"""At most so many calls, and after so long none further, to learn how long a product takes."""
ROUNDS = 4
SLICE_S = {"cpu": 0.06, "cuda": 0.04}
"""Seconds that each way works in a round. All ways take turns, so that a busy moment does not hit one alone."""
COPY_BYTES = 256 * 2**20
COPY_BYTES_MOST = 2**30
PINNED_BYTES = 64 * 2**20
TINY_CALLS = 200
"""Operators on one element, timed together."""


# The parent's side


def measure(device: Device, threads: int, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """Measure the ceilings of `device` in a separate process, with `threads` CPU threads. Never raises.

    `products`: each of DTYPES, with `operations_per_s` (2 m n k a product; the best repeat), `median_operations_per_s`,
    `repeats`, `size` of the square matrices, `how` and by which `library`, and `ways`: the same for each that is tried.
    `copy`, `host_to_device`: `bytes_per_s` (of a copy those read and those written), `median_bytes_per_s`, `repeats`,
    `buffer_bytes`, `how`. `host_to_device` is there on a GPU alone.
    `launch`: `seconds` of an operator on one element, of many back to back, `median_seconds`, `repeats`, `how`.
    `cache_bytes`: the last-level cache; `features`: the CPU's, where it is the device; `seconds`: what all that took;
    `others_cpus`: how many of the usable CPUs other processes kept busy meanwhile, which may have lowered ceilings.
    A figure that is not there is None, beside its `reason`. Where nothing is, `reason` is the only key.
    """
    command = [sys.executable, "-m", "engine.machine.ceilings", device.spec, str(threads)]
    try:
        done = subprocess.run(
            command,
            cwd=paths.REPOSITORY,
            env=_environment(threads),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"reason": f"measuring the device's ceilings took more than {timeout_s:.0f} s and was ended"}
    except OSError as error:
        return {"reason": f"the process that measures ceilings did not start: {one_line(error)}"}
    except ValueError:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing")
        return {"reason": f"measuring the device's ceilings ended with code {done.returncode}: {last.strip()}"}


def _environment(threads: int) -> dict[str, str]:
    """The same environment as a worker's: its threads, and its numbering of the GPUs."""
    return processes.tied(devices.worker_environment()) | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }


# The process that measures


Call = Callable[[], object]
"""One piece of work, whose result is thrown away."""
Clock = Callable[[Call], float]
"""Seconds that one call takes, until its result is there."""


@dataclass
class Way:
    """One way to do something, and how long that took."""

    how: str
    library: str
    """torch, onnxruntime or openvino."""
    make: Callable[[int], Call]
    """A size -> the work of that size, ready to be called."""
    sizes: tuple[int, ...]
    unit: Callable[[int], float]
    """A size -> operations or bytes of one call; 1 where calls are counted."""
    made: dict[int, Call] = field(default_factory=dict)
    seconds: dict[int, list[float]] = field(default_factory=dict)
    reason: str | None = None

    def prepare(self, clock: Clock) -> None:
        """Try one size after another while the next is soon done; keep the two that are fastest for their size."""
        rates: dict[int, float] = {}
        for size in self.sizes:
            try:
                call = self.made[size] = self.make(size)
                took_s = _quickest(clock, call)
            except (RuntimeError, MemoryError):
                if not rates:
                    raise
                break  # a larger one does not fit in memory
            rates[size] = self.unit(size) / took_s
            # The next size of product takes eight times as long.
            if 8 * took_s > GROWTH_LIMIT_S:
                break
        best = sorted(rates, key=lambda size: rates[size])[-2:]
        self.made = {size: self.made[size] for size in best}

    def work(self, clock: Clock, turn: int, slice_s: float) -> None:
        """Repeat the work of one of its sizes, which take turns, for `slice_s`."""
        size, call = list(self.made.items())[turn % len(self.made)]
        clock(call)
        seconds = self.seconds.setdefault(size, [])
        began_s = perf_counter()
        while perf_counter() - began_s < slice_s:
            seconds.append(clock(call))

    def result(self) -> dict[str, Any]:
        """rate, median_rate, repeats and size of the fastest size, and how it was made; or the reason."""
        if not self.seconds:
            reason = self.reason or "it was not measured"
            return {"rate": None, "how": self.how, "library": self.library, "reason": reason}
        size = max(self.seconds, key=lambda size: self.unit(size) / min(self.seconds[size]))
        seconds = sorted(self.seconds[size])
        return {
            "rate": self.unit(size) / seconds[0],
            "median_rate": self.unit(size) / seconds[len(seconds) // 2],
            "repeats": len(seconds),
            "size": size,
            "how": self.how,
            "library": self.library,
            "reason": None,
        }


def _quickest(clock: Clock, call: Call) -> float:
    """The shortest of a few calls after the first, which is slower: some may be disturbed."""
    first_s = clock(call)
    took_s = [clock(call)]
    while len(took_s) < PREPARING_CALLS and first_s + sum(took_s) < PREPARING_S:
        took_s.append(clock(call))
    return min(took_s)


def _host_clock(call: Call) -> float:
    began_s = perf_counter()
    call()
    return perf_counter() - began_s


def _cuda_clock(call: Call) -> float:
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _products(size: int) -> float:
    return 2.0 * size**3


def _torch_product(dtype: str, device: str, size: int) -> Call:
    import torch

    a, b = (torch.rand((size, size), device=device).to(getattr(torch, dtype)) for _ in range(2))
    return partial(torch.matmul, a, b)


def _widened_product(dtype: str, size: int) -> Call:
    """Products of 16-bit numbers as CPUs without instructions for them make them fastest: in float32, exactly."""
    import torch

    a, b = (torch.rand((size, size)).to(getattr(torch, dtype)) for _ in range(2))
    # The weights may be widened once; what they are multiplied with, in each call.
    weights = b.float()
    return lambda: torch.matmul(a.float(), weights)


def _tf32_product(device: str, size: int) -> Call:
    import torch

    product = _torch_product("float32", device, size)

    def call() -> None:
        torch.set_float32_matmul_precision("high")
        product()
        torch.set_float32_matmul_precision("highest")

    return call


def _torch_int8_product(device: str, size: int) -> Call:
    import torch

    a, b = (torch.randint(-127, 127, (size, size), dtype=torch.int8, device=device) for _ in range(2))
    # By columns, as the weights of a linear layer lie: cuBLAS has INT8 products of no other layout.
    return partial(torch._int_mm, a, b.t())


def _onnx_product(integer: bool, threads: int, size: int) -> Call:
    """A graph of one product with a constant, as a linear layer is exported, in a session of its own."""
    import numpy as np
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    operator, given, gives = "MatMul", TensorProto.FLOAT, TensorProto.FLOAT
    a: Any = random.random((size, size), dtype=np.float32)
    constants: dict[str, Any] = {"b": a}
    if integer:
        operator, given, gives = "MatMulInteger", TensorProto.UINT8, TensorProto.INT32
        a = random.integers(0, 255, (size, size), dtype=np.uint8)
        b = random.integers(-127, 127, (size, size), dtype=np.int8)
        constants = {"b": b, "a_zero": np.uint8(128), "b_zero": np.int8(0)}
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", *constants], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", given, a.shape)],
        [helper.make_tensor_value_info("c", gives, a.shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    # Its threads must not spin on while another way is timed.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return partial(session.run, None, {"a": a})


def _openvino_product(dtype: str, threads: int, size: int) -> Call:
    """A model of one product with a constant, in one stream; INT8 as its quantised models say it, by ranges."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as operators

    given = operators.parameter((size, size), np.float32)
    values = np.random.default_rng(0).random((size, size), dtype=np.float32)
    factors: list[Any] = [given, operators.constant(2 * values - 1)]
    if dtype == "int8":
        # Weights by a range around 0 are int8; by another one they would be multiplied in float32.
        ranges = ((0.0, 1.0), 256), ((-1.0, 1.0), 255)
        factors = [
            operators.fake_quantize(factor, *map(np.float32, 2 * ends), levels)
            for factor, (ends, levels) in zip(factors, ranges, strict=True)
        ]
    model = ov.Model([operators.matmul(*factors, False, True)], [given])
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == "bf16" else "f32",
    }
    compiled = ov.Core().compile_model(model, "CPU", settings)
    return partial(compiled.create_infer_request().infer, {0: values}, share_inputs=True)


def _ways(device: str, threads: int) -> dict[str, list[Way]]:
    """How each dtype's products are tried: every library that variants multiply with."""
    kind = device.partition(":")[0]

    def way(how: str, make: Callable[[int], Call], library: str = "torch") -> Way:
        return Way(how, library, make, SIZES[kind], _products)

    if kind == "cuda":
        return {
            "fp32": [way("torch.matmul in float32, TF32 off", partial(_torch_product, "float32", device))],
            "tf32": [way("torch.matmul of float32, TF32 on", partial(_tf32_product, device))],
            "bf16": [way("torch.matmul in bfloat16", partial(_torch_product, "bfloat16", device))],
            "fp16": [way("torch.matmul in float16", partial(_torch_product, "float16", device))],
            "int8": [way("torch._int_mm, int8 x int8", partial(_torch_int8_product, device))],
        }
    ways = {
        "fp32": [
            way("torch.matmul in float32", partial(_torch_product, "float32", device)),
            way("ONNX Runtime's MatMul in float32", partial(_onnx_product, False, threads), "onnxruntime"),
        ],
        "bf16": [
            way("torch.matmul in bfloat16", partial(_torch_product, "bfloat16", device)),
            way("torch.matmul of bfloat16 widened to float32", partial(_widened_product, "bfloat16")),
        ],
        "fp16": [
            way("torch.matmul in float16", partial(_torch_product, "float16", device)),
            way("torch.matmul of float16 widened to float32", partial(_widened_product, "float16")),
        ],
        "int8": [
            way("torch._int_mm, int8 x int8", partial(_torch_int8_product, device)),
            way("ONNX Runtime's MatMulInteger, uint8 x int8", partial(_onnx_product, True, threads), "onnxruntime"),
        ],
    }
    if find_spec("openvino"):
        for dtype, name in (("fp32", "float32"), ("int8", "INT8"), ("bf16", "bfloat16")):
            if dtype != "bf16" or BF16_FEATURES & set(host.cpu_features()):
                make = partial(_openvino_product, dtype, threads)
                ways[dtype].append(way(f"OpenVINO's MatMul in {name}", make, "openvino"))
    return ways


def _copy(device: str, cache_bytes: int | None) -> Way:
    """A copy from memory to memory of one device: each byte is read and written."""
    import torch

    if device == "cpu":
        import psutil

        free = min(psutil.virtual_memory().available, host.memory_limit_bytes() or sys.maxsize)
    else:
        free = torch.cuda.mem_get_info()[0]
    size = min(max(COPY_BYTES, 4 * (cache_bytes or 0)), COPY_BYTES_MOST, free // 8)

    def make(size: int) -> Call:
        # Filled, so that every page is there: untouched ones are one page of zeros.
        source, target = (torch.full((size,), fill, dtype=torch.uint8, device=device) for fill in (1, 0))
        return partial(target.copy_, source)

    return Way("torch.Tensor.copy_, bytes read and bytes written", "torch", make, (size,), lambda size: 2.0 * size)


def _host_to_device(device: str) -> Way:
    import torch

    def make(size: int) -> Call:
        source = torch.full((size,), 1, dtype=torch.uint8).pin_memory()
        target = torch.empty(size, dtype=torch.uint8, device=device)
        return partial(target.copy_, source, non_blocking=True)

    return Way("torch.Tensor.copy_ from pinned host memory", "torch", make, (PINNED_BYTES,), float)


def _launch(device: str) -> Way:
    """Many operators on one element, back to back: what each costs before it has anything to do."""
    import torch

    def make(calls: int) -> Call:
        element = torch.zeros(1, device=device)

        def call() -> None:
            for _ in range(calls):
                element.add_(1.0)

        return call

    return Way("torch.Tensor.add_ on one element, one call after another", "torch", make, (TINY_CALLS,), float)


class Others:
    """The use of this process's CPUs by other processes, since this object was made."""

    def __init__(self) -> None:
        self._began_s, self._own_s, self._busy_s = perf_counter(), process_time(), self._busy()

    def cpus(self) -> float:
        """CPUs' worth of time."""
        others_s = self._busy() - self._busy_s - (process_time() - self._own_s)
        return max(0.0, others_s / (perf_counter() - self._began_s))

    @staticmethod
    def _busy() -> float:
        times = host.cpu_times()
        # The time that a virtual machine's host takes for others is lost as well.
        return times.busy_s + (times.steal_s or 0.0)


def _guarded(way: Way, work: Callable[..., None], *arguments: Any) -> None:
    """A way that fails says so and is left out; the others go on."""
    if way.reason is None:
        try:
            work(*arguments)
        except Exception as error:
            traceback.print_exc()
            way.reason, way.seconds = first_line(error), {}


def ceilings(device: str, threads: int) -> dict[str, Any]:
    """What `measure` returns. Imports model libraries, and keeps the device busy for some seconds."""
    import torch

    imported_s = perf_counter()
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    torch.set_float32_matmul_precision("highest")
    kind, clock, cache_bytes = "cpu", _host_clock, host.cache_bytes()
    if device != "cpu":
        torch.cuda.set_device(torch.device(device))
        kind, clock = "cuda", _cuda_clock
        cache_bytes = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", None)
    began_s, others = perf_counter(), Others()
    products = _ways(device, threads)
    beside = {"copy": _copy(device, cache_bytes), "launch": _launch(device)}
    if kind == "cuda":
        beside["host_to_device"] = _host_to_device(device)
        if torch.cuda.get_device_capability(device) < (8, 0):
            products["tf32"][0].reason = "this GPU has no TF32: it came with compute capability 8.0 (Ampere)"
    every = [way for ways in products.values() for way in ways] + list(beside.values())
    for way in every:
        _guarded(way, way.prepare, clock)
    for turn in range(ROUNDS):
        for way in every:
            _guarded(way, way.work, clock, turn, SLICE_S[kind])
    ended_s, others_cpus = perf_counter(), others.cpus()
    return {
        "reason": None,
        "device": device,
        "threads": threads,
        "products": {dtype: _product_result(products.get(dtype, [])) for dtype in DTYPES},
        "copy": _bytes_result(beside["copy"]),
        "host_to_device": _bytes_result(beside.get("host_to_device")),
        "launch": _launch_result(beside["launch"]),
        "cache_bytes": cache_bytes,
        "features": host.cpu_features() if kind == "cpu" else None,
        "versions": environment.installed_versions(("torch", "onnxruntime", "onnxruntime-gpu")),
        "others_cpus": others_cpus,
        "seconds": ended_s - began_s,
        "start_seconds": began_s - imported_s,
    }


def _renamed(result: dict[str, Any], rate: str, size: str) -> dict[str, Any]:
    names = {"rate": rate, "median_rate": f"median_{rate}", "size": size}
    return {names.get(key, key): value for key, value in result.items()}


def _product_result(ways: list[Way]) -> dict[str, Any]:
    """The fastest of `ways`, and each of them."""
    if not ways:
        reason = "TF32 is a mode of NVIDIA's tensor cores, which a CPU has not"
        return {"operations_per_s": None, "reason": reason, "ways": []}
    results = [_renamed(way.result(), "operations_per_s", "size") for way in ways]
    best = max(results, key=lambda result: result["operations_per_s"] or 0.0)
    return best | {"ways": results}


def _bytes_result(way: Way | None) -> dict[str, Any]:
    if way is None:
        return {"bytes_per_s": None, "reason": "the device is the host"}
    return _renamed(way.result(), "bytes_per_s", "buffer_bytes")


def _launch_result(way: Way) -> dict[str, Any]:
    result = _renamed(way.result(), "seconds", "calls_together")
    for key in ("seconds", "median_seconds"):
        if result.get(key):
            result[key] = 1 / result[key]
    return result


def main(arguments: list[str]) -> int:
    """Print the ceilings of the device and threads in `arguments` as one JSON object; the exit code."""
    processes.end_with_parent()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get beside it
    try:
        device, threads = arguments
        found = ceilings(device, int(threads))
    except Exception as error:
        traceback.print_exc()
        found = {"reason": f"the device's ceilings could not be measured: {first_line(error)}"}
    print(json.dumps(found), file=out, flush=True)
    return 0 if found["reason"] is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
