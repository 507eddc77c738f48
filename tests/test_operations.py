"""The polynomials that a model's operations are kept as, and the sizes of the models of the suites for a GPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import paths
from engine.artefacts.operations import CountError, fit
from engine.measurement.polynomial import evaluate
from engine.suite.reading import load_suite

quick = settings(deadline=None)
coefficients = st.lists(st.integers(0, 10**9), min_size=3, max_size=3)
SHAPES = [(rows, length) for rows in (2, 3) for length in (8, 16, 24)]


@quick
@given(coefficients, coefficients, st.integers(1, 512), st.integers(1, 512), st.sampled_from([1, 5, 8]))
def test_a_polynomial_is_found_again_exactly(shared, each, rows, length, step):
    polynomial = {"per_call": shared, "per_sequence": each}
    counts = {(b, n * step // 8): int(evaluate(polynomial, b, n * step // 8)) for b, n in SHAPES}
    assert fit(counts) == polynomial
    assert evaluate(fit(counts), rows, length) == sum(
        (shared[power] + rows * each[power]) * length**power for power in range(3)
    )


def test_what_is_no_polynomial_is_refused():
    # Padded to blocks of 20, as some attention works.
    counts = {(rows, length): rows * -(-length // 20) * 20 for rows, length in SHAPES}
    with pytest.raises(CountError, match="fit no quadratic"):
        fit(counts)


SIZES = """
import json, sys
from transformers import AutoConfig
from engine.artefacts import operations

configs = [AutoConfig.for_model(**architecture, num_labels=labels) for architecture, labels in json.load(sys.stdin)]
print(json.dumps([operations._meta_model(config).num_parameters() for config in configs]))
"""


@pytest.mark.second_tier
def test_the_models_of_true_size_have_it():
    """DistilBERT-base and TinyBERT 4L-312 with a head of four labels; on the meta device, as there are no values."""
    suites = [load_suite(name) for name in ("shapes", "saturated")]
    asked = [(c.architecture, len(suite.workload.labels)) for suite in suites for c in suite.checkpoint]
    done = subprocess.run(
        [sys.executable, "-c", SIZES],
        cwd=paths.REPOSITORY, input=json.dumps(asked), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [checkpoint.name for suite in suites for checkpoint in suite.checkpoint]
    assert names == ["distilbert-base", "tinybert-4l-312"] * 2
    # 66.4 M of the encoder that DistilBERT's paper counts, and 0.6 M of the head.
    assert json.loads(done.stdout) == [66_956_548, 14_351_500] * 2


FIRST_TOKEN = """
import json
from transformers import AutoConfig
from engine.artefacts import operations

sizes = {
    "distilbert": {"dim": 48, "hidden_dim": 80, "n_heads": 4, "n_layers": 2},
    "bert": {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 4, "num_hidden_layers": 2},
}
found = {}
for model_type, size in sizes.items():
    config = AutoConfig.for_model(model_type, vocab_size=100, num_labels=4, **size)
    both = [operations.describe(config, ["input_ids", "attention_mask"], 128, only) for only in (False, True)]
    found[model_type] = [[operations.evaluate(one["flops"], 3, 64) for one in both], both[1]["reason"]]
print(json.dumps(found))
"""


@pytest.mark.second_tier
def test_a_last_layer_of_one_token_is_counted_as_that():
    """Of all tokens but the first it needs keys and values alone: no query, no output, no feed-forward network."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_TOKEN], cwd=paths.REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows, length, width, wide = 3, 64, 48, 80
    saved = rows * (length - 1) * (2 * 2 * width**2 + 2 * 2 * width * wide + 2 * 2 * width * length)
    for (whole, first), reason in json.loads(done.stdout).values():
        assert reason is None and whole - first == saved
