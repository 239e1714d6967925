"""ICONS' first stage: gradient rows of the training and validation data, merged and turned into influence."""
