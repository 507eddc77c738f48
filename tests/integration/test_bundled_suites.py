"""The bundled suites that need the hub, as they are: fetched from a hub on this machine, then run offline.

Its repositories have the real ones' names and make-up (a name without an owner, pickles alone, labels called LABEL_0,
no tokenizer configuration, a data set in Parquet) and small weights.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hub_repositories import LABELS, ROWS, SST2
from test_corpus import Hub, asking, serving

pytestmark = pytest.mark.second_tier

HERE = Path(__file__).resolve().parent
NOWHERE = "http://127.0.0.1:9"
RENAMED = {SST2: f"distilbert/{SST2}"}
"""What the hub sends on to the place where it lies today."""
QUICK = ["--set", "protocol.rounds=3", "--set", "protocol.min_calls=6", "--set", "protocol.max_seconds=20",
         "--set", "protocol.ceilings=false"]  # fmt: skip


class Repositories(Hub):
    repositories: ClassVar[dict[str, dict[str, bytes]]] = {}
    asked: ClassVar[list[str]] = []

    def answer(self, body: bool) -> None:
        for old, new in RENAMED.items():
            if self.path.startswith((f"/{old}/", f"/api/models/{old}/", f"/api/models/{old}?")) or self.path.endswith(
                f"/api/models/{old}"
            ):
                self.send_response(307)
                self.send_header("Location", self.path.replace(old, new, 1))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        super().answer(body)

    def content(self, parts: list[str], recursive: bool) -> tuple[dict[str, str], bytes | None]:
        self.asked.append("/".join(parts))
        api = parts[0] == "api"
        kind = parts.pop(api) if parts[api] in ("models", "datasets") else "models"
        name, rest = "/".join(parts[api : api + 2]), parts[api + 2 :]
        if name not in self.repositories:
            return {"X-Error-Code": "RepoNotFound"}, None
        self.files = self.repositories[name]
        return super().content([*(["api"] if api else []), kind, "org", "name", *rest], recursive)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str | None]]:
    """The environment of who asks the hub, with an empty cache."""
    folder = tmp_path_factory.mktemp("hub")
    command = [sys.executable, str(HERE / "hub_repositories.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for place in folder.glob("*/*"):
        files = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
        Repositories.repositories[f"{place.parent.name}/{place.name}"] = files
    with serving(Repositories) as url:
        yield asking(url, folder / "home")


def fetched_and_run(bench: Any, measure: Any, hub: dict[str, str | None], suite: str, *settings: str) -> Any:
    """What `run --offline` gives after `fetch`, with nobody left to ask."""
    offline = hub | {"HF_ENDPOINT": NOWHERE, "HF_HUB_OFFLINE": "1"}
    refused = bench("run", suite, "--device", "cpu", *settings, env=offline)
    assert refused.returncode == 2 and f"`python -m engine fetch {suite}`" in refused.stderr
    fetched = bench("fetch", suite, "--device", "cpu", *settings, env=hub)
    assert fetched.returncode == 0, fetched.stderr
    Repositories.asked.clear()
    found = measure(suite, "--offline", *settings, *QUICK, env=offline)
    assert found.exit_code == 0, found.stderr
    assert Repositories.asked == [] and "building" not in found.stderr and "training" not in found.stderr
    return found


def test_the_study_as_published(bench: Any, measure: Any, hub: dict[str, str | None]) -> None:
    found = fetched_and_run(bench, measure, hub, "study")
    assert [row["variant"] for row in found.measurements] == ["fp32", "nf4", "tinybert", "onnx-fp32", "onnx-int8"]
    for row in found.measurements:
        assert (row["status"], row["examples"], row["batch_size"]) == ("measured", 80, 8), row["status_reason"]
        assert row["accuracy"] is None and row["accuracy_reason"]
        assert row["index_match_rate"] is not None and row["published"]
        # Weights that are known to be random say so already; all others make the study's own fault, by heads which here
        # are as they were initialised.
        kinds = [flag["kind"] for flag in row["quality"]["flags"]]
        assert kinds == ([] if row["variant"] == "tinybert" else ["fresh", "study"])
    # Two outputs compared with four labels by their numbers can be right about the first two labels alone.
    labels = [LABELS.index(example["label"]) for example in found.of("fp32")]
    answers = [max(range(2), key=example["logits"].__getitem__) for example in found.of("fp32")]
    rate = sum(a == b for a, b in zip(answers, labels, strict=True)) / 80
    assert found.row("fp32")["index_match_rate"] == pytest.approx(rate)
    assert "random" in found.row("tinybert")["accuracy_reason"]


def test_ag_news_done_properly(bench: Any, measure: Any, hub: dict[str, str | None]) -> None:
    found = fetched_and_run(bench, measure, hub, "agnews", "--set", "workload.max_length=48")
    names = ["fp32", "fp16", "bf16", "nf4", "tinybert", "onnx-fp32", "onnx-int8"]
    assert [row["variant"] for row in found.measurements] == names
    for row in found.measurements:
        assert (row["status"], row["examples"]) == ("measured", ROWS), row["status_reason"]
        assert row["accuracy"] == row["correct"] / ROWS, "labels by their declared order"
    assert found.row("onnx-fp32")["agreement"] == 1.0
