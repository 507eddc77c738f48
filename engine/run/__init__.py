"""Measures a suite: prepares, interleaves rounds over workers, derives and records."""
