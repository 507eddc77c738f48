"""What this machine can run, what each other variant lacks, and the command that mends it.

Looks are cheap and made here; proofs (does torch multiply on this GPU, did ONNX Runtime keep its CUDA
provider) are made in short processes of their own, so that nothing they load or crash stays behind.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from engine import backends
from engine.doctor import proofs as doctor_proofs
from engine.doctor.gpu import bitsandbytes_check, gpu_backend_checks, gpu_checks
from engine.doctor.packages import (
    INSTALL,
    MINIMUM_PYTHON,
    lacks_to_build,
    missing_modules,
    pin_checks,
    pin_of,
    precisions_on,
    versions_of,
)
from engine.doctor.proofs import Proof
from engine.doctor.report import Check, Report, gib
from engine.doctor.storage import data_checks, hub_checks
from engine.errors import RequestError, one_line
from engine.machine import devices, gpus, host

if TYPE_CHECKING:
    pass

CHROMES = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge",
    "msedge",
)  # fmt: skip


def examine(device: str = "auto", prove: bool = True) -> Report:
    """Look at everything that a run on `device` needs. Raises RequestError for unknown text alone.

    A GPU that was asked for and is not there is a finding, not an error: finding out is what this is for.
    Without `prove` no process is started, and what only a proof can show is not said.
    """
    kind, _ = devices.parse_device(device)
    try:
        chosen, refusal = devices.resolve_device(device), None
    except RequestError as error:
        chosen, refusal = devices.cpu_device(), one_line(error)
    gpu = _gpu_of(chosen)
    proofs = doctor_proofs.prove_backends(gpu) if prove else {}
    checks = [
        *_machine(),
        *_backends(proofs),
        *gpu_checks(gpu),
        *gpu_backend_checks(gpu, proofs, asked=kind == "cuda"),
        *bitsandbytes_check(proofs),
        *data_checks(),
        *hub_checks(),
        _chromium(),
    ]
    return Report(device, chosen, refusal, tuple(checks))


def _gpu_of(chosen: devices.Device) -> gpus.Gpu | None:
    """The GPU to look at: the chosen one, or the first where the run would stay on the CPU."""
    found = gpus.visible_gpus()
    return found[chosen.index or 0] if found else None


# -- Checks ----------------------------------------------------------------------------------------


def _machine() -> Iterable[Check]:
    group = "Machine"
    found, wanted = sys.version_info[:3], ".".join(map(str, MINIMUM_PYTHON))
    text = ".".join(map(str, found))
    if found[:2] >= MINIMUM_PYTHON:
        yield Check(group, "Python", "ok", text, required=True)
    else:
        yield Check(
            group, "Python", "missing", f"{text}; the bench needs {wanted} or later",
            f"python{wanted} -m venv .venv && .venv/bin/{INSTALL} -r requirements.txt", True,
        )  # fmt: skip
    physical, usable = host.physical_cores_usable(), host.usable_cores()
    cores = f"{usable} usable of {os.cpu_count()} CPUs"
    if physical and physical != usable:
        cores += f" ({physical} physical cores)"
    kinds = ("avx2", "avx_vnni", "avx512_", "amx_", "i8mm", "sve")
    notable = [feature for feature in host.cpu_features() if feature.startswith(kinds)]
    yield Check(group, "CPU", "ok", "; ".join(filter(None, [host.cpu_name(), cores, ", ".join(notable)])))
    limit, total = host.memory_limit_bytes(), host.memory_total_bytes()
    of = f"{gib(limit)} granted by the cgroup, of {gib(total)}" if limit else gib(total)
    yield Check(group, "memory", "ok", of)
    yield from pin_checks()


def _backends(proofs: Mapping[tuple[str, str], Proof]) -> Iterable[Check]:
    """Each backend on the CPU."""
    group = "Backends on the CPU"
    installed = 0
    for name in backends.REGISTRY:
        try:
            cls = backends.get(name)
        except Exception as error:  # See _missing.
            fault = f"{backends.REGISTRY[name]} cannot be imported: {type(error).__name__}: {one_line(error)}"
            yield Check(group, name, "missing", fault, f"{INSTALL} -r requirements.txt", True)
            continue
        missing = missing_modules(name) or []
        if missing:
            pins = " ".join(f"'{pin_of(module)}'" for module in missing)
            yield Check(group, name, "missing", f"not installed: {', '.join(missing)}", f"{INSTALL} {pins}")
            continue
        installed += 1
        able, refused = precisions_on(name, "cpu")
        finding = f"{', '.join(able) or 'no precision'} ({versions_of(cls.modules)})"
        finding += "".join(f"; {precision}: {reason}" for precision, reason in refused.items())
        proof = proofs.get((name, "cpu"))
        if proof is not None and proof.problem:
            yield Check(
                group, name, "missing", f"installed, but fails: {proof.problem} ({versions_of(cls.modules)})",
                f"{INSTALL} -r requirements.txt", True,
            )  # fmt: skip
        else:
            yield Check(group, name, "ok", finding, required=True)
        if lacking := lacks_to_build(name):
            pins = " ".join(f"'{pin_of(dist)}'" for dist in lacking)
            yield Check(
                group, f"{name}, building", "missing",
                f"models cannot be made into what it loads: {', '.join(lacking)} not installed",
                f"{INSTALL} {pins}",
            )  # fmt: skip
    if not installed:
        yield Check(group, "any backend", "missing", "no backend is installed", f"{INSTALL} -r requirements.txt", True)


def find_chromium() -> str | None:
    """A Chrome or Chromium that kaleido and the browser tests can drive; None where there is none."""
    if given := os.environ.get("BROWSER_PATH"):
        return given if os.access(given, os.X_OK) else None
    for name in CHROMES:
        if found := shutil.which(name):
            return found
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or "~/.cache/ms-playwright").expanduser()
    return next((str(found) for found in sorted(cache.glob("chromium-*/chrome-*/chrome"))), None)


def _chromium() -> Check:
    found = find_chromium()
    if found:
        return Check("Optional", "Chromium", "ok", found)
    return Check(
        "Optional", "Chromium", "warn",
        "none found: charts as images from the server and the browser tests need one; slides with native "
        "charts do not",
        "sudo apt-get install chromium (or: python -m playwright install chromium)",
    )  # fmt: skip
