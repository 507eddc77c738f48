"""Prepares what workers load: finds models, makes checkpoints, exports and quantises.

Everything made is cached by content (source files, recipe, the version of the code that makes it) in data/local, built
in a process of its own, and put in place by a rename, so that a half-made artefact is never seen. Artefacts are known
by library versions too. Checkpoints are not: what training gives is a model like one that was downloaded, the same for
all runs of a suite, which facts.json says the libraries of; and to train anew for every update would change it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Any

from engine import backends, paths
from engine.artefacts import heads, hub
from engine.artefacts import operations as model_operations
from engine.artefacts.builder import Builder, BuildError, json_lines
from engine.artefacts.cache import (
    FACTS,
    LOOK_SECONDS,
    content_key,
    distribution_version,
    making,
    settings_by_content,
    without_first_version,
)
from engine.artefacts.calibration import CALIBRATION, same_data
from engine.artefacts.encoding import Encoder
from engine.artefacts.sources import folder_digest, inspect_folder, labels_of_config
from engine.artefacts.training import request as training_request
from engine.backends.base import Recipe, Source
from engine.errors import RequestError, one_line
from engine.machine import host
from engine.measurement.gate import Flag
from engine.suite.spec import CHECKPOINT, Checkpoint, NewTokenizer, Suite, Variant
from engine.units import duration

Report = Callable[[str, float | None], None]
"""Called with a sentence on what is being done, and the share done (None where unknown)."""
LANES = 4
"""Build processes beside each other, at most: an export is mostly one thread's work."""
LANE_BYTES = 2_000_000_000
"""What a build process holds with all its libraries ..."""
LANE_BYTES_PER_PARAMETER = 16
"""... and for each weight: as it is, as a graph, and that graph in the making."""
WAITING = "waiting for what another process builds"
SILENT_SECONDS = 2.0
"""What is to be built is begun by then, unless another process has begun it."""
BUILD_SECONDS = 3600.0
"""The longest that a build step may take, where the protocol's deadline is no longer: a stopped one ends some day."""


@dataclass(frozen=True)
class Prepared:
    """One variant, ready for a worker."""

    source: Source
    folder: Path
    """What the backend loads."""
    tokenizer: Path
    """What `engine.artefacts.encoding.Encoder` reads."""
    labels: list[str]
    """The model's own output names, in index order."""
    parameters: int
    random_weights: bool
    """The checkpoint was made with zero epochs: its answers mean nothing."""
    max_positions: int | None
    facts: dict[str, Any]
    operations: dict[str, Any] | None = None
    """What a call must do, as `engine.artefacts.operations.describe` gives it."""
    head: Flag | None = None
    """What speaks against its head ever having been trained, by its files."""


@dataclass(frozen=True)
class _Plan:
    """What is known of a variant before anything is built for it."""

    variant: Variant
    source: Source
    described: Path
    facts: dict[str, Any]
    recipes: list[Recipe]


class Preparer:
    """Prepares the variants of one suite. Use as a context manager: it may hold build processes.

    `offline`: nothing is asked of a hub; what is missing names `python -m engine fetch`.
    """

    def __init__(
        self,
        suite: Suite,
        device: str = "cpu",
        threads: int = 0,
        offline: bool = False,
        report: Report = lambda text, share: None,
    ) -> None:
        self.suite = suite
        self.device = device
        self.threads = threads
        self.offline = offline
        self.report = report
        self._builders: dict[Builder, Thread] = {}
        """All build processes, and who started them: they end with it."""
        self._idle: list[Builder] = []
        self._owner = current_thread()
        self._told: SimpleQueue[tuple[str, float | None]] = SimpleQueue()
        self._stopped = False
        self._sources: dict[tuple[str, str | None], Source] = {}
        self._unmade: dict[str, str] = {}
        """Checkpoints whose training failed, and why: several variants, and other checkpoints, may ask for one."""

    def __enter__(self) -> Preparer:
        return self

    def __exit__(self, *exception: object) -> None:
        for builder in self._builders:
            builder.close()

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
        return self._build(self._plan(variant))

    def prepare_all(self, variants: Sequence[Variant]) -> Iterator[tuple[Variant, Prepared | BuildError]]:
        """Each of `variants` as `prepare` gives it, or why it failed, as they come: several are built at a time.

        What two of them need is built once. Raises RequestError as `prepare` does, and what `report` raises.
        """
        plans = []
        for variant in variants:
            try:
                plans.append(self._plan(variant))
            except BuildError as error:
                yield variant, error
        with ThreadPoolExecutor(self._lanes(plans), "build") as lanes:
            waiting = {lanes.submit(self._build, plan): plan.variant for plan in plans}
            told: tuple[str, float | None] = WAITING, None
            silent_s = -SILENT_SECONDS
            try:
                while waiting:
                    done, _ = wait(waiting, LOOK_SECONDS, FIRST_COMPLETED)
                    silent_s = 0.0 if done or not self._told.empty() else silent_s + LOOK_SECONDS
                    if silent_s > 0:
                        # Nothing new, but whoever listens may want all of it to end.
                        self.report(*told)
                    while not self._told.empty():
                        told = self._told.get()
                        self.report(*told)
                    for future in done:
                        yield waiting.pop(future), _result(future)
            except BaseException:
                self._stopped = True
                for future in waiting:
                    future.cancel()
                for builder in list(self._builders):
                    builder.kill()
                raise
            finally:
                wait(waiting)
                for builder in [one for one, thread in self._builders.items() if thread is not self._owner]:
                    self._close(builder)

    def _lanes(self, plans: Sequence[_Plan]) -> int:
        """How many build processes may work beside each other: as many as there are cores and memory for."""
        import psutil

        needed = LANE_BYTES + LANE_BYTES_PER_PARAMETER * max((plan.facts["parameters"] for plan in plans), default=0)
        room = psutil.virtual_memory().available // needed
        return max(1, min(len([plan for plan in plans if plan.recipes]), host.usable_cores(), LANES, room))

    def _plan(self, variant: Variant) -> _Plan:
        source, described, facts = self.model(variant)
        wanted = backends.get(variant.backend).recipes(variant.precision, variant.options)
        return _Plan(variant, source, described, facts, [self._calibrated(variant, one, described) for one in wanted])

    def _build(self, plan: _Plan) -> Prepared:
        source, facts, variant = plan.source, plan.facts, plan.variant
        folder = source.folder
        made: dict[str, Any] = {}
        for recipe in plan.recipes:
            text = f"{variant.shown}: building {recipe.kind}"
            folder = self._built(source.digest, recipe, variant.backend, folder, text)
            made |= json.loads((folder / FACTS).read_text())
        return Prepared(
            source=source,
            folder=folder,
            tokenizer=plan.described,
            labels=facts["labels"],
            parameters=facts["parameters"],
            random_weights=bool(source.config.get("inference_bench", {}).get("random_weights")),
            max_positions=facts["max_positions"],
            facts=made,
            operations=facts["operations"],
            head=heads.fresh(source.folder, source.config, len(facts["labels"])),
        )

    def _calibrated(self, variant: Variant, recipe: Recipe, described: Path) -> Recipe:
        """`recipe` with the file of its calibration texts in place of their declaration."""
        if "calibration" not in recipe.settings:
            return recipe
        folder = self.calibration(variant, recipe.settings["calibration"], described)
        return replace(recipe, settings=recipe.settings | {"calibration": str(folder / CALIBRATION)})

    def calibration(self, variant: Variant, wanted: dict[str, Any], described: Path) -> Path:
        """The folder with the token ids of the texts that `variant` is calibrated over, made now where it is missing.

        Raises RequestError where they are not training data: the measured data set, or too few others.
        """
        from engine.suite import corpus

        where = f"variant {variant.name!r}: options.calibration"
        workload = self.suite.workload
        measured = workload.model_copy(update={"examples": 0})
        training = measured.model_copy(
            update={
                **{key: wanted[key] for key in ("dataset", "config", "split")},
                "text": wanted["text"] or workload.text,
                "revision": None,
                "label": None,
                "labels": None,
            }
        )
        if same_data(self.suite, training, workload):
            raise RequestError(
                f"{where}: {wanted['dataset']!r} is what is measured; name training data, or another split"
            )
        kept = set(corpus.load(self.suite, measured, self.offline).texts)
        texts = [text for text in corpus.load(self.suite, training, self.offline, where).texts if text not in kept]
        if len(texts) < wanted["examples"]:
            raise RequestError(
                f"{where}: examples = {wanted['examples']}, but {wanted['dataset']} has {len(texts)} that are not "
                f"measured; allowed: 1 to {len(texts)}"
            )
        content = {
            "tokenizer": described.name,
            "max_length": workload.max_length,
            "texts": corpus.digest(None, texts[: wanted["examples"]], None),
        }
        target = paths.local_folder("artefacts") / f"calibration-{content_key(content)[:24]}"
        with self._making(target) as draft:
            if draft is not None:
                encoded = Encoder(described, workload.max_length).encode(texts[: wanted["examples"]])
                (draft / CALIBRATION).write_text(json.dumps(encoded.columns))
        return target

    def _check_length(self, positions: int | None, where: str) -> None:
        wanted = self.suite.workload.max_length
        if positions and wanted > positions:
            raise RequestError(f"workload.max_length: {wanted} is more than {where} takes; allowed: up to {positions}")

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
        self._check_length(facts["max_positions"], where)
        return source, described, facts

    def described(self, source: Source, tokenizer: Path, where: str, first_token: bool = False) -> Path:
        """The folder with the model's description and its tokenizer as one file.

        `first_token`: its operations are those of a last layer that computes no other.

        Raises RequestError where the model has no trained classification head or its files do not load.
        """
        digest = hashlib.sha256(f"{source.digest} {folder_digest(tokenizer)}".encode()).hexdigest()
        settings: dict[str, Any] = {"operations": model_operations.VERSION} | (
            {"first_token": True} if first_token else {}
        )
        recipe = Recipe("description", settings, ("torch", "transformers", "tokenizers"))
        text = f"{source.reference}: reading model and tokenizer"
        try:
            more = {"tokenizer": str(tokenizer), "first_token": first_token}
            return self._built(digest, recipe, None, source.folder, text, more)
        except BuildError as error:
            raise RequestError(f"{where} {source.reference!r}: {one_line(error)}") from error

    def checkpoint(self, checkpoint: Checkpoint) -> Path:
        """The folder of a checkpoint that the suite makes, made now where it is missing.

        Raises RequestError for a recipe that cannot be followed, BuildError where its training failed, or its
        teacher's.
        """
        from engine.suite import corpus

        where = f"checkpoint {checkpoint.name!r}"
        if checkpoint.name in self._unmade:
            raise BuildError(self._unmade[checkpoint.name])
        folders = {
            key: self._folder(ref, checkpoint.revision if key == "base" else None, f"{where}: {key}")
            for key, ref in (("base", checkpoint.base), ("teacher", checkpoint.teacher))
            if ref
        }
        workload = self.suite.checkpoint_workload(checkpoint)
        examples = corpus.load(self.suite, workload, offline=self.offline, where=where)
        tokenizer = self._tokenizer_request(checkpoint, folders)
        request = {
            "name": checkpoint.name,
            "base": str(folders["base"]) if "base" in folders else None,
            "architecture": checkpoint.architecture,
            "teacher": str(folders["teacher"]) if "teacher" in folders else None,
            "teacher_mapping": self._teacher_mapping(checkpoint, folders, examples.label_names),
            "tokenizer": tokenizer,
            "label_names": examples.label_names,
            "max_length": workload.max_length,
            "epochs": checkpoint.epochs,
            "learning_rate": checkpoint.learning_rate,
            "batch_size": checkpoint.batch_size,
            "temperature": checkpoint.temperature,
            "mixing": checkpoint.mixing,
            "token_dropout": checkpoint.token_dropout,
            "seed": checkpoint.seed,
        }
        if not examples.label_names:
            raise RequestError(f"{where}: its data set has no label names; declare labels = [...]")
        content = {key: value for key, value in request.items() if key not in ("base", "teacher")}
        content |= {key: folder_digest(folder) for key, folder in folders.items()}
        if "folder" in tokenizer:
            content["tokenizer"] = folder_digest(Path(tokenizer["folder"]))
        digest = content_key(
            without_first_version({**content, "examples": examples.digest, "version": training_request.VERSION})
        )
        target = paths.local_folder("checkpoints") / f"{checkpoint.name}-{digest[:16]}"
        with self._making(target) as draft:
            if draft is not None:
                request |= {
                    "target": str(draft),
                    "texts": examples.texts,
                    "labels": None if examples.labels is None else examples.labels.tolist(),
                    "device": self.device,
                    "threads": self.threads,
                }
                try:
                    self._distill(request, draft, where)
                except BuildError as error:
                    self._unmade[checkpoint.name] = str(error)
                    raise
        return target

    def _tokenizer_request(self, checkpoint: Checkpoint, folders: dict[str, Path]) -> dict[str, Any]:
        given = checkpoint.tokenizer
        if isinstance(given, NewTokenizer):
            return {"vocab_size": given.vocab_size}
        if given is None:
            given = "base" if "base" in folders else "teacher"
            return {"folder": str(folders[given])}
        if given == "teacher":
            return {"folder": str(folders["teacher"])}
        return {"folder": str(self._folder(given, None, f"checkpoint {checkpoint.name!r}: tokenizer", False))}

    def _teacher_mapping(
        self, checkpoint: Checkpoint, folders: dict[str, Path], label_names: list[str] | None
    ) -> list[int] | None:
        """Teacher output -> label index; None where they are in the same order."""
        from engine.measurement.labels import align

        if "teacher" not in folders or not label_names:
            return None
        where = f"checkpoint {checkpoint.name!r}: teacher {checkpoint.teacher!r}"
        teacher = inspect_folder(
            str(checkpoint.teacher), folders["teacher"], f"checkpoint {checkpoint.name!r}: teacher"
        )
        named = labels_of_config(teacher.config, where)
        try:
            aligned = align(named, label_names, checkpoint.teacher_labels)
        except RequestError as error:
            raise RequestError(f"{where}: teacher_labels: {error}") from error
        if aligned.mapping is None:
            raise RequestError(f"{where}: {aligned.reason} (on a checkpoint the key is teacher_labels)")
        if len(set(aligned.mapping)) < len(label_names) or len(aligned.mapping) > len(label_names):
            raise RequestError(f"{where}: teacher_labels must give each label exactly one output")
        return None if aligned.mapping == list(range(len(label_names))) else aligned.mapping

    def _distill(self, request: dict[str, Any], draft: Path, where: str) -> None:
        title = f"{where}: making it ({'training' if request['epochs'] else 'random weights'})"
        self.report(title, 0.0)
        file = draft / "request.json"
        file.write_text(json.dumps(request))
        try:
            command = [sys.executable, "-m", "engine.artefacts.training", str(file)]
            for message in json_lines(command, where, self._deadline_s()):
                if "error" in message:
                    raise RequestError(f"{where}: {message['error']}")
                if message.get("total"):
                    left = message.get("seconds_left")
                    told = f", about {duration(left)} left" if left is not None else ""
                    self.report(f"{where}: {message['phase']}{told}", message["done"] / message["total"])
                if "result" in message:
                    (draft / FACTS).write_text(json.dumps(message["result"]))
        finally:
            file.unlink(missing_ok=True)

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
        with self._making(target) as draft:
            if draft is not None:
                self.report(f"{reference}: converting pickled weights", None)
                pickled = repository.with_pickle(self.offline)
                try:
                    self._ask({"do": "convert", "source": str(pickled), "target": str(draft)})
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
            "versions": {name: self._version(name) for name in recipe.distributions},
        }
        target = paths.local_folder("artefacts") / f"{recipe.kind}-{content_key(content)[:24]}"
        with self._making(target) as draft:
            if draft is not None:
                self._tell(text)
                facts = self._ask(
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

    def _making(self, target: Path) -> AbstractContextManager[Path | None]:
        return making(target, self._look)

    def _look(self) -> None:
        """Whether to go on waiting for what another process makes: whoever listens may want all of it to end."""
        if self._stopped:
            raise BuildError("what it was built for has ended")
        if current_thread() is self._owner:
            self.report(WAITING, None)

    def _version(self, distribution: str) -> str | None:
        return distribution_version(distribution)

    def _tell(self, text: str) -> None:
        """What is being built; said by the thread that waits for it, as it may end all."""
        if current_thread() is self._owner:
            self.report(text, None)
        else:
            self._told.put((text, None))

    def _deadline_s(self) -> float:
        """The longest that a build step may take, and training between two signs of it."""
        return max(BUILD_SECONDS, self.suite.protocol.deadline_seconds)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._stopped:
            raise BuildError("what it was built for has ended")
        try:
            builder = self._idle.pop()
        except IndexError:
            builder = Builder(self._deadline_s())
            self._builders[builder] = current_thread()
        try:
            found = builder.ask(request)
        except BaseException as error:
            # An interrupted build must not go on writing into a draft that is being removed.
            self._close(builder, at_once=not isinstance(error, BuildError))
            raise
        self._idle.append(builder)
        return found

    def _close(self, builder: Builder, at_once: bool = False) -> None:
        builder.close(at_once)
        del self._builders[builder]
        if builder in self._idle:
            self._idle.remove(builder)


def _result(built: Future[Prepared]) -> Prepared | BuildError:
    """What a thread built. Raises whatever else than a BuildError it raised."""
    try:
        return built.result()
    except BuildError as error:
        return error
