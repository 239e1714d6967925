"""The embedded example: a small visual question answering set, drawn on the spot."""
