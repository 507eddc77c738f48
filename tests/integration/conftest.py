"""What the integration tests share: further models, runs as Python objects, and transformers alone.

`python conftest.py models FOLDER` makes the models, `python conftest.py logits REQUESTS.json OUT.npz` is the
independent computation: the process of the tests imports no torch.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NEWS = REPOSITORY / "data" / "news"
LABELS = ["World", "Sports", "Business", "Sci/Tech"]
HERE = Path(__file__).resolve()
VOCABULARY = 2000


@pytest.fixture(scope="session")
def shaped_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Further classifiers of the news, whose logits do not hang on rounding as those of `tiny_models` do.

    wide: DistilBERT, 2 layers of 64, which 4-bit kernels take; wide-pickled: the same as pytorch_model.bin,
    not to be loaded; wide-bert: BERT of the same size; heavy: DistilBERT, 2 layers of 128, whose call takes
    some milliseconds.
    """
    # Not at the top: as a script, this file knows no other of the tests.
    from kept import kept_models

    return kept_models("shaped", HERE, ["models"], tmp_path_factory.mktemp("shaped"))


@dataclass
class Reference:
    """What transformers alone says to some rows of a CSV file."""

    logits: np.ndarray
    """float32 [rows, outputs]."""
    names: list[str]
    """The model's outputs, in order."""

    def answers(self) -> list[str]:
        return [self.names[index] for index in self.logits.argmax(axis=1)]


ReferenceOf = Callable[..., list[Reference]]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> ReferenceOf:
    """reference({"model": folder, "rows": [...], "max_length": 48, "file": csv, "padding": False}, ...): one each.

    `rows` are rows of the file, counted from 0; all of them, and the embedded news, by default, padded to
    `max_length`.
    """

    def compute(*wanted: dict[str, Any]) -> list[Reference]:
        folder = tmp_path_factory.mktemp("reference")
        request, out = folder / "request.json", folder / "out.npz"
        usual = {"file": NEWS / "test.csv", "rows": None, "max_length": 48, "padding": "max_length"}
        request.write_text(json.dumps([usual | item for item in wanted], default=str))
        command = [sys.executable, str(HERE), "logits", str(request), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        with np.load(out) as found:
            return [Reference(found[f"logits{i}"], found[f"names{i}"].tolist()) for i in range(len(wanted))]

    return compute


@dataclass
class Measured:
    """A run of the command line: how it ended, and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str
    run: dict[str, Any] = field(default_factory=dict)
    measurements: list[dict[str, Any]] = field(default_factory=list)
    examples: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=dict)
    """(variant, batch size) -> each example's index, text_sha256, label, predicted, logits, in order."""

    def row(self, variant: str, batch_size: int | None = None) -> dict[str, Any]:
        """The one measurement of `variant` (at `batch_size`)."""
        found = [m for m in self.measurements if m["variant"] == variant and batch_size in (None, m["batch_size"])]
        assert len(found) == 1, f"{len(found)} measurements of {variant}"
        return found[0]

    def of(self, variant: str, batch_size: int | None = None) -> list[dict[str, Any]]:
        """The examples of `variant` (at `batch_size`)."""
        return self.examples[variant, self.row(variant, batch_size)["batch_size"]]

    def logits(self, variant: str, batch_size: int | None = None) -> np.ndarray:
        return np.array([example["logits"] for example in self.of(variant, batch_size)])


Measure = Callable[..., Measured]


@pytest.fixture(scope="session")
def measure(bench: Any, tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """measure(suite, *arguments, predictions=True, env=None): `run --json` on the CPU, and `export --predictions`."""

    def run(
        suite: Path, *arguments: object, predictions: bool = True, env: dict[str, str | None] | None = None
    ) -> Measured:
        file = tmp_path_factory.mktemp("measured") / "run.json"
        done = bench("run", suite, "--device", "cpu", "--json", file, *arguments, env=env)
        found = Measured(done.returncode, done.stdout, done.stderr)
        if not file.exists():
            return found
        written = json.loads(file.read_text())
        found.run, found.measurements = written["run"], written["measurements"]
        if predictions:
            exported = bench("export", found.run["id"], "--predictions", "--format", "json", env=env)
            assert exported.returncode == 0, exported.stderr
            for item in json.loads(exported.stdout)["predictions"]:
                found.examples[item["variant"], item["batch_size"]] = item["examples"]
        return found

    return run


class Live:
    """A `python -m engine` under way, with what it says on standard error."""

    def __init__(self, *arguments: object, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine", *map(str, arguments)],
            cwd=REPOSITORY,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # A signal to the group of the tests must not reach it; and who runs the tests in the background
            # of a script hands on that Ctrl-C or a hang-up is ignored.
            start_new_session=True,
            preexec_fn=_hears_signals,
        )
        self.lines: list[str] = []
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    @property
    def said(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, beginning: str, timeout_s: float = 120) -> None:
        """Until a line begins so. Fails the test where the process ends before, or the time is up."""
        until(
            lambda: any(line.startswith(beginning) for line in list(self.lines)),
            timeout_s,
            lambda: f"no line {beginning!r}; it said:\n{self.said}",
            lambda: self.process.poll() is None,
        )

    def workers(self) -> dict[str, int]:
        """Variant -> process id of its live worker, by the log that it writes to."""
        import psutil

        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if "engine.worker" in child.cmdline():
                    log = Path(f"/proc/{child.pid}/fd/1").readlink()
                    found[log.stem.rpartition("-")[0]] = child.pid
            except (psutil.Error, OSError):
                continue
        return found

    def end(self, timeout_s: float = 60) -> int:
        """The exit code, once it has ended."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"it did not end within {timeout_s:.0f} s; it said:\n{self.said}")
        self._reader.join(10)
        return code

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def _hears_signals() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def live_run() -> type[Live]:
    """The class Live, for who ends it himself: live_run(*arguments, env=None)."""
    return Live


@pytest.fixture
def live() -> Iterator[Callable[..., Live]]:
    """live(*arguments, env=None): a Live; what is left of it is ended after the test."""
    made: list[Live] = []

    def start(*arguments: object, env: dict[str, str] | None = None) -> Live:
        made.append(Live(*arguments, env=env))
        return made[-1]

    yield start
    for process in made:
        process.kill()


def until(
    true: Callable[[], Any],
    timeout_s: float,
    why: Callable[[], str] = lambda: "it did not come true",
    going_on: Callable[[], bool] = lambda: True,
) -> Any:
    """Wait until `true()` is, and return it; fail with `why()` after `timeout_s` or when `going_on()` is not."""
    deadline = time.monotonic() + timeout_s
    while True:
        goes_on = going_on()
        if found := true():
            return found
        if not goes_on or time.monotonic() > deadline:
            pytest.fail(why())
        time.sleep(0.02)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """wait_until(true, timeout_s, why, going_on): see `until`."""
    return until


def gone(pid: int) -> bool:
    """Whether process `pid` runs no more."""
    import psutil

    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="session")
def is_gone() -> Callable[[int], bool]:
    """is_gone(pid): whether the process runs no more; a zombie does not."""
    return gone


# Processes of their own, with model libraries


def _make_models(folder: Path) -> None:
    import torch
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertTokenizerFast,
        DistilBertConfig,
        DistilBertForSequenceClassification,
        DistilBertTokenizerFast,
    )

    torch.set_num_threads(1)
    torch.manual_seed(1)
    with (NEWS / "train.csv").open(encoding="utf-8", newline="") as rows:
        texts = [row["text"] for row in csv.DictReader(rows)]
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(_vocabulary(texts)), encoding="utf-8")
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    size = {"vocab_size": VOCABULARY, "max_position_embeddings": 128, "pad_token_id": 0, **names}

    def save(model: Any, name: str, tokenizer_class: Any) -> None:
        tokenizer = tokenizer_class(str(vocabulary), model_max_length=128)
        model.eval()
        with torch.no_grad():
            batch = tokenizer(texts[:200], padding=True, truncation=True, max_length=48, return_tensors="pt")
            model.classifier.bias.sub_(model(**batch).logits.mean(dim=0))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)

    def distilbert(width: int) -> Any:
        return DistilBertForSequenceClassification(
            DistilBertConfig(**size, dim=width, hidden_dim=4 * width, n_layers=2, n_heads=4, initializer_range=0.2)
        )

    wide = distilbert(64)
    save(wide, "wide", DistilBertTokenizerFast)
    wide.save_pretrained(folder / "wide-pickled", safe_serialization=False)
    DistilBertTokenizerFast.from_pretrained(folder / "wide").save_pretrained(folder / "wide-pickled")
    save(distilbert(128), "heavy", DistilBertTokenizerFast)
    bert = BertForSequenceClassification(
        BertConfig(
            **size,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            initializer_range=0.3,
        )
    )
    save(bert, "wide-bert", BertTokenizerFast)
    vocabulary.unlink()


def _vocabulary(texts: list[str]) -> list[str]:
    """WordPieces, the same on every machine: characters, and the most frequent words."""
    words = Counter(re.findall(r"[a-z]+", " ".join(texts).lower()))
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1) if not chr(code).isupper()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters if c.isalnum())]
    frequent = sorted(words, key=lambda word: (-words[word], word))
    return [*pieces, *(word for word in frequent if len(word) > 1)][:VOCABULARY]


def _logits(requests: list[dict[str, Any]], out: Path) -> None:
    """transformers as its documentation has it: one text after another, nothing of the bench."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    arrays = {}
    for index, request in enumerate(requests):
        with Path(request["file"]).open(encoding="utf-8", newline="") as file:
            texts = [row["text"] for row in csv.DictReader(file)]
        if request["rows"] is not None:
            texts = [texts[row] for row in request["rows"]]
        model = AutoModelForSequenceClassification.from_pretrained(request["model"], dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(request["model"])
        settings = {"truncation": True, "max_length": request["max_length"], "padding": request["padding"]}
        with torch.inference_mode():
            found = [model(**tokenizer(text, **settings, return_tensors="pt")).logits[0].numpy() for text in texts]
        arrays[f"logits{index}"] = np.array(found)
        arrays[f"names{index}"] = np.array([model.config.id2label[i] for i in range(model.config.num_labels)])
    np.savez(out, **arrays)


if __name__ == "__main__":
    # Where it is installed transformers imports it, for text generation: a third of its start.
    sys.modules["sklearn"] = None  # type: ignore[assignment]
    if sys.argv[1] == "models":
        _make_models(Path(sys.argv[2]))
    else:
        _logits(json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]))
