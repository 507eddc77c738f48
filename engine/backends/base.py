"""The contract of a backend: the code that builds, loads and calls a variant.

A backend's module imports its model library inside functions only, so that the registry, suite
validation and `doctor` can ask a class about itself for nothing.
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

A packed one has its examples one after another, without padding: int64 [tokens], with "lengths": int64 [examples].
"""


class Options(BaseModel):
    """The options of one backend; a subclass declares their keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Calibration(Options):
    """Training texts over which a build step observes activations; none of them is ever measured."""

    dataset: str = Field(min_length=1)
    """A hub id, or a path as in `workload.dataset`."""
    config: str | None = None
    split: str = "train"
    text: str | None = None
    """The text column; the workload's by default."""
    examples: int = Field(default=256, ge=1)


@dataclass(frozen=True)
class Source:
    """A model as found: what a backend may ask of it before anything is loaded."""

    reference: str
    """The name that the suite gives."""
    folder: Path
    """Holds config.json and safetensors weights."""
    config: dict[str, Any]
    digest: str
    """sha256 over config, weights and tokenizer files."""


@dataclass(frozen=True)
class Recipe:
    """One build step: what it makes and from what settings. Its content is the cache's key."""

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Where "calibration" is among them, `build` finds there the file that `calibration_texts` reads."""
    distributions: tuple[str, ...] = ()
    """The installed packages whose versions change the result."""
    version: int = 1
    """Of the code in `build` that makes it: raised with every change of what comes out for the same settings, as what
    earlier code made would be taken from the cache otherwise."""


@dataclass(frozen=True)
class LoadRequest:
    """All that a worker needs to load one variant."""

    folder: Path
    """The last recipe's result, or the source's folder where a backend builds nothing."""
    precision: str
    device: str
    """"cpu" or "cuda:N"."""
    threads: int
    options: dict[str, Any]
    scratch: Path
    """A folder of this worker's own, for profiles and the like; gone after the run."""


@dataclass
class Audit:
    """The effective configuration, read back from the loaded model after warm-up."""

    settings: dict[str, Any]
    """Facts: dtypes, TF32, attention, execution providers, threads, quantised modules."""
    wrong: list[str] = field(default_factory=list)
    """The reasons why the row is invalid: the weights are not in the requested format."""
    deviations: list[str] = field(default_factory=list)
    """Differences from the request that do not make it another variant."""


@dataclass(frozen=True)
class Snippet:
    """How a person loads a variant with the backend's own library, without the bench: what goes into load.py.

    The code finds DEVICE ("cpu" or "cuda"), THREADS and MODEL (a Path: the folder of the files) defined.
    """

    imports: str
    """Import statements, a line each, in isort's order."""
    code: str
    """Loads the model and defines `call(batch)`, which is `Backend.call`."""
    distributions: tuple[str, ...]
    """The packages that it needs, beside numpy and tokenizers; of alternatives ("a|b") the one that is installed."""
    files: tuple[str, ...]
    """Patterns of the files that it loads, in the folder that a worker loads."""


class Backend(ABC):
    """One instance hosts one loaded variant, in a worker of its own."""

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    modules: ClassVar[tuple[str, ...]]
    """Importable names that a worker needs."""
    options: ClassVar[type[Options]] = Options
    int8_options: ClassVar[tuple[str, ...]] = ()
    """Those of `options` that mean nothing in another precision."""

    @classmethod
    def parse_options(cls, raw: dict[str, Any]) -> Any:
        """`raw` as this backend's `Options`. Raises ValueError with what is allowed."""
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
        """The training texts that `options` ask for, as a recipe's settings have them; None where they ask for none."""
        wanted: Calibration | None = getattr(cls.parse_options(options), "calibration", None)
        return None if wanted is None else wanted.model_dump()

    @classmethod
    def missing_modules(cls) -> list[str]:
        """Those of `modules` that are not installed."""
        return [name for name in cls.modules if find_spec(name) is None]

    @classmethod
    def unavailable(cls, precision: str, options: dict[str, Any], device: str, source: Source) -> str | None:
        """Why this technique cannot run here, known before the start; None where nothing speaks against it."""
        return None

    @classmethod
    def cannot_pack(cls, precision: str, options: dict[str, Any], device: str, source: Source) -> str | None:
        """Why this technique cannot take packed batches here; None where it can."""
        return f'backend {cls.name!r} takes no packed batches; use padding = "longest"'

    @classmethod
    def refusal(
        cls, precision: str, options: dict[str, Any], device: str, source: Source, padding: str = "longest"
    ) -> str | None:
        """Why a variant whose batches are padded so cannot run here: `cannot_pack` or `unavailable`."""
        packed = padding == "packed"
        reason = cls.cannot_pack(precision, options, device, source) if packed else None
        return reason or cls.unavailable(precision, options, device, source)

    @classmethod
    def recipes(cls, precision: str, options: dict[str, Any]) -> list[Recipe]:
        """The build steps in order, each made from the one before; empty where the source is loaded as it is."""
        return []

    @classmethod
    def build(cls, recipe: Recipe, source: Path, target: Path) -> dict[str, Any]:
        """Make `recipe` from the folder `source` into the empty folder `target`; runs in a build process.

        Whoever changes what comes out raises the recipe's `version`. Returns facts worth keeping about what was made.
        """
        raise NotImplementedError(f"{cls.name} builds nothing")

    @classmethod
    def snippet(cls, precision: str, options: dict[str, Any], device: str, settings: dict[str, Any]) -> Snippet | None:
        """How to load such a variant without the bench; None where nobody has written it down.

        `device`: "cpu" or "cuda"; `settings`: the effective configuration that `audit` found, as stored.
        """
        return None

    @abstractmethod
    def load(self, request: LoadRequest) -> None:
        """Load the variant, ready to be called. Raises UnavailableError where it cannot run here."""

    @abstractmethod
    def call(self, batch: Batch) -> np.ndarray:
        """Logits of one batch: host arrays in, host float32 [examples, labels] out, device synchronised.

        This is the whole of what the clock runs around, for every backend alike.
        """

    @abstractmethod
    def audit(self) -> Audit:
        """The effective configuration. Called after warm-up, outside the timed region."""

    @abstractmethod
    def weights_bytes(self) -> int:
        """Bytes of the weights as this backend holds or stores them."""

    def meet(self, shapes: Iterable[Batch]) -> None:  # noqa: B027
        """See batches like those to come, before any is timed; only who prepares for each shape has anything to do."""

    def synchronize(self) -> None:  # noqa: B027
        """Wait until the device is idle; nothing to do where `call` runs on the host."""

    def device_seconds(self, batch: Batch) -> float | None:
        """Seconds between two device events around one call, gaps included; None where there are none."""
        return None

    def profile(self, batch: Batch, calls: int, folder: Path | None = None) -> Profile | None:
        """Where `calls` calls of one batch spend their time; None where this backend cannot tell.

        With `folder` also their Chrome trace, in a file there. For after all timing: a profiler slows what it sees.
        """
        return None

    def allocator_bytes(self, reset: bool = False) -> dict[str, int]:
        """Peaks of the framework's own device allocator since the last reset, by name; empty where it has none."""
        return {}


def calibration_texts(recipe: Recipe) -> list[Batch]:
    """The texts that `recipe` is calibrated over, one a batch: int64 [1, tokens], unpadded."""
    columns = json.loads(Path(recipe.settings["calibration"]).read_text())
    rows = zip(*columns.values(), strict=True)
    return [{name: np.array([ids], dtype=np.int64) for name, ids in zip(columns, row, strict=True)} for row in rows]
