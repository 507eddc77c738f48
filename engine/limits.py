"""How near a measurement comes to what its device can do, what binds it, and why 4-bit or INT8 won or lost.

Pure functions over plain values: ceilings as `engine.ceilings.measure` gives them, a model's operations as
`engine.operations.describe` does, and what a row says of itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from engine.operations import evaluate
from engine.operators import BETWEEN, KINDS
from engine.units import megabytes, milliseconds, significant

Binds = Literal["compute", "bandwidth", "launches", "host"]
Facts = Mapping[str, Any]

IDLE = 0.7
"""A device that is busy for less of a call waits for its host."""
EXPLAINS = 0.25
"""A limit that would fill less of a call is not what the call waits for."""
MOST = 0.5
"""From this share on a limit takes most of the call."""
BUSY = 0.25
"""CPUs that others used while a CPU's ceilings were measured, from which on a row says so."""
DISPROVED = 2
"""A row that is so many times as fast as its own library's ceiling shows that it was measured far too low."""
TOLD = 0.03
"""A kind of work that takes less of a profiled call is not named."""
SLOWED = 1.25
"""From here on it is said how much longer a call takes under the profiler."""
FASTER = 1.1
"""The ratio from which on one rate is called faster than another: machines that others use are noisy."""

PARAMETERS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
WIDTHS = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 4}
"""Bytes of an activation, by what products are computed in; between INT8 products stands float32."""
INT8_INSTRUCTIONS = {
    "avx512_vnni": "VNNI", "avx_vnni": "VNNI", "amx_int8": "AMX", "i8mm": "I8MM", "asimddp": "SDOT",
}  # fmt: skip
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
    """Where a profiled call's time went, as `engine.operators.facts`."""


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


def assess(row: Row, ceilings: Facts | None, operations: Facts | None, baseline: Baseline | None = None) -> Limits:
    """The limits of `row`; `baseline` is None for the baseline itself.

    What binds, by the first rule that holds:

    1. host: INT8 products run on the CPU while the device is a GPU.
    2. host: the GPU is busy for less than IDLE of a call, by its kernels in the row's profile or else by `device_s`.
    3. The largest of three shares, where it is at least EXPLAINS. compute: operations by the fastest products of the
       row's own library, which it cannot exceed. bandwidth: bytes_per_call by the copy bandwidth, unless so few
       bytes stay in the last-level cache between calls. launches: operators by what an empty one costs; on a CPU,
       which launches nothing, that is the host.
    4. compute: no limit explains even EXPLAINS of the call, but by the row's profile products take MOST of it, far
       below their best.
    5. On a GPU, which rule 2 found busy: bandwidth where its other kernels take more of a call than products do; they
       do little beyond moving what passes between products. Else compute.
    6. On a CPU: host. What is left is calling operators, those that are no products (softmax, normalisation,
       unpacking), products too small to be fast, and other work on the machine.

    Rules whose figures are missing are left out; `binds` is None where no rule says.
    """
    found = _figures(row, ceilings or {"reason": "no ceilings were measured"}, operations or {})
    found = replace(found, binds=_binds(row, found, ceilings or {}))
    parts = [
        _reached(row, found, ceilings or {}),
        _profiled(row, found, operations or {}),
        _why(row, found, ceilings or {}, baseline),
    ]
    return replace(found, sentence=" ".join(part for part in parts if part))


# Figures


def _figures(row: Row, ceilings: Facts, operations: Facts) -> Limits:
    dtype, unknown = compute_dtype(row)
    product = (ceilings.get("products") or {}).get(dtype) or {}
    ceiling = None if _on_host(row) else product.get("operations_per_s")
    if _on_host(row):
        unknown = "its products run on the CPU, whose ceiling is not measured in a run on a GPU"
    elif dtype and ceiling is None:
        why = product.get("reason") or ceilings.get("reason") or "it was not measured"
        unknown = f"{dtype.upper()} products have no ceiling here: {why}"
    bandwidth = (ceilings.get("copy") or {}).get("bytes_per_s")
    rate = _ratio(_counted(row, operations, "flops"), row.latency_s)
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
        compute_share=_ratio(rate, ceiling),
        bytes_per_call=read,
        bandwidth_share=_ratio(_ratio(read, row.latency_s), bandwidth),
        traffic_share=_ratio(_ratio(most, row.latency_s), bandwidth),
        launches_share=_ratio(_launches_s(row, ceilings, operations), row.latency_s),
        binds=None,
        sentence="",
        reason=next((reason for reason in reasons if reason), None),
    )


def compute_dtype(row: Row) -> tuple[str | None, str | None]:
    """What the row's products are really computed in, or None and why that is not known."""
    settings = row.settings
    if row.precision == "int8":
        if _emulated(row):
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
    profile = _seen(row)
    if _library(row) != "torch":
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


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _on_host(row: Row) -> bool:
    """Whether INT8 operators of a row on a GPU run on the CPU."""
    placed = (row.settings.get("operators_by_provider") or {}).get("CPUExecutionProvider") or {}
    return row.device == "cuda" and any(part in name for name in placed for part in INTEGER)


def _emulated(row: Row) -> bool:
    """Whether bitsandbytes multiplies INT8 as float32: its CPU code does so without AVX-512."""
    capability = row.settings.get("cpu_capability")
    return "bitsandbytes" in row.settings and row.device == "cpu" and capability not in (None, "AVX512")


def _cached(found: Limits, ceilings: Facts) -> bool:
    """Whether what a call reads at least stays in the last-level cache from call to call."""
    return found.bytes_per_call is not None and found.bytes_per_call <= (ceilings.get("cache_bytes") or 0)


def _binds(row: Row, found: Limits, ceilings: Facts) -> Binds | None:
    if _on_host(row) or _idle(row):
        return "host"
    shares: dict[Binds, float] = {"compute": _own_share(row, found, ceilings)}
    if not _cached(found, ceilings):
        shares["bandwidth"] = found.bandwidth_share or 0.0
    shares["launches"] = found.launches_share or 0.0
    largest = max(shares, key=lambda name: shares[name])
    if shares[largest] >= EXPLAINS:
        return "host" if largest == "launches" and row.device == "cpu" else largest
    if _multiplying(row) >= MOST:
        return "compute"
    if row.device == "cuda":
        if not _multiplying(row) and not _moving(row):
            return None
        return "bandwidth" if _moving(row) > _multiplying(row) else "compute"
    # What is left can only be named where nothing that was measured may be it.
    return None if found.compute_share is None or found.bandwidth_share is None else "host"


def _own_share(row: Row, found: Limits, ceilings: Facts) -> float:
    """What the products would take of a call at the best of the row's own library; 0.0 where that is not known."""
    own = _own_ceiling(row, found, ceilings) or found.ceiling_operations_per_s
    return 0.0 if found.ceiling_operations_per_s is None else _ratio(found.operations_per_s, own) or 0.0


def _own_ceiling(row: Row, found: Limits, ceilings: Facts) -> float:
    """The fastest products of the row's own library; 0.0 where there are none, or where the row disproves them."""
    own = float(_product(ceilings, found.compute_dtype or "", _library(row))["operations_per_s"])
    return 0.0 if (found.operations_per_s or 0.0) > DISPROVED * own else own


def _multiplying(row: Row) -> float:
    """The share of a profiled call that products and fused attention take; 0.0 where there is no profile."""
    return _share_of_profile(row, ("products", "attention"))


def _moving(row: Row) -> float:
    """The share of a profiled call that what multiplies nothing takes; 0.0 where there is no profile."""
    return _share_of_profile(row, ("quantising", "copies", "elementwise"))


def _share_of_profile(row: Row, kinds: Sequence[str]) -> float:
    profile = _seen(row)
    if profile is None:
        return 0.0
    seconds = sum(profile["kinds"].get(key, 0.0) for key in kinds)
    return float(seconds / max(profile["wall_s"], profile["seconds"]))


def _busy_s(row: Row) -> float | None:
    """How long the GPU works on a call; None where that is not known.

    Device events stand around all that a call does, gaps between kernels included: they say at most how long.
    """
    profile = _seen(row)
    return profile["seconds"] if profile is not None and profile["by"] == "kernels" else row.device_s


def _idle(row: Row) -> bool:
    busy_s = _busy_s(row)
    return bool(row.device == "cuda" and busy_s and row.latency_s and busy_s < IDLE * row.latency_s)


# Words


def _reached(row: Row, found: Limits, ceilings: Facts) -> str:
    """The share of the limit, and what binds."""
    said = []
    if found.compute_share is None:
        said.append(f"How near it comes to the device's limit is not known: {found.reason}.")
    else:
        dtype = str(found.compute_dtype)
        reached, ceiling = found.operations_per_s or 0.0, found.ceiling_operations_per_s or 0.0
        best, own = _product(ceilings, dtype), _product(ceilings, dtype, _library(row))
        text = (
            f"It reaches {_percent(found.compute_share)} of the fastest {dtype.upper()} products measured on this "
            f"device ({operation_rate(reached, dtype)} of {operation_rate(ceiling, dtype)}{_by(best)})"
        )
        if found.compute_share > 1:
            text += ", which cannot be: that was measured too low, as happens on a noisy machine"
        elif reached <= own["operations_per_s"] < ceiling / FASTER:
            text += f"; its own library's alone ({own['how']}) reach {operation_rate(own['operations_per_s'], dtype)}"
        said.append(text + ".")
        if row.device == "cpu" and (others := ceilings.get("others_cpus") or 0.0) >= BUSY:
            said.append(
                f"Other processes used {significant(others, 2)} CPUs while that was measured: it may be too low."
            )
    if found.bandwidth_share is not None and found.bandwidth_share > 1:
        why = "stay in the cache" if _cached(found, ceilings) else "were read faster than the copy that was measured"
        said.append(f"Its weights {why}: {_percent(found.bandwidth_share)} of the copy bandwidth.")
    said.append(_binding(row, found, ceilings))
    return " ".join(part for part in said if part)


def _binding(row: Row, found: Limits, ceilings: Facts) -> str:
    if found.binds == "compute":
        if found.compute_share is None:
            share = _percent(_multiplying(row))
            return f"Compute binds, by its profile: products and attention take {share} of a call."
        own = _own_share(row, found, ceilings)
        if own >= MOST:
            return "Compute binds."
        if own < EXPLAINS:
            return (
                f"Compute binds, far from its best: products and attention take {_percent(_multiplying(row))} of a "
                f"profiled call, and at their best would take {_percent(own)}. They are too small to be fast here, or "
                "the machine was not free."
            )
        return f"Of the limits compute binds most: at their best its products would take {_percent(own)} of a call."
    if found.binds == "bandwidth" and found.bandwidth_share is None:
        share = _percent(_moving(row))
        return f"Memory traffic binds, by its profile: kernels that multiply nothing take {share} of a call."
    if found.binds == "bandwidth" and (found.bandwidth_share or 0.0) < EXPLAINS:
        most = "" if found.traffic_share is None else f", at the copy bandwidth {_percent(found.traffic_share)} at most"
        return (
            "Memory traffic binds, far from its best: kernels that multiply nothing take "
            f"{_percent(_moving(row))} of a profiled call{most}."
        )
    if found.binds == "bandwidth":
        read = megabytes(int(found.bytes_per_call or 0))
        share = _percent(found.bandwidth_share)
        return f"Memory bandwidth binds: reading {read} MB of weights takes {share} of a call."
    if found.binds == "launches":
        return f"Launches bind: its kernels would take {_percent(found.launches_share)} of a call if they did nothing."
    if found.binds is None:
        return _unexplained(row, found)
    if _on_host(row):
        return "The host binds."
    if _idle(row):
        times = f"{milliseconds(_busy_s(row))} of {milliseconds(row.latency_s)} ms"
        launching = found.launches_share or 0.0
        more = f"; launching its kernels alone takes {_percent(launching)} of it" if launching >= EXPLAINS else ""
        return f"The host binds: the device is busy for {times} of a call{more}."
    if (found.launches_share or 0.0) >= EXPLAINS:
        share = _percent(found.launches_share)
        return f"The host binds: calling its operators would take {share} of a call if they did nothing."
    least, most = _percent(found.bandwidth_share), _percent(found.traffic_share)
    passed = f", moving all that passes between operators {most} at most" if most else ""
    said = f"The host binds: no limit explains the call (reading the weights would take {least} of it{passed})."
    if _seen(row):
        return said
    return (
        f"{said} What is left is calling operators, those that are no products, products too small to be fast, and "
        "what else runs here."
    )


def _unexplained(row: Row, found: Limits) -> str:
    """What can be said where no limit explains a call on a GPU whose kernels nobody timed; else empty."""
    if row.device != "cuda" or found.compute_share is None or found.traffic_share is None:
        return ""
    return (
        "What binds is not known: its kernels were not timed, and no limit explains the call (moving all that passes "
        f"between operators would take {_percent(found.traffic_share)} of it at most)."
    )


def _profile(row: Row) -> Facts | None:
    """The row's profile, where it has one."""
    found = row.operators
    return found if found and not found.get("reason") and found.get("wall_s") and found.get("seconds") else None


def _seen(row: Row) -> Facts | None:
    """The row's profile, where it tells how long the work itself took."""
    found = _profile(row)
    # What ran on the CPU was waited for.
    return None if found and found["by"] == "launches" and not _on_host(row) else found


def _profiled(row: Row, found: Limits, operations: Facts) -> str:
    """Where a profiled call's time went, and how fast its products were while they ran."""
    profile = _profile(row)
    if profile is None:
        return ""
    whole_s = max(profile["wall_s"], profile["seconds"])
    if _seen(row) is None:
        waiting = _percent(1 - profile["seconds"] / whole_s)
        return f"Of a profiled call the host waits {waiting} for the device."
    shares = {key: profile["kinds"].get(key, 0.0) / whole_s for key in KINDS}
    shares["between"] = 1 - profile["seconds"] / whole_s
    said = []
    for key, share in sorted(shares.items(), key=lambda item: -item[1]):
        if share < TOLD:
            continue
        name = KINDS[key][0] if key in KINDS else BETWEEN[profile["by"]]
        more = _while_multiplying(row, profile, found, operations) if key == "products" else ""
        said.append(f"{name} {_percent(share)}{more}")
    slower = _ratio(profile["wall_s"], row.latency_s) or 0.0
    under = f", {significant(slower, 2)} times as long as a timed one" if slower >= SLOWED else ""
    return f"Of a profiled call{under}: {', '.join(said)}.{_attending(row, profile)}"


def _attending(row: Row, profile: Facts) -> str:
    """Where PyTorch was to take a fused kernel and none ran; else empty."""
    if profile["by"] != "kernels" or row.settings.get("attention") != "sdpa" or profile["kinds"].get("attention"):
        return ""
    # Quantised weights are not rewritten.
    mends = row.precision in ("fp32", "tf32", "fp16", "bf16") and "pad_heads" not in row.settings.get("rewrites", [])
    hint = "; `pad_heads` widens them where 8 does not divide their width" if mends else ""
    return f" None of PyTorch's fused attention kernels took its heads: they attend in several kernels{hint}."


def _while_multiplying(row: Row, profile: Facts, found: Limits, operations: Facts) -> str:
    """The share of the ceiling that products reach while they, and fused attention, run; empty where not known."""
    seconds = _multiplying(row) * max(profile["wall_s"], profile["seconds"])
    if not operations.get("flops") or not found.ceiling_operations_per_s or not seconds:
        return ""
    rate = evaluate(operations["flops"], *profile["shape"]) / seconds
    return f" (while they run, at {_percent(rate / found.ceiling_operations_per_s)} of the fastest)"


def _why(row: Row, found: Limits, ceilings: Facts, baseline: Baseline | None) -> str:
    """Why a quantised row is faster or slower than the baseline, as far as the figures say."""
    if baseline is None:
        return ""
    gain = _gain(row, found, ceilings, baseline)
    products = _products_run(row, found, ceilings, baseline, gain)
    if row.precision in ("nf4", "fp4"):
        parts = [_four_bits(row, found, baseline), _verdict_4bit(baseline, gain, products)]
    elif row.precision == "int8" and _on_host(row):
        parts = [_on_two_devices(row), {"worse": "That is why it loses."}.get(str(baseline.comparison), "")]
    elif row.precision == "int8":
        products += _instructions(row, found, ceilings)
        parts = [_eight_bits(row), _verdict_int8(baseline, gain, products)]
    else:
        return _another_library(row, found, ceilings, baseline)
    if not baseline.same_model:
        parts[1] = "Its model is another one than the baseline's, so the difference is not the precision's alone."
    return " ".join(part for part in parts if part)


def _four_bits(row: Row, found: Limits, baseline: Baseline) -> str:
    """What 4-bit saves, and what it adds."""
    said = ""
    if row.weights_bytes and baseline.row.weights_bytes:
        mine, theirs = megabytes(row.weights_bytes), megabytes(baseline.row.weights_bytes)
        said = f"Its weights take {mine} MB instead of {theirs}"
        share = baseline.limits.bandwidth_share
        if baseline.limits.binds == "bandwidth":
            said += ", and reading them is what binds the baseline. "
        elif baseline.limits.binds == "compute":
            said += ", but compute binds the baseline at this shape, so fewer bytes do not help. "
        elif share is not None:
            said += f", but reading the baseline's would take only {_percent(share)} of its calls. "
        else:
            said += ". "
    dtype = found.compute_dtype.upper() if found.compute_dtype else "a wider format"
    inside = " inside the product's kernel" if row.settings.get("repacked_for_cpu_modules") else ""
    same = " and makes the same products" if baseline.same_model else ""
    return f"{said}Every call unpacks 4-bit weights to {dtype}{inside}{same}."


def _verdict_4bit(baseline: Baseline, gain: float | None, products: str) -> str:
    faster = gain is not None and gain >= FASTER
    if baseline.comparison == "better":
        if baseline.limits.binds == "bandwidth":
            return "It wins because it reads less."
        if faster:
            return f"It wins because {products}, not by its four bits."
        return "Why it wins does not follow from these figures."
    if baseline.comparison == "worse":
        if gain is not None and gain * FASTER < 1:
            return f"It loses because {products}, and unpacking comes on top."
        return f"It loses by the unpacking{f', although {products}' if faster else ''}."
    if baseline.comparison == "no_difference":
        return f"No difference in speed is shown{f', although {products}' if faster else ''}."
    return ""


def _eight_bits(row: Row) -> str:
    """What INT8 adds to each call."""
    if _emulated(row):
        return "bitsandbytes multiplies INT8 as FP32 on a CPU without AVX-512, and quantises activations at every call."
    if "bitsandbytes" in row.settings:
        return "Every call quantises activations, multiplies columns with outliers apart and scales the results back."
    total = sum((row.settings.get("nodes_by_provider") or {}).values())
    if not total:
        return ""
    integer = row.settings.get("integer_nodes", 0)
    return f"{integer} of its {total} graph nodes are INT8's; activations are quantised at every call."


def _verdict_int8(baseline: Baseline, gain: float | None, products: str) -> str:
    faster = gain is not None and gain >= FASTER
    if baseline.comparison == "better":
        return f"It wins because {products}." if faster else "Why it wins does not follow from these figures."
    if baseline.comparison == "worse":
        if faster:
            return f"It loses although {products}: what INT8 adds, and what it leaves, take more than that saves."
        return f"It loses because {products}, and quantising comes on top." if gain else "Quantising comes on top."
    if baseline.comparison == "no_difference":
        return f"No difference in speed is shown{f', although {products}' if faster else ''}."
    return ""


def _on_two_devices(row: Row) -> str:
    nodes, copies = row.settings.get("nodes_by_provider") or {}, row.settings.get("memory_copies")
    between = f", with {copies} copies between the two" if copies else ""
    return (
        f"ONNX Runtime has no CUDA kernels for dynamic INT8: {nodes.get('CPUExecutionProvider', 0)} of its "
        f"{sum(nodes.values())} graph nodes run on the CPU{between}."
    )


def _another_library(row: Row, found: Limits, ceilings: Facts, baseline: Baseline) -> str:
    """What the same products in the same dtype tell of two libraries; empty where it is not that."""
    dtype = found.compute_dtype
    libraries = [_library(row), _library(baseline.row)]
    if dtype is None or dtype != baseline.limits.compute_dtype or not baseline.same_model or len(set(libraries)) < 2:
        return ""
    mine, theirs = (_product(ceilings, dtype, library) for library in libraries)
    rates = [operation_rate(way["operations_per_s"], dtype) for way in (mine, theirs)]
    known = _own_ceiling(row, found, ceilings), _own_ceiling(baseline.row, baseline.limits, ceilings)
    if 0.0 in known or mine["library"] == theirs["library"]:
        return ""
    return (
        f"It makes the baseline's products by another library: {mine['how']} reaches {rates[0]} here, "
        f"{theirs['how']} {rates[1]}."
    )


def _gain(row: Row, found: Limits, ceilings: Facts, baseline: Baseline) -> float | None:
    """How many times the rate of the baseline's products the row's can reach, each by its own library."""
    mine, theirs = found.compute_dtype, baseline.limits.compute_dtype
    if mine is None or theirs is None:
        return None
    reached = _own_ceiling(row, found, ceilings)
    return _ratio(reached or None, _own_ceiling(baseline.row, baseline.limits, ceilings))


def _products_run(row: Row, found: Limits, ceilings: Facts, baseline: Baseline, gain: float | None) -> str:
    """How fast the row's products can be beside the baseline's, and how much of that is the library's doing."""
    if gain is None:
        return ""
    mine, theirs = str(found.compute_dtype), str(baseline.limits.compute_dtype)
    times = f"{'up to' if gain >= FASTER else 'only'} {significant(gain, 2)} times as fast as"
    said = f"its {mine.upper()} products run {times} the baseline's in {theirs.upper()} on this device"
    same = [_product(ceilings, theirs, _library(each))["operations_per_s"] for each in (row, baseline.row)]
    by_library = _ratio(*same) or 1.0
    if mine != theirs and by_library >= FASTER and gain >= FASTER:
        said += f", {significant(by_library, 2)} times by the library alone"
    return said


def _instructions(row: Row, found: Limits, ceilings: Facts) -> str:
    """What of the CPU makes INT8 fast, or that nothing does."""
    features = ceilings.get("features")
    if row.device != "cpu" or found.compute_dtype != "int8" or features is None:
        return ""
    names = [name for feature, name in INT8_INSTRUCTIONS.items() if feature in features]
    return f" ({names[-1]})" if names else " (which has no instructions for INT8 products)"


def _library(row: Row) -> str:
    """Whose products the row makes: torch, onnxruntime or openvino."""
    return next((name for name in ("onnxruntime", "openvino") if name in row.settings), "torch")


def _product(ceilings: Facts, dtype: str, library: str | None = None) -> dict[str, Any]:
    """The fastest way measured to make products in `dtype`, of `library` where it has one.

    Its operations_per_s is 0.0 where there is none.
    """
    product = (ceilings.get("products") or {}).get(dtype) or {}
    every = [way for way in product.get("ways") or [] if way.get("operations_per_s")]
    ways = [way for way in every if library in (None, way.get("library"))] or every
    nothing = {"operations_per_s": 0.0, "how": "", "library": ""}
    return max(ways, key=lambda way: way["operations_per_s"], default=nothing)


def _by(way: dict[str, Any]) -> str:
    return f", {way['how']}" if way["how"] else ""


def operation_rate(value: float | None, dtype: str) -> str:
    """Operations/s as people read them."""
    unit = "OP/s" if dtype == "int8" else "FLOP/s"
    for prefix, scale in (("T", 1e12), ("G", 1e9)):
        if value is not None and value >= scale:
            return f"{significant(value / scale)} {prefix}{unit}"
    return f"{significant(None if value is None else value / 1e6)} M{unit}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{significant(share * 100, 2 if share < 1 else 3)}%"
