"""Every request that a parent can make is one that a worker answers."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np

from engine.backends.base import LoadRequest
from engine.worker import messages
from engine.worker.__main__ import ANSWERED_BY


def test_a_worker_answers_every_request():
    assert set(ANSWERED_BY) == set(messages.Request.__subclasses__())


def test_what_is_asked_crosses_a_pipe_unchanged():
    asked = LoadRequest(Path("model"), "fp32", "cpu", 2, {"attention": "eager"}, Path("scratch"))
    for request in (messages.Load(asked, "tokenizer", 128), messages.ReadAudit(), messages.Meet(["a"], [1], "longest")):
        assert pickle.loads(pickle.dumps(request)) == request
    sent = pickle.loads(pickle.dumps(messages.Evaluate([np.array([2, 0])], "longest")))
    assert sent.batches[0].tolist() == [2, 0] and sent.batches[0].dtype == np.int64


def test_a_profile_that_failed_stores_its_reason_alone():
    assert messages.Profiled(None, "no profiler").facts() == {"reason": "no profiler"}
    facts = {"reason": None, "by": "kernels"}
    assert messages.Profiled(facts, trace="file").facts() == facts
    assert all(dataclasses.is_dataclass(request) and request.activity for request in ANSWERED_BY)
