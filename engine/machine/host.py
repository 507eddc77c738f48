"""The host's CPU and memory, as this process may use them."""

from __future__ import annotations

import functools
import math
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
SYS_CPU = Path("/sys/devices/system/cpu")

FEATURES = (
    "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
    "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "svebf16", "svei8mm", "sme",
)  # fmt: skip
"""CPU flags that change how fast, or how, a model computes."""


# -- CPU and memory ------------------------------------------------------------------------------


def read_line(path: Path) -> str:
    """The text of a small system file, stripped; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def cpu_affinity() -> list[int]:
    """The CPUs that this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _cgroup_folders(controller: str) -> list[Path]:
    """The folders of the cgroups, v1 or v2, that hold this process for `controller`, and their parents."""
    paths_by_kind: dict[str, str] = {}
    for line in read_line(PROC / "self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            paths_by_kind["cgroup2"] = path
        elif controller in controllers.split(","):
            paths_by_kind["cgroup"] = path
    found: list[Path] = []
    for line in read_line(PROC / "self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, words = left.split(), right.split()
        kind, options = (words[0], words[-1].split(",")) if words else ("", [])
        if kind not in paths_by_kind or (kind == "cgroup" and controller not in options):
            continue
        root, point = fields[3].rstrip("/"), Path(fields[4].replace("\\040", " "))
        path = paths_by_kind[kind]
        inside = path.removeprefix(root) if path == root or path.startswith(f"{root}/") else ""
        folder = point / inside.strip("/") if ".." not in Path(inside).parts else point
        while True:
            found.append(folder)
            if folder == point:
                break
            folder = folder.parent
    return found


@dataclass(frozen=True)
class CpuTimes:
    """Seconds that the CPUs which this process may use were busy, and taken by other machines, since the start."""

    busy_s: float
    steal_s: float | None
    """None where the system does not tell."""
    cpus: int
    """How many they are; all of the machine's where the system does not tell them apart."""


def cpu_times() -> CpuTimes:
    """Read from the system's own counters, of every process."""
    import psutil

    every = psutil.cpu_times(percpu=True)
    mine = [every[cpu] for cpu in cpu_affinity()] if max(cpu_affinity()) < len(every) else every
    # Guest time is part of user time already.
    busy_s = sum(getattr(one, name, 0.0) for one in mine for name in ("user", "nice", "system", "irq", "softirq"))
    steal_s = sum(one.steal for one in mine) if hasattr(mine[0], "steal") else None
    return CpuTimes(busy_s, steal_s, len(mine))


def cpu_quota() -> float | None:
    """CPUs' worth of time that the cgroups grant this process; None where they set no limit."""
    quotas = []
    for folder in _cgroup_folders("cpu"):
        words = read_line(folder / "cpu.max").split() or [
            read_line(folder / "cpu.cfs_quota_us"),
            read_line(folder / "cpu.cfs_period_us"),
        ]
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]) > 0:
            quotas.append(int(words[0]) / int(words[1]))
    return min((quota for quota in quotas if quota > 0), default=None)


def usable_cores() -> int:
    """CPUs that this process may use: its affinity, or the cgroup's CPU quota where that is less."""
    quota = cpu_quota()
    affinity = len(cpu_affinity())
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def physical_cores_usable() -> int | None:
    """Physical cores behind `usable_cores`; None where the system does not tell which threads share one."""
    cores = set()
    for cpu in cpu_affinity():
        topology = SYS_CPU / f"cpu{cpu}/topology"
        siblings = read_line(topology / "core_cpus_list") or read_line(topology / "thread_siblings_list")
        if not siblings:
            return None
        cores.add(siblings)
    return min(len(cores), usable_cores()) if cores else None


def cache_bytes() -> int | None:
    """The last-level caches of the CPUs that this process may use, together; None where the system does not tell."""
    sizes: dict[tuple[int, str], int] = {}
    for cpu in cpu_affinity():
        for index in (SYS_CPU / f"cpu{cpu}/cache").glob("index*"):
            level, size = read_line(index / "level"), re.fullmatch(r"(\d+)K", read_line(index / "size"))
            if level.isdigit() and size and read_line(index / "type") != "Instruction":
                sizes[int(level), read_line(index / "shared_cpu_list")] = int(size[1]) * 1024
    last = max((level for level, _ in sizes), default=None)
    return None if last is None else sum(size for (level, _), size in sizes.items() if level == last)


@functools.cache
def cpuinfo() -> dict[str, str]:
    """The fields of the first processor of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    try:
        with (PROC / "cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.strip():
                    break
                key, _, value = line.partition(":")
                fields[key.strip().lower()] = value.strip()
    except OSError:
        pass
    return fields


ARM_PARTS = {
    "0xd0c": "Neoverse N1", "0xd40": "Neoverse V1", "0xd49": "Neoverse N2", "0xd4f": "Neoverse V2",
}  # fmt: skip


def cpu_name() -> str:
    """The CPU's model name, or the nearest thing to one that the system tells."""
    info = cpuinfo()
    if name := info.get("model name"):
        return re.sub(r"\s+", " ", name)
    if part := info.get("cpu part"):
        return f"Arm {ARM_PARTS.get(part, f'part {part}')}"
    return platform.processor() or platform.machine() or "unknown CPU"


def cpu_features() -> list[str]:
    """Those of `FEATURES` that this CPU has."""
    info = cpuinfo()
    flags = set((info.get("flags") or info.get("features") or "").split())
    return [feature for feature in FEATURES if feature in flags]


def memory_total_bytes() -> int:
    """The machine's physical memory."""
    import psutil

    return int(psutil.virtual_memory().total)


def memory_limit_bytes() -> int | None:
    """The memory that the cgroups grant this process; None where that is no less than the machine's."""
    limits = []
    for folder in _cgroup_folders("memory"):
        text = read_line(folder / "memory.max") or read_line(folder / "memory.limit_in_bytes")
        if text.isdigit():
            limits.append(int(text))
    limit = min(limits, default=None)
    return limit if limit is not None and limit < memory_total_bytes() else None


BF16_FEATURES = {"avx512_bf16", "amx_bf16"}
