"""Figures of a run as HTML tables. Pure."""
