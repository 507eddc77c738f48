"""What pages read from the store, and cache."""
