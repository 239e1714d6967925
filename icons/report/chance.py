"""Whether a number of shared rows says anything, or is what a random draw would give."""

from __future__ import annotations

from icons.selection.compare import Agreement

BEYOND = 3.0
"""Standard deviations: captions name the largest and smallest of many, so two would be reached by chance alone."""


def is_beyond(shared: Agreement) -> bool:
    return abs(shared.deviations) > BEYOND


def unless_chance(*each: Agreement) -> str:
    """What to add to a caption that names these: nothing where all of them are beyond chance."""
    within = [not is_beyond(shared) for shared in each]
    if not any(within):
        return ""
    if len(each) == 1 or not all(within):
        which = "" if len(each) == 1 else "the " + ("former" if within[0] else "latter") + ": "
        return f" ({which}a random draw can give that)"
    return " (a random draw can give both)"
