"""ICONS: influence consensus for vision-language data selection (arXiv 2501.00654)."""

__version__ = "0.1.0"
