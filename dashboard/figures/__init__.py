"""Charts: typed rows -> Plotly figure. Pure: no Streamlit, no store. The newest figures are cached."""

from dashboard.figures.accuracy import accuracy
from dashboard.figures.batches import over_batch_size
from dashboard.figures.decision import decision
from dashboard.figures.differences import accuracy_differences, speedups
from dashboard.figures.ecdf import ecdf
from dashboard.figures.energy import energy
from dashboard.figures.latency import latency
from dashboard.figures.load import load_rates, load_trials
from dashboard.figures.memory import memory
from dashboard.figures.operators import by_kind, by_operator
from dashboard.figures.published import pairs, published
from dashboard.figures.roofline import roofline
from dashboard.figures.throughput import throughput
from dashboard.figures.tradeoff import tradeoff

__all__ = [
    "accuracy",
    "accuracy_differences",
    "by_kind",
    "by_operator",
    "decision",
    "ecdf",
    "energy",
    "latency",
    "load_rates",
    "load_trials",
    "memory",
    "over_batch_size",
    "pairs",
    "published",
    "roofline",
    "speedups",
    "throughput",
    "tradeoff",
]
