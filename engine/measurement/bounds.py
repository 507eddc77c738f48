"""What bounds a measurement: the parts of the limit's computation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.measurement.polynomial import evaluate
from engine.units import significant

Binds = Literal["compute", "bandwidth", "launches", "host"]
Facts = Mapping[str, Any]

IDLE = 0.7
"""A device that is busy for less of a call waits for its host."""
EXPLAINS = 0.25
"""A limit that would fill less of a call is not what the call waits for."""
MOST = 0.5
"""From this share on a limit takes most of the call."""
DISPROVED = 2
"""A row that is so many times as fast as its own library's ceiling shows that it was measured far too low."""
FASTER = 1.1
"""The ratio from which on one rate is called faster than another: machines that others use are noisy."""

PARAMETERS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
WIDTHS = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 4}
"""Bytes of an activation, by what products are computed in; between INT8 products stands float32."""
INTEGER = ("Integer", "QLinear", "DynamicQuantize", "QAttention", "QGemm")
"""What the names of ONNX Runtime's INT8 operators contain."""


@dataclass(frozen=True)
class Row:
    """What a measurement says of itself."""

    precision: str
    device: Literal["cpu", "cuda"]
    rows: float
    """Sequences in a mean call."""
    tokens: float
    """Tokens in a mean call, padding included: it is computed like the rest."""
    latency_s: float | None
    """Of one call: the median where all calls have one shape, else the mean, as the shape is a mean."""
    device_s: float | None = None
    """`device_p50_s`; None on a CPU."""
    weights_bytes: int | None = None
    settings: Facts = field(default_factory=dict)
    """The audit's."""
    operators: Facts | None = None
    """Where a profiled call's time went, as `engine.measurement.operators.facts`."""


@dataclass(frozen=True)
class Limits:
    """A row beside its device's limits. A share is one of a whole call."""

    operations_per_s: float | None
    """Operations of the matrix products by the call's latency. Of an INT8 model all count as integer ones, also
    attention's, which stay in floating point: its share is a little too low, never too high."""
    compute_dtype: str | None
    """What products are really computed in: fp32, tf32, bf16, fp16 or int8."""
    ceiling_operations_per_s: float | None
    """The fastest product in `compute_dtype` measured on this device, by any library."""
    compute_share: float | None
    bytes_per_call: float | None
    """At least: each weight read once, embedding tables left out; what passes between operators left out."""
    bandwidth_share: float | None
    traffic_share: float | None
    """At most: all that passes between operators written to memory and read back, as without caches and fusion."""
    launches_share: float | None
    """The operators of a call by the cost of an empty one."""
    binds: Binds | None
    sentence: str
    reason: str | None
    """Why figures are None; None where all are there."""


@dataclass(frozen=True)
class Baseline:
    """The row that another is compared with."""

    row: Row
    limits: Limits
    same_model: bool
    """Whether both run the same model, and so the same products."""
    comparison: str | None
    """The other's speed beside it: better, worse, no_difference or None."""


# Figures


def basic_figures(row: Row, ceilings: Facts, operations: Facts) -> Limits:
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


def compute_dtype(row: Row) -> tuple[str | None, str | None]:
    """What the row's products are really computed in, or None and why that is not known."""
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
    # TF32 has float32 parameters.
    if dtype == "fp32" and row.device == "cuda" and settings.get("tf32"):
        dtype = "tf32"
    return dtype, None


def _counted(row: Row, operations: Facts, key: str) -> float | None:
    """`key` of a mean call; None where it was not counted."""
    polynomial = operations.get(key)
    if not polynomial or not row.rows:
        return None
    return evaluate(polynomial, row.rows, row.tokens / row.rows)


def _read_bytes(row: Row, operations: Facts) -> float | None:
    """The weights but for tables of which a call reads a few rows."""
    gathered = operations.get("gathered_parameters")
    if gathered is None or row.weights_bytes is None:
        return None
    by_dtype = row.settings.get("parameters_by_dtype") or {}
    # Tables stay as they are, but for ONNX Runtime's INT8, which quantises them too: then no float is left for them.
    wide = [BYTES[name] for name, count in by_dtype.items() if name in BYTES and count >= gathered]
    width = max(wide, default=1) if by_dtype else WIDTHS.get(row.precision, 2)
    return float(max(0, row.weights_bytes - width * gathered))


def _launches_s(row: Row, ceilings: Facts, operations: Facts) -> float | None:
    """Seconds that the call's operators cost without their work; None where that is not known."""
    each_s = (ceilings.get("launch") or {}).get("seconds")
    profile = usable_profile(row)
    if library_of(row) != "torch":
        # They call their own kernels: what torch's operators cost says nothing about them.
        count = None
    elif row.settings.get("cuda_graphs"):
        # All are launched at once.
        count = None
    elif profile is not None and profile["by"] == "kernels":
        count = sum(item["calls"] for item in (*profile["top"], profile["rest"]))
    else:
        count = operations.get("operators")
        # Unpacking or quantising is one more, at least, in each quantised layer.
        count = None if count is None else count + row.settings.get("quantized_modules", 0)
    return None if each_s is None or count is None else each_s * count


def ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def on_host(row: Row) -> bool:
    """Whether INT8 operators of a row on a GPU run on the CPU."""
    placed = (row.settings.get("operators_by_provider") or {}).get("CPUExecutionProvider") or {}
    return row.device == "cuda" and any(part in name for name in placed for part in INTEGER)


def is_emulated(row: Row) -> bool:
    """Whether bitsandbytes multiplies INT8 as float32: its CPU code does so without AVX-512."""
    capability = row.settings.get("cpu_capability")
    return "bitsandbytes" in row.settings and row.device == "cpu" and capability not in (None, "AVX512")


def fits_cache(found: Limits, ceilings: Facts) -> bool:
    """Whether what a call reads at least stays in the last-level cache from call to call."""
    return found.bytes_per_call is not None and found.bytes_per_call <= (ceilings.get("cache_bytes") or 0)


def binding(row: Row, found: Limits, ceilings: Facts) -> Binds | None:
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
    # What is left can only be named where nothing that was measured may be it.
    return None if found.compute_share is None or found.bandwidth_share is None else "host"


def own_share(row: Row, found: Limits, ceilings: Facts) -> float:
    """What the products would take of a call at the best of the row's own library; 0.0 where that is not known."""
    own = own_ceiling(row, found, ceilings) or found.ceiling_operations_per_s
    return 0.0 if found.ceiling_operations_per_s is None else ratio(found.operations_per_s, own) or 0.0


def own_ceiling(row: Row, found: Limits, ceilings: Facts) -> float:
    """The fastest products of the row's own library; 0.0 where there are none, or where the row disproves them."""
    own = float(fastest_product(ceilings, found.compute_dtype or "", library_of(row))["operations_per_s"])
    return 0.0 if (found.operations_per_s or 0.0) > DISPROVED * own else own


def multiplying_s(row: Row) -> float:
    """The share of a profiled call that products and fused attention take; 0.0 where there is no profile."""
    return _share_of_profile(row, ("products", "attention"))


def moving_s(row: Row) -> float:
    """The share of a profiled call that what multiplies nothing takes; 0.0 where there is no profile."""
    return _share_of_profile(row, ("quantising", "copies", "elementwise"))


def _share_of_profile(row: Row, kinds: Sequence[str]) -> float:
    profile = usable_profile(row)
    if profile is None:
        return 0.0
    seconds = sum(profile["kinds"].get(key, 0.0) for key in kinds)
    return float(seconds / max(profile["wall_s"], profile["seconds"]))


def busy_time_s(row: Row) -> float | None:
    """How long the GPU works on a call; None where that is not known.

    Device events stand around all that a call does, gaps between kernels included: they say at most how long.
    """
    profile = usable_profile(row)
    return profile["seconds"] if profile is not None and profile["by"] == "kernels" else row.device_s


def idle_share(row: Row) -> bool:
    busy_s = busy_time_s(row)
    return bool(row.device == "cuda" and busy_s and row.latency_s and busy_s < IDLE * row.latency_s)


def profile_of(row: Row) -> Facts | None:
    """The row's profile, where it has one."""
    found = row.operators
    return found if found and not found.get("reason") and found.get("wall_s") and found.get("seconds") else None


def usable_profile(row: Row) -> Facts | None:
    """The row's profile, where it tells how long the work itself took."""
    found = profile_of(row)
    # What ran on the CPU was waited for.
    return None if found and found["by"] == "launches" and not on_host(row) else found


def library_of(row: Row) -> str:
    """Whose products the row makes: torch, onnxruntime or openvino."""
    return next((name for name in ("onnxruntime", "openvino") if name in row.settings), "torch")


def fastest_product(ceilings: Facts, dtype: str, library: str | None = None) -> dict[str, Any]:
    """The fastest way measured to make products in `dtype`, of `library` where it has one.

    Its operations_per_s is 0.0 where there is none.
    """
    product = (ceilings.get("products") or {}).get(dtype) or {}
    every = [way for way in product.get("ways") or [] if way.get("operations_per_s")]
    ways = [way for way in every if library in (None, way.get("library"))] or every
    nothing = {"operations_per_s": 0.0, "how": "", "library": ""}
    return max(ways, key=lambda way: way["operations_per_s"], default=nothing)


def by_way(way: dict[str, Any]) -> str:
    return f", {way['how']}" if way["how"] else ""


def operation_rate(value: float | None, dtype: str) -> str:
    """Operations/s as people read them."""
    unit = "OP/s" if dtype == "int8" else "FLOP/s"
    for prefix, scale in (("T", 1e12), ("G", 1e9)):
        if value is not None and value >= scale:
            return f"{significant(value / scale)} {prefix}{unit}"
    return f"{significant(None if value is None else value / 1e6)} M{unit}"
