"""How each figure is computed: the registry of metrics, and docs/method.md as it stands."""

from __future__ import annotations

import re

import streamlit as st

from dashboard import scorecard
from dashboard.metrics import METRICS
from engine import paths

READING_WIDTH = 960

st.header("What each figure means", anchor=False)
st.html(scorecard.metrics_table(list(METRICS.values())))
document = paths.REPOSITORY / "docs" / "method.md"
if document.exists():
    # Lines of a whole wide window cannot be read.
    with st.container(width=READING_WIDTH):
        st.markdown(re.sub(r"^# ", "## ", document.read_text(encoding="utf-8"), flags=re.MULTILINE))
