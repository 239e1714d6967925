"""Stages that train: the warm-up before the gradients, and the final run on a selection."""
