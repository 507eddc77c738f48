"""A measured variant as a folder that runs on its own."""
