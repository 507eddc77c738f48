"""One file, one line, one entry in a suite, as the README says; and a variant that is slower by a known factor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TWICE = '''\
"""Every answer is computed two times."""

from engine.backends.pytorch import PyTorch


class Twice(PyTorch):
    name = "twice"

    def call(self, batch):
        super().call(batch)
        return super().call(batch)
'''

pytestmark = pytest.mark.second_tier


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of the project with a backend more."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(REPOSITORY / "engine", folder / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "engine" / "backends" / "twice.py").write_text(TWICE)
    registry = folder / "engine" / "backends" / "__init__.py"
    line = '    "pytorch": "engine.backends.pytorch:PyTorch",\n'
    assert line in registry.read_text()
    registry.write_text(registry.read_text().replace(line, line + '    "twice": "engine.backends.twice:Twice",\n'))
    return folder


def test_a_backend_that_takes_twice_as_long_is_half_as_fast(extended, shaped_models, write_suite, tmp_path):
    variants = [{"name": name, "model": shaped_models["heavy"], "backend": backend} for name, backend in
                (("once", "pytorch"), ("again", "pytorch"), ("two-times", "twice"))]  # fmt: skip
    protocol = {"rounds": 24, "min_calls": 48, "block_seconds": 0.1, "max_seconds": 60, "threads": 1}
    suite = write_suite(tmp_path, variants, name="known-factor", protocol=protocol)
    held = []
    for attempt in range(3):
        file = tmp_path / f"{attempt}.json"
        done = subprocess.run(
            [sys.executable, "-m", "engine", "run", str(suite), "--device", "cpu", "--json", str(file)],
            cwd=extended, env=os.environ | {"BENCH_DATA_DIR": str(tmp_path / "data")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        rows = {row["variant"]: row for row in json.loads(file.read_text())["measurements"]}
        twice, again = rows["two-times"], rows["again"]
        # On a machine that others use too: always about half, and worse, never better.
        assert 0.35 < twice["speedup"] < 0.8 and twice["comparison"] == "worse", twice["speedup"]
        assert 0.75 < again["speedup"] < 1.33
        assert twice["agreement"] == again["agreement"] == 1
        held.append([twice["speedup_low"] <= 0.5 <= twice["speedup_high"], again["comparison"] == "no_difference"])
        if np.all(held[-1]):
            break
    assert np.any(held, axis=0).all(), held
