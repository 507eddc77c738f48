"""What is noticed while something is timed: a real process that uses the CPU, and a GPU as NVML would tell it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from engine.machine import conditions, devices, energy, gpus
from engine.machine.conditions import Conditions, Watch, disturbances
from engine.machine.devices import Device
from engine.machine.gpus import GpuState
from engine.measurement.doubts import in_words, of_json

GPU = Device("cuda:0", "cuda", "NVIDIA Test", "GPU-1", "GPU-1")


def seen(**changes: object) -> Conditions:
    calm = {
        "seconds": 10.0,
        "cpus": 4,
        "others_cpu_share": 0.01,
        "steal_share": 0.0,
        "gpu_start": None,
        "gpu_end": None,
        "gpu_others": None,
    }
    return Conditions(**{**calm, **changes})


def state(**changes: object) -> dict[str, object]:
    return {
        "sm_clock_mhz": 1410,
        "memory_clock_mhz": 1215,
        "temperature_c": 41,
        "power_w": 90.0,
        "slowed_by": [],
        **changes,
    }


def test_a_process_that_uses_the_cpu_is_noticed():
    watch = Watch(devices.cpu_device(), time.process_time, [])
    # A second of CPU time, however long a busy machine takes to give it.
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 1: pass"], check=True)
    found = watch.stop()
    assert found.others_cpu_share is not None
    assert found.others_cpu_share * found.cpus * found.seconds > 0.9
    assert found.gpu_start is None and found.gpu_others is None


def test_the_benchs_own_use_of_the_cpu_is_no_disturbance():
    watch = Watch(devices.cpu_device(), time.process_time, [])
    blind = Watch(devices.cpu_device(), lambda: 0.0, [])
    before = time.process_time()
    while time.process_time() - before < 1.0:
        pass
    # Another's second beside our own: what we used before the watch began must not hide it.
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 1: pass"], check=True)
    own, all_of_it = watch.stop(), blind.stop()
    assert own.others_cpu_share is not None and all_of_it.others_cpu_share is not None
    assert own.others_cpu_share * own.seconds * own.cpus > 0.9
    used = (all_of_it.others_cpu_share - own.others_cpu_share) * own.seconds * own.cpus
    assert used == pytest.approx(1.0, rel=0.3)


def test_a_calm_machine_has_nothing_against_it():
    assert disturbances(seen(), "cpu") == []
    fine = seen(gpu_start=state(), gpu_end=state(slowed_by=["SW_POWER_CAP"], temperature_c=70), gpu_others=0)
    assert disturbances(fine, "cuda") == []
    unknown = seen(others_cpu_share=None, steal_share=None, gpu_start=state(**dict.fromkeys(state())))
    assert disturbances(unknown, "cuda") == []


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"others_cpu_share": 0.3}, "cpu", "other processes used 1.2 of 4 CPUs while it was timed"),
        ({"steal_share": 0.12}, "cpu", "the hypervisor gave 12% of the CPUs' time to other machines"),
        ({"gpu_others": 1}, "cuda", "1 other process was on the GPU"),
        ({"gpu_others": 3}, "cuda", "3 other processes were on the GPU"),
        (
            {"gpu_start": state(), "gpu_end": state(slowed_by=["HW_THERMAL_SLOWDOWN"], temperature_c=92)},
            "cuda",
            "the GPU lowered its clocks (HW_THERMAL_SLOWDOWN at 92 °C)",
        ),
        (
            {"gpu_start": state(), "gpu_end": state(sm_clock_mhz=1100)},
            "cuda",
            "the GPU's clock fell from 1410 to 1100 MHz",
        ),
    ],
)
def test_each_disturbance_is_named(changes: dict[str, object], kind: str, sentence: str):
    doubts = disturbances(seen(**changes), kind)
    assert in_words(doubts) == [sentence] and of_json([each.to_json() for each in doubts]) == doubts


def test_a_gpu_may_leave_the_hosts_cores_to_others():
    assert disturbances(seen(others_cpu_share=0.3), "cuda") == []
    assert len(disturbances(seen(others_cpu_share=0.6), "cuda")) == 1


@pytest.mark.parametrize(
    ("pids", "others"), [({11, 12}, 0), ({11, 12, 99, 98}, 2), ({99}, None), (set(), None), (None, None)]
)
def test_other_processes_on_the_gpu(pids: set[int] | None, others: int | None, monkeypatch: pytest.MonkeyPatch):
    """A list without our own workers comes from another process namespace, and says nothing."""
    monkeypatch.setattr(gpus, "nvml_process_ids", lambda uuid: pids)
    monkeypatch.setattr(gpus, "nvml_state", lambda uuid: GpuState(1410, 1215, 40, 88.0, []))
    found = Watch(GPU, time.process_time, [11, 12]).stop()
    assert found.gpu_others == others
    assert found.gpu_start == found.gpu_end and found.gpu_start is not None
    assert found.gpu_start["sm_clock_mhz"] == 1410


def test_energy_is_what_the_calls_take_beyond_idling(monkeypatch: pytest.MonkeyPatch):
    joules = iter([1000.0, 1000.0, 1030.0, 2000.0, 2200.0])
    monkeypatch.setattr(gpus, "nvml_energy_j", lambda uuid: next(joules))
    clock = iter([0.0, 0.3, 10.0, 11.0])
    monkeypatch.setattr(energy.time, "perf_counter", lambda: next(clock))
    idle_w = energy.idle_power_w(GPU, window_s=0.0, rest_s=0.0)
    assert idle_w == pytest.approx(100.0)
    spent = energy.of_calls(GPU, idle_w, lambda: 400)
    # 200 J in a second, of which 100 J are idle, for 400 examples.
    assert spent is not None and spent.joules_per_1000_examples == pytest.approx(250.0)


def test_no_counter_is_no_energy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpus, "nvml_energy_j", lambda uuid: None)
    assert energy.idle_power_w(GPU, 0.0, 0.0) is None
    assert energy.of_calls(GPU, None, lambda: 8) is None
    assert energy.idle_power_w(devices.cpu_device()) is None
    assert conditions.disturbances(seen(), "cpu") == []
