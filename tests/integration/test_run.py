"""Whole runs through the command line, against an independent computation with transformers alone."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NEWS = REPOSITORY / "data" / "news" / "test.csv"
SHARED = REPOSITORY.parent / "shared"
SUITE = SHARED / "suites" / "agnews-local.toml"
SUITE_EXAMPLES, SUITE_LENGTH = 400, 128
"""As that suite has them."""
LABELS = ["World", "Sports", "Business", "Sci/Tech"]
# fmt: off
FIXED = [
    "variant", "title", "model", "backend", "precision", "device", "batch_size", "status", "status_reason",
    "validity", "validity_reason", "comparison", "latency_mean_s", "latency_p50_s", "latency_p95_s",
    "latency_p99_s", "calls", "throughput_samples_per_s", "throughput_tokens_per_s",
    "throughput_padded_tokens_per_s", "speedup", "speedup_low", "speedup_high", "vram_peak_bytes",
    "vram_source", "ram_peak_bytes", "weights_bytes", "load_s", "accuracy", "accuracy_low", "accuracy_high",
    "examples", "correct", "macro_f1", "agreement", "truncated",
]
# fmt: on
"""As design.md has them."""
SEED, EXAMPLES = 5, 24
BUDGET = 400
"""Tokens a batch, where a variant has such a limit."""
LENGTH = 80
"""Tokens to which most of the news are cut, and others padded, by the tokenizer of `shaped_models`."""


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def shuffled(count: int, seed: int, examples: int) -> list[int]:
    """The rows that a workload takes, in its order."""
    return np.random.default_rng(seed).permutation(count)[:examples].tolist()


def share_right(answers: list[str], rows: list[int]) -> float:
    given = rows_of(NEWS)
    return float(np.mean([answer == given[row]["label"] for answer, row in zip(answers, rows, strict=True)]))


TOGETHER = [("wide", "wide-bert"), ("batchings", "sentiment"), ("agnews-distilbert", "agnews-student")]
"""Jobs that one process does, the first time one of them is asked for."""


class Alone:
    """What transformers alone says, by job; computed when it is asked for."""

    def __init__(self, jobs, reference) -> None:
        self.jobs, self.reference, self.done = jobs, reference, {}

    def __getitem__(self, name):
        if name not in self.done:
            names = next(group for group in TOGETHER if name in group)
            self.done |= dict(zip(names, self.reference(*(self.jobs[each] for each in names)), strict=True))
        return self.done[name]


@pytest.fixture(scope="module")
def alone(shaped_models, tiny_models, reference):
    """What transformers alone says to the rows of each run, in their order."""
    wide, bert = shaped_models["wide"], shaped_models["wide-bert"]
    jobs = {
        "wide": {"model": wide, "rows": chosen(), "max_length": LENGTH},
        "wide-bert": {"model": bert, "rows": chosen(), "max_length": LENGTH},
        "batchings": {"model": wide, "rows": shuffled(len(rows_of(NEWS)), 1, 50), "max_length": 120},
        "sentiment": {"model": tiny_models["sst2"], "rows": shuffled(len(rows_of(NEWS)), 2, 200)},
    }
    if SUITE.exists():
        # Each text at its own length: the quickest, and padding has no part in it.
        news = {"file": SHARED / "agnews" / "test.csv", "max_length": SUITE_LENGTH, "padding": False}
        news["rows"] = shuffled(len(rows_of(news["file"])), 0, SUITE_EXAMPLES)
        jobs["agnews-distilbert"] = {"model": SHARED / "models" / "agnews-distilbert", **news}
        jobs["agnews-student"] = {"model": SHARED / "models" / "agnews-student", **news}
    return Alone(jobs, reference)


# All techniques


def chosen() -> list[int]:
    return shuffled(len(rows_of(NEWS)), SEED, EXAMPLES)


@pytest.fixture(scope="module")
def techniques(shaped_models, tiny_models, write_suite, measure, tmp_path_factory):
    wide, bert = shaped_models["wide"], shaped_models["wide-bert"]
    suite = write_suite(
        tmp_path_factory.mktemp("suite"),
        [
            {"name": "fp32", "title": "Wide | FP32", "model": wide},
            {"name": "bf16", "model": wide, "precision": "bf16"},
            {"name": "fp16", "model": wide, "precision": "fp16"},
            {"name": "nf4", "model": wide, "backend": "bitsandbytes", "precision": "nf4"},
            {
                "name": "nf4-narrow",
                "model": tiny_models["bert"],
                "backend": "bitsandbytes",
                "precision": "nf4",
            },
            {"name": "bert", "model": bert},
            {"name": "onnx", "model": wide, "backend": "onnxruntime"},
            {"name": "onnx-bert", "model": bert, "backend": "onnxruntime"},
            {"name": "int8", "model": wide, "backend": "onnxruntime", "precision": "int8"},
            {
                "name": "int8-channels",
                "model": wide,
                "backend": "onnxruntime",
                "precision": "int8",
                "options": {"per_channel": True},
            },
        ],
        name="techniques",
        workload={"examples": EXAMPLES, "seed": SEED, "max_length": LENGTH},
        protocol={"rounds": 8, "min_calls": 8},
    )
    return measure(suite)


def test_every_technique_is_measured_or_unavailable_for_a_stated_reason(techniques):
    assert techniques.exit_code == 0, techniques.stderr
    for row in techniques.measurements:
        # Only where bitsandbytes packs the weights anew (AVX512-BF16) do its kernels need even widths.
        may = ("unavailable", "measured") if row["variant"] == "nf4-narrow" else ("measured",)
        assert row["status"] in may, row["status_reason"]
        assert list(row)[: len(FIXED)] == FIXED
    assert techniques.run["status"] == "finished" and techniques.run["device"] == "cpu"
    narrow = techniques.row("nf4-narrow")
    if narrow["status"] == "measured":
        return
    assert "4-bit kernel" in narrow["status_reason"] and "is 36" in narrow["status_reason"]
    figures = [key for key in FIXED[9:] if narrow[key] is not None]
    assert figures == [], "what was not measured is null"
    assert "nf4-narrow" in techniques.stdout and "unavailable" in techniques.stdout


def test_every_technique_says_where_its_calls_spend_their_time(techniques):
    for row in techniques.measurements:
        if row["status"] == "measured":
            kinds = row["audit"]["operators"]["kinds"]
            assert kinds and all(share >= 0 for share in kinds.values()), row["variant"]


def test_a_shipped_variant_gives_the_stored_logits_without_the_bench(techniques, bench, tmp_path):
    from test_shipping import answers

    done = bench("ship", techniques.run["id"], "int8", tmp_path / "int8")
    assert done.returncode == 0, done.stderr
    expected = json.loads((tmp_path / "int8" / "expected.json").read_text())
    texts = [row["text"] for row in rows_of(NEWS)]
    stored = {texts[e["index"]]: e["logits"] for e in techniques.of("int8")}
    batch = [e["text"] for e in expected["examples"][:4]]
    found = answers(tmp_path / "int8", batch, tmp_path)
    assert found == pytest.approx(np.array([stored[text] for text in batch]), abs=1e-6)


def test_figures_belong_together(techniques):
    for row in techniques.measurements:
        if row["status"] != "measured" or row["variant"] == "nf4-narrow":
            continue
        assert row["validity"] in ("valid", "unstable") and row["schedule"] == "interleaved"
        assert row["examples"] == EXAMPLES and row["batch_size"] == 4
        # On a machine that others fill, the time may be up before; then the row says so.
        assert row["calls"] >= 8 or "calls were timed before max_seconds" in row["validity_reason"]
        assert 0 < row["latency_p50_s"] < 5 and 0 < row["load_s"] < 120
        assert row["latency_p99_s"] is None or row["calls"] >= 299
        assert (row["latency_p95_s"] is not None) == (row["calls"] >= 59)
        rate = row["throughput_samples_per_s"]
        assert rate == pytest.approx(4 / row["latency_mean_s"], rel=1e-6), "every call has 4 samples"
        assert row["throughput_padded_tokens_per_s"] == pytest.approx(LENGTH * rate, rel=1e-6)
        assert 0.8 * LENGTH * rate < row["throughput_tokens_per_s"] < LENGTH * rate
        assert EXAMPLES / 2 < row["truncated"] < EXAMPLES
        assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
        if row["baseline"]:
            assert row["speedup"] == 1 and row["comparison"] is None
        elif row["comparison"] == "no_difference":
            assert row["speedup_low"] <= 1 <= row["speedup_high"]
        else:
            assert row["comparison"] == ("better" if row["speedup"] > 1 else "worse")
            assert not row["speedup_low"] <= 1 <= row["speedup_high"]


def test_examples_are_those_of_the_shuffle(techniques):
    given = rows_of(NEWS)
    for variant in ("fp32", "nf4", "int8", "onnx-bert"):
        examples = techniques.of(variant)
        assert [example["index"] for example in examples] == chosen()
        for example in examples:
            row = given[example["index"]]
            assert example["text_sha256"] == hashlib.sha256(row["text"].encode()).hexdigest()
            assert example["label"] == row["label"]


@pytest.mark.parametrize(
    ("variant", "model"),
    [("fp32", "wide"), ("onnx", "wide"), ("bert", "wide-bert"), ("onnx-bert", "wide-bert")],
)
def test_fp32_answers_as_transformers_alone(techniques, alone, variant, model):
    expected = alone[model]
    assert np.abs(techniques.logits(variant) - expected.logits).max() < 1e-4
    assert [example["predicted"] for example in techniques.of(variant)] == expected.answers()
    row = techniques.row(variant)
    right = [e["predicted"] == e["label"] for e in techniques.of(variant)]
    assert row["correct"] == sum(right) and row["accuracy"] == pytest.approx(np.mean(right))
    assert len(set(expected.answers())) > 2, "a model that always says the same would prove nothing"


def test_lower_precisions_answer_nearly_alike_and_not_quite(techniques, alone):
    exact = alone["wide"].logits
    # Three, two and one significant digits: none may be FP32 in disguise, and none may be noise.
    for variant, least, most, same in (
        ("fp16", 1e-5, 0.05, 0.95),
        ("bf16", 1e-3, 0.5, 0.85),
        ("nf4", 0.02, 6, 0.4),
        ("int8", 0.005, 3, 0.7),
        ("int8-channels", 0.005, 3, 0.7),
    ):
        distance = np.abs(techniques.logits(variant) - exact).max()
        print(variant, "is at most", distance, "away from FP32")
        assert least < distance < most, variant
        answers = [example["predicted"] for example in techniques.of(variant)]
        agreement = np.mean([a == b for a, b in zip(answers, alone["wide"].answers(), strict=True)])
        row = techniques.row(variant)
        assert row["agreement"] == pytest.approx(agreement) and agreement >= same, variant
        assert row["flips"] == round((1 - agreement) * EXAMPLES)
    assert np.abs(techniques.logits("int8") - techniques.logits("int8-channels")).max() > 1e-4


def test_the_effective_configuration_is_read_back(techniques):
    for variant, dtype in (("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")):
        row = techniques.row(variant)
        settings = row["audit"]["settings"]
        assert settings["parameters_by_dtype"] == {dtype: row["parameters"]}
        assert settings["tf32"] is False and settings["threads"] == techniques.run["environment"]["threads"]
        assert row["audit"]["wrong"] == row["audit"]["deviations"] == []
    onnx, int8 = (techniques.row(name)["audit"]["settings"] for name in ("onnx", "int8"))
    assert set(onnx["parameters_by_dtype"]) == {"float32"} and onnx["integer_nodes"] == 0
    assert onnx["providers"] == ["CPUExecutionProvider"] and onnx["nodes_by_provider"]["CPUExecutionProvider"] > 20
    assert int8["integer_nodes"] >= 2 * 6, "two layers have six products each"
    assert {"int8", "uint8"} & set(int8["parameters_by_dtype"])


def test_nf4_names_what_its_cpu_kernel_makes_of_the_request(techniques):
    row = techniques.row("nf4")
    settings, deviations = row["audit"]["settings"], row["audit"]["deviations"]
    assert row["audit"]["wrong"] == [] and settings["quant_types"] == ["nf4"]
    # Six linear layers in each of two, and the head of two kept.
    assert settings["quantized_modules"] == 12
    assert settings["linear_modules_kept"] == ["pre_classifier", "classifier"]
    if not settings["repacked_for_cpu_modules"]:
        pytest.skip("this CPU has no AVX512-BF16: bitsandbytes keeps the weights as they are")
    assert settings["double_quantized_modules"] == 0
    assert any("double quantisation is gone" in text for text in deviations)
    if row["validity"] == "valid":
        assert "double quantisation is gone" in row["validity_reason"]


def test_memory_comes_with_its_sources(techniques, shaped_models):
    stored = (shaped_models["wide"] / "model.safetensors").stat().st_size
    for row in techniques.measurements:
        if row["status"] != "measured":
            continue
        assert "VmHWM" in row["ram_source"] and row["memory"]["ram_peak"]["bytes"] == row["ram_peak_bytes"]
        assert 20e6 < row["memory"]["ram_after_imports"]["bytes"] < row["ram_peak_bytes"]
        assert row["vram_peak_bytes"] is None and row["vram_source"] == "no GPU in use"
    weights = {name: techniques.row(name)["weights_bytes"] for name in ("fp32", "bf16", "nf4", "onnx", "int8")}
    assert weights["fp32"] == pytest.approx(stored, rel=0.05)
    assert weights["bf16"] == pytest.approx(weights["fp32"] / 2, rel=0.01)
    assert weights["nf4"] < weights["bf16"] and weights["int8"] < 0.8 * weights["onnx"]
    # An ONNX worker holds no torch.
    assert techniques.row("onnx")["ram_peak_bytes"] < 0.5 * techniques.row("fp32")["ram_peak_bytes"]


# Batching


@pytest.fixture(scope="module")
def batchings(shaped_models, write_suite, measure, tmp_path_factory):
    wide = {"model": shaped_models["wide"], "backend": "onnxruntime"}
    budget = {"batch_size": 8, "max_batch_tokens": BUDGET}
    suite = write_suite(
        tmp_path_factory.mktemp("suite"),
        [
            {"name": "padded", **wide},
            {"name": "longest", **wide, "padding": "longest"},
            {"name": "sorted", **wide, "padding": "longest", "order": "length"},
            {"name": "own", **wide, "batch_size": 8, "padding": "longest"},
            {"name": "budget", **wide, "order": "length", **budget, "padding": "longest"},
            {"name": "packed", **wide, "backend": "pytorch", **budget, "padding": "packed"},
            {"name": "not-packed", **wide, "padding": "packed", "batch_size": 8},
        ],
        name="batchings",
        workload={"examples": 50, "seed": 1, "batch_size": [2, 4], "max_length": 120},
        protocol={"rounds": 12, "min_calls": 12},
    )
    return measure(suite)


@pytest.mark.second_tier
def test_each_batch_size_is_a_measurement_and_a_variant_may_have_its_own(batchings):
    assert batchings.exit_code == 0, batchings.stderr
    rows = [row for row in batchings.measurements if not row["max_batch_tokens"] and row["padding"] != "packed"]
    sizes = [(row["variant"], row["batch_size"]) for row in rows]
    assert sizes == [
        *(("padded", 2), ("padded", 4), ("longest", 2), ("longest", 4), ("sorted", 2), ("sorted", 4), ("own", 8)),
    ]
    for row in rows:
        assert row["status"] == "measured"
        rate = row["throughput_samples_per_s"]
        assert rate == pytest.approx(row["batch_size"] / row["latency_mean_s"], rel=1e-6), "batches are full"
    assert batchings.row("padded", 2)["speedup"] == batchings.row("padded", 4)["speedup"] == 1
    assert batchings.row("own")["speedup"] is not None


@pytest.mark.second_tier
def test_padding_and_order_change_no_answer(batchings, alone):
    rows, expected = shuffled(len(rows_of(NEWS)), 1, 50), alone["batchings"]
    for (variant, size), examples in batchings.examples.items():
        assert [example["index"] for example in examples] == rows, (variant, size)
        assert [example["predicted"] for example in examples] == expected.answers()
        assert np.abs(batchings.logits(variant, size) - expected.logits).max() < 1e-4, (variant, size)


@pytest.mark.second_tier
def test_less_padding_means_fewer_tokens(batchings):
    def waste(variant: str, size: int) -> float:
        """Padded tokens for each real one."""
        row = batchings.row(variant, size)
        return row["throughput_padded_tokens_per_s"] / row["throughput_tokens_per_s"]

    for size in (2, 4):
        assert 1 <= waste("sorted", size) < waste("longest", size) < waste("padded", size)
        padded = batchings.row("padded", size)
        per_sample = padded["throughput_padded_tokens_per_s"] / padded["throughput_samples_per_s"]
        assert per_sample == pytest.approx(120)
    measured = [row for row in batchings.measurements if row["status"] == "measured"]
    assert {row["truncated"] for row in measured} == {batchings.row("own")["truncated"]}


@pytest.mark.second_tier
def test_a_token_budget_makes_batches_of_as_many_texts_as_it_holds(batchings):
    for name in ("budget", "packed"):
        row = batchings.row(name)
        assert row["status"] == "measured" and row["batch_size"] == 8 and row["max_batch_tokens"] == BUDGET
        assert 120 < row["throughput_padded_tokens_per_s"] * row["latency_mean_s"] <= BUDGET
        assert 1 < row["examples_per_call"] < 8
    assert batchings.row("own")["examples_per_call"] == pytest.approx(8)


@pytest.mark.second_tier
def test_packed_batches_hold_real_tokens_alone_where_the_backend_can(batchings):
    packed = batchings.row("packed")
    assert packed["throughput_padded_tokens_per_s"] == packed["throughput_tokens_per_s"] > 0
    # Examples and their mean length, as of every other batch: limits and captions count with both.
    sequences, mean_length = packed["audit"]["operators"]["shape"]
    assert sequences > 1 and 0 < sequences * mean_length <= packed["max_batch_tokens"] + sequences
    assert packed["invariance"]["padding longest"]["largest_logit_change"] < 1e-4
    refused = batchings.row("not-packed")
    assert refused["status"] == "unavailable" and "takes no packed batches" in refused["status_reason"]


def test_rounds_go_on_until_every_variant_has_its_calls(shaped_models, write_suite, measure, tmp_path):
    onnx = {"model": shaped_models["wide"], "backend": "onnxruntime"}
    protocol = {"rounds": 1, "min_calls": 40, "block_seconds": 0.001, "max_seconds": 300.0}
    # The larger batch needs the more rounds: the other goes on with it.
    variants = [{"name": "small", "batch_size": 4, **onnx}, {"name": "large", "batch_size": 16, **onnx}]
    found = measure(write_suite(tmp_path, variants, protocol=protocol), predictions=False)
    assert found.exit_code == 0, found.stderr
    assert {row["variant"]: row["calls"] >= 40 for row in found.measurements} == {"small": True, "large": True}
    assert found.row("small")["calls"] > found.row("large")["calls"], "each round is the same work"


@pytest.mark.second_tier
def test_a_last_batch_that_is_not_full_is_answered_though_not_timed(batchings):
    # 50 examples in batches of 4: two are left over.
    assert all(len(examples) == 50 for examples in batchings.examples.values())
    assert all(math.isfinite(value) for e in batchings.of("own") for value in e["logits"])


# Labels


@pytest.fixture(scope="module")
def labelled(tiny_models, write_suite, measure, tmp_path_factory):
    def variant(name: str, model: str, **more: object) -> dict[str, object]:
        return {"name": name, "model": tiny_models[model], "backend": "onnxruntime", **more}

    suite = write_suite(
        tmp_path_factory.mktemp("suite"),
        [
            variant("named", "distilbert"),
            variant("permuted", "permuted"),
            variant("generic", "generic"),
            variant("by-order", "generic", labels="by-order"),
            variant("sentiment", "sst2"),
            variant("untrained", "untrained"),
            variant("sentiment-map", "sst2", labels={"NEGATIVE": "World", "POSITIVE": "Sports"}),
        ],
        name="labelled",
        workload={"examples": 200, "seed": 2, "batch_size": 8},
        protocol={"rounds": 6, "min_calls": 6},
    )
    return measure(suite)


@pytest.mark.second_tier
def test_a_model_with_permuted_labels_is_aligned_by_name(labelled):
    assert labelled.exit_code == 0, labelled.stderr
    named, permuted = labelled.row("named"), labelled.row("permuted")
    assert named["accuracy"] is not None and named["correct"] == permuted["correct"] > 0
    assert named["macro_f1"] == pytest.approx(permuted["macro_f1"]) and permuted["agreement"] == 1
    assert permuted["labels"]["how"] == "name" and permuted["labels"]["mapping"] == [2, 0, 3, 1]
    # By index, the same answers would be other ones.
    by_index = [LABELS[int(np.argmax(e["logits"]))] == e["label"] for e in labelled.of("permuted")]
    assert sum(by_index) != named["correct"]


@pytest.mark.second_tier
def test_generic_labels_are_aligned_by_order_only_where_the_suite_says_so(labelled):
    generic, by_order = labelled.row("generic"), labelled.row("by-order")
    assert generic["accuracy"] is generic["correct"] is generic["macro_f1"] is generic["agreement"] is None
    assert "LABEL_0" in generic["accuracy_reason"] and "by-order" in generic["accuracy_reason"]
    assert by_order["accuracy"] == labelled.row("named")["accuracy"] and by_order["accuracy_reason"] is None
    assert all(example["predicted"].startswith("LABEL_") for example in labelled.of("generic"))
    assert "no accuracy" in labelled.stdout


@pytest.mark.second_tier
def test_a_sentiment_model_has_no_accuracy_on_news(labelled, alone):
    rows, sentiments = shuffled(len(rows_of(NEWS)), 2, 200), alone["sentiment"]
    given = rows_of(NEWS)
    row = labelled.row("sentiment")
    assert row["status"] == "measured" and row["accuracy"] is row["accuracy_low"] is row["correct"] is None
    assert "NEGATIVE, POSITIVE" in row["accuracy_reason"] and "World" in row["accuracy_reason"]
    matches = [
        int(index) == LABELS.index(given[at]["label"])
        for index, at in zip(sentiments.logits.argmax(axis=1), rows, strict=True)
    ]
    assert row["index_match_rate"] == pytest.approx(np.mean(matches)) and 0 < np.mean(matches) < 1
    [flag] = row["quality"]["flags"]
    assert flag["kind"] == "study" and "2 outputs of the model, 4 labels" in flag["sentence"]
    assert "case study's fault" in flag["sentence"] and "case study's fault" in " ".join(labelled.stdout.split())
    assert [e["predicted"] for e in labelled.of("sentiment")] == sentiments.answers()


@pytest.mark.second_tier
def test_a_head_that_was_saved_before_it_was_trained_is_named(labelled):
    flags = labelled.row("untrained")["quality"]["flags"]
    assert flags[0]["kind"] == "fresh" and "all 4 biases are 0" in flags[0]["sentence"]
    assert "its head looks freshly initialised" in " ".join(labelled.stdout.split())
    others = [row for row in labelled.measurements if row["variant"] != "untrained"]
    assert not any(flag["kind"] == "fresh" for row in others for flag in row["quality"]["flags"])


@pytest.mark.second_tier
def test_a_declared_map_is_followed(labelled, alone):
    rows, sentiments = shuffled(len(rows_of(NEWS)), 2, 200), alone["sentiment"]
    means = {"NEGATIVE": "World", "POSITIVE": "Sports"}
    answers = [means[name] for name in sentiments.answers()]
    row = labelled.row("sentiment-map")
    assert row["accuracy"] == pytest.approx(share_right(answers, rows))
    assert [e["predicted"] for e in labelled.of("sentiment-map")] == answers
    assert row["labels"]["how"] == "declared map" and row["index_match_rate"] is None


def test_a_declared_map_that_cannot_be_right_is_refused(tiny_models, write_suite, bench, tmp_path):
    wrong = {"NEGATIVE": "World", "POSITIVE": "Sprots"}
    suite = write_suite(tmp_path, [{"model": tiny_models["sst2"], "backend": "onnxruntime", "labels": wrong}])
    done = bench("run", suite, "--device", "cpu")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: variant 'v0': labels:") and "did you mean 'Sports'" in last


@pytest.mark.second_tier
def test_unlabelled_text_gives_agreement_and_no_accuracy(shaped_models, write_suite, measure, tmp_path):
    wide = {"model": shaped_models["wide"], "backend": "onnxruntime"}
    suite = write_suite(
        tmp_path,
        [{"name": "onnx", **wide}, {"name": "int8", **wide, "precision": "int8"}],
        name="unlabelled",
        workload={"label": None, "labels": None, "examples": 40},
    )
    found = measure(suite)
    assert found.exit_code == 0, found.stderr
    for row in found.measurements:
        assert row["accuracy"] is row["accuracy_low"] is row["macro_f1"] is row["index_match_rate"] is None
        assert row["accuracy_reason"] == "the workload is unlabelled"
    mine, theirs = (found.logits(name).argmax(axis=1) for name in ("int8", "onnx"))
    row = found.row("int8")
    assert row["agreement"] == pytest.approx(np.mean(mine == theirs))
    assert row["flips"] == int((mine != theirs).sum()) and found.row("onnx")["agreement"] == 1
    assert all(example["label"] is None for example in found.of("onnx"))


# Real news and real models


@pytest.mark.second_tier
@pytest.mark.skipif(not SUITE.exists(), reason="../shared/suites is not here")
def test_the_shared_suite_answers_as_transformers_alone(measure, alone):
    """All of its examples at its own length, and as little timing as there may be."""
    changed = ["protocol.rounds=1", "protocol.min_calls=1", "protocol.block_seconds=0.01", "protocol.ceilings=false"]
    several = ["--variants", "fp32,student,onnx-fp32,onnx-int8"]
    found = measure(SUITE, *several, *(part for change in changed for part in ("--set", change)))
    assert found.exit_code == 0, found.stderr
    rows = shuffled(len(rows_of(SHARED / "agnews" / "test.csv")), 0, SUITE_EXAMPLES)
    assert [example["index"] for example in found.of("fp32")] == rows
    for variant, model in (("fp32", "distilbert"), ("student", "student"), ("onnx-fp32", "distilbert")):
        expected = alone[f"agnews-{model}"].logits
        assert found.logits(variant).shape == expected.shape == (SUITE_EXAMPLES, 4)
        assert np.abs(found.logits(variant) - expected).max() < 1e-4
        assert found.logits(variant).argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()
    # The classes of AG News are easy: most answers of every variant are right.
    for row in found.measurements:
        assert row["status"] == "measured" and row["accuracy"] >= 0.85
