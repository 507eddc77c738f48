"""Variants of a real run as folders: their own code, in a process of its own, gives the stored logits again."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from psutil import Process
from test_runfile import edited, setting

from engine.errors import RequestError
from engine.ship import folder as ship_folder
from engine.ship import plan
from engine.store import history
from engine.store.runfile import reading, writing

# The first tier ships a variant of its one large run: test_run.py.
pytestmark = pytest.mark.second_tier

VARIANTS = ("fp32", "bf16", "onnx", "int8", "sorted", "nf4")
HOSTILE = "INT8\n# <b>`rm -rf`</b> {x} |"


@pytest.fixture(scope="module")
def models(shaped_models, tmp_path_factory) -> Path:
    """A model of this module's own, which its tests may spoil."""
    return shutil.copytree(shaped_models["wide"], tmp_path_factory.mktemp("models") / "wide")


@pytest.fixture(scope="module")
def suite(models, write_suite, tmp_path_factory) -> Path:
    onnx = {"model": models, "backend": "onnxruntime"}
    return write_suite(
        tmp_path_factory.mktemp("suite"),
        [
            {"name": "fp32", "model": models},
            {"name": "bf16", "model": models, "precision": "bf16"},
            {"name": "onnx", **onnx},
            {"name": "int8", "title": HOSTILE, **onnx, "precision": "int8"},
            {"name": "sorted", **onnx, "precision": "int8", "padding": "longest", "order": "length"},
            {"name": "nf4", "model": models, "backend": "bitsandbytes", "precision": "nf4"},
        ],
        name="shipped",
        # Long enough that the texts differ in length.
        workload={"examples": 30, "seed": 3, "batch_size": [2, 4], "max_length": 120},
    )


@pytest.fixture(scope="module")
def measured(suite, measure):
    return measure(suite)


@pytest.fixture(scope="module")
def shipped(measured, bench, tmp_path_factory):
    """shipped(variant): the folder, made once by the command line, and what that printed."""
    assert measured.exit_code == 0, measured.stderr
    folder, made = tmp_path_factory.mktemp("shipped"), {}

    def make(variant: str) -> tuple[Path, str]:
        if variant not in made:
            row = measured.row(variant, 4)
            if row["status"] == "unavailable":
                pytest.skip(row["status_reason"])
            done = bench("ship", measured.run["id"], variant, folder / variant)
            assert done.returncode == 0, done.stderr
            made[variant] = folder / variant, done.stdout
        return made[variant]

    return make


def answers(folder: Path, texts: list[str], cwd: Path) -> np.ndarray:
    """The logits of `texts` as one batch, by the folder's load.py alone: nothing of the bench can be imported."""
    program = (
        "import json, sys\n"
        # Where the bench is installed, too.
        "sys.modules['engine'] = sys.modules['dashboard'] = None\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from load import logits\n"
        "print(json.dumps(logits(json.loads(sys.argv[2])).tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(folder), json.dumps(texts)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_its_own_code_gives_the_stored_logits(variant, shipped, measured, tmp_path):
    # A copy elsewhere: nothing of it depends on where it was made.
    folder = shutil.copytree(shipped(variant)[0], tmp_path / "moved")
    expected = json.loads((folder / "expected.json").read_text())
    with (Path(ship_folder.__file__).parents[2] / "data/news/test.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    stored = {texts[e["index"]]: e["logits"] for e in measured.of(variant, 4)}
    assert expected["batches"] == [4, 4] and len(expected["examples"]) == 8
    for start in (0, 4):
        batch = [e["text"] for e in expected["examples"][start : start + 4]]
        found = answers(folder, batch, tmp_path)
        assert found == pytest.approx(np.array([stored[text] for text in batch]), abs=1e-6)
    assert [e["logits"] for e in expected["examples"]] == [stored[e["text"]] for e in expected["examples"]]


def test_it_says_what_its_check_found_and_its_checksums_hold(shipped, measured):
    folder, said = shipped("int8")
    assert f"int8 in batches of 4: {folder}" in said
    found = "Checked here, 8 texts: logits differ from the stored ones by 0 (allowed: "
    assert found in said and found in (folder / "checked.txt").read_text()
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    named = {line[66:]: line[:64] for line in lines}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(named) | {"SHA256SUMS"} == files
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in named.items())
    assert {Path(name).suffix for name in files} <= {"", ".md", ".py", ".txt", ".json", ".onnx"}, "and no pickle"
    readme = (folder / "README.md").read_text()
    assert measured.run["id"] in readme and "\\<b\\>" in readme and "<b>" not in readme and "\n# <" not in readme


def test_a_changed_file_fails_its_check(shipped, tmp_path):
    folder = shutil.copytree(shipped("fp32")[0], tmp_path / "spoiled")
    weights = bytearray((folder / "model" / "model.safetensors").read_bytes())
    for index in range(len(weights) - 20_000, len(weights), 4):
        weights[index + 3] ^= 0x80  # the signs of some thousand weights
    (folder / "model" / "model.safetensors").write_bytes(weights)
    done = subprocess.run([sys.executable, str(folder / "load.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "logits differ from the stored ones" in done.stdout


def test_requirements_are_the_runs_versions(shipped, measured):
    versions = measured.run["environment"]["distributions"]
    text = (shipped("onnx")[0] / "requirements.txt").read_text()
    pinned = dict(line.split("==") for line in text.splitlines() if not line.startswith("#"))
    assert pinned == {name: versions[name] for name in ("numpy", "tokenizers", "onnxruntime-gpu")}
    torch = (shipped("fp32")[0] / "requirements.txt").read_text()
    assert f"torch=={versions['torch'].partition('+')[0]}\n" in torch and "accelerate" not in torch


def test_another_batch_size_is_another_measurement(measured, tmp_path):
    found = plan.plan(measured.run["id"], "int8", 2)
    assert json.loads(found.made["expected.json"])["batches"] == [2, 2, 2, 2]
    with pytest.raises(RequestError, match="not measured in batches of 3; allowed: 2, 4"):
        plan.plan(measured.run["id"], "int8", 3)


def test_what_cannot_be_shipped_is_refused_in_one_line(measured, bench, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    run = measured.run["id"]
    for arguments, why in (
        ((run, "int9", tmp_path / "x"), "no variant 'int9'; allowed: fp32, bf16, onnx, int8, sorted, nf4; did you"),
        (("01JNONE", "int8", tmp_path / "x"), "there is no run"),
        ((run, "int8", tmp_path / "full"), "there and not empty"),
        ((run, "int8", tmp_path / "file"), "a file of that name"),
        ((run, "int8", tmp_path / "no" / "x"), "its folder does not exist"),
    ):
        done = bench("ship", *arguments)
        assert done.returncode == 2 and why in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"], "no draft is left"


def test_a_file_whose_parts_do_not_fit_each_other_is_shipped_or_refused_in_one_line(measured):
    content = writing.dump(measured.run["id"])[1]
    names = [row["variant"] for row in measured.measurements]

    def of(variant: str, *path: str) -> tuple[str | int, ...]:
        return ("measurements", len(names) - 1 - names[::-1].index(variant), *path)

    without_seed = {key: value for key, value in measured.run["spec"]["workload"].items() if key != "seed"}
    for number, (path, value, variant, why) in enumerate((
        (of("int8", "variant"), "nobody", "fp32", "figures of 'nobody' that are of no variant of its suite"),
        (of("fp32", "precision"), "huge", "fp32", "figures of 'fp32' that are of no variant of its suite"),
        (("environment", "threads"), None, "fp32", "does not say with how many threads"),
        (of("nf4", "audit", "settings"), None, "nf4", "does not say with which settings"),
        (of("nf4", "audit"), None, "nf4", "does not say with which settings"),
        (of("fp32", "audit"), None, "fp32", None),
        (("environment", "python"), None, "fp32", None),
        (("suite", "workload"), without_seed, "fp32", None),
    )):  # fmt: skip
        if measured.row(variant, 4)["status"] == "unavailable":
            continue
        run_id = f"01J0000000000000000000000{number}"
        changes = [setting("id", value=run_id), setting(*path, value=value)]
        reading.load(edited(content, "run.json", lambda run, changes=changes: [change(run) for change in changes]))
        try:
            if why is None:
                assert plan.plan(run_id, variant).sizes
            else:
                with pytest.raises(RequestError, match=why):
                    plan.plan(run_id, variant)
        finally:
            history.delete(run_id)


def test_a_full_disk_is_told_before_anything_is_copied(measured, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(ship_folder.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(RequestError, match=r"needs .* MB, and 0\.00100 MB are free"):
        ship_folder.ship(measured.run["id"], "int8", tmp_path / "x")
    assert not list(tmp_path.iterdir())


# These spoil what the run loaded: last


def test_an_artefact_that_is_gone_names_the_command_that_makes_it(measured, suite, own_folders, bench, tmp_path):
    loaded = measured.row("int8", 4)["audit"]["loaded"]["folder"]
    folder = own_folders / "artefacts" / loaded
    folder.rename(tmp_path / "away")
    with pytest.raises(RequestError, match=f"not here any more .*`python -m engine fetch {suite}` makes it again"):
        plan.plan(measured.run["id"], "int8")
    assert not list(folder.parent.glob(f".{loaded}.*draft")), "it looked, and made nothing"
    done = bench("fetch", suite, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert plan.plan(measured.run["id"], "int8").sizes["model/model.onnx"] > 0


def test_a_model_that_changed_since_is_refused_even_where_it_was_prepared_again(measured, models, suite, bench):
    weights = models / "model.safetensors"
    before = weights.read_bytes()
    content = bytearray(before)
    # A content that no other test makes, so that nothing of it is prepared yet.
    content[-12] ^= 5
    weights.write_bytes(content)
    try:
        with pytest.raises(RequestError, match="not here any more"):
            plan.plan(measured.run["id"], "fp32")
        assert bench("fetch", suite, "--device", "cpu").returncode == 0
        with pytest.raises(RequestError, match=r"have changed since run .*; measure again"):
            plan.plan(measured.run["id"], "fp32")
    finally:
        weights.write_bytes(before)


def test_a_copy_that_gives_other_logits_is_not_shipped(measured, tmp_path, monkeypatch):
    right = plan.plan(measured.run["id"], "onnx")
    wrong = json.loads(right.made["expected.json"])
    for example in wrong["examples"]:
        example["logits"].reverse()
    monkeypatch.setattr(
        plan, "plan", lambda *_: plan.Shipment(
            right.run, right.row, right.snippet, right.made | {"expected.json": json.dumps(wrong)}, right.copied
        )
    )  # fmt: skip
    with pytest.raises(RequestError, match="does not reproduce the logits that the run stored"):
        ship_folder.ship(measured.run["id"], "onnx", tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_killed_while_it_checks_it_leaves_nothing_that_lasts(measured, live, wait_until, is_gone, bench, tmp_path):
    target = tmp_path / "killed"
    run = live("ship", measured.run["id"], "fp32", target)

    def checks() -> list[Process]:
        # What starts it is not yet tied, and names it, too.
        return [p for p in Process(run.process.pid).children() if p.cmdline()[2:] and "load.py" in p.cmdline()[2]]

    (check,) = wait_until(checks, 120)
    # One that is stopped does not end by itself.
    check.suspend()
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    try:
        wait_until(lambda: is_gone(check.pid), 10, lambda: "the check outlived who had it made")
    finally:
        if check.is_running():
            check.kill()
    assert not target.exists(), "half a folder looks like one"
    assert bench("ship", measured.run["id"], "fp32", target).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
