"""The tokenizer of a checkpoint: the teacher's, an existing one, or WordPiece trained on the texts."""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from engine.artefacts.training.request import (
    SPECIAL_TOKENS,
    Progress,
    Request,
    TokenizerFolder,
    TokenizerSize,
    user_error_about,
)
from engine.errors import RequestError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

CHUNK_TEXTS = 2048


# Tokenizer


def make_tokenizer(request: Request, progress: Progress) -> PreTrainedTokenizerFast:
    """The tokenizer that the checkpoint is saved with."""
    from transformers import BertTokenizerFast, DistilBertTokenizerFast

    if isinstance(request.tokenizer, TokenizerFolder):
        return load_tokenizer(request.tokenizer.folder)
    progress.report("tokenizing", 0, len(request.texts))
    trained = train_wordpiece(request.texts, request.tokenizer.vocab_size)
    model_type = (request.architecture or {}).get("model_type")
    kind = DistilBertTokenizerFast if model_type == "distilbert" else BertTokenizerFast
    return kind(tokenizer_object=trained, do_lower_case=True, model_max_length=request.max_length)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer in `folder`. Raises RequestError where there is none that can pad."""
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise RequestError(f"tokenizer {folder}: no such folder")
    files = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
    if not any((folder / file).is_file() for file in files):
        raise RequestError(f"tokenizer {folder}: holds none of {', '.join(files)}")
    with user_error_about(f"tokenizer {folder}"):
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


def fit_tokenizer(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel, request: Request) -> None:
    """Let the saved tokenizer say what this model takes: which inputs, how many tokens."""
    takes = set(inspect.signature(model.forward).parameters)
    # Where there is no embedding of types, GPT-2 would add that of a token instead.
    takes -= set() if getattr(model.config, "type_vocab_size", 0) else {"token_type_ids"}
    names = [name for name in tokenizer.model_input_names if name in takes]
    if names != tokenizer.model_input_names:
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
    positions = max_positions(model)
    if isinstance(request.tokenizer, TokenizerSize):
        tokenizer.model_max_length = positions or request.max_length
    elif positions:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)


def max_positions(model: PreTrainedModel) -> int | None:
    """The most tokens that `model` takes; None where its positions are relative."""
    count = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(count, int) or count <= 0:
        return None
    embeddings = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(embeddings, "padding_idx", None)
    # RoBERTa and its kin count positions from after the padding's.
    return count if padding is None else count - padding - 1
