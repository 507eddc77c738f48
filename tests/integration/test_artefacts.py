"""What workers load is built once for each content, whole or not at all; and what comes from a hub."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil
import pytest
from test_corpus import Hub, asking, serving

from engine import paths
from engine.artefacts import lanes
from engine.artefacts.builder import BuildError, json_lines
from engine.artefacts.cache import making
from engine.artefacts.lanes import WAITING
from engine.artefacts.preparer import Prepared, Preparer
from engine.errors import RequestError
from engine.machine import host
from engine.suite.reading import load_suite
from engine.suite.spec import Suite

REPOSITORY = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9"


taken: set[int] = set()
"""What the last weight's lowest byte has been in all models here, the copied ones too."""


def copied(model: Path, folder: Path) -> Path:
    """A copy of `model` whose last weight is as no other model's here, not a copy's copy's, so nothing is cached."""
    made = shutil.copytree(model, folder)
    file = made / "model.safetensors"
    content = bytearray(file.read_bytes())
    # The lowest byte of a float32: another model by content, and the same by its answers.
    taken.add(content[-4])
    content[-4] = next(byte for byte in range(256) if byte not in taken)
    taken.add(content[-4])
    file.write_bytes(content)
    return made


@pytest.fixture
def suite_of(write_suite, tmp_path):
    """suite_of(model, *variants): a suite of ONNX Runtime variants of one model, loaded."""

    def make(model: Path, *variants: dict[str, object]) -> Suite:
        tables = [{"model": model, "backend": "onnxruntime", **variant} for variant in variants]
        return load_suite(str(write_suite(tmp_path, tables)))

    return make


def build_processes() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        try:
            if "engine.artefacts.builder" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


def prepared(suite: Suite) -> tuple[list[Prepared], bool]:
    """What a fresh preparer gives for each variant of `suite`, and whether it started a build process."""
    with Preparer(suite) as preparer:
        found = [preparer.prepare(variant) for variant in suite.variant]
        return found, bool(build_processes())


def folders() -> set[str]:
    return {path.name for path in (paths.local_data() / "artefacts").iterdir() if path.is_dir()}


@pytest.fixture(scope="module")
def exported(shaped_models, write_suite, tmp_path_factory) -> Path:
    """The model "wide", exported to ONNX once."""
    model = shaped_models["wide"]
    suite = write_suite(tmp_path_factory.mktemp("suite"), [{"model": model, "backend": "onnxruntime"}])
    prepared(load_suite(str(suite)))
    return model


def test_artefacts_are_cached_by_content(shaped_models, suite_of, tmp_path):
    model = copied(shaped_models["wide"], tmp_path / "model")
    both = ({"name": "fp32"}, {"name": "int8", "precision": "int8"})
    (fp32, int8), built = prepared(suite_of(model, *both))
    assert built and build_processes() == []
    assert fp32.folder != int8.folder and (fp32.folder / "model.onnx").stat().st_size > 100_000
    assert fp32.tokenizer == int8.tokenizer and fp32.labels == ["World", "Sports", "Business", "Sci/Tech"]
    times = {path: path.stat().st_mtime_ns for path in fp32.folder.iterdir()}

    again, built = prepared(suite_of(model, *both))
    assert not built and again == [fp32, int8]
    assert times == {path: path.stat().st_mtime_ns for path in fp32.folder.iterdir()}

    # Neither its name nor its place nor its time is content, nor what no recipe reads.
    moved = model.rename(tmp_path / "elsewhere")
    os.utime(moved / "model.safetensors", (0, 0))
    (moved / "README.md").write_text("about it")
    (moved / "training_args.bin").write_bytes(b"1")
    (there, _), built = prepared(suite_of(moved, *both))
    assert not built and there.folder == fp32.folder and there.tokenizer == fp32.tokenizer

    # A recipe's option makes another artefact, out of the same export; one byte of the weights makes all anew.
    changed = copied(moved, tmp_path / "changed")
    before = folders()
    suite = suite_of(
        moved, {"precision": "int8", "options": {"per_channel": True}}, {"name": "changed", "model": str(changed)}
    )
    (channels, other), built = prepared(suite)
    assert built and channels.folder not in (fp32.folder, int8.folder)
    assert other.folder != fp32.folder and other.tokenizer != fp32.tokenizer
    assert other.source.digest != fp32.source.digest == channels.source.digest
    kinds = sorted(re.sub(r"-[0-9a-f]{24}$", "", name) for name in folders() - before)
    assert kinds == ["description", "onnx-fp32", "onnx-int8-dynamic"]


@pytest.mark.second_tier
def test_a_killed_build_leaves_nothing_and_the_next_one_succeeds(exported, suite_of, wait_until, is_gone):
    int8 = {"precision": "int8", "options": {"operators": ["MatMul"]}}
    suite = suite_of(exported, int8, {"name": "other", **int8, "options": {"operators": ["Gather"]}})
    artefacts = paths.local_folder("artefacts")
    before = folders()
    failed: list[BaseException] = []
    with Preparer(suite) as preparer:

        def attempt() -> None:
            try:
                preparer.prepare(suite.variant[0])
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=attempt)
        thread.start()
        wait_until(lambda: build_processes() and list(artefacts.glob(".onnx-int8-*.draft")), 120)
        (builder,) = build_processes()
        builder.send_signal(signal.SIGKILL)
        thread.join(60)
        assert isinstance(failed[0], BuildError) and "code -9" in str(failed[0])
        assert folders() == before and not list(artefacts.glob(".*.draft"))
        # The same preparer, with a build process anew.
        found = preparer.prepare(suite.variant[0])
        assert (found.folder / "model.onnx").exists() and (found.folder / "facts.json").exists()
        (other,) = build_processes()
        assert other.pid != builder.pid
        # Killed while it waits for work: that is no fault of the folder either.
        other.send_signal(signal.SIGKILL)
        wait_until(lambda: is_gone(other.pid), 10)
        with pytest.raises(BuildError, match="code -9"):
            preparer.prepare(suite.variant[1])
        assert not list(artefacts.glob(".*.draft")) and build_processes() == []


@pytest.mark.second_tier
@pytest.mark.skipif(host.usable_cores() < 2, reason="one core builds one thing at a time")
def test_variants_are_built_beside_each_other(shaped_models, suite_of, tmp_path):
    model = copied(shaped_models["wide"], tmp_path / "model")
    int8 = [
        {"name": f"int8-{one}", "precision": "int8", "options": {"operators": [one]}} for one in ("MatMul", "Gather")
    ]
    suite = suite_of(model, {"name": "fp32"}, *int8, {"name": "torch", "backend": "pytorch"})
    told: list[str] = []
    at_once: list[int] = []

    def report(text: str, share: float | None) -> None:
        told.append(text)
        at_once.append(len(build_processes()))

    with Preparer(suite, report=report) as preparer:
        found = {variant.name: made for variant, made in preparer.prepare_all(suite.variant)}
    kinds = {name: type(made) for name, made in found.items()}
    assert kinds == dict.fromkeys(("fp32", "int8-MatMul", "int8-Gather", "torch"), Prepared)
    news = [text for text, _ in groupby(told)]
    assert sum(text.endswith("building onnx-fp32") for text in news) == 1, "what all need is built once"
    assert max(at_once) >= 2 and build_processes() == []
    alone = prepared(suite)
    assert alone == (list(map(found.get, suite.variants)), False), "the same as one after another"


@pytest.mark.second_tier
def test_no_build_step_writes_into_the_folder_that_it_builds_from(shaped_models, suite_of, tmp_path):
    """Several build from it at a time: what one leaves there and removes again, another may be reading."""
    model = copied(shaped_models["wide"], tmp_path / "model")
    (export,), _ = prepared(suite_of(model, {"name": "fp32"}))
    (tmp_path / "texts.csv").write_text("text\nA first text.\nAnd a second one.\n")
    calibration = {"calibration": {"dataset": str(tmp_path / "texts.csv"), "examples": 2}}
    variants = [
        {"name": "dynamic", "precision": "int8"},
        {"name": "static", "precision": "int8", "options": calibration},
        {"name": "fused", "options": {"fused": True}},
        {"name": "fp16", "precision": "fp16"},
        {"name": "openvino", "backend": "openvino"},
        {"name": "openvino-int8", "backend": "openvino", "precision": "int8", "options": calibration},
    ]
    before = export.folder.stat().st_mtime_ns
    made, built = prepared(suite_of(model, *variants))
    assert built and all(one.folder != export.folder for one in made)
    assert export.folder.stat().st_mtime_ns == before


@pytest.mark.second_tier
def test_a_build_that_fails_ends_no_other_and_a_stop_ends_all(exported, suite_of):
    int8 = {"precision": "int8", "options": {"operators": ["MatMul"], "keep": ["none"]}}
    suite = suite_of(exported, {"name": "wrong", **int8}, {"name": "right", "precision": "int8"})
    with Preparer(suite) as preparer:
        found = {variant.name: made for variant, made in preparer.prepare_all(suite.variant)}
        assert isinstance(found["wrong"], BuildError) and isinstance(found["right"], Prepared)

    class Stop(Exception):
        pass

    def report(text: str, share: float | None) -> None:
        raise Stop(text)

    others = [{"name": f"v{i}", "precision": "int8", "options": {"operators": [one], "per_channel": True}}
              for i, one in enumerate(("MatMul", "Gather"))]  # fmt: skip
    with Preparer(suite_of(exported, *others), report=report) as preparer:
        with pytest.raises(Stop, match="building onnx-int8"):
            list(preparer.prepare_all(list(preparer.suite.variant)))
        assert build_processes() == [] and not list(paths.local_folder("artefacts").glob(".*.draft"))


@pytest.mark.second_tier
def test_a_build_that_stands_still_is_ended_and_until_then_whoever_listens_may_end_it(exported, suite_of, monkeypatch):
    monkeypatch.setattr(lanes, "BUILD_SECONDS", 3.0)
    int8 = {"precision": "int8", "options": {"operators": ["Gather"], "per_channel": True}}

    def stop_building(text: str, share: float | None) -> None:
        told.append(text)
        for process in build_processes():
            process.suspend()
        if len(told) > most:
            raise KeyboardInterrupt

    for most in (10_000, 3):
        told: list[str] = []
        suite = suite_of(exported, {"name": "still", **int8})
        suite = suite.model_copy(update={"protocol": suite.protocol.model_copy(update={"deadline_seconds": 1.0})})
        began_s = time.monotonic()
        with Preparer(suite, report=stop_building) as preparer:
            if most == 3:
                with pytest.raises(KeyboardInterrupt):
                    list(preparer.prepare_all(suite.variant))
            else:
                ((_, found),) = preparer.prepare_all(suite.variant)
                assert str(found) == "the build process gave no answer for 3 s and was ended"
        assert time.monotonic() - began_s < 20 and build_processes() == []
        assert not list(paths.local_folder("artefacts").glob(".*.draft"))


@pytest.mark.second_tier
def test_training_that_stands_still_is_ended_and_one_that_is_looked_at_is_not():
    code = "import os, signal; print('{\"phase\": 1}', flush=True); {0}; print('{\"result\": 2}', flush=True)"
    command = [sys.executable, "-c", code.replace("{0}", "os.kill(os.getpid(), signal.SIGSTOP)")]
    with pytest.raises(BuildError, match="checkpoint 'x': it said nothing for 1 s and was ended"):
        list(json_lines(command, "checkpoint 'x'", 1.0))
    found = []
    for message in json_lines([sys.executable, "-c", code.replace("{0}", "pass")], "checkpoint 'x'", 2.0):
        # Longer than it may be silent: that is the reader's time.
        time.sleep(2.5)
        found.append(message)
    assert found == [{"phase": 1}, {"result": 2}]


def test_a_build_that_fails_says_so_and_leaves_nothing(shaped_models, suite_of, tmp_path):
    model = copied(shaped_models["wide"], tmp_path / "model")
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    before = folders()
    with pytest.raises(RequestError, match="variant 'v0': model") as caught:
        prepared(suite_of(model, {}))
    assert "\n" not in str(caught.value) and folders() == before
    assert not list((paths.local_data() / "artefacts").glob(".*.draft"))


@pytest.mark.second_tier
def test_a_build_process_that_finds_the_disk_full_ends_the_request(tmp_path):
    full = "cannot write .*No space left on device; free some space"
    with pytest.raises(RequestError, match=full), making(tmp_path / "made", lambda: None):
        raise BuildError("OSError: [Errno 28] No space left on device")
    with pytest.raises(BuildError, match="killed"), making(tmp_path / "made", lambda: None):
        raise BuildError("killed")
    assert not list(tmp_path.glob(".made.*.draft")) and not (tmp_path / "made").exists()


@pytest.mark.second_tier
def test_two_processes_that_want_the_same_build_it_once(exported, write_suite, tmp_path):
    int8 = {"precision": "int8", "options": {"operators": ["MatMul", "Gather"]}}
    suite = write_suite(tmp_path, [{"model": exported, "backend": "onnxruntime", **int8}])
    code = """
        import sys
        from engine.artefacts.preparer import Preparer
        from engine.suite.reading import load_suite
        suite = load_suite(sys.argv[1])
        with Preparer(suite, report=lambda text, share: print("told:", text)) as preparer:
            print("at:", preparer.prepare(suite.variant[0]).folder)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(suite)]
    both = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    lines = "".join(said).splitlines()
    assert len({line for line in lines if line.startswith("at:")}) == 1
    told = [line for line in lines if line.startswith("told:")]
    # Who finds it being built says that it waits, and builds nothing.
    assert [line for line in told if WAITING not in line] == ["told: v0: building onnx-int8-dynamic"]


# A hub on this machine


class Models(Hub):
    """The hub of the tests of data sets, serving several model repositories."""

    repositories: ClassVar[dict[str, dict[str, bytes]]] = {}
    asked: ClassVar[list[str]] = []

    def content(self, parts: list[str], recursive: bool) -> tuple[dict[str, str], bytes | None]:
        self.asked.append("/".join(parts))
        api = parts[0] == "api"
        name, rest = "/".join(parts[2 * api :][:2]), parts[2 + 2 * api :]
        if name not in self.repositories:
            return {"X-Error-Code": "RepoNotFound"}, None
        self.files = self.repositories[name]
        return super().content([*(["api"] if api else []), "models", "org", "name", *rest], recursive)


def evil(marker: Path) -> bytes:
    """A file of pickled weights, as torch.save lays it out, that makes the folder `marker` when it is trusted."""

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(marker),)

    pickled = pickle.dumps({"classifier.weight": Trap()}, protocol=2)
    pickle.loads(pickled)
    assert marker.is_dir(), "it would do harm"
    marker.rmdir()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return file.getvalue()


@pytest.fixture(scope="module")
def hub(shaped_models, tmp_path_factory) -> Iterator[dict[str, str | None]]:
    """The environment of who asks a hub with org/safe, org/pickled and org/evil, and an empty cache."""

    def files(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    folder = tmp_path_factory.mktemp("hub")
    Models.repositories = {
        "org/safe": files(shaped_models["wide"]),
        "org/pickled": files(shaped_models["wide-pickled"]),
        "org/evil": files(shaped_models["wide-pickled"]) | {"pytorch_model.bin": evil(folder / "harm")},
    }
    assert "pytorch_model.bin" in Models.repositories["org/pickled"]
    assert not any(name.endswith(".safetensors") for name in Models.repositories["org/pickled"])
    with serving(Models) as url:
        yield asking(url, folder / "home")


@pytest.mark.second_tier
def test_models_of_a_hub_are_fetched_once_and_then_run_offline(hub, exported, write_suite, bench, measure, tmp_path):
    onnx = {"backend": "onnxruntime"}
    suite = write_suite(
        tmp_path,
        [
            {"name": "hub", "model": "org/safe", **onnx},
            {"name": "local", "model": exported, **onnx},
            {"name": "hub-pickled", "model": "org/pickled", **onnx},
        ],
        name="from-hub",
    )
    offline = hub | {"HF_ENDPOINT": NOWHERE, "HF_HUB_OFFLINE": "1"}
    for arguments, env in ((["--offline"], hub), ([], offline)):
        refused = bench("run", suite, "--device", "cpu", *arguments, env=env)
        assert refused.returncode == 2
        (line,) = refused.stderr.strip().splitlines()
        assert line.startswith("error: variant 'hub': model 'org/safe': not on this machine")
        assert f"`python -m engine fetch {suite}`" in line
    assert Models.asked == [], "offline is offline"

    fetched = bench("fetch", suite, "--device", "cpu", env=hub)
    assert fetched.returncode == 0, fetched.stderr
    assert len(re.findall(r": ready in ", fetched.stdout)) == 3
    assert any("org/safe" in path and path.endswith("model.safetensors") for path in Models.asked)
    assert not any("org/safe" in path and path.endswith(".bin") for path in Models.asked)
    Models.asked.clear()

    found = measure(suite, "--offline", env=offline)
    assert found.exit_code == 0, found.stderr
    assert "building" not in found.stderr and Models.asked == []
    assert [row["status"] for row in found.measurements] == ["measured"] * 3
    for name in ("hub", "hub-pickled"):
        assert np.abs(found.logits(name) - found.logits("local")).max() < 1e-6
    # What was converted are safetensors, and nothing else.
    (converted,) = (paths.local_data() / "artefacts").glob("safetensors-org--pickled-*")
    assert (converted / "model.safetensors").exists() and not list(converted.glob("*.bin"))


def test_a_malicious_pickle_is_refused_and_does_not_run(hub, write_suite, bench, tmp_path):
    suite = write_suite(tmp_path, [{"model": "org/evil"}], name="evil")
    for command in ("fetch", "run"):
        done = bench(command, suite, "--device", "cpu", env=hub)
        assert done.returncode == 2, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: variant 'v0': model 'org/evil': ") and "weights" in last.lower()
    assert any(path.startswith("org/evil") and path.endswith("pytorch_model.bin") for path in Models.asked)
    harm = Path(str(hub["HF_HOME"])).parent / "harm"
    assert not harm.exists()
    assert not list((paths.local_data() / "artefacts").glob("*safetensors-org--evil-*[!k]"))


@pytest.mark.second_tier
def test_a_model_that_the_hub_has_not_is_one_line(hub, write_suite, bench, tmp_path):
    suite = write_suite(tmp_path, [{"model": "org/unknown"}], name="unknown")
    done = bench("run", suite, "--device", "cpu", env=hub)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: variant 'v0': model 'org/unknown': ") and "python -m engine fetch" in last
