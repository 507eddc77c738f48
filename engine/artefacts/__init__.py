"""The files that a worker loads: models found, exported, quantised and trained, kept by content."""
