"""What a run would do, before it starts: each variant's chances on this machine, and the time it takes.

Nothing is loaded, made or downloaded here; what can only be known by doing so is left to the run.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from dashboard import data
from engine import backends, corpus, hardware, hub, paths, runner
from engine.artefacts import PICKLES, WEIGHTS
from engine.backends.base import Source
from engine.errors import RequestError
from engine.hardware import Device
from engine.spec import CHECKPOINT, Checkpoint, Suite, Variant
from engine.store import models
from engine.units import duration

READY, DOWNLOAD, MAKE, UNAVAILABLE, WRONG = "ready", "download", "make", "unavailable", "wrong"
BLOCK_OVERHEAD_S = 0.01
"""What a block costs beside its calls: a request, and the wait until the other workers are silent."""


@dataclass(frozen=True)
class Chance:
    """What can be said of one variant before a run."""

    variant: Variant
    state: str
    """ready, download (from the hub, first), make (a checkpoint, first), unavailable (its row will say
    why) or wrong (the run would be refused)."""
    reason: str = ""


@dataclass(frozen=True)
class Earlier:
    """The newest finished run of a suite on a device."""

    id: str
    finished_at: datetime
    seconds: float
    """From its beginning to its end."""
    timing_s: float
    """Of them, in rounds."""
    variants: int
    latencies_s: dict[tuple[str, int], float]
    """(variant, batch size) -> median of a call."""


def devices() -> dict[str, str]:
    """What a run may ask for -> how it is called: auto, cpu and each GPU."""
    chosen = hardware.resolve_device("auto")
    found = {"auto": f"auto: {chosen.name} ({chosen.spec})", "cpu": f"cpu: {hardware.cpu_name()}"}
    return found | {f"cuda:{gpu.index}": f"cuda:{gpu.index}: {gpu.name}" for gpu in hardware.gpus()}


def chances(suite: Suite, device: Device, offline: bool) -> list[Chance]:
    """What can be said of each variant, the baseline first."""
    ordered = sorted(suite.variant, key=lambda v: v.name != suite.baseline)
    return [_chance(suite, variant, device, offline) for variant in ordered]


def _chance(suite: Suite, variant: Variant, device: Device, offline: bool) -> Chance:
    cls = backends.get(variant.backend)
    if missing := cls.missing_modules():
        return Chance(variant, UNAVAILABLE, f"needs {', '.join(missing)}: `pip install -r requirements.txt`")
    state, reason, config = _model(suite, variant.model, variant.revision, offline)
    if state == WRONG:
        return Chance(variant, WRONG, reason)
    source = Source(variant.model, Path(), config or {}, "")
    if refused := cls.unavailable(variant.precision, variant.options, device.spec, source):
        return Chance(variant, UNAVAILABLE, refused)
    return Chance(variant, state, reason)


def _model(suite: Suite, reference: str, revision: str | None, offline: bool) -> tuple[str, str, dict[str, Any] | None]:
    """State, reason and configuration of a model, as far as files on this machine tell."""
    if reference.startswith(CHECKPOINT):
        return _checkpoint(suite, suite.checkpoints[reference.removeprefix(CHECKPOINT)], offline)
    folder = suite.locate(reference)
    if folder is None:
        return _hub(suite, reference, revision, offline)
    if not folder.is_dir():
        return WRONG, f"there is no folder {folder}", None
    names = [path.name for path in folder.iterdir()]
    config = _config(folder)
    if config is None:
        return WRONG, f"{folder} has no readable config.json", None
    if not any(name.endswith(WEIGHTS) for name in names):
        pickled = any(name.endswith(PICKLES) for name in names)
        return WRONG, f"{folder} has {'pickled weights only' if pickled else 'no weights'}; it needs safetensors", None
    return READY, "", config


def _hub(suite: Suite, reference: str, revision: str | None, offline: bool) -> tuple[str, str, dict[str, Any] | None]:
    from huggingface_hub import constants

    repository = hub.Repository(reference, revision, "model", suite.reference)
    try:
        folder = repository.cached(weights=False)
        complete = folder is not None and repository.cached(weights=True) is not None
    except RequestError:
        return WRONG, f"{reference!r} is neither a folder nor a hub id", None
    config = _config(folder) if folder is not None else None
    if complete and config is not None:
        return READY, "", config
    if offline or constants.HF_HUB_OFFLINE:
        fetch = f"`python -m engine fetch {suite.reference}` gets it where there is a network"
        return WRONG, f"not on this machine, and the hub is not asked; {fetch}", config
    return DOWNLOAD, "will be downloaded from the hub", config


def _checkpoint(suite: Suite, checkpoint: Checkpoint, offline: bool) -> tuple[str, str, dict[str, Any] | None]:
    config = checkpoint.architecture
    for reference, revision in ((checkpoint.base, checkpoint.revision), (checkpoint.teacher, None)):
        if reference:
            state, reason, found = _model(suite, reference, revision, offline)
            config = config or (found if reference == checkpoint.base else None)
            if state in (WRONG, DOWNLOAD):
                return state, f"its {'base' if reference == checkpoint.base else 'teacher'}: {reason}", config
    # Whether one that is there was made from the same data and settings, only making it can tell.
    if any((paths.local_data() / "checkpoints").glob(f"{checkpoint.name}-*")):
        return READY, "", config
    how = "distilled" if checkpoint.teacher else "trained"
    return MAKE, f"{how} here first" if checkpoint.epochs else "with random weights, here first", config


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def check(suite: Suite, found: list[Chance]) -> None:
    """Raises RequestError for what would end the run at once."""
    for chance in found:
        if chance.state == WRONG:
            raise RequestError(f"{chance.variant.shown}: {chance.reason}")
    if suite.locate(suite.workload.dataset) is not None:
        runner.check_batch_sizes(suite, len(corpus.load(suite, suite.workload, offline=True)))


# Time


def earlier(suite_name: str, device: Device) -> Earlier | None:
    """The newest finished run of the suite on the device; None where there is none."""
    try:
        opened = data.store()
    except RequestError:
        return None
    with opened.session() as session:
        run = session.scalars(
            select(models.Run)
            .where(
                models.Run.suite_name == suite_name,
                models.Run.device_name == device.name,
                models.Run.status == "finished",
            )
            .order_by(models.Run.created_at.desc())
            .limit(1)
        ).first()
        if run is None or run.started_at is None or run.finished_at is None:
            return None
        rows = session.scalars(select(models.Measurement).where(models.Measurement.run_id == run.id)).all()
        ids = [row.id for row in rows]
        starts = session.scalars(
            select(models.Block.started_s).where(models.Block.measurement_id.in_(ids), models.Block.kind == "timed")
        ).all()
        return Earlier(
            run.id,
            run.finished_at,
            (run.finished_at - run.started_at).total_seconds(),
            max(starts) - min(starts) if starts else 0.0,
            len({row.variant for row in rows}),
            {(row.variant, row.batch_size): row.latency_p50_s for row in rows if row.latency_p50_s},
        )


def timing_seconds(suite: Suite, latencies_s: dict[tuple[str, int], float]) -> float | None:
    """How long the rounds take, from medians of calls; None where one is not known."""
    protocol = suite.protocol
    phases: dict[int, list[float]] = {size: [] for size in suite.workload.batch_size}
    for variant in suite.variant:
        for size in [variant.batch_size] if variant.batch_size else suite.workload.batch_size:
            call_s = latencies_s.get((variant.name, size))
            if call_s is None:
                return None
            phases[suite.workload.batch_size[-1] if variant.batch_size else size].append(call_s)
    total_s = 0.0
    for calls_s in filter(None, phases.values()):
        block_calls = [max(1, math.ceil(protocol.block_seconds / call_s)) for call_s in calls_s]
        rounds = max(protocol.rounds, *(math.ceil(protocol.min_calls / n) for n in block_calls))
        round_s = sum(
            n * call_s + max(call_s, runner.UNTIMED_SECONDS) + BLOCK_OVERHEAD_S
            for n, call_s in zip(block_calls, calls_s, strict=True)
        )
        warm_up_s = sum(max(runner.WARM_UP_SECONDS, call_s) for call_s in calls_s) * protocol.processes
        total_s += min(rounds * round_s, protocol.max_seconds) + warm_up_s
    return total_s


def estimate(suite: Suite, before: Earlier | None) -> str:
    """What can honestly be said of a run's length, in one or two sentences."""
    sizes = len(suite.workload.batch_size)
    limit = f"Timing ends after at most {duration(suite.protocol.max_seconds)}{' a batch size' if sizes > 1 else ''}"
    if before is None:
        return f"{limit}; how long preparing, loading and answering take, no earlier run of this suite here says."
    name = f"run …{before.id[-6:]}"
    rest_s = duration(max(before.seconds - before.timing_s, 0))
    variants = f"its {before.variants} variants" if before.variants > 1 else "its one variant"
    timing_s = timing_seconds(suite, before.latencies_s)
    if timing_s is None:
        return f"{limit}; everything else took {name} {rest_s} for {variants}."
    return (
        f"Timing takes about {duration(timing_s)} at the speeds of {name}; "
        f"everything else took that run {rest_s} for {variants}."
    )
