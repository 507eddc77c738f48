"""What a worker observes of itself: time and memory."""
