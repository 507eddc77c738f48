"""Attention heads padded with zeros answer as they did before."""

from __future__ import annotations

import subprocess
import sys

import pytest

from engine.backends import wider_heads

ANSWERS = """
import sys
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from engine.backends import wider_heads

model_type, attention = sys.argv[1:]
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
with torch.inference_mode():
    before = model(input_ids=ids, attention_mask=mask).logits
    assert wider_heads.found(model) == 10
    wider_heads.widen(model)
    after = model(input_ids=ids, attention_mask=mask).logits
    query = model.base_model.encoder.layer[0].attention.self.query if model_type != "distilbert" else (
        model.base_model.transformer.layer[0].attention.q_lin)
print(wider_heads.found(model), query.out_features, float((before - after).abs().max()), float(before.std()))
"""


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", wider_heads.MODELS)
def test_wider_heads_give_the_same_answers(model_type, attention):
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, model_type, attention], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    width, outputs, moved, spread = map(float, done.stdout.split())
    assert (width, outputs) == (16, 96)
    assert spread > 1e-2 and moved < 1e-9 * spread


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
    reason = wider_heads.refusal(config)
    assert reason is None if said is None else said in reason
