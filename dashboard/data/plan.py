"""What a run would do, before it starts: each variant's chances on this machine, and the time it takes.

Nothing is loaded, made or downloaded here; what can only be known by doing so is left to the run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboard.data import reads
from engine import backends, paths
from engine.artefacts import hub
from engine.artefacts.sources import PICKLES, WEIGHTS
from engine.backends.base import Source
from engine.errors import RequestError
from engine.machine import gpus, host
from engine.machine.devices import Device, resolve_device
from engine.run import checks
from engine.run import estimate as run_estimate
from engine.suite import corpus
from engine.suite.spec import CHECKPOINT, Checkpoint, Suite, Variant

READY, DOWNLOAD, MAKE, UNAVAILABLE, WRONG = "ready", "download", "make", "unavailable", "wrong"


@dataclass(frozen=True)
class Chance:
    """What can be said of one variant before a run."""

    variant: Variant
    state: str
    """ready, download (from the hub, first), make (a checkpoint, first), unavailable (its row will say
    why) or wrong (the run would be refused)."""
    reason: str = ""


def devices() -> dict[str, str]:
    """What a run may ask for -> how it is called: auto, cpu and each GPU."""
    chosen = resolve_device("auto")
    found = {"auto": f"auto: {chosen.name} ({chosen.spec})", "cpu": f"cpu: {host.cpu_name()}"}
    return found | {f"cuda:{gpu.index}": f"cuda:{gpu.index}: {gpu.name}" for gpu in gpus.visible_gpus()}


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
    padding = variant.padding or suite.workload.padding
    if refused := cls.refusal(variant.precision, variant.options, device.spec, source, padding):
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
        checks.check_batch_sizes(suite, len(corpus.load(suite, suite.workload, offline=True)))


def estimate(suite: Suite, device: Device) -> str:
    """How long a run takes, by an earlier one of this database."""
    try:
        opened = reads.store()
    except RequestError:
        return run_estimate.words(suite, None)
    with opened.session() as session:
        return run_estimate.words(suite, run_estimate.earlier(session, suite.name, device.name))
