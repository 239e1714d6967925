"""How well a model answers: measures of each answer, their means and intervals, what a comparison says."""
