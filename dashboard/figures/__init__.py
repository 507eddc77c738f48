"""DataFrame -> Plotly figure. Pure: no Streamlit, no store. What is asked for again is kept."""

from dashboard.figures.accuracy import accuracy as _accuracy
from dashboard.figures.batches import over_batch_size as _over_batch_size
from dashboard.figures.decision import decision as _decision
from dashboard.figures.differences import accuracy_differences as _accuracy_differences
from dashboard.figures.differences import speedups as _speedups
from dashboard.figures.ecdf import ecdf as _ecdf
from dashboard.figures.energy import energy as _energy
from dashboard.figures.keeping import kept
from dashboard.figures.latency import latency as _latency
from dashboard.figures.load import load_rates as _load_rates
from dashboard.figures.load import load_trials as _load_trials
from dashboard.figures.memory import memory as _memory
from dashboard.figures.operators import by_kind as _by_kind
from dashboard.figures.operators import by_operator as _by_operator
from dashboard.figures.published import pairs
from dashboard.figures.published import published as _published
from dashboard.figures.roofline import roofline as _roofline
from dashboard.figures.throughput import throughput as _throughput
from dashboard.figures.tradeoff import tradeoff as _tradeoff

accuracy = kept(_accuracy)
accuracy_differences = kept(_accuracy_differences)
by_kind = kept(_by_kind)
by_operator = kept(_by_operator)
decision = kept(_decision)
ecdf = kept(_ecdf)
energy = kept(_energy)
latency = kept(_latency)
load_rates = kept(_load_rates)
load_trials = kept(_load_trials)
memory = kept(_memory)
over_batch_size = kept(_over_batch_size)
published = kept(_published)
roofline = kept(_roofline)
speedups = kept(_speedups)
throughput = kept(_throughput)
tradeoff = kept(_tradeoff)

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
