"""Where a call's time goes: its operators or kernels by time and by kind of work, and their trace. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.units import milliseconds, significant, whole

By = Literal["operators", "kernels", "launches"]

TOP = 12
"""How many operators are kept by name; the others are summed."""
NAME_LENGTH = 120
KINDS: dict[str, tuple[str, str]] = {
    "attention": ("fused attention", r"attention|flash|fmha|sdpa"),
    "products": (
        "matrix products",
        r"matmul|gemm|gemv|addmm|bmm|baddbmm|einsum|(^|::)_?mm\b|_int_mm|(^|[:_])linear|xmma|cutlass|fullyconnected|splitk"
        r"|nvjet|triton_tem_",
    ),
    "quantising": ("quantising", r"quant"),
    "copies": (
        "copies and look-ups",
        r"copy|(?<!no)cast|convert|transpose|reshape|permute|reorder|contiguous|memcpy|memset|concat|(^|::)cat\b|clone"
        r"|embedding|gather|index|slice|split|shape|expand|view|\bt\b|as_strided|squeeze|flatten|identity|empty|fill"
        r"|(^|::)to\b|bitcast",
    ),
    "elementwise": (
        "element by element",
        r"norm|softmax|gelu|relu|erf|tanh|sigmoid|add|mul|sub|div|where|mask|reduce|elementwise|pow|sqrt|not|equal"
        r"|mean|sum|max|min|eltwise|dropout|vectorized",
    ),
    "other": ("other work", r""),
}
"""Key -> the displayed name, and a pattern for the names of such operators; the first match counts."""
_GENERATED = re.compile(r"triton_(poi|per|red)_fused_")
"""torch.compile's own kernels. Each is named after all operators it fuses, but visits its elements only once."""
_KINDS = {key: re.compile(pattern, re.IGNORECASE) for key, (_, pattern) in KINDS.items()}

EVENT_KEYS = ("ph", "cat", "name", "pid", "tid", "ts", "dur", "id", "bp", "s")
"""The keys of an event that a trace viewer reads."""
ARGUMENTS = (
    "External id", "Input Dims", "Input type", "op_name", "provider", "input_type_shape", "output_type_shape",
    "output_size", "node_index", "stream", "correlation", "grid", "block", "device", "bytes",
    "memory bandwidth (GB/s)", "est. achieved occupancy %", "name", "sort_index", "labels",
)  # fmt: skip
"""The arguments of an event that may leave the machine: shapes and the device, never a path or a host."""


BETWEEN: dict[By, str] = {
    "operators": "between operators",
    "kernels": "between kernels",
    "launches": "waiting for the device",
}
"""The name of the time in a call that no operator accounts for."""
HEADS: dict[By, str] = {"operators": "Operator", "kernels": "Kernel", "launches": "Launch"}
"""The heading of the column of operators."""


@dataclass(frozen=True)
class Operator:
    """One operator or kernel of the profiled calls."""

    name: str
    calls: int
    seconds: float
    """Its own time over all calls, without the time of the operators that it calls."""


@dataclass(frozen=True)
class Profile:
    """A backend's profile of some calls of one batch."""

    by: By
    """operators: timed on the host that computes them. kernels: timed on the device. launches: a device's operators,
    timed on the host, which does not wait for them."""
    operators: list[Operator]
    wall_s: float
    """The time of all calls, with the profiler's own."""
    trace: Path | None = None
    """The calls' Chrome trace as the library wrote it; None if none was requested."""


def kind(name: str) -> str:
    """The kind of work that an operator or kernel does, by its name: a key of KINDS."""
    if _GENERATED.match(name):
        return "elementwise"
    return next(key for key, pattern in _KINDS.items() if pattern.search(name))


def facts(found: Profile, calls: int, shape: Sequence[int]) -> dict[str, Any]:
    """A profile as the plain values that a row stores; seconds and counts are for one mean call.

    The keys are `by`; `calls`, the number of profiled calls; `shape` of the batch; `wall_s`; `seconds` of all
    operators together; `top`: name, calls and seconds of the TOP slowest operators; `rest`: the number of other
    operators, and their calls and seconds; `kinds`: seconds by key of KINDS; and `reason`, which is None.
    """
    merged: dict[str, tuple[float, float]] = {}
    for operator in found.operators:
        name = " ".join(operator.name.split())[:NAME_LENGTH]
        number, seconds = merged.get(name, (0.0, 0.0))
        merged[name] = number + operator.calls / calls, seconds + operator.seconds / calls
    ordered = sorted(merged.items(), key=lambda item: -item[1][1])
    kinds: dict[str, float] = {}
    for name, (_, seconds) in ordered:
        kinds[kind(name)] = kinds.get(kind(name), 0.0) + seconds
    rest = [value for _, value in ordered[TOP:]]
    return {
        "reason": None,
        "by": found.by,
        "calls": calls,
        "shape": list(shape),
        "wall_s": found.wall_s / calls,
        "seconds": sum(seconds for _, (_, seconds) in ordered),
        "top": [{"name": name, "calls": number, "seconds": s} for name, (number, s) in ordered[:TOP]],
        "rest": {"operators": len(rest), "calls": sum(n for n, _ in rest), "seconds": sum(s for _, s in rest)},
        "kinds": kinds,
    }


@dataclass(frozen=True)
class Line:
    """One line of a displayed profile: an operator, the sum of those beyond the TOP, or the time between operators."""

    name: str
    kind: str | None
    """A key of KINDS; None for the sum and for the time between operators."""
    calls: float | None
    seconds: float
    share: float
    """The share of the profiled call, 0 to 1."""

    @property
    def counted(self) -> str:
        """`calls` as displayed: the mean over the profiled calls, which need not be a whole number."""
        return significant(self.calls) if self.calls is None or self.calls % 1 else whole(int(self.calls))


def lines(found: Mapping[str, Any]) -> list[Line]:
    """The lines of a profile from `facts`, for one call: the slowest operators, the others, the time between them."""
    # Streams or threads that work in parallel can add up to more than the wall time.
    whole_s = max(found["wall_s"], found["seconds"])
    result = [Line(o["name"], kind(o["name"]), o["calls"], o["seconds"], o["seconds"] / whole_s) for o in found["top"]]
    rest, between_s = found["rest"], whole_s - found["seconds"]
    if rest["operators"]:
        name = f"{rest['operators']} others"
        result.append(Line(name, None, rest["calls"], rest["seconds"], rest["seconds"] / whole_s))
    result.append(Line(BETWEEN[found["by"]], None, None, between_s, between_s / whole_s))
    return result


def caption(found: Mapping[str, Any]) -> str:
    """What the figures of a profile mean, in two sentences."""
    rows, tokens = found["shape"]
    calls = "one call" if found["calls"] == 1 else f"a mean of {found['calls']} calls"
    meaning = {
        "operators": "Own time of each of the operators on the host",
        "kernels": "Own time of each of the kernels on the device",
        "launches": "Time that the host takes to launch each operator, whose time on the device is not known",
    }[found["by"]]
    return (
        f"{meaning}, {calls} of {rows} x {tokens} tokens: together "
        f"{milliseconds(found['seconds'])} of the {milliseconds(found['wall_s'])} ms that a call takes under the "
        "profiler. Profiled after all timing; a profiler slows the operators that it times, short ones most."
    )


def trace(raw: Any, about: Mapping[str, str]) -> dict[str, Any]:
    """A Chrome trace for a viewer, made from a library's own: only events, without paths, host and process names.

    `raw`: an object with `traceEvents`, or a list of events.
    """
    events: Iterable[dict[str, Any]] = raw["traceEvents"] if isinstance(raw, dict) else raw
    kept = []
    for event in events:
        if not isinstance(event.get("pid"), int):
            # PyTorch's profiler adds events of its own whose process id is a word, on which some viewers fail.
            continue
        copy = {key: event[key] for key in EVENT_KEYS if key in event}
        if copy.get("ph") == "M" and copy.get("name") in ("process_name", "thread_name"):
            copy["args"] = {"name": f"{str(copy['name']).removesuffix('_name')} {copy.get('tid', '')}".strip()}
        else:
            arguments = event.get("args") or {}
            copy["args"] = {key: arguments[key] for key in ARGUMENTS if key in arguments}
        kept.append(copy)
    return {"displayTimeUnit": "ms", "otherData": dict(about), "traceEvents": kept}
