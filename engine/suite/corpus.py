"""Examples from a local CSV, Parquet or JSONL file or from a hub data set, with or without labels.

Every row of the data set is checked before any is chosen, so `examples` and `seed` have no influence on
whether a file is accepted. Rows are counted from 0 in reading order; blank lines are not rows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import RequestError, did_you_mean, one_line
from engine.measurement.labels import Names, listed, normalise
from engine.suite.files import Columns, asked_columns, check_columns, check_file, read_csv, read_jsonl, read_parquet
from engine.suite.spec import DATA_FILES, Suite, Workload

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True, eq=False)
class Corpus:
    """The examples of one workload, in the order in which every variant sees them."""

    dataset: str
    """The data set as spelled in the suite."""
    label_names: list[str] | None
    texts: list[str]
    labels: np.ndarray | None
    """int64 [n]: indices into `label_names`; None for unlabelled texts."""
    source_indices: np.ndarray
    """int64 [n]: row numbers in the data set as read, from 0."""
    digest: str
    """sha256 (hex) over label names, texts and labels in order, independent of their source."""

    def __len__(self) -> int:
        return len(self.texts)


def load(suite: Suite, workload: Workload, offline: bool = False, where: str = "workload") -> Corpus:
    """Load the examples of `workload`: shuffled by its seed, then the first `examples` of them (0: all).

    With `offline`, hub data sets are read only from the local cache. `where` names the workload in messages.
    Raises RequestError if the data cannot be read, or if any row cannot be used.
    """
    table = _read(suite, workload, offline, where)
    texts = table.columns[workload.text]
    _check_texts(table, workload.text)
    names, labels = _labels(table, workload)
    rows = len(texts)
    if workload.examples > rows:
        raise RequestError(
            f"{table.origin}: examples = {workload.examples}, but there are {rows}; "
            f"allowed: 1 to {rows}, or 0 for all of them"
        )
    chosen = np.random.default_rng(workload.seed).permutation(rows)[: workload.examples or rows]
    texts = [texts[row] for row in chosen]
    if labels is not None:
        labels = labels[chosen]
    return Corpus(
        workload.dataset,
        names,
        texts,
        labels,
        chosen.astype(np.int64),
        digest(names, texts, None if labels is None else labels.tolist()),
    )


def _read(suite: Suite, workload: Workload, offline: bool, where: str) -> Columns:
    try:
        path = suite.locate(workload.dataset)
        if path is None:
            table = _read_hub(suite, workload, offline, f"{where}: {workload.dataset}")
        else:
            origin = f"{where}: {path}"
            # The suite's spelling has the extension: `path` has followed links, and files in a cache have none.
            kind = Path(workload.dataset).suffix.lower()
            check_file(path, kind, origin)
            read = {".csv": read_csv, ".parquet": read_parquet}.get(kind, read_jsonl)
            table = read(path, origin, workload)
    except OSError as error:
        raise RequestError(
            f"{where}: cannot read {workload.dataset} ({one_line(error)}); make it readable, or name another"
        ) from error
    if not table.columns[workload.text]:
        raise RequestError(f"{table.origin}: has no rows; give it at least one example")
    return table


def _read_hub(suite: Suite, workload: Workload, offline: bool, origin: str) -> Columns:
    if not _HUB_ID.fullmatch(workload.dataset):
        raise RequestError(f"{origin}: is neither a file nor a hub id; allowed: {', '.join(DATA_FILES)}, or OWNER/NAME")
    import datasets

    fetch = f"run `python -m engine fetch {suite.reference}` where there is a network"
    try:
        with _offline(offline):
            # With hf://, `datasets` does not mistake a folder of the same name in the working directory for the set.
            builder = datasets.load_dataset_builder(
                f"hf://datasets/{workload.dataset}", name=workload.config, revision=workload.revision
            )
            _check_revision(builder, workload.revision, origin, fetch)
            builder.download_and_prepare()
            dataset = builder.as_dataset(split=workload.split)
    except RequestError:
        raise
    except ConnectionError as error:
        raise RequestError(
            f"{origin}: is not in the local cache, and the hub cannot be reached ({one_line(error)}); {fetch}"
        ) from error
    except Exception as error:
        # `datasets` and the server raise many types: for an unknown id or configuration, or an unreadable format.
        raise RequestError(
            f"{origin}: cannot be loaded ({type(error).__name__}: {one_line(error)}); "
            f"check dataset, config, revision and split; where the hub cannot be reached, {fetch}"
        ) from error
    check_columns(dataset.column_names, workload, origin)
    feature = dataset.features[workload.label] if workload.label is not None else None
    return Columns(
        origin,
        dataset.select_columns(list(asked_columns(workload).values()))[:],
        class_names=list(feature.names) if isinstance(feature, datasets.ClassLabel) else None,
    )


@contextmanager
def _offline(requested: bool) -> Iterator[None]:
    """Keep `datasets` off the network if `requested`. Its environment variable is only read at import."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or requested
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _check_revision(builder: Any, revision: str | None, origin: str, fetch: str) -> None:
    """Raise RequestError for a revision other than the requested one: offline, `datasets` takes any cached revision."""
    from datasets.packaged_modules.cache.cache import Cache

    if revision and isinstance(builder, Cache) and not builder.hash.startswith(revision):
        raise RequestError(
            f"{origin}: the hub cannot be reached, and the local cache holds commit {builder.hash}, "
            f"which is not known to be revision {revision!r}; set revision to that commit, or {fetch}"
        )


def _check_texts(table: Columns, column: str) -> None:
    values = table.columns[column]
    faults = {row: fault for row, value in enumerate(values) if (fault := _fault(value))}
    if faults:
        first, kind = next(iter(faults.items()))
        rows = [row for row, fault in faults.items() if fault == kind]
        raise RequestError(
            f"{table.origin}: column {column!r}: {table.at(rows)}: found {kind} ({_shown(values[first])}); "
            "allowed: text; correct these rows or drop them"
        )


def _fault(value: Any) -> str | None:
    """The reason why `value` cannot be the text or the label name of an example; None if it can."""
    if value is None:
        return "no value"
    if not isinstance(value, str):
        return "a value that is not a string"
    if _blank(value):
        return "an empty text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "a lone surrogate, which is no Unicode text"
    return None


def _blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _labels(table: Columns, workload: Workload) -> tuple[list[str] | None, np.ndarray | None]:
    """The label names, and int64 [rows] of indices into them; (None, None) for an unlabelled workload."""
    if workload.label is None:
        return None, None
    values = table.columns[workload.label]
    begin = f"{table.origin}: column {workload.label!r}"
    missing = [row for row, value in enumerate(values) if value is None or _blank(value)]
    if missing:
        raise RequestError(
            f"{begin}: {table.at(missing)}: found no label; label these rows or drop them, "
            "or leave `label` out to compare by agreement"
        )
    # isinstance() would accept a bool.
    odd = [row for row, value in enumerate(values) if type(value) is not int and _fault(value)]
    if odd:
        raise RequestError(
            f"{begin}: {table.at(odd)}: found {_shown(values[odd[0]])}; allowed: whole numbers from 0, or names"
        )
    distinct = list(dict.fromkeys(values))
    names = _label_names(table, workload, distinct, begin)
    indices = _indices(distinct, names)
    unknown = [row for row, value in enumerate(values) if indices[value] is None]
    if unknown:
        found = values[unknown[0]]
        raise RequestError(
            f"{begin}: {table.at(unknown)}: found {_shown(found)}; "
            f"allowed: {listed(names)}, or their numbers 0 to {len(names) - 1}" + did_you_mean(str(found), names)
        )
    return names, np.array([indices[value] for value in values], dtype=np.int64)


def _label_names(table: Columns, workload: Workload, distinct: list[int | str], begin: str) -> list[str]:
    """The label names: those declared, else the data set's own, else the sorted strings of the column."""
    declared, own = workload.labels, table.class_names
    if declared and own:
        here, there = [normalise(name) for name in declared], [normalise(name) for name in own]
        if len(here) != len(there) or (here != there and sorted(here) == sorted(there)):
            raise RequestError(
                f"{begin}: labels = {declared} does not fit the names that the data set declares: "
                f"{listed(own)}; give as many in the same order, or leave `labels` out"
            )
        return declared
    if declared or own:
        return declared or own or []
    numbers = [value for value in distinct if _number(value) is not None]
    shown = listed([str(number) for number in sorted(numbers, key=int)])
    if len(numbers) == len(distinct) or any(isinstance(value, int) for value in distinct):
        raise RequestError(
            f"{begin}: the labels are numbers ({shown}) without names; "
            "declare the names in the order of the numbers: labels = [...]"
        )
    return sorted(str(value) for value in distinct)


def _indices(distinct: list[int | str], names: list[str]) -> dict[int | str, int | None]:
    """Each label's index into `names`; None for an unknown label.

    The column as a whole decides whether "1" is a name or a number.
    """
    numbers = {value: number for value in distinct if (number := _number(value)) is not None}
    if len(numbers) == len(distinct) and not all(value in names for value in distinct):
        indices: dict[int | str, int | None] = dict(numbers)
    else:
        finder = Names(names)
        indices = {value: finder.find(value) if isinstance(value, str) else value for value in distinct}
    return {value: index if index is not None and 0 <= index < len(names) else None for value, index in indices.items()}


def _number(value: int | str) -> int | None:
    """`value` as a whole number, also from digits in a string; None if it is not one."""
    if isinstance(value, int):
        return value
    return int(value) if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value) else None


def digest(names: list[str] | None, texts: list[str], labels: list[int] | None) -> str:
    """The identity of a set of examples: sha256 (hex) over label names, texts and labels in order."""
    content = [names, texts, labels]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
