"""Page set-up and navigation, nothing else."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboard.controls import link, widgets
from dashboard.data import reads
from dashboard.findings import headlines

HERE = Path(__file__).parent
# Module in app_pages, title, tooltip.
PAGES = (
    ("overview", "Overview", "Which variant to ship: one run's headline, scorecard and charts."),
    ("compare", "Compare", "Runs, variants and baselines side by side, and the settings that differ."),
    ("examples", "Examples", "The texts on which variants disagree."),
    ("decide", "Decide", "Set your limits: what remains, which is fastest, what each limit costs."),
    ("roofline", "Roofline", "How near each variant comes to this device's measured limit, and what its time goes to."),
    ("load", "Load", "How many texts a second each variant holds within a limit on p99, as they come at random."),
    ("ship", "Ship it", "The chosen variant as a folder, with a snippet that loads it."),
    ("classify", "Classify", "Type a text and watch each variant answer."),
    ("run", "Run", "Choose a suite and measure it on this machine, with live progress."),
    ("runs", "Runs", "Every run so far: search, notes and tags, environment, log, run files."),
    ("method", "Method", "How each figure is computed, and what it does not say."),
)

st.set_page_config(page_title="Inference Bench", page_icon=str(HERE / "assets" / "icon.png"), layout="wide")
widgets.behind_the_door()
# Streamlit writes white on the accent, which the dark one is too light for.
accent = f"[data-testid^=stBaseButton-primary]{{color:{widgets.look().background}}}"
# A page names its run above its charts: the line that says it stands in what is saved.
source = ".ib-chart .infolayer>:nth-last-child(1 of .annotation){display:none}"
# Who walks with Tab sees of a link a shade at most, and nothing of the page's scrolling part.
ring = f"outline:2px solid {widgets.look().accent} !important;outline-offset"
focus = f"a:focus-visible{{{ring}:1px}}[data-testid=stMain]:focus-visible{{{ring}:-2px}}"
# Between one tab and the next the page would be too short for where its reader is, and go to its top.
tabs = ".st-key-tab{min-height:100vh}"
st.html(f"<style>{accent}{source}{focus}{tabs}{link.STYLE}</style>")
pages = [
    st.Page(str(HERE / "app_pages" / f"{name}.py"), title=title, help=about, default=name == "overview", url_path=name)
    for name, title, about in PAGES
]
page = st.navigation(pages, position="top")
if said := reads.read_only():
    st.caption(headlines.literal(f"{said[:1].upper()}{said[1:]}."))
try:
    page.run()
finally:
    # Last, also where a page ends early: what is not there yet when it comes must not move.
    link.copy_link()
