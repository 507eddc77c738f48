"""Plans the contents of a shipped folder."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine import backends
from engine.artefacts.encoding import SETTINGS, TOKENIZER
from engine.artefacts.preparer import Prepared
from engine.backends.base import Snippet
from engine.errors import RequestError
from engine.report import markup, tables, words
from engine.run.reopening import again
from engine.store.rows import Row

TOLERANCES = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 1e-2, "bf16": 5e-2, "nf4": 5e-2, "fp4": 5e-2, "int8": 5e-2}
"""How far a logit may be from the stored one, as a share of the largest stored one: on the machine of the run they
are the same; other kernels round otherwise, and a rounded activation can fall on another 4- or 8-bit step."""
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""Names of files and versions that need no quoting anywhere."""
SUMS = "SHA256SUMS"
CHECKED = "checked.txt"
"""The file with the output of the copy's own check when the folder was made, or the reason why it could not run."""
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
    """The contents of a folder to ship: found and checked, not copied yet."""

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
        return made | {name: sha256_of(path) for name, path in self.copied.items()}


def plan(reference: str, variant: str, batch_size: int | None = None) -> Shipment:
    """All that a folder for one variant of a run needs. Raises RequestError, one line, where it cannot be shipped."""
    found = again(reference, variant, batch_size)
    run, row, prepared, logits = found.run, found.row, found.prepared, found.logits
    if row.padding == "packed":
        raise RequestError(f"{variant}: there is no code to ship yet that packs a batch; ship one that pads")
    device, settings = _device(run), (row.audit or {}).get("settings")
    try:
        snippet = backends.get(row.backend).snippet(row.precision, found.variant.options, device, settings or {})
    except (KeyError, TypeError) as error:
        raise RequestError(
            f"{variant}: run {run['id']} does not say with which settings it was loaded; measure it anew"
        ) from error
    if snippet is None:
        raise RequestError(f"{variant}: backend {row.backend!r} has no loading code to ship yet")
    labels = _labels(row, prepared, found.label_names)
    loading = _load(run, row, prepared, snippet, labels)
    answers = [
        {"text": text, "label": labels[int(line.argmax())], "logits": [float(value) for value in line]}
        for text, line in zip(found.texts, logits, strict=True)
    ]
    largest = float(np.abs(logits).max())
    expected = {
        "run": run["id"],
        "variant": row.variant,
        "batches": found.batches,
        "tolerance": float(f"{TOLERANCES[row.precision] * max(largest, 1.0):.2g}"),
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


def _labels(row: Row, prepared: Prepared, names: list[str] | None) -> list[str]:
    """The label of each output: the data set's labels if they were aligned, else the model's own."""
    mapping = (row.labels or {}).get("mapping")
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
        max_length=int(row.max_length),
        length=int(row.max_length) if row.padding == "max_length" else None,
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
    literal = markup.literal
    figures = "\n\n".join(markup.markdown(part.rows, part.columns) for part in tables.parts([row]))
    notes = "".join(f"- {literal(note)}\n" for note in tables.notes([row]))
    files = "".join(f"- `{name}`\n" for name in sorted([*names, "README.md", SUMS, CHECKED]))
    device = f"{literal(run['device_name'])} ({literal(run['device'])}, {run['environment']['threads']} threads)"
    return f"""\
# {literal(row.title)}

Variant `{row.variant}` of suite {literal(run["suite"])}: {literal(row.model)} by {row.backend} in
{row.precision}, as run `{run["id"]}` measured it on {device},
in batches of {words.batch_words(row)}, {words.padding_words([row], row.max_length)}.
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


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
