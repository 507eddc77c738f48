"""Prepares what workers load: finds models, makes checkpoints, exports and quantises.

Everything made is cached by its content (source files, recipe, library versions, the version of the code that makes
it) in data/local, and built in a process of its own (`lanes`). Checkpoints are made by `checkpoints`, calibration texts
by `calibration`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine import backends, paths
from engine.artefacts import heads, hub
from engine.artefacts import operations as model_operations
from engine.artefacts.builder import BuildError
from engine.artefacts.cache import FACTS, content_key, settings_by_content, without_first_version
from engine.artefacts.calibration import CALIBRATION, calibration_folder
from engine.artefacts.checkpoints import CheckpointMaker
from engine.artefacts.lanes import BuildLanes, Report, lanes_for
from engine.artefacts.sources import folder_digest, inspect_folder
from engine.backends.base import Recipe, Source
from engine.errors import RequestError, one_line
from engine.measurement.gate import Flag
from engine.suite.spec import CHECKPOINT, Checkpoint, Suite, Variant


@dataclass(frozen=True)
class Prepared:
    """One variant, ready for a worker."""

    source: Source
    folder: Path
    """The folder that the backend loads."""
    tokenizer: Path
    """The folder that `engine.artefacts.encoding.Encoder` reads."""
    labels: list[str]
    """The model's own output names, in index order."""
    parameters: int
    random_weights: bool
    """Whether the checkpoint was made with zero epochs: its answers mean nothing."""
    max_positions: int | None
    """The most tokens that the model takes; None where it has no such limit."""
    facts: dict[str, Any]
    """Facts that the builds reported about their results."""
    operations: dict[str, Any] | None = None
    """The work of a call, in the form of `engine.artefacts.operations.describe`."""
    head: Flag | None = None
    """A sign in its files that its head was never trained; None without one."""


@dataclass(frozen=True)
class _Task:
    """The facts about a variant that are known before anything is built for it."""

    variant: Variant
    source: Source
    described: Path
    facts: dict[str, Any]
    recipes: list[Recipe]


class Preparer:
    """Prepares the variants of one suite. Use as a context manager: it may hold build processes.

    `offline`: no hub is asked; a message about what is missing names `python -m engine fetch`.
    """

    def __init__(
        self,
        suite: Suite,
        device: str = "cpu",
        threads: int = 0,
        offline: bool = False,
        report: Report = lambda text, share: None,
        lanes: BuildLanes | None = None,
    ) -> None:
        self.suite = suite
        self.offline = offline
        self.lanes = lanes or BuildLanes(suite.protocol.deadline_seconds, report)
        self._checkpoints = CheckpointMaker(suite, device, threads, offline, self.lanes, self._folder)
        self._sources: dict[tuple[str, str | None], Source] = {}

    def __enter__(self) -> Preparer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.lanes.close()

    @property
    def report(self) -> Report:
        """Called with what is being done."""
        return self.lanes.report

    @report.setter
    def report(self, report: Report) -> None:
        self.lanes.report = report

    def source(self, reference: str, revision: str | None = None, where: str = "model") -> Source:
        """The model that `reference` names: a checkpoint of the suite, a folder or a hub id.

        Raises RequestError where there is none, or where it is no safetensors classifier, BuildError where
        its training failed.
        """
        key = (reference, revision)
        if key not in self._sources:
            folder = self._folder(reference, revision, where)
            self._sources[key] = inspect_folder(reference, folder, where)
        return self._sources[key]

    def prepare(self, variant: Variant) -> Prepared:
        """All that a worker needs for `variant`, built where it is not cached yet.

        Raises RequestError for a model that cannot serve, BuildError where a build step fails.
        """
        return self._build(self._task(variant))

    def prepare_all(self, variants: Sequence[Variant]) -> Iterator[tuple[Variant, Prepared | BuildError]]:
        """Prepare several variants at a time; give each with its result, or with why it failed, as they come.

        What two of them need is built once. Raises RequestError as `prepare` does, and what `report` raises.
        """
        tasks = []
        for variant in variants:
            try:
                tasks.append(self._task(variant))
            except BuildError as error:
                yield variant, error
        builds = len([task for task in tasks if task.recipes])
        largest = max((task.facts["parameters"] for task in tasks), default=0)
        for task, result in self.lanes.run(tasks, self._build, lanes_for(builds, largest)):
            yield task.variant, result

    def _task(self, variant: Variant) -> _Task:
        source, described, facts = self.model(variant)
        recipes = backends.get(variant.backend).recipes(variant.precision, variant.options)
        return _Task(variant, source, described, facts, [self._calibrated(variant, r, described) for r in recipes])

    def _build(self, task: _Task) -> Prepared:
        source, facts, variant = task.source, task.facts, task.variant
        folder = source.folder
        build_facts: dict[str, Any] = {}
        for recipe in task.recipes:
            text = f"{variant.shown}: building {recipe.kind}"
            folder = self._built(source.digest, recipe, variant.backend, folder, text)
            build_facts |= json.loads((folder / FACTS).read_text())
        return Prepared(
            source=source,
            folder=folder,
            tokenizer=task.described,
            labels=facts["labels"],
            parameters=facts["parameters"],
            random_weights=bool(source.config.get("inference_bench", {}).get("random_weights")),
            max_positions=facts["max_positions"],
            facts=build_facts,
            operations=facts["operations"],
            head=heads.fresh(source.folder, source.config, len(facts["labels"])),
        )

    def _calibrated(self, variant: Variant, recipe: Recipe, described: Path) -> Recipe:
        """`recipe` with the file of its calibration texts in place of their declaration."""
        if "calibration" not in recipe.settings:
            return recipe
        folder = self.calibration(variant, recipe.settings["calibration"], described)
        return replace(recipe, settings=recipe.settings | {"calibration": str(folder / CALIBRATION)})

    def calibration(self, variant: Variant, declared: dict[str, Any], described: Path) -> Path:
        """The folder of the texts that `variant` is calibrated over; see `calibration.calibration_folder`."""
        where = f"variant {variant.name!r}: options.calibration"
        return calibration_folder(self.suite, self.lanes, self.offline, where, declared, described)

    def checkpoint(self, checkpoint: Checkpoint) -> Path:
        """The folder of a checkpoint that the suite makes; see `checkpoints.CheckpointMaker.folder`."""
        return self._checkpoints.folder(checkpoint)

    def model(self, variant: Variant) -> tuple[Source, Path, dict[str, Any]]:
        """The model of `variant`, the folder with its description, and the facts in it.

        Raises RequestError for a model that cannot serve, BuildError for one whose training failed.
        """
        where = f"variant {variant.name!r}: model"
        source = self.source(variant.model, variant.revision, where)
        tokenizer = source.folder
        if variant.tokenizer:
            tokenizer = self._folder(variant.tokenizer, None, f"variant {variant.name!r}: tokenizer", False)
        described = self.described(source, tokenizer, where, bool(variant.options.get("first_token")))
        facts = json.loads((described / FACTS).read_text())
        length, positions = self.suite.workload.max_length, facts["max_positions"]
        if positions and length > positions:
            raise RequestError(f"workload.max_length: {length} is more than {where} takes; allowed: up to {positions}")
        return source, described, facts

    def described(self, source: Source, tokenizer: Path, where: str, first_token: bool = False) -> Path:
        """The folder with the model's description and its tokenizer as one file.

        `first_token`: whether the last layer computes the first token alone, which changes the operations. Raises
        RequestError where the model has no trained classification head or its files do not load.
        """
        digest = hashlib.sha256(f"{source.digest} {folder_digest(tokenizer)}".encode()).hexdigest()
        settings: dict[str, Any] = {"operations": model_operations.VERSION}
        settings |= {"first_token": True} if first_token else {}
        recipe = Recipe("description", settings, ("torch", "transformers", "tokenizers"))
        text = f"{source.reference}: reading model and tokenizer"
        more = {"tokenizer": str(tokenizer), "first_token": first_token}
        try:
            return self._built(digest, recipe, None, source.folder, text, more)
        except BuildError as error:
            raise RequestError(f"{where} {source.reference!r}: {one_line(error)}") from error

    def _folder(self, reference: str, revision: str | None, where: str, weights: bool = True) -> Path:
        """The folder that `reference` means; `weights` is False where a tokenizer is enough."""
        if reference.startswith(CHECKPOINT):
            return self.checkpoint(self.suite.checkpoints[reference.removeprefix(CHECKPOINT)])
        path = self.suite.locate(reference)
        if path is None:
            return self._from_hub(reference, revision, where, weights)
        if not path.is_dir():
            kind = "is a file, not a model folder" if path.exists() else "no such folder"
            raise RequestError(f"{where} {reference!r}: {kind} (looked at {path})")
        return path

    def _from_hub(self, reference: str, revision: str | None, where: str, weights: bool) -> Path:
        """A hub repository's files; pickled weights are converted to safetensors, once."""
        repository = hub.Repository(reference, revision, where, self.suite.reference)
        folder = repository.cached(weights)
        if folder is None:
            self.report(f"{reference}: downloading", None)
            folder = repository.downloaded(self.offline)
        if not weights or hub.has_safetensors(folder):
            return folder
        target = paths.local_folder("artefacts") / f"safetensors-{reference.replace('/', '--')}-{folder.name[:16]}"
        with self.lanes.making(target) as draft:
            if draft is not None:
                self.report(f"{reference}: converting pickled weights", None)
                pickled = repository.with_pickle(self.offline)
                try:
                    self.lanes.ask({"do": "convert", "source": str(pickled), "target": str(draft)})
                except BuildError as error:
                    raise RequestError(f"{where} {reference!r}: {one_line(error)}") from error
        return target

    def _built(
        self,
        digest: str,
        recipe: Recipe,
        backend: str | None,
        source: Path,
        text: str,
        more: dict[str, Any] | None = None,
    ) -> Path:
        """The folder that `recipe` makes from the folder `source`, made now where it is missing."""
        content = {
            "source": digest,
            **without_first_version(asdict(recipe)),
            "settings": settings_by_content(recipe.settings),
            "after": source.name if backend and source.parent.name == "artefacts" else None,
            "versions": {name: self.lanes.version(name) for name in recipe.distributions},
        }
        target = paths.local_folder("artefacts") / f"{recipe.kind}-{content_key(content)[:24]}"
        with self.lanes.making(target) as draft:
            if draft is not None:
                self.lanes.tell(text)
                facts = self.lanes.ask(
                    {
                        "do": "build" if backend else "describe",
                        "backend": backend,
                        "recipe": asdict(recipe),
                        "source": str(source),
                        "target": str(draft),
                        **(more or {}),
                    }
                )
                (draft / FACTS).write_text(json.dumps(facts))
        return target
