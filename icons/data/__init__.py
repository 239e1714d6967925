"""Records, templates, images and batches: from a LLaVA-format file to tensors."""
