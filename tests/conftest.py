"""What all tests share: folders of the session's own, tiny models, tiny suites, the command line.

`python tests/conftest.py FOLDER` makes the tiny models; the process of the tests imports no torch.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kept import kept_models
from postgres_server import migrated_postgres, postgres

__all__ = ["migrated_postgres", "postgres"]
REPOSITORY = Path(__file__).resolve().parent.parent
NEWS = REPOSITORY / "data" / "news"
LABELS = ["World", "Sports", "Business", "Sci/Tech"]
# Before a test's module is read: the hub's library reads it once, when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
Bench = Callable[..., "subprocess.CompletedProcess[str]"]
WriteSuite = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a database server is of the second tier."""
    for item in items:
        servers = {"postgres", "migrated_postgres"} & set(getattr(item, "fixturenames", ()))
        if servers or "postgresql" in item.name:
            item.add_marker(pytest.mark.second_tier)


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing of the user's is read or written, and no hub is asked; the session's data folder."""
    folder = tmp_path_factory.mktemp("session")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_DATA_DIR", str(folder / "data"))
        patch.setenv("BENCH_LOCK_DIR", str(folder / "locks"))
        patch.delenv("BENCH_DATABASE_URL", raising=False)
        yield folder / "data"


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny saved classifiers, by name; random weights, but every label is predicted.

    distilbert: 2 layers of 32, four labels with the names of the news; bert: 2 layers of 36, with
    token_type_ids; sst2: NEGATIVE and POSITIVE; permuted: "distilbert" with its outputs in another order;
    generic: "distilbert" with LABEL_0 to LABEL_3; untrained: the body of "distilbert" with a new head, saved as
    it was initialised; untrained-bf16: the same in BF16 and in several files. Not to be loaded: headless (no
    head), fresh (the head's weights are not in the file), pickled (pytorch_model.bin alone), empty, remote (auto_map).
    """
    return kept_models("tiny", Path(__file__).resolve(), [], tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def write_suite() -> WriteSuite:
    """write_suite(folder, variants, name="tiny", baseline=None, workload={}, protocol={}, checkpoints=[], **keys).

    Writes folder/NAME.toml, a suite over 16 of the embedded news with a protocol that ends at once, and
    returns its path. `variants` are tables as in a suite file; a name, backend "pytorch" and precision
    "fp32" are filled in. The baseline is the first of them. Tables and further top-level `keys` are laid
    over what is usual; a value of None leaves a key out.
    """

    def write(
        folder: Path,
        variants: list[dict[str, Any]],
        *,
        name: str = "tiny",
        baseline: str | None = None,
        workload: Mapping[str, Any] | None = None,
        protocol: Mapping[str, Any] | None = None,
        checkpoints: list[dict[str, Any]] | None = None,
        **keys: Any,
    ) -> Path:
        usual = {"backend": "pytorch", "precision": "fp32"}
        filled = [{"name": f"v{index}"} | usual | variant for index, variant in enumerate(variants)]
        suite = {"name": name, "baseline": baseline or filled[0]["name"] if filled else baseline} | keys
        tables = {
            "workload": {
                "dataset": str(NEWS / "test.csv"),
                "label": "label",
                "labels": LABELS,
                "examples": 16,
                "batch_size": 4,
                "max_length": 48,
                **(workload or {}),
            },
            "protocol": {
                "rounds": 3,
                "block_seconds": 0.01,
                "min_calls": 3,
                "max_seconds": 20.0,
                # They take some seconds; tests of them ask.
                "ceilings": False,
                **(protocol or {}),
            },
        }
        parts = [
            _toml(suite),
            *(f"\n[{key}]\n{_toml(table)}" for key, table in tables.items()),
            *(f"\n[[checkpoint]]\n{_toml(table)}" for table in checkpoints or []),
            *(f"\n[[variant]]\n{_toml(table)}" for table in filled),
        ]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.toml"
        path.write_text("".join(parts), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def bench() -> Bench:
    """bench(*arguments, env=None, timeout=900): `python -m engine ...`; `env` is laid over the environment.

    A value of None takes a variable out.
    """

    def run(
        *arguments: object, env: Mapping[str, str | None] | None = None, timeout: float = 900
    ) -> subprocess.CompletedProcess[str]:
        around: dict[str, str | None] = {**os.environ, **(env or {})}
        return subprocess.run(
            [sys.executable, "-m", "engine", *map(str, arguments)],
            cwd=REPOSITORY,
            env={key: value for key, value in around.items() if value is not None},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def bench_here() -> Bench:
    """Like `bench`, in this process: for requests that are refused before anything is measured."""

    def run(
        *arguments: object, env: Mapping[str, str | None] | None = None, timeout: float = 900
    ) -> subprocess.CompletedProcess[str]:
        from engine.cli.main import main

        words = [str(argument) for argument in arguments]
        output, errors, code = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (env or {}).items():
                if value is None:
                    patch.delenv(name, raising=False)
                else:
                    patch.setenv(name, value)
            patch.chdir(REPOSITORY)
            patch.setattr(sys, "argv", ["engine", *words])
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
                try:
                    main()
                except SystemExit as end:
                    code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        return subprocess.CompletedProcess(words, code, output.getvalue(), errors.getvalue())

    return run


def _become_nobody() -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


@pytest.fixture
def as_another() -> Iterator[Callable[..., Any]]:
    """as_another(function, ...): what it returns or raises where a user calls it who owns nothing here."""
    if os.getuid() != 0:
        pytest.skip("needs root to become another user")
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_become_nobody) as workers:
        yield lambda function, *given: workers.submit(function, *given).result(30)


def _toml(table: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in table.items() if value is not None)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, Path):
        value = str(value)
    # A string, a number or a boolean is written alike in JSON and in TOML.
    return json.dumps(value, ensure_ascii=False)


# The process that makes the models


def _make_models(folder: Path) -> None:
    import torch
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        DistilBertConfig,
        DistilBertForSequenceClassification,
        DistilBertModel,
    )

    torch.set_num_threads(1)
    torch.manual_seed(0)
    texts = _news_texts("train.csv")
    tokenizer = _new_tokenizer(texts)
    # Wide weights: with the usual ones all texts give nearly the same state, and rounding would decide.
    size = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.2}
    shape = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 128}

    def save(model: Any, name: str, **settings: Any) -> None:
        model.save_pretrained(folder / name, **settings)
        tokenizer.save_pretrained(folder / name)

    def distilbert(labels: list[str] | None) -> DistilBertConfig:
        names = {"num_labels": 4} if labels is None else _names(labels)
        return DistilBertConfig(**size, **shape, **names)

    model = DistilBertForSequenceClassification(distilbert(LABELS)).eval()
    _spread(model, tokenizer, texts)
    save(model, "distilbert")

    order = [2, 0, 3, 1]
    permuted = DistilBertForSequenceClassification(distilbert([LABELS[index] for index in order])).eval()
    permuted.load_state_dict(model.state_dict())
    with torch.no_grad():
        permuted.classifier.weight.copy_(model.classifier.weight[order])
        permuted.classifier.bias.copy_(model.classifier.bias[order])
    save(permuted, "permuted")

    generic = DistilBertForSequenceClassification(distilbert(None)).eval()
    generic.load_state_dict(model.state_dict())
    save(generic, "generic")

    sst2 = DistilBertForSequenceClassification(distilbert(["NEGATIVE", "POSITIVE"])).eval()
    _spread(sst2, tokenizer, texts)
    save(sst2, "sst2")

    bert = BertForSequenceClassification(
        BertConfig(
            **size,
            **_names(LABELS),
            hidden_size=36,
            intermediate_size=72,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
        )
    ).eval()
    _spread(bert, tokenizer, texts)
    # A BERT tokenizer gives token_type_ids, a DistilBERT one does not.
    from transformers import BertTokenizerFast

    bert.save_pretrained(folder / "bert")
    BertTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, model_max_length=128).save_pretrained(
        folder / "bert"
    )

    headless = DistilBertModel(distilbert(LABELS))
    headless.load_state_dict(model.distilbert.state_dict())
    save(headless, "headless")
    body = {key: value for key, value in model.state_dict().items() if key.startswith("distilbert.")}
    save(model, "fresh", state_dict=body)
    save(model, "pickled", safe_serialization=False)
    (folder / "empty").mkdir()
    save(model, "remote")
    config = json.loads((folder / "remote" / "config.json").read_text())
    again = DistilBertForSequenceClassification.from_pretrained(folder / "headless", **_names(LABELS))
    save(again, "untrained")
    save(again.to(torch.bfloat16), "untrained-bf16", max_shard_size="20KB")
    config["auto_map"] = {"AutoModelForSequenceClassification": "modeling_own.OwnModel"}
    (folder / "remote" / "config.json").write_text(json.dumps(config))


def _names(labels: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}


def _news_texts(file: str) -> list[str]:
    import csv

    with (NEWS / file).open(encoding="utf-8", newline="") as rows:
        return [row["text"] for row in csv.DictReader(rows)]


def _new_tokenizer(texts: list[str]) -> Any:
    """A WordPiece tokenizer of 400 tokens: every character, and the most frequent words.

    Not by a trainer: which of equally frequent tokens it takes differs from time to time.
    """
    from collections import Counter

    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import DistilBertTokenizerFast

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    characters = sorted(set("".join(counts)))
    inside = sorted({character for word in counts for character in word[1:]})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in inside)]
    tokens += [word for word in sorted(counts, key=lambda word: (-counts[word], word)) if word not in tokens]
    vocabulary = {token: index for index, token in enumerate(tokens[:400])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer, made.decoder = normalizer, splitter, decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(word, vocabulary[word]) for word in ("[CLS]", "[SEP]")],
    )
    return DistilBertTokenizerFast(tokenizer_object=made, model_max_length=128)


def _spread(model: Any, tokenizer: Any, texts: list[str]) -> None:
    """Scales the head of `model` so that over `texts` each output has mean 0 and deviation 2."""
    import torch

    with torch.no_grad():
        for _ in range(2):
            batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
            logits = model(**batch).logits
            scale = 2 / logits.std(dim=0)
            model.classifier.weight.mul_(scale[:, None])
            model.classifier.bias.copy_((model.classifier.bias - logits.mean(dim=0)) * scale)


if __name__ == "__main__":
    # Where it is installed transformers imports it, for text generation: a third of its start.
    sys.modules["sklearn"] = None  # type: ignore[assignment]
    _make_models(Path(sys.argv[1]))
