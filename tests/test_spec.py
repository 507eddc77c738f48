"""Suites as data: what is read, what is refused, and in which words."""

from __future__ import annotations

import copy
import math
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from engine import backends, paths
from engine.backends.base import Backend
from engine.errors import RequestError
from engine.suite.reading import find_suite, load_suite, parse_suite
from engine.suite.spec import PRECISIONS, Checkpoint, NewTokenizer, Protocol, Suite, Variant, Workload, suite_files

SHARED = (paths.REPOSITORY.parent / "shared").resolve()
WHERE = "somewhere/s.toml"
COMPLETE: dict[str, Any] = {
    "name": "s",
    "title": "A suite",
    "description": "What it is for",
    "baseline": "fp32",
    "workload": {
        "dataset": "../news/test.csv",
        "config": "plain",
        "revision": "abc",
        "split": "train",
        "text": "headline",
        "label": "topic",
        "labels": ["a", "b"],
        "examples": 100,
        "seed": 3,
        "batch_size": [1, 8],
        "max_batch_tokens": 500,
        "max_length": 64,
        "padding": "longest",
        "order": "length",
    },
    "protocol": {
        "rounds": 10,
        "block_seconds": 0.5,
        "min_calls": 20,
        "max_seconds": 30,
        "processes": 2,
        "threads": 1,
        "ceilings": False,
        "quick": False,
        "deadline_seconds": 60,
    },
    "load": {"p99_ms": 50, "max_batch": 16, "max_wait_ms": 2},
    "checkpoint": [
        {
            "name": "tiny",
            "architecture": {"model_type": "bert", "hidden_size": 32},
            "teacher": "../models/teacher",
            "teacher_labels": "by-order",
            "revision": "def",
            "dataset": "../news/train.csv",
            "config": "plain",
            "split": "train",
            "text": "text",
            "label": "label",
            "labels": ["a", "b"],
            "examples": 10,
            "max_length": 32,
            "tokenizer": {"vocab_size": 500},
            "epochs": 0.5,
            "learning_rate": 1e-3,
            "batch_size": 4,
            "temperature": 1,
            "mixing": 0.5,
            "token_dropout": 0.1,
            "seed": 1,
        },
        {"name": "small", "base": "checkpoint:tiny", "tokenizer": "some/id"},
    ],
    "variant": [
        {"name": "fp32", "model": "checkpoint:small", "backend": "pytorch", "precision": "fp32"},
        {
            "name": "int8",
            "title": "ONNX INT8",
            "model": "org/model",
            "backend": "onnxruntime",
            "precision": "int8",
            "revision": "main",
            "tokenizer": "org/tokenizer",
            "labels": {"LABEL_0": "a", "LABEL_1": "b"},
            "batch_size": 16,
            "max_batch_tokens": 150,
            "padding": "packed",
            "order": "given",
            "options": {"per_channel": True},
            "published": "study/ONNX INT8",
        },
    ],
}
MINIMAL: dict[str, Any] = {
    "name": "s",
    "baseline": "fp32",
    "workload": {"dataset": "org/data"},
    "variant": [{"name": "fp32", "model": "org/model", "backend": "pytorch", "precision": "fp32"}],
}
TABLES: dict[str, tuple[str | int, ...]] = {
    "": (),
    "workload.": ("workload",),
    "protocol.": ("protocol",),
    "load.": ("load",),
    "checkpoint 'tiny': ": ("checkpoint", 0),
    "variant 'fp32': ": ("variant", 0),
}
"""What a key is called in a message, and where its table lies in COMPLETE."""


def parse(raw: dict[str, Any]) -> Suite:
    return parse_suite(raw, WHERE, Path("/suites"))


def refusal(raw: dict[str, Any]) -> str:
    with pytest.raises(RequestError) as caught:
        parse(raw)
    message = str(caught.value)
    assert message.startswith(f"{WHERE}: ") and "\n" not in message
    # Pydantic's own words for a reader of its documentation are of no use to one of a suite.
    assert "pydantic" not in message and "input_value" not in message
    return message.removeprefix(f"{WHERE}: ")


def changed(change: Callable[[dict[str, Any]], object], raw: dict[str, Any] = COMPLETE) -> dict[str, Any]:
    made = copy.deepcopy(raw)
    change(made)
    return made


def at(raw: dict[str, Any], place: tuple[str | int, ...]) -> dict[str, Any]:
    node: Any = raw
    for part in place:
        node = node[part]
    return node


def variants_of(*changes: dict[str, Any]) -> dict[str, Any]:
    """MINIMAL with a variant for each of `changes`."""
    return MINIMAL | {"variant": [MINIMAL["variant"][0] | change for change in changes]}


def checkpoints_of(*checkpoints: dict[str, Any]) -> dict[str, Any]:
    return MINIMAL | {"checkpoint": list(checkpoints)}


# What is read


def test_every_key_of_the_format_is_read():
    suite = parse(COMPLETE)
    assert suite.workload.batch_size == [1, 8] and suite.workload.order == "length"
    assert suite.protocol.block_seconds == 0.5 and suite.protocol.max_seconds == 30
    assert suite.protocol.ceilings is False
    assert suite.checkpoint[0].tokenizer == NewTokenizer(vocab_size=500)
    assert suite.checkpoint[1].tokenizer == "some/id"
    assert suite.variants["int8"].labels == {"LABEL_0": "a", "LABEL_1": "b"}
    assert suite.variants["int8"].shown == "ONNX INT8" and suite.variants["fp32"].shown == "fp32"
    assert suite.folder == Path("/suites")
    # Whatever the format gains, COMPLETE must show.
    models = {"workload": Workload, "protocol": Protocol, "checkpoint": Checkpoint, "variant": Variant}
    for name, model in models.items():
        tables = COMPLETE[name] if isinstance(COMPLETE[name], list) else [COMPLETE[name]]
        assert set().union(*tables) == set(model.model_fields), f"COMPLETE leaves out keys of {name}"


def test_what_may_be_left_out_has_the_documented_defaults():
    suite = parse(MINIMAL)
    workload, protocol = suite.workload, suite.protocol
    assert (workload.split, workload.text, workload.label, workload.labels) == ("test", "text", None, None)
    assert (workload.examples, workload.seed, workload.batch_size, workload.max_length) == (0, 0, [8], 128)
    assert (workload.padding, workload.order) == ("max_length", "given")
    assert (protocol.rounds, protocol.block_seconds, protocol.min_calls) == (30, 0.1, 60)
    assert (protocol.max_seconds, protocol.processes, protocol.threads, protocol.ceilings) == (120, 1, 0, True)
    assert suite.checkpoint == [] and suite.variant[0].options == {} and suite.variant[0].labels is None


def test_a_suite_survives_being_stored_and_read_again():
    suite = parse(COMPLETE)
    stored = suite.model_dump(mode="json")
    assert "folder" not in stored
    assert parse(stored) == suite


def test_a_suite_without_load_is_stored_as_it_was_before_there_was_any():
    assert parse(MINIMAL).load is None and "load" not in parse(MINIMAL).model_dump(mode="json")
    assert parse(COMPLETE).model_dump(mode="json")["load"] == {"p99_ms": 50, "max_batch": 16, "max_wait_ms": 2}


def test_a_limit_alone_is_a_load():
    found = parse(MINIMAL | {"load": {"p99_ms": 50}}).load
    assert found and (found.p99_ms, found.max_batch, found.max_wait_ms) == (50, 32, 0)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "load.p99_ms: missing; this key is required"),
        (5, "load: found 5; should be a table of keys"),
        ({"p99_ms": 0}, "load.p99_ms: found 0; should be greater than or equal to 0.001"),
        ({"p99_ms": math.inf}, "load.p99_ms: found inf"),
        ({"p99_ms": "50"}, "load.p99_ms: found '50'; should be a valid number"),
        ({"p99_ms": True}, "load.p99_ms: found True; should be a valid number"),
        ({"p99_ms": 50, "max_batch": 0}, "load.max_batch: found 0; should be greater than or equal to 1"),
        ({"p99_ms": 50, "max_wait_ms": -1}, "load.max_wait_ms: found -1"),
        ({"p99_ms": 50, "max_wait_ms": 50}, "load: max_wait_ms: found 50; allowed: less than p99_ms, 50"),
    ],
)
def test_a_load_that_cannot_be_is_refused(table, words):
    assert refusal(MINIMAL | {"load": table}).startswith(words)


def test_a_suite_cannot_be_changed():
    suite = parse(MINIMAL)
    with pytest.raises(ValueError):
        suite.workload.examples = 5  # type: ignore[misc]


@pytest.mark.parametrize(("given", "read"), [(4, [4]), ([4], [4]), ([8, 1, 8], [1, 8])])
def test_batch_size_is_one_number_or_several(given, read):
    raw = changed(lambda raw: raw["workload"].update(batch_size=given), MINIMAL)
    assert parse(raw).workload.batch_size == read


@pytest.mark.parametrize("given", [[], 0, -1, [0], [4, 0], True, [True], 1.5, "4", ["4"], None, {}])
def test_other_batch_sizes_are_refused(given):
    message = refusal(changed(lambda raw: raw["workload"].update(batch_size=given), MINIMAL))
    assert message.startswith("workload.batch_size")


@pytest.mark.parametrize("declared", [["a", "b"], {"LABEL_0": "a"}, "by-order"])
def test_declared_labels_are_a_list_a_map_or_by_order(declared):
    assert parse(variants_of({"labels": declared})).variant[0].labels == declared


@pytest.mark.parametrize("declared", ["by-name", [1, 2], {"LABEL_0": 1}, 3, True, [["a"]]])
def test_other_declared_labels_are_refused_with_what_is_allowed(declared):
    message = refusal(variants_of({"labels": declared}))
    assert message.startswith("variant 'fp32': labels: ")
    assert repr(declared) in message and "a list of names, a map" in message and '"by-order"' in message


# Keys: unknown, missing, of the wrong type


@pytest.mark.parametrize("shown", TABLES)
def test_an_unknown_key_names_the_key_what_is_allowed_and_what_was_meant(shown):
    place = TABLES[shown]
    known = list(at(parse(COMPLETE).model_dump(), place))
    for key in known:
        typo = key + "s" if key + "s" not in known else key + "x"
        message = refusal(changed(lambda raw, typo=typo: at(raw, place).update({typo: 1})))
        assert message.startswith(f"{shown}{typo}: unknown key; allowed: ")
        for allowed in known:
            assert allowed in message.split("allowed: ")[1]
        assert f"did you mean {key!r}" in message


@pytest.mark.parametrize("key", ["[", "(x)", "str", "int", "literal", "tokenizer", "", "a b", "a\nb", "\u2028", "ä"])
@pytest.mark.parametrize("shown", TABLES)
def test_a_strange_key_is_refused_like_any_other(shown, key):
    if key in at(COMPLETE, TABLES[shown]) or (shown.startswith("variant") and key == "tokenizer"):
        return
    message = refusal(changed(lambda raw: at(raw, TABLES[shown]).update({key: 1})))
    written = key if key.isascii() and key.isalpha() else repr(key)
    assert message.startswith(f"{shown}{written}: unknown key; allowed: ")


def test_a_key_that_resembles_none_gets_no_guess():
    message = refusal(MINIMAL | {"zzzz": 1})
    assert message == (
        "zzzz: unknown key; allowed: name, title, description, baseline, workload, protocol, load, checkpoint, variant"
    )


@pytest.mark.parametrize("shown", TABLES)
def test_a_missing_key_is_named(shown):
    place = TABLES[shown]
    needed = {
        "": ["name", "baseline", "workload", "variant"],
        "workload.": ["dataset"],
        "protocol.": [],
        "load.": ["p99_ms"],
        "checkpoint 'tiny': ": [],
        "variant 'fp32': ": ["model", "backend", "precision"],
    }[shown]
    for key in at(COMPLETE, place):
        if key == "name" and shown:
            continue
        raw = changed(lambda raw, key=key: at(raw, place).pop(key))
        if key in needed:
            assert f"{shown}{key}: missing" in refusal(raw)
        elif key in ("architecture", "checkpoint") or (key == "padding" and "max_batch_tokens" in at(raw, place)):
            # Without them there is nothing to start from, a variant has no model, or all its batches are alike.
            refusal(raw)
        else:
            parse(raw)


def test_a_variant_or_checkpoint_without_a_name_is_counted():
    assert "variant number 2: name: missing" in refusal(changed(lambda raw: raw["variant"][1].pop("name")))
    assert "checkpoint number 1: name: missing" in refusal(changed(lambda raw: raw["checkpoint"][0].pop("name")))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("workload", "news", "found 'news'; should be a table of keys"),
        ("variant", "fp32", "found 'fp32'; should be one or several tables, each headed [[variant]]"),
        ("name", "a b", "found 'a b'; should be 1 to 64 letters, digits, dots, dashes"),
        ("workload.batch_size", "8", "found '8'; should be a whole number, or a list of them"),
        ("workload.labels", "a,b", "found 'a,b'; should be a list: [...]"),
    ],
)
def test_the_shape_of_a_value_is_said_in_words_of_the_file(key, value, said):
    *table, last = key.split(".")
    raw = changed(lambda raw: at(raw, tuple(table)).update({last: value}))
    assert refusal(raw).startswith(f"{key}: {said}")


MISTYPED: list[tuple[str, str, object]] = [
    ("", "name", 3),
    ("", "name", ""),
    ("", "name", "a b"),
    ("", "name", "../x"),
    ("", "name", "x" * 65),
    ("", "title", 3),
    ("", "baseline", ["fp32"]),
    ("", "workload", "news"),
    ("", "protocol", []),
    ("", "variant", {}),
    ("", "variant", []),
    ("", "variant", "fp32"),
    ("", "checkpoint", {}),
    ("workload.", "dataset", 5),
    ("workload.", "dataset", ""),
    ("workload.", "examples", "200"),
    ("workload.", "examples", 1.5),
    ("workload.", "examples", -1),
    ("workload.", "examples", True),
    ("workload.", "seed", -1),
    ("workload.", "max_length", 1),
    ("workload.", "max_length", "128"),
    ("workload.", "padding", "left"),
    ("workload.", "order", "random"),
    ("workload.", "labels", "a,b"),
    ("workload.", "labels", ["a"]),
    ("workload.", "labels", ["a", "a"]),
    ("workload.", "labels", [0, 1]),
    ("protocol.", "rounds", 0),
    ("protocol.", "rounds", 2.5),
    ("protocol.", "block_seconds", 0),
    ("protocol.", "block_seconds", -0.1),
    ("protocol.", "block_seconds", float("nan")),
    ("protocol.", "block_seconds", 61),
    ("protocol.", "min_calls", 0),
    ("protocol.", "max_seconds", 0),
    ("protocol.", "max_seconds", "60"),
    ("protocol.", "max_seconds", float("nan")),
    ("protocol.", "processes", 0),
    ("protocol.", "processes", 33),
    ("protocol.", "threads", -1),
    ("checkpoint 'tiny': ", "architecture", "bert"),
    ("checkpoint 'tiny': ", "tokenizer", 5),
    ("checkpoint 'tiny': ", "epochs", -1),
    ("checkpoint 'tiny': ", "epochs", float("nan")),
    ("checkpoint 'tiny': ", "learning_rate", 0),
    ("checkpoint 'tiny': ", "learning_rate", float("inf")),
    ("checkpoint 'tiny': ", "temperature", 0),
    ("checkpoint 'tiny': ", "mixing", 1.1),
    ("checkpoint 'tiny': ", "token_dropout", 1),
    ("checkpoint 'tiny': ", "batch_size", 0),
    ("checkpoint 'tiny': ", "teacher_labels", 3),
    ("variant 'fp32': ", "model", ""),
    ("variant 'fp32': ", "model", 3),
    ("variant 'fp32': ", "backend", 3),
    ("variant 'fp32': ", "batch_size", 0),
    ("variant 'fp32': ", "batch_size", [1, 2]),
    ("variant 'fp32': ", "padding", "none"),
    ("variant 'fp32': ", "options", []),
    ("variant 'fp32': ", "published", 1),
]


@pytest.mark.parametrize(("shown", "key", "value"), MISTYPED)
def test_a_value_of_the_wrong_kind_names_the_key(shown, key, value):
    message = refusal(changed(lambda raw: at(raw, TABLES[shown]).update({key: value})))
    assert message.startswith(f"{shown}{key}")


def test_a_wrong_value_is_shown_beside_what_is_allowed():
    message = refusal(changed(lambda raw: raw["workload"].update(padding="left"), MINIMAL))
    assert message == "workload.padding: found 'left'; should be 'max_length', 'longest' or 'packed'"
    message = refusal(changed(lambda raw: raw["workload"].update(examples="200"), MINIMAL))
    assert message == "workload.examples: found '200'; should be a valid integer"


def test_a_tokenizer_to_train_is_refused_by_its_own_key():
    message = refusal(changed(lambda raw: raw["checkpoint"][0].update(tokenizer={"vocab_size": 50})))
    assert message == "checkpoint 'tiny': tokenizer.vocab_size: found 50; should be greater than or equal to 100"
    message = refusal(changed(lambda raw: raw["checkpoint"][0].update(tokenizer={"vocabsize": 500})))
    assert message == (
        "checkpoint 'tiny': tokenizer.vocab_size: missing; this key is required; "
        "checkpoint 'tiny': tokenizer.vocabsize: unknown key; allowed: vocab_size; did you mean 'vocab_size'?"
    )


def test_every_problem_is_said_at_once_in_one_line():
    raw = changed(
        lambda raw: (raw["workload"].update(exmples=3), raw["protocol"].update(rounds=0)), MINIMAL | {"protocol": {}}
    )
    message = refusal(raw)
    assert "workload.exmples" in message and "protocol.rounds" in message and "; " in message


def test_a_refusal_is_one_line_whatever_it_quotes():
    assert str(RequestError("a\r\nb\u2028c\x1ed  e")) == "a b c d  e"
    with pytest.raises(RequestError) as caught:
        parse_suite({}, "a\nb.toml", Path())
    assert str(caught.value).startswith("a b.toml: name: missing")


def test_the_folder_is_not_a_key():
    assert refusal(MINIMAL | {"folder": "/etc"}).startswith("unknown key 'folder'; allowed: name, title")


# Names, baselines, backends, precisions, options


def test_names_must_differ():
    assert refusal(variants_of({}, {})) == "two of [[variant]] are named 'fp32'; names must differ"
    twins = checkpoints_of({"name": "c", "base": "x"}, {"name": "c", "base": "y"})
    assert refusal(twins) == "two of [[checkpoint]] are named 'c'; names must differ"


def test_the_baseline_is_one_of_the_variants():
    message = refusal(variants_of({}, {"name": "int8"}) | {"baseline": "fp23"})
    assert message == ("baseline 'fp23' is not a variant of this suite; allowed: fp32, int8; did you mean 'fp32'?")


def test_an_unknown_backend_names_those_there_are():
    message = refusal(variants_of({"backend": "pytroch"}))
    assert message.startswith("variant 'fp32': unknown backend 'pytroch'; allowed: pytorch, ")
    assert all(name in message for name in backends.REGISTRY) and message.endswith("did you mean 'pytorch'?")


def test_an_unknown_precision_names_those_there_are():
    message = refusal(variants_of({"precision": "fp23"}))
    assert message.startswith("variant 'fp32': precision: found 'fp23'; should be ")
    assert all(repr(name) in message for name in PRECISIONS)


@pytest.mark.parametrize("name", backends.REGISTRY)
def test_a_precision_that_a_backend_has_not_is_refused(name):
    cls = backends.get(name)
    assert issubclass(cls, Backend) and cls.name == name and set(cls.precisions) <= set(PRECISIONS)
    for precision in PRECISIONS:
        raw = variants_of({"backend": name, "precision": precision})
        if precision in cls.precisions:
            assert parse(raw).variant[0].precision == precision
        else:
            message = refusal(raw)
            assert message.startswith(f"variant 'fp32': precision {precision!r} is not one of backend {name!r}")
            assert f"allowed: {', '.join(cls.precisions)}" in message


@pytest.mark.parametrize("name", backends.REGISTRY)
def test_an_unknown_option_names_those_the_backend_has(name):
    cls = backends.get(name)
    message = refusal(variants_of({"backend": name, "precision": cls.precisions[0], "options": {"per_chanel": 1}}))
    assert message.startswith(f"variant 'fp32': options.per_chanel: unknown option of backend {name!r}; allowed: ")
    for option in cls.options.model_fields:
        assert option in message
    assert ("did you mean 'per_channel'" in message) == ("per_channel" in cls.options.model_fields)


def test_a_mistyped_option_shows_what_was_found():
    raw = variants_of({"backend": "onnxruntime", "precision": "int8", "options": {"per_channel": "yes"}})
    assert refusal(raw).startswith("variant 'fp32': options.per_channel: found 'yes'; should be a valid boolean")


def test_an_option_that_a_precision_ignores_is_refused():
    raw = variants_of({"backend": "onnxruntime", "precision": "fp16", "options": {"per_channel": True}})
    assert "options.per_channel: is for precision 'int8'; this variant's is 'fp16'" in refusal(raw)


# Checkpoints


def test_a_checkpoint_starts_from_one_thing():
    shape = {"architecture": {"model_type": "bert"}, "tokenizer": "t"}
    for both in ({"name": "c"}, {"name": "c", "base": "b"} | shape):
        assert "needs either 'base' or 'architecture', not both" in refusal(checkpoints_of(both))
    assert "model_type" in refusal(checkpoints_of({"name": "c", "architecture": {}, "tokenizer": "t"}))
    assert "needs a teacher" in refusal(checkpoints_of({"name": "c", "base": "b", "tokenizer": "teacher"}))
    assert "needs a tokenizer" in refusal(checkpoints_of({"name": "c", "architecture": {"model_type": "bert"}}))
    parse(checkpoints_of({"name": "c"} | shape))


@pytest.mark.parametrize("key", ["base", "teacher", "tokenizer"])
def test_a_checkpoint_that_is_not_there_is_refused(key):
    one = {"name": "tiny", "base": "b"}
    message = refusal(checkpoints_of(one, {"name": "d", "base": "b"} | {key: "checkpoint:tinny"}))
    assert message == (
        f"checkpoint 'd': {key} 'checkpoint:tinny' names no [[checkpoint]] of this suite; "
        "allowed: tiny, d; did you mean 'tiny'?"
    )


def test_a_variant_of_a_checkpoint_that_is_not_there_is_refused():
    message = refusal(variants_of({"model": "checkpoint:x"}))
    assert message.startswith("variant 'fp32': model 'checkpoint:x' names no [[checkpoint]]")
    assert "none is declared" in message
    tables = variants_of({"tokenizer": "checkpoint:tinny"})
    assert refusal(tables | {"checkpoint": [{"name": "tiny", "base": "b"}]}) == (
        "variant 'fp32': tokenizer 'checkpoint:tinny' names no [[checkpoint]] of this suite; "
        "allowed: tiny; did you mean 'tiny'?"
    )


@pytest.mark.parametrize(
    ("needs", "cycle"),
    [
        ({"a": "a"}, "a -> a"),
        ({"a": "b", "b": "a"}, "a -> b -> a"),
        ({"a": "b", "b": "c", "c": "b"}, "a -> b -> c -> b"),
    ],
)
@pytest.mark.parametrize("key", ["base", "teacher", "tokenizer"])
def test_checkpoints_that_need_each_other_are_refused(needs, cycle, key):
    made = [{"name": name, "base": "x"} | {key: f"checkpoint:{other}"} for name, other in needs.items()]
    assert refusal(checkpoints_of(*made)) == f"checkpoints need each other: {cycle}"


def test_checkpoints_are_made_after_those_they_need():
    suite = parse(
        checkpoints_of(
            {"name": "c", "base": "checkpoint:b", "teacher": "checkpoint:a"},
            {"name": "a", "base": "x", "tokenizer": "checkpoint:d"},
            {"name": "b", "base": "y", "teacher": "checkpoint:a"},
            {"name": "d", "base": "x", "tokenizer": {"vocab_size": 200}},
        )
    )
    assert list(suite.checkpoints) == ["d", "a", "b", "c"]


def test_a_checkpoint_learns_from_the_workload_unless_it_says_otherwise():
    suite = parse(COMPLETE)
    tiny = suite.checkpoints["tiny"]
    own = suite.checkpoint_workload(tiny)
    assert (own.dataset, own.text, own.label, own.labels) == ("../news/train.csv", "text", "label", ["a", "b"])
    assert (own.examples, own.seed, own.max_length) == (10, 1, 32)
    # A checkpoint's revision is its base's; the workload's belongs to the workload's data set.
    assert own.config == "plain" and own.revision is None
    assert suite.checkpoint_workload(tiny.model_copy(update={"config": None})).config is None
    inherited = suite.checkpoint_workload(suite.checkpoints["small"])
    assert (inherited.dataset, inherited.config, inherited.revision) == ("../news/test.csv", "plain", "abc")
    assert (inherited.text, inherited.max_length, inherited.examples) == ("headline", 64, 0)


# Selecting and locating


def test_selecting_keeps_the_baseline_and_the_files_order():
    suite = parse(variants_of({"name": "x"}, {}, {"name": "y"}, {"name": "z"}))
    assert [v.name for v in suite.select(["z", "x"]).variant] == ["x", "fp32", "z"]
    assert [v.name for v in suite.select([]).variant] == ["fp32"]
    assert len(suite.variant) == 4
    with pytest.raises(RequestError) as caught:
        suite.select(["x", "fp33"])
    assert str(caught.value) == ("suite 's' has no variant 'fp33'; allowed: x, fp32, y, z; did you mean 'fp32'?")


def test_locating_starts_beside_the_suite(tmp_path):
    folder = tmp_path / "suites"
    (folder / "org" / "name").mkdir(parents=True)
    suite = parse_suite(MINIMAL, WHERE, folder)
    assert suite.locate("../models/x") == tmp_path / "models" / "x"
    assert suite.locate("./x") == folder / "x"
    assert suite.locate("x.CSV") == folder / "x.CSV"
    assert suite.locate("deep/x.parquet") == folder / "deep" / "x.parquet"
    assert suite.locate("/a/b") == Path("/a/b")
    assert suite.locate("~/b") == Path.home() / "b"
    # A folder that is there goes before the hub; what is not there and not spelled as a path is a hub id.
    assert suite.locate("org/name") == folder / "org" / "name"
    assert suite.locate("org/other") is None and suite.locate("distilbert") is None


@pytest.mark.parametrize(
    "reference", ["x" * 300, "./" + "x" * 300, "a\0b", "./a\0b", "/" + "y" * 5000, "~nobodyhere/x", "a\nb.csv"]
)
def test_what_no_file_can_be_called_is_a_path_a_hub_id_or_refused(reference, tmp_path):
    suite = parse_suite(MINIMAL, WHERE, tmp_path)
    try:
        found = suite.locate(reference)
    except RequestError as error:
        assert len(str(error).splitlines()) == 1 and repr(reference) in str(error)
    else:
        assert found is None or found.is_absolute()


# Files


def test_the_suites_that_come_with_the_bench_are_valid():
    found = suite_files()
    for name, path in found.items():
        suite = load_suite(name)
        assert suite.name == name == path.stem and suite.folder == paths.SUITES
        assert suite.title and suite.description, f"{name} says not what it is"
        for variant in suite.variant:
            if variant.published:
                assert "/" in variant.published


@pytest.mark.parametrize("name", ["demo", "study", "agnews", "extended", "shapes"])
def test_each_suite_of_the_design_is_there(name):
    path = paths.SUITES / f"{name}.toml"
    if not path.exists():
        pytest.skip(f"{path} is not written yet")
    suite = load_suite(name)
    local = [suite.workload.dataset, *(c.dataset for c in suite.checkpoint)]
    for dataset in local:
        if dataset is not None and (where := suite.locate(dataset)) is not None:
            assert where.is_file(), f"{name}: {where} is missing"


def test_the_suite_beside_the_project_is_valid():
    path = SHARED / "suites" / "agnews-local.toml"
    if not path.exists():
        pytest.skip("../shared is not here")
    suite = load_suite(str(path))
    assert list(suite.variants) == ["fp32", "nf4", "student", "onnx-fp32", "onnx-int8"]
    assert suite.locate(suite.workload.dataset) == SHARED / "agnews" / "test.csv"


def test_an_unknown_suite_names_those_there_are():
    known = next(iter(suite_files()))
    with pytest.raises(RequestError) as caught:
        find_suite(known + "x")
    message = str(caught.value)
    assert f"unknown suite {known + 'x'!r}; allowed: " in message and f"did you mean {known!r}" in message
    assert "or a path to a .toml file" in message
    for reference in ("nothing.toml", "no/such"):
        with pytest.raises(RequestError, match=r"^suite file .*: no such file$"):
            find_suite(reference)
    for reference in ("", ".", "x" * 300, "y/" * 3000, "~nobodyhere/x.toml", "a\0b", "a\nb"):
        with pytest.raises(RequestError) as caught:
            find_suite(reference)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"name = ",
        b"\xff\xfe",
        b"a = 1\na = 2",
        b"name = 'x'\n[workload\n",
        b"[variant]\n[[variant]]\n",
        b"\0",
        b"a = " + b"[" * 9999,
    ],
)
def test_what_is_no_toml_is_refused_in_one_line(content, tmp_path):
    path = tmp_path / "s.toml"
    path.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        load_suite(str(path))
    assert str(caught.value).startswith(f"{path}: not a readable TOML file: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "# nothing\n", "x = 1\n"])
def test_a_file_that_is_no_suite_says_what_is_missing(content, tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(content)
    with pytest.raises(RequestError) as caught:
        load_suite(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert all(f"{key}: missing" in str(caught.value) for key in ("name", "baseline", "workload", "variant"))


# Overrides


@pytest.fixture
def file(tmp_path, write_suite) -> str:
    variants = [{"name": "a", "model": "org/a"}, {"name": "b", "model": "org/b"}]
    checkpoint = {"name": "c", "base": "org/c", "epochs": 3}
    return str(write_suite(tmp_path, variants, checkpoints=[checkpoint]))


def test_overrides_are_read_as_toml_values(file):
    suite = load_suite(
        file,
        [
            "workload.examples=5",
            "workload.batch_size=[2, 4]",
            "workload.labels=['x', 'y']",
            "workload.padding=longest",
            "protocol.max_seconds=7",
            "protocol.block_seconds=0.25",
            "variant.b.model=org/other",
            "variant.b.options={ attention = 'eager' }",
            "checkpoint.c.epochs=0",
            "title=two words",
            "workload.text=a=b",
            'name = "spaced"',
        ],
    )
    assert (suite.workload.examples, suite.workload.batch_size, suite.workload.labels) == (5, [2, 4], ["x", "y"])
    assert suite.workload.padding == "longest" and suite.workload.text == "a=b"
    assert suite.protocol.max_seconds == 7 and suite.protocol.block_seconds == 0.25
    assert suite.variants["b"].model == "org/other" and suite.variants["b"].options == {"attention": "eager"}
    assert suite.variants["a"].model == "org/a"
    assert suite.checkpoints["c"].epochs == 0 and suite.title == "two words" and suite.name == "spaced"


def test_the_last_override_of_a_key_counts(file):
    assert load_suite(file, ["workload.examples=5", "workload.examples=6"]).workload.examples == 6


def test_an_override_makes_a_table_that_is_not_in_the_file(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(
        'name = "s"\nbaseline = "a"\nworkload = { dataset = "org/d" }\n'
        '[[variant]]\nname = "a"\nmodel = "org/m"\nbackend = "pytorch"\nprecision = "fp32"\n'
    )
    assert load_suite(str(path), ["protocol.rounds=4"]).protocol.rounds == 4
    load = load_suite(str(path), ["load.p99_ms=50"]).load
    assert load is not None and load.p99_ms == 50


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("workload.examples", ["--set 'workload.examples'", "KEY=VALUE", "workload.examples=200"]),
        ("", ["--set ''", "KEY=VALUE"]),
        ("=5", ["KEY=VALUE"]),
        ("workload.=5", ["KEY=VALUE"]),
        (".examples=5", ["KEY=VALUE"]),
        ("workload.exmples=5", ["workload.exmples: unknown key", "did you mean 'examples'"]),
        ("workload.examples=five", ["workload.examples: found 'five'", "integer"]),
        ("workload.examples=-5", ["workload.examples: found -5"]),
        ("wrkload.examples=5", ["wrkload: unknown key", "did you mean 'workload'"]),
        ("workload=5", ["workload: "]),
        ("variant.z.model=x", ["variant.NAME.KEY needs one of: a, b"]),
        ("variant.model=x", ["variant.NAME.KEY needs one of: a, b"]),
        ("variant=x", ["variant: "]),
        ("variant.b.modl=x", ["variant 'b': modl: unknown key", "did you mean 'model'"]),
        ("variant.b.name=a", ["two of [[variant]] are named 'a'"]),
        ("checkpoint.z.epochs=1", ["checkpoint.NAME.KEY needs one of: c"]),
        ("name.x=1", ["name is not a table"]),
        ("workload.examples.x=1", ["workload.examples is not a table"]),
        ("folder=/etc", ["unknown key 'folder'"]),
        ("workload.batch_size=[]", ["workload.batch_size", "is empty"]),
        ("workload\n.x.y=1", ["workload"]),
        ("variant.b.options.attention=flash", ["variant 'b': options.attention: found 'flash'"]),
    ],
)
def test_overrides_that_cannot_be_are_refused(override, parts, file):
    with pytest.raises(RequestError) as caught:
        load_suite(file, [override])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


# Whatever a file may hold

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 200),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.text(string.ascii_letters + "_.-:/", max_size=12),
    st.sampled_from(["fp32", "int8", "pytorch", "onnxruntime", "checkpoint:c", "by-order", "teacher", "a\nb"]),
    st.dates(),
)
keys = st.one_of(
    st.sampled_from(sorted({key for place in TABLES.values() for key in at(COMPLETE, place)} | {"vocab_size"})),
    st.text(max_size=8),
)
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4))
)
quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def only_a_suite_or_a_refusal(raw: dict[str, Any]) -> None:
    try:
        suite = parse_suite(raw, WHERE, Path("/suites"))
    except RequestError as error:
        assert str(error).startswith(f"{WHERE}: ")
        assert len(str(error).splitlines()) == 1
    else:
        assert isinstance(suite, Suite)
        # What is accepted can be made, selected from and stored.
        assert suite.baseline in suite.variants and len(suite.checkpoints) == len(suite.checkpoint)
        assert parse_suite(suite.model_dump(mode="json"), WHERE, Path("/suites")) == suite


@quick
@given(st.dictionaries(keys, values, max_size=8))
def test_any_tables_give_a_suite_or_a_refusal(raw):
    only_a_suite_or_a_refusal(raw)


@quick
@given(st.data())
def test_any_change_of_a_good_suite_gives_a_suite_or_a_refusal(data):
    raw = copy.deepcopy(COMPLETE)
    for _ in range(data.draw(st.integers(1, 3))):
        table = at(raw, data.draw(st.sampled_from(list(TABLES.values()))))
        if not isinstance(table, dict):
            return
        key = data.draw(st.one_of(st.sampled_from(sorted(table)), keys)) if table else data.draw(keys)
        if key in ("workload", "protocol", "load", "checkpoint", "variant") and table is raw:
            # The next change still needs these.
            continue
        if data.draw(st.booleans()):
            table.pop(key, None)
        else:
            table[key] = data.draw(values)
    only_a_suite_or_a_refusal(raw)


@quick
@given(st.text(max_size=60))
def test_any_override_gives_a_suite_or_a_refusal(override):
    from engine.suite.reading import _override

    raw = copy.deepcopy(COMPLETE)
    try:
        _override(raw, override)
    except RequestError as error:
        assert len(str(error).splitlines()) == 1
    else:
        only_a_suite_or_a_refusal(raw)


dotted = st.lists(st.sampled_from(["workload", "variant", "checkpoint", "fp32", "tiny", "name", "options", "x"]))


@quick
@given(dotted, st.sampled_from(["1", "[]", "{}", "x", "'", "{ a = 1 }"]))
def test_any_dotted_override_gives_a_suite_or_a_refusal(parts, value):
    from engine.suite.reading import _override

    assume(parts)
    raw = copy.deepcopy(COMPLETE)
    try:
        _override(raw, f"{'.'.join(parts)}={value}")
    except RequestError as error:
        assert len(str(error).splitlines()) == 1
    else:
        only_a_suite_or_a_refusal(raw)


@quick
@given(st.text(max_size=200))
def test_any_text_file_gives_a_suite_or_a_refusal(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        load_suite(str(path))
    except RequestError as error:
        assert len(str(error).splitlines()) == 1
    else:
        raise AssertionError(f"{text!r} is a suite")


def budgeted(workload: dict[str, Any], **variant: Any) -> Suite:
    given = {"dataset": "a.csv", "max_length": 64, "padding": "longest", "batch_size": 32} | workload
    first = {"name": "a", "model": "m", "backend": "pytorch", "precision": "fp32"} | variant
    return parse_suite({"name": "s", "baseline": "a", "workload": given, "variant": [first]}, WHERE, Path())


def test_a_token_budget_is_the_workloads_or_a_variants_own():
    assert budgeted({"max_batch_tokens": 64}).workload.max_batch_tokens == 64
    assert budgeted({}, max_batch_tokens=2047, padding="packed").variant[0].max_batch_tokens == 2047


@pytest.mark.parametrize(
    ("workload", "variant", "said"),
    [
        ({"max_batch_tokens": 63}, {}, "workload.max_batch_tokens: found 63; allowed: from max_length, 64, to below"),
        # No batch would be smaller for it.
        ({}, {"max_batch_tokens": 2048}, "variant 'a': max_batch_tokens: found 2048; allowed: from max_length, 64"),
        ({}, {"max_batch_tokens": 600, "batch_size": 8}, "batch of variant 'a' can hold, 8 x 64 tokens"),
        ({"max_batch_tokens": 640, "padding": "max_length"}, {}, "all batches are alike: batch_size = 10 does"),
        ({"max_batch_tokens": 0}, {}, "workload.max_batch_tokens: found 0"),
    ],
)
def test_a_token_budget_that_cannot_be_or_changes_nothing_is_refused(workload, variant, said):
    with pytest.raises(RequestError) as refused:
        budgeted(workload, **variant)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_first_look_takes_less_of_everything_and_says_so():
    suite = load_suite("demo", ["protocol.rounds=5", "workload.batch_size=[1, 250]"])
    quick = suite.shortened(660)
    assert quick.protocol.quick and not quick.protocol.ceilings and not suite.protocol.quick
    assert quick.protocol.rounds == 5 and quick.protocol.max_seconds == 15 and quick.protocol.min_calls == 16
    assert quick.workload.examples == 250  # the largest batch is full once
    assert suite.shortened(260).workload.examples == 250 and load_suite("demo").shortened(100).workload.examples == 100


def test_the_old_name_of_the_load_is_read():
    """Stored runs hold it, and suites of users may."""
    table = {"p99_ms": 50.0}
    assert parse(MINIMAL | {"scenarios": table}) == parse(MINIMAL | {"load": table})
    assert refusal(MINIMAL | {"scenarios": table, "load": table}).endswith(
        "[scenarios] is the old name of [load]; keep one of them"
    )
    assert load_suite("demo", ["scenarios.p99_ms=50"]).load == load_suite("demo", ["load.p99_ms=50"]).load
