"""Inference Bench: measures ways of running one text classifier against each other."""

__version__ = "0.1.0"
