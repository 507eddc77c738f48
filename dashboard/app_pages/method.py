"""Method page: how each figure is computed, from the registry of metrics and docs/method.md."""

from __future__ import annotations

import re

import streamlit as st

from dashboard.findings.headlines import literal
from dashboard.metrics import METRICS
from engine import paths

READING_WIDTH = 960
BETTER = {"lower": "less", "higher": "more"}

lines = ["| Figure | Unit | Better | What it is |", "| --- | --- | --- | --- |"]
for metric in METRICS.values():
    cells = (metric.label, metric.unit, BETTER[metric.better], metric.explanation)
    lines.append("| " + " | ".join(literal(cell) for cell in cells) + " |")
document = paths.REPOSITORY / "docs" / "method.md"
text = document.read_text(encoding="utf-8") if document.exists() else ""

st.header("What each figure means", anchor=False)
# Lines as wide as a wide window are hard to read.
with st.container(width=READING_WIDTH):
    # One element: the browser draws the table later than a separate text below it, so that text would jump.
    st.markdown("\n".join(lines) + "\n\n" + re.sub(r"^# ", "## ", text, flags=re.MULTILINE))
