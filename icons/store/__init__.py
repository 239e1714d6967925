"""Gradients on disk: sharded safetensors, manifests and fingerprints."""
