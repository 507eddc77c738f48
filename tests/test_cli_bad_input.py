"""Bad input through the real command line: exit code 2, one line that says what, and nothing stored."""

from __future__ import annotations

import csv
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine.machine import gpus
from engine.suite.spec import suite_files

REPOSITORY = Path(__file__).resolve().parent.parent
NO_MODEL = {"name": "a", "model": "/nowhere/model"}
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of this file's tests."""
    return tmp_path_factory.mktemp("bad-input")


@pytest.fixture(scope="module")
def refused(bench_here, data) -> Refused:
    """refused(*arguments, env=None): the message of a command that was refused as it should be."""

    def ask(*arguments: object, env: dict[str, str] | None = None) -> str:
        before = stored(data)
        done = bench_here(*arguments, env={"BENCH_DATA_DIR": str(data)} | (env or {}))
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr + done.stdout
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
        assert done.stdout == ""
        assert stored(data) == before
        return lines[0].removeprefix("error: ")

    return ask


def stored(data: Path) -> list[tuple[str, int]]:
    """Every table of the bench's own that holds rows, and how many."""
    file = data / "bench.sqlite"
    if not file.exists():
        return []
    with closing(sqlite3.connect(file)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        counts = [(name, connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]) for name in names]
    ours = [(name, count) for name, count in counts if name not in ("alembic_version", "published")]
    return [(name, count) for name, count in ours if count]


@pytest.fixture
def suite(tmp_path, write_suite) -> Callable[..., Path]:
    """suite(*variants, **as write_suite): a suite file in the test's own folder."""

    def write(*variants: dict[str, Any], **changes: Any) -> Path:
        return write_suite(tmp_path, list(variants) or [NO_MODEL], **changes)

    return write


def edited(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return path


# Suites, variants, backends, precisions, devices


def test_an_unknown_suite(refused):
    known = next(iter(suite_files()))
    message = refused("run", known + "x")
    assert f"unknown suite {known + 'x'!r}" in message and f"did you mean {known!r}" in message


@pytest.mark.parametrize("command", ["run", "fetch", "classify"])
def test_a_suite_file_that_is_not_there(refused, command):
    words = ["a text"] if command == "classify" else []
    assert refused(command, "no/such.toml", *words) == "suite file no/such.toml: no such file"


def test_a_suite_that_is_no_toml(refused, tmp_path):
    (tmp_path / "s.toml").write_bytes(b"\xff\xfe\x00")
    assert refused("run", tmp_path / "s.toml").startswith(f"{tmp_path / 's.toml'}: not a readable TOML file")


def test_a_folder_for_a_suite(refused, tmp_path):
    assert str(tmp_path) in refused("run", tmp_path)


def test_an_unknown_variant(refused, suite):
    message = refused("run", suite(NO_MODEL | {"name": "fp32"}), "--variants", "fp32,fp23")
    assert message == "suite 'tiny' has no variant 'fp23'; allowed: fp32; did you mean 'fp32'?"


def test_no_variant_at_all_is_not_all_of_them(refused, suite):
    message = refused("run", suite(NO_MODEL | {"name": "fp32"}), "--variants", " , ")
    assert "--variants" in message and "fp32" in message


@pytest.mark.parametrize("name", ["a,b", "", "c"])
def test_a_look_at_anything_but_one_variant(refused, suite, name):
    file = suite(NO_MODEL, NO_MODEL | {"name": "b"})
    said = refused("load", file, "--variant", name, "--p99-ms", 50)
    assert said == f"suite 'tiny' has no variant {name!r}; allowed: a, b"


def test_an_unknown_backend(refused, suite):
    message = refused("run", suite(NO_MODEL | {"backend": "pytroch"}))
    assert "variant 'a': unknown backend 'pytroch'; allowed: pytorch, " in message
    assert "did you mean 'pytorch'?" in message


def test_an_unknown_precision(refused, suite):
    message = refused("run", suite(NO_MODEL | {"precision": "fp23"}))
    assert "variant 'a': precision: found 'fp23'; should be 'fp32', " in message


def test_a_precision_that_the_backend_has_not(refused, suite):
    message = refused("run", suite(NO_MODEL | {"precision": "nf4"}))
    assert "precision 'nf4' is not one of backend 'pytorch'; allowed: fp32, tf32, fp16, bf16" in message


@pytest.mark.parametrize("device", ["gpu", "cuda:x"])
def test_an_unknown_device(refused, suite, device):
    message = refused("run", suite(), "--device", device)
    assert message.startswith(f"--device {device!r}: unknown device; allowed: auto, cpu")


@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_a_gpu_that_is_not_there(refused, suite, device):
    if gpus.visible_gpus():
        pytest.skip("there is a GPU here")
    message = refused("run", suite(), "--device", device)
    assert message.startswith(f"--device {device}: ") and "allowed: auto, cpu" in message


# Keys


def test_an_unknown_key(refused, suite):
    path = suite(workload={"exmples": 5})
    message = refused("run", path)
    assert message.startswith(f"{path}: workload.exmples: unknown key; allowed: dataset, ")
    assert message.endswith("did you mean 'examples'?")


def test_a_missing_key(refused, suite):
    path = suite({"name": "a", "model": "m", "precision": None})
    assert refused("run", path) == f"{path}: variant 'a': precision: missing; this key is required"


def test_a_value_of_the_wrong_kind(refused, suite):
    path = suite(workload={"examples": "many"})
    assert refused("run", path) == f"{path}: workload.examples: found 'many'; should be a valid integer"


def test_a_key_that_holds_line_breaks(refused, suite):
    message = refused("run", edited(suite(), "examples = 16", '"a\\n[b" = 16'))
    assert r"workload.'a\n[b': unknown key" in message


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("workload.examples", "expected KEY=VALUE"),
        ("workload.examples=x", "workload.examples: found 'x'"),
        ("variant.b.model=x", "variant.NAME.KEY needs one of: a"),
    ],
)
def test_a_bad_override(refused, suite, setting, said):
    assert said in refused("run", suite(), "--set", setting)


# Models


def test_a_model_that_is_not_there(refused, suite, tmp_path):
    message = refused("run", suite({"name": "a", "model": "./nothing"}))
    assert message == f"variant 'a': model './nothing': no such folder (looked at {tmp_path / 'nothing'})"


def test_a_model_that_is_a_file(refused, suite, tmp_path):
    (tmp_path / "weights").write_text("x")
    assert "is a file, not a model folder" in refused("run", suite({"name": "a", "model": "./weights"}))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("empty", "is empty; it needs config.json and model.safetensors"),
        ("headless", "has no classification head (its architecture is DistilBertModel)"),
        ("pickled", "has pickled weights only (pytorch_model.bin), which can run code when loaded"),
        ("remote", "its config.json names code to run (auto_map); remote code is never run"),
    ],
)
def test_a_model_that_cannot_serve(refused, suite, tiny_models, kind, said):
    folder = tiny_models[kind]
    # Not the baseline alone is looked at.
    message = refused("run", suite({"name": "a", "model": tiny_models["distilbert"]}, {"name": "b", "model": folder}))
    assert message.startswith(f"variant 'b': model '{folder}': ") and said in message


def test_a_model_without_a_config_or_weights(refused, suite, tiny_models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_models["distilbert"], folder)
    path = suite({"name": "a", "model": folder})
    (folder / "model.safetensors").unlink()
    assert "has no weights; it needs model.safetensors" in refused("run", path)
    (folder / "config.json").write_text("[]")
    assert "config.json is not readable" in refused("run", path)
    (folder / "config.json").unlink()
    assert "has no config.json, so it is no model folder" in refused("run", path)


def test_a_head_whose_weights_are_not_there(refused, suite, tiny_models):
    folder = tiny_models["fresh"]
    message = refused("run", suite({"name": "a", "model": folder}))
    assert message.startswith(f"variant 'a': model '{folder}': its weights lack classifier.bias, classifier.weight")
    assert "the classification head was never trained or not saved" in message


@pytest.mark.second_tier
def test_weights_that_are_cut_off(refused, suite, tiny_models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_models["distilbert"], folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert f"variant 'a': model '{folder}': " in refused("run", suite({"name": "a", "model": folder}))


def test_declared_labels_that_cannot_be_right(refused, suite, tiny_models):
    message = refused("run", suite({"name": "a", "model": tiny_models["generic"], "labels": ["World", "Sports"]}))
    assert message.startswith("variant 'a': labels: the list has 2 names (World, Sports), the model 4 outputs")


def test_more_tokens_than_the_model_takes(refused, suite, tiny_models):
    message = refused("run", suite({"name": "a", "model": tiny_models["generic"]}, workload={"max_length": 129}))
    assert "max_length: 129" in message and "allowed: up to 128" in message


def test_a_model_of_the_hub_that_is_not_on_this_machine(refused, suite, tmp_path):
    path = suite({"name": "a", "model": "nobody/nothing"})
    message = refused("run", path, "--offline", env={"HF_HOME": str(tmp_path)})
    assert message.startswith("variant 'a': model 'nobody/nothing': not on this machine, and this run is offline; ")
    assert "python -m engine fetch" in message


# Data


def test_a_data_set_that_is_not_there(refused, suite, tmp_path):
    message = refused("run", suite(workload={"dataset": "./nothing.csv"}))
    assert message.startswith(f"workload: {tmp_path / 'nothing.csv'}: there is no such file")


def test_a_data_set_of_the_hub_that_is_not_on_this_machine(refused, suite, tmp_path):
    path = suite(workload={"dataset": "nobody/nothing"})
    message = refused("run", path, "--offline", env={"HF_HOME": str(tmp_path)})
    assert message.startswith("workload: nobody/nothing: ") and "python -m engine fetch" in message


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([["headline", "label"], ["x", "World"]], "has no column 'text', which text = 'text' asks for; allowed: "),
        ([["text", "topic"], ["x", "World"]], "has no column 'label', which label = 'label' asks for; allowed: "),
        ([["text", "label"], ["x", "World"], ["  ", "World"]], "found an empty text"),
        ([["text", "label"], ["x", "World"], ["y", "Weather"]], "found 'Weather'; allowed: World, Sports, "),
        ([["text", "label"], ["x", "4"]], "found '4'; allowed: World, Sports, Business, Sci/Tech"),
        ([["text", "label"]], "has no rows"),
    ],
)
def test_data_that_cannot_be_used(refused, suite, tmp_path, rows, said):
    with (tmp_path / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    message = refused("run", suite(workload={"dataset": "data.csv", "examples": 0}))
    assert message.startswith(f"workload: {tmp_path / 'data.csv'}: ") and said in message


def test_a_published_row_that_nobody_published(refused, suite, tiny_models):
    said = refused("run", suite({"model": tiny_models["distilbert"], "published": "study/DistilBERT FP23"}))
    assert "published = 'study/DistilBERT FP23': there is no such row" in said
    assert "did you mean 'study/DistilBERT FP32'?" in said


def test_a_batch_larger_than_the_examples(refused, suite):
    message = refused("run", suite(workload={"batch_size": [4, 17]}))
    assert message == "workload.batch_size: 17 is more than the 16 examples; allowed: 1 to 16"
    message = refused("run", suite(NO_MODEL | {"batch_size": 32}))
    assert message == "variant 'a': batch_size: 32 is more than the 16 examples; allowed: 1 to 16"


def test_more_examples_than_there_are(refused, suite):
    message = refused("run", suite(workload={"examples": 661}))
    assert "examples = 661, but there are 660; allowed: 1 to 660, or 0 for all of them" in message


# Places to write to


def test_json_files_that_cannot_be_written(refused, suite, tmp_path):
    path = suite()
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "no" / "x.json", tmp_path, tmp_path / "file" / "x.json"):
        message = refused("run", path, "--json", place)
        assert message.startswith(f"cannot write {place}: ")


def test_an_output_that_cannot_be_written(refused, tmp_path):
    place = tmp_path / "no" / "x.csv"
    assert refused("export", "latest", "--output", place).startswith(f"cannot write {place}: ")


@pytest.mark.parametrize("name", ["/proc/nowhere", "file", "file/deeper"])
def test_a_data_folder_that_cannot_be_made(refused, suite, tiny_models, tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    place = str(tmp_path / name)
    path = suite({"name": "a", "model": tiny_models["distilbert"]})
    message = refused("run", path, env={"BENCH_DATA_DIR": place})
    assert place in message and "BENCH_DATA_DIR" in message


def test_a_device_lock_that_cannot_be_made(refused, suite, tiny_models, tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = suite({"name": "a", "model": tiny_models["distilbert"]})
    message = refused("run", path, "--device", "cpu", env={"BENCH_LOCK_DIR": str(tmp_path / "file")})
    assert str(tmp_path / "file") in message and "BENCH_LOCK_DIR" in message


@pytest.fixture
def mounted(tmp_path) -> Iterator[Callable[..., Path]]:
    """mounted(options): an empty tmpfs. Skips where mounting is not allowed."""
    made: list[Path] = []

    def mount(options: str) -> Path:
        if shutil.which("mount") is None:
            pytest.skip("there is no mount(8)")
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting is not allowed: {done.stderr.strip()}")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.second_tier
def test_a_data_folder_on_a_read_only_file_system(refused, suite, tiny_models, mounted):
    place = mounted("ro")
    path = suite({"name": "a", "model": tiny_models["distilbert"]})
    message = refused("run", path, env={"BENCH_DATA_DIR": str(place / "deeper")})
    assert str(place) in message and "BENCH_DATA_DIR" in message


def filled(place: Path, free_kb: int) -> None:
    """Leaves that much of the 2 MB at `place`."""
    with (place / "filler").open("wb") as filler:
        filler.write(bytes((2048 - free_kb) * 1024))


@pytest.mark.second_tier
def test_a_full_disk(refused, suite, tiny_models, mounted):
    place = mounted("size=2m")
    filled(place, 0)
    path = suite({"name": "a", "model": tiny_models["distilbert"]})
    message = refused("run", path, env={"BENCH_DATA_DIR": str(place / "data")})
    assert str(place) in message and "full; free some space" in message


@pytest.mark.second_tier
def test_a_disk_that_fills_up_in_the_middle(bench, suite, tiny_models, mounted):
    place = mounted("size=2m")
    filled(place, 320)
    path = suite({"name": "a", "model": tiny_models["distilbert"]}, protocol={"rounds": 2000})
    done = bench("run", path, env={"BENCH_DATA_DIR": str(place / "data")})
    *told, last = done.stderr.splitlines()
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    # By then it had said what it was doing.
    assert told and not any(line.startswith("error") for line in told)
    assert last.startswith("error: ") and str(place) in last and "free some space" in last


# Runs


def test_an_unknown_run_where_there_is_no_database(refused, tmp_path):
    nowhere = {"BENCH_DATA_DIR": str(tmp_path / "fresh")}
    for words in (["show", "latest"], ["compare", "01ABC"], ["export", "01ABC"], ["runs"]):
        assert refused(*words, env=nowhere).startswith("no database at ")
    assert not (tmp_path / "fresh").exists()


def test_runs_that_do_not_exist_in_a_database(refused, data):
    ours = {"BENCH_DATA_DIR": str(data)}
    if not (data / "bench.sqlite").exists():
        subprocess.run(
            [sys.executable, "-c", "from engine.store import open_store; open_store().close()"],
            cwd=REPOSITORY,
            env=os.environ | ours,
            check=True,
        )
    assert refused("show", "latest").startswith("there are no runs yet")
    for words in (["show", "01ABC"], ["compare", "01ABC"], ["compare", "01ABC", "01ABD"], ["export", "01ABC"]):
        assert refused(*words).startswith("there is no run '01ABC'; ")


@pytest.mark.parametrize(("form", "name"), [("markdown", "Markdown"), ("latex", "LaTeX")])
def test_predictions_as_tables(refused, form, name):
    message = refused("export", "latest", "--predictions", "--format", form)
    assert message == f"--predictions has no {name} form; allowed: csv, json"


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////proc/nowhere/x.sqlite"])
def test_a_database_that_cannot_be(refused, suite, tiny_models, url):
    path = suite({"name": "a", "model": tiny_models["distilbert"]})
    message = refused("run", path, env={"BENCH_DATABASE_URL": url})
    assert "BENCH_DATABASE_URL" in message or url in message


# Texts


@pytest.mark.parametrize("text", ["", "\t\u200b"])
def test_a_text_without_words(refused, suite, text):
    assert refused("classify", suite(), text) == (
        "the text is empty or holds only blanks and control characters; type some words"
    )


# The command line's own grammar


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "nonsense"),
        (["run"], "SUITE"),
        (["run", "demo", "--nonsense"], "--nonsense"),
        (["export", "latest", "--format", "xml"], "'csv', 'json', 'markdown'"),
    ],
)
def test_words_that_the_command_line_does_not_know(bench, data, words, said):
    before = stored(data)
    done = bench(*words, env={"BENCH_DATA_DIR": str(data)})
    assert done.returncode == 2 and "Traceback" not in done.stderr
    # How to ask for help stands above it.
    assert "--help" in done.stderr and said in done.stderr.splitlines()[-1]
    assert stored(data) == before
