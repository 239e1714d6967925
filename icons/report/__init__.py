"""One page about a run's selections: figures from arrays, captions with their numbers, and the page around them."""
