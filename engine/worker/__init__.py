"""The process that hosts one loaded variant, and its parent's handle on it."""
