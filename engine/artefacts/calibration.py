"""Calibration texts for static quantisation: training data, never what is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine import paths
from engine.artefacts.cache import content_key
from engine.artefacts.encoding import Encoder
from engine.artefacts.lanes import BuildLanes
from engine.errors import RequestError
from engine.suite import corpus
from engine.suite.spec import Suite, Workload

CALIBRATION = "calibration.json"
"""The file of token ids in a calibration folder."""


def calibration_folder(
    suite: Suite, lanes: BuildLanes, offline: bool, where: str, declared: dict[str, Any], described: Path
) -> Path:
    """The folder with the token ids of the texts to calibrate over, made now where it is missing.

    `where`: what messages begin with; `declared`: a variant's options.calibration; `described`: the folder of the
    model's description, whose tokenizer encodes the texts. Raises RequestError where the texts are not training
    data: the measured data set, or too few others.
    """
    workload = suite.workload
    measured = workload.model_copy(update={"examples": 0})
    training = measured.model_copy(
        update={
            **{key: declared[key] for key in ("dataset", "config", "split")},
            "text": declared["text"] or workload.text,
            "revision": None,
            "label": None,
            "labels": None,
        }
    )
    if _same_data(suite, training, workload):
        raise RequestError(
            f"{where}: {declared['dataset']!r} is what is measured; name training data, or another split"
        )
    measured_texts = set(corpus.load(suite, measured, offline).texts)
    texts = [text for text in corpus.load(suite, training, offline, where).texts if text not in measured_texts]
    count: int = declared["examples"]
    if len(texts) < count:
        raise RequestError(
            f"{where}: examples = {count}, but {declared['dataset']} has {len(texts)} that are not "
            f"measured; allowed: 1 to {len(texts)}"
        )
    content = {
        "tokenizer": described.name,
        "max_length": workload.max_length,
        "texts": corpus.digest(None, texts[:count], None),
    }
    target = paths.local_folder("artefacts") / f"calibration-{content_key(content)[:24]}"
    with lanes.making(target) as draft:
        if draft is not None:
            encoded = Encoder(described, workload.max_length).encode(texts[:count])
            (draft / CALIBRATION).write_text(json.dumps(encoded.columns))
    return target


def _same_data(suite: Suite, first: Workload, second: Workload) -> bool:
    """Whether two workloads read the same rows. A file has no splits."""
    path = suite.locate(first.dataset)
    if path is not None:
        return path == suite.locate(second.dataset)
    return (first.dataset, first.config, first.split) == (second.dataset, second.config, second.split)
