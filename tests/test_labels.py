"""Label alignment: by name, as declared, or not at all."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.errors import RequestError
from engine.measurement.labels import Names, align, index_match_rate, normalise

NEWS = ["World", "Sports", "Business", "Sci/Tech"]
GENERIC = ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]

names = st.lists(
    st.text(min_size=1, max_size=12).filter(lambda name: normalise(name).strip("0123456789") not in ("", "label")),
    min_size=2,
    max_size=8,
    unique_by=normalise,
)


def test_normal_form_keeps_letters_and_digits_alone():
    assert normalise("Sci/Tech") == normalise("sci_tech") == normalise(" SCI - TECH ") == "scitech"
    assert normalise("e\u0301te\u0301") == normalise("ÉTÉ")
    assert normalise("世界") == "世界"


def test_same_names_in_another_order_and_spelling_align():
    found = align(["sci_tech", "BUSINESS", "world", "sports"], NEWS)
    assert (found.mapping, found.how, found.reason) == ([3, 2, 0, 1], "name", None)


@given(names, st.randoms(use_true_random=False))
def test_permuted_names_realign_exactly(labels, random):
    permuted = random.sample(labels, len(labels))
    there, back = align(permuted, labels), align(labels, permuted)
    assert [labels[index] for index in there.mapping] == permuted
    assert [there.mapping[index] for index in back.mapping] == list(range(len(labels)))


@given(names, st.randoms(use_true_random=False))
def test_predictions_do_not_depend_on_the_order_of_the_outputs(labels, random):
    order = random.sample(range(len(labels)), len(labels))
    logits = np.random.default_rng(0).normal(size=(20, len(labels))).astype(np.float32)
    permuted = align([labels[index] for index in order], labels)
    assert permuted.apply(logits[:, order]).tolist() == logits.argmax(axis=1).tolist()


@given(names, st.data())
def test_names_that_are_not_all_the_same_are_refused(labels, data):
    at = data.draw(st.integers(0, len(labels) - 1))
    other = [*labels[:at], labels[at] + "x", *labels[at + 1 :]]
    assume(normalise(other[at]) not in map(normalise, labels))
    for model in (other, labels[:-1], [*labels, labels[at]], [labels[0]] * len(labels)):
        found = align(model, labels)
        assert found.mapping is None and found.how is None and "do not fit" in found.reason


def test_the_reason_names_both_sides():
    found = align(["NEGATIVE", "POSITIVE"], NEWS)
    assert found.reason == (
        "the model's labels (NEGATIVE, POSITIVE) do not fit the data set's (World, Sports, Business, "
        "Sci/Tech); declare labels = ... on the variant"
    )


def test_a_subset_of_the_names_does_not_fit():
    assert align(["World", "Sports"], NEWS).mapping is None
    assert align(NEWS, ["World", "Sports"]).mapping is None


def test_ambiguous_normal_forms_do_not_align_but_exact_names_do():
    assert align(["C", "C++"], ["c", "c++"]).mapping is None
    assert align(["C++", "C"], ["C", "C++"]).mapping == [1, 0]
    assert align(["👎", "👍"], ["👍", "👎"]).mapping == [1, 0]
    assert align(["👎", "👍"], ["-", "+"]).mapping is None


@pytest.mark.parametrize("model", [GENERIC, ["0", "1", "2", "3"], ["label 0", "label 1", "label 2", "label 3"]])
@pytest.mark.parametrize("dataset", [NEWS, GENERIC, ["0", "1", "2", "3"]])
def test_generic_names_never_count_as_names(model, dataset):
    found = align(model, dataset)
    assert found.mapping is None
    assert f"{model[0]}..3" in found.reason and '"by-order"' in found.reason and "map" in found.reason


def test_generic_names_of_another_number_ask_for_a_map():
    reason = align(["LABEL_0", "LABEL_1"], NEWS).reason
    assert "LABEL_0..1" in reason and "map" in reason and "by-order" not in reason
    assert "LABEL_1, LABEL_2" in align(["LABEL_1", "LABEL_2"], NEWS).reason


def test_one_generic_name_among_names_fits_nothing():
    assert "do not fit" in align(["World", "1"], ["World", "1"]).reason


@pytest.mark.parametrize("declared", [None, "by-order", NEWS, {"LABEL_0": "World"}])
def test_an_unlabelled_workload_aligns_with_nothing(declared):
    found = align(GENERIC, None, declared)
    assert (found.mapping, found.reason) == (None, "the workload is unlabelled")


def test_by_order():
    found = align(GENERIC, NEWS, "by-order")
    assert (found.mapping, found.how) == ([0, 1, 2, 3], "order")
    with pytest.raises(RequestError, match=r"model has 2 labels .NEGATIVE, POSITIVE., the data set 4"):
        align(["NEGATIVE", "POSITIVE"], NEWS, "by-order")


def test_a_declared_list_gives_the_label_of_each_output():
    found = align(GENERIC, NEWS, ["sci tech", "World", "Sports", "Business"])
    assert (found.mapping, found.how) == ([3, 0, 1, 2], "declared list")


def test_a_declared_map_may_be_many_to_one():
    stars = ["1 star", "2 stars", "3 stars", "4 stars", "5 stars"]
    declared = dict(zip(stars, ["negative"] * 3 + ["positive"] * 2, strict=True))
    found = align(stars, ["negative", "positive"], declared)
    assert (found.mapping, found.how) == ([0, 0, 0, 1, 1], "declared map")
    assert found.apply(np.eye(5)).tolist() == [0, 0, 0, 1, 1]


def test_a_declared_map_counts_generic_names_as_the_models_own():
    declared = {"label_1": "World", "LABEL_0": "Sports"}
    assert align(["LABEL_0", "LABEL_1"], NEWS, declared).mapping == [1, 0]


@pytest.mark.parametrize(
    ("declared", "parts"),
    [
        (["World", "Sports"], ["has 2 names", "4 outputs", "LABEL_0"]),
        (["World", "Sprots", "Business", "Sci/Tech"], ["'Sprots'", "World, Sports", "did you mean 'Sports'"]),
        ({"LABEL_O": "World"}, ["'LABEL_O'", "LABEL_0, LABEL_1", "did you mean 'LABEL_"]),
        ({"LABEL_0": "Word"}, ["'Word'", "World, Sports", "did you mean 'World'"]),
        ({"LABEL_0": "World", "LABEL_2": "Sports"}, ["leaves out LABEL_1, LABEL_3", "World, Sports"]),
        ({"LABEL_0": "World", "label 0": "Sports"}, ["'LABEL_0' twice"]),
        ({}, ["leaves out LABEL_0, LABEL_1"]),
    ],
)
def test_a_declaration_that_cannot_be_right_is_refused(declared, parts):
    with pytest.raises(RequestError) as caught:
        align(GENERIC, NEWS, declared)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_applying_needs_a_mapping_and_the_models_own_logits():
    found = align(["sports", "world", "sci-tech", "business"], NEWS)
    labels = found.apply(np.array([[0, 1, 0, 0], [9, 1, 0, 0], [0, 0, 0, 3]], dtype=np.float32))
    assert labels.dtype == np.int64 and labels.tolist() == [0, 1, 2]
    assert found.apply(np.empty((0, 4))).shape == (0,)
    with pytest.raises(ValueError, match="do not fit 4"):
        found.apply(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="NEGATIVE"):
        align(["NEGATIVE", "POSITIVE"], NEWS).apply(np.zeros((3, 2)))


def test_json_holds_all_of_it():
    for found in (align(NEWS, NEWS), align(GENERIC, NEWS)):
        assert json.loads(json.dumps(found.to_json())) == {
            "mapping": found.mapping,
            "how": found.how,
            "reason": found.reason,
            "model_labels": found.model_labels,
        }


def test_index_match_rate_compares_numbers_without_names():
    logits = np.array([[0, 1], [1, 0], [0, 1], [1, 0]], dtype=np.float32)
    assert index_match_rate(logits, np.array([1, 0, 3, 2])) == 0.5


def test_names_are_found_as_spelled_first():
    found = Names(["IT", "it", "World"])
    assert [found.find(name) for name in ("it", "IT", "I.T.", "WORLD", "")] == [1, 0, None, 2, None]


def test_long_label_lists_are_cut():
    reason = align(["a", "b"], [f"topic {index}" for index in range(150)]).reason
    assert "topic 11 and 138 more" in reason and "topic 12" not in reason
