"""Makes the checkpoints that a suite asks for: `python -m engine.distill REQUEST.json`.

A process of its own, so that only this one imports torch and transformers for training. It fills one
folder with an ordinary Hugging Face checkpoint: config.json, model.safetensors, tokenizer.json. Standard
output carries JSON lines, of these kinds:

    {"phase": "training", "done": 40, "total": 200, "loss": 0.71, "seconds_left": 12.3}
    {"result": {...}}      last, exit code 0
    {"error": "..."}       last, exit code 2: the request cannot be met as it stands

Anything else is a fault of this module: a traceback on standard error, exit code 1.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine import libraries, processes
from engine.errors import RequestError, did_you_mean, one_line, says_out_of_memory

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

VERSION = 1
"""Raised whenever the same request would give other weights or another tokenizer: checkpoints are cached by it."""
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SOFT_WEIGHT = 0.7
"""The share of the teacher's answers in the loss; the labels, where there are any, have the rest."""
WARMUP = 0.1
"""The share of the steps over which the learning rate rises."""
PADDING_STEP = 8
"""Batches are padded to a multiple of this, so that few shapes occur."""
POOL_BATCHES = 16
"""Examples are sorted by length within shuffled pools of this many batches."""
TEACHER_BATCH = 32
"""Texts that a teacher answers together, at least: without gradients it needs less memory than its student."""
REPORT_SECONDS = 0.3
WORKSPACES = (":4096:8", ":16:8")
"""The values of CUBLAS_WORKSPACE_CONFIG with which its products are deterministic."""
_CHUNK = 2048


class TokenizerFolder(BaseModel):
    """An existing tokenizer."""

    model_config = ConfigDict(extra="forbid")
    folder: Path


class TokenizerSize(BaseModel):
    """A WordPiece tokenizer to train on the texts."""

    model_config = ConfigDict(extra="forbid")
    vocab_size: Annotated[int, Field(ge=len(SPECIAL_TOKENS) + 1)]


class Request(BaseModel):
    """All that one checkpoint needs; references are already resolved to folders."""

    model_config = ConfigDict(extra="forbid")

    target: Path
    """An existing, empty folder."""
    name: str
    base: Path | None = None
    architecture: dict[str, Any] | None = None
    teacher: Path | None = None
    teacher_mapping: list[int] | None = None
    """The teacher's label index -> index in `label_names`; None where both have the same order."""
    tokenizer: TokenizerFolder | TokenizerSize
    texts: list[str]
    labels: list[int] | None = None
    label_names: Annotated[list[str], Field(min_length=2)]
    max_length: Annotated[int, Field(ge=2)]
    epochs: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    batch_size: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    mixing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of the training texts that are mixed with another, drawn anew at every step: see `Encoded.mixed`."""
    token_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of the tokens left out of the training texts, drawn anew at every step."""
    seed: Annotated[int, Field(ge=0)] = 0
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    threads: Annotated[int, Field(ge=0)] = 0

    @property
    def method(self) -> Literal["random", "fine-tuned", "distilled"]:
        if self.epochs == 0:
            return "random"
        return "distilled" if self.teacher else "fine-tuned"


@dataclass
class Encoded:
    """Tokenised texts, padded on the right."""

    ids: torch.Tensor
    """int32 [texts, longest] on any device, padding included."""
    lengths: torch.Tensor
    """int64 [texts] on the host: tokens of each, padding not included."""
    frame: list[int]
    """Tokens that texts begin, end and are padded with; the padding comes first."""

    def to(self, device: str) -> Encoded:
        return Encoded(self.ids.to(device), self.lengths, self.frame)

    def batch(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """The model's inputs for the texts at `indices` (on the host), padded to the longest of them."""
        import torch

        device = self.ids.device
        lengths = self.lengths[indices]
        longest = -(-int(lengths.max()) // PADDING_STEP) * PADDING_STEP
        longest = min(longest, self.ids.shape[1])
        mask = torch.arange(longest) < lengths[:, None]
        ids = self.ids[indices.to(device), :longest]
        return {"input_ids": ids.long(), "attention_mask": mask.long().to(device)}

    def mixed(
        self, indices: torch.Tensor, mixing: float, dropout: float, generator: torch.Generator
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """The inputs for the texts at `indices` changed at random, their partners' indices, and their own share.

        A share `mixing` of them are mixed with a partner (CutMix, Yun et al. 2019, on tokens): each token of
        the one is kept with a random chance, each of the other with the chance that is left. The answer to
        learn is mixed in proportion. A few hundred texts are soon known by heart otherwise. A share
        `dropout` of all tokens is left out besides. The drawn numbers are the host's on every device.
        """
        import torch

        count, width = len(indices), self.ids.shape[1]
        partners = torch.randint(len(self.lengths), (count,), generator=generator)
        share = torch.rand(count, generator=generator)
        share[torch.rand(count, generator=generator) >= mixing] = 1.0
        ids = torch.cat([self.ids[indices], self.ids[partners]], 1)
        lengths = torch.stack([self.lengths[indices], self.lengths[partners]], 1)
        chance = torch.stack([share, 1 - share], 1) * (1 - dropout)

        place = torch.arange(width).repeat(2)
        framing = torch.isin(ids, torch.tensor(self.frame, dtype=ids.dtype))
        keep = torch.rand(ids.shape, generator=generator) < chance.repeat_interleave(width, 1)
        keep &= (place < lengths.repeat_interleave(width, 1)) & ~framing
        # Two long texts may together exceed the width, of which the frame takes two.
        keep &= keep.cumsum(1) <= width - 2
        kept = torch.stack([keep[:, :width].sum(1), keep[:, width:].sum(1)], 1).float()
        share = torch.where(kept.sum(1) > 0, kept[:, 0] / kept.sum(1).clamp(min=1), share)
        keep[:, 0] |= framing[:, 0]
        rows, last = torch.arange(count), width + lengths[:, 1] - 1
        keep[rows, last] |= framing[rows, last]

        total = keep.sum(1)
        ids = ids.gather(1, (~keep).to(torch.uint8).argsort(dim=1, stable=True))
        ids = ids.masked_fill(torch.arange(2 * width) >= total[:, None], self.frame[0])[:, :width]
        return Encoded(ids, total, self.frame).batch(rows), partners, share


class Progress:
    """Writes the JSON lines; several times a second at most within a phase."""

    def __init__(self, write: Callable[[dict[str, Any]], None]) -> None:
        self.write = write
        self.phase = ""
        self.began = self.last = 0.0

    def report(self, phase: str, done: int, total: int, loss: torch.Tensor | None = None) -> None:
        """Write a line where one is due: a phase's first, its last, and some between.

        `loss` is read from its device only then. `seconds_left` is this phase's, None before it can be told.
        """
        now = time.perf_counter()
        if phase != self.phase:
            self.phase, self.began = phase, now
        elif done < total and now - self.last < REPORT_SECONDS:
            return
        self.last = now
        spent = now - self.began
        value = math.nan if loss is None else loss.item()
        self.write(
            {
                "phase": phase,
                "done": done,
                "total": total,
                "loss": round(value, 4) if math.isfinite(value) else None,
                "seconds_left": round(spent / done * (total - done), 1) if done and spent else None,
            }
        )


def make(request: Request, progress: Progress) -> dict[str, Any]:
    """Fill `request.target` with the checkpoint and return facts about it.

    Raises RequestError, one line, where the request cannot be met.
    """
    began = time.perf_counter()
    _check(request)
    if request.architecture is not None:
        _check_architecture(request.architecture)

    import torch
    import transformers

    _quiet(transformers)
    _check_device(request)
    if request.threads:
        torch.set_num_threads(request.threads)
    torch.use_deterministic_algorithms(True)
    # Filling every new tensor guards against code that reads before it writes; it costs a tenth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    tokenizer = _make_tokenizer(request, progress)
    torch.manual_seed(request.seed)
    model = _make_model(request, tokenizer)
    _fit_tokenizer(tokenizer, model, request)

    facts: dict[str, Any] = {"steps": 0, "final_loss": None, "train_accuracy": None}
    if request.epochs:
        facts = _learn(request, model, tokenizer, progress)

    progress.report("saving", 0, 1)
    model.config.inference_bench = _marker(request)
    model.save_pretrained(request.target, safe_serialization=True)
    tokenizer.save_pretrained(request.target)
    progress.report("saving", 1, 1)
    return {
        **facts,
        "epochs": request.epochs,
        "seconds": round(time.perf_counter() - began, 3),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocab_size": len(tokenizer),
        "seed": request.seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": request.device if request.epochs else "cpu",
    }


def _check(request: Request) -> None:
    """Raises RequestError where parts of the request contradict each other."""
    if (request.base is None) == (request.architecture is None):
        raise RequestError(f"checkpoint {request.name!r}: needs either a base or an architecture, not both")
    if isinstance(request.tokenizer, TokenizerSize) and not any(text.strip() for text in request.texts):
        raise RequestError(f"checkpoint {request.name!r}: there are no texts to train a tokenizer on")
    if request.labels is not None:
        if len(request.labels) != len(request.texts):
            raise RequestError(
                f"checkpoint {request.name!r}: {len(request.labels)} labels for {len(request.texts)} texts"
            )
        known = len(request.label_names)
        wrong = next((label for label in request.labels if not 0 <= label < known), None)
        if wrong is not None:
            raise RequestError(
                f"checkpoint {request.name!r}: label {wrong} is none of the {known} labels: "
                f"{', '.join(request.label_names)}"
            )
    if not request.epochs:
        return
    if not request.texts:
        raise RequestError(f"checkpoint {request.name!r}: there are no texts to learn from")
    if request.labels is None and request.teacher is None:
        raise RequestError(
            f"checkpoint {request.name!r}: the texts have no labels, so it needs a teacher; "
            "name the label column, give a teacher, or set epochs = 0 for random weights"
        )
    if request.teacher_mapping is not None and sorted(request.teacher_mapping) != list(range(len(request.label_names))):
        raise RequestError(
            f"checkpoint {request.name!r}: teacher_mapping {request.teacher_mapping} is not an order of "
            f"the {len(request.label_names)} labels"
        )


def _check_architecture(architecture: dict[str, Any]) -> None:
    """Raises RequestError for a model type or key that transformers does not know."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    kind = architecture.get("model_type")
    kinds = list(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    if kind not in kinds:
        raise RequestError(
            f"architecture: model_type {kind!r} is not a text classifier of transformers; "
            f"allowed: bert, distilbert and {len(kinds) - 2} more{did_you_mean(str(kind), kinds)}"
        )
    config_class = CONFIG_MAPPING[kind]
    parameters = inspect.signature(config_class.__init__).parameters.values()
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self"]
    known += [alias for alias in config_class.attribute_map if alias not in known]
    for key in architecture:
        if key != "model_type" and key not in known:
            raise RequestError(
                f"architecture: unknown key {key!r} of model_type {kind!r}; "
                f"allowed: {', '.join(known)}{did_you_mean(key, known)}"
            )


def _check_device(request: Request) -> None:
    import torch

    if not request.epochs or request.device == "cpu":
        return
    if not torch.cuda.is_available():
        raise RequestError(f"device {request.device}: torch {torch.__version__} sees no CUDA device; use cpu")
    count = torch.cuda.device_count()
    index = torch.device(request.device).index or 0
    if index >= count:
        raise RequestError(f"device {request.device}: there are {count} CUDA devices, counted from 0")
    # What names no device, such as the question whether it is fast at bfloat16, means the current one.
    with _enough_memory(request, "a start", "free some of it: `nvidia-smi` says who holds it"):
        torch.cuda.set_device(index)


def _quiet(transformers: Any) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@contextmanager
def _blame(what: str) -> Iterator[None]:
    """Turn whatever a library raises about a user's folder or settings into one line about `what`."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(f"{what}: {one_line(error)}") from error


@contextmanager
def _enough_memory(request: Request, what: str, remedy: str) -> Iterator[None]:
    """Turn memory that is not there, in whoever's words, into one line: no room for `what`, and the `remedy`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not says_out_of_memory(f"{type(error).__name__} {error}"):
            raise
        raise RequestError(
            f"checkpoint {request.name!r}: the memory of {request.device} has no room for {what}; {remedy}"
        ) from error


# Tokenizer


def _make_tokenizer(request: Request, progress: Progress) -> PreTrainedTokenizerFast:
    """The tokenizer that the checkpoint is saved with."""
    from transformers import BertTokenizerFast, DistilBertTokenizerFast

    if isinstance(request.tokenizer, TokenizerFolder):
        return _load_tokenizer(request.tokenizer.folder)
    progress.report("tokenizing", 0, len(request.texts))
    trained = train_wordpiece(request.texts, request.tokenizer.vocab_size)
    model_type = (request.architecture or {}).get("model_type")
    kind = DistilBertTokenizerFast if model_type == "distilbert" else BertTokenizerFast
    return kind(tokenizer_object=trained, do_lower_case=True, model_max_length=request.max_length)


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer in `folder`. Raises RequestError where there is none that can pad."""
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise RequestError(f"tokenizer {folder}: no such folder")
    files = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
    if not any((folder / file).is_file() for file in files):
        raise RequestError(f"tokenizer {folder}: holds none of {', '.join(files)}")
    with _blame(f"tokenizer {folder}"):
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False, local_files_only=True)
    if not tokenizer.is_fast:
        raise RequestError(f"tokenizer {folder}: has no fast form (tokenizer.json)")
    if tokenizer.pad_token_id is None:
        raise RequestError(f"tokenizer {folder}: has no padding token")
    return tokenizer


def train_wordpiece(texts: list[str], vocab_size: int) -> Tokenizer:
    """A lower-casing WordPiece tokenizer in BERT's form with at most `vocab_size` tokens, [PAD] first.

    Pieces are kept where they occur at least twice. The same texts give the same tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))

    # The trainer numbers "##x" pieces in the order of a hash map, and breaks ties between merges by
    # number: two processes learn two vocabularies. Naming these pieces beforehand fixes the numbers.
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    ranked = sorted(characters, key=lambda character: (-characters[character], character))
    alphabet = sorted(ranked[: max(1, (vocab_size - len(SPECIAL_TOKENS)) // 3)])
    inner = sorted({character for word in words for character in word[1:]} & set(alphabet))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        limit_alphabet=len(alphabet),
        initial_alphabet=alphabet,
        special_tokens=[*SPECIAL_TOKENS, *alphabet, *(f"##{character}" for character in inner)],
        show_progress=False,
    )
    scratch = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    scratch.normalizer, scratch.pre_tokenizer = normalizer, splitter
    scratch.train_from_iterator(texts, trainer)

    # A fresh tokenizer, because in `scratch` every single letter is a special token.
    vocabulary = scratch.get_vocab()
    ordered = {piece: number for number, piece in enumerate(sorted(vocabulary, key=vocabulary.__getitem__))}
    result = Tokenizer(models.WordPiece(ordered, unk_token="[UNK]", max_input_chars_per_word=100))
    result.normalizer, result.pre_tokenizer = normalizer, splitter
    result.add_special_tokens(list(SPECIAL_TOKENS))
    result.post_processor = processors.BertProcessing(("[SEP]", ordered["[SEP]"]), ("[CLS]", ordered["[CLS]"]))
    result.decoder = decoders.WordPiece()
    return result


def _fit_tokenizer(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel, request: Request) -> None:
    """Let the saved tokenizer say what this model takes: which inputs, how many tokens."""
    takes = set(inspect.signature(model.forward).parameters)
    # Where there is no embedding of types, GPT-2 would add that of a token instead.
    takes -= set() if getattr(model.config, "type_vocab_size", 0) else {"token_type_ids"}
    names = [name for name in tokenizer.model_input_names if name in takes]
    if names != tokenizer.model_input_names:
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
    positions = _positions(model)
    if isinstance(request.tokenizer, TokenizerSize):
        tokenizer.model_max_length = positions or request.max_length
    elif positions:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)


def _positions(model: PreTrainedModel) -> int | None:
    """The most tokens that `model` takes; None where its positions are relative."""
    count = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(count, int) or count <= 0:
        return None
    embeddings = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(embeddings, "padding_idx", None)
    # RoBERTa and its kin count positions from after the padding's.
    return count if padding is None else count - padding - 1


def _encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], max_length: int, progress: Progress) -> Encoded:
    """`texts` tokenised, each cut to `max_length` tokens."""
    import torch

    rows: list[list[int]] = []
    for start in range(0, len(texts), _CHUNK):
        progress.report("tokenizing", start, len(texts))
        chunk = texts[start : start + _CHUNK]
        rows += tokenizer(chunk, truncation=True, max_length=max_length)["input_ids"]
    progress.report("tokenizing", len(texts), len(texts))
    # The call above leaves its truncation in the tokenizer, and saving would write it out.
    tokenizer.backend_tokenizer.no_truncation()
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), tokenizer.pad_token_id, dtype=torch.int32)
    for row, target in zip(rows, ids, strict=True):
        target[: len(row)] = torch.tensor(row, dtype=torch.int32)
    frame = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    return Encoded(ids, lengths, [tokenizer.pad_token_id, *(token for token in frame if token is not None)])


# Model


def _make_model(request: Request, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The float32 model to train, on the host; new weights are drawn from torch's random numbers."""
    head = {
        "id2label": dict(enumerate(request.label_names)),
        "label2id": {name: index for index, name in enumerate(request.label_names)},
        "problem_type": "single_label_classification",
    }
    # On the CPU the backward pass of torch's fused attention is slow in bfloat16.
    attention = "eager" if request.device == "cpu" else None
    if request.base is not None:
        model = _load_base(request.base, head, attention)
        what = f"base {request.base}"
    else:
        model = _new_model(dict(request.architecture or {}), head, attention, tokenizer)
        what = "architecture"
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.num_embeddings
    if rows < len(tokenizer):
        raise RequestError(f"{what}: a vocab_size of {rows} is too small for the tokenizer's {len(tokenizer)} tokens")
    model.config.pad_token_id = tokenizer.pad_token_id
    positions = _positions(model)
    if positions is not None and positions < request.max_length:
        raise RequestError(
            f"{what}: takes at most {positions} tokens, but max_length is {request.max_length}; "
            "lower max_length or raise max_position_embeddings"
        )
    return model


def _new_model(
    architecture: dict[str, Any],
    head: dict[str, Any],
    attention: str | None,
    tokenizer: PreTrainedTokenizerFast,
) -> PreTrainedModel:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    padding = architecture.setdefault("pad_token_id", tokenizer.pad_token_id)
    if padding != tokenizer.pad_token_id:
        raise RequestError(
            f"architecture: pad_token_id is {padding}, but the tokenizer pads with {tokenizer.pad_token_id}; "
            "leave the key out"
        )
    architecture.setdefault("vocab_size", len(tokenizer))
    with _blame("architecture"):
        config: PretrainedConfig = AutoConfig.for_model(**architecture, **head)
        return AutoModelForSequenceClassification.from_config(
            config, dtype=torch.float32, attn_implementation=attention
        )


def _load_base(folder: Path, head: dict[str, Any], attention: str | None) -> PreTrainedModel:
    """The encoder in `folder` with a head for the labels, new where the old one has another shape."""
    options = {**head, "attn_implementation": attention, "ignore_mismatched_sizes": True}
    model, info = _load_model("base", folder, **options)
    encoder = model.base_model_prefix + "."
    lost = [key for key, *_ in info["mismatched_keys"] if key.startswith(encoder)]
    # Checkpoints made for other tasks often come without the pooler, which fine-tuning learns anew.
    lost += [key for key in info["missing_keys"] if key.startswith(encoder) and ".pooler." not in key]
    if lost:
        raise RequestError(
            f"base {folder}: {len(lost)} of its weights are missing or have another shape than config.json "
            f"says, {min(lost)} among them"
        )
    return model


def _load_model(what: str, folder: Path, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The float32 classifier in `folder`, and transformers' account of what was found in it."""
    import torch
    from transformers import AutoModelForSequenceClassification

    if not folder.is_dir():
        raise RequestError(f"{what} {folder}: no such folder")
    if not (folder / "config.json").is_file():
        raise RequestError(f"{what} {folder}: is no model folder, it has no config.json")
    with _blame(f"{what} {folder}"):
        return AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )


def _marker(request: Request) -> dict[str, Any]:
    """What config.json says of how the checkpoint was made; no paths or times, so that it is reproducible.

    `random_weights` means that nothing was learnt here: good for speed and memory alone.
    """
    if request.method == "random":
        return {"random_weights": True}
    marker = {
        "random_weights": False,
        "method": request.method,
        "texts": len(request.texts),
        "labelled": request.labels is not None,
        "max_length": request.max_length,
        "epochs": request.epochs,
        "learning_rate": request.learning_rate,
        "batch_size": request.batch_size,
        "mixing": request.mixing,
        "token_dropout": request.token_dropout,
        "seed": request.seed,
    }
    if request.method == "distilled":
        marker |= {"temperature": request.temperature, "soft_weight": _soft_weight(request)}
    return marker


# Training


def _learn(
    request: Request, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, progress: Progress
) -> dict[str, Any]:
    """Train `model` in place and bring it back to the host; facts about it."""
    import torch

    encoded = _encode(tokenizer, request.texts, request.max_length, progress)
    try:
        soft = None if request.teacher is None else _teacher_logits(request, progress)
        # Loading a teacher draws random numbers too; the student's should not depend on that.
        torch.manual_seed(request.seed)
        remedy = f"lower batch_size, which is {request.batch_size}, or max_length, or free some of it"
        with _enough_memory(request, f"training in batches of {request.batch_size}", remedy):
            facts = _train(request, model, encoded, soft, progress)
        # Not where it failed: a device that is full or broken gives nothing back, and that error hid the first.
        model.to("cpu")  # type: ignore[arg-type]
        return facts
    except RuntimeError as error:
        if "use_deterministic_algorithms" not in str(error):
            raise
        raise RequestError(
            f"checkpoint {request.name!r}: {model.config.model_type} has no deterministic training on "
            f"{request.device}; make it on the cpu: {one_line(error, 160)}"
        ) from error


def _fast_bf16(device: str) -> bool:
    """Whether `device` multiplies bfloat16 in hardware."""
    import torch

    if device == "cpu":
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _autocast(device: str) -> torch.autocast:
    """bfloat16 arithmetic where the device is fast at it; the weights stay float32."""
    import torch

    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=_fast_bf16(device))


def _teacher_logits(request: Request, progress: Progress) -> torch.Tensor:
    """The teacher's float32 logits [texts, labels], in the order of `label_names`, on the device.

    Raises RequestError where the teacher is no trained classifier of these labels.
    """
    import torch

    assert request.teacher is not None
    model, info = _load_model("teacher", request.teacher)
    count = len(request.label_names)
    if info["missing_keys"]:
        raise RequestError(
            f"teacher {request.teacher}: is no trained classifier; its file lacks "
            f"{', '.join(sorted(info['missing_keys'])[:3])}"
        )
    if getattr(model.config, "inference_bench", {}).get("random_weights"):
        raise RequestError(f"teacher {request.teacher}: has random weights (epochs = 0): nothing to learn from it")
    if model.config.num_labels != count:
        raise RequestError(
            f"teacher {request.teacher}: has {model.config.num_labels} labels, the data set {count}: "
            f"{', '.join(request.label_names)}"
        )
    tokenizer = _load_tokenizer(request.teacher)
    length = min(request.max_length, _positions(model) or request.max_length)
    encoded = _encode(tokenizer, request.texts, length, progress)
    order = encoded.lengths.argsort(stable=True)

    logits = torch.empty(len(request.texts), count)
    size, done = max(TEACHER_BATCH, request.batch_size), 0
    smaller = "lower batch_size or max_length" if request.batch_size > TEACHER_BATCH else "lower max_length"
    progress.report("teacher", done, len(order))
    with _enough_memory(request, f"the teacher's answers to batches of {size}", f"{smaller}, or free some of it"):
        encoded = encoded.to(request.device)
        model.to(request.device).eval()  # type: ignore[arg-type]
        with torch.inference_mode(), _autocast(request.device):
            for indices in order.split(size):
                logits[indices] = model(**encoded.batch(indices)).logits.float().cpu()
                done += len(indices)
                progress.report("teacher", done, len(order))
    if request.teacher_mapping is not None:
        aligned = torch.empty_like(logits)
        aligned[:, request.teacher_mapping] = logits
        logits = aligned
    return logits.to(request.device)


def _train(
    request: Request,
    model: PreTrainedModel,
    encoded: Encoded,
    soft: torch.Tensor | None,
    progress: Progress,
) -> dict[str, Any]:
    """AdamW over `request.epochs`; loss, accuracy and agreement are means over the last epoch's examples.

    Of a mixed text, the label and the teacher's answer are those of the text with the larger share.
    """
    import torch
    from torch.nn.functional import log_softmax, one_hot

    device = request.device
    model.to(device).train()  # type: ignore[arg-type]
    changed = request.mixing > 0 or request.token_dropout > 0
    if not changed:
        encoded = encoded.to(device)
    labels = None if request.labels is None else torch.tensor(request.labels, device=device)
    # Log-probabilities [texts, labels] to learn; mixing needs them as such.
    hard_goals = None if labels is None else one_hot(labels, len(request.label_names)).float().log()
    soft_goals = None if soft is None else log_softmax(soft / request.temperature, -1)
    optimizer = _optimizer(model, request.learning_rate)
    generator = torch.Generator().manual_seed(request.seed)
    epoch_steps = math.ceil(len(request.texts) / request.batch_size)
    steps = max(1, round(request.epochs * epoch_steps))
    tail = max(0, steps - epoch_steps)

    # Sums over the last epoch stay on the device: reading them at every step would wait for it.
    loss_sum, right_sum, agree_sum = torch.zeros(3, dtype=torch.float64, device=device).unbind()
    seen = step = 0
    progress.report("training", 0, steps)
    while step < steps:
        for indices in _batches(encoded.lengths, request.batch_size, generator)[: steps - step]:
            for group in optimizer.param_groups:
                group["lr"] = request.learning_rate * _schedule(step, steps)
            partners, share = indices, None
            if changed:
                options = request.mixing, request.token_dropout
                inputs, partners, share = encoded.mixed(indices, *options, generator)
                inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
            else:
                inputs = encoded.batch(indices)
            with _autocast(device):
                logits = model(**inputs).logits
            hard_batch, soft_batch = (
                None if goals is None else _mixed_goals(goals, indices, partners, share)
                for goals in (hard_goals, soft_goals)
            )
            loss = _loss(logits.float(), hard_batch, soft_batch, request.temperature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step >= tail:
                answers = logits.detach().argmax(-1)
                seen += len(indices)
                loss_sum += loss.detach() * len(indices)
                right_sum += 0 if hard_batch is None else (answers == hard_batch.argmax(-1)).sum()
                agree_sum += 0 if soft_batch is None else (answers == soft_batch.argmax(-1)).sum()
            step += 1
            progress.report("training", step, steps, loss.detach())
    final_loss = loss_sum.item() / seen
    if not math.isfinite(final_loss):
        raise RequestError(
            f"checkpoint {request.name!r}: training diverged (the loss is {final_loss}); "
            f"lower learning_rate, which is {request.learning_rate:g}"
        )
    return {
        "steps": steps,
        "final_loss": final_loss,
        "train_accuracy": None if labels is None else right_sum.item() / seen,
        "teacher_agreement": None if soft is None else agree_sum.item() / seen,
        "bf16_autocast": _fast_bf16(device),
    }


def _optimizer(model: PreTrainedModel, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices alone: biases and normalisation layers have one dimension."""
    import torch

    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def _schedule(step: int, steps: int) -> float:
    """The share of the learning rate at `step`: up linearly over the warm-up, then down to 0."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / max(1, steps - warmup)


def _batches(lengths: torch.Tensor, batch_size: int, generator: torch.Generator) -> list[torch.Tensor]:
    """One epoch: index tensors of examples of similar length, in shuffled order."""
    import torch

    batches: list[torch.Tensor] = []
    for pool in torch.randperm(len(lengths), generator=generator).split(POOL_BATCHES * batch_size):
        batches += pool[lengths[pool].argsort(stable=True)].split(batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _soft_weight(request: Request) -> float:
    return 1.0 if request.labels is None else SOFT_WEIGHT


def _mixed_goals(
    goals: torch.Tensor, indices: torch.Tensor, partners: torch.Tensor, share: torch.Tensor | None
) -> torch.Tensor:
    """The log-probabilities to learn for texts mixed with their partners; `share` None: not mixed."""
    import torch

    own = goals[indices.to(goals.device)]
    if share is None:
        return own
    share = share.to(goals.device)[:, None]
    return torch.logaddexp(own + share.log(), goals[partners.to(goals.device)] + (1 - share).log())


def _loss(
    logits: torch.Tensor, labels: torch.Tensor | None, soft: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    """Cross-entropy with the labels, or distillation from the teacher's answers, or both.

    Both are log-probabilities [n, labels], the teacher's at the temperature. The KL term grows with the
    temperature's square, so that its gradient keeps its size (Hinton et al. 2015).
    """
    from torch.nn.functional import cross_entropy, kl_div, log_softmax

    if soft is None:
        assert labels is not None
        return cross_entropy(logits, labels.exp())
    student = log_softmax(logits / temperature, -1)
    distance = kl_div(student, soft, reduction="batchmean", log_target=True) * temperature**2
    if labels is None:
        return distance
    return SOFT_WEIGHT * distance + (1 - SOFT_WEIGHT) * cross_entropy(logits, labels.exp())


def read_request(path: Path) -> Request:
    """The request in the file `path`. Raises RequestError where it is not one."""
    try:
        return Request.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RequestError(f"request {path}: {one_line(error)}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"request {path}: {key}: {first['msg']}") from error


def main(arguments: list[str]) -> int:
    """Make the checkpoint of the request file named in `arguments`; the exit code."""
    processes.end_with_parent()
    out = sys.stdout

    def write(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=out, flush=True)

    try:
        if len(arguments) != 1:
            raise RequestError("usage: python -m engine.distill REQUEST.json")
        request = read_request(Path(arguments[0]))
        # Read when the libraries start, so before they are imported. With any other value torch finds cuBLAS random.
        if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in WORKSPACES:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = WORKSPACES[0]
        os.environ["HF_HUB_OFFLINE"] = "1"
        if request.threads:
            os.environ["RAYON_NUM_THREADS"] = str(request.threads)
        # Libraries may print: standard output is for the JSON lines alone.
        with redirect_stdout(sys.stderr):
            facts = make(request, Progress(write))
        write({"result": facts})
    except RequestError as error:
        write({"error": one_line(error, 1000)})
        return 2
    return 0


if __name__ == "__main__":
    libraries.leave_out(*libraries.BESIDE_THE_MODEL)
    sys.exit(main(sys.argv[1:]))
