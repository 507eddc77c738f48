"""How near a measurement comes to its device's limit, what binds it, and why 4-bit or INT8 won or lost.

Pure functions over plain values: ceilings as returned by `engine.machine.ceilings.measure`, a model's operations as
returned by `engine.artefacts.operations.describe`, and the facts of a row.
"""

from __future__ import annotations

from dataclasses import replace

from engine.measurement.bounds import (
    EXPLAINS,
    FASTER,
    MOST,
    Baseline,
    Facts,
    Limits,
    Observation,
    basic_figures,
    binding,
    busy_time_s,
    by_way,
    fastest_product,
    fits_cache,
    idle_share,
    is_emulated,
    library_of,
    moving_s,
    multiplying_s,
    on_host,
    operation_rate,
    own_ceiling,
    own_share,
    profile_of,
    ratio,
    usable_profile,
)
from engine.measurement.operators import BETWEEN, KINDS
from engine.measurement.polynomial import evaluate
from engine.units import megabytes, milliseconds, significant

BUSY = 0.25
"""A row mentions other processes that used at least this many CPUs while a CPU's ceilings were measured."""
NAMED = 0.03
"""A kind of work that takes a smaller share of a profiled call than this is not named."""
SLOWED = 1.25
"""A row mentions the slowdown of a call under the profiler from this factor."""
INT8_INSTRUCTIONS = {
    "avx512_vnni": "VNNI", "avx_vnni": "VNNI", "amx_int8": "AMX", "i8mm": "I8MM", "asimddp": "SDOT",
}  # fmt: skip


def assess(
    row: Observation, ceilings: Facts | None, operations: Facts | None, baseline: Baseline | None = None
) -> Limits:
    """The limits of `row`; `baseline` is None for the baseline itself.

    `binds` follows from the first rule that holds:

    1. host: INT8 products run on the CPU while the device is a GPU.
    2. host: the GPU is busy for less than IDLE of a call, by its kernels in the row's profile or else by `device_s`.
    3. The largest of three shares, if it is at least EXPLAINS. compute: operations over the rate of the fastest
       products of the row's own library, which the row cannot exceed. bandwidth: `bytes_per_call` over the copy
       bandwidth, unless the bytes fit the last-level cache and stay there between calls. launches: the number of
       operators times the cost of an empty one. A CPU launches nothing, so this share means host there.
    4. compute: no limit explains even EXPLAINS of the call, but by the row's profile products take MOST of it, far
       below their best.
    5. On a GPU, which rule 2 found busy: bandwidth if its other kernels take more of a call than products do, because
       they do little beyond moving the data between products. Else compute.
    6. On a CPU: host. The rest of the call is calling operators, operators that are not products (softmax,
       normalisation, unpacking), products too small to be fast, and other work on the machine.

    Rules without their figures are skipped. `binds` is None if no rule applies.
    """
    found = basic_figures(row, ceilings or {"reason": "no ceilings were measured"}, operations or {})
    found = replace(found, binds=binding(row, found, ceilings or {}))
    parts = [
        _reached(row, found, ceilings or {}),
        _profiled(row, found, operations or {}),
        _why(row, found, ceilings or {}, baseline),
    ]
    return replace(found, sentence=" ".join(part for part in parts if part))


# Words


def _reached(row: Observation, found: Limits, ceilings: Facts) -> str:
    """The share of the limit that the row reaches, and what binds it."""
    sentences = []
    if found.compute_share is None:
        sentences.append(f"The share of the device's limit that it reaches is not known: {found.reason}.")
    else:
        dtype = str(found.compute_dtype)
        reached, ceiling = found.operations_per_s or 0.0, found.ceiling_operations_per_s or 0.0
        best, own = fastest_product(ceilings, dtype), fastest_product(ceilings, dtype, library_of(row))
        text = (
            f"It reaches {_percent(found.compute_share)} of the fastest {dtype.upper()} products measured on this "
            f"device ({operation_rate(reached, dtype)} of {operation_rate(ceiling, dtype)}{by_way(best)})"
        )
        if found.compute_share > 1:
            text += ", which is impossible: the ceiling was measured too low, as happens on a noisy machine"
        elif reached <= own["operations_per_s"] < ceiling / FASTER:
            text += (
                f"; its own library's products ({own['how']}) reach {operation_rate(own['operations_per_s'], dtype)}"
            )
        sentences.append(text + ".")
        if row.device == "cpu" and (others := ceilings.get("others_cpus") or 0.0) >= BUSY:
            sentences.append(
                f"Other processes used {significant(others, 2)} CPUs while the ceiling was measured: it may be too low."
            )
    if found.bandwidth_share is not None and found.bandwidth_share > 1:
        why = "stay in the cache" if fits_cache(found, ceilings) else "were read faster than the measured copy"
        sentences.append(f"Its weights {why}: {_percent(found.bandwidth_share)} of the copy bandwidth.")
    sentences.append(_binding(row, found, ceilings))
    return " ".join(sentence for sentence in sentences if sentence)


def _binding(row: Observation, found: Limits, ceilings: Facts) -> str:
    if found.binds == "compute":
        if found.compute_share is None:
            share = _percent(multiplying_s(row))
            return f"Compute binds, by its profile: products and attention take {share} of a call."
        own = own_share(row, found, ceilings)
        if own >= MOST:
            return "Compute binds."
        if own < EXPLAINS:
            return (
                f"Compute binds, far from its best: products and attention take {_percent(multiplying_s(row))} of a "
                f"profiled call, and at their best would take {_percent(own)}. They are too small to be fast here, or "
                "the machine was not free."
            )
        return f"Compute is the nearest limit: at their best its products would take {_percent(own)} of a call."
    if found.binds == "bandwidth" and found.bandwidth_share is None:
        share = _percent(moving_s(row))
        return f"Memory traffic binds, by its profile: kernels without products take {share} of a call."
    if found.binds == "bandwidth" and (found.bandwidth_share or 0.0) < EXPLAINS:
        most = "" if found.traffic_share is None else f", at the copy bandwidth {_percent(found.traffic_share)} at most"
        return (
            "Memory traffic binds, far from its best: kernels without products take "
            f"{_percent(moving_s(row))} of a profiled call{most}."
        )
    if found.binds == "bandwidth":
        read = megabytes(int(found.bytes_per_call or 0))
        share = _percent(found.bandwidth_share)
        return f"Memory bandwidth binds: reading {read} MB of weights takes {share} of a call."
    if found.binds == "launches":
        return f"Launches bind: its kernels would take {_percent(found.launches_share)} of a call if they did nothing."
    if found.binds is None:
        return _unexplained(row, found)
    if on_host(row):
        return "The host binds."
    if idle_share(row):
        times = f"{milliseconds(busy_time_s(row))} of {milliseconds(row.latency_s)} ms"
        launching = found.launches_share or 0.0
        more = f"; launching its kernels alone takes {_percent(launching)} of it" if launching >= EXPLAINS else ""
        return f"The host binds: the device is busy for {times} of a call{more}."
    if (found.launches_share or 0.0) >= EXPLAINS:
        share = _percent(found.launches_share)
        return f"The host binds: calling its operators would take {share} of a call if they did nothing."
    least, most = _percent(found.bandwidth_share), _percent(found.traffic_share)
    passed = f", moving all data between operators {most} at most" if most else ""
    text = f"The host binds: no limit explains the call (reading the weights would take {least} of it{passed})."
    if usable_profile(row):
        return text
    return (
        f"{text} The rest is calling operators, operators that are not products, products too small to be fast, and "
        "other work on the machine."
    )


def _unexplained(row: Observation, found: Limits) -> str:
    """The sentence when no limit explains a call on a GPU whose kernels were not timed; else empty."""
    if row.device != "cuda" or found.compute_share is None or found.traffic_share is None:
        return ""
    return (
        "What binds is not known: its kernels were not timed, and no limit explains the call (moving all data "
        f"between operators would take {_percent(found.traffic_share)} of it at most)."
    )


def _profiled(row: Observation, found: Limits, operations: Facts) -> str:
    """Where a profiled call's time went, and how fast its products were while they ran."""
    profile = profile_of(row)
    if profile is None:
        return ""
    whole_s = max(profile["wall_s"], profile["seconds"])
    if usable_profile(row) is None:
        waiting = _percent(1 - profile["seconds"] / whole_s)
        return f"The host waits for the device for {waiting} of a profiled call."
    shares = {key: profile["kinds"].get(key, 0.0) / whole_s for key in KINDS}
    shares["between"] = 1 - profile["seconds"] / whole_s
    parts = []
    for key, share in sorted(shares.items(), key=lambda item: -item[1]):
        if share < NAMED:
            continue
        name = KINDS[key][0] if key in KINDS else BETWEEN[profile["by"]]
        more = _while_multiplying(row, profile, found, operations) if key == "products" else ""
        parts.append(f"{name} {_percent(share)}{more}")
    slower = ratio(profile["wall_s"], row.latency_s) or 0.0
    under = f", {significant(slower, 2)} times as long as a timed one" if slower >= SLOWED else ""
    return f"Of a profiled call{under}: {', '.join(parts)}.{_attending(row, profile)}"


def _attending(row: Observation, profile: Facts) -> str:
    """The sentence when PyTorch should have run a fused attention kernel and did not; else empty."""
    if profile["by"] != "kernels" or row.settings.get("attention") != "sdpa" or profile["kinds"].get("attention"):
        return ""
    # `pad_heads` does not rewrite quantised weights.
    mends = row.precision in ("fp32", "tf32", "fp16", "bf16") and "pad_heads" not in row.settings.get("rewrites", [])
    hint = "; `pad_heads` widens heads whose width is not a multiple of 8" if mends else ""
    return f" None of PyTorch's fused attention kernels took its heads, so attention runs in several kernels{hint}."


def _while_multiplying(row: Observation, profile: Facts, found: Limits, operations: Facts) -> str:
    """The share of the ceiling that products reach while they and fused attention run; empty if not known."""
    seconds = multiplying_s(row) * max(profile["wall_s"], profile["seconds"])
    if not operations.get("flops") or not found.ceiling_operations_per_s or not seconds:
        return ""
    rate = evaluate(operations["flops"], *profile["shape"]) / seconds
    return f" (while they run, at {_percent(rate / found.ceiling_operations_per_s)} of the fastest)"


def _why(row: Observation, found: Limits, ceilings: Facts, baseline: Baseline | None) -> str:
    """Why a quantised row is faster or slower than the baseline, as far as the figures show it."""
    if baseline is None:
        return ""
    gain = _gain(row, found, ceilings, baseline)
    products = _products_run(row, found, ceilings, baseline, gain)
    if row.precision in ("nf4", "fp4"):
        parts = [_four_bits(row, found, baseline), _verdict_4bit(baseline, gain, products)]
    elif row.precision == "int8" and on_host(row):
        parts = [_on_two_devices(row), {"worse": "That is why it loses."}.get(str(baseline.comparison), "")]
    elif row.precision == "int8":
        products += _instructions(row, found, ceilings)
        parts = [_eight_bits(row), _verdict_int8(baseline, gain, products)]
    else:
        return _another_library(row, found, ceilings, baseline)
    if not baseline.same_model:
        parts[1] = "Its model is not the baseline's, so the difference is not due to the precision alone."
    return " ".join(part for part in parts if part)


def _four_bits(row: Observation, found: Limits, baseline: Baseline) -> str:
    """What 4-bit saves and what it adds."""
    text = ""
    if row.weights_bytes and baseline.row.weights_bytes:
        mine, theirs = megabytes(row.weights_bytes), megabytes(baseline.row.weights_bytes)
        text = f"Its weights take {mine} MB instead of {theirs}"
        share = baseline.limits.bandwidth_share
        if baseline.limits.binds == "bandwidth":
            text += ", and reading the weights is what binds the baseline. "
        elif baseline.limits.binds == "compute":
            text += ", but compute binds the baseline at this shape, so fewer bytes do not help. "
        elif share is not None:
            text += f", but reading the baseline's would take only {_percent(share)} of its calls. "
        else:
            text += ". "
    dtype = found.compute_dtype.upper() if found.compute_dtype else "a wider format"
    inside = " inside the product's kernel" if row.settings.get("repacked_for_cpu_modules") else ""
    same = " and computes the same products" if baseline.same_model else ""
    return f"{text}Every call unpacks 4-bit weights to {dtype}{inside}{same}."


def _verdict_4bit(baseline: Baseline, gain: float | None, products: str) -> str:
    faster = gain is not None and gain >= FASTER
    if baseline.comparison == "better":
        if baseline.limits.binds == "bandwidth":
            return "It wins because it reads less."
        if faster:
            return f"It wins because {products}, not because of its four bits."
        return "These figures do not explain why it wins."
    if baseline.comparison == "worse":
        if gain is not None and gain * FASTER < 1:
            return f"It loses because {products}, and unpacking comes on top."
        return f"It loses because of the unpacking{f', although {products}' if faster else ''}."
    if baseline.comparison == "no_difference":
        return f"No difference in speed is shown{f', although {products}' if faster else ''}."
    return ""


def _eight_bits(row: Observation) -> str:
    """What INT8 adds to each call."""
    if is_emulated(row):
        return "bitsandbytes multiplies INT8 as FP32 on a CPU without AVX-512, and quantises activations at every call."
    if "bitsandbytes" in row.settings:
        return "Every call quantises activations, multiplies outlier columns separately and scales the results back."
    total = sum((row.settings.get("nodes_by_provider") or {}).values())
    if not total:
        return ""
    integer = row.settings.get("integer_nodes", 0)
    return f"{integer} of its {total} graph nodes are INT8 nodes; activations are quantised at every call."


def _verdict_int8(baseline: Baseline, gain: float | None, products: str) -> str:
    faster = gain is not None and gain >= FASTER
    if baseline.comparison == "better":
        return f"It wins because {products}." if faster else "These figures do not explain why it wins."
    if baseline.comparison == "worse":
        if faster:
            return f"It loses although {products}: the work that INT8 adds or leaves takes more time than that saves."
        return f"It loses because {products}, and quantising comes on top." if gain else "Quantising comes on top."
    if baseline.comparison == "no_difference":
        return f"No difference in speed is shown{f', although {products}' if faster else ''}."
    return ""


def _on_two_devices(row: Observation) -> str:
    nodes, copies = row.settings.get("nodes_by_provider") or {}, row.settings.get("memory_copies")
    between = f", with {copies} copies between the two" if copies else ""
    return (
        f"ONNX Runtime has no CUDA kernels for dynamic INT8: {nodes.get('CPUExecutionProvider', 0)} of its "
        f"{sum(nodes.values())} graph nodes run on the CPU{between}."
    )


def _another_library(row: Observation, found: Limits, ceilings: Facts, baseline: Baseline) -> str:
    """The rates of two libraries that compute the same products in the same dtype; empty for other pairs."""
    dtype = found.compute_dtype
    libraries = [library_of(row), library_of(baseline.row)]
    if dtype is None or dtype != baseline.limits.compute_dtype or not baseline.same_model or len(set(libraries)) < 2:
        return ""
    mine, theirs = (fastest_product(ceilings, dtype, library) for library in libraries)
    rates = [operation_rate(way["operations_per_s"], dtype) for way in (mine, theirs)]
    known = own_ceiling(row, found, ceilings), own_ceiling(baseline.row, baseline.limits, ceilings)
    if 0.0 in known or mine["library"] == theirs["library"]:
        return ""
    return (
        f"It computes the baseline's products with another library: {mine['how']} reaches {rates[0]} here, "
        f"{theirs['how']} {rates[1]}."
    )


def _gain(row: Observation, found: Limits, ceilings: Facts, baseline: Baseline) -> float | None:
    """The best rate of the row's products over that of the baseline's, each by its own library; None if not known."""
    mine, theirs = found.compute_dtype, baseline.limits.compute_dtype
    if mine is None or theirs is None:
        return None
    reached = own_ceiling(row, found, ceilings)
    return ratio(reached or None, own_ceiling(baseline.row, baseline.limits, ceilings))


def _products_run(row: Observation, found: Limits, ceilings: Facts, baseline: Baseline, gain: float | None) -> str:
    """How fast the row's products can be beside the baseline's, and how much of that is due to the library."""
    if gain is None:
        return ""
    mine, theirs = str(found.compute_dtype), str(baseline.limits.compute_dtype)
    times = f"{'up to' if gain >= FASTER else 'only'} {significant(gain, 2)} times as fast as"
    text = f"its {mine.upper()} products run {times} the baseline's in {theirs.upper()} on this device"
    same = [fastest_product(ceilings, theirs, library_of(each))["operations_per_s"] for each in (row, baseline.row)]
    by_library = ratio(*same) or 1.0
    if mine != theirs and by_library >= FASTER and gain >= FASTER:
        text += f", {significant(by_library, 2)} times by the library alone"
    return text


def _instructions(row: Observation, found: Limits, ceilings: Facts) -> str:
    """The CPU's instructions for INT8 products, or a note that it has none; empty for other rows."""
    features = ceilings.get("features")
    if row.device != "cpu" or found.compute_dtype != "int8" or features is None:
        return ""
    names = [name for feature, name in INT8_INSTRUCTIONS.items() if feature in features]
    return f" ({names[-1]})" if names else " (which has no instructions for INT8 products)"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{significant(share * 100, 2 if share < 1 else 3)}%"
