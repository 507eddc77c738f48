"""A classifier that is rewritten answers as it did before."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from engine.backends import rewrites

pytestmark = pytest.mark.second_tier

WAYS = [["pad_heads"], ["first_token"], ["pad_heads", "first_token"]]
ATTENTION = ["sdpa", "eager"]
ANSWERS = """
import itertools
import json
import sys
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from engine.backends import rewrites


def answers(model_type, attention, names):
    sizes = {"vocab_size": 200, "num_labels": 4, "initializer_range": 0.3}
    if model_type == "distilbert":
        sizes |= {"dim": 60, "n_heads": 6, "hidden_dim": 80, "n_layers": 2}
    else:
        sizes |= {"hidden_size": 60, "num_attention_heads": 6, "intermediate_size": 80, "num_hidden_layers": 2}
    torch.manual_seed(7)
    config = AutoConfig.for_model(model_type, **sizes)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).double().eval()
    ids = torch.randint(5, 200, (6, 20))
    mask = torch.ones_like(ids)
    mask[2, 11:] = mask[4, 3:] = 0
    widths = {}
    for name, module in model.named_modules():
        note = lambda _, args, out, name=name: widths.update({name: list(getattr(out, "shape", []))})
        module.register_forward_hook(note)
    moved = []
    with torch.inference_mode():
        # With and without padding: without, no mask is made.
        before = [model(input_ids=ids, attention_mask=m).logits for m in (mask, torch.ones_like(ids))]
        assert rewrites.head_width(model) == 10
        rewrites.rewrite(names, model)
        for old, m in zip(before, (mask, torch.ones_like(ids))):
            moved.append(float((old - model(input_ids=ids, attention_mask=m).logits).abs().max() / old.std()))
    last = [name for name in widths if name.endswith(("lin2", "1.output.dense"))][-1]
    return {"moved": max(moved), "width": rewrites.head_width(model), "last": widths[last]}


types, kinds, ways = json.loads(sys.argv[1])
print(json.dumps([[*way, answers(*way)] for way in itertools.product(types, kinds, ways)]))
"""


@pytest.fixture(scope="module")
def rewritten() -> list[list[Any]]:
    """[model type, attention, names, what came of it], each."""
    asked = json.dumps([rewrites.MODELS, ATTENTION, WAYS])
    done = subprocess.run([sys.executable, "-c", ANSWERS, asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("names", WAYS)
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("model_type", rewrites.MODELS)
def test_a_rewritten_model_gives_the_same_answers(model_type, attention, names, rewritten):
    (found,) = [result for *way, result in rewritten if way == [model_type, attention, names]]
    assert found["moved"] < 1e-9
    assert found["width"] == (16 if "pad_heads" in names else 10)
    # The last layer's last product: of one token a text, or of all.
    assert found["last"] == [6, 1 if "first_token" in names else 20, 60]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "bert", "hidden_size": 312, "num_attention_heads": 12}, None),
        ({"model_type": "distilbert", "dim": 60, "n_heads": 6}, None),
        ({"model_type": "bert", "hidden_size": 768, "num_attention_heads": 12}, "heads are 64 wide"),
        ({"model_type": "albert", "hidden_size": 312, "num_attention_heads": 12}, "written for bert"),
        (
            {
                "model_type": "bert", "hidden_size": 312, "num_attention_heads": 12,
                "position_embedding_type": "relative_key",
            },
            "positions",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_widened_says_so(config, said):
    reason = rewrites.refusal(["pad_heads"], config)
    assert reason is None if said is None else said in reason


def test_the_first_token_can_be_kept_of_heads_of_any_width():
    bert = {"model_type": "bert", "hidden_size": 768, "num_attention_heads": 12}
    assert rewrites.refusal(["first_token"], bert) is None
    assert "written for bert" in str(rewrites.refusal(["first_token"], bert | {"model_type": "deberta-v2"}))
