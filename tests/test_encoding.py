"""Token ids as transformers gives them, from the `tokenizers` library alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.artefacts.encoding import Encoder
from engine.artefacts.preparer import Preparer
from engine.suite.reading import load_suite

pytestmark = pytest.mark.second_tier

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_MODEL = REPOSITORY.parent / "shared" / "models" / "agnews-distilbert"
KINDS = ["distilbert", "bert", "left", "shared"]
LENGTHS = [2, 3, 16, 128]
TEXTS = [
    "Shares ROSE 3.5% on Monday, (Reuters) said; naïve café.",
    "x",
    "",
    "   ",
    " leading, trailing and   inner\tblanks\u00a0\u3000\n",
    "短い文 and 世界, ﾊﾝｶｸ",
    "🙂👩‍👩‍👧 🇩🇪 emoji",
    "e\u0301te\u0301 against été; ﬁne; ①; Ⅷ",
    "مرحبا بالعالم שלום עולם",
    "nul \x00 bell \x07 escape \x1b[0m del \x7f",
    "zero\u200bwidth\u200djoin\ufeff soft\u00adhyphen \u202eright to left",
    "[CLS] [SEP] [PAD] [MASK] [UNK] ##ing",
    "\ufffd \U0010ffff \ue000",
    "don't can’t e-mail O'Neill's AT&T $3.50 50% #tag @name http://a.b/c?d=e&f",
    "W" * 300,
    "word " * 400,
    "a",
    "İstanbul ẞ ǅ DŽ",
    "line\r\nbreaks\u2028and\u2029more\x85",
]
TRANSFORMERS = """
import json, sys
from transformers import AutoTokenizer
asked = json.load(open(sys.argv[1]))
found = {}
for kind, folder in asked["folders"].items():
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for length in asked["lengths"]:
        cut = {"truncation": True, "max_length": length}
        found[f"{kind} {length}"] = {
            "plain": dict(tokenizer(asked["texts"], **cut)),
            "max_length": dict(tokenizer(asked["texts"], padding="max_length", **cut)),
            "longest": [
                dict(tokenizer([asked["texts"][i] for i in batch], padding="longest", **cut))
                for batch in asked["batches"]
            ],
            "whole": [len(ids) for ids in tokenizer(asked["texts"], verbose=False)["input_ids"]],
        }
json.dump(found, open(sys.argv[2], "w"))
"""
BATCHES = [[0, 1, 2, 3], [5, 4], [11], [14, 15, 0], list(range(len(TEXTS)))]


@dataclass(frozen=True)
class Case:
    """One tokenizer at one maximum length, by us and by transformers."""

    encoder: Encoder
    theirs: dict[str, Any]


@pytest.fixture(scope="module")
def folders(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders by kind; "left" pads and cuts on the left."""
    left = tmp_path_factory.mktemp("left") / "model"
    shutil.copytree(tiny_models["bert"], left)
    settings = json.loads((left / "tokenizer_config.json").read_text())
    settings |= {"padding_side": "left", "truncation_side": "left"}
    (left / "tokenizer_config.json").write_text(json.dumps(settings))
    found = {"distilbert": tiny_models["distilbert"], "bert": tiny_models["bert"], "left": left}
    return found | ({"shared": SHARED_MODEL} if SHARED_MODEL.is_dir() else {})


@pytest.fixture(scope="module")
def described(folders, write_suite, tmp_path_factory) -> dict[str, Path]:
    """What the bench writes down of each tokenizer, for workers to read."""
    variants = [{"name": name, "model": folder} for name, folder in folders.items()]
    suite = load_suite(str(write_suite(tmp_path_factory.mktemp("suite"), variants)))
    with Preparer(suite, offline=True) as preparer:
        return {variant.name: preparer.model(variant)[1] for variant in suite.variant}


@pytest.fixture(scope="module")
def theirs(folders, tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("transformers")
    asked = {
        "folders": {kind: str(path) for kind, path in folders.items()},
        "lengths": LENGTHS,
        "texts": TEXTS,
        "batches": BATCHES,
    }
    (folder / "asked.json").write_text(json.dumps(asked))
    subprocess.run(
        [sys.executable, "-c", TRANSFORMERS, str(folder / "asked.json"), str(folder / "found.json")],
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        check=True,
    )
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(
    params=[(kind, length) for kind in KINDS for length in LENGTHS], ids=lambda case: f"{case[0]}-{case[1]}"
)
def case(request, described, theirs) -> Case:
    kind, length = request.param
    if kind not in described:
        pytest.skip("../shared is not here")
    return Case(Encoder(described[kind], length), theirs[f"{kind} {length}"])


@pytest.mark.second_tier
def test_ids_are_those_of_transformers(case):
    encoded = case.encoder.encode(TEXTS)
    assert set(encoded.columns) <= set(case.theirs["plain"])
    for name, rows in encoded.columns.items():
        assert rows == case.theirs["plain"][name]
    assert encoded.lengths.tolist() == [len(ids) for ids in case.theirs["plain"]["input_ids"]]
    assert encoded.lengths.dtype == np.int64 and len(encoded) == len(TEXTS)


def test_a_text_is_cut_where_it_is_longer(case):
    encoded = case.encoder.encode(TEXTS)
    length = case.encoder.max_length
    assert encoded.truncated.tolist() == [whole > length for whole in case.theirs["whole"]]
    assert encoded.truncated.dtype == bool
    assert encoded.lengths.max() == length


def test_padding_to_the_maximum_is_that_of_transformers(case):
    encoded = case.encoder.encode(TEXTS)
    batch = case.encoder.batch(encoded, range(len(TEXTS)), "max_length")
    for name, array in batch.items():
        assert array.dtype == np.int64 and array.shape == (len(TEXTS), case.encoder.max_length)
        assert array.tolist() == case.theirs["max_length"][name]


def test_padding_to_the_longest_is_that_of_transformers(case):
    encoded = case.encoder.encode(TEXTS)
    for positions, expected in zip(BATCHES, case.theirs["longest"], strict=True):
        batch = case.encoder.batch(encoded, np.array(positions), "longest")
        for name, array in batch.items():
            assert array.tolist() == expected[name]


def test_the_inputs_are_those_that_the_model_takes(described):
    """DistilBERT has no token_type_ids, whatever its tokenizer gives; BERT has."""
    assert set(Encoder(described["distilbert"], 8).pad) == {"input_ids", "attention_mask"}
    assert set(Encoder(described["bert"], 8).pad) == {"input_ids", "attention_mask", "token_type_ids"}
    assert Encoder(described["left"], 8).left and not Encoder(described["bert"], 8).left


def test_the_padding_is_masked(described):
    encoder = Encoder(described["bert"], 16)
    encoded = encoder.encode(["x", "two words"])
    batch = encoder.batch(encoded, [0, 1], "max_length")
    assert batch["attention_mask"].sum(axis=1).tolist() == encoded.lengths.tolist()
    assert (batch["input_ids"][batch["attention_mask"] == 0] == encoder.pad["input_ids"]).all()


def test_a_text_alone_gets_the_ids_that_it_gets_among_others(described):
    encoder = Encoder(described["distilbert"], 32)
    together = encoder.encode(TEXTS)
    for index, text in enumerate(TEXTS):
        alone = encoder.encode([text])
        assert alone.columns["input_ids"][0] == together.columns["input_ids"][index]


def test_a_worker_needs_no_transformers_to_tokenise(described):
    code = (
        "import sys; from pathlib import Path; from engine.artefacts.encoding import Encoder; "
        "Encoder(Path(sys.argv[1]), 16).encode(['some text']); "
        "print(*sorted({'torch', 'transformers', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(described["distilbert"])],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
