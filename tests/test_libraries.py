"""Where shared libraries are found, and TensorRT's loaded: in wheels, where no loader looks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from engine.backends.onnxruntime import TENSORRT, load_tensorrt
from engine.errors import UnavailableError
from engine.machine import libraries


def test_libraries_are_found_in_wheels_and_library_path(tmp_path, monkeypatch):
    wheel, tensorrt = tmp_path / "site/nvidia/cu13/lib", tmp_path / "site/tensorrt_libs"
    for folder in (wheel, tensorrt):
        folder.mkdir(parents=True)
    (wheel / "libproof.so.13").touch()
    (tensorrt / "libproof.so.10").touch()
    (tmp_path / "libother.so.1").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("LD_LIBRARY_PATH", f":{tmp_path}")
    assert libraries.find("libproof.so.13") == str(wheel / "libproof.so.13")
    assert libraries.find("libproof.so.10") == str(tensorrt / "libproof.so.10")
    assert libraries.find("libother.so.1") == str(tmp_path / "libother.so.1")
    assert libraries.find("libproof.so.12") is None


@pytest.mark.skipif(not Path("/sbin/ldconfig").exists(), reason="no ldconfig here")
def test_libraries_are_found_in_the_loaders_cache():
    assert Path(libraries.find("libc.so.6") or "").exists()


def test_tensorrt_is_that_which_the_installed_onnxruntime_is_built_for():
    spec = find_spec("onnxruntime")
    provider = Path(str(spec.origin)).parent / "capi" / "libonnxruntime_providers_tensorrt.so" if spec else None
    if provider is None or not provider.exists():
        pytest.skip("this onnxruntime has no TensorRT provider")
    code = provider.read_bytes()
    assert [name for name in TENSORRT if name.encode() + b"\0" not in code] == []


PROOF = """
import ctypes
from engine.backends import onnxruntime
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
try:
    ctypes.CDLL("libnvonnxparser.so.10")
except OSError:
    print("nowhere")
onnxruntime.load_tensorrt(tf32=TF32)
print(getenv(b"NVIDIA_TF32_OVERRIDE"))
# As the provider asks: by name alone.
print(ctypes.CDLL("libnvonnxparser.so.10").proof())
"""


@pytest.mark.skipif(libraries.find(TENSORRT[0]) is not None, reason="the real one is here")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
@pytest.mark.parametrize(("tf32", "override"), [(False, "b'0'"), (True, "None")])
def test_tensorrt_of_a_wheel_is_there_for_who_asks_by_name(tmp_path, tf32, override):
    folder = tmp_path / "tensorrt_libs"
    folder.mkdir()
    (folder / "proof.c").write_text("int proof(void) { return 42; }")
    for name in TENSORRT:
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", name, "proof.c"]
        subprocess.run(command, cwd=folder, check=True)
    around = {"PYTHONPATH": f"{Path(__file__).parents[1]}:{tmp_path}", "PATH": "/usr/bin:/bin"}
    code = PROOF.replace("TF32)", f"{tf32})")
    done = subprocess.run([sys.executable, "-c", code], env=around, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["nowhere", override, "42"]


def test_a_tensorrt_that_does_not_load_makes_the_variant_unavailable(tmp_path, monkeypatch):
    broken = tmp_path / TENSORRT[0]
    broken.write_text("no library")
    monkeypatch.setattr(libraries, "find", lambda name: str(broken))
    with pytest.raises(UnavailableError, match=r"TensorRT does not load: .*libnvinfer"):
        load_tensorrt(tf32=True)
