"""Aligns a model's labels with a data set's by name, or gives the reason why they do not fit.

Comparing the index of a model's output with the index of a label measures nothing unless both indices mean
the same label. So labels are aligned by index only if the suite says so.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from engine.errors import RequestError, did_you_mean

How = Literal["name", "declared map", "declared list", "order"]


def normalise(name: str) -> str:
    """`name` without case, spaces and punctuation: "Sci/Tech" and "sci_tech" become the same."""
    return "".join(c for c in unicodedata.normalize("NFKC", name).casefold() if c.isalnum())


class Names:
    """Finds a label among `names`: by its exact spelling, else by its normal form if only one name has that form."""

    def __init__(self, names: list[str]) -> None:
        self._exact: dict[str, int] = {}
        for index, name in enumerate(names):
            self._exact.setdefault(name, index)
        alike: dict[str, list[int]] = defaultdict(list)
        for name, index in self._exact.items():
            alike[normalise(name)].append(index)
        self._normal = {form: indices[0] for form, indices in alike.items() if form and len(indices) == 1}

    def find(self, name: str) -> int | None:
        """The first index of `name`; None if no name resembles it, or more than one does."""
        return self._exact.get(name, self._normal.get(normalise(name)))


@dataclass(frozen=True)
class Alignment:
    """Which of a data set's labels each output of a model means."""

    mapping: list[int] | None
    """Model output index -> data set label index; None if the labels could not be aligned."""
    how: How | None
    reason: str | None
    """Why `mapping` is None."""
    model_labels: list[str]

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """The index of the data set label that each row of `logits` [n, outputs] predicts: int64 [n].

        Raises ValueError if the labels are not aligned, or if the shape of the logits does not fit this model.
        """
        if self.mapping is None:
            raise ValueError(f"no predictions: {self.reason}")
        if logits.ndim != 2 or logits.shape[1] != len(self.mapping):
            raise ValueError(f"logits of shape {logits.shape} do not fit {len(self.mapping)} model outputs")
        answers: np.ndarray = np.asarray(self.mapping, dtype=np.int64)[logits.argmax(axis=1)]
        return answers

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def align(
    model_labels: list[str],
    dataset_labels: list[str] | None,
    declared: list[str] | dict[str, str] | Literal["by-order"] | None = None,
) -> Alignment:
    """Align labels as the variant declares, else by name: one to one and completely.

    Labels that do not fit by name give an alignment without a mapping. Raises RequestError for an impossible
    declaration.
    """
    if dataset_labels is None:
        return Alignment(None, None, "the workload is unlabelled", model_labels)
    if declared == "by-order":
        return Alignment(_by_order(model_labels, dataset_labels), "order", None, model_labels)
    if isinstance(declared, dict):
        mapping = _by_map(model_labels, dataset_labels, declared)
        return Alignment(mapping, "declared map", None, model_labels)
    if isinstance(declared, list):
        mapping = _by_list(model_labels, dataset_labels, declared)
        return Alignment(mapping, "declared list", None, model_labels)
    named = _by_name(model_labels, dataset_labels)
    if named is None:
        return Alignment(None, None, _why_not(model_labels, dataset_labels), model_labels)
    return Alignment(named, "name", None, model_labels)


def index_match_rate(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of examples whose largest logit's index equals the label's index, regardless of their meaning.

    `logits` is [n, outputs], `labels` int [n], n at least 1.
    """
    return float(np.mean(logits.argmax(axis=1) == labels))


def _by_name(model_labels: list[str], dataset_labels: list[str]) -> list[int] | None:
    if any(map(generic, model_labels)):
        return None
    names = Names(dataset_labels)
    mapping = [index for label in model_labels if (index := names.find(label)) is not None]
    complete = len(mapping) == len(model_labels) == len(dataset_labels) == len(set(mapping))
    return mapping if complete else None


def _by_order(model_labels: list[str], dataset_labels: list[str]) -> list[int]:
    if len(model_labels) != len(dataset_labels):
        raise RequestError(
            f'labels = "by-order": the model has {len(model_labels)} labels ({listed(model_labels)}), '
            f"the data set {len(dataset_labels)} ({listed(dataset_labels)}); allowed where the numbers "
            "are equal; declare a map from the model's labels to the data set's"
        )
    return list(range(len(model_labels)))


def _by_map(model_labels: list[str], dataset_labels: list[str], declared: dict[str, str]) -> list[int]:
    ours, theirs = Names(model_labels), Names(dataset_labels)
    chosen: dict[str, int] = {}
    for key, value in declared.items():
        at = ours.find(key)
        if at is None:
            raise RequestError(
                f"labels: {key!r} is not a label of the model; allowed: {listed(model_labels)}"
                + did_you_mean(key, model_labels)
            )
        label = model_labels[at]
        if label in chosen:
            raise RequestError(f"labels: the map names the model's label {label!r} twice; name it once")
        chosen[label] = _target(value, dataset_labels, theirs)
    missing = [label for label in dict.fromkeys(model_labels) if label not in chosen]
    if missing:
        raise RequestError(
            f"labels: the map leaves out {listed(missing)}; give every label of the model "
            f"one of the data set's: {listed(dataset_labels)}"
        )
    return [chosen[label] for label in model_labels]


def _by_list(model_labels: list[str], dataset_labels: list[str], declared: list[str]) -> list[int]:
    if len(declared) != len(model_labels):
        raise RequestError(
            f"labels: the list has {len(declared)} names ({listed(declared)}), the model "
            f"{len(model_labels)} outputs ({listed(model_labels)}); "
            "give the data set's label of each output, in the order of the outputs"
        )
    names = Names(dataset_labels)
    return [_target(value, dataset_labels, names) for value in declared]


def _target(value: str, dataset_labels: list[str], names: Names) -> int:
    index = names.find(value)
    if index is None:
        raise RequestError(
            f"labels: {value!r} is not a label of the data set; allowed: {listed(dataset_labels)}"
            + did_you_mean(value, dataset_labels)
        )
    return index


def _why_not(model_labels: list[str], dataset_labels: list[str]) -> str:
    theirs = listed(dataset_labels)
    if not model_labels or not all(map(generic, model_labels)):
        return (
            f"the model's labels ({listed(model_labels)}) do not fit the data set's ({theirs}); "
            "declare labels = ... on the variant"
        )
    only = f"the model only calls its outputs {_span(model_labels)}"
    if len(model_labels) == len(dataset_labels):
        return f'{only}; labels = "by-order" or a map on the variant would align them with {theirs}'
    return (
        f"{only}, the data set has {len(dataset_labels)} labels ({theirs}); "
        "a map on the variant (labels = {...}) would align them"
    )


def generic(label: str) -> bool:
    """Whether `label` is only a number: "LABEL_0", "3"."""
    return re.fullmatch(r"(label)?[0-9]+", normalise(label)) is not None


def _span(labels: list[str]) -> str:
    """ "LABEL_0..3" for labels that count up from 0, else the listed labels."""
    stem = labels[0].removesuffix("0")
    counted = [f"{stem}{index}" for index in range(len(labels))]
    return f"{labels[0]}..{len(labels) - 1}" if len(labels) > 1 and labels == counted else listed(labels)


def listed(names: list[str], limit: int = 12) -> str:
    """`names` in one line: at most `limit` names, each cut to 40 characters."""
    flat = (" ".join(name.split()) for name in names[:limit])
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(name if len(name) <= 40 else name[:39] + "…" for name in flat) + more


RANDOM_WEIGHTS = "its head or all its weights are random: made for speed and memory alone"
"""Why a row with an untrained model has no accuracy: its answers have no relation to the texts."""
