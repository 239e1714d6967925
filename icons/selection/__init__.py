"""From gradients to indices: influence scores and consensus. Pure: arrays in, arrays out."""
