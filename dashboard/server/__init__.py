"""The server: address, token and preloading."""
