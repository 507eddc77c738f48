"""The doctor: what it finds on this machine, and on machines that the tests describe."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from engine import backends
from engine.backends.base import Backend, Recipe
from engine.doctor import examine, packages, storage
from engine.doctor import gpu as doctor_gpu
from engine.doctor import proofs as doctor_proofs
from engine.doctor import report as doctor_report
from engine.doctor.proofs import Proof
from engine.doctor.report import Check, Report
from engine.errors import RequestError
from engine.machine import cuda as machine_cuda
from engine.machine import devices, environment, gpus, locks
from engine.machine import libraries as machine_libraries
from engine.machine.cuda import TorchBuild
from engine.machine.gpus import Gpu
from engine.machine.holders import Holder, Kind, from_words

A100 = Gpu(0, "GPU-aaaaaaaa-0000", "NVIDIA A100-SXM4-40GB", 40 * 2**30, (8, 0), "580.65.06", (13, 0), "DEFAULT")
OLD_DRIVER = replace(A100, driver_version="550.54.15", driver_cuda_version=(12, 4))
CUDA_13 = TorchBuild("2.13.0+cu130", "13.0")
CPU_BUILD = TorchBuild("2.13.0+cpu", None)
needs_no_gpu = pytest.mark.skipif(bool(gpus.visible_gpus()), reason="says what a machine without a GPU lacks")


class Pretend(Backend):
    """A backend of this test's own: another file and another registry line."""

    name = "pretend"
    precisions = ("fp32", "int8")
    modules = ("json",)

    @classmethod
    def unavailable(cls, precision, options, device, source):
        return "needs a miracle" if precision == "int8" else None

    @classmethod
    def recipes(cls, precision, options):
        return [Recipe("make", {}, ("no-such-distribution",))]

    load = call = audit = weights_bytes = None


Pretend.__abstractmethods__ = frozenset()


class Absent(Pretend):
    name = "absent"
    modules = ("json", "no_such_module")


class Broken(Pretend):
    name = "broken"
    modules = ("broken_on_import",)


def by_name(checks, name: str) -> Check:
    return next(check for check in checks if check.name == name)


@pytest.fixture
def registry(monkeypatch):
    """Puts the test's own backends in place of the bench's."""

    def put(**classes: str) -> None:
        monkeypatch.setattr(backends, "REGISTRY", {n: f"{__name__}:{c}" for n, c in classes.items()})

    return put


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with this GPU and this torch, whose proofs went as given."""
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("BENCH_DATABASE_URL", raising=False)

    def put(gpu: Gpu | None, torch: TorchBuild | None, proofs: dict | None = None) -> None:
        monkeypatch.setattr(gpus, "visible_gpus", lambda: [gpu] if gpu else [])
        monkeypatch.setattr(machine_cuda, "torch_build", lambda: torch)
        monkeypatch.setattr(doctor_proofs, "prove_backends", lambda _: proofs or {})

    return put


# -- This machine --------------------------------------------------------------------------------


@pytest.mark.second_tier
def test_installed_backends_prove_themselves_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    report = examine.examine("cpu")
    on_cpu = [c for c in report.checks if c.group == "Backends on the CPU" and c.name in backends.REGISTRY]
    assert {check.name for check in on_cpu} == set(backends.REGISTRY)
    installed = [check for check in on_cpu if "not installed" not in check.finding]
    assert all(check.state == "ok" for check in installed), [check.finding for check in installed]
    assert report.exit_code == (0 if installed else 1)


def test_report_is_json_and_text():
    report = examine.examine(prove=False)
    stored = json.loads(json.dumps(report.to_json()))
    assert {check["state"] for check in stored["checks"]} <= {"ok", "warn", "missing"}
    text = doctor_report.render(report, 80).plain
    for check in report.checks:
        assert f"{doctor_report.SIGNS[check.state]} {check.name}:" in text
        assert check.mend is None or f"→ {check.mend}\n" in text  # Whole, so that it can be copied.
    wrapped = [line for line in text.splitlines() if "→" not in line]
    assert max(map(len, wrapped)) <= 80


def test_what_is_missing_comes_with_what_mends_it():
    for check in examine.examine(prove=False).checks:
        if check.state == "missing" and "(above)" not in check.finding:
            assert check.mend, check


@needs_no_gpu
def test_a_machine_without_a_gpu_works_and_says_what_the_gpu_path_lacks():
    report = examine.examine(prove=False)
    assert report.device.spec == "cpu" and report.refusal is None and report.exit_code == 0
    assert by_name(report.checks, "NVIDIA GPU").state == "missing"
    on_gpu = [check for check in report.checks if check.group == "Backends on the GPU"]
    assert on_gpu and all(check.state == "missing" for check in on_gpu)


@needs_no_gpu
def test_a_gpu_asked_for_and_not_there_is_a_finding():
    report = examine.examine("cuda", prove=False)
    assert report.exit_code == 1
    assert doctor_report.render(report).plain.startswith("--device cuda: no NVIDIA driver answers here")


def test_unknown_devices_are_refused():
    with pytest.raises(RequestError, match="unknown device"):
        examine.examine("gpu", prove=False)


# -- Proofs --------------------------------------------------------------------------------------


def test_a_proof_without_work_is_the_import(registry):
    registry(pretend="Pretend", absent="Absent")
    assert doctor_proofs.prove("pretend", "cpu") == Proof(None, {})
    assert "no_such_module" in (doctor_proofs.prove("absent", "cpu").problem or "")


def test_a_proof_that_hangs_or_crashes_is_told(registry, monkeypatch):
    registry(pretend="Pretend")
    monkeypatch.setitem(doctor_proofs._WORK, "pretend", "import time; time.sleep(60)")
    assert doctor_proofs.prove("pretend", "cpu", seconds=0.5).problem == "did not finish within 0.5 s"
    monkeypatch.setitem(doctor_proofs._WORK, "pretend", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert doctor_proofs.prove("pretend", "cpu").problem == "the process was ended by signal 11"
    monkeypatch.setitem(doctor_proofs._WORK, "pretend", "print('chatter'); facts = {'a': 1}")
    assert doctor_proofs.prove("pretend", "cpu") == Proof(None, {"a": 1})


def test_nothing_that_a_proof_runs_may_ask_the_hub(registry, monkeypatch):
    registry(pretend="Pretend")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    work = "import os; facts = {'offline': os.environ['HF_HUB_OFFLINE']}"
    monkeypatch.setitem(doctor_proofs._WORK, "pretend", work)
    assert doctor_proofs.prove("pretend", "cpu").facts == {"offline": "1"}


def test_the_reason_of_a_failure_names_the_library():
    stderr = (
        "[E:onnxruntime] Failed to load library libonnxruntime_providers_cuda.so with error: "
        "libcublasLt.so.13: cannot open shared object file: No such file or directory\n"
        "Traceback (most recent call last):\nAssertionError: fell back to the CPU\n"
    )
    assert doctor_proofs._reason(stderr, 1) == "cannot load libcublasLt.so.13"
    assert doctor_proofs._reason("Traceback\n\x1b[31mRuntimeError: no kernel image\x1b[m\n", 1) == (
        "RuntimeError: no kernel image"
    )
    assert doctor_proofs._reason("", 3) == "ended with exit code 3"


@pytest.mark.gpu
@pytest.mark.skipif(not gpus.visible_gpus(), reason=f"no GPU: {devices.no_gpu_reason()}")
def test_backends_that_claim_the_gpu_prove_it():
    report = examine.examine("cuda")
    assert report.device.kind == "cuda"
    for check in report.checks:
        if check.group == "Backends on the GPU":
            assert check.state == "ok" or (check.state == "missing" and "fails on cuda:0" in check.finding)


# -- Backends of all kinds -----------------------------------------------------------------------


def test_a_new_backend_needs_no_line_in_the_doctor(registry, machine):
    registry(pretend="Pretend")
    machine(None, CPU_BUILD)
    report = examine.examine()
    check = by_name(report.checks, "pretend")
    assert check.state == "ok" and check.finding.startswith("fp32 (")
    assert "int8: needs a miracle" in check.finding
    assert report.exit_code == 0
    building = by_name(report.checks, "pretend, building")
    assert building.state == "missing" and building.mend == "python -m pip install 'no-such-distribution'"


def test_a_backend_that_is_not_installed_is_named_and_does_not_fail_the_rest(registry, machine):
    registry(pretend="Pretend", absent="Absent")
    machine(None, CPU_BUILD)
    report = examine.examine()
    check = by_name(report.checks, "absent")
    assert (check.state, check.finding) == ("missing", "not installed: no_such_module")
    assert check.mend == "python -m pip install 'no-such-module'"
    assert report.exit_code == 0


def test_no_backend_at_all_fails(registry, machine):
    registry(absent="Absent")
    machine(None, CPU_BUILD)
    assert examine.examine().exit_code == 1


def test_an_installed_backend_that_fails_on_the_cpu_fails(registry, machine):
    registry(pretend="Pretend")
    machine(None, CPU_BUILD, {("pretend", "cpu"): Proof("ImportError: libfoo", {})})
    report = examine.examine()
    assert by_name(report.checks, "pretend").finding.startswith("installed, but fails: ImportError: libfoo")
    assert report.exit_code == 1


def test_a_backend_file_that_cannot_be_imported_is_a_finding(machine, monkeypatch):
    monkeypatch.setattr(backends, "REGISTRY", {"gone": "engine.backends.no_such_file:Gone"})
    machine(None, CPU_BUILD)
    report = examine.examine()
    assert "cannot be imported: ModuleNotFoundError" in by_name(report.checks, "gone").finding
    assert report.exit_code == 1


def test_pins_come_from_the_projects_own_requirements():
    assert packages.pin_of("onnxruntime").startswith("onnxruntime-gpu==")
    assert packages.pin_of("torch").startswith("torch~=")
    assert packages.pin_of("no_such_module") == "no-such-module"


def test_other_versions_than_the_tested_ones_are_noted(monkeypatch):
    monkeypatch.setattr(packages, "_requirements", lambda: ["numpy==0.1", "pytest", "no-such-distribution==1"])
    (check,) = packages.pin_checks()
    assert check.state == "warn"
    assert re.match(r"not as tested: numpy [\d.]+ \(tested with ==0\.1\)$", check.finding)


# -- GPU, driver and builds ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "torch", "state", "mend"),
    [
        (A100, CUDA_13, "ok", None),
        (A100, CPU_BUILD, "missing", "pip uninstall -y torch && python -m pip install 'torch~="),
        (OLD_DRIVER, CUDA_13, "missing", "whl/cu126"),
        (OLD_DRIVER, CPU_BUILD, "missing", "whl/cu126"),
        (OLD_DRIVER, TorchBuild("2.13.0+cu126", "12.6"), "ok", None),
        (replace(A100, driver_cuda_version=(11, 4)), CUDA_13, "missing", "newer NVIDIA driver"),
        (replace(A100, compute_capability=(7, 0)), CUDA_13, "missing", "whl/cu126"),
        (replace(A100, compute_mode="PROHIBITED"), CUDA_13, "missing", "nvidia-smi -c DEFAULT"),
        (A100, None, "missing", "python -m pip install 'torch~="),
        (None, CPU_BUILD, "warn", "pip uninstall -y torch"),
        (None, CUDA_13, "ok", None),
    ],
)
def test_torch_build_against_gpu_and_driver(machine, gpu, torch, state, mend):
    machine(gpu, torch)
    check = doctor_gpu._torch_build(gpu)
    assert check.state == state
    assert check.mend is None if mend is None else mend in (check.mend or "")


@pytest.fixture
def onnxruntime_installed(monkeypatch):
    """ONNX Runtime in the distributions, for the CUDA version and with the libraries given."""

    def put(dists: dict[str, str], cuda: str | None, libraries: tuple[str, ...]) -> None:
        monkeypatch.setattr(environment, "installed_versions", lambda *_: dists)
        monkeypatch.setattr(machine_cuda, "module_constants", lambda *_: {"cuda_version": cuda} if cuda else {})
        monkeypatch.setattr(machine_libraries, "find", lambda name: name if name in libraries else None)
        monkeypatch.setattr(sys, "platform", "linux")

    return put


ALL_13 = tuple(doctor_gpu.cuda_libraries(13))


def test_onnxruntime_in_order(onnxruntime_installed):
    onnxruntime_installed({"onnxruntime-gpu": "1.31.1"}, "13.0", ALL_13)
    assert [check.state for check in doctor_gpu._onnxruntime(A100)] == ["ok", "ok"]


def test_onnxruntime_installed_twice(onnxruntime_installed):
    onnxruntime_installed({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}, "13.0", ALL_13)
    twice = next(iter(doctor_gpu._onnxruntime(A100)))
    assert twice.state == "warn" and "overwrite each other" in twice.finding
    assert (twice.mend or "").startswith("python -m pip uninstall -y onnxruntime onnxruntime-gpu && ")


def test_onnxruntime_without_its_cuda_provider(onnxruntime_installed):
    onnxruntime_installed({"onnxruntime": "1.31.1"}, None, ())
    assert [check.state for check in doctor_gpu._onnxruntime(A100)] == ["missing"]
    assert [check.state for check in doctor_gpu._onnxruntime(None)] == ["warn"]


def test_onnxruntime_newer_than_the_driver(onnxruntime_installed):
    onnxruntime_installed({"onnxruntime-gpu": "1.31.1"}, "13.0", ALL_13)
    build = by_name(doctor_gpu._onnxruntime(OLD_DRIVER), "onnxruntime build")
    assert build.state == "missing" and build.mend == machine_cuda.CUDA_12_BUILDS["onnxruntime-gpu"]


def test_onnxruntime_without_its_libraries(onnxruntime_installed):
    onnxruntime_installed({"onnxruntime-gpu": "1.31.1"}, "13.0", ("libcudart.so.13",))
    check = by_name(doctor_gpu._onnxruntime(A100), "onnxruntime's libraries")
    assert check.state == "missing"
    assert "libcudnn.so.9" in check.finding and "libcudart" not in check.finding
    assert check.mend == "python -m pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'"


def test_backends_on_a_gpu_are_as_their_proofs_say(registry, machine):
    registry(pretend="Pretend")
    good = {("pretend", "cpu"): Proof(None, {}), ("pretend", "cuda"): Proof(None, {})}
    machine(A100, CUDA_13, good)
    report = examine.examine()
    assert report.device.spec == "cuda:0"
    on_gpu = [check for check in report.checks if check.group == "Backends on the GPU"]
    assert [check.state for check in on_gpu] == ["ok"]

    bad = good | {("pretend", "cuda"): Proof("RuntimeError: no kernel image", {})}
    machine(A100, CUDA_13, bad)
    for request, code in (("auto", 0), ("cuda", 1), ("cpu", 0)):
        report = examine.examine(request)
        assert report.exit_code == code
        failed = [check for check in report.checks if check.group == "Backends on the GPU"]
        assert [check.finding for check in failed] == ["fails on cuda:0: RuntimeError: no kernel image"]


@pytest.mark.parametrize("mode", ["DEFAULT", "EXCLUSIVE_PROCESS"])
def test_a_gpu_that_a_run_has_is_left_alone(registry, monkeypatch, mode):
    registry(pretend="Pretend")
    gpu = replace(A100, compute_mode=mode)
    monkeypatch.setattr(gpus, "visible_gpus", lambda: [gpu])
    asked: list[tuple[str, str, Holder | None]] = []

    def prove(name: str, device: str) -> Proof:
        asked.append((name, device, locks.holder(devices.gpu_device(gpu))))
        return Proof(None, {})

    monkeypatch.setattr(doctor_proofs, "prove", prove)
    with locks.device_lock(devices.gpu_device(gpu), from_words("run 01K0000000000000000000TEST")):
        proofs = doctor_proofs.prove_backends(gpu)
        (check,) = doctor_gpu.gpu_backend_checks(gpu, proofs, asked=True)
    assert [item[:2] for item in asked] == [("pretend", "cpu")]
    assert check.state == "warn" and not check.required
    assert "not tried out: NVIDIA A100-SXM4-40GB (cuda:0) is busy: run 01K0000000000000000000TEST (" in check.finding
    asked.clear()
    proofs = doctor_proofs.prove_backends(gpu)
    assert ("pretend", "cuda:0", Holder(Kind.DOCTOR)) in asked, "a run that begins meanwhile waits"
    (check,) = doctor_gpu.gpu_backend_checks(gpu, proofs, asked=True)
    assert check.state == "ok" and locks.holder(devices.gpu_device(gpu)) is None


def test_exclusive_process_is_noted(machine):
    gpu = replace(A100, compute_mode="EXCLUSIVE_PROCESS")
    machine(gpu, CUDA_13)
    assert by_name(doctor_gpu.gpu_checks(gpu), "compute mode").state == "warn"


# -- bitsandbytes --------------------------------------------------------------------------------


def test_bitsandbytes_note_follows_what_the_library_says(monkeypatch):
    monkeypatch.setattr(packages, "is_installed", lambda module: module == "bitsandbytes")
    (repacks,) = doctor_gpu.bitsandbytes_check({("bitsandbytes", "cpu"): Proof(None, {"repacks_on_cpu": True})})
    assert "multiple of 32" in repacks.finding and "64" in repacks.finding
    (plain,) = doctor_gpu.bitsandbytes_check({("bitsandbytes", "cpu"): Proof(None, {"repacks_on_cpu": False})})
    assert "any width works" in plain.finding


def test_package_kernels_is_warned_of(monkeypatch):
    monkeypatch.setattr(packages, "is_installed", lambda module: module in ("bitsandbytes", "kernels"))
    check = by_name(doctor_gpu.bitsandbytes_check({}), "package kernels")
    assert check.state == "warn" and check.mend == "python -m pip uninstall -y kernels"


WIDTHS = """
import torch, bitsandbytes
from bitsandbytes.functional import has_avx512bf16
if not has_avx512bf16():
    print("other path"); raise SystemExit
for inputs, outputs in ((64, 32), (128, 96), (64, 48), (96, 64)):
    layer = bitsandbytes.nn.Linear4bit(inputs, outputs, quant_type="nf4").to("cpu").eval()
    try:
        with torch.inference_mode():
            layer(torch.ones(2, inputs))
        print(inputs, outputs, "works")
    except (AssertionError, RuntimeError):
        print(inputs, outputs, "fails")
"""


@pytest.mark.second_tier
def test_what_is_said_of_layer_widths_is_so():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    import subprocess

    done = subprocess.run([sys.executable, "-c", WIDTHS], capture_output=True, text=True, timeout=120)
    if done.stdout.startswith("other path"):
        pytest.skip("this CPU has no AVX512-BF16: the note is of another path")
    assert done.stdout.splitlines() == ["64 32 works", "128 96 works", "64 48 fails", "96 64 fails"]


# -- Data ----------------------------------------------------------------------------------------


def test_data_folder_that_is_no_folder_fails(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "file"))
    check = by_name(storage.data_checks(), "data folder")
    assert (check.state, check.required) == ("missing", True) and "no folder" in check.finding


def test_looking_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "a/b"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("BENCH_DATABASE_URL", raising=False)
    states = {check.name: check.state for check in (*storage.data_checks(), *storage.hub_checks())}
    assert states["data folder"] == states["database"] == states["Hugging Face cache"] == "ok"
    assert list(tmp_path.iterdir()) == []


def test_little_disk_space_is_noted(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(storage, "LOW_DISK_BYTES", 2**60)
    check = by_name(storage.data_checks(), "disk space")
    assert check.state == "warn" and "BENCH_DATA_DIR" in (check.mend or "")


def test_database_files(tmp_path):
    import sqlite3

    good, bad, new = tmp_path / "good.sqlite", tmp_path / "bad.sqlite", tmp_path / "x/new.sqlite"
    connection = sqlite3.connect(good)
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    bad.write_text("something else altogether")
    assert storage._database(f"sqlite:///{good}").state == "ok"
    assert storage._database(f"sqlite:///{new}").state == "ok"
    assert storage._database(f"sqlite:///{bad}").state == "missing"
    assert storage._database("sqlite://").state == "warn"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.sqlite", "good.sqlite"]


def test_passwords_of_databases_are_not_shown():
    check = storage._database("postgresql+psycopg://bench:secret@db.example.org:5432/bench?password=secret")
    assert check.finding == "postgresql at db.example.org:5432/bench; not tried out"


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HF_HUB_CACHE": "/a/hub"}, "/a/hub"),
        ({"HF_HOME": "/a/home"}, "/a/home/hub"),
        ({"XDG_CACHE_HOME": "/a/cache"}, "/a/cache/huggingface/hub"),
        ({}, str(Path("~/.cache/huggingface/hub").expanduser())),
    ],
)
def test_hub_cache_is_where_the_library_looks(monkeypatch, variables, folder):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(storage.hub_cache()) == folder


def test_offline_flags_are_noted_with_how_to_fetch(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "0")
    check = by_name(storage.hub_checks(), "offline")
    assert check.mend == "env -u HF_HUB_OFFLINE python -m engine fetch SUITE"


def test_chromium_is_found_where_kaleido_looks(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    assert examine.find_chromium() is None and examine._chromium().state == "warn"
    chrome = tmp_path / "chromium-1200/chrome-linux/chrome"
    chrome.parent.mkdir(parents=True)
    chrome.touch(0o755)
    assert examine.find_chromium() == str(chrome)
    (tmp_path / "chromium").touch(0o755)
    assert examine.find_chromium() == str(tmp_path / "chromium")
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
    assert examine.find_chromium() is None


def test_summary_counts():
    lacking = Check("g", "c", "missing", "", required=True)
    checks = (Check("g", "a", "ok", ""), Check("g", "b", "warn", ""), lacking)
    report = Report("cpu", devices.cpu_device(), None, checks)
    assert doctor_report.summary(report) == ("1 ok, 1 to note, 1 missing: something that every run needs is missing.")
