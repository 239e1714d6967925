"""A selection, or the whole set with it as a column, for other programs."""
