"""What a call is made of: scores, masks, biases, normalizers, edits, positions and patterns, evaluated by blocks."""
