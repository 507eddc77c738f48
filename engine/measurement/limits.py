"""How near a measurement comes to what its device can do, what binds it, and why 4-bit or INT8 won or lost.

Pure functions over plain values: ceilings as `engine.machine.ceilings.measure` gives them, a model's operations as
`engine.artefacts.operations.describe` does, and what a row says of itself.
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
    Row,
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
"""CPUs that others used while a CPU's ceilings were measured, from which on a row says so."""
TOLD = 0.03
"""A kind of work that takes less of a profiled call is not named."""
SLOWED = 1.25
"""From here on it is said how much longer a call takes under the profiler."""
INT8_INSTRUCTIONS = {
    "avx512_vnni": "VNNI", "avx_vnni": "VNNI", "amx_int8": "AMX", "i8mm": "I8MM", "asimddp": "SDOT",
}  # fmt: skip


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
    found = basic_figures(row, ceilings or {"reason": "no ceilings were measured"}, operations or {})
    found = replace(found, binds=binding(row, found, ceilings or {}))
    parts = [
        _reached(row, found, ceilings or {}),
        _profiled(row, found, operations or {}),
        _why(row, found, ceilings or {}, baseline),
    ]
    return replace(found, sentence=" ".join(part for part in parts if part))


# Words


def _reached(row: Row, found: Limits, ceilings: Facts) -> str:
    """The share of the limit, and what binds."""
    said = []
    if found.compute_share is None:
        said.append(f"How near it comes to the device's limit is not known: {found.reason}.")
    else:
        dtype = str(found.compute_dtype)
        reached, ceiling = found.operations_per_s or 0.0, found.ceiling_operations_per_s or 0.0
        best, own = fastest_product(ceilings, dtype), fastest_product(ceilings, dtype, library_of(row))
        text = (
            f"It reaches {_percent(found.compute_share)} of the fastest {dtype.upper()} products measured on this "
            f"device ({operation_rate(reached, dtype)} of {operation_rate(ceiling, dtype)}{by_way(best)})"
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
        why = "stay in the cache" if fits_cache(found, ceilings) else "were read faster than the copy that was measured"
        said.append(f"Its weights {why}: {_percent(found.bandwidth_share)} of the copy bandwidth.")
    said.append(_binding(row, found, ceilings))
    return " ".join(part for part in said if part)


def _binding(row: Row, found: Limits, ceilings: Facts) -> str:
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
        return f"Of the limits compute binds most: at their best its products would take {_percent(own)} of a call."
    if found.binds == "bandwidth" and found.bandwidth_share is None:
        share = _percent(moving_s(row))
        return f"Memory traffic binds, by its profile: kernels that multiply nothing take {share} of a call."
    if found.binds == "bandwidth" and (found.bandwidth_share or 0.0) < EXPLAINS:
        most = "" if found.traffic_share is None else f", at the copy bandwidth {_percent(found.traffic_share)} at most"
        return (
            "Memory traffic binds, far from its best: kernels that multiply nothing take "
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
    passed = f", moving all that passes between operators {most} at most" if most else ""
    said = f"The host binds: no limit explains the call (reading the weights would take {least} of it{passed})."
    if usable_profile(row):
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


def _profiled(row: Row, found: Limits, operations: Facts) -> str:
    """Where a profiled call's time went, and how fast its products were while they ran."""
    profile = profile_of(row)
    if profile is None:
        return ""
    whole_s = max(profile["wall_s"], profile["seconds"])
    if usable_profile(row) is None:
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
    slower = ratio(profile["wall_s"], row.latency_s) or 0.0
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
    seconds = multiplying_s(row) * max(profile["wall_s"], profile["seconds"])
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
    elif row.precision == "int8" and on_host(row):
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
    if is_emulated(row):
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
    libraries = [library_of(row), library_of(baseline.row)]
    if dtype is None or dtype != baseline.limits.compute_dtype or not baseline.same_model or len(set(libraries)) < 2:
        return ""
    mine, theirs = (fastest_product(ceilings, dtype, library) for library in libraries)
    rates = [operation_rate(way["operations_per_s"], dtype) for way in (mine, theirs)]
    known = own_ceiling(row, found, ceilings), own_ceiling(baseline.row, baseline.limits, ceilings)
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
    reached = own_ceiling(row, found, ceilings)
    return ratio(reached or None, own_ceiling(baseline.row, baseline.limits, ceilings))


def _products_run(row: Row, found: Limits, ceilings: Facts, baseline: Baseline, gain: float | None) -> str:
    """How fast the row's products can be beside the baseline's, and how much of that is the library's doing."""
    if gain is None:
        return ""
    mine, theirs = str(found.compute_dtype), str(baseline.limits.compute_dtype)
    times = f"{'up to' if gain >= FASTER else 'only'} {significant(gain, 2)} times as fast as"
    said = f"its {mine.upper()} products run {times} the baseline's in {theirs.upper()} on this device"
    same = [fastest_product(ceilings, theirs, library_of(each))["operations_per_s"] for each in (row, baseline.row)]
    by_library = ratio(*same) or 1.0
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


def _percent(share: float | None) -> str:
    return "" if share is None else f"{significant(share * 100, 2 if share < 1 else 3)}%"
