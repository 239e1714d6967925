"""Per-sample LoRA gradients and their projection. Pure: tensors in, tensors out."""
