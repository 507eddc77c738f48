"""The device's limits on a measurement: the figures that `engine.measurement.limits` puts into words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.measurement.polynomial import evaluate
from engine.units import significant

Binds = Literal["compute", "bandwidth", "launches", "host"]
Facts = Mapping[str, Any]

IDLE = 0.7
"""A device that is busy for a smaller share of a call than this waits for its host."""
EXPLAINS = 0.25
"""A limit that accounts for a smaller share of a call than this does not bind it."""
MOST = 0.5
"""A limit with at least this share takes most of the call."""
DISPROVED = 2
"""A row this many times as fast as its own library's ceiling shows that the ceiling was measured far too low."""
FASTER = 1.1
"""The least ratio at which one rate is called faster than another, because shared machines are noisy."""

PARAMETERS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
WIDTHS = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 4}
"""Bytes per activation, by the dtype of the products. Activations between INT8 products are float32."""
INTEGER = ("Integer", "QLinear", "DynamicQuantize", "QAttention", "QGemm")
"""Substrings that mark the names of ONNX Runtime's INT8 operators."""


@dataclass(frozen=True)
class Observation:
    """The facts about a measurement that its limits are computed from."""

    precision: str
    device: Literal["cpu", "cuda"]
    rows: float
    """Mean number of sequences in a call."""
    tokens: float
    """Mean number of tokens in a call, with padding, because padding is computed too."""
    latency_s: float | None
    """Of one call: the median if all calls have the same shape, else the mean, to match the mean shape."""
    device_s: float | None = None
    """`device_p50_s`; None on a CPU."""
    weights_bytes: int | None = None
    settings: Facts = field(default_factory=dict)
    """The settings from the audit."""
    operators: Facts | None = None
    """Where a profiled call's time went, as returned by `engine.measurement.operators.facts`."""


@dataclass(frozen=True)
class Limits:
    """A row beside its device's limits. Each share is a share of a whole call."""

    operations_per_s: float | None
    """Operations of the matrix products, divided by the call's latency. All products of an INT8 model count as integer
    products. Its attention products stay in floating point, so its share is a little too low, never too high."""
    compute_dtype: str | None
    """The dtype that products are really computed in: fp32, tf32, bf16, fp16 or int8."""
    ceiling_operations_per_s: float | None
    """The rate of the fastest product in `compute_dtype` measured on this device, by any library."""
    compute_share: float | None
    bytes_per_call: float | None
    """A lower bound: each weight is read once. Embedding tables and activations between operators are left out."""
    bandwidth_share: float | None
    traffic_share: float | None
    """An upper bound: all activations between operators are written to memory and read back, as without caches and
    fusion."""
    launches_share: float | None
    """The number of operators in a call, times the cost of an empty one."""
    binds: Binds | None
    sentence: str
    reason: str | None
    """Why some figures are None; None if all figures are known."""


@dataclass(frozen=True)
class Baseline:
    """The row that another row is compared with."""

    row: Observation
    limits: Limits
    same_model: bool
    """Whether both rows run the same model, and so the same products."""
    comparison: str | None
    """The other row's speed against this one: better, worse, no_difference or None."""


# Figures


def basic_figures(row: Observation, ceilings: Facts, operations: Facts) -> Limits:
    dtype, unknown = compute_dtype(row)
    product = (ceilings.get("products") or {}).get(dtype) or {}
    ceiling = None if on_host(row) else product.get("operations_per_s")
    if on_host(row):
        unknown = "its products run on the CPU, whose ceiling is not measured in a run on a GPU"
    elif dtype and ceiling is None:
        why = product.get("reason") or ceilings.get("reason") or "it was not measured"
        unknown = f"{dtype.upper()} products have no ceiling here: {why}"
    bandwidth = (ceilings.get("copy") or {}).get("bytes_per_s")
    rate = ratio(_counted(row, operations, "flops"), row.latency_s)
    read, passed = _read_bytes(row, operations), _counted(row, operations, "activation_elements")
    most = None if read is None or passed is None or dtype is None else read + WIDTHS[dtype] * passed
    reasons = (
        None if operations.get("flops") else operations.get("reason") or "the model's operations were not counted",
        ceilings.get("reason"),
        unknown,
        None if row.latency_s else "no call was timed",
    )
    return Limits(
        operations_per_s=rate,
        compute_dtype=dtype,
        ceiling_operations_per_s=ceiling,
        compute_share=ratio(rate, ceiling),
        bytes_per_call=read,
        bandwidth_share=ratio(ratio(read, row.latency_s), bandwidth),
        traffic_share=ratio(ratio(most, row.latency_s), bandwidth),
        launches_share=ratio(_launches_s(row, ceilings, operations), row.latency_s),
        binds=None,
        sentence="",
        reason=next((reason for reason in reasons if reason), None),
    )


def compute_dtype(row: Observation) -> tuple[str | None, str | None]:
    """Return the dtype that the row's products are really computed in, or None and the reason why it is not known."""
    settings = row.settings
    if row.precision == "int8":
        if is_emulated(row):
            return "fp32", None
        return ("int8", None) if settings.get("integer_nodes", 1) else ("fp32", None)
    if row.precision in ("nf4", "fp4"):
        names = str(settings.get("compute_dtype") or "unknown").split(", ")
        if len(names) > 1 or names[0] not in PARAMETERS:
            return None, f"its products are computed in {' and '.join(names)}"
        dtype = PARAMETERS[names[0]]
    else:
        by_dtype = settings.get("parameters_by_dtype") or {}
        most = max(by_dtype, key=lambda name: by_dtype[name], default="")
        dtype = PARAMETERS.get(most, row.precision)
    # A model in TF32 has float32 parameters.
    if dtype == "fp32" and row.device == "cuda" and settings.get("tf32"):
        dtype = "tf32"
    return dtype, None


def _counted(row: Observation, operations: Facts, key: str) -> float | None:
    """The count `key` for a mean call; None if it was not counted."""
    polynomial = operations.get(key)
    if not polynomial or not row.rows:
        return None
    return evaluate(polynomial, row.rows, row.tokens / row.rows)


def _read_bytes(row: Observation, operations: Facts) -> float | None:
    """Bytes of the weights that a call reads: all but the embedding tables, of which a call reads a few rows."""
    gathered = operations.get("gathered_parameters")
    if gathered is None or row.weights_bytes is None:
        return None
    by_dtype = row.settings.get("parameters_by_dtype") or {}
    # Only ONNX Runtime's INT8 quantises the tables too; then no float dtype has enough parameters to hold them.
    wide = [BYTES[name] for name, count in by_dtype.items() if name in BYTES and count >= gathered]
    width = max(wide, default=1) if by_dtype else WIDTHS.get(row.precision, 2)
    return float(max(0, row.weights_bytes - width * gathered))


def _launches_s(row: Observation, ceilings: Facts, operations: Facts) -> float | None:
    """Seconds that launching the call's operators costs, without their work; None if not known."""
    each_s = (ceilings.get("launch") or {}).get("seconds")
    profile = usable_profile(row)
    if library_of(row) != "torch":
        # Other libraries call their own kernels, so the cost of torch's operators does not apply.
        count = None
    elif row.settings.get("cuda_graphs"):
        # A CUDA graph launches all operators at once.
        count = None
    elif profile is not None and profile["by"] == "kernels":
        count = sum(item["calls"] for item in (*profile["top"], profile["rest"]))
    else:
        count = operations.get("operators")
        # Each quantised layer has at least one more operator, to unpack or quantise.
        count = None if count is None else count + row.settings.get("quantized_modules", 0)
    return None if each_s is None or count is None else each_s * count


def ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def on_host(row: Observation) -> bool:
    """Whether the row's device is a GPU but its INT8 operators run on the CPU."""
    placed = (row.settings.get("operators_by_provider") or {}).get("CPUExecutionProvider") or {}
    return row.device == "cuda" and any(part in name for name in placed for part in INTEGER)


def is_emulated(row: Observation) -> bool:
    """Whether bitsandbytes multiplies INT8 as float32, as its CPU code does without AVX-512."""
    capability = row.settings.get("cpu_capability")
    return "bitsandbytes" in row.settings and row.device == "cpu" and capability not in (None, "AVX512")


def fits_cache(found: Limits, ceilings: Facts) -> bool:
    """Whether `bytes_per_call` fits the last-level cache, and so stays there from call to call."""
    return found.bytes_per_call is not None and found.bytes_per_call <= (ceilings.get("cache_bytes") or 0)


def binding(row: Observation, found: Limits, ceilings: Facts) -> Binds | None:
    if on_host(row) or idle_share(row):
        return "host"
    shares: dict[Binds, float] = {"compute": own_share(row, found, ceilings)}
    if not fits_cache(found, ceilings):
        shares["bandwidth"] = found.bandwidth_share or 0.0
    shares["launches"] = found.launches_share or 0.0
    largest = max(shares, key=lambda name: shares[name])
    if shares[largest] >= EXPLAINS:
        return "host" if largest == "launches" and row.device == "cpu" else largest
    if multiplying_s(row) >= MOST:
        return "compute"
    if row.device == "cuda":
        if not multiplying_s(row) and not moving_s(row):
            return None
        return "bandwidth" if moving_s(row) > multiplying_s(row) else "compute"
    # The host is named by elimination, which is only sound if the other shares are known.
    return None if found.compute_share is None or found.bandwidth_share is None else "host"


def own_share(row: Observation, found: Limits, ceilings: Facts) -> float:
    """The share of a call that the products would take at the best rate of the row's own library; 0.0 if not known."""
    own = own_ceiling(row, found, ceilings) or found.ceiling_operations_per_s
    return 0.0 if found.ceiling_operations_per_s is None else ratio(found.operations_per_s, own) or 0.0


def own_ceiling(row: Observation, found: Limits, ceilings: Facts) -> float:
    """The fastest product rate of the row's own library; 0.0 if none was measured, or if the row disproves it."""
    own = float(fastest_product(ceilings, found.compute_dtype or "", library_of(row))["operations_per_s"])
    return 0.0 if (found.operations_per_s or 0.0) > DISPROVED * own else own


def multiplying_s(row: Observation) -> float:
    """The share of a profiled call that products and fused attention take; 0.0 without a profile."""
    return _share_of_profile(row, ("products", "attention"))


def moving_s(row: Observation) -> float:
    """The share of a profiled call that quantising, copies and elementwise work take; 0.0 without a profile."""
    return _share_of_profile(row, ("quantising", "copies", "elementwise"))


def _share_of_profile(row: Observation, kinds: Sequence[str]) -> float:
    profile = usable_profile(row)
    if profile is None:
        return 0.0
    seconds = sum(profile["kinds"].get(key, 0.0) for key in kinds)
    return float(seconds / max(profile["wall_s"], profile["seconds"]))


def busy_time_s(row: Observation) -> float | None:
    """Seconds that the GPU works on a call; None if not known.

    Device events surround the whole call, with the gaps between kernels, so their time is an upper bound.
    """
    profile = usable_profile(row)
    return profile["seconds"] if profile is not None and profile["by"] == "kernels" else row.device_s


def idle_share(row: Observation) -> bool:
    busy_s = busy_time_s(row)
    return bool(row.device == "cuda" and busy_s and row.latency_s and busy_s < IDLE * row.latency_s)


def profile_of(row: Observation) -> Facts | None:
    """The row's profile, or None."""
    found = row.operators
    return found if found and not found.get("reason") and found.get("wall_s") and found.get("seconds") else None


def usable_profile(row: Observation) -> Facts | None:
    """The row's profile if it shows how long the work itself took, else None."""
    found = profile_of(row)
    # The host waits for work on the CPU, so the time of such launches includes the work.
    return None if found and found["by"] == "launches" and not on_host(row) else found


def library_of(row: Observation) -> str:
    """The library that computes the row's products: torch, onnxruntime or openvino."""
    return next((name for name in ("onnxruntime", "openvino") if name in row.settings), "torch")


def fastest_product(ceilings: Facts, dtype: str, library: str | None = None) -> dict[str, Any]:
    """The fastest measured way to compute products in `dtype`: by `library` if it has one, else by any library.

    If no way was measured, `operations_per_s` is 0.0.
    """
    product = (ceilings.get("products") or {}).get(dtype) or {}
    every = [way for way in product.get("ways") or [] if way.get("operations_per_s")]
    ways = [way for way in every if library in (None, way.get("library"))] or every
    nothing = {"operations_per_s": 0.0, "how": "", "library": ""}
    return max(ways, key=lambda way: way["operations_per_s"], default=nothing)


def by_way(way: dict[str, Any]) -> str:
    return f", {way['how']}" if way["how"] else ""


def operation_rate(value: float | None, dtype: str) -> str:
    """Operations/s as text, with a prefix and a unit."""
    unit = "OP/s" if dtype == "int8" else "FLOP/s"
    for prefix, scale in (("T", 1e12), ("G", 1e9)):
        if value is not None and value >= scale:
            return f"{significant(value / scale)} {prefix}{unit}"
    return f"{significant(None if value is None else value / 1e6)} M{unit}"
