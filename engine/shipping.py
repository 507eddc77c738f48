"""A measured variant as a folder that works without the bench: its files, a few lines that load them, a check.

What a worker loaded is found again by content: under the keys that the run's own library versions give, and by the
digest that the run kept. Nothing is made anew; what is not there any more is refused with the command that makes it.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from engine import backends, batching, files, hardware, pool, processes, tables
from engine.artefacts import Prepared, Preparer
from engine.backends.base import Snippet
from engine.encoding import SETTINGS, TOKENIZER, Encoder
from engine.errors import RequestError, did_you_mean, one_line
from engine.spec import Suite, Variant, parse_suite, suite_files
from engine.units import megabytes

Row = dict[str, Any]

EXAMPLES = 8
"""The check holds as many whole batches as this many examples need."""
TOLERANCES = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 1e-2, "bf16": 5e-2, "nf4": 5e-2, "fp4": 5e-2, "int8": 5e-2}
"""How far a logit may be from the stored one, as a share of the largest stored one: on the machine of the run they
are the same; other kernels round otherwise, and a rounded activation can fall on another 4- or 8-bit step."""
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""Names of files and versions that need no quoting anywhere."""
CHECK_SECONDS = 600.0
LOCK_SECONDS = 5.0
SUMS = "SHA256SUMS"
CHECKED = "checked.txt"
"""What the copy's own check said when the folder was made, or why it could not run."""
MODEL = "model"

LOAD = '''\
"""Answers the texts given; without any, checks itself against stored logits."""

from pathlib import Path

{imports}

HERE = Path(__file__).resolve().parent
MODEL = HERE / "model"
LABELS = {labels}
DEVICE, THREADS = "{device}", {threads}  # as measured

tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
tokenizer.enable_truncation({max_length}{truncation_side})
tokenizer.enable_padding(length={length}, pad_id={pad_id}{pad_type_id}{padding_side})

{code}

def logits(texts):
    """One batch of texts -> float32 [texts, labels]."""
    encoded = tokenizer.encode_batch(texts)
    return call({{
{inputs}
    }})
'''
SELF_CHECK = '''

def largest_difference(stored):
    """Between the stored logits and those of the same texts here, in the same batches."""
    texts, found = [example["text"] for example in stored["examples"]], []
    for size in stored["batches"]:
        found.append(logits(texts[:size]))
        texts = texts[size:]
    return float(np.abs(np.concatenate(found) - np.array([example["logits"] for example in stored["examples"]])).max())


if __name__ == "__main__":
    import json
    import sys

    if texts := sys.argv[1:]:
        for text, row in zip(texts, logits(texts)):
            shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
            print(f"{LABELS[row.argmax()]} ({shares.max():.1%}): {text}")
    else:
        stored = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
        found, allowed = largest_difference(stored), stored["tolerance"]
        count = len(stored["examples"])
        print(f"{count} texts: logits differ from the stored ones by {found:.2g} (allowed: {allowed:.2g})")
        sys.exit(0 if found <= allowed else 1)
'''
READINGS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""A model's input -> what `tokenizers` calls it."""


@dataclass(frozen=True)
class Shipment:
    """What the folder will hold: found and checked, not copied yet."""

    run: dict[str, Any]
    row: Row
    snippet: str
    """The part of load.py that loads and answers."""
    made: dict[str, str]
    """File name -> its text."""
    copied: dict[str, Path]
    """File name -> the file it is a copy of."""

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by file name, without SHA256SUMS and checked.txt, which come with the copy."""
        made = {name: len(text.encode()) for name, text in self.made.items()}
        return made | {name: path.stat().st_size for name, path in self.copied.items()}

    def checksums(self) -> dict[str, str]:
        """sha256 by file name: reads every file."""
        made = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in self.made.items()}
        return made | {name: _sha256(path) for name, path in self.copied.items()}


@dataclass(frozen=True)
class Shipped:
    """A folder that was made, and what its own check said."""

    shipment: Shipment
    folder: Path
    check: str
    """One sentence."""


def ship(reference: str, variant: str, folder: str | Path, batch_size: int | None = None) -> Shipped:
    """Make `folder` from a run's variant, whole or not at all, and let its own check run where it can.

    `batch_size`: the measurement to ship, the largest by default. Raises RequestError for a request that cannot be
    served, for files that changed since the run, and where the copy does not reproduce the stored logits here.
    """
    target = Path(folder).expanduser().absolute()
    _check_target(target)
    shipment = plan(reference, variant, batch_size)
    needed = sum(shipment.sizes.values())
    draft = target.parent / f".{target.name}.{os.getpid()}.draft"
    try:
        free = shutil.disk_usage(target.parent).free
        if free < needed:
            raise RequestError(
                f"{target}: needs {megabytes(needed)} MB, and {megabytes(free)} MB are free; free some space"
            )
        _remove_leftovers(target)
        draft.mkdir()
        write(shipment, draft)
        said = check(shipment, draft)
        stamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC on {socket.gethostname()}"
        (draft / CHECKED).write_text(f"{stamp}. {said}\n", encoding="utf-8", newline="\n")
        _sum(draft)
        files.flush(draft)
        draft.rename(target)
    except OSError as error:
        raise RequestError(f"cannot write {target}: {one_line(error)}; free some space or make it writable") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Shipped(shipment, target, said)


def _check_target(target: Path) -> None:
    """Raises RequestError where nothing may be put at `target`."""
    if not target.parent.is_dir():
        raise RequestError(f"cannot make {target}: its folder does not exist")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise RequestError(f"cannot make {target}: there is a file of that name")
    try:
        if target.is_dir() and any(target.iterdir()):
            raise RequestError(f"cannot make {target}: it is there and not empty; name a new folder")
    except OSError as error:
        raise RequestError(f"cannot read {target}: {one_line(error)}") from error


def _remove_leftovers(target: Path) -> None:
    """What a process that was killed had begun of the same folder."""
    for draft in target.parent.glob(f".{glob.escape(target.name)}.*.draft"):
        pid = draft.name.split(".")[-2]
        if pid.isdecimal() and not processes.lives(int(pid), None):
            shutil.rmtree(draft, ignore_errors=True)


def write(shipment: Shipment, folder: Path) -> None:
    """All files of `shipment` into the empty `folder`."""
    (folder / MODEL).mkdir()
    for name, text in shipment.made.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    for name, path in shipment.copied.items():
        shutil.copyfile(path, folder / name)


def _sum(folder: Path) -> None:
    """The checksums of what was written, as `sha256sum -c` reads them."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def check(shipment: Shipment, folder: Path) -> str:
    """What the folder's own check says here, in a sentence; or why it could not run.

    Raises RequestError where the run was measured on this host and the copy gives other logits.
    """
    again = "`python load.py` in the folder checks it"
    try:
        device = hardware.resolve_device(shipment.run["device"])
        with pool.device_lock(device, "ship", timeout_s=LOCK_SECONDS):
            done = subprocess.run(
                processes.tie([sys.executable, "-I", str(folder / "load.py")]),
                cwd=folder.parent,
                env=processes.tied(
                    hardware.worker_environment() | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
                ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=CHECK_SECONDS,
                check=False,
            )
    except (RequestError, subprocess.TimeoutExpired) as error:
        return f"Not checked here: {one_line(error)}; {again}."
    if done.returncode == 0:
        return f"Checked here, {done.stdout.strip().splitlines()[-1]}."
    last = next((line for line in reversed((done.stdout + done.stderr).splitlines()) if line.strip()), "no word")
    if shipment.run["host"] != socket.gethostname():
        return f"Not reproduced on this machine, which is not the run's: {last.strip()}."
    raise RequestError(
        f"{shipment.row['variant']}: the copy does not reproduce the logits that the run stored ({last.strip()}); "
        "the model's files or the libraries have changed since: measure again"
    )


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
    """Of the run's first full batches."""
    logits: np.ndarray
    """float32 [texts, labels], as stored."""
    batches: list[int]
    """Texts in each of those batches."""


def again(reference: str, variant: str, batch_size: int | None = None) -> Again:
    """What a run's worker had, by content; the largest batch size by default.

    Raises RequestError, one line, where it was not measured, or where its files are gone or have changed.
    """
    from engine.store import open_store, queries

    with open_store(create=False) as store, store.session() as session:
        run = queries.run_summary(stored := queries.get_run(session, reference))
        rows = {row.id: queries.flat(row) for row in queries.measurements(session, stored.id)}
        found = _chosen(rows, variant, batch_size, run["id"])
        row = rows[found]
        logits = queries.logits(session, found)
        if logits is None or stored.example_set is None:
            raise RequestError(f"{variant}: run {run['id']} holds no answers of it to check a copy against")
        names, count = stored.example_set.label_names, stored.example_set.count
        finder = _Finder(_suite_of(run), run)
        _check_fitting(run, row, rows.values(), finder.suite)
        # With every default written out, as a file may leave them out.
        run["spec"] = finder.suite.model_dump(mode="json")
        prepared = _found(finder, row, run)
        lengths = _Lengths(finder, row["max_length"])
        if row["order"] == "length" or any(other["max_batch_tokens"] for other in rows.values()):
            lengths.texts = [example.text for example in queries.examples(session, stored.example_set_id or "")]
        batches = _batches(run, row, list(rows.values()), lengths, count)
        positions = [int(position) for batch in batches for position in batch]
        texts = [e.text for e in queries.examples_at(session, stored.example_set_id or "", positions)]
        sizes = [len(batch) for batch in batches]
    return Again(run, row, finder.suite.variants[row["variant"]], prepared, names, texts, logits[positions], sizes)


def plan(reference: str, variant: str, batch_size: int | None = None) -> Shipment:
    """All that a folder for one variant of a run needs. Raises RequestError, one line, where it cannot be shipped."""
    found = again(reference, variant, batch_size)
    run, row, prepared, logits = found.run, found.row, found.prepared, found.logits
    if row["padding"] == "packed":
        raise RequestError(f"{variant}: there is no code to ship yet that packs a batch; ship one that pads")
    device, settings = _device(run), (row["audit"] or {}).get("settings")
    try:
        snippet = backends.get(row["backend"]).snippet(row["precision"], found.variant.options, device, settings or {})
    except (KeyError, TypeError) as error:
        raise RequestError(
            f"{variant}: run {run['id']} does not say with which settings it was loaded; measure it anew"
        ) from error
    if snippet is None:
        raise RequestError(f"{variant}: backend {row['backend']!r} has no loading code to ship yet")
    labels = _labels(row, prepared, found.label_names)
    loading = _load(run, row, prepared, snippet, labels)
    answers = [
        {"text": text, "label": labels[int(line.argmax())], "logits": [float(value) for value in line]}
        for text, line in zip(found.texts, logits, strict=True)
    ]
    largest = float(np.abs(logits).max())
    expected = {
        "run": run["id"],
        "variant": row["variant"],
        "batches": found.batches,
        "tolerance": float(f"{TOLERANCES[row['precision']] * max(largest, 1.0):.2g}"),
        "examples": answers,
    }
    copied = _files(prepared, snippet)
    made = {
        "load.py": loading + SELF_CHECK,
        "requirements.txt": _requirements(run, snippet),
        "expected.json": json.dumps(expected, indent=1) + "\n",
    }
    made["README.md"] = _readme(run, row, labels, expected, [*made, *copied])
    return Shipment(run, row, loading, made, copied)


def _chosen(rows: dict[int, Row], variant: str, batch_size: int | None, run_id: str) -> int:
    """The id of the measurement to ship. Raises RequestError where there is none, or where nothing follows from it."""
    of_variant = {found: row for found, row in rows.items() if row["variant"] == variant}
    if not of_variant:
        names = list(dict.fromkeys(row["variant"] for row in rows.values()))
        raise RequestError(
            f"run {run_id} has no variant {variant!r}; allowed: {', '.join(names) or 'it has none'}"
            + did_you_mean(variant, names)
        )
    sizes = {row["batch_size"]: found for found, row in of_variant.items()}
    if batch_size is not None and batch_size not in sizes:
        allowed = ", ".join(map(str, sorted(sizes)))
        raise RequestError(f"{variant} was not measured in batches of {batch_size}; allowed: {allowed}")
    found = sizes[max(sizes) if batch_size is None else batch_size]
    row = rows[found]
    if row["status"] != "measured":
        why = f": {row['status_reason']}" if row["status_reason"] else ""
        raise RequestError(
            f"{variant} was not measured in run {run_id}, so nothing of it can be used: {row['status']}{why}"
        )
    if row["validity"] == "invalid":
        raise RequestError(
            f"{variant} is invalid in run {run_id}, and nothing follows from it: {row['validity_reason']}"
        )
    return found


def _check_fitting(run: dict[str, Any], row: Row, rows: Iterable[Row], suite: Suite) -> None:
    """Raises RequestError where a run's rows are not those of its suite: it may have come as a file."""
    odd = [name for name in dict.fromkeys(other["variant"] for other in rows) if name not in suite.variants]
    if not odd:
        variant = suite.variants[row["variant"]]
        odd = [variant.name] if (variant.backend, variant.precision) != (row["backend"], row["precision"]) else []
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


class _Finder(Preparer):
    """Finds what a run loaded, by the versions that the run had; makes nothing and asks no hub."""

    def __init__(self, suite: Suite, run: dict[str, Any]) -> None:
        super().__init__(suite, run["device"], offline=True)
        self._versions = run["environment"].get("distributions") or {}

    def _version(self, distribution: str) -> str | None:
        return self._versions.get(distribution)

    @contextmanager
    def _making(self, target: Path) -> Iterator[None]:
        if not target.is_dir():
            raise _Gone(target)
        yield None


class _Gone(RequestError):
    """Something that the run loaded is not there any more."""

    def __init__(self, target: Path) -> None:
        super().__init__(f"{target} is not there")


def _found(finder: _Finder, row: Row, run: dict[str, Any]) -> Prepared:
    """What the run's worker loaded. Raises RequestError where it is gone, or has changed since."""
    name = row["variant"]
    try:
        prepared = finder.prepare(finder.suite.variants[name])
    except _Gone as error:
        now = hardware.installed_versions()
        moved = [
            f"{package} {version} instead of {now[package]}"
            for package, version in sorted(finder._versions.items())
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
    loaded = (row["audit"] or {}).get("loaded") or {}
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
    """The first full batches in which the run answered, as `engine.runner` forms them."""

    def experiment(of: Row) -> int:
        return batching.experiment(run["spec"], of["variant"], of["batch_size"])

    # Whoever loaded answered in the same windows, whatever became of it later.
    peers = [r for r in rows if r["load_s"] is not None and experiment(r) == experiment(row)]
    how = [batching.of_suite(run["spec"], r["variant"], r["batch_size"]) for r in peers]
    reference = next((r for r in peers if r["baseline"]), row)
    nothing = np.zeros(count, dtype=np.int64)
    mine = lengths.of(row["variant"]) if lengths.texts else nothing
    theirs = lengths.of(reference["variant"]) if lengths.texts else nothing
    seed = run["spec"]["workload"]["seed"]
    own = batching.of_suite(run["spec"], row["variant"], row["batch_size"])
    windows = batching.windows(theirs, how, seed)
    made = [b for window in windows for b in batching.batches(window, mine, own)]
    full = [b for b in made if len(b) == own.typical(mine)] or made
    return full[: math.ceil(EXAMPLES / own.typical(mine))]


def _labels(row: Row, prepared: Prepared, names: list[str] | None) -> list[str]:
    """What each output means: the data set's labels where they were aligned, else the model's own."""
    mapping = (row["labels"] or {}).get("mapping")
    return [str(names[index]) for index in mapping] if mapping and names else [str(x) for x in prepared.labels]


def _files(prepared: Prepared, snippet: Snippet) -> dict[str, Path]:
    """The files to copy, by their names in the shipped folder. Raises RequestError for a name that needs quoting."""
    found = {path for pattern in snippet.files for path in prepared.folder.glob(pattern) if path.is_file()}
    for path in found:
        if not PLAIN.fullmatch(path.name):
            raise RequestError(f"{path.name!r}: a model file of that name is not shipped; rename it")
    named = {f"{MODEL}/{path.name}": path for path in sorted(found)}
    return named | {f"{MODEL}/{TOKENIZER}": prepared.tokenizer / TOKENIZER}


def _load(run: dict[str, Any], row: Row, prepared: Prepared, snippet: Snippet, labels: list[str]) -> str:
    settings = json.loads((prepared.tokenizer / SETTINGS).read_text())
    pads = settings["pad_ids"]
    imports = "import numpy as np\n" + snippet.imports + "\nfrom tokenizers import Tokenizer"
    lines = sorted(imports.splitlines(), key=lambda line: (line.startswith("from"), line.split()[1].lower()))
    return LOAD.format(
        imports="\n".join(lines),
        labels=json.dumps(labels),
        device=_device(run),
        threads=int(run["environment"]["threads"]),
        max_length=int(row["max_length"]),
        length=int(row["max_length"]) if row["padding"] == "max_length" else None,
        padding_side=', direction="left"' if settings["padding_side"] == "left" else "",
        truncation_side=', direction="left"' if settings["truncation_side"] == "left" else "",
        pad_id=int(pads["input_ids"]),
        pad_type_id=f", pad_type_id={int(pads['token_type_ids'])}" if pads.get("token_type_ids") else "",
        code=snippet.code,
        inputs="\n".join(
            f'        "{name}": np.array([item.{READINGS[name]} for item in encoded], dtype=np.int64),' for name in pads
        ),
    )


def _device(run: dict[str, Any]) -> str:
    return "cpu" if run["device"] == "cpu" else "cuda"


def _requirements(run: dict[str, Any], snippet: Snippet) -> str:
    """The exact versions that the run recorded. Raises RequestError where it recorded none."""
    versions = run["environment"].get("distributions") or {}
    lines = [f"# Python {_plain((run['environment'].get('python') or {}).get('version'))}, as the run had it."]
    for wanted in ("numpy", "tokenizers", *snippet.distributions):
        name = next((name for name in wanted.split("|") if versions.get(name)), None)
        if name is None or not PLAIN.fullmatch(str(versions[name])):
            raise RequestError(f"run {run['id']} does not say which version of {wanted.replace('|', ' or ')} it used")
        public, _, local = str(versions[name]).partition("+")
        if local:
            lines.append(
                f"# The run had {public}+{local}: --index-url https://download.pytorch.org/whl/{local} has it."
            )
        elif name == "onnxruntime-gpu" and run["device"] == "cpu":
            lines.append("# Where there is no GPU, onnxruntime of the same version does.")
        lines.append(f"{name}=={public}")
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    return str(value) if PLAIN.fullmatch(str(value)) else "of an unknown version"


def _readme(run: dict[str, Any], row: Row, labels: list[str], expected: dict[str, Any], names: list[str]) -> str:
    literal = tables.literal
    figures = "\n\n".join(tables.markdown(part.rows, part.columns) for part in tables.parts([row]))
    notes = "".join(f"- {literal(note)}\n" for note in tables.notes([row]))
    files = "".join(f"- `{name}`\n" for name in sorted([*names, "README.md", SUMS, CHECKED]))
    device = f"{literal(run['device_name'])} ({literal(run['device'])}, {run['environment']['threads']} threads)"
    return f"""\
# {literal(row["title"])}

Variant `{row["variant"]}` of suite {literal(run["suite"])}: {literal(row["model"])} by {row["backend"]} in
{row["precision"]}, as run `{run["id"]}` measured it on {device},
in batches of {tables.batch_words(row)}, {tables.padding_words([row], row["max_length"])}.
Its labels: {literal(", ".join(labels))}.

## Use

```
python -m pip install -r requirements.txt
python load.py "a text to classify"
```

`load.py` needs nothing but these packages and this folder. `from load import LABELS, logits` gives a program the same.

## Check

```
sha256sum -c {SUMS}
python load.py
```

The first says that no file has changed. The second answers {len(expected["examples"])} of the run's texts again, in the
same batches, and compares the logits with those that the run stored (`expected.json`). On the
run's machine, with the same versions, they are the same. Elsewhere other kernels round otherwise: a difference of up to
{expected["tolerance"]:g} passes. In INT8 and 4 bits an answer can also depend on the other texts of its batch, which is
why the batches are the run's. `{CHECKED}` has what the second said when this folder was made.

## Measured

{figures}

{notes}
{literal(tables.caption(run, [row]))}

## Files

{files}"""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
