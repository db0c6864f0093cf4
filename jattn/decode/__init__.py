"""Keys and values kept for decoding, and `generate`."""
