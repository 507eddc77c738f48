"""Run files: one run in one archive, written and read back."""
