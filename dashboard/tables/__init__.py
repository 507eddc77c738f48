"""A frame's figures as tables; pure."""
