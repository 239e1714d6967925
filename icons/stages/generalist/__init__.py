"""ICONS' second stage: from influence to a selection, and selections compared."""
