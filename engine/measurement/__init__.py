"""Pure figures: statistics, quality, labels and limits, computed from raw values without a model or a database."""
