"""How each figure is computed: the registry of metrics, and docs/method.md as it stands."""

from __future__ import annotations

import streamlit as st

from dashboard import scorecard
from dashboard.metrics import METRICS
from engine import paths

st.header("What each figure means", anchor=False)
st.html(scorecard.metrics_table(list(METRICS.values())))
document = paths.REPOSITORY / "docs" / "method.md"
if document.exists():
    st.markdown(document.read_text(encoding="utf-8").replace("\n# ", "\n## "))
