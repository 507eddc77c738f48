"""The machine as found: real here, and GPUs from an NVML that the tests write themselves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import paths
from engine.errors import RequestError
from engine.machine import cuda as machine_cuda
from engine.machine import devices, host
from engine.machine import environment as machine_environment
from engine.machine import gpus as machine_gpus
from engine.machine.cuda import TorchBuild
from engine.machine.devices import Device
from engine.machine.gpus import Gpu, Listed, visible_devices
from engine.worker import handle as worker_handle

GIB = 2**30
HAS_GPU = bool(machine_gpus.visible_gpus())
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason=f"no GPU: {devices.no_gpu_reason()}")
needs_no_gpu = pytest.mark.skipif(HAS_GPU, reason="says what happens on a machine without a GPU")


def gpu(letter: str, name: str = "NVIDIA A100-SXM4-40GB", **changes: object) -> Gpu:
    made = Gpu(-1, f"GPU-{letter * 8}-0000", name, 40 * GIB, (8, 0), "580.65.06", (13, 0), "DEFAULT")
    return replace(made, **changes)


A, B, C = gpu("a"), gpu("b"), gpu("c")
CUDA_13 = TorchBuild("2.13.0", "13.0")
SLICE_1 = gpu("a", "NVIDIA A100 MIG 1g.5gb", uuid="MIG-11111111-0000")
SLICE_2 = gpu("a", "NVIDIA A100 MIG 2g.10gb", uuid="MIG-22222222-0000")
PLAIN = [Listed(A), Listed(B), Listed(C)]
SLICED = [
    Listed(A, mig=True, slices=((SLICE_1, f"MIG-{A.uuid}/1/0"), (SLICE_2, f"MIG-{A.uuid}/2/0"))),
    Listed(B),
]


def python(code: str, *before: str, **variables: str) -> str:
    """What `code` prints in a fresh interpreter."""
    done = subprocess.run(
        [*before, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | variables,
        cwd=Path(__file__).parent.parent,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -- CPU and memory ------------------------------------------------------------------------------


def test_import_brings_no_model_library_and_nothing_heavy():
    heavy = "torch transformers onnxruntime onnx bitsandbytes datasets numpy pandas psutil pynvml sqlalchemy"
    code = (
        "import sys; from engine.machine import cuda, devices; cuda.torch_build(); devices.resolve_device('auto');"
        f"print([m for m in {heavy.split()} if m in sys.modules and m != 'pynvml'])"
    )
    assert python(code) == "[]"


@pytest.mark.skipif(shutil.which("taskset") is None, reason="taskset is not installed")
def test_usable_cores_follow_the_affinity():
    code = "from engine.machine import host as h; print(h.usable_cores(), h.physical_cores_usable())"
    cores, physical = python(code, "taskset", "-c", str(min(os.sched_getaffinity(0)))).split()
    assert cores == "1"
    assert physical in ("1", "None")


def test_usable_cores_are_within_what_the_machine_has():
    assert 1 <= host.usable_cores() <= (os.cpu_count() or 1)
    assert (host.physical_cores_usable() or 1) <= host.usable_cores()


def fake_proc(tmp_path: Path, cgroup: str, mountinfo: str, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    (tmp_path / "proc/self/mountinfo").write_text(mountinfo.format(root=tmp_path))
    return tmp_path / "proc"


V2 = "31 23 0:28 / {root}/cg rw,relatime - cgroup2 cgroup2 rw\n"
V1_CPU = "32 31 0:29 / {root}/cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
V1_MEMORY = "33 31 0:30 /docker/abc {root}/cg/memory rw - cgroup cgroup rw,memory\n"


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "files", "quota"),
    [
        ("0::/job\n", V2, {"cg/job/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/job/step\n", V2, {"cg/job/cpu.max": "50000 100000", "cg/job/step/cpu.max": "max 100000"}, 0.5),
        ("0::/job\n", V2, {"cg/job/cpu.max": "max 100000"}, None),
        ("0::/\n", V2, {}, None),
        ("0::/../../other\n", V2, {"cg/cpu.max": "200000 100000"}, 2.0),
        (
            "2:cpu,cpuacct:/job\n0::/\n", V1_CPU,
            {"cg/cpu/job/cpu.cfs_quota_us": "300000\n", "cg/cpu/job/cpu.cfs_period_us": "100000\n"}, 3.0,
        ),
        (
            "2:cpu,cpuacct:/job\n", V1_CPU,
            {"cg/cpu/job/cpu.cfs_quota_us": "-1\n", "cg/cpu/job/cpu.cfs_period_us": "100000\n"}, None,
        ),
        ("", "", {}, None),
    ],
)  # fmt: skip
def test_cpu_quota_of_both_kinds_of_cgroup(tmp_path, monkeypatch, cgroup, mountinfo, files, quota):
    monkeypatch.setattr(host, "PROC", fake_proc(tmp_path, cgroup, mountinfo, files))
    assert host.cpu_quota() == quota


def test_quota_is_rounded_up_and_never_below_one_core(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "cpu_affinity", lambda: [0, 1, 2, 3])
    for text, cores in (("10000 100000", 1), ("110000 100000", 2), ("900000 100000", 4)):
        monkeypatch.setattr(host, "cpu_quota", lambda text=text: int(text.split()[0]) / 100_000)
        assert host.usable_cores() == cores


def test_memory_limit_of_a_container(tmp_path, monkeypatch):
    cgroup, path = "4:memory:/docker/abc\n", "cg/memory/memory.limit_in_bytes"
    proc = fake_proc(tmp_path, cgroup, V1_MEMORY, {path: str(GIB)})
    monkeypatch.setattr(host, "PROC", proc)
    assert host.memory_limit_bytes() == GIB < host.memory_total_bytes()
    (tmp_path / path).write_text("9223372036854771712\n")  # How cgroup v1 writes "none".
    assert host.memory_limit_bytes() is None


def test_threads_of_one_core_count_as_one_physical_core(tmp_path, monkeypatch):
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    monkeypatch.setattr(host, "SYS_CPU", tmp_path)
    monkeypatch.setattr(host, "cpu_quota", lambda: None)
    monkeypatch.setattr(host, "cpu_affinity", lambda: [0, 1, 2, 3])
    assert host.physical_cores_usable() == 2
    monkeypatch.setattr(host, "cpu_affinity", lambda: [0, 4])
    assert host.physical_cores_usable() is None


def test_the_last_level_cache_is_counted_once_for_all_that_share_it(tmp_path, monkeypatch):
    for cpu, shared in enumerate(("0-1", "0-1", "2-3", "2-3")):
        for index, (level, kind, size, who) in enumerate(
            [("1", "Data", "48K", cpu), ("1", "Instruction", "32K", cpu), ("3", "Unified", "32768K", shared)]
        ):
            folder = tmp_path / f"cpu{cpu}/cache/index{index}"
            folder.mkdir(parents=True)
            for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", who)):
                (folder / name).write_text(f"{text}\n")
    monkeypatch.setattr(host, "SYS_CPU", tmp_path)
    monkeypatch.setattr(host, "cpu_affinity", lambda: [0, 1, 2, 3])
    assert host.cache_bytes() == 2 * 32 * 2**20
    monkeypatch.setattr(host, "cpu_affinity", lambda: [1])
    assert host.cache_bytes() == 32 * 2**20
    monkeypatch.setattr(host, "cpu_affinity", lambda: [7])
    assert host.cache_bytes() is None


def test_cpu_features_are_those_of_the_kernel():
    flags = Path("/proc/cpuinfo").read_text()
    assert host.cpu_name()
    assert all(re.search(rf"\b{feature}\b", flags) for feature in host.cpu_features())


# -- What CUDA shows -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "shown"),
    [
        (None, [A, B, C]),
        ("", []),
        ("2,0", [C, A]),
        (" 1 , 2 ", [B, C]),
        ("0,7,1", [A]),
        ("0,2,-1,1", [A, C]),
        ("-1", []),
        ("NoDevFiles", []),
        ("1gpu,2", [B, C]),
        ("1,1", []),
        ("GPU-bbbbbbbb-0000", [B]),
        ("GPU-c,GPU-a", [C, A]),
        ("GPU-b,1", []),
        ("GPU-zzz,GPU-a", []),
        ("GPU-", []),
        ("GPU-a,GPU-zzz", [A]),
        ("MIG-1", []),
    ],
)
def test_visible_devices_as_cuda_reads_the_variable(visible, shown):
    found = visible_devices(PLAIN, visible, None)
    assert [item.uuid for item in found] == [item.uuid for item in shown]
    assert [item.index for item in found] == list(range(len(shown)))


@pytest.mark.parametrize(
    ("visible", "shown"),
    [
        (None, [SLICE_1]),
        ("0", [SLICE_1]),
        ("1", [B]),
        ("MIG-22222222-0000", [SLICE_2]),
        ("MIG-2", [SLICE_2]),
        (f"MIG-{A.uuid}/2/0", [SLICE_2]),
        (f"{SLICE_2.uuid},{SLICE_1.uuid}", [SLICE_2]),
        ("1,0", [SLICE_1]),
        ("MIG-", []),
    ],
)
def test_a_program_sees_one_mig_slice_at_most(visible, shown):
    assert [item.uuid for item in visible_devices(SLICED, visible, None)] == [item.uuid for item in shown]


def test_a_gpu_in_mig_mode_without_slices_shows_nothing():
    assert visible_devices([Listed(A, mig=True)], None, None) == []
    assert visible_devices([Listed(A, mig=True)], "0", None) == []
    assert visible_devices([Listed(A, mig=True), Listed(B)], None, None)[0].uuid == B.uuid


def test_order_is_the_bus_unless_cuda_is_told_to_guess():
    mixed = [Listed(gpu("a", "NVIDIA T4"), 4_000.0), Listed(B, 9_000.0)]
    for order in (None, "PCI_BUS_ID"):
        assert [item.uuid for item in visible_devices(mixed, None, order)] == [mixed[0].gpu.uuid, B.uuid]
    fastest = visible_devices(mixed, None, "FASTEST_FIRST")
    assert [item.uuid for item in fastest] == [B.uuid, mixed[0].gpu.uuid]
    assert visible_devices(mixed, "0", "FASTEST_FIRST")[0].uuid == B.uuid


@given(st.text(alphabet="0123,- GPUMIG/ab", max_size=20))
def test_any_text_in_the_variable_is_read_without_a_fault(text):
    found = visible_devices([*SLICED, Listed(C)], text, None)
    assert len({item.uuid for item in found}) == len(found) <= 3


@given(st.permutations(PLAIN))
def test_naming_the_shown_gpus_by_uuid_keeps_their_numbers(listed):
    shown = visible_devices(listed, None, "FASTEST_FIRST")
    pinned = ",".join(item.uuid for item in shown)
    assert visible_devices(PLAIN, pinned, None) == shown


# -- NVML, written for the test ------------------------------------------------------------------


class FakeNvml(types.ModuleType):
    """As much of pynvml as the bench asks, over a list of GPUs; None stands for one of another job."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    class NVMLError(Exception):
        pass

    def __init__(self, gpus: list[Gpu | None], cuda: int = 13000) -> None:
        super().__init__("pynvml")
        self.gpus, self.cuda = gpus, cuda

    def __getattr__(self, name: str):
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def unknown(*_: object) -> None:
            raise self.NVMLError("Not Supported")

        return unknown

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65.06"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return self.cuda

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        if self.gpus[index] is None:
            raise self.NVMLError("Insufficient Permissions")
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Gpu:
        return next(item for item in self.gpus if item and item.uuid == uuid)

    def nvmlDeviceGetUUID(self, handle: Gpu) -> str:
        return handle.uuid

    def nvmlDeviceGetName(self, handle: Gpu) -> str:
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: Gpu) -> types.SimpleNamespace:
        return types.SimpleNamespace(total=handle.memory_total_bytes, used=3 * GIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: Gpu) -> tuple[int, int]:
        return handle.compute_capability

    def nvmlDeviceGetComputeMode(self, handle: Gpu) -> int:
        return machine_gpus.COMPUTE_MODES.index(handle.compute_mode)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Gpu) -> int:
        return 400_000

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Gpu) -> list[types.SimpleNamespace]:
        return [
            types.SimpleNamespace(pid=7, usedGpuMemory=GIB),
            types.SimpleNamespace(pid=8, usedGpuMemory=None),
        ]


@pytest.fixture
def nvml(monkeypatch):
    """Puts a driver with the GPUs given into the machine."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)

    def put(*gpus: Gpu | None, cuda: int = 13000, torch: TorchBuild | None = CUDA_13):
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(list(gpus), cuda))
        monkeypatch.setattr(machine_cuda, "torch_build", lambda: torch)
        machine_gpus._nvml.cache_clear()

    yield put
    machine_gpus._nvml.cache_clear()


def test_gpus_are_described_and_those_of_other_jobs_left_out(nvml, monkeypatch):
    nvml(None, A, replace(B, compute_mode="EXCLUSIVE_PROCESS"), cuda=12040)
    first, second = machine_gpus.visible_gpus()
    assert first == replace(A, index=0, driver_cuda_version=(12, 4))
    assert (second.index, second.uuid, second.compute_mode) == (1, B.uuid, "EXCLUSIVE_PROCESS")
    assert machine_gpus.nvml_problem() is None
    assert devices.worker_environment()["CUDA_VISIBLE_DEVICES"] == f"{A.uuid},{B.uuid}"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [(item.index, item.uuid) for item in machine_gpus.visible_gpus()] == [(0, B.uuid)]


def test_memory_of_the_gpu_and_of_a_process(nvml):
    nvml(A)
    assert machine_gpus.nvml_used_bytes(A.uuid) == 3 * GIB
    assert machine_gpus.nvml_process_bytes(A.uuid, 7) == GIB
    assert machine_gpus.nvml_process_bytes(A.uuid, 8) is None
    assert machine_gpus.nvml_process_bytes(A.uuid, 9) is None


def test_devices_where_there_are_gpus(nvml):
    nvml(A, B)
    first = Device("cuda:0", "cuda", A.name, A.uuid, A.uuid)
    assert all(devices.resolve_device(request) == first for request in ("auto", "cuda", "cuda:0"))
    assert devices.resolve_device("cuda:1") == Device("cuda:1", "cuda", B.name, B.uuid, B.uuid)
    assert devices.resolve_device("cuda:1").index == 1
    assert devices.resolve_device("cpu").kind == "cpu"
    with pytest.raises(RequestError, match=r"^--device cuda:2: CUDA shows 2 GPUs here; allowed: auto, cpu, "):
        devices.resolve_device("cuda:2")


@pytest.mark.parametrize(
    "torch",
    [None, TorchBuild("2.13.0+cpu", None), TorchBuild("2.14.0", "14.0")],
    ids=["none", "cpu", "newer"],
)
def test_auto_stays_on_the_cpu_where_torch_cannot_use_the_gpu(nvml, torch):
    nvml(A, torch=torch)
    assert devices.resolve_device("auto").spec == "cpu"
    assert devices.resolve_device("cuda").spec == "cuda:0"  # ONNX Runtime may still use it.


def test_a_hidden_gpu_is_named_as_the_reason(nvml, monkeypatch):
    nvml(A)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine_gpus.visible_gpus() == []
    with pytest.raises(RequestError, match="CUDA_VISIBLE_DEVICES='' shows no GPU"):
        devices.resolve_device("cuda")


def test_environment_of_a_gpu_machine_is_json(nvml):
    nvml(A)
    (stored,) = json.loads(json.dumps(machine_environment.environment()))["gpus"]
    assert stored["uuid"] == A.uuid and stored["driver_cuda_version"] == [13, 0]
    assert (stored["power_limit_w"], stored["memory_used_bytes"], stored["ecc"]) == (400.0, 3 * GIB, None)


# -- The device asked for ------------------------------------------------------------------------


@pytest.mark.parametrize("request_", ["gpu", "CPU", "", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "cuda:0 "])
def test_unknown_devices_are_refused_in_one_line(request_):
    with pytest.raises(RequestError, match="unknown device; allowed: auto, cpu, cuda, cuda:N") as caught:
        devices.resolve_device(request_)
    assert "\n" not in str(caught.value)


@needs_no_gpu
@pytest.mark.parametrize("request_", ["cuda", "cuda:0", "cuda:3"])
def test_cuda_without_a_gpu_says_why_and_what_helps(request_):
    with pytest.raises(RequestError) as caught:
        devices.resolve_device(request_)
    message = str(caught.value)
    assert message.startswith(f"--device {request_}: no NVIDIA driver answers here (")
    assert "allowed: auto, cpu" in message and "python -m engine doctor" in message and "\n" not in message


@needs_no_gpu
def test_auto_without_a_gpu_is_the_cpu():
    assert devices.resolve_device("auto") == devices.resolve_device("cpu")
    device = devices.resolve_device("cpu")
    assert (device.spec, device.kind, device.uuid, device.index) == ("cpu", "cpu", None, None)
    assert re.fullmatch(r"host-[\w.-]+", device.lock_key)
    assert machine_gpus.nvml_used_bytes("GPU-0") is None and machine_gpus.nvml_process_bytes("GPU-0", 1) is None


@needs_no_gpu
def test_workers_have_our_environment_but_for_what_overrules_a_variants_precision(monkeypatch):
    assert devices.worker_environment() == dict(os.environ)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setenv("OMP_PROC_BIND", "close")
    given = worker_handle._environment(2)
    assert "NVIDIA_TF32_OVERRIDE" not in given and given["OMP_PROC_BIND"] == "close"
    assert given["OMP_NUM_THREADS"] == "2" and given["HF_HUB_OFFLINE"] == "1"


@needs_gpu
@pytest.mark.gpu
def test_torch_counts_devices_as_the_bench_does():
    code = (
        "import torch; print([str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())])"
    )
    uuids = [item.uuid.removeprefix("GPU-") for item in machine_gpus.visible_gpus()]
    assert python(code, **devices.worker_environment()) == str(uuids)


# -- Builds and drivers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "build", "minimum"),
    [
        ((13, 0), (13, 0), None),
        ((13, 0), (13, 2), None),
        ((14, 0), (13, 0), None),
        ((13, 0), (12, 6), None),
        ((12, 0), (12, 9), None),
        ((12, 8), (13, 0), "580.65.06"),
        ((11, 8), (12, 6), "525.60.13"),
        ((11, 4), (13, 0), "580.65.06"),
        ((10, 2), (11, 8), "450.80.02"),
        ((13, 0), (14, 1), "for CUDA 14"),
    ],
)
def test_a_driver_runs_builds_for_its_own_major_version_and_older_ones(driver, build, minimum):
    for package in ("torch", "onnxruntime-gpu"):
        message = machine_cuda.driver_too_old(driver, build, package)
        if minimum is None:
            assert message is None
            continue
        assert message is not None
        assert f"CUDA {driver[0]}.{driver[1]} " in message and f"CUDA {build[0]}.{build[1]}," in message
        assert minimum in message and f"for CUDA {driver[0]}" in message and package in message


def test_the_remedy_for_a_cuda_12_driver_is_a_command():
    message = machine_cuda.driver_too_old((12, 4), (13, 0))
    assert message is not None
    assert message.endswith("'torch==2.13.0+cu126' --index-url https://download.pytorch.org/whl/cu126")


@pytest.mark.parametrize(
    ("changes", "build", "reason"),
    [
        ({}, TorchBuild("2.13.0", "13.0"), None),
        ({}, None, "not installed"),
        ({}, TorchBuild("2.13.0+cpu", None), "without CUDA"),
        ({"driver_cuda_version": (12, 4)}, TorchBuild("2.13.0", "13.0"), "580.65.06"),
        ({"driver_cuda_version": (12, 4)}, TorchBuild("2.13.0+cu126", "12.6"), None),
        ({"compute_capability": (7, 0)}, TorchBuild("2.13.0", "13.0"), "older than Turing"),
        ({"compute_capability": (7, 0)}, TorchBuild("2.13.0+cu126", "12.6"), None),
        ({"compute_mode": "PROHIBITED"}, TorchBuild("2.13.0", "13.0"), "PROHIBITED"),
        ({"compute_mode": "EXCLUSIVE_PROCESS"}, TorchBuild("2.13.0", "13.0"), None),
    ],
)
def test_why_torch_cannot_use_a_gpu(changes, build, reason):
    found = machine_cuda.torch_cannot_use(replace(A, **changes), build)
    assert found is None if reason is None else reason in (found or "")


@pytest.mark.parametrize(
    ("text", "pair"), [("13.0", (13, 0)), ("12.6.3", (12, 6)), ("13", (13, 0)), ("", None), (None, None)]
)
def test_version_pairs(text, pair):
    assert machine_cuda.version_pair(text) == pair


def test_torch_build_is_what_torch_says_of_itself():
    said = python("import torch; print(torch.__version__, torch.version.cuda, torch.version.hip)")
    build = machine_cuda.torch_build()
    assert build is not None
    assert said == f"{build.version} {build.cuda} {build.hip}"


def test_constants_are_read_without_importing(tmp_path, monkeypatch):
    (tmp_path / "pretend").mkdir()
    (tmp_path / "pretend/__init__.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "pretend/version.py").write_text("import os\na: str | None = '1'\nb = c = None\nd = os.sep\n")
    (tmp_path / "pretend/broken.py").write_text("a = (\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert machine_cuda.module_constants("pretend", "version.py") == {"a": "1", "b": None, "c": None}
    assert machine_cuda.module_constants("pretend", "broken.py") is None
    assert machine_cuda.module_constants("pretend", "absent.py") is None
    assert machine_cuda.module_constants("no_such_module", "version.py") is None


# -- What a run stores ---------------------------------------------------------------------------


def test_environment_is_json_and_names_what_matters():
    environment = json.loads(json.dumps(machine_environment.environment()))
    assert environment["cpu"]["cores_usable"] == host.usable_cores()
    assert environment["memory"]["total_bytes"] == host.memory_total_bytes() > 0
    assert environment["python"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["distributions"]["numpy"]
    assert environment["bench"]["version"]


@needs_no_gpu
def test_environment_is_quick():
    machine_environment.environment()
    # The best of a few: other work on the machine must not fail this.
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        machine_environment.environment()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


def test_environment_knows_the_commit_of_a_checkout(tmp_path, monkeypatch):
    def git(*words: str) -> str:
        who = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    monkeypatch.setattr(paths, "REPOSITORY", tmp_path)
    assert machine_environment.environment()["bench"]["checkout"] is None
    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "first")
    assert machine_environment.environment()["bench"]["checkout"] == {
        "commit": git("rev-parse", "HEAD"),
        "dirty": False,
    }
    (tmp_path / "file").write_text("two")
    assert machine_environment.environment()["bench"]["checkout"]["dirty"] is True


def test_environment_keeps_known_variables_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("BENCH_DATABASE_URL", "postgresql://bench:secret@host/bench")
    text = json.dumps(machine_environment.environment())
    assert json.loads(text)["variables"]["OMP_NUM_THREADS"] == "3"
    assert "secret" not in text
