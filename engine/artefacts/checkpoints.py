"""Makes the checkpoints that a suite declares, each once, by a training process.

A checkpoint is known by its recipe, its texts, its teacher's files and the version of the training code, but not by
library versions: it is a model like one that was downloaded, the same for all runs of a suite, and training it anew
for every library update would change it. Its facts.json names the libraries that made it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine import paths
from engine.artefacts.builder import BuildError, json_lines
from engine.artefacts.cache import FACTS, content_key, without_first_version
from engine.artefacts.lanes import BuildLanes
from engine.artefacts.sources import folder_digest, inspect_folder, labels_of_config
from engine.artefacts.training import request as training_request
from engine.errors import RequestError
from engine.measurement.labels import align
from engine.suite import corpus
from engine.suite.spec import Checkpoint, NewTokenizer, Suite
from engine.units import duration

Locate = Callable[[str, str | None, str, bool], Path]
"""Model or tokenizer reference, revision, what messages begin with, whether weights are needed -> its folder."""


class CheckpointMaker:
    """Makes the checkpoints of one suite. `locate` finds bases, teachers and tokenizers."""

    def __init__(
        self, suite: Suite, device: str, threads: int, offline: bool, lanes: BuildLanes, locate: Locate
    ) -> None:
        self.suite = suite
        self.device = device
        self.threads = threads
        self.offline = offline
        self.lanes = lanes
        self.locate = locate
        self._failed: dict[str, str] = {}
        """Checkpoints whose training failed, and why: several variants, or other checkpoints, may need one."""

    def folder(self, checkpoint: Checkpoint) -> Path:
        """The folder of a checkpoint, made now where it is missing.

        Raises RequestError for a recipe that cannot be followed, BuildError where its training failed, or its
        teacher's.
        """
        where = f"checkpoint {checkpoint.name!r}"
        if checkpoint.name in self._failed:
            raise BuildError(self._failed[checkpoint.name])
        folders = {
            key: self.locate(reference, checkpoint.revision if key == "base" else None, f"{where}: {key}", True)
            for key, reference in (("base", checkpoint.base), ("teacher", checkpoint.teacher))
            if reference
        }
        workload = self.suite.checkpoint_workload(checkpoint)
        examples = corpus.load(self.suite, workload, offline=self.offline, where=where)
        tokenizer = self._tokenizer_request(checkpoint, folders)
        request = {
            "name": checkpoint.name,
            "base": str(folders["base"]) if "base" in folders else None,
            "architecture": checkpoint.architecture,
            "teacher": str(folders["teacher"]) if "teacher" in folders else None,
            "teacher_mapping": _teacher_mapping(checkpoint, folders, examples.label_names),
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
        with self.lanes.making(target) as draft:
            if draft is not None:
                request |= {
                    "target": str(draft),
                    "texts": examples.texts,
                    "labels": None if examples.labels is None else examples.labels.tolist(),
                    "device": self.device,
                    "threads": self.threads,
                }
                try:
                    self._train(request, draft, where)
                except BuildError as error:
                    self._failed[checkpoint.name] = str(error)
                    raise
        return target

    def _tokenizer_request(self, checkpoint: Checkpoint, folders: dict[str, Path]) -> dict[str, Any]:
        """The tokenizer as a training process is asked for it: a vocabulary's size, or a folder."""
        declared = checkpoint.tokenizer
        if isinstance(declared, NewTokenizer):
            return {"vocab_size": declared.vocab_size}
        if declared is None:
            declared = "base" if "base" in folders else "teacher"
            return {"folder": str(folders[declared])}
        if declared == "teacher":
            return {"folder": str(folders["teacher"])}
        return {"folder": str(self.locate(declared, None, f"checkpoint {checkpoint.name!r}: tokenizer", False))}

    def _train(self, request: dict[str, Any], draft: Path, where: str) -> None:
        """Run the training process, which fills `draft`; report its progress."""
        title = f"{where}: making it ({'training' if request['epochs'] else 'random weights'})"
        self.lanes.report(title, 0.0)
        file = draft / "request.json"
        file.write_text(json.dumps(request))
        try:
            command = [sys.executable, "-m", "engine.artefacts.training", str(file)]
            for message in json_lines(command, where, self.lanes.deadline_s):
                if "error" in message:
                    raise RequestError(f"{where}: {message['error']}")
                if message.get("total"):
                    left_s = message.get("seconds_left")
                    left = f", about {duration(left_s)} left" if left_s is not None else ""
                    self.lanes.report(f"{where}: {message['phase']}{left}", message["done"] / message["total"])
                if "result" in message:
                    (draft / FACTS).write_text(json.dumps(message["result"]))
        finally:
            file.unlink(missing_ok=True)


def _teacher_mapping(
    checkpoint: Checkpoint, folders: dict[str, Path], label_names: list[str] | None
) -> list[int] | None:
    """Teacher output -> label index; None where they are in the same order, or there is no teacher.

    Raises RequestError where the teacher's labels are not those of the data set.
    """
    if "teacher" not in folders or not label_names:
        return None
    where = f"checkpoint {checkpoint.name!r}: teacher {checkpoint.teacher!r}"
    teacher = inspect_folder(str(checkpoint.teacher), folders["teacher"], f"checkpoint {checkpoint.name!r}: teacher")
    teacher_labels = labels_of_config(teacher.config, where)
    try:
        aligned = align(teacher_labels, label_names, checkpoint.teacher_labels)
    except RequestError as error:
        raise RequestError(f"{where}: teacher_labels: {error}") from error
    if aligned.mapping is None:
        raise RequestError(f"{where}: {aligned.reason} (on a checkpoint the key is teacher_labels)")
    if len(set(aligned.mapping)) < len(label_names) or len(aligned.mapping) > len(label_names):
        raise RequestError(f"{where}: teacher_labels must give each label exactly one output")
    return None if aligned.mapping == list(range(len(label_names))) else aligned.mapping
