"""How many LoRA parameters a gradient has: those that count by `gradients.layers`, of all that there are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icons.config import Config
from icons.errors import UserError
from icons.gradients.layers import ALL, counted, decoder_layers, last_layers
from icons.models.folders import adapter_sizes


@dataclass(frozen=True)
class CountedLora:
    """`parameters` of LoRA, `counted` of which are in the layers that count; `layers` says which, None for all."""

    parameters: int
    counted: int
    layers: str | None = None

    @property
    def phrases(self) -> list[str]:
        """For a person."""
        of_them = [f"gradients of {self.counted:,} of them ({self.layers})"] if self.layers else []
        return [f"{self.parameters:,} LoRA parameters", *of_them]


def counted_lora(config: Config, adapter: Path | None) -> CountedLora:
    """Of an adapter's file, or (None) of what the warm-up would train; no weights are read.

    Raises UserError when the model has not the layers that the config asks for, or does not tell their order.
    """
    sizes, layers = _fresh(config) if adapter is None else adapter_sizes(adapter), config.gradients.layers
    everything = sum(sizes.values())
    if layers == ALL or not sizes:
        return CountedLora(everything, everything)
    from icons.models.loading import hugging_face_config

    total = decoder_layers(hugging_face_config(config.model))
    try:
        counting = counted(sizes, layers, total)
    except ValueError as error:
        raise UserError(f"gradients.{error}") from None
    text = f"the last {last_layers(layers)} of {total} layers"
    return CountedLora(everything, sum(sizes[name] for name in counting), text)


def _fresh(config: Config) -> dict[str, int]:
    from icons.models.adapters import fresh_sizes  # which loads torch; an adapter's file can be counted without

    return fresh_sizes(config.model)
