"""The interface of a backend: the code that builds, loads and calls a variant.

A backend's module imports its model library inside functions only. So the registry, suite validation and `doctor` can
query a backend class without importing that library.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import did_you_mean
from engine.measurement.operators import Profile

Batch = dict[str, np.ndarray]
"""One tokenised batch as host arrays: input name -> int64 [examples, tokens].

A packed batch has its examples one after another, without padding: int64 [tokens], with "lengths": int64 [examples].
"""


class Options(BaseModel):
    """Options that only one backend understands. Each backend's subclass declares its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Calibration(Options):
    """Training texts over which a build step observes activations. These texts are never used for measurements."""

    dataset: str = Field(min_length=1)
    """A hub id, or a path as in `workload.dataset`."""
    config: str | None = None
    split: str = "train"
    text: str | None = None
    """The text column. By default the workload's."""
    examples: int = Field(default=256, ge=1)


@dataclass(frozen=True)
class Source:
    """A model's files: what a backend can know about a model before loading it."""

    reference: str
    """The model's name in the suite."""
    folder: Path
    """The folder of config.json and the safetensors weights."""
    config: dict[str, Any]
    digest: str
    """sha256 over config, weights and tokenizer files."""


@dataclass(frozen=True)
class Recipe:
    """One build step: what it makes and with which settings. Its content is the key in the cache."""

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    """During `build`, the value of "calibration", if present, is the file that `calibration_texts` reads."""
    distributions: tuple[str, ...] = ()
    """The installed packages whose versions change the result."""
    version: int = 1
    """The version of this step's code in `build`. Raise it with every change of the result for the same settings.
    Otherwise the cache would return what earlier code made."""


@dataclass(frozen=True)
class LoadRequest:
    """Everything that a worker needs to load one variant."""

    folder: Path
    """The result of the last recipe, or the source's folder where the backend builds nothing."""
    precision: str
    device: str
    """"cpu" or "cuda:N"."""
    threads: int
    options: dict[str, Any]
    scratch: Path
    """This worker's own folder for profiles and other temporary files. Deleted after the run."""


@dataclass
class Audit:
    """The effective configuration, read back from the loaded model after warm-up."""

    settings: dict[str, Any]
    """Facts: dtypes, TF32, attention, execution providers, threads, quantised modules."""
    wrong: list[str] = field(default_factory=list)
    """Reasons why the row is invalid, such as weights in another format than requested."""
    deviations: list[str] = field(default_factory=list)
    """Differences from the request that leave it the same variant."""


@dataclass(frozen=True)
class Snippet:
    """Code for load.py: it loads a variant with the backend's own library, without the bench.

    The code can use DEVICE ("cpu" or "cuda"), THREADS and MODEL (a Path: the folder of the files).
    """

    imports: str
    """Import statements, one a line, in isort's order."""
    code: str
    """Loads the model and defines `call(batch)`, which does the same as `Backend.call`."""
    distributions: tuple[str, ...]
    """Packages that the code needs besides numpy and tokenizers. Of alternatives ("a|b") the installed one counts."""
    files: tuple[str, ...]
    """Patterns of the files that the code loads, in the folder that a worker loads."""


class Backend(ABC):
    """A backend. One instance holds one loaded variant, in its own worker."""

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    modules: ClassVar[tuple[str, ...]]
    """Importable modules that a worker needs."""
    options: ClassVar[type[Options]] = Options
    int8_options: ClassVar[tuple[str, ...]] = ()
    """The options that have a meaning in INT8 only."""

    @classmethod
    def parse_options(cls, raw: dict[str, Any]) -> Any:
        """Return `raw` as this backend's `Options`. Raises ValueError, which says what is allowed."""
        allowed = tuple(cls.options.model_fields)
        for key in raw:
            if key not in allowed:
                raise ValueError(
                    f"options.{key}: unknown option of backend {cls.name!r}; "
                    f"allowed: {', '.join(allowed) or 'none'}{did_you_mean(key, allowed)}"
                )
        try:
            return cls.options.model_validate(raw)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
            if not key:
                raise ValueError(f"options.{message}") from error
            raise ValueError(f"options.{key}: found {first['input']!r}; {message}") from error

    @classmethod
    def calibration(cls, options: dict[str, Any]) -> dict[str, Any] | None:
        """Return the calibration in `options` in the form of a recipe's settings; None where there is none."""
        calibration: Calibration | None = getattr(cls.parse_options(options), "calibration", None)
        return None if calibration is None else calibration.model_dump()

    @classmethod
    def missing_modules(cls) -> list[str]:
        """Return the names in `modules` that are not installed."""
        return [name for name in cls.modules if find_spec(name) is None]

    @classmethod
    def unavailable(cls, precision: str, options: dict[str, Any], device: str, source: Source) -> str | None:
        """Return why this technique cannot run here, as far as that is known before the start; otherwise None."""
        return None

    @classmethod
    def cannot_pack(cls, precision: str, options: dict[str, Any], device: str, source: Source) -> str | None:
        """Return why this technique cannot take packed batches here; None where it can."""
        return f'backend {cls.name!r} takes no packed batches; use padding = "longest"'

    @classmethod
    def refusal(
        cls, precision: str, options: dict[str, Any], device: str, source: Source, padding: str = "longest"
    ) -> str | None:
        """Return why a variant with this `padding` cannot run here (`cannot_pack` or `unavailable`); otherwise None."""
        packed = padding == "packed"
        reason = cls.cannot_pack(precision, options, device, source) if packed else None
        return reason or cls.unavailable(precision, options, device, source)

    @classmethod
    def recipes(cls, precision: str, options: dict[str, Any]) -> list[Recipe]:
        """Return the build steps in order, each made from the one before; empty where the source is loaded directly."""
        return []

    @classmethod
    def build(cls, recipe: Recipe, source: Path, target: Path) -> dict[str, Any]:
        """Make `recipe` from the folder `source` in the empty folder `target`. Runs in a build process.

        When you change the result, raise the recipe's `version`. Returns facts about the result, which are stored.
        """
        raise NotImplementedError(f"{cls.name} builds nothing")

    @classmethod
    def snippet(cls, precision: str, options: dict[str, Any], device: str, settings: dict[str, Any]) -> Snippet | None:
        """Return code that loads such a variant without the bench; None where this backend has no such code.

        `device`: "cpu" or "cuda". `settings`: the effective configuration that `audit` found, as stored.
        """
        return None

    @abstractmethod
    def load(self, request: LoadRequest) -> None:
        """Load the variant and make it ready for calls. Raises UnavailableError where it cannot run here."""

    @abstractmethod
    def call(self, batch: Batch) -> np.ndarray:
        """Return the logits of one batch: host arrays in, host float32 [examples, labels] out, device synchronised.

        The timed region is exactly this call, for every backend.
        """

    @abstractmethod
    def audit(self) -> Audit:
        """Return the effective configuration. Called after warm-up, outside the timed region."""

    @abstractmethod
    def weights_bytes(self) -> int:
        """Return the size of the weights in bytes, as this backend holds or stores them."""

    def meet(self, shapes: Iterable[Batch]) -> None:  # noqa: B027
        """Prepare for batches of these shapes, before any is timed. A backend that prepares no shapes does nothing."""

    def synchronize(self) -> None:  # noqa: B027
        """Wait until the device is idle. Does nothing where `call` runs on the host."""

    def device_seconds(self, batch: Batch) -> float | None:
        """Return the seconds between two device events around one call, gaps included; None without device events."""
        return None

    def profile(self, batch: Batch, calls: int, folder: Path | None = None) -> Profile | None:
        """Return where `calls` calls of one batch spend their time; None where this backend cannot tell.

        With `folder`, also write their Chrome trace to a file there. Use it only after all timing, because a profiler
        slows the calls.
        """
        return None

    def allocator_bytes(self, reset: bool = False) -> dict[str, int]:
        """Return the peaks of the framework's own device allocator since the last reset, by name; empty without one."""
        return {}


def calibration_texts(recipe: Recipe) -> list[Batch]:
    """Return the calibration texts of `recipe`, one a batch: int64 [1, tokens], unpadded."""
    columns = json.loads(Path(recipe.settings["calibration"]).read_text())
    rows = zip(*columns.values(), strict=True)
    return [{name: np.array([ids], dtype=np.int64) for name, ids in zip(columns, row, strict=True)} for row in rows]
