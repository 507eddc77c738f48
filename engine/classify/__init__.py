"""Every variant's answer to a typed text, from workers kept warm."""
