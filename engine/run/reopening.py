"""A stored measurement made ready to be loaded again, for a profile or a shipped folder."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.artefacts.encoding import Encoder
from engine.artefacts.lanes import BuildLanes
from engine.artefacts.preparer import Prepared, Preparer
from engine.errors import RequestError, did_you_mean, one_line
from engine.machine import environment
from engine.store.rows import Row
from engine.suite import batching
from engine.suite.batching import Batching
from engine.suite.reading import parse_suite
from engine.suite.spec import Suite, Variant, suite_files

EXAMPLES = 8
"""The check holds as many whole batches as this many examples need."""


@dataclass(frozen=True)
class Again:
    """One measurement of a run, and what its worker loaded and answered first, found again."""

    run: dict[str, Any]
    row: Row
    variant: Variant
    prepared: Prepared
    label_names: list[str] | None
    """The data set's."""
    texts: list[str]
    """The texts of the run's first full batches."""
    logits: np.ndarray
    """float32 [texts, labels], as stored."""
    batches: list[int]
    """Texts in each of those batches."""


def again(reference: str, variant: str, batch_size: int | None = None) -> Again:
    """Find again, by content, what a run's worker loaded; for the largest batch size by default.

    Raises RequestError, one line, where it was not measured, or where its files are gone or have changed.
    """
    from engine.store import examples, measurements, open_store, runs

    with open_store(create=False) as store, store.session() as session:
        run = runs.run_summary(stored := runs.get_run(session, reference))
        rows = {row.id: row for row in measurements.rows(session, stored.id)}
        found = _chosen(rows, variant, batch_size, run["id"])
        row = rows[found]
        logits = measurements.logits(session, found)
        if logits is None or stored.example_set is None:
            raise RequestError(f"{variant}: run {run['id']} holds no answers of it to check a copy against")
        names, count = stored.example_set.label_names, stored.example_set.count
        finder = _Finder(_suite_of(run), run)
        _check_fitting(run, row, rows.values(), finder.suite)
        # With every default written out, as a file may leave them out.
        run["spec"] = finder.suite.model_dump(mode="json")
        prepared = _found(finder, row, run)
        lengths = _Lengths(finder, row.max_length)
        if row.order == "length" or any(other.max_batch_tokens for other in rows.values()):
            lengths.texts = [example.text for example in examples.examples(session, stored.example_set_id or "")]
        batches = _batches(run, row, list(rows.values()), lengths, count)
        positions = [int(position) for batch in batches for position in batch]
        texts = [e.text for e in examples.examples_at(session, stored.example_set_id or "", positions)]
        sizes = [len(batch) for batch in batches]
    return Again(run, row, finder.suite.variants[row.variant], prepared, names, texts, logits[positions], sizes)


def _chosen(rows: dict[int, Row], variant: str, batch_size: int | None, run_id: str) -> int:
    """The id of the measurement to ship. Raises RequestError where there is none, or where nothing follows from it."""
    of_variant = {found: row for found, row in rows.items() if row.variant == variant}
    if not of_variant:
        names = list(dict.fromkeys(row.variant for row in rows.values()))
        raise RequestError(
            f"run {run_id} has no variant {variant!r}; allowed: {', '.join(names) or 'it has none'}"
            + did_you_mean(variant, names)
        )
    sizes = {row.batch_size: found for found, row in of_variant.items()}
    if batch_size is not None and batch_size not in sizes:
        allowed = ", ".join(map(str, sorted(sizes)))
        raise RequestError(f"{variant} was not measured in batches of {batch_size}; allowed: {allowed}")
    found = sizes[max(sizes) if batch_size is None else batch_size]
    row = rows[found]
    if row.status != "measured":
        why = f": {row.status_reason}" if row.status_reason else ""
        raise RequestError(
            f"{variant} was not measured in run {run_id}, so nothing of it can be used: {row.status}{why}"
        )
    if row.validity == "invalid":
        raise RequestError(f"{variant} is invalid in run {run_id}, and nothing follows from it: {row.validity_reason}")
    return found


def _check_fitting(run: dict[str, Any], row: Row, rows: Iterable[Row], suite: Suite) -> None:
    """Raises RequestError where a run's rows are not those of its suite: it may have come as a file."""
    odd = [name for name in dict.fromkeys(other.variant for other in rows) if name not in suite.variants]
    if not odd:
        variant = suite.variants[row.variant]
        odd = [variant.name] if (variant.backend, variant.precision) != (row.backend, row.precision) else []
    if odd:
        raise RequestError(f"run {run['id']} has figures of {odd[0]!r} that are of no variant of its suite")
    if not run["environment"].get("threads"):
        raise RequestError(f"run {run['id']} does not say with how many threads it was measured; measure it anew")


def _suite_of(run: dict[str, Any]) -> Suite:
    """The run's suite, in the folder that its relative paths start from."""
    path = Path(run["suite_path"]) if run["suite_path"] else None
    if path is None or not path.is_file():
        # A run of another machine, of a suite that comes with the bench.
        path = suite_files().get(run["suite"], path)
    return parse_suite(run["spec"], f"run {run['id']}", path.parent if path else Path())


class _NothingBuilt(BuildLanes):
    """Finds what was built with the library versions of a run, and builds nothing."""

    def __init__(self, versions: dict[str, str]) -> None:
        super().__init__(0.0, lambda text, share: None)
        self._versions = versions

    def version(self, distribution: str) -> str | None:
        return self._versions.get(distribution)

    @contextmanager
    def making(self, target: Path) -> Iterator[None]:
        if not target.is_dir():
            raise _Gone(target)
        yield None


class _Finder(Preparer):
    """Finds what a run loaded, by the library versions that the run had; makes nothing and asks no hub."""

    def __init__(self, suite: Suite, run: dict[str, Any]) -> None:
        self.versions: dict[str, str] = run["environment"].get("distributions") or {}
        super().__init__(suite, run["device"], offline=True, lanes=_NothingBuilt(self.versions))


class _Gone(RequestError):
    """Something that the run loaded is not there any more."""

    def __init__(self, target: Path) -> None:
        super().__init__(f"{target} is not there")


def _found(finder: _Finder, row: Row, run: dict[str, Any]) -> Prepared:
    """The files that the run's worker loaded. Raises RequestError if they are gone or have changed since."""
    name = row.variant
    try:
        prepared = finder.prepare(finder.suite.variants[name])
    except _Gone as error:
        now = environment.installed_versions()
        moved = [
            f"{package} {version} instead of {now[package]}"
            for package, version in sorted(finder.versions.items())
            if package in now and now[package] != version
        ]
        if run["host"] != socket.gethostname():
            way = f"it was measured on {run['host']}: ask there, or measure it here"
        elif moved:
            way = f"the run had {', '.join(moved)}: measure again"
        else:
            way = (
                f"`python -m engine fetch {finder.suite.reference}` makes it again, unless the model has changed since"
            )
        raise RequestError(
            f"{name}: what run {run['id']} loaded is not here any more ({one_line(error)}); {way}"
        ) from error
    loaded = (row.audit or {}).get("loaded") or {}
    now_loaded = {"model": prepared.source.digest, "folder": prepared.folder.name}
    if any(loaded.get(key, value) != value for key, value in now_loaded.items()):
        raise RequestError(
            f"{name}: the files of {prepared.source.reference!r} have changed since run {run['id']}; measure again"
        )
    return prepared


class _Lengths:
    """Token counts of all examples by variant; only batches that are sorted by length need them."""

    def __init__(self, finder: _Finder, max_length: int) -> None:
        self.finder = finder
        self.max_length = max_length
        self.texts: list[str] = []

    def of(self, variant: str) -> np.ndarray:
        """int64 [examples]."""
        described = self.finder.model(self.finder.suite.variants[variant])[1]
        return Encoder(described, self.max_length).encode(self.texts).lengths


def _batches(run: dict[str, Any], row: Row, rows: list[Row], lengths: _Lengths, count: int) -> list[np.ndarray]:
    """The first full batches in which the run answered, as `engine.run.runner` forms them."""
    # All variants that loaded answered in the same windows, even those that failed later.
    peers = [r for r in rows if r.load_s is not None and r.experiment == row.experiment]
    how = [_batching(r) for r in peers]
    reference = next((r for r in peers if r.baseline), row)
    nothing = np.zeros(count, dtype=np.int64)
    mine = lengths.of(row.variant) if lengths.texts else nothing
    theirs = lengths.of(reference.variant) if lengths.texts else nothing
    seed = run["spec"]["workload"]["seed"]
    own = _batching(row)
    windows = batching.windows(theirs, how, seed)
    made = [b for window in windows for b in batching.batches(window, mine, own)]
    full = [b for b in made if len(b) == own.typical(mine)] or made
    return full[: math.ceil(EXAMPLES / own.typical(mine))]


def _batching(row: Row) -> Batching:
    """How a stored measurement formed its batches."""
    return Batching(row.batch_size, row.padding, row.order, row.max_batch_tokens)
