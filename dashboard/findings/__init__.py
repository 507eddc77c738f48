"""The findings of a run, as data and as sentences. Pure."""
