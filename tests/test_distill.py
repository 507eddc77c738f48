"""Making checkpoints, with the real process on tiny models; the process of the tests imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.artefacts.training import __main__, batches, learning, starting, tokenizers
from engine.artefacts.training import request as training_request
from engine.errors import RequestError

REPOSITORY = Path(__file__).resolve().parent.parent
LABELS = ["animals", "weather", "music"]
WORDS = {
    "animals": ["fox", "heron", "badger", "otter", "lynx", "beetle"],
    "weather": ["rain", "thunder", "fog", "sleet", "drizzle", "frost"],
    "music": ["violin", "chorus", "tempo", "sonata", "drums", "flute"],
}
FILLER = ["the", "of", "near", "slowly", "we", "heard", "saw", "today", "again", "while", "old", "quiet"]
# Smaller ones get stuck between two of the three labels with some seeds.
DISTILBERT = {
    "model_type": "distilbert",
    "dim": 64,
    "hidden_dim": 128,
    "n_layers": 1,
    "n_heads": 2,
    "max_position_embeddings": 32,
}
BERT = {
    "model_type": "bert",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
MIXED_BY_TWO = {"architecture": BERT, "mixing": 0.5, "token_dropout": 0.1, "threads": 2, "epochs": 2}
PHASES = ("tokenizing", "teacher", "training", "saving")


def sentences(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Sentences of 5 to 14 words, three of them words of one label; their labels in turn."""
    chance = random.Random(seed)
    labels = [i % len(LABELS) for i in range(count)]
    texts = []
    for label in labels:
        words = chance.sample(WORDS[LABELS[label]], 3) + chance.choices(FILLER, k=chance.randint(2, 11))
        chance.shuffle(words)
        texts.append(" ".join(words))
    return texts, labels


TEXTS, ANSWERS = sentences(240, seed=1)
HELD_OUT, HELD_OUT_ANSWERS = sentences(90, seed=2)


@dataclass
class Made:
    """What one process left behind."""

    folder: Path
    code: int
    lines: list[dict[str, Any]]
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        assert self.code == 0, self.stderr or self.lines[-1:]
        return self.lines[-1]["result"]

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text())

    def digest(self, file: str) -> str:
        return hashlib.sha256((self.folder / file).read_bytes()).hexdigest()


def request_for(target: Path, **changes: Any) -> dict[str, Any]:
    """A request for plain fine-tuning, with `changes` laid over it."""
    request = {
        "target": str(target),
        "name": target.name,
        "base": None,
        "architecture": DISTILBERT,
        "teacher": None,
        "tokenizer": {"vocab_size": 300},
        "texts": TEXTS,
        "labels": ANSWERS,
        "label_names": LABELS,
        "max_length": 24,
        "epochs": 8,
        "learning_rate": 2e-3,
        "batch_size": 8,
        "temperature": 2.0,
        "seed": 3,
        "device": "cpu",
        "threads": 1,
    }
    return request | {key: str(value) if isinstance(value, Path) else value for key, value in changes.items()}


def write_request(folder: Path, name: str, changes: dict[str, Any]) -> str:
    """The file of a request to fill the new folder `name`."""
    target = folder / name
    target.mkdir()
    file = folder / f"{name}.json"
    file.write_text(json.dumps(request_for(target, **changes)))
    return str(file)


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def make(folder: Path, requests: dict[str, dict[str, Any]]) -> dict[str, Made]:
    """Run the real process for each of `requests` (name -> changes), all at the same time."""
    running = {
        name: start("-m", "engine.artefacts.training", write_request(folder, name, changes))
        for name, changes in requests.items()
    }
    made = {}
    for name, process in running.items():
        out, err = process.communicate(timeout=600)
        lines = [json.loads(line) for line in out.splitlines()]
        made[name] = Made(folder / name, process.returncode, lines, err)
    return made


ONE_BY_ONE = """
import sys
from engine.artefacts.training import __main__ as distill

for file in sys.argv[1:]:
    print(distill.main([file]), flush=True)
"""


def make_one_by_one(folder: Path, requests: dict[str, dict[str, Any]]) -> dict[str, Made]:
    """The same in one process, which imports torch once: most of the time that a tiny model takes."""
    files = [write_request(folder, name, changes) for name, changes in requests.items()]
    out, err = start("-c", ONE_BY_ONE, *files).communicate(timeout=600)
    made: dict[str, Made] = {}
    lines: list[dict[str, Any]] = []
    names = iter(requests)
    for line in map(json.loads, out.splitlines()):
        if isinstance(line, dict):
            lines.append(line)
        else:
            name = next(names)
            made[name] = Made(folder / name, line, lines, err)
            lines = []
    assert list(made) == list(requests), err
    return made


CLASSIFY = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folders, texts = json.load(sys.stdin)
answers = {}
for folder in folders:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        labels = model.eval()(**batch).logits.argmax(-1).tolist()
    answers[folder] = {
        "labels": [model.config.id2label[label] for label in labels],
        "padding": tokenizer.pad_token_id,
        "longest": tokenizer.model_max_length,
        "inputs": sorted(batch),
        "kind": type(tokenizer).__name__,
    }
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Everything that the tests look at, made in two waves: the second learns from the first's teacher."""
    folder = tmp_path_factory.mktemp("distill")
    first = make(
        folder,
        {
            "teacher": {},
            "again": {},
            "misspelt": {"architecture": {**DISTILBERT, "n_layer": 2}},
        },
    )
    teacher = first["teacher"].folder
    reversed_order = {"label_names": LABELS[::-1], "teacher_mapping": [2, 1, 0]}
    second = make_one_by_one(
        folder,
        {
            "random": {"architecture": BERT, "epochs": 0, "labels": None},
            "student": {"architecture": BERT, "teacher": teacher, "tokenizer": {"folder": str(teacher)}},
            "unlabelled": {"teacher": teacher, "labels": None, "seed": 4, **reversed_order},
            "tuned": {
                "base": teacher,
                "architecture": None,
                "tokenizer": {"folder": str(teacher)},
                "labels": [label % 2 for label in ANSWERS],
                "label_names": ["even", "odd"],
                "epochs": 0.5,
            },
            "mixed": {"teacher": teacher, "mixing": 0.8, "token_dropout": 0.1, "epochs": 12},
            "mixed-by-two": MIXED_BY_TWO | {"teacher": teacher},
            "untaught": {"teacher": folder / "random"},
        },
    )
    # Another process: what is left of chance between two of them would show.
    third = make(folder, {"mixed-by-two-again": MIXED_BY_TWO | {"teacher": teacher}})
    return first | second | third


@pytest.fixture(scope="module")
def answers(made: dict[str, Made]) -> dict[str, dict[str, Any]]:
    """What the checkpoints, loaded as any Hugging Face folder, say to texts that they have not seen."""
    folders = {name: str(one.folder) for name, one in made.items() if one.code == 0}
    done = subprocess.run(
        [sys.executable, "-c", CLASSIFY],
        input=json.dumps([list(folders.values()), HELD_OUT]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return {name: told[folder] for name, folder in folders.items()}


def share(one: list[str], other: list[str]) -> float:
    assert len(one) == len(other)
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


# -- In short: what the first tier has of it ------------------------------------------------------


def test_a_teacher_is_trained_and_a_student_distilled_from_it(tmp_path):
    short = {"epochs": 4, "texts": TEXTS[:120], "labels": ANSWERS[:120]}
    teacher = tmp_path / "teacher"
    made = make_one_by_one(
        tmp_path,
        {"teacher": short, "student": short | {"teacher": teacher, "tokenizer": {"folder": str(teacher)}, "seed": 4}},
    )
    assert made["teacher"].result["train_accuracy"] > 0.6, "a third is chance"
    assert made["student"].result["teacher_agreement"] > 0.6
    assert made["student"].config["inference_bench"]["method"] == "distilled"


# -- What is learnt ------------------------------------------------------------------------------


@pytest.mark.second_tier
def test_fine_tuning_learns_a_task_that_words_decide(made, answers):
    result = made["teacher"].result
    assert result["steps"] == 8 * 30
    assert result["train_accuracy"] > 0.95
    assert result["final_loss"] < 0.3
    assert result["teacher_agreement"] is None
    truth = [LABELS[label] for label in HELD_OUT_ANSWERS]
    assert share(answers["teacher"]["labels"], truth) > 0.95


@pytest.mark.second_tier
def test_a_student_comes_to_agree_with_its_teacher(made, answers):
    assert made["student"].result["teacher_agreement"] > 0.95
    assert share(answers["student"]["labels"], answers["teacher"]["labels"]) > 0.95
    marker = made["student"].config["inference_bench"]
    assert marker["method"] == "distilled" and marker["temperature"] == 2.0
    assert marker["soft_weight"] == training_request.SOFT_WEIGHT


@pytest.mark.second_tier
def test_without_labels_a_student_learns_from_the_teacher_alone_and_in_its_own_label_order(made, answers):
    result = made["unlabelled"].result
    assert result["train_accuracy"] is None
    assert result["teacher_agreement"] > 0.95
    assert made["unlabelled"].config["id2label"] == {"0": "music", "1": "weather", "2": "animals"}
    assert made["unlabelled"].config["inference_bench"]["soft_weight"] == 1.0
    assert share(answers["unlabelled"]["labels"], answers["teacher"]["labels"]) > 0.95


@pytest.mark.second_tier
def test_mixed_texts_teach_the_same_task(made, answers):
    truth = [LABELS[label] for label in HELD_OUT_ANSWERS]
    assert share(answers["mixed"]["labels"], truth) > 0.9
    # Mixed answers are never learnt by heart: the loss says whether texts were mixed at all.
    assert made["mixed"].result["final_loss"] > 2 * made["student"].result["final_loss"]
    marker = made["mixed"].config["inference_bench"]
    assert marker["mixing"] == 0.8 and marker["token_dropout"] == 0.1


MIXED = """
import json, sys
import torch
from engine.artefacts.training.batches import Encoded
from engine.artefacts.training.learning import _mixed_goals

# [PAD] is 0, [CLS] 2, [SEP] 3; the tokens of text n are n * 100 to n * 100 + 99.
lengths = torch.tensor([40, 12, 2, 40])
ids = torch.zeros(4, 40, dtype=torch.int32)
for text, length in enumerate(lengths.tolist()):
    ids[text, :length] = torch.tensor([2, *range(100 * text + 100, 100 * text + 98 + length), 3])
encoded = Encoded(ids, lengths, [0, 2, 3])
chance = torch.Generator().manual_seed(0)
told = []
for mixing, dropout in json.load(sys.stdin):
    for _ in range(50):
        batch, partners, share = encoded.mixed(torch.arange(4), mixing, dropout, chance)
        goals = _mixed_goals(torch.eye(4).log(), torch.arange(4), partners, share).exp()
        rows = [row[mask.bool()].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"])]
        told.append([mixing, dropout, rows, partners.tolist(), share.tolist(), goals.tolist()])
print(json.dumps(told))
"""


def test_mixing_keeps_the_frame_and_the_proportion():
    settings = [(0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5)]
    done = subprocess.run(
        [sys.executable, "-c", MIXED], cwd=REPOSITORY, input=json.dumps(settings), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kept = dict.fromkeys(settings, 0)
    for mixing, dropout, rows, partners, shares, goals in json.loads(done.stdout):
        for own, (row, partner, part, goal) in enumerate(zip(rows, partners, shares, goals, strict=True)):
            assert row[0] == 2 and row[-1] == 3 and len(row) <= 40
            assert not {0, 2, 3} & set(row[1:-1])
            sources = [token // 100 - 1 for token in row[1:-1]]
            kept[mixing, dropout] += len(sources)
            assert set(sources) <= ({own, partner} if mixing else {own})
            if partner != own and sources:
                assert part == pytest.approx(sources.count(own) / len(sources))
            assert sum(goal) == pytest.approx(1)
            assert goal[own] == pytest.approx(1 if partner == own else part)
            assert mixing or part == 1
    whole = kept[0.0, 0.0]
    assert whole == 50 * (38 + 10 + 0 + 38)
    assert kept[0.0, 0.5] == pytest.approx(whole / 2, rel=0.1)
    assert kept[1.0, 0.5] < 0.7 * kept[1.0, 0.0] < 0.9 * whole


@pytest.mark.second_tier
def test_a_base_keeps_its_encoder_and_gets_a_head_for_the_labels(made, answers):
    assert made["tuned"].result["steps"] == 15
    assert made["tuned"].config["id2label"] == {"0": "even", "1": "odd"}
    assert made["tuned"].config["dim"] == DISTILBERT["dim"]
    assert set(answers["tuned"]["labels"]) <= {"even", "odd"}


@pytest.mark.second_tier
def test_the_same_request_gives_the_same_bytes(made):
    assert made["again"].result["final_loss"] == made["teacher"].result["final_loss"]
    for file in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"):
        assert made["again"].digest(file) == made["teacher"].digest(file), file
    assert made["unlabelled"].digest("model.safetensors") != made["teacher"].digest("model.safetensors")


@pytest.mark.second_tier
def test_two_threads_and_mixed_texts_give_the_same_bytes_too(made):
    first, again = made["mixed-by-two"], made["mixed-by-two-again"]
    assert first.result["threads"] == again.result["threads"] == 2
    assert first.result["final_loss"] == again.result["final_loss"]
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert first.digest(file) == again.digest(file), file


# -- What is saved -------------------------------------------------------------------------------


@pytest.mark.second_tier
def test_zero_epochs_leave_random_weights_and_say_so(made, answers):
    result = made["random"].result
    assert result["steps"] == 0
    assert result["train_accuracy"] is None and result["final_loss"] is None
    assert made["random"].config["inference_bench"] == {"random_weights": True}
    assert "training" not in {line.get("phase") for line in made["random"].lines}
    assert set(answers["random"]["labels"]) <= set(LABELS)


@pytest.mark.second_tier
def test_a_checkpoint_is_an_ordinary_folder(made, answers):
    marker = made["teacher"].config["inference_bench"]
    assert marker["random_weights"] is False and marker["method"] == "fine-tuned"
    assert marker["texts"] == len(TEXTS) and marker["epochs"] == 8
    assert "temperature" not in marker
    assert made["teacher"].config["vocab_size"] == made["teacher"].result["vocab_size"] <= 300
    assert made["teacher"].config["pad_token_id"] == 0
    for name in ("teacher", "student", "random"):
        assert answers[name]["padding"] == 0
        assert answers[name]["longest"] == 32
        assert str(made[name].folder.parent) not in (made[name].folder / "config.json").read_text()
    assert answers["teacher"]["kind"] == "DistilBertTokenizerFast"
    assert answers["teacher"]["inputs"] == ["attention_mask", "input_ids"]
    assert answers["random"]["kind"] == "BertTokenizerFast"
    assert answers["random"]["inputs"] == ["attention_mask", "input_ids", "token_type_ids"]
    # A truncation left in the file would cut texts for whoever reads it without transformers.
    saved = json.loads((made["student"].folder / "tokenizer.json").read_text())
    assert saved["truncation"] is None and saved["padding"] is None


# -- What is told --------------------------------------------------------------------------------


@pytest.mark.second_tier
@pytest.mark.parametrize("name", ["teacher", "student", "unlabelled", "random"])
def test_progress_ends_with_the_result(made, name):
    *progress, last = made[name].lines
    assert set(last) == {"result"}
    phases = [line["phase"] for line in progress]
    assert set(phases) <= set(PHASES)
    for line in progress:
        assert set(line) == {"phase", "done", "total", "loss", "seconds_left"}
        assert 0 <= line["done"] <= line["total"]
        assert line["seconds_left"] is None or line["seconds_left"] >= 0
    assert progress[-1]["phase"] == "saving" and progress[-1]["done"] == progress[-1]["total"]
    training = [line for line in progress if line["phase"] == "training"]
    assert all(line["loss"] is not None for line in training[1:])
    if name != "random":
        assert training[-1]["done"] == made[name].result["steps"]
    facts = {"steps", "epochs", "seconds", "final_loss", "train_accuracy", "parameters", "seed"}
    assert facts | {"torch", "transformers", "device"} <= set(last["result"])


@pytest.mark.second_tier
def test_an_unknown_architecture_key_is_refused_in_one_line(made):
    refused = made["misspelt"]
    assert refused.code == 2
    assert "Traceback" not in refused.stderr
    (line,) = refused.lines
    assert set(line) == {"error"} and "\n" not in line["error"]
    assert "unknown key 'n_layer' of model_type 'distilbert'" in line["error"]
    assert "did you mean 'n_layers'?" in line["error"]
    assert not list(refused.folder.iterdir())


@pytest.mark.second_tier
def test_random_weights_are_no_teacher(made):
    assert made["untaught"].code == 2
    assert "nothing to learn from it" in made["untaught"].lines[-1]["error"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": None}, "either a base or an architecture"),
        ({"base": "somewhere"}, "either a base or an architecture"),
        ({"labels": [0]}, f"1 labels for {len(TEXTS)} texts"),
        ({"labels": [3] * len(TEXTS)}, "label 3 is none of the 3 labels: animals, weather, music"),
        ({"labels": None}, "needs a teacher"),
        ({"texts": [], "labels": []}, "no texts"),
        ({"texts": ["", " "], "labels": None, "epochs": 0}, "no texts to train a tokenizer on"),
        ({"teacher": "somewhere", "teacher_mapping": [0, 0, 1]}, "not an order of the 3 labels"),
    ],
)
def test_contradictions_are_refused_before_a_model_library_is_imported(tmp_path, changes, message):
    request = training_request.Request.model_validate(request_for(tmp_path, **changes))
    with pytest.raises(RequestError, match=message):
        __main__.make(request, training_request.Progress(lambda event: None))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        (json.dumps(request_for(Path("t"), batch_size=0)), "batch_size: "),
        (json.dumps(request_for(Path("t"), device="tpu")), "device: "),
        (json.dumps(request_for(Path("t"), mixing=1.5)), "mixing: "),
        (json.dumps(request_for(Path("t"), token_dropout=1)), "token_dropout: "),
        (json.dumps(request_for(Path("t"), epoch=3)), "epoch: "),
    ],
)
def test_a_malformed_request_is_refused_with_its_key(tmp_path, capsys, text, message):
    file = tmp_path / "request.json"
    file.write_text(text)
    assert __main__.main([str(file)]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert message in json.loads(line)["error"]


def test_a_request_that_is_not_there_is_refused(tmp_path, capsys):
    assert __main__.main([str(tmp_path / "none.json")]) == 2
    assert "none.json" in json.loads(capsys.readouterr().out)["error"]


# -- The device ----------------------------------------------------------------------------------


class AcceleratorError(RuntimeError):
    """As torch calls what CUDA reports; no torch is imported here."""


FULL = [
    AcceleratorError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 20.00 MiB."),
    MemoryError(),
]


def raising(error: BaseException) -> Any:
    def stand_in(*arguments: Any, **options: Any) -> Any:
        raise error

    return stand_in


def two_gpus(set_device: Any) -> SimpleNamespace:
    """A torch that sees two GPUs."""
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2, set_device=set_device)
    device = lambda spec: SimpleNamespace(index=int(spec[5:]) if ":" in spec else None)  # noqa: E731
    return SimpleNamespace(cuda=cuda, device=device, __version__="2")


@pytest.mark.parametrize(("device", "chosen"), [("cuda:1", [1]), ("cuda", [0]), ("cpu", [])])
def test_the_device_that_trains_is_the_current_one(tmp_path, monkeypatch, device, chosen):
    seen: list[int] = []
    monkeypatch.setitem(sys.modules, "torch", two_gpus(seen.append))
    __main__._check_device(training_request.Request.model_validate(request_for(tmp_path, device=device)))
    assert seen == chosen


def test_a_device_that_is_not_there_or_full_is_refused(tmp_path, monkeypatch):
    request = training_request.Request.model_validate(request_for(tmp_path, device="cuda:2"))
    monkeypatch.setitem(sys.modules, "torch", two_gpus(raising(FULL[0])))
    with pytest.raises(RequestError, match="there are 2 CUDA devices, counted from 0"):
        __main__._check_device(request)
    with pytest.raises(RequestError, match="the memory of cuda:1 has no room for a start; free some of it"):
        __main__._check_device(request.model_copy(update={"device": "cuda:1"}))


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_training_that_finds_no_memory_says_what_needs_less(tmp_path, monkeypatch, error):
    request = training_request.Request.model_validate(request_for(tmp_path, device="cuda:0"))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(manual_seed=lambda seed: None))
    monkeypatch.setattr(batches, "encode_texts", lambda *arguments: None)
    monkeypatch.setattr(learning, "_train", raising(error))
    # Where a device gives nothing back, bringing the model back would hide why.
    model = SimpleNamespace(to=raising(AcceleratorError("another")))
    with pytest.raises(RequestError) as caught:
        learning.learn(request, model, None, training_request.Progress(lambda event: None))
    assert "the memory of cuda:0 has no room for training in batches of 8; lower batch_size, which is 8" in str(
        caught.value
    )


def test_another_error_of_the_device_stays_what_it_is(tmp_path, monkeypatch):
    request = training_request.Request.model_validate(request_for(tmp_path, device="cuda:0"))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(manual_seed=lambda seed: None))
    monkeypatch.setattr(batches, "encode_texts", lambda *arguments: None)
    monkeypatch.setattr(learning, "_train", raising(AcceleratorError("CUDA error: unspecified launch failure")))
    model = SimpleNamespace(to=raising(AcceleratorError("another")), config=SimpleNamespace(model_type="bert"))
    with pytest.raises(AcceleratorError, match="unspecified launch failure"):
        learning.learn(request, model, None, training_request.Progress(lambda event: None))


@pytest.mark.parametrize(("batch_size", "size", "remedy"), [(8, 32, "lower max_length"), (64, 64, "lower batch_size")])
def test_a_teacher_that_finds_no_memory_is_told_of_its_own_batches(tmp_path, monkeypatch, batch_size, size, remedy):
    changes = {"device": "cuda:0", "teacher": tmp_path, "batch_size": batch_size}
    request = training_request.Request.model_validate(request_for(tmp_path, **changes))
    encoded = SimpleNamespace(lengths=SimpleNamespace(argsort=lambda stable: range(3)), to=raising(FULL[0]))
    model = SimpleNamespace(config=SimpleNamespace(num_labels=len(LABELS)))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(empty=lambda *shape: None))
    monkeypatch.setattr(starting, "load_model", lambda *arguments: (model, {"missing_keys": []}))
    monkeypatch.setattr(tokenizers, "load_tokenizer", lambda folder: None)
    monkeypatch.setattr(batches, "encode_texts", lambda *arguments: encoded)
    with pytest.raises(RequestError, match=f"room for the teacher's answers to batches of {size}; {remedy}"):
        learning._teacher_logits(request, training_request.Progress(lambda event: None))


@pytest.mark.parametrize(
    ("given", "used"), [(None, ":4096:8"), (":16:8", ":16:8"), (":4096:8", ":4096:8"), (":0:0", ":4096:8")]
)
def test_a_workspace_that_makes_training_random_is_not_taken_over(tmp_path, monkeypatch, given, used):
    name = "CUBLAS_WORKSPACE_CONFIG"
    # Set first, so that what `main` sets is taken back.
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    monkeypatch.setattr(__main__, "make", lambda request, progress: {name: os.environ[name]})
    file = tmp_path / "request.json"
    file.write_text(json.dumps(request_for(tmp_path)))
    assert __main__.main([str(file)]) == 0 and os.environ[name] == used


# -- Pieces --------------------------------------------------------------------------------------


def test_progress_is_told_a_few_times_a_second_but_first_and_last_always():
    told: list[dict[str, Any]] = []
    progress = training_request.Progress(told.append)
    for done in range(1001):
        progress.report("training", done, 1000)
    progress.report("saving", 0, 1)
    places = [(line["phase"], line["done"]) for line in told]
    assert places[0] == ("training", 0)
    assert places[-2:] == [("training", 1000), ("saving", 0)]
    assert len(told) < 10
    assert told[0]["seconds_left"] is None and told[-2]["seconds_left"] == 0


@given(steps=st.integers(1, 3000))
@settings(max_examples=40)
def test_the_learning_rate_rises_once_and_falls_to_almost_nothing(steps):
    rates = [learning._schedule(step, steps) for step in range(steps)]
    peak = rates.index(max(rates))
    assert max(rates) == 1
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_wordpiece_is_bert_s_and_always_the_same():
    first, second = (tokenizers.train_wordpiece(TEXTS, 120) for _ in range(2))
    assert first.to_str() == second.to_str()
    vocabulary = first.get_vocab()
    assert [vocabulary[token] for token in training_request.SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary))) and len(vocabulary) <= 120
    tokens = first.encode("The QUIÉT rain ☃").tokens
    assert tokens[:2] == ["[CLS]", "the"] and tokens[-2:] == ["[UNK]", "[SEP]"]
    # Letters keep their form: none of them became a special token, which would match inside words.
    assert first.decode(first.encode("quiet rain").ids) == "quiet rain"
    special = [token for token in first.encode("[MASK] rain").tokens if token.startswith("[")]
    assert special == ["[CLS]", "[MASK]", "[SEP]"]


def test_a_large_alphabet_leaves_room_for_pieces():
    texts = ["".join(map(chr, range(0x3B1, 0x3C9))) + " rain rain", *TEXTS[:50]]
    vocabulary = tokenizers.train_wordpiece(texts, 60).get_vocab()
    assert len(vocabulary) <= 60
    assert "r" in vocabulary
