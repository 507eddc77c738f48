"""Packed batches: the same answers as one text at a time, from real tokens alone."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from engine.backends import packing

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")

SIZES = {"vocab_size": 60, "num_labels": 4, "pad_token_id": 1}
BERT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CONFIGS = {
    "distilbert": SIZES | {"dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "bert": SIZES | BERT | {"max_position_embeddings": 40},
    "roberta": SIZES | BERT | {"max_position_embeddings": 42, "type_vocab_size": 2},
}
TOLERANCE = 1e-5
LENGTHS = [7, 40, 3, 7, 25, 3, 3, 40, 12]


@pytest.fixture(autouse=True)
def inference():
    """Nothing is trained here. torch is imported when a test runs, not when tests are collected."""
    import torch

    with torch.inference_mode():
        yield


def model_of(kind: str, attention: str = "sdpa"):
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **CONFIGS[kind], attn_implementation=attention)
    made = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in made.parameters():  # as initialised, texts hardly differ
        parameter.data.normal_(std=0.2)
    return made


def texts(kind: str) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    made = [{"input_ids": random.integers(2, 60, length)} for length in LENGTHS]
    if kind == "bert":
        for text in made:
            text["token_type_ids"] = random.integers(0, 2, len(text["input_ids"]))
    return made


def packed(found: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    flat = {name: np.concatenate([text[name] for text in found]) for name in found[0]}
    return flat | {"lengths": np.array([len(text["input_ids"]) for text in found])}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_packed_batch_answers_as_one_text_at_a_time(kind):
    import torch

    model, found = model_of(kind), texts(kind)
    alone = torch.cat([model(**{n: torch.from_numpy(a)[None] for n, a in text.items()}).logits for text in found])
    together = packing.logits(model, packed(found), torch.device("cpu"))
    assert (together - alone).abs().max() < TOLERANCE
    # The texts differ, those of one length too: an order that was lost would show.
    assert min((alone[0] - alone[1]).abs().max(), (alone[0] - alone[3]).abs().max()) > 50 * TOLERANCE
    # Nothing is left behind for a batch that is padded.
    ids = torch.from_numpy(found[0]["input_ids"])[None]
    types = {n: torch.from_numpy(a)[None] for n, a in found[0].items() if n == "token_type_ids"}
    assert torch.equal(model(input_ids=ids, **types).logits, alone[:1])


def test_only_real_tokens_go_through_the_layers():
    import torch

    model, seen = model_of("distilbert"), []
    feed_forward = model.distilbert.transformer.layer[0].ffn
    hook = feed_forward.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    packing.logits(model, packed(texts("distilbert")), torch.device("cpu"))
    hook.remove()
    assert seen == [(1, sum(LENGTHS), 48)]


def test_attention_that_would_see_other_examples_is_refused():
    import torch

    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        packing.logits(model_of("bert", "eager"), packed(texts("bert")), torch.device("cpu"))
