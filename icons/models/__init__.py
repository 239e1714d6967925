"""Vision-language models with a LoRA adapter: loading, checking, the tiny model."""
