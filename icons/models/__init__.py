"""Vision-language models with a LoRA adapter: loading, checking, the tiny model."""

import logging

# Where bitsandbytes is installed, PEFT imports it, and it warns of a kernel for CPUs that it would fetch from the Hub.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
