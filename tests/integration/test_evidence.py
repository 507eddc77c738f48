"""What a row carries beside its figures: the machine's state, other batches, the device's limit, the label gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.second_tier

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="module")
def beside(shaped_models, write_suite, measure, tmp_path_factory):
    """A model beside four others, with the device's ceilings."""
    wide = str(shaped_models["wide"])
    variants = [
        {"name": "fp32", "model": str(shaped_models["heavy"])},
        {"name": "wide", "model": wide},
        {"name": "onnx", "model": wide, "backend": "onnxruntime"},
        {"name": "int8", "model": wide, "backend": "onnxruntime", "precision": "int8"},
        {"name": "bert", "model": str(shaped_models["wide-bert"])},
    ]
    suite = write_suite(tmp_path_factory.mktemp("suite"), variants, protocol={"rounds": 8, "ceilings": True})
    found = measure(suite)
    assert found.exit_code == 0, found.stderr
    return found


def test_a_model_needs_as_much_memory_alone_as_beside_four_others(
    beside, shaped_models, write_suite, measure, tmp_path
):
    alone = measure(write_suite(tmp_path, [{"name": "fp32", "model": str(shaped_models["heavy"])}]))
    mine, theirs = alone.row("fp32"), beside.row("fp32")
    assert mine["weights_bytes"] == theirs["weights_bytes"]
    assert mine["ram_peak_bytes"] == pytest.approx(theirs["ram_peak_bytes"], rel=0.02)
    # Nothing was measured, and nothing is made up.
    assert alone.run["ceilings"] == {"reason": "the protocol says ceilings = false"}
    assert mine["limit_share"] is None and mine["limits"]["reason"] == "the protocol says ceilings = false"


def test_every_row_stands_beside_the_devices_limit(beside):
    ceilings = beside.run["ceilings"]
    assert ceilings["products"]["fp32"]["operations_per_s"] > 1e9 and ceilings["copy"]["bytes_per_s"] > 1e8
    for row in beside.measurements:
        limits = row["limits"]
        assert 0 < row["limit_share"] == limits["compute_share"] < 1.5, row["variant"]
        assert limits["ceiling_operations_per_s"] == ceilings["products"][limits["compute_dtype"]]["operations_per_s"]
        assert row["binds"] in ("compute", "bandwidth", "launches", "host") and limits["sentence"]
    assert beside.row("int8")["limits"]["compute_dtype"] == "int8"
    # Products of 4 x 48 tokens, a multiplication and an addition for each weight of the encoder: 2 layers of
    # 4 d^2 + 8 d^2 weights, attention and the head on top.
    row, dim = beside.row("wide"), 64
    operations = row["limits"]["operations_per_s"] * row["latency_p50_s"]
    dense = 4 * 48 * 2 * 2 * 12 * dim**2
    assert dense < operations < 1.5 * dense


def test_the_machines_state_is_kept(beside):
    for row in beside.measurements:
        [seen] = row["conditions"]
        assert seen["process"] == 0 and seen["seconds"] > 0 and seen["cpus"] >= 1
        assert seen["others_cpu_share"] is None or 0 <= seen["others_cpu_share"] <= 1
        assert seen["gpu_start"] is None and seen["gpu_others"] is None
        assert row["energy_j_per_1000_examples"] is None and "no energy counter" in row["energy"]["reason"]


def test_answers_in_other_batches_are_compared(beside):
    for row in beside.measurements:
        assert set(row["invariance"]) == {"batch 1", "padding longest"}
        for way in row["invariance"].values():
            assert way["examples"] == 16 and 0 <= way["changed"] <= 16
        assert row["batch_flip_rate"] == max(way["changed"] for way in row["invariance"].values()) / 16
    # Floating-point products differ by rounding alone, INT8's by the scale that a batch shares.
    largest = {row["variant"]: row["invariance"]["batch 1"]["largest_logit_change"] for row in beside.measurements}
    assert largest["wide"] < 1e-3 and largest["onnx"] < 1e-3 and largest["int8"] > 10 * largest["onnx"]


def test_intervals_and_paired_accuracy_follow_from_what_is_stored(beside):
    base = beside.of("fp32")
    truth = [example["label"] for example in base]
    right = np.array([e["predicted"] == label for e, label in zip(base, truth, strict=True)])
    family = []
    for row in beside.measurements:
        assert row["latency_p50_low_s"] < row["latency_p50_s"] < row["latency_p50_high_s"]
        mine = np.array([e["predicted"] == label for e, label in zip(beside.of(row["variant"]), truth, strict=True)])
        assert row["correct"] == mine.sum()
        assert np.trace(row["quality"]["confusion"]) == row["correct"]
        if row["baseline"]:
            assert row["accuracy_p"] is None
            continue
        assert row["accuracy_gained"] == (mine & ~right).sum() and row["accuracy_lost"] == (right & ~mine).sum()
        assert row["accuracy_difference"] == pytest.approx(mine.mean() - right.mean())
        assert (row["accuracy_comparison"] == "no_difference") == (row["accuracy_p"] >= 0.05)
        family.append(row["accuracy_p"])
    assert len(family) == 4 and all(0 <= p <= 1 for p in family)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")
def test_labels_in_a_wrong_order_are_caught_on_real_news(write_suite, measure, tmp_path):
    model = str(SHARED / "models" / "agnews-student")
    variants = [
        {"name": "right", "model": model, "backend": "onnxruntime"},
        {
            "name": "turned",
            "model": model,
            "backend": "onnxruntime",
            "labels": ["Sports", "Business", "Sci/Tech", "World"],
        },
    ]
    workload = {
        "dataset": str(SHARED / "agnews" / "test.csv"),
        "labels": ["World", "Sports", "Business", "Sci/Tech"],
        "examples": 120,
    }
    found = measure(write_suite(tmp_path, variants, workload=workload), predictions=False)
    assert found.exit_code == 0, found.stderr
    assert found.row("right")["quality"]["flags"] == [] and found.row("right")["accuracy"] > 0.8
    flags = {flag["kind"]: flag["sentence"] for flag in found.row("turned")["quality"]["flags"]}
    assert "its 'Sports' looks like 'World'" in flags["permuted"] and "chance" in flags
    assert found.row("turned")["accuracy_comparison"] == "worse"
