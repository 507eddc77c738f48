"""What to measure: suite files, their texts and their batches."""
