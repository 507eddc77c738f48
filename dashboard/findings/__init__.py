"""What a run's figures say, as data and as sentences; pure."""
