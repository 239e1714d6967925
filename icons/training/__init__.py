"""The Hugging Face Trainer set-up for the warm-up."""
